"""`publius plan` through the real command line: options that belong to the other sort of plan."""

from __future__ import annotations

from pathlib import Path

import pytest

from publius.cli import main

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
