"""Accuracy with thinking off, on, and cut off at a budget."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from publius.core.errors import UserError
from publius.core.messages import text_of
from publius.data.artifacts import Prompts
from publius.data.pocket.worked import SumPromptsConfig, sum_prompts
from publius.evals import budgets as module
from publius.evals.budgets import BudgetsConfig, evaluate_budgets
from publius.inference import Assistant
from publius.inference.request import Request
from publius.model.checkpoint import Checkpoint
from publius.pipeline import testing_run
from publius.testing import byte_tokenizer
from publius.tokenizer import Renderer
from tests.evals.conftest import Puppet

NUMBERS = re.compile(r"\d+")
THINK_END = byte_tokenizer().special["<|/think|>"]


class Thinker(Puppet):
    """Counts to ten tokens of thinking and is right after them; cut off before, it says 0. Without thinking
    it is right about sums that begin with 1 to 4."""

    def __init__(self) -> None:
        super().__init__(lambda prompt: "")

    def complete(self, requests: Any) -> None:
        self.prompts.append([list(r.prompt) for r in requests])
        for request in requests:
            self._answer(request)

    def _answer(self, request: Request) -> None:
        tokenizer = self.tokenizer
        asked = tokenizer.decode(list(request.prompt))
        words = asked.split("<|user|>")[1].split("<|end|>")[0]
        truth = eval_sum(words)
        budget = request.sampling.thinking_budget
        reply: list[int]
        if asked.endswith("<|think|>"):
            steps = 10 if budget is None else min(10, budget)
            said = str(truth) if steps == 10 else "0"
            reply = [*tokenizer.encode("." * steps), THINK_END, *tokenizer.encode(said)]
        else:
            reply = tokenizer.encode(str(truth) if NUMBERS.findall(words)[0][0] in "1234" else "0")
        for token in (*reply, tokenizer.end_id):
            if request.add(token, 0.0, tokenizer):
                return
        raise AssertionError("no room for the reply")


def eval_sum(words: str) -> int:
    first, *rest = re.findall(r"(?:plus |minus )?\d+", words)
    total = int(first)
    for part in rest:
        sign, number = part.split()
        total += int(number) if sign == "plus" else -int(number)
    return total


@pytest.fixture
def questions(tmp_path: Path) -> Prompts:
    config = SumPromptsConfig(train=0, held_out=60, split="test", thinking=True)
    return sum_prompts(testing_run(tmp_path / "questions"), config)


def test_the_curve_and_what_is_paired(
    tmp_path: Path, questions: Prompts, checkpoint: Checkpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        module, "load_assistant", lambda *a, **k: Assistant(Thinker(), Renderer(byte_tokenizer()))
    )
    run = testing_run(tmp_path)
    config = BudgetsConfig(prefix="p", budgets=(0, 4, 10, 20), max_thinking=30, answer_tokens=4)
    report = evaluate_budgets(run, config, model=checkpoint, questions=questions)
    low = sum(
        text[0] in "1234" for text in (NUMBERS.findall(text_of(q.messages[0]))[0] for q in questions.val())
    )
    metrics = run.metrics
    assert metrics["p.off"]["value"] == pytest.approx(low / 60) and metrics["p.off"]["n"] == 60
    assert metrics["p.on"]["value"] == 1 and metrics["p.gain"]["value"] == pytest.approx(1 - low / 60)
    assert metrics["p.gain"]["low"] < metrics["p.gain"]["value"] < metrics["p.gain"]["high"]
    assert [metrics[f"p.budget.{n}"]["value"] for n in (0, 4, 10, 20)] == [0, 0, 1, 1]
    assert metrics["p.on.3_numbers"]["n"] == 20 and metrics["p.thought"]["value"] == 0
    curve = report.curve()
    assert [m.value for m in curve.accuracy] == [0, 0, 1, 1] and curve.tokens == (1, 5, 12, 12)
    assert curve.on_tokens == 12 == metrics["p.tokens"]["value"]
    assert len(report.samples()) == 60 * 7
    assert all("thinking" not in sample.conversation.meta for sample in report.samples())


def test_a_real_model_is_cut_off(tmp_path: Path, questions: Prompts, checkpoint: Checkpoint) -> None:
    run = testing_run(tmp_path)
    config = BudgetsConfig(budgets=(0, 3), max_thinking=8, answer_tokens=4, max_questions=5, device="cpu")
    report = evaluate_budgets(run, config, model=checkpoint, questions=questions)
    assert run.metrics["thinking.on"]["n"] == 5
    for sample in report.samples():
        if sample.task == "budget.3":
            [thought, *_] = sample.conversation.messages[-1].content
            assert thought.type == "thinking"


def test_bad_inputs(tmp_path: Path, questions: Prompts, checkpoint: Checkpoint) -> None:
    for wrong in ((), (4, 2), (2, 2), (-1, 3)):
        with pytest.raises(ValidationError, match="rising"):
            BudgetsConfig(budgets=wrong)
    with pytest.raises(UserError, match="do not fit the model's"):
        evaluate_budgets(
            testing_run(tmp_path), BudgetsConfig(max_thinking=5000), model=checkpoint, questions=questions
        )
    empty = sum_prompts(testing_run(tmp_path / "e"), SumPromptsConfig(train=2, held_out=0))
    with pytest.raises(UserError, match="no held-out questions"):
        evaluate_budgets(testing_run(tmp_path), BudgetsConfig(), model=checkpoint, questions=empty)
