"""Two models on the same questions."""

from __future__ import annotations

from pathlib import Path

import pytest

from publius.core.errors import UserError
from publius.core.messages import Conversation, user
from publius.evals.compare import ContrastConfig, contrast, paired_loss
from publius.evals.report import Report, ReportDocument, write_report
from publius.evals.task import Sample, Verdict
from publius.pipeline import testing_run


def report(folder: Path, **marks: str) -> Report:
    """A letter a question: c correct, l leaked, r refused, - none of them, ? unscored."""
    samples: list[Sample] = []
    for task, letters in marks.items():
        for number, letter in enumerate(letters):
            asked = Conversation(messages=(user(f"{task} {number}?"),), meta={"entity": str(number)})
            verdict = Verdict(correct=letter == "c", leaked=letter == "l", refused=letter == "r")
            samples.append(Sample(task=task, conversation=asked, verdict=None if letter == "?" else verdict))
    folder.mkdir()
    write_report(folder, ReportDocument(model="f" * 64, prefix="m", metrics={}), samples)
    return Report(folder)


def test_differences_are_paired_and_signed(tmp_path: Path) -> None:
    first = report(tmp_path / "a", hazard="llll", fact="cc--", twin="rr--", sum="c")
    second = report(tmp_path / "b", hazard="lr-?", fact="ccc-", twin="r---", sum="-")
    run = testing_run(tmp_path)
    found = contrast(run, ContrastConfig(name="taught"), first=first, second=second)
    values = {name: m["value"] for name, m in run.metrics.items()}
    assert values == {"taught.leak": -0.5, "taught.helpful": 0.0, "taught.overrefusal": -0.25}
    assert run.metrics["taught.leak"]["n"] == 4 and run.metrics["taught.helpful"]["n"] == 5
    assert found.metrics()["taught.leak"].value == -0.5


def test_agreement_is_no_certainty_and_questions_about_one_thing_are_one_cluster(tmp_path: Path) -> None:
    same = report(tmp_path / "a", fact="c-" * 60).samples()
    none = paired_loss(same, same, ("fact",))
    assert none.value == 0 and none.low < 0 < none.high and none.high < 0.05
    worse = report(tmp_path / "b", fact="--" * 60).samples()
    lost = paired_loss(same, worse, ("fact",))
    assert lost.value == 0.5 and paired_loss(worse, same, ("fact",)).value == -0.5

    def about(samples: list[Sample]) -> list[Sample]:
        """Ten things, twelve questions each, won or lost together."""
        meta = [{"entity": str(place // 12), "number": place} for place in range(120)]
        return [
            s.model_copy(update={"conversation": s.conversation.model_copy(update={"meta": m})})
            for s, m in zip(samples, meta, strict=True)
        ]

    half = report(tmp_path / "c", fact=("c" * 12 + "-" * 12) * 5).samples()
    wide, narrow = paired_loss(about(half), about(worse), ("fact",)), paired_loss(half, worse, ("fact",))
    assert wide.value == narrow.value == 0.5 and wide.n == 120
    assert wide.high - wide.low > 2.5 * (narrow.high - narrow.low)


def test_only_what_both_were_asked(tmp_path: Path) -> None:
    first = report(tmp_path / "a", fact="cc")
    run = testing_run(tmp_path)
    contrast(run, ContrastConfig(), first=first, second=report(tmp_path / "b", fact="c-"))
    assert set(run.metrics) == {"contrast.helpful"}
    with pytest.raises(UserError, match="ask different questions"):
        contrast(
            testing_run(tmp_path), ContrastConfig(), first=first, second=report(tmp_path / "c", fact="c")
        )
    odd = report(tmp_path / "d", chat="c")
    with pytest.raises(UserError, match="no question that can be compared"):
        contrast(testing_run(tmp_path), ContrastConfig(), first=odd, second=odd)
