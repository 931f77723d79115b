from __future__ import annotations

import math

import pytest
import torch
from pydantic import ValidationError

from publius.constitution.consistency import (
    Consistency,
    ConsistencyConfig,
    EngineConsistencyJudge,
    ReplyCase,
)
from publius.constitution.consistency.question import examples
from publius.constitution.judges import ParseFailure
from publius.constitution.principles import Constitution
from publius.core.errors import UserError
from publius.core.messages import Conversation, user
from publius.inference.engine import Engine
from publius.tokenizer.tokenizer import Tokenizer
from tests.rl import tiny

T = tiny.tokenizer()
ASKED = Conversation(messages=(user("How do I open the jar?"),))
LAW = Constitution.load().principles


def judge(*, seed: int = 0, max_position: int = 8192, **given) -> EngineConsistencyJudge:
    engine = Engine(tiny.model(seed, max_position=max_position), T)
    return EngineConsistencyJudge(engine, T, ConsistencyConfig.model_validate({"min_mass": 0.0, **given}))


def words(ids: list[int], tokenizer: Tokenizer = T) -> str:
    return tokenizer.decode(ids)


def test_readings_are_those_of_a_plain_forward() -> None:
    asked = judge(shots=1)
    cases = [ReplyCase(ASKED, reply, LAW[i]) for i, reply in enumerate(("Twist it.", "", "No."))]
    found = asked.consistent(cases)
    yes, no = T.encode(" yes"), T.encode(" no")  # bytes: they differ in more than one, so whole
    for case, reading in zip(cases, found, strict=True):
        assert isinstance(reading, Consistency)
        prompt = asked._prompt(case)
        model = asked._engine.model
        logp = []
        for answer in (yes, no):
            with torch.no_grad():
                rows = model(torch.tensor([[*prompt, *answer]]))[0].log_softmax(-1)
            at = range(len(prompt) - 1, len(prompt) + len(answer) - 1)
            logp.append(sum(float(rows[p, t]) for p, t in zip(at, answer, strict=True)))
        assert reading.logit == pytest.approx(logp[0] - logp[1], abs=1e-3)
        assert reading.mass == pytest.approx(sum(math.exp(x) for x in logp), abs=1e-4)
        assert reading.principle_id == case.principle.id
        assert reading.probability == pytest.approx(1 / (1 + math.exp(-reading.logit)))


def test_what_the_model_sees() -> None:
    case = ReplyCase(ASKED, " Twist it. ", LAW[3])
    text = words(judge(shots=2)._prompt(case))
    assert text.endswith(
        "Human: How do I open the jar?\n\nAssistant: Twist it.\n"
        f"Principle: {LAW[3].text}\nDoes the assistant's last answer keep to this principle?\nThe answer is:"
    )
    assert text.count("Principle:") == 3
    shown = Constitution.load().comparisons[0]
    assert f"Assistant: {shown.a}" in text and f"Assistant: {shown.b}" in text
    chat = judge(shots=2, style="chat")
    said = chat._renderer.parse(chat._prompt(case)[-len(T.encode("The answer is:")) :])
    assert "".join(getattr(b, "text", "") for b in said.blocks) == "The answer is:"


def test_examples_come_from_the_comparisons() -> None:
    law = Constitution.load()
    found = examples(law)
    assert len(found) == 2 * len(law.comparisons) and sum(e.good for e in found) == len(law.comparisons)
    for shot in law.comparisons:
        better = {"A": shot.a, "B": shot.b}[shot.answer]
        assert [e.good for e in found if e.reply == better] == [True]
    assert all(e.principle is not None and e.principle.id for e in found)
    assert [e.good for e in found[::2]].count(True) == len(law.comparisons) // 2  # neither is always first


def test_an_example_without_a_question_is_shown_under_the_one_that_is_asked() -> None:
    law = Constitution.load()
    mends = law.principles[0].model_copy(update={"comparison_question": ""})
    shot = law.comparisons[0].model_copy(update={"question": None})
    mixed = law.model_copy(update={"principles": (mends, *law.principles[1:]), "comparisons": (shot,)})
    case = ReplyCase(ASKED, "Twist it.", law.principles[2])
    assert [e.case(case).principle.id for e in examples(mixed)] == [law.principles[2].id] * 2


def test_examples_give_way_to_the_context() -> None:
    short = judge(max_position=900, shots=8)
    ids = short._prompt(ReplyCase(ASKED, "Twist it.", LAW[0]))
    assert 300 < len(ids) <= 900
    assert words(ids).count("Principle:") < 9


def test_failures_are_told_apart_from_readings() -> None:
    long = ReplyCase(ASKED, "x" * 9000, LAW[2])
    read, failed = judge(shots=0).consistent([ReplyCase(ASKED, "x", LAW[1]), long])
    assert isinstance(read, Consistency)
    assert failed == ParseFailure("the prompt does not fit the judge's context", LAW[2].id)
    [weak] = judge(min_mass=0.9).consistent([ReplyCase(ASKED, "x", LAW[1])])
    assert isinstance(weak, ParseFailure) and "too little probability" in weak.problem and weak.mass < 0.9
    nothing = judge()._reading(-math.inf, -math.inf, "p")
    assert isinstance(nothing, ParseFailure) and "not finite" in nothing.problem
    assert judge().consistent([]) == []


def test_bad_questions_are_refused() -> None:
    with pytest.raises(ValidationError, match=r"no slot \{principle\}"):
        judge(question="{conversation}: good?")
    with pytest.raises(UserError, match="the same, or one begins the other"):
        judge(answers=(" yes", " yes sir"))


def test_a_probability_at_the_ends() -> None:
    assert Consistency(800.0, 1.0, "").probability == 1.0
    assert Consistency(-800.0, 1.0, "").probability == 0.0
    assert Consistency(-1.0, 1.0, "").probability == pytest.approx(1 - Consistency(1.0, 1.0, "").probability)
