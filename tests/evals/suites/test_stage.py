"""Suites as a stage: the numbers of `publius eval`, bound to weights and files."""

from __future__ import annotations

from pathlib import Path

import pytest
from pydantic import ValidationError

from publius.core.errors import UserError
from publius.evals.suites.stage import SuitesConfig, _contents, evaluate_suites  # pyright: ignore[reportPrivateUsage]
from publius.model.checkpoint import fingerprint
from publius.pipeline import testing_run
from tests.evals.suites.asking import ARC, write
from tests.evals.suites.test_behaviour import ATTACK, OPEN
from tests.rl import tiny


def test_the_numbers_are_bound_to_weights_and_files(tmp_path: Path) -> None:
    model = tiny.checkpoint(tmp_path / "model", max_position=700)
    write(tmp_path, "arc_easy_test.jsonl", [{**ARC, "id": f"a{i}"} for i in range(6)])
    write(tmp_path, "prompt_injection.jsonl", [ATTACK, {**ATTACK, "id": "i2"}, OPEN])
    config = SuitesConfig(suites=("arc_easy", "injection"), folder=str(tmp_path), limit=4, max_tokens=8)
    run = testing_run(tmp_path / "run")
    report = evaluate_suites(run, config, model=model)
    found = report.document()
    arc, injection = found.results
    assert (arc.suite, arc.n, injection.n, injection.left_out) == ("arc_easy", 4, 2, 1)
    assert all(one.reports[0].model == fingerprint(model) for one in found.results) and found.finished
    assert run.metrics["arc_easy.acc"]["n"] == 4 and "injection.success" in run.metrics
    assert len((report.path / "samples.jsonl").read_text().splitlines()) == 6
    before = _contents(config)
    write(tmp_path, "arc_easy_test.jsonl", [ARC])
    assert _contents(config) != before, "an edited file is evaluated anew"


def test_what_cannot_be_asked_is_one_error(tmp_path: Path) -> None:
    with pytest.raises(ValidationError, match="did you mean 'bbq'"):
        SuitesConfig(suites=("bbk",))
    with pytest.raises(ValidationError, match="stands twice"):
        SuitesConfig(suites=("bbq", "bbq"))
    with pytest.raises(UserError, match="no file of bbq"):
        _contents(SuitesConfig(suites=("bbq",), folder=str(tmp_path)))
