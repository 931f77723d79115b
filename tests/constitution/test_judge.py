from __future__ import annotations

import math
from collections.abc import Sequence
from types import SimpleNamespace

import pytest

from publius.constitution.judge import Judge, Judgement, ParseFailure, combine
from publius.constitution.principles import Constitution
from publius.core.errors import UserError
from publius.core.messages import Conversation, assistant, user
from publius.inference.request import Completion
from tests.rl.tiny import tokenizer

C, T = Constitution.load(), tokenizer()
P = C.principles[0]
TALK = Conversation(messages=(user("hello"),))
A, B = T.encode("A")[0], T.encode("B")[0]


class Scripted:
    """An engine whose verdict is a function of the two options' texts, in the order shown."""

    def __init__(self, verdict, mass: float = 0.9, room: int = 60_000) -> None:
        self.verdict, self.mass = verdict, mass
        self.model = SimpleNamespace(config=SimpleNamespace(max_position=room))
        self.thoughts = 0

    def score(self, prompts: Sequence[list[int]], continuations: Sequence[list[int]]) -> list[list[float]]:
        out = []
        for prompt, answer in zip(prompts, continuations, strict=True):
            last = T.decode(prompt).rsplit("Options:\n", 1)[1]
            first = last.split("(A) ")[1].split("\n(B) ")[0]
            second = last.split("\n(B) ")[1].split("\n")[0]
            p = self.verdict(first, second)
            chosen = p if answer[-1] == A else 1 - p
            out.append([0.0] * (len(answer) - 1) + [math.log(chosen * self.mass)])
        return out

    def generate(self, prompts, sampling) -> list[Completion]:
        self.thoughts += len(prompts)
        ids = T.encode(" one thought\n\nHuman: more")
        return [Completion(tuple(ids), (0.0,) * len(ids), "stop_sequence", "\n\n") for _ in prompts]


def judge(engine: Scripted, **options) -> Judge:
    return Judge(engine, T, C, **options)  # pyright: ignore[reportArgumentType]


def sigmoid(x: float) -> float:
    return 1 / (1 + math.exp(-x))


def test_orders_are_averaged_in_logit_space() -> None:
    # likes "good" by 2 logits, and whatever stands first by 1
    engine = Scripted(lambda first, second: sigmoid((2 if first == "good" else -2) + 1))
    [verdict] = judge(engine).judge([(TALK, assistant("good"), assistant("bad"))], [P])
    assert isinstance(verdict, Judgement)
    assert verdict.forward == pytest.approx(sigmoid(3))
    assert verdict.backward == pytest.approx(sigmoid(1))
    assert verdict.probability == pytest.approx(sigmoid(2))
    assert verdict.consistent
    assert verdict.principle_id == P.id


def test_a_liking_for_the_first_option_cancels() -> None:
    engine = Scripted(lambda first, second: 0.9)
    [verdict] = judge(engine).judge([(TALK, assistant("x"), assistant("y"))], [P])
    assert isinstance(verdict, Judgement)
    assert verdict.probability == pytest.approx(0.5)
    assert not verdict.consistent


def test_swapping_the_answers_mirrors_the_verdict() -> None:
    engine = Scripted(lambda first, second: sigmoid(len(first) - len(second) + 0.3))
    pairs = [(TALK, assistant("long"), assistant("no")), (TALK, assistant("no"), assistant("long"))]
    one, two = judge(engine).judge(pairs, [P, P])
    assert isinstance(one, Judgement)
    assert isinstance(two, Judgement)
    assert one.probability == pytest.approx(1 - two.probability)


def test_failures_are_explicit() -> None:
    pair = (TALK, assistant("x"), assistant("y"))
    [verdict] = judge(Scripted(lambda a, b: 0.9, mass=0.001)).judge([pair], [P])
    assert isinstance(verdict, ParseFailure)
    assert verdict.mass == pytest.approx(0.001)
    [verdict] = judge(Scripted(lambda a, b: 0.9, room=60)).judge([pair], [P])
    assert isinstance(verdict, ParseFailure)
    assert "context" in verdict.problem
    with pytest.raises(ValueError, match="principles"):
        judge(Scripted(lambda a, b: 0.5)).judge([pair], [])


def test_chain_of_thought_is_clamped_and_sampled() -> None:
    engine = Scripted(lambda first, second: 0.99 if first == "good" else 0.01)
    [verdict] = judge(engine, chain_of_thought=True, samples=3).judge(
        [(TALK, assistant("good"), assistant("bad"))], [P]
    )
    assert isinstance(verdict, Judgement)
    assert verdict.probability == pytest.approx(0.6)
    assert verdict.forward == pytest.approx(0.99)
    assert verdict.reason.strip() == "one thought"
    assert engine.thoughts == 6


def test_chain_of_thought_that_does_not_fit_is_a_failure() -> None:
    engine = Scripted(lambda a, b: 0.9, room=190)
    [verdict] = judge(engine, chain_of_thought=True, thought_tokens=20).judge(
        [(TALK, assistant("x" * 200), assistant("y"))], [P]
    )
    assert isinstance(verdict, ParseFailure)


def test_answers_must_differ() -> None:
    same = C.model_copy(update={"answers": (" A", " A")})
    with pytest.raises(UserError, match="the same"):
        Judge(Scripted(lambda a, b: 0.5), T, same)  # pyright: ignore[reportArgumentType]


def test_combine() -> None:
    assert combine(3, -1) == (pytest.approx(sigmoid(1)), False)
    assert combine(-800, -800) == (0.0, True)
