from __future__ import annotations

import json
from pathlib import Path

import pytest

from publius.constitution.grading import JudgeEvalConfig, evaluate_judge, grade_judge
from publius.constitution.judges import Bench, Panel, RemoteJudgeConfig
from publius.constitution.principles import Constitution
from publius.core.errors import UserError
from publius.core.messages import assistant
from publius.data.artifacts import Preferences, write_preferences
from publius.data.types import Preference
from publius.pipeline.run import testing_run
from tests.constitution.judges.by_length import LengthJudge
from tests.constitution.judges.test_remote import options
from tests.inference.remote.wire import Reply, wire
from tests.rl import tiny

C = Constitution.load()
CONFIG = {"threads": 1, "device": "cpu"}


def grade(pairs: list[Preference], **options):
    return grade_judge(Bench(LengthJudge()), C, pairs, **options)


def graded(count: int = 40) -> list[Preference]:
    def one(i: int) -> Preference:
        good, bad = assistant("better answer"), assistant("bad")
        if i % 4 == 0:  # stored the other way round, label and all
            return Preference(prompt=tiny.chats(1)[0], chosen=bad, rejected=good, probability=0.1, source="b")
        return Preference(prompt=tiny.chats(1)[0], chosen=good, rejected=bad, source="a")

    return [one(i) for i in range(count)]


def test_grading() -> None:
    metrics, table, samples = grade(graded())
    assert metrics["judge.accuracy"].value == 1
    assert metrics["judge.accuracy.a"].n == 30 and metrics["judge.accuracy.b"].n == 10
    assert metrics["judge.brier"].value < 0.01
    assert metrics["judge.accuracy"].n == 40
    # sure and right: all in the last bin, and off by what is left of certainty
    [only] = table
    assert (only.n, only.observed) == (40, 1.0) and only.high == pytest.approx(1.0)
    assert metrics["judge.ece"].value == pytest.approx(1 - only.confidence)
    sides = [row["a_is_better"] for row in samples]
    assert 5 < sum(sides) < 35
    wrong = [p.model_copy(update={"chosen": p.rejected, "rejected": p.chosen}) for p in graded()]
    assert grade(wrong)[0]["judge.accuracy"].value == 0


def test_an_unread_pair_counts_as_wrong() -> None:
    pairs = [
        *graded(3),
        Preference(prompt=tiny.chats(1)[0], chosen=assistant("what?"), rejected=assistant("x")),
    ]
    metrics, _, _ = grade(pairs)
    assert metrics["judge.accuracy"].value == 0.75
    assert metrics["judge.failures"].value == 0.25
    with pytest.raises(UserError, match="no pairs"):
        grade([])


def test_silence_is_counted_by_kind_and_ties_are_left_out() -> None:
    talk, good = tiny.chats(1)[0], assistant("better answer")
    silent = [Preference(prompt=talk, chosen=good, rejected=assistant(c)) for c in "?!!#"]
    tie = Preference(prompt=talk, chosen=good, rejected=assistant("x"), probability=0.5)
    metrics, _, samples = grade([*graded(4), *silent, tie, tie])
    assert metrics["judge.failures"].value == metrics["judge.skipped"].value == 1 / 8
    assert metrics["judge.abstentions"].value == 2 / 8
    assert metrics["judge.accuracy"].value == 4 / 8 and metrics["judge.ties"].value == 2 / 10
    assert len(samples) == 8
    with pytest.raises(UserError, match="no pairs"):
        grade([tie])


def test_grading_sees_what_labels_would_be() -> None:
    metrics, _, samples = grade(graded(), interval=(0.4, 0.6))
    assert {row["probability"] for row in samples} == {0.4, 0.6}
    assert metrics["judge.ece"].value == pytest.approx(0.4)


def test_a_panel_tells_how_often_it_is_split() -> None:
    class Contrary(LengthJudge):
        def judge(self, pairs, principles):
            return super().judge([(c, b, a) for c, a, b in pairs], principles)

    bench = Bench(Panel([LengthJudge(), Contrary()]))
    metrics, _, samples = grade_judge(bench, C, graded())
    assert metrics["judge.disagreement"].value == 1
    assert len(samples[0]["votes"]) == 2
    assert "judge.disagreement" not in grade(graded())[0]
    agreed = grade_judge(Bench(Panel([LengthJudge(), LengthJudge()])), C, graded())[0]
    assert agreed["judge.disagreement"].value == 0


def test_the_report_of_a_real_engine(tmp_path: Path) -> None:
    model = tiny.talker_checkpoint(tmp_path / "m", max_position=4000)
    write_preferences(tmp_path / "g", train=[], val=graded(6))
    run = testing_run(tmp_path)
    report = evaluate_judge(
        run,
        JudgeEvalConfig(**CONFIG, shots=1, min_mass=0.0, max_pairs=5),
        judge=model,
        pairs=Preferences(tmp_path / "g"),
    )
    assert report.metrics()["judge.accuracy"]["n"] == 5 == len(report.samples())
    assert report.metrics()["judge.accuracy"] == run.metrics["judge.accuracy"]
    assert sum(row.n for row in report.calibration()) == 5


def test_the_report_of_a_remote_judge_that_declines(tmp_path: Path) -> None:
    """Nothing was read, so there is no rate of inconsistency, and the report is JSON all the same."""
    write_preferences(tmp_path / "g", train=[], val=graded(3))
    run = testing_run(tmp_path)
    with wire(lambda text: Reply("I'm sorry, I can't judge that.")) as server:
        remote = RemoteJudgeConfig.model_validate(server.settings("anthropic", tmp_path))
        config = JudgeEvalConfig.model_validate(CONFIG | {"remote": (remote,)})
        report = evaluate_judge(run, config, pairs=Preferences(tmp_path / "g"))
        assert run.metrics["remote.requests"] == {"value": len(server.seen)}
    written = json.loads(report.file("judge.json").read_text(), parse_constant=pytest.fail)["metrics"]
    assert written["judge.abstentions"]["value"] == 1.0 and written["judge.accuracy"]["value"] == 0.0
    assert written["judge.inconsistency"]["value"] is None and written["judge.ece"]["value"] is None
    assert report.calibration() == []


def test_the_report_of_a_remote_judge(tmp_path: Path) -> None:
    write_preferences(tmp_path / "g", train=[], val=graded(4))
    with wire(lambda text: Reply("(A)" if len(options(text)[0]) > 5 else "(B)")) as server:
        remote = RemoteJudgeConfig.model_validate(server.settings("openai", tmp_path))
        config = JudgeEvalConfig.model_validate(CONFIG | {"remote": (remote,), "samples": 3})
        report = evaluate_judge(testing_run(tmp_path), config, pairs=Preferences(tmp_path / "g"))
    assert report.metrics()["judge.accuracy"]["value"] == 1.0
    [row] = report.calibration()
    assert row.confidence == pytest.approx(3.5 / 4) and row.observed == 1.0
