"""The reader of garak's reports, on a short one of a real run; longer prompts are taken out of it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from publius.core.errors import UserError
from publius.core.messages import text_of
from publius.core.stats import wilson
from publius.model.checkpoint import Checkpoint, fingerprint
from publius.pipeline import testing_run
from publius.redteam.garak import GarakConfig, garak_findings, garak_rates, read_garak
from publius.redteam.gold import exchange_of, truth_of

REPORT = Path(__file__).with_name("garak.report.jsonl")


def edited(tmp_path: Path, **changes: object) -> Path:
    """The report with the last evaluated attempt changed."""
    rows = [json.loads(line) for line in REPORT.read_text("utf-8").splitlines()]
    last = max(i for i, row in enumerate(rows) if row.get("status") == 2)
    rows[last] |= changes
    path = tmp_path / "x.report.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
    return path


def test_every_evaluated_attempt_is_read_once() -> None:
    found = read_garak(REPORT)
    styles = [one.attempt.style for one in found]
    assert styles.count("divergence.Repeat") == 3 and len(styles) == 12
    first = found[0].attempt
    assert (first.style, first.category) == ("ansiescape.AnsiRaw", "S008terminal")
    assert first.entity == "print raw ANSI terminal codes" and first.reply == "lius."
    assert [m.role for m in first.conversation.messages] == ["user", "assistant"]
    assert text_of(first.conversation.messages[0]).startswith("What's terminal ANSI code")


def test_what_garak_says_is_no_truth() -> None:
    found = read_garak(REPORT)
    assert {one.attempt.style for one in found if one.hit} == {"divergence.Repeat", "grandma.Win11"}
    assert all(truth_of(one.attempt) is None for one in found)
    exchange = exchange_of(found[0].attempt)
    assert exchange is not None and exchange.wanted == "print raw ANSI terminal codes"


def test_a_reply_that_never_came_is_an_attempt_too() -> None:
    silent = [one for one in read_garak(REPORT) if not one.scored]
    assert [one.attempt.style for one in silent] == ["latentinjection.LatentWhois"] * 3
    assert all(one.attempt.reply == "" and not one.hit for one in silent)
    assert all(exchange_of(one.attempt) is None for one in silent)


def test_rates_are_reckoned_as_garak_reckons_them() -> None:
    rates = {(one.probe, one.detector): one for one in garak_rates(read_garak(REPORT))}
    assert rates["divergence.Repeat", "mitigation.MitigationBypass"][2:] == (3, 3, 0)
    assert rates["divergence.Repeat", "divergence.RepeatDiverges"][2:] == (1, 3, 0)
    assert rates["latentinjection.LatentWhois", "base.TriggerListDetector"][2:] == (0, 0, 3)


def test_findings_count_the_unscored_as_hits(tmp_path: Path, checkpoint: Checkpoint) -> None:
    run = testing_run(tmp_path)
    found = garak_findings(run, GarakConfig(report=str(REPORT)), model=checkpoint)
    document = found.document()
    assert document.model == fingerprint(checkpoint) and document.hits == 5 and document.tried == 12
    assert document.by_style["latentinjection.LatentWhois"] == {
        **wilson(3, 3).as_dict(),
        "unscored": 3,
    }
    assert run.metrics["garak.hits"]["value"] == 8 / 12
    assert [one.style for one in found.attempts()] == [one.attempt.style for one in read_garak(REPORT)]
    named = garak_findings(testing_run(tmp_path), GarakConfig(report=str(REPORT), target="elsewhere"))
    assert named.document().model == "elsewhere"


def test_a_changed_report_is_another_input(tmp_path: Path) -> None:
    marks = [
        garak_findings.fingerprint(GarakConfig(report=str(path)))  # type: ignore[misc]
        for path in (REPORT, edited(tmp_path, goal="other"))
    ]
    assert marks[0] != marks[1]


def test_system_text_and_turns_are_kept(tmp_path: Path) -> None:
    def turn(role: str, text: str) -> dict[str, object]:
        return {"role": role, "content": {"text": text}}

    turns = [turn("system", "Be kind."), turn("user", "a"), turn("assistant", "b"), turn("user", "c")]
    last = read_garak(edited(tmp_path, prompt={"turns": turns}, outputs=[{"text": "d"}]))[-1].attempt
    assert last.conversation.system == "Be kind."
    assert [text_of(m) for m in last.conversation.messages] == ["a", "b", "c", "d"]


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ("", "holds no attempt"),
        ("{", "no jsonl"),
        ('{"entry_type": "attempt", "status": 2}\n', "line 1 is no entry of a garak report"),
        ("[1]\n", "line 1 is no entry"),
    ],
)
def test_what_is_no_report_is_one_clear_error(tmp_path: Path, text: str, what: str) -> None:
    path = tmp_path / "r.jsonl"
    path.write_text(text)
    with pytest.raises(UserError, match=what):
        read_garak(path)
    with pytest.raises(UserError, match="cannot read the report"):
        read_garak(tmp_path / "missing")
