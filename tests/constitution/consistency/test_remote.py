"""The remote judge of one reply over a real server: both dialects, and every way of giving no reading."""

from __future__ import annotations

from contextlib import ExitStack
from typing import Any

import pytest

from publius.constitution.consistency import (
    Consistency,
    ConsistencyConfig,
    ConsistencyPanel,
    EngineConsistencyJudge,
    RemoteConsistencyJudge,
    ReplyCase,
    consistency_judge,
)
from publius.constitution.judges import Abstention, ParseFailure, Skipped
from publius.constitution.judges.judgement import logit
from publius.constitution.principles import Constitution
from publius.core.errors import UserError
from publius.core.messages import Conversation, user
from publius.inference.engine import Engine
from tests.inference.remote.wire import Fault, Reply, Wire, wire
from tests.rl import tiny

P = Constitution.load().principles[0]
TALK = Conversation(system="Be kind.", messages=(user("hello"),))


def settings(server: Wire, tmp: Any, dialect: str, **changes: Any) -> ConsistencyConfig:
    remote = server.settings(dialect, tmp) | changes.pop("own", {})
    return ConsistencyConfig.model_validate({"remote": (remote,), "shots": 2} | changes)


def read(config: ConsistencyConfig, *replies: str):
    with ExitStack() as stack:
        judge = consistency_judge(config, None, stack)
        assert isinstance(judge, RemoteConsistencyJudge)
        return judge.consistent([ReplyCase(TALK, reply, P) for reply in replies])


def likes_good(text: str) -> Reply:
    return Reply("Yes." if "Assistant: good" in text else "no")


@pytest.mark.parametrize("dialect", ["anthropic", "openai"])
def test_words(tmp_path, dialect):
    with wire(lambda text: Reply("yes" if "Assistant: good" in text else "no")) as server:
        good, bad = read(settings(server, tmp_path, dialect, samples=2), "good", "bad")
        # two votes for one side: (2 + 1/2) / (2 + 1)
        assert good == Consistency(pytest.approx(logit(5 / 6)), 1.0, P.id)
        assert bad.logit == pytest.approx(-good.logit)
        text = server.seen[0].text
        assert f"Principle: {P.text}" in text and "Be kind." in text and "Human: hello" in text
        assert text.endswith("keep to this principle?\n\nAnswer with yes or no and nothing else.")
        shots = server.seen[0].body["messages"]
        said = [m["content"] for m in shots if m["role"] == "assistant"]
        assert sorted(said) == ["no", "yes"]


def test_log_probabilities(tmp_path):
    with wire(lambda text: Reply("Yes", chances={"yes": 0.4, "Yes": 0.2, "NO": 0.2})) as server:
        [one] = read(settings(server, tmp_path, "openai"), "x")
        assert isinstance(one, Consistency)
        assert (one.probability, one.mass) == (pytest.approx(0.75), pytest.approx(0.8))
        [one] = read(settings(server, tmp_path, "openai", min_mass=0.9), "x")
        assert isinstance(one, ParseFailure) and one.mass == pytest.approx(0.8)


def test_no_reading_is_told_by_kind(tmp_path):
    with wire(lambda text: Reply("I am sorry, but no, I cannot judge that.")) as server:
        [one] = read(settings(server, tmp_path, "openai"), "x")
        assert isinstance(one, Abstention) and one.principle_id == P.id
    for odd in ("It depends.", "There is no rule for that.", "Maybe yes, maybe no.", "yesterday"):
        with wire(lambda text, odd=odd: Reply(odd)) as server:
            [one] = read(settings(server, tmp_path, "openai"), "x")
            assert isinstance(one, ParseFailure) and "neither" in one.problem
    with wire(lambda text: Fault(500)) as server:
        own = {"on_error": "skip", "retries": 0}
        [one] = read(settings(server, tmp_path, "openai", own=own), "x")
        assert isinstance(one, Skipped)


class Fixed:
    """Says what it is told, of every case."""

    def __init__(self, reading) -> None:
        self.reading = reading

    def consistent(self, cases):
        return [self.reading for _ in cases]


def test_a_panel_averages_logits_of_those_who_can():
    def panel(*readings):
        return ConsistencyPanel([Fixed(r) for r in readings]).consistent([ReplyCase(TALK, "x", P)])[0]

    failed, declined = ParseFailure("x", P.id), Abstention("no", P.id)
    assert panel(Consistency(2.0, 0.8, P.id), Consistency(-1.0, 0.4, P.id)) == Consistency(
        0.5, pytest.approx(0.6), P.id
    )
    assert panel(Consistency(2.0, 0.8, P.id), failed) == Consistency(2.0, 0.8, P.id)
    assert panel(Consistency(2.0, 0.8, P.id), failed, failed) == failed
    assert panel(failed, declined) == declined
    with pytest.raises(ValueError, match="needs a member"):
        ConsistencyPanel([])


def test_who_judges(tmp_path):
    engine = Engine(tiny.model(), tiny.tokenizer())
    mine = Fixed(ParseFailure("x", P.id))
    with ExitStack() as stack:
        assert isinstance(consistency_judge(ConsistencyConfig(), engine, stack), EngineConsistencyJudge)
        assert consistency_judge(ConsistencyConfig(), mine, stack) is mine
        with pytest.raises(UserError, match="there is no judge"):
            consistency_judge(ConsistencyConfig(), None, stack)
    with wire(likes_good) as server, ExitStack() as stack:
        both = consistency_judge(settings(server, tmp_path, "openai"), mine, stack)  # one of two is enough
        assert isinstance(both, ConsistencyPanel)
        [one] = both.consistent([ReplyCase(TALK, "good", P)])
        assert isinstance(one, Consistency) and one.logit > 0
