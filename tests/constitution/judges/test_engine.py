from __future__ import annotations

import math
from collections.abc import Sequence
from types import SimpleNamespace

import pytest

from publius.constitution.judges import EngineJudge, Judgement, ParseFailure
from publius.constitution.judges.engine import _answer_tokens
from publius.constitution.judges.judgement import sigmoid
from publius.constitution.principles import Constitution
from publius.constitution.raw_text import Case
from publius.core.errors import UserError
from publius.core.messages import Conversation, assistant, user
from publius.inference.request import Completion
from tests.rl.tiny import tokenizer

C, T = Constitution.load(), tokenizer()
P = C.principles[0]
QUESTION = P.comparison_question
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


def judge(engine: Scripted, **options) -> EngineJudge:
    return EngineJudge(engine, T, C, **options)  # pyright: ignore[reportArgumentType]


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


def test_thoughts_are_sampled_and_labels_left_unclamped() -> None:
    engine = Scripted(lambda first, second: 0.99 if first == "good" else 0.01)
    [verdict] = judge(engine, chain_of_thought=True, samples=3).judge(
        [(TALK, assistant("good"), assistant("bad"))], [P]
    )
    assert isinstance(verdict, Judgement)
    assert verdict.probability == pytest.approx(0.99)
    assert verdict.forward == pytest.approx(0.99)
    assert verdict.reason.strip() == "one thought"
    assert engine.thoughts == 6


def test_chain_of_thought_that_does_not_fit_is_a_failure() -> None:
    engine = Scripted(lambda a, b: 0.9, room=190)
    [verdict] = judge(engine, chain_of_thought=True, thought_tokens=20).judge(
        [(TALK, assistant("x" * 200), assistant("y"))], [P]
    )
    assert isinstance(verdict, ParseFailure)


def test_a_prompt_that_is_too_long_is_not_judged_by_a_thought_about_its_beginning() -> None:
    """Whatever the thought's length, and however short of the limit the conclusion stays."""
    pair = (TALK, assistant("x" * 300), assistant("y"))
    longest = len(
        judge(Scripted(lambda a, b: 0.9), shots=0)._style.reasoning(Case(TALK, "x" * 300, "y", QUESTION))
    )
    reserve = 3 + 20 + len(T.encode(C.layout.conclusion))
    for room, fits in ((longest + reserve, True), (longest + reserve - 1, False)):
        engine = Scripted(lambda a, b: 0.9, room=room)
        [verdict] = judge(engine, chain_of_thought=True, thought_tokens=20, shots=0).judge([pair], [P])
        assert isinstance(verdict, Judgement) == fits
        assert engine.thoughts == (2 if fits else 0)


def test_samples_are_averaged_as_probabilities() -> None:
    chances = iter([0.9, 0.9, 0.5, 0.5, 0.2, 0.2, 0.2, 0.2])  # asked twice each: for both answers
    engine = Scripted(lambda first, second: next(chances))
    [verdict] = judge(engine, chain_of_thought=True, samples=2).judge(
        [(TALK, assistant("good"), assistant("bad"))], [P]
    )
    assert isinstance(verdict, Judgement)
    assert verdict.forward == pytest.approx(0.7) and verdict.backward == pytest.approx(0.8)


def test_answers_must_differ() -> None:
    same = C.model_copy(update={"answers": (" A", " A")})
    with pytest.raises(UserError, match="the same"):
        EngineJudge(Scripted(lambda a, b: 0.5), T, same)  # pyright: ignore[reportArgumentType]


@pytest.mark.parametrize(
    ("first", "second", "scored"),
    [
        ([1, 2, 9], [1, 3, 9], ([1, 2], [1, 3])),  # what follows the letter is the same
        ([7, 9], [1, 3, 9], ([7, 9], [1, 3, 9])),  # " (A" is one token, " (" begins anything
        ([1, 2], [1, 3], ([1, 2], [1, 3])),
        ([1, 2, 4], [1, 3, 5], ([1, 2, 4], [1, 3, 5])),
    ],
)
def test_what_is_scored_of_the_answers(first, second, scored) -> None:
    assert _answer_tokens(first, second) == scored
