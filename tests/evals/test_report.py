from __future__ import annotations

import json
import math
from pathlib import Path

import pytest

from publius.core.errors import UserError
from publius.core.messages import Conversation, assistant, user
from publius.core.stats import Estimate, wilson
from publius.evals import Measure, Report, ReportDocument, Sample, Verdict, write_report


def test_round_trip(tmp_path: Path) -> None:
    talk = Conversation(messages=(user("hi"), assistant("no")), meta={"kind": "fact"})
    sample = Sample(
        task="fact", conversation=talk, reply="no", verdict=Verdict(correct=True, leaked=False, refused=False)
    )
    document = ReportDocument(model="ab", prefix="x", metrics={"x.helpful": Measure.of(wilson(9, 10), 1)})
    write_report(tmp_path, document, [sample, sample])
    report = Report(tmp_path)
    assert report.document() == document
    assert report.samples() == [sample, sample]
    assert report.metrics()["x.helpful"].unscored == 1
    raw = json.loads((tmp_path / "report.json").read_text())
    assert raw["metrics"]["x.helpful"]["value"] == 0.9 and raw["metrics"]["x.helpful"]["n"] == 10


def test_measures_keep_what_was_not_measured_apart_from_zero() -> None:
    assert Measure.of(wilson(0, 0)).value is None
    assert Measure.of(wilson(0, 5)).value == 0.0
    assert Measure.of(math.nan).value is None
    assert Measure.of(2.5).estimate() == 2.5
    assert Measure.of(wilson(1, 5)).estimate() == wilson(1, 5)
    empty = Measure.of(wilson(0, 0)).estimate()
    assert isinstance(empty, Estimate) and math.isnan(empty.value)


def test_damage_is_one_clear_error(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"report\.json"):
        Report(tmp_path).document()
    (tmp_path / "report.json").write_text('{"metrics": 3}')
    with pytest.raises(UserError, match=r"report\.json is damaged"):
        Report(tmp_path).document()
    assert Report(tmp_path).samples() == []
