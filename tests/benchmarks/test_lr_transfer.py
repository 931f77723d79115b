"""The sweep of rates: which factor is best, whatever order they are given in; errors in words."""

from __future__ import annotations

import sys
from pathlib import Path

import harness
import lr_transfer as bench
import pytest


def test_the_best_factor_lies_between_neighbours(monkeypatch: pytest.MonkeyPatch) -> None:
    arguments = ["x", "--home", "h", "--factors", "1", "4", "2", "0.5", "2"]
    monkeypatch.setattr(sys, "argv", arguments)
    factors = bench.arguments().factors
    assert factors == [0.5, 1.0, 2.0, 4.0]
    losses = [abs(factor - 1.9) for factor in factors]
    found = bench.best_factor(factors, losses)
    assert found is not None and 1 < found < 4
    monkeypatch.setattr(sys, "argv", [*arguments, "-1"])
    with pytest.raises(SystemExit):
        bench.arguments()


def test_a_missing_file_is_one_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["x", "--home", str(tmp_path), "--data", str(tmp_path / "none.txt")])
    with pytest.raises(SystemExit) as ended:
        harness.entry(bench.main, {})
    assert ended.value.code == 2 and "no such file" in capsys.readouterr().err
