"""Steps to a loss, the choice of a rate, the page; and a run of a minute's fraction."""

from __future__ import annotations

import json
import lzma
import sys
from pathlib import Path

import optimizers as bench
import pytest

CURVE = [(10.0, 5.0), (20.0, 4.0), (30.0, 4.5), (40.0, 3.0)]


@pytest.mark.parametrize(
    "target, steps",
    [(6.0, 10.0), (5.0, 10.0), (4.5, 15.0), (4.0, 20.0), (3.75, 35.0), (3.0, 40.0), (2.9, None)],
)
def test_steps_to_a_loss(target, steps):
    assert bench.steps_to(CURVE, target) == steps


def trials(**ends):
    """`muon_2=3.0`: a curve of Muon at rate 2 on seed 0 that falls from 5 to 3 in 100 steps."""
    found = {}
    for name, end in ends.items():
        arm, rate, *seed = name.split("_")
        found[bench.Trial(arm, float(rate), int(seed[0]) if seed else 0)] = [(0.0, 5.0), (100.0, end)]
    return found


def test_the_rate_that_ends_lowest_is_chosen():
    found = trials(muon_1=3.0, muon_2=2.0, muon_3=2.5, muon_4_1=1.0, adamw_1=1.5)
    assert bench.chosen(found, "muon", 0) == 2.0 and bench.chosen(found, "adamw", 0) == 1.0


def test_results_and_their_table():
    found = trials(muon_1=1.0, adamw_2=3.0, muon_1_1=4.0, adamw_2_1=3.0)
    best = {"muon": 1.0, "adamw": 2.0}
    first, second = bench.results(found, best, [0, 1])
    assert first["muon_steps_to_adamw"] == 50.0 and first["share"] == 0.5
    assert second["share"] is None
    assert "| 0 | 3.0000 | 1.0000 | 50 of 100 | 50% |" in bench.table([first])
    assert "| mean | | | | 50% (from 50% to 50%) |" in bench.table([first]).replace("  ", " ")
    both = bench.table([first, second])
    assert "not reached" in both and "mean" not in both


def test_the_page_shows_every_seed():
    found = trials(muon_1=1.0, muon_3=2.0, adamw_2=3.0, muon_1_1=1.1, adamw_2_1=3.1)
    page = bench.page(found, {"muon": 1.0, "adamw": 2.0})
    assert page.count("<polyline") == 5 and page.count("faint") >= 1
    assert "Muon + AdamW, 1" in page and "AdamW alone, 2" in page and page.startswith("<!doctype html>")


def test_stage_names_differ():
    names = [
        bench.Trial(arm, rate, seed).stage for arm in bench.ARMS for rate in (0.1, 1e-5) for seed in (0, 1)
    ]
    assert len(set(names)) == 8 and all(name.isidentifier() for name in names)


@pytest.mark.parametrize("more", [["--seeds", "0", "0"], ["--width", "100"], ["--muon-rates", "1", "1"]])
def test_bad_arguments(more, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["optimizers.py", "--home", "h", "--data", "d", *more])
    with pytest.raises(SystemExit) as stop:
        bench.arguments()
    assert stop.value.code == 2 and "error" in capsys.readouterr().err


def test_a_small_run(script, tmp_path):
    with lzma.open(tmp_path / "text.jsonl.xz", "wt") as file:
        for i in range(120):
            words = " ".join(f"The river of town {(i * j) % 17} runs to the sea of {j}." for j in range(8))
            file.write(json.dumps({"text": f"Page {i}. {words}"}) + "\n")
    done = script(
        "optimizers.py", "--home", "home", "--data", "*.jsonl.xz", "--out", "results", "--steps", "12",
        "--batch", "128", "--row", "64", "--width", "96", "--layers", "1", "--vocab", "320",
        "--seeds", "0", "1", "--muon-rates", "0.01", "0.02",
        "--adamw-rates", "0.003", "--evaluations", "3", "--jobs", "1",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    (path,) = Path(tmp_path / "results").glob("*.json")
    record = json.loads(path.read_text())
    assert path.with_suffix(".html").exists() and len(record["curves"]) == 5
    assert [line["seed"] for line in record["results"]] == [0, 1]
    assert record["chosen"]["adamw"] == 0.003 and record["chosen"]["muon"] in (0.01, 0.02)
    for curve in record["curves"].values():
        assert [step for step, _ in curve] == [4, 8, 12] and curve[-1][1] < curve[0][1]
    assert "| seed |" in done.stdout
