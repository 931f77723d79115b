"""A judge decides where the second stage is unsure, once, of the whole; nothing leaves meanwhile."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from publius.core.errors import UserError
from publius.core.messages import Conversation, assistant, user
from publius.model.checkpoint import Checkpoint
from publius.redteam.attacker import Goal
from publius.redteam.judge_referee import RefereeConfig, seated_referee
from publius.release.monitors import policy_sha256
from publius.safety.head import HeadDocument, LastBlock, write_head
from publius.safety.keywords import KeywordList, KeywordMonitor
from publius.safety.monitor import ALLOW, Monitors, Verdict
from publius.safety.policy import load_monitors
from publius.safety.third_stage import JudgedMonitor, JudgeSilent, Opinion, RefereeOpinion, open_judge
from publius.testing import tiny_model
from publius.testing.server import write_tiny_checkpoint
from tests.inference.remote.wire import Reply, wire
from tests.safety.broken import ASKED
from tests.safety.test_cascade import PROMPT, Known, cascade, rows
from tests.safety.test_policy import write_a_probe


class Says:
    """A third stage whose word is given, or made by a function of the reply; keeps what it was asked."""

    def __init__(self, harmful: Any = True) -> None:
        self.harmful, self.asked = harmful, list[str]()

    def judge(self, conversation: Conversation, reply: str) -> Opinion:
        self.asked.append(reply)
        found = bool(self.harmful(reply) if callable(self.harmful) else self.harmful)
        return Opinion(found, 0.75 if found else 0.25)


def judged(judge: Any, harm: Sequence[float], *, below: float = 2.0, above: float = 0.0) -> JudgedMonitor:
    """Over a cascade whose second stage says `harm` of each token, and decides at 0."""
    unsure, sure = (cascade(Known(harm), threshold=at, every=4) for at in (-below, above))
    return JudgedMonitor(unsure, sure, judge)


def replied(
    monitor: JudgedMonitor, firsts: Sequence[float], places: Sequence[int]
) -> tuple[Verdict, list[int]]:
    """The verdict on a reply that comes in pieces ending at `places`, and what was verified after each."""
    watching, verified = Monitors([monitor]).watch(ASKED, prompt=PROMPT), list[int]()
    text, said, verdict = "".join(chr(97 + i % 26) for i in range(len(firsts))), ALLOW, ALLOW
    assert watching.prompt() == ALLOW
    for place in places:
        said, upto = watching.reply(
            text[:place], rows(*firsts)[:place], done=place == len(firsts), drawn=range(place)
        )
        verified.append(upto)
        verdict = said if said.action != "allow" else verdict
        if said.action == "block":
            break
    return verdict, verified


FLAGGED = [0.0, 2.0, *[0.0] * 10]


@pytest.mark.parametrize(
    "harm,above,harmful,action,asked",
    [
        (-3.0, 0.0, True, "allow", 0),  # the second stage is sure that it is well
        (-1.0, 0.0, True, "block", 1),
        (-1.0, 0.0, False, "flag", 1),
        (1.0, 0.0, False, "block", 0),  # sure that it is not
        (1.0, 1.5, False, "flag", 1),
        (1.0, 1.5, True, "block", 1),
    ],
)
def test_the_judge_is_asked_where_the_second_stage_is_unsure(
    harm: float, above: float, harmful: bool, action: str, asked: int
) -> None:
    judge = Says(harmful)
    verdict, verified = replied(judged(judge, [harm] * 12, above=above), FLAGGED, range(1, 13))
    assert (verdict.action, len(judge.asked)) == (action, asked)
    assert verified[-1] == (0 if action == "block" else 12)
    if asked:
        assert judge.asked == ["abcdefghijkl"] and verdict.monitor == "judge"
        assert (verdict.category, verdict.score) == ("rumour", 0.75 if harmful else 0.25)


def test_nothing_leaves_while_it_is_in_doubt() -> None:
    monitor = judged(Says(False), [-3.0] * 8 + [-1.0] * 8)
    _, verified = replied(monitor, [2.0] + [0.0] * 15, range(1, 17))
    assert verified == [*[0] * 3, 2, 2, 2, 2, *[6] * 4, *[6] * 4, 16]


def test_what_is_surely_harmful_later_is_stopped_without_the_judge() -> None:
    judge = Says(False)
    verdict, verified = replied(judged(judge, [-1.0] * 8 + [1.0] * 8), [2.0] + [0.0] * 15, range(1, 17))
    assert (verdict.action, verdict.monitor, judge.asked, len(verified)) == ("block", "cascade", [], 12)


@settings(max_examples=150)
@given(
    exchange=st.lists(
        st.tuples(st.floats(-3, 3, width=32), st.floats(-4, 2, width=32)), min_size=1, max_size=24
    ),
    cuts=st.lists(st.integers(1, 24), max_size=6),
)
def test_the_same_verdict_however_the_reply_is_cut(
    exchange: list[tuple[float, float]], cuts: list[int]
) -> None:
    firsts, harm = [one[0] for one in exchange], [one[1] for one in exchange]
    count = len(exchange)
    judge, again = Says(lambda reply: len(reply) % 2 == 0), Says(lambda reply: len(reply) % 2 == 0)
    expected, _ = replied(judged(judge, harm, above=1.0), firsts, range(1, count + 1))
    places = sorted({min(cut, count) for cut in cuts} | {count})
    said, verified = replied(judged(again, harm, above=1.0), firsts, places)
    assert (said, again.asked) == (expected, judge.asked)
    assert verified[-1] == (0 if said.action == "block" else count)
    flagged, worst = max(firsts) > 1, max(harm)
    assert len(judge.asked) == (flagged and -2 < worst <= 1)


def worded(judge: Any) -> JudgedMonitor:
    """The contract is that of a monitor: here two lists of words, the second of what is surely harmful."""
    wide, narrow = (
        KeywordMonitor(KeywordList.model_validate({"entries": [{"words": words, "category": "poison"}]}))
        for words in (["bane"], ["grey bane"])
    )
    return JudgedMonitor(wide, narrow, judge)


def read(monitor: JudgedMonitor, text: str) -> Verdict:
    return Monitors([monitor]).watch(ASKED).reply(text, np.empty((1, 0), np.float32), done=True)[0]


def test_it_watches_any_monitor_that_has_two_thresholds() -> None:
    for text, action in (("fine", "allow"), ("a bane", "flag"), ("grey bane", "block")):
        assert read(worded(Says(False)), text).action == action, text


def fails(conversation: Conversation, reply: str) -> Opinion:
    raise JudgeSilent("abstained: secret content")


def test_a_judge_without_an_opinion_fails_closed(caplog: pytest.LogCaptureFixture) -> None:
    silent = Says(lambda reply: fails(ASKED, reply))
    verdict, verified = replied(judged(silent, [-1.0] * 12), FLAGGED, [12])
    assert (verdict.action, verdict.category, verified) == ("block", "monitor_error", [0])
    assert silent.asked and "secret" not in caplog.text


def test_a_judge_that_is_not_heard_in_time_fails_closed_and_holds_up_nobody(
    caplog: pytest.LogCaptureFixture,
) -> None:
    free = threading.Event()
    slow = Says(lambda reply: free.wait(60))
    monitor = worded(slow)
    monitor._patience = 0.05
    try:
        for _ in range(2):  # the second waits for its turn, and is not asked any more
            assert read(monitor, "a bane").category == "monitor_error"
    finally:
        free.set()
    monitor._patience = 60.0
    assert read(monitor, "a bane").action == "block" and slow.asked == ["a bane"] * 2


def test_a_begun_reply_is_judged_whole() -> None:
    heard: list[Conversation] = []

    class Referee:
        def grades(self, goals: Sequence[Goal], played: Sequence[Conversation]) -> list[Any]:
            heard.extend([goals[0].question, played[0]])
            raise JudgeSilent("enough")

    begun = Conversation(messages=(user("How?"), assistant("First ")))
    with pytest.raises(JudgeSilent):
        RefereeOpinion(Referee()).judge(begun, "boil it.")  # type: ignore[arg-type]
    assert heard == [
        Conversation(messages=(user("How?"),)),
        Conversation(messages=(user("How?"), assistant("First boil it."))),
    ]


# --- in a policy


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A probe, a head that says -3 of everything, and a judge."""
    write_a_probe(tmp_path / "probe")
    (tmp_path / "head").mkdir()
    known = HeadDocument(
        model="x", outputs=("harm",), flag=1.0, mix=0.0, threshold=2.0, hold_back=3, benign=9,
        false_positives=0.1, flagged=0.2,
    )  # fmt: skip
    write_head(tmp_path / "head", LastBlock(tiny_model(), 1), known)
    write_tiny_checkpoint(tmp_path / "judge", max_position=4096)
    return tmp_path


ASKS = {"how": "classes", "orders": 1, "min_mass": 0.0, "sure": 0.0}
LAYER = "layers: [{monitor: judge, file: probe, then: head, asks: judge.yaml, judge: judge, below: 6%s}]"


def written(folder: Path, more: str = "", **asks: Any) -> Path:
    (folder / "judge.yaml").write_text(yaml.safe_dump({**ASKS, **asks}), "utf-8")
    (folder / "policy.yaml").write_text(LAYER % more, "utf-8")
    return folder / "policy.yaml"


def said(path: Path, reading: float = 5.0) -> Verdict:
    monitors = load_monitors(path, model="x")
    monitors.bind(tiny_model())
    watching = monitors.watch(ASKED, prompt=(5, 6))
    assert watching.works(1, done=True), "a server's loop must not wait for a judge"
    assert not watching.works(1, done=False), "and none is asked before the end"
    return watching.reply("abcd", np.full((4, 1), reading, np.float32), done=True, drawn=(7, 8, 9, 10))[0]


def test_a_policy_names_a_judge_on_our_engine(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    config = RefereeConfig.model_validate(ASKS)
    with seated_referee(config, [Checkpoint(folder / "judge")]) as referee:
        [grade] = referee.grades([Goal(ASKED)], [ASKED.then(assistant("abcd"))])
    verdict = said(written(folder))
    assert verdict.action == ("block" if grade.label == "harmful" else "flag")
    assert verdict.score == pytest.approx(grade.score) and verdict.monitor == "judge"
    assert said(written(folder), reading=0.0) == ALLOW, "not flagged"
    assert said(written(folder, ", threshold: 9")) == ALLOW, "far from the threshold"
    assert said(written(folder, ", threshold: -4")).category == "harm", "over it: stopped without the judge"
    assert said(written(folder, min_mass=1.0)).category == "monitor_error", "unread"
    assert said(written(folder, ", on_error: open", min_mass=1.0)).action == "flag"


def test_another_judge_is_another_policy(folder: Path) -> None:
    path = written(folder)
    before = policy_sha256(path)
    assert policy_sha256(written(folder, sure=0.1)) != before
    assert policy_sha256(written(folder)) == before
    config = folder / "judge" / "generation_config.json"
    config.write_text(config.read_text() + " ")
    assert policy_sha256(path) != before


@pytest.mark.parametrize(
    ("old", "new", "told"),
    [
        (", below: 6", "", "how far below"),
        (", asks: judge.yaml", "", "how it asks"),
        ("below: 6", "below: 0", "layers.0.below"),
        ("below: 6", "below: 6, above: -1", "layers.0.above"),
        ("then: head, ", "", "what comes then"),
        ("monitor: judge", "monitor: cascade", "a judge, and nothing else"),
        ("asks: judge.yaml", "asks: none.yaml", "cannot read how the judge is asked"),
        (", judge: judge", "", "there is no judge"),
        (", judge: judge", ", judge: nobody", "nobody"),
    ],
)
def test_a_malformed_layer_is_one_clear_error(folder: Path, old: str, new: str, told: str) -> None:
    path = written(folder)
    assert old in path.read_text()
    path.write_text(path.read_text().replace(old, new, 1))
    with pytest.raises(UserError, match=told):
        load_monitors(path, model="x")


def test_a_constitution_elsewhere_is_refused(folder: Path) -> None:
    """Its content would be part of no decision."""
    (folder / "judge.yaml").write_text(yaml.safe_dump({**ASKS, "sure": 2}), "utf-8")
    with pytest.raises(UserError, match="how the judge is asked is wrong at sure"):
        open_judge(folder / "judge.yaml", folder / "judge")
    from publius.constitution import principles

    place = Path(principles.__file__).with_name("default.yaml")
    (folder / "judge.yaml").write_text(yaml.safe_dump({**ASKS, "constitution": str(place)}), "utf-8")
    with pytest.raises(UserError, match="not part of the policy"):
        open_judge(folder / "judge.yaml", folder / "judge")


def test_a_remote_judge_decides_and_keeps_nothing(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    word: dict[str, str] = {}

    def says(text: str) -> Reply:
        label = word.get("label")
        if label is None:
            return Reply("I am sorry, but I cannot judge that.")
        described = RefereeConfig().described[label]  # type: ignore[index]
        return Reply(next(line[:3] for line in text.split("\n") if line[4:] == described))

    with wire(says) as server:
        far = {**server.settings("openai", folder), "cache": ""}
        path = written(folder, remote=[far])
        path.write_text(path.read_text().replace(", judge: judge", ""), "utf-8")
        for label, action in (("harmful", "block"), ("safe", "flag"), (None, "block")):
            word |= {"label": label} if label else {}
            if label is None:
                word.clear()
            verdict = said(path)
            assert verdict.action == action, label
            assert (verdict.category == "monitor_error") == (label is None)
        asked = server.seen[0].text
        assert "| What is new?" in asked and "| The last reply is: abcd" in asked
        assert len(server.seen) == 3, "a judge that is opened anew remembers nothing"
    assert said(path).category == "monitor_error", "unreached"
