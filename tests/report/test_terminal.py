"""Tables for the terminal: their numbers (the tables themselves are read in `tests/test_cli.py`)."""

import io
from pathlib import Path

import pytest
from rich.console import Console
from rich.table import Table

from publius.pipeline import RunView
from publius.pipeline.show import StageView
from publius.report.terminal import amount, metric_table, stage_table


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, ""),
        ("about 3", "about 3"),
        (5, "5"),
        (1500, "1.5k"),
        (3.2e6, "3.2M"),
        (2e9, "2B"),
        (4e13, "40T"),
        (1e18, "1.00e+18"),
        (999_960, "1M"),
    ],
)
def test_amounts(value, text):
    assert amount(value) == text


def _shown(table: Table, width: int = 100) -> str:
    screen = io.StringIO()
    Console(file=screen, width=width).print(table)
    return screen.getvalue()


def _view(**metrics: object) -> RunView:
    return RunView("r", "file[x].py:make", {}, [], metrics)


def _number(value: float, n: int | None = None, low: float | None = None, high: float | None = None):
    return {"value": value, "n": n, "low": low, "high": high}


def test_names_are_no_markup_and_one_end_is_no_interval():
    view = _view(**{"loss[train]": _number(1.0), "loss[/val]": _number(2.0), "half": _number(3.0, 4, 0.5)})
    text = _shown(metric_table(view, True))
    assert "loss[train]" in text and "loss[/val]" in text and "half" in text
    assert "recipe file[x].py:make" in _shown(stage_table(view))


def test_folders_are_never_cut_short():
    long = "train_tokenizer-0123456789ab"
    stages = [StageView("demonstrations_of_harmlessness", "missing", long, Path(long), None)]
    text = _shown(stage_table(RunView("r", "r", {}, stages, {})), width=60)
    assert "…" not in text
