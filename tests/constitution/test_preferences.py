from __future__ import annotations

import json
import math
import sys
from pathlib import Path

import pytest

from publius.constitution.judge import Judge, Judgement, ParseFailure
from publius.constitution.preferences import (
    JudgeEvalConfig,
    LabelConfig,
    evaluate_judge,
    grade_judge,
    label,
)
from publius.constitution.principles import Constitution
from publius.core.errors import UserError
from publius.core.messages import Conversation, assistant, text_of, user
from publius.data.artifacts import Preferences, Prompts, write_preferences, write_prompts
from publius.data.types import Preference
from publius.model.checkpoint import Checkpoint
from publius.pipeline.run import testing_run
from publius.testing import ScriptedEngine
from tests.rl import tiny

T = tiny.tokenizer()
MODULE = sys.modules["publius.constitution.preferences"]
CONFIG = {"threads": 1, "device": "cpu"}


class FakeJudge(Judge):
    """Prefers the longer answer; ties are exact; an answer with ? cannot be judged."""

    def __init__(self) -> None:
        self.constitution = Constitution.load()

    def judge(self, pairs, principles):
        return [
            self._one(text_of(a), text_of(b), p.id) for (_, a, b), p in zip(pairs, principles, strict=True)
        ]

    @staticmethod
    def _one(a: str, b: str, name: str):
        if "?" in a + b:
            return ParseFailure("odd", name)
        p = 1 / (1 + math.exp(len(b) - len(a)))
        return Judgement(p, len(a) != len(b) + 1, p, p, name)


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch):
    def install(*scripts) -> None:
        order = iter([ScriptedEngine(script, T) for script in scripts])
        monkeypatch.setattr(MODULE, "Engine", lambda *a, **k: next(order))
        monkeypatch.setattr(MODULE, "_judge", lambda config, checkpoint: FakeJudge())

    return install


def test_labels_are_soft_and_drops_are_counted(tmp_path: Path, fake) -> None:
    model = tiny.checkpoint(tmp_path / "m")
    cut = T.encode("never ends") * 60
    # first answers of the five prompts, then second answers
    fake(["aaaa", "same", "tie1", "odd?", cut, "v", "b", "same", "tie2", "x", "y", "vvv"])
    prompts = [*tiny.chats(4), Conversation(messages=(user("q4"), assistant("pre ")))]
    write_prompts(tmp_path / "p", train=prompts, val=tiny.chats(6)[5:])
    run = testing_run(tmp_path)
    made = label(run, LabelConfig(**CONFIG), policy=model, judge=model, prompts=Prompts(tmp_path / "p"))
    [one] = made.train()
    assert (text_of(one.chosen), text_of(one.rejected)) == ("aaaa", "b")
    assert one.probability == pytest.approx(1 / (1 + math.exp(-3)))
    assert one.source == "ai"
    assert one.prompt.meta["principle"] in {p.id for p in Constitution.load().principles}
    [held_out] = made.val()
    assert held_out.probability == pytest.approx(1 / (1 + math.exp(2)))
    m = {name: metric["value"] for name, metric in run.metrics.items()}
    assert m["label.dropped"] == pytest.approx(1 / 6)
    assert m["label.identical"] == pytest.approx(1 / 6)
    assert m["label.failures"] == pytest.approx(1 / 4)
    assert m["label.ties"] == pytest.approx(1 / 3)
    assert m["label.pairs"] == 3
    p, q = 1 / (1 + math.exp(-3)), 1 / (1 + math.exp(-2))
    entropy = [-x * math.log(x) - (1 - x) * math.log(1 - x) for x in (p, q, 0.5)]
    assert m["label.entropy"] == pytest.approx(sum(entropy) / 3)


def test_a_prefill_is_part_of_the_answer_not_of_the_prompt(tmp_path: Path, fake) -> None:
    model = tiny.checkpoint(tmp_path / "m")
    fake(["one", "three"])
    write_prompts(tmp_path / "p", train=[Conversation(messages=(user("q"), assistant("pre ")))])
    made = label(
        testing_run(tmp_path),
        LabelConfig(**CONFIG),
        policy=model,
        judge=model,
        prompts=Prompts(tmp_path / "p"),
    )
    [pair] = made.train()
    assert [m.role for m in pair.prompt.messages] == ["user"]
    assert (text_of(pair.chosen), text_of(pair.rejected)) == ("pre one", "pre three")


def test_second_answers_come_from_all_policies(tmp_path: Path, fake) -> None:
    model = tiny.checkpoint(tmp_path / "m")
    fake([f"first {i}" for i in range(40)], [f"other policy {i}" for i in range(40)])
    write_prompts(tmp_path / "p", train=tiny.chats(20))
    made = label(
        testing_run(tmp_path),
        LabelConfig(**CONFIG, max_prompts=12, source="mixed"),
        policy=model,
        judge=model,
        prompts=Prompts(tmp_path / "p"),
        policies=[model],
    )
    second = [text_of(p.rejected) for p in made.train()]
    assert all(text_of(p.chosen).startswith("first") for p in made.train())
    assert 0 < sum(text.startswith("other") for text in second) < len(second)


def test_no_label_at_all_is_a_user_error(tmp_path: Path, fake) -> None:
    model = tiny.checkpoint(tmp_path / "m")
    fake(["a?", "b"])
    write_prompts(tmp_path / "p", train=tiny.chats(1))
    with pytest.raises(UserError, match="labelled no pair"):
        label(
            testing_run(tmp_path),
            LabelConfig(**CONFIG),
            policy=model,
            judge=model,
            prompts=Prompts(tmp_path / "p"),
        )


def graded(count: int = 40) -> list[Preference]:
    def one(i: int) -> Preference:
        good, bad = assistant("better answer"), assistant("bad")
        if i % 4 == 0:  # stored the other way round, label and all
            return Preference(prompt=tiny.chats(1)[0], chosen=bad, rejected=good, probability=0.1, source="b")
        return Preference(prompt=tiny.chats(1)[0], chosen=good, rejected=bad, source="a")

    return [one(i) for i in range(count)]


def test_grading(tmp_path: Path) -> None:
    run = testing_run(tmp_path)
    metrics, samples = grade_judge(run, FakeJudge(), graded())
    assert metrics["judge.accuracy"].value == 1
    assert metrics["judge.accuracy.a"].n == 30 and metrics["judge.accuracy.b"].n == 10
    assert metrics["judge.brier"].value < 0.01
    assert run.metrics["judge.accuracy"]["n"] == 40
    sides = [row["a_is_better"] for row in samples]
    assert 5 < sum(sides) < 35
    wrong = [p.model_copy(update={"chosen": p.rejected, "rejected": p.chosen}) for p in graded()]
    assert grade_judge(run, FakeJudge(), wrong)[0]["judge.accuracy"].value == 0


def test_an_unread_pair_counts_as_wrong(tmp_path: Path) -> None:
    pairs = [
        *graded(3),
        Preference(prompt=tiny.chats(1)[0], chosen=assistant("what?"), rejected=assistant("x")),
    ]
    metrics, _ = grade_judge(testing_run(tmp_path), FakeJudge(), pairs)
    assert metrics["judge.accuracy"].value == 0.75
    assert metrics["judge.failures"].value == 0.25
    with pytest.raises(UserError, match="no pairs"):
        grade_judge(testing_run(tmp_path), FakeJudge(), [])


def test_the_whole_way_with_real_engines(tmp_path: Path) -> None:
    model = tiny.talker_checkpoint(tmp_path / "m", max_position=4000)
    made = label(
        testing_run(tmp_path),
        LabelConfig(**CONFIG, shots=1, answer_tokens=30, min_mass=0.0),
        policy=model,
        judge=model,
        prompts=tiny.prompts(tmp_path / "p", 8),
    )
    assert made.train() and all(0 < p.probability < 1 for p in made.train())
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


def test_a_judge_that_cannot_be_read_is_reported_without_a_rate(tmp_path, monkeypatch):
    """Nothing was read, so there is no rate of inconsistency, and the report is JSON all the same."""
    monkeypatch.setattr(MODULE, "_judge", lambda config, checkpoint: FakeJudge())
    prompt = Conversation(messages=(user("hi"),))
    pair = Preference(
        prompt=prompt, chosen=assistant("yes?"), rejected=assistant("no?"), probability=1.0, source="s"
    )
    write_preferences(tmp_path / "pairs", train=[pair], val=[pair] * 3)
    config = JudgeEvalConfig.model_validate(CONFIG | {"constitution": Constitution.load("default")})
    report = evaluate_judge(
        testing_run(tmp_path / "run"),
        config,
        judge=Checkpoint(tmp_path),
        pairs=Preferences(tmp_path / "pairs"),
    )
    written = json.loads(report.file("judge.json").read_text(), parse_constant=pytest.fail)["metrics"]
    assert written["judge.failures"]["value"] == 1.0 and written["judge.accuracy"]["value"] == 0.0
    assert written["judge.inconsistency"]["value"] is None
