"""Modes, the choice of a side's best, ratios; and one quick run."""

from __future__ import annotations

import json

import pytest
import train_vs_hf as bench

from publius.core.errors import UserError
from tests.slow import slow

SMALL = bench.SIZES["1M"]


def result(speed: float, loss: float = 5.0, peak: int = 100) -> dict:
    return {
        "tokens_per_second": speed, "first_loss": 8.0, "last_loss": loss, "weights": 1_000_000,
        "peak_bytes": peak, "spread": 0.1,
    }  # fmt: skip


def found(**speeds):
    """Cases of 1M by mode, `__` for the colons."""
    return [(bench.case_of(mode.replace("__", ":"), SMALL), line) for mode, line in speeds.items()]


def test_sizes_are_what_they_are_called():
    counts = {name: size.shape.parameters() / 1e6 for name, size in bench.SIZES.items()}
    assert counts == {name: pytest.approx(float(name[:-1]), rel=0.05) for name in counts}
    large = bench.SIZES["30M"].shape
    assert large.vocab_size == 32_000 and large.max_position >= 2048


def test_modes_are_cases():
    for mode in [*bench.MODES, *bench.MEMORY_MODES, *bench.QUICK]:
        case = bench.case_of(mode, SMALL, windows=2)
        assert mode.startswith(f"{case.side}:{case.dtype}:") and case.windows == 2
        flags = {"muon": case.muon, "mask": case.masked, "recompute": case.recompute}
        assert {name for name, on in flags.items() if on} == set(mode.split(":")[3:])
        assert case.compiled == (mode.split(":")[2] == "compiled")


@pytest.mark.parametrize(
    "mode",
    ["", "ours", "ours:bfloat16", "ours:int8:eager", "it:float32:eager", "hf:float32:fast",
     "hf:float32:eager:", "hf:float32:eager:wings"],
)  # fmt: skip
def test_a_mode_nobody_has(mode):
    with pytest.raises(UserError, match="is no mode"):
        bench.case_of(mode, SMALL)


def test_the_best_is_the_fastest_that_trains():
    cases = found(
        hf__float32__eager=result(100.0, 5.0),
        hf__autocast__eager=result(150.0, 5.2),
        hf__bfloat16__eager=result(300.0, 5.3),
        hf__bfloat16__compiled={"error": "no compiler"},
        hf__bfloat16__eager__mask=result(900.0, 4.0),
        ours__bfloat16__eager=result(210.0, 5.1),
        ours__bfloat16__eager__muon=result(999.0, 4.0),
    )
    case, line = bench.best(cases, "hf")
    assert case.dtype == "autocast" and line["tokens_per_second"] == 150.0, "5.3 is over 1.05 x 5.0"
    summary = bench.summary("1M", cases, ceiling=1e9)
    assert summary["ratio"] == pytest.approx(1.4) and summary["ours"]["mode"] == "bfloat16 eager"
    per_token = SMALL.shape.flops_per_token(SMALL.sequence_length)
    assert summary["hf"]["of_ceiling"] == pytest.approx(150.0 * per_token / 1e9)
    assert "| 1.0M | 210 (bfloat16 eager) | 150 (autocast eager) | 1.40 |" in bench.table([summary])
    assert "no compiler" in bench.details(cases)


def test_a_side_that_failed_is_said():
    summary = bench.summary("1M", found(hf__float32__eager={"error": "x"}), ceiling=1.0)
    assert summary["ratio"] is None and "failed" in bench.table([summary])


def test_memory_is_the_least_of_each_side():
    cases = found(
        ours__bfloat16__eager=result(1.0, peak=50),
        ours__bfloat16__eager__recompute=result(1.0, peak=10),
        hf__bfloat16__eager=result(1.0, peak=100),
        hf__float32__eager=result(1.0, peak=400),
        hf__autocast__eager={"error": "killed"},
    )
    least = bench.memory_summary(cases)
    assert least["ratio"] == 0.5 and least["hf"] == {"peak_bytes": 100, "mode": "bfloat16 eager"}
    assert bench.memory_summary(cases[:2])["ratio"] is None


def test_steps_fill_a_window():
    flops = 2048 * SMALL.shape.flops_per_token(256)
    assert bench.steps_in(10.0, SMALL, flops / bench.GUESS, 2) == 10
    assert bench.steps_in(0.1, SMALL, flops, 2) == 2


@slow
def test_quick(script, tmp_path):
    modes = ["ours:bfloat16:eager", "hf:autocast:eager:mask", "hf:float32:eager"]
    done = script("train_vs_hf.py", "--quick", "--threads", "1", "--modes", *modes, "--out", "results")
    assert done.returncode == 0, done.stderr
    (path,) = (tmp_path / "results").iterdir()
    record = json.loads(path.read_text())
    cases = {case["mode"]: case for case in record["cases"]}
    assert set(cases) == {"bfloat16 eager", "autocast eager mask", "float32 eager"}
    assert record["summary"][0]["ratio"] > 0 and record["ceiling"]["bfloat16"] > 0
    assert all(case["last_loss"] < case["first_loss"] for case in cases.values())
    ours, masked = cases["bfloat16 eager"]["losses"], cases["autocast eager mask"]["losses"]
    assert ours == pytest.approx(masked, abs=0.05)
    assert "transformers' best" in done.stdout


def test_a_bad_mode_ends_with_a_message(script):
    done = script("train_vs_hf.py", "--modes", "ours:fast")
    assert done.returncode == 2 and "is no mode" in done.stderr and "Traceback" not in done.stderr
