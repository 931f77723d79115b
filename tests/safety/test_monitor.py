"""Layers together: the gravest counts, the most careful holds back, and who fails blocks."""

from __future__ import annotations

import logging

import numpy as np
import pytest

from publius.inference.readings import Probe
from publius.safety.keywords import KeywordList, KeywordMonitor
from publius.safety.monitor import ALLOW, Monitors
from publius.safety.probe import ProbeDocument, ProbeMonitor
from tests.safety.broken import ASKED, Broken

WORDS = KeywordMonitor(
    KeywordList.model_validate({"entries": [{"words": ["grey bane"], "category": "poison"}]})
)


def probe_monitor(name: str, outputs: int = 1, threshold: float = 0.0, **more: object) -> ProbeMonitor:
    document = ProbeDocument.model_validate(
        {"model": "x", "outputs": ["harm", *map(str, range(1, outputs))], "layers": [], "average": 1.0,
         "threshold": threshold, "hold_back": 0, "benign": 10, "false_positives": 0.1, **more}
    )  # fmt: skip
    return ProbeMonitor(Probe(np.zeros((outputs, 33), np.float32)), document, name=name)


@pytest.fixture
def heard(monkeypatch, caplog):
    """What the monitors log, though some library of another test has silenced all loggers there were."""
    monkeypatch.setattr(logging.getLogger("publius.safety.monitor"), "disabled", False)
    with caplog.at_level(logging.ERROR, logger="publius.safety.monitor"):
        yield caplog


@pytest.mark.parametrize("where", ["watch", "prompt", "reply"])
def test_a_monitor_that_raises_blocks_and_its_words_are_not_logged(where: str, heard) -> None:
    watching = Monitors([WORDS, Broken(where)]).watch(ASKED)
    if where != "reply":
        verdict = watching.prompt()
        assert (verdict.action, verdict.category, verdict.monitor) == ("block", "monitor_error", "broken")
    if where != "prompt":
        verdict, verified = watching.reply("fine", np.empty((4, 0), np.float32), done=True)
        assert verdict.action == "block" and verified == 0
    assert "broken" in heard.text and "secret content" not in heard.text


def test_no_monitors_let_everything_pass() -> None:
    none = Monitors()
    assert none.probe is None
    assert none.watch(ASKED).prompt() == ALLOW
    assert none.watch(ASKED).reply("anything", np.empty((0, 0), np.float32), done=False) == (ALLOW, 8)


def test_each_gets_its_own_columns_and_the_gravest_counts() -> None:
    first, second = probe_monitor("first", 2), probe_monitor("second", 1, threshold=5.0)
    monitors = Monitors([first, WORDS, second])
    assert monitors.probe is not None and len(monitors.probe) == 3
    low, high = np.array([[-1, 9, 4]], np.float32), np.array([[-1, 9, 6]], np.float32)
    assert monitors.watch(ASKED).reply("a", low, done=True)[0].action == "allow"
    verdict, _ = monitors.watch(ASKED).reply("a", high, done=True)
    assert (verdict.action, verdict.monitor) == ("block", "second")


def test_what_leaves_is_what_all_have_verified() -> None:
    careful = probe_monitor("careful", hold_back=2)
    watching = Monitors([careful, WORDS]).watch(ASKED)
    rows = np.full((4, 1), -1, np.float32)
    assert [watching.reply("I gr"[:n], rows[:n], done=False)[1] for n in (1, 2, 3, 4)] == [0, 0, 1, 2]
    assert watching.reply("I gr", rows, done=True)[1] == 4


def test_as_many_tokens_gather_as_the_layer_that_holds_back_longest_can_wait_for() -> None:
    """A quarter of what it holds back; where nothing is held back each token is looked at."""
    held = [probe_monitor(str(tokens), hold_back=tokens) for tokens in (0, 3, 16)]
    assert Monitors().gathers == Monitors([WORDS]).gathers == 1
    assert [Monitors([one]).gathers for one in held] == [1, 1, 4]
    assert Monitors([WORDS, *held]).gathers == 4
    assert not Monitors([WORDS, *held]).follows
