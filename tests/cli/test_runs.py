"""`publius run` and `plan` through the real command line: what is said, and options that would not count."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from publius.cli import main, runs
from publius.testing import write_tiny_checkpoint
from publius.training.calibrate import Calibration

TOY = f"{Path(__file__).parents[1] / 'pipeline/toy.py'}:toy"
_MODEL = ("--tier", "haiku", "--scale", "pocket")


@pytest.mark.parametrize(
    ("arguments", "flag"),
    [
        ((TOY, "--tokens", "1B"), "--tokens"),
        ((TOY, "--seq", "64"), "--seq"),
        ((TOY, "--mfu", "0.4"), "--mfu"),
        ((TOY, "--vocab", "512"), "--vocab"),
        ((TOY, "--cluster", "64xh100"), "--cluster"),
        ((TOY, "--scale", "pocket"), "--scale"),
        ((*_MODEL, "--hardware", "h200"), "--hardware"),
        ((*_MODEL, "--set", "seed=1"), "--set"),
        ((*_MODEL, "--until", "sft"), "--until"),
        ((*_MODEL, "--name", "mine"), "--name"),
    ],
)
def test_an_option_that_would_not_count_is_refused(arguments, flag, capsys, tmp_path):
    with pytest.raises(SystemExit) as ended:
        main(["plan", *arguments, "--home", str(tmp_path)])
    out, err = capsys.readouterr()
    assert ended.value.code == 2 and out == ""
    assert f"{flag} is for planning" in err


@pytest.mark.parametrize(
    ("arguments", "flag", "fix"),
    [
        (("--model", "MODEL", "--vocab", "3"), "--vocab", "--tier"),
        (("--model", "MODEL", "--scale", "pocket"), "--scale", "--tier"),
        (("--vocab", "3"), "--vocab", "--tier"),
        (("--calibrate", "--tokens", "5M"), "--tokens", "--model"),
        (("--calibrate", "--cluster", "4xh100"), "--cluster", "--model"),
        ((TOY, "--calibrate", "--hardware", "h100"), "--calibrate", "--hardware cpu"),
    ],
)
def test_an_option_that_would_change_nothing_is_refused(arguments, flag, fix, capsys, tmp_path):
    model = str(write_tiny_checkpoint(tmp_path / "model"))
    with pytest.raises(SystemExit) as ended:
        main(["plan", *(model if word == "MODEL" else word for word in arguments), "--home", str(tmp_path)])
    out, err = capsys.readouterr()
    assert ended.value.code == 2 and out == ""
    assert f"{flag} changes nothing here" in err and fix in err


RECIPE = """
from publius.core.config import Config
from publius.pipeline import Artifact, Recipe, Run, stage

class C(Config):
    steps: int = 4

@stage(version=1, predict=lambda config: {"params": 2e6, "tokens": 3.4e6, "flops": 4.51e13})
def tells(run: Run, config: C) -> Artifact:
    return Artifact(run.output)

@stage(version=1)
def silent(run: Run, config: C) -> Artifact:
    return Artifact(run.output)

def mine(steps: int = 4) -> Recipe:
    r = Recipe("mine")
    for number in range(3):
        r.stage(f"a_stage_of_a_long_name_{number}", (tells, silent)[number % 2], C(steps=steps + number))
    return r
"""


def test_a_narrow_plan_still_says_why_and_how_much(capsys, monkeypatch, tmp_path):
    path = tmp_path / "mine.py"
    path.write_text(RECIPE)
    asked = (f"{path}:mine", "--home", str(tmp_path / ("a_long_name_" * 9)))
    main_ends(0, "run", *asked)
    assert f"{asked[2]}/runs/mine/report.html" in capsys.readouterr().err, "a long path comes whole"
    monkeypatch.setenv("COLUMNS", "80")
    for terminal in (False, True):
        if terminal:
            monkeypatch.setenv("FORCE_COLOR", "1")
        main_ends(0, "plan", *asked, "--set", "steps=1234567")
        told = capsys.readouterr().out
        whole = ("a_stage_of_a_long_name_0", "1234567", "3.4M", "45.1T", "0.0626", "0.00188", "0.00626")
        assert [word for word in whole if word not in told] == []
        assert ", for 2 of 3 stages: the others cannot tell" in told
        assert terminal or "steps: 4 -> 1234567" in told, "a pipe has room"


def test_a_busy_machine_is_told_in_a_recipe_too(capsys, monkeypatch, tmp_path):
    found = Calibration(1, "float32", 2e11, 1e11, 5e10, 1000.0, 10, share=0.4)
    monkeypatch.setattr(runs, "calibrate", lambda config=None: found)
    main_ends(0, "plan", TOY, "--calibrate", "--home", str(tmp_path))
    out = capsys.readouterr().out
    assert out.startswith("measured  5e+10 FLOP/s") and "only 40% of the cores' time" in out
    main_ends(0, "plan", TOY, "--calibrate", "--json", "--home", str(tmp_path))
    assert json.loads(capsys.readouterr().out)["calibration"]["share"] == 0.4


def main_ends(code: int, *arguments: str) -> None:
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    assert (ended.value.code or 0) == code


def test_weights_that_do_not_fit_are_not_made(capsys):
    with pytest.raises(SystemExit) as ended:
        main(["bench", "engine", "--tier", "opus", "--scale", "cluster", "--device", "cpu"])
    assert ended.value.code == 2
    assert "weights take" in capsys.readouterr().err
