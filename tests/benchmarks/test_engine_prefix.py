"""An engine without a prefix cache says the same; ratios and their table; and one quick run."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import engine_prefix as bench
import pytest
import torch
from harness import child

FEW = bench.Work(size="1M", dtype="float32", requests=6, shared=100, own=10, lengths=(16, 40), new=4, pairs=2)


@pytest.fixture(autouse=True)
def one_thread():
    """As children of other quick runs have: threads that wait for each other are slow beside other tests."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def test_prompts():
    one, other = bench.alike(FEW, 1), bench.alike(FEW, 2)
    assert all(row[:100] == one[0][:100] and len(row) == 110 for row in one)
    assert len({tuple(row) for row in one}) == 6 and one[0][:100] != other[0][:100]
    a, b = bench.unlike(FEW, 1), bench.unlike(FEW, 2)
    assert [len(row) for row in a] == [len(row) for row in b] and a != b
    assert all(16 <= len(row) <= 40 for row in a)
    drawn = bench.samples(bench.Work(), 1)
    assert len(drawn) == 64 and len({tuple(row) for row in drawn}) == 16
    assert {len(row) for row in drawn} <= set(range(16, 48)) and len({len(row) for row in drawn}) > 8
    whole = bench.Work()
    assert whole.shared + whole.own + whole.new <= whole.shape.max_position == 4096


def test_without_it_nothing_is_reused_and_the_text_is_the_same():
    engines = [bench.engine_of(FEW, reuse) for reuse in (True, False)]
    said = []
    for engine in engines:
        for number in (1, 1, 2):
            said.append(bench.run(engine, bench.alike(FEW, number), FEW.new)[1])
    assert said[:3] == said[3:] and said[0] == said[1] != said[2]
    assert engines[0].stats.reused >= 2 * 5 * 96 and engines[1].stats.reused == 0
    assert engines[1].stats.pages == 0


def test_the_last_page_of_a_prompt_is_copied_or_read_again():
    copies, whole = (bench.engine_of(FEW, True, whole=flag) for flag in (False, True))
    before = [engine.stats.reused for engine in (copies, whole)]
    said = [bench.run(engine, bench.samples(FEW, 1), FEW.new)[1] for engine in (copies, whole)]
    assert said[0] == said[1]
    assert copies.stats.reused - before[0] > whole.stats.reused - before[1] >= 0


def result(**more):
    return {"tokens_per_second": 1.0, "reused": 0.9, "said": "x", **more}


def test_ratios():
    pairs = [[1.01, 1.0], [1.0, 1.0], [1.03, 1.0]]
    results = [
        result(tokens_per_second=8.0),
        result(tokens_per_second=2.0),
        {"pairs": pairs, "reused": 0},
        {"pairs": pairs, "reused": 9},
    ]
    line = bench.summary(*results)
    assert line["gain"] == 4.0 and line["cost"]["median"] == pytest.approx(0.01)
    table = bench.table(FEW, line, results)
    assert "| 4.00x | 3x: met |" in table and table.count("+1.00% time") == 2
    assert len({row.count("|") for row in table.splitlines()}) == 1
    failed = [result(), {"error": "killed"}, {"error": "slow"}, {"error": "late"}]
    line = bench.summary(*failed)
    assert line == {"gain": None, "cost": None, "samples": None}
    assert "| killed |" in bench.table(FEW, line, failed)


def test_another_text_is_an_error():
    with pytest.raises(AssertionError, match="changed a text"):
        bench.summary(result(), result(said="y"), {"error": ""}, {"error": ""})


def test_a_child():
    payload = FEW.model_dump(mode="json")
    found = child(Path(bench.__file__), "alike", payload, seconds=60, threads=1)
    assert found["reused"] > 0.5 and found["windows"][0] > 0


def test_quick(tmp_path, monkeypatch, capsys):
    handlers = {"alike": bench.time_alike, "unlike": bench.time_unlike, "samples": bench.time_samples}

    def here(script, handler, payload, *, seconds, threads):
        return json.loads(json.dumps(handlers[handler](bench.Work.model_validate(payload))))

    monkeypatch.setattr(bench, "child", here)
    monkeypatch.setattr(sys, "argv", ["engine_prefix.py", "--quick", "--out", str(tmp_path)])
    bench.main()
    (path,) = tmp_path.iterdir()
    record = json.loads(path.read_text())
    assert record["summary"]["gain"] > 1 and len(record["unlike"]["pairs"]) == 2
    assert record["alike_with"]["said"] == record["alike_without"]["said"]
    assert record["alike_without"]["reused"] == 0 == record["unlike"]["reused"]
    assert len(record["samples"]["pairs"]) == 2 and record["samples"]["reused"] > 0
    assert "nothing shared" in capsys.readouterr().out
