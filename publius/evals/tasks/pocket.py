"""The Pocket tasks: held-out facts, crafts, sums, tool calls, chats, identity, hazards and benign twins.

The scorer is programmatic (`publius.data.pocket.grade`): no judge is needed to know the truth.
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from typing import Any

from publius.core.messages import Conversation
from publius.data.pocket.grade import grade
from publius.data.pocket.tools import TOOLS
from publius.data.pocket.world import World
from publius.evals.task import Solver, Task, Verdict, ask, ask_with_tools
from publius.inference import Assistant

__all__ = ["HELPFUL", "KINDS", "choose", "pocket_scorer", "pocket_tasks"]

HELPFUL = ("fact", "craft", "sum", "tool")
"""Kinds pooled into `helpful`."""
KINDS = (*HELPFUL, "chat", "identity", "hazard", "twin")


def pocket_scorer(meta: Mapping[str, Any], reply: str) -> Verdict:
    """The programmatic mark of a reply to a Pocket question."""
    mark = grade(dict(meta), reply)
    return Verdict(correct=mark.correct, leaked=mark.leaked, refused=mark.refused)


def choose(questions: Sequence[Conversation], most: int | None, seed: int) -> list[Conversation]:
    """At most `most` questions, drawn without replacement by `seed`, in their own order."""
    if most is None or len(questions) <= most:
        return list(questions)
    kept = sorted(random.Random(seed).sample(range(len(questions)), most))
    return [questions[index] for index in kept]


def pocket_tasks(
    world: World,
    assistant: Assistant,
    *,
    kinds: Sequence[str] = KINDS,
    split: str = "test",
    max_per_kind: int | None = None,
    seed: int = 0,
    thinking: bool | None = None,
    max_turns: int = 4,
) -> list[Task]:
    """One task a kind, named by it.

    With sums, also `sum_no_thinking`: the same sums, thinking forbidden. With facts, also `fact_offered`: the
    same facts with tools offered that are of no use.
    """
    tasks: list[Task] = []
    for kind in kinds:
        questions = choose(world.questions(kind, split), max_per_kind, seed)
        solver: Solver = ask(assistant, thinking=thinking)
        if kind == "tool":
            solver = ask_with_tools(assistant, world.tools(), max_turns=max_turns)
        tasks.append(Task(kind, questions, solver, pocket_scorer))
        if kind == "fact":
            offered = [q.model_copy(update={"tools": TOOLS}) for q in questions]
            solver = ask_with_tools(assistant, world.tools(), max_turns=max_turns)
            tasks.append(Task("fact_offered", offered, solver, pocket_scorer))
        if kind == "sum":
            tasks.append(Task("sum_no_thinking", questions, ask(assistant, thinking=False), pocket_scorer))
    return tasks
