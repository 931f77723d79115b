"""Checks that can fail, parts, budget and tables; and the whole path, tiny, on the CPU."""

from __future__ import annotations

import argparse
import json
import math
import sys

import gpu as bench
import gpu_checks as checks
import pytest
import torch

from publius.model import packed
from publius.model.transformer import Transformer
from tests.slow import slow


def test_parts_are_what_they_are_called():
    for part in bench.PARTS:
        number, unit = part.name.split()[0][:-1], part.name.split()[0][-1]
        count = float(number) * {"M": 1e6, "B": 1e9}[unit]
        assert part.shape.parameters() == pytest.approx(count, rel=0.05)
        assert part.shape.max_position >= part.sequence_length
    assert sorted(part.sequence_length for part in bench.PARTS) == [2048, 2048, 2048, 32_768, 32_768]
    assert sum(part.seconds for part in bench.PARTS) < 465


@pytest.mark.parametrize("name, peak", [("NVIDIA H100 80GB HBM3", 989e12), ("NVIDIA GB200", 2.5e15),
                                        ("NVIDIA A100-SXM4-80GB", 312e12), ("NVIDIA Foo", None)])  # fmt: skip
def test_peak_of_a_card(name, peak):
    assert bench.peak_of(name) == peak


def test_checks_hold_at_their_limit_only():
    assert checks.Check("a", 1.0, 1.0).ok
    assert not checks.Check("a", 1.1, 1.0).ok
    assert not checks.Check("a", math.nan, 1.0).ok


def test_a_wrong_model_is_seen(monkeypatch):
    shape, cpu = bench.TINY[0].shape, torch.device("cpu")
    assert all(check.ok for check in checks.logit_checks(shape, cpu))
    plain = Transformer.logits
    monkeypatch.setattr(Transformer, "logits", lambda self, hidden: plain(self, hidden) * 1.01)
    assert not all(check.ok for check in checks.logit_checks(shape, cpu))


@pytest.mark.filterwarnings("ignore:flex_attention called without torch.compile")  # no compiler for a check
def test_a_wrong_kernel_is_seen(monkeypatch):
    cpu = torch.device("cpu")
    found = checks.kernel_checks("flex", cpu, torch.float32) + checks.kernel_checks(
        "flex", cpu, torch.bfloat16
    )
    assert len(found) == 4 and all(check.ok for check in found)
    right = packed._rule
    monkeypatch.setattr(packed, "_rule", lambda documents, window: right(None, window))
    assert not any(check.ok for check in checks.kernel_checks("flex", cpu, torch.float32))


def test_a_wrong_kernel_is_not_timed_and_does_not_stop_the_others():
    wrong = {"name": "a", "value": 2.0, "limit": 1.0, "ok": False}

    def ask(handler, payload, seconds):
        if payload["kernel"] == "varlen":
            return {"error": "boom"}
        return {"checks": [wrong | {"ok": payload["dtype"] == "bfloat16"}]}

    budget = bench.Budget(1000.0, ask)
    found, right = bench.kernels_right(budget, "cuda", True, bench.KERNELS)
    assert right == ["sdpa", "flex"]  # in fp32 it was wrong, which is said, and speeds are measured in bf16
    assert [check["ok"] for check in found] == [True, False, False]


def test_parts_kernels_and_the_gap_of_their_losses():
    result = {"tokens_per_second": 1e3, "spread": 0.0, "peak_bytes": 1, "first_loss": 2.0, "last_loss": 1.0}
    asked = []

    def ask(handler, payload, seconds):
        asked.append((payload["attention"], payload["compiled"]))
        if payload["attention"] == "varlen" and payload["compiled"]:
            return {"error": "boom"}
        return result | {"losses": [2.0, 1.0 if payload["attention"] == "sdpa" else 1.25]}

    options = argparse.Namespace(tiny=True, eager=False, device="cuda", parts=["tiny"])
    rows = bench.speeds(bench.Budget(1000.0, ask), options, bench.KERNELS, 1e12, 1e12)
    assert asked == [("sdpa", True), ("flex", True), ("varlen", True), ("varlen", False)]
    assert [row.get("loss_gap") for row in rows] == [None, 0.25, None, 0.25] and "boom" in rows[2]["error"]
    assert all(0 < row["mfu_documents"] < row["mfu"] for row in rows if "error" not in row)
    assert {line.count("|") for line in bench.speed_table(rows).splitlines()} == {11}


def test_speed_rows_and_their_table():
    part = bench.TINY[0]
    case = bench.case_of(part, "cpu", True)
    result = {
        "tokens_per_second": 1e5,
        "spread": 0.02,
        "peak_bytes": 5e9,
        "first_loss": 10.8,
        "last_loss": 7.0,
    }
    row = bench.speed_row(part, result, case, 1e12, 8e14)
    assert row["mfu"] == pytest.approx(1e5 * part.shape.flops_per_token(128) / 1e12)
    failed = bench.speed_row(part, {"error": "torch.OutOfMemoryError: CUDA out of memory"}, case, None, 1.0)
    unknown = bench.speed_row(part, result, case, None, 8e14)
    table = bench.speed_table([row, failed, unknown])
    assert f"{row['mfu']:.1%}" in table and "out of memory" in table and "no data sheet" in table
    assert len({line.count("|") for line in table.splitlines()}) == 1


def test_a_budget_ends():
    asked = []

    def ask(handler, payload, seconds):
        asked.append(seconds)
        return {}

    assert bench.Budget(100.0, ask).run("a", "h", {}, 30.0) == {} and asked == [30.0]
    bench.Budget(20.0, ask).run("a", "h", {}, 30.0)
    assert 19.0 < asked[1] <= 20.0
    assert bench.Budget(5.0, ask).run("a", "h", {}, 30.0) == {"error": "no time left"} and len(asked) == 2


def test_a_failed_child_is_not_right():
    broken = bench.Budget(1000.0, lambda handler, payload, seconds: {"error": "boom"})
    found = bench.correctness(broken, "cpu", True)
    assert [check["ok"] for check in found] == [False, False]
    assert "boom" in bench.check_table(found) and "FAILED" in bench.check_table(found)


@slow
def test_tiny(script, tmp_path):
    done = script("gpu.py", "--device", "cpu", "--tiny", "--eager", "--threads", "1", "--out", "results")
    assert done.returncode == 0, done.stderr + done.stdout
    (path,) = (tmp_path / "results").iterdir()
    record = json.loads(path.read_text())
    assert len(record["checks"]) == 6 and all(check["ok"] for check in record["checks"])
    assert [row["part"] for row in record["speeds"]] == ["tiny", "tiny, long"]
    assert all(row["last_loss"] < row["first_loss"] and row["of_ceiling"] > 0 for row in record["speeds"])
    assert "MFU = " in done.stdout and record["peak_flops"] is None
    assert {(line["dtype"], line["rows"]) for line in record["engine"]["lines"]} >= {
        ("bfloat16", 1),
        ("bfloat16", 4),
    }
    assert "of the roofline" in done.stdout


def test_an_engine_that_failed_says_why():
    assert "out of memory" in bench.writing_table({"error": "out of memory"})


def test_without_the_card_it_says_so(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(bench, "child", lambda *_, **__: {"error": "no CUDA here"})
    monkeypatch.setattr(sys, "argv", ["gpu.py", "--tiny", "--out", str(tmp_path)])
    with pytest.raises(SystemExit) as stop:
        bench.main()
    printed = capsys.readouterr().out
    assert stop.value.code == 1 and "no CUDA here" in printed and "no speed was measured" in printed
    (path,) = tmp_path.iterdir()
    assert json.loads(path.read_text())["speeds"] == []
