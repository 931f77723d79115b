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


def test_quick(tmp_path, monkeypatch, capsys):
    def here(script, handler, payload, *, seconds, threads):
        work = bench.Work.model_validate(payload)
        timed = bench.time_second(work) if handler == "second" else bench.time_pairs(work)
        return json.loads(json.dumps(timed))

    monkeypatch.setattr(bench, "child", here)
    monkeypatch.setattr(sys, "argv", ["monitor_cost.py", "--quick", "--out", str(tmp_path)])
    bench.main()
    (path,) = tmp_path.iterdir()
    record = json.loads(path.read_text())
    assert len(record["results"]) == 3 and len(record["results"][0]["pairs"]) == 2
    assert len(record["results"][2]["second"]["pairs"]) == 2
    out = capsys.readouterr().out
    assert "tokens/s" in out and "second stage: the passes" in out


def test_what_the_second_stage_adds_is_its_share_of_the_time_times_the_share_flagged():
    told = bench.told_second({"pairs": [[0.5, 1.0], [0.4, 1.0], [0.6, 1.0]]}, 0.1)
    assert "50%" in told and "+5.00%" in told
    assert "killed" in bench.told_second({"error": "killed"}, 0.1)
