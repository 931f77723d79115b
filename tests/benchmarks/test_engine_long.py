"""What is planned and compared, and one quick run."""

from __future__ import annotations

import json
import sys

import engine_long as bench

from publius.inference.kv_cache import token_bytes


def test_what_is_planned_grows_with_the_prompt_and_the_dtype():
    short, long = (bench.Long(size="1M", tokens=count) for count in (1000, 3000))
    rest = short.planned() - 1000 * token_bytes(short.shape, bench.torch.float32)
    assert rest > 4 * short.shape.parameters()
    assert long.planned() - short.planned() >= 2000 * token_bytes(short.shape, bench.torch.float32)
    assert bench.Long(size="1M", tokens=1000, dtype="bfloat16").planned() < short.planned()


def test_places_are_spread_from_the_first_to_the_last():
    long = bench.Long(size="1M", tokens=1000, places=5)
    targets = long.targets()
    assert list(targets) == [0, 250, 500, 749, 999]
    assert all(len(set(ids)) == bench.IDS for ids in targets.values())
    assert len(long.prompt()) == 1000


def test_a_difference_is_told():
    long = bench.Long(size="1M", tokens=1000)
    engine = {"seconds": 10.0, "peak_bytes": 1, "scores": [[-1.0, -2.0]]}
    line = bench.summary(long, engine, {"scores": [[-1.0, -2.5]]})
    assert (line["inside"], line["equal"], line["largest"]) == (True, False, 0.5)
    assert "missed" in bench.table(long, line, engine, {"scores": []})
    failed = bench.summary(long, {"error": "killed"}, {"error": "killed"})
    assert failed["inside"] is None and failed["equal"] is None
    assert "killed" in bench.table(long, failed, {"error": "killed"}, {"error": "killed"})


def test_quick(tmp_path, monkeypatch, capsys):
    handlers = {"engine": bench.read, "reference": bench.reference}

    def here(script, handler, payload, **options):
        return json.loads(json.dumps(handlers[handler](bench.Long.model_validate(payload))))

    monkeypatch.setattr(bench, "child", here)
    monkeypatch.setattr(sys, "argv", ["engine_long.py", "--quick", "--out", str(tmp_path)])
    bench.main()
    (path,) = tmp_path.iterdir()
    line = json.loads(path.read_text())["summary"]
    assert line["equal"] and line["largest"] < 1e-3
    assert "log-probabilities at 24 places" in capsys.readouterr().out


def test_what_is_compared_sees_the_far_past():
    """Else anything would be equal: another first half of the prompt moves every score of the second."""
    long = bench.Long(size="1M", tokens=1000)

    class Other(bench.Long):
        def prompt(self):
            return [*reversed(super().prompt()[:500]), *super().prompt()[500:]]

    here, there = (bench.reference(one)["scores"] for one in (long, Other(size="1M", tokens=1000)))
    for place, ours, theirs in zip(long.targets(), here, there, strict=True):
        if place >= 500:
            assert max(abs(a - b) for a, b in zip(ours, theirs, strict=True)) > 30 * bench.NEAR["float32"]
