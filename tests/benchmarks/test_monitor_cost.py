"""Steps that read and steps that do not are told apart; and one quick run."""

from __future__ import annotations

import json
import sys

import monitor_cost as bench
import pytest
import torch

FEW = bench.Work(size="1M", rows=2, prompt=8, new=8, outputs=2, layers=(1,), runs=2)


@pytest.fixture(autouse=True)
def one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def test_a_run_gives_a_step_of_either_kind():
    found = bench.time_pairs(FEW)["pairs"]
    assert len(found) == 2 and all(len(pair) == 2 and min(pair) > 0 for pair in found)


def test_what_failed_is_a_line_of_the_table():
    table = bench.table([(FEW, {"pairs": [[1.03, 1.0], [1.02, 1.0]]}), (FEW, {"error": "killed"})])
    assert "missed" in table and "killed" in table
    assert len({row.count("|") for row in table.splitlines()}) == 1


def test_a_way_to_serve_is_held_against_none():
    rounds = [
        {"none": 1.0, "reads": 1.01, "each": 1.1, "looks": 1.02, "flags": more}
        for more in (1.015, 1.019, 1.03)
    ]
    work = bench.Serving(flagged=0.05)
    table = bench.served_table([(work, {"rounds": rounds}), (work, {"error": "killed"})])
    assert "+1.9%" in table and "and 5% flagged" in table and "met" in table and "killed" in table
    assert len({row.count("|") for row in table.splitlines()}) == 1


def test_quick(tmp_path, monkeypatch, capsys):
    def here(script, handler, payload, *, seconds, threads):
        if handler == "served":
            fast = bench.Serving.model_validate({**payload, "rounds": 1})
            return json.loads(json.dumps(bench.time_serving(fast)))
        work = bench.Work.model_validate(payload)
        timed = bench.time_second(work) if handler == "second" else bench.time_pairs(work)
        return json.loads(json.dumps(timed))

    monkeypatch.setattr(bench, "child", here)
    monkeypatch.setattr(sys, "argv", ["monitor_cost.py", "--quick", "--out", str(tmp_path)])
    bench.main()
    (path,) = tmp_path.iterdir()
    record = json.loads(path.read_text())
    assert len(record["results"]) == 5 and len(record["results"][0]["pairs"]) == 2
    assert len(record["results"][2]["second"]["runs"]) == 2
    (served,) = record["results"][4]["rounds"]
    assert set(served) == set(bench.ARMS) and min(served.values()) > 0
    out = capsys.readouterr().out
    assert "tokens/s" in out and "8 rows: reading" in out


def test_the_whole_is_the_first_stage_and_the_share_flagged_times_the_second():
    reading, runs = {"pairs": [[1.01, 1.0]] * 3}, [[0.5, 0.005, 1.0], [0.4, 0.005, 1.0], [0.6, 0.005, 1.0]]
    told = bench.told_whole(reading, {"runs": runs}, 0.1)
    assert "50%" in told and "+6.50%" in told and "missed" in told
    assert "+2.00%" in bench.told_whole(reading, {"runs": runs}, 0.01)
    assert "killed" in bench.told_whole(reading, {"error": "killed"}, 0.1)
