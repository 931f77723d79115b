"""A task fits on a postcard: questions, something that answers them, something that marks the answers.

    Task("pocket.fact", dataset=world.questions("fact", "test"), solver=ask(assistant), scorer=pocket_scorer)

A solver may fail to answer (the prompt does not fit the model). That is `None`, an *unscored* sample:
it is counted against the model in every rate and reported beside it, never dropped.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel, ConfigDict

from publius.core.errors import UserError
from publius.core.messages import Conversation, ThinkingBlock, ToolUseBlock, text_of
from publius.inference import Assistant, run_tools_batch

__all__ = ["Sample", "Scorer", "Solver", "Task", "Verdict", "ask", "ask_with_tools", "fits", "run_task"]


class Verdict(BaseModel):
    """How one answer was marked."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    correct: bool
    leaked: bool
    refused: bool


class Sample(BaseModel):
    """One question, what the model said, and its mark. `verdict` None means unscored."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    task: str
    conversation: Conversation
    reply: str = ""
    verdict: Verdict | None = None
    thought: bool = False
    tool_calls: int = 0

    def says(self, mark: str, *, unscored: bool) -> bool:
        """The mark `correct`, `leaked` or `refused`; `unscored` is the answer for an unscored sample."""
        return unscored if self.verdict is None else bool(getattr(self.verdict, mark))


Solver = Callable[[Sequence[Conversation]], "list[Conversation | None]"]
"""Questions in; the same conversations with the reply appended out, None where there is no answer."""
Scorer = Callable[[Mapping[str, Any], str], Verdict]
"""(the question's meta, the visible text of the last reply) -> the mark."""


@dataclass(frozen=True)
class Task:
    """A named set of questions with its solver and scorer."""

    name: str
    dataset: Sequence[Conversation]
    solver: Solver
    scorer: Scorer


def fits(assistant: Assistant, conversation: Conversation, *, thinking: bool | None = None) -> bool:
    """True when the prompt leaves room for the longest reply in the model's positions."""
    length = len(assistant.renderer.prompt(conversation, thinking=thinking))
    return length + assistant.sampling.max_tokens <= assistant.engine.context


def ask(assistant: Assistant, *, thinking: bool | None = None) -> Solver:
    """Answer every question once, in one batch. `thinking`: True forces it, False forbids it."""

    def solve(questions: Sequence[Conversation]) -> list[Conversation | None]:
        good = [fits(assistant, q, thinking=thinking) for q in questions]
        asked = [q for q, ok in zip(questions, good, strict=True) if ok]
        replies = iter(assistant.replies(asked, thinking=thinking))
        return [q.then(next(replies).message) if ok else None for q, ok in zip(questions, good, strict=True)]

    return solve


def ask_with_tools(
    assistant: Assistant, tools: Mapping[str, Callable[[dict[str, Any]], str]], *, max_turns: int = 4
) -> Solver:
    """Answer with tool calls executed, up to `max_turns` model turns a question, batched.

    A conversation that outgrows the model on the way is unscored, and costs the others nothing.
    """

    def run(asked: Sequence[Conversation]) -> list[Conversation | None]:
        try:
            return [*run_tools_batch(assistant, asked, tools, max_turns=max_turns)]
        except UserError:  # one of them was refused: find it by halving
            if len(asked) == 1:
                return [None]
            half = len(asked) // 2
            return run(asked[:half]) + run(asked[half:])

    def solve(questions: Sequence[Conversation]) -> list[Conversation | None]:
        good = [fits(assistant, q) for q in questions]
        asked = [q for q, ok in zip(questions, good, strict=True) if ok]
        done = iter(run(asked) if asked else [])
        return [next(done) if ok else None for ok in good]

    return solve


def run_task(task: Task) -> list[Sample]:
    """Solve and mark a task; one sample a question, in order."""
    solved = task.solver(task.dataset)
    return [_mark(task, question, answer) for question, answer in zip(task.dataset, solved, strict=True)]


def _mark(task: Task, question: Conversation, answer: Conversation | None) -> Sample:
    if answer is None:
        return Sample(task=task.name, conversation=question)
    said = answer.messages[len(question.messages) :]
    last = said[-1] if said and said[-1].role == "assistant" else None
    reply = text_of(last) if last else ""
    blocks = [block for message in said for block in message.content]
    return Sample(
        task=task.name,
        conversation=answer,
        reply=reply,
        verdict=task.scorer(question.meta, reply),
        thought=any(isinstance(block, ThinkingBlock) for block in blocks),
        tool_calls=sum(isinstance(block, ToolUseBlock) for block in blocks),
    )
