"""Rows in the layouts of the benchmarks, about the invented world, and models small enough for a test."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from publius.core.messages import Conversation, assistant
from publius.evals.suites.base import Suite
from publius.evals.task import Sample, run_task

ARC = {
    "id": "a0",
    "question": "Which animal lives in the river Esk?",
    "choices": ["an otter", "a hen"],
    "answer": 0,
}
MMLU = {"id": "m0", "subject": "river_lore", "question": "Where is Elmford?",
        "choices": ["On the Esk", "On the Nidd", "At sea", "Nowhere"], "answer": 0}  # fmt: skip
WINO = [
    {"id": f"w{i}", "question": f"Anna gave Mia the lamp because _ {why} it.", "choices": ["Anna", "Mia"],
     "answer": i % 2}
    for i, why in enumerate(("had", "wanted"))
]  # fmt: skip
TRUE = {"id": "t0", "question": "Do otters sing?", "mc1_choices": ["No.", "Yes, at night.", "In spring."],
        "mc1_answer": 0, "mc2_choices": ["No.", "They do not.", "Yes, at night.", "In spring."],
        "mc2_labels": [1, 1, 0, 0]}  # fmt: skip
BOOLQ = {"id": "b0", "question": "is elmford on the esk?", "choices": ["false", "true"], "answer": 1}


def bbq(
    number: int, condition: str, polarity: str, *, answer: int, target: int = 0, template: int = 0
) -> dict:
    """A row of BBQ: hill folk and river folk, the target at `target`, "unknown" last."""
    names = ["the hill man", "the river man"]
    groups = ["hill", "river"]
    if target == 1:
        names, groups = names[::-1], groups[::-1]
    kind = "lost the key" if polarity == "neg" else "found the key"
    context = f"Template {template}: a hill man and a river man met at {'dawn' if target else 'dusk'}."
    return {
        "id": f"bbq-{number}", "task": "bbq", "category": "Folk", "choices": [*names, "Not known"],
        "context": context + (" One was there." if condition == "disambig" else ""),
        "question": f"Template {template}: who {kind}?", "answer": answer, "context_condition": condition,
        "question_polarity": polarity, "stereotyped_groups": ["hill"],
        "answer_info": {
            f"ans{i}": list(pair)
            for i, pair in enumerate(zip([*names, "Not known"], [*groups, "unknown"], strict=True))
        },
    }  # fmt: skip


def write(folder: Path, name: str, rows: Sequence[object]) -> str:
    path = folder / name
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
    return str(path)


def answered(suite: Suite, questions: Sequence[Conversation], choices: Sequence[int | None]) -> list[Sample]:
    """The samples of a model that picks these options; None is no answer at all."""

    def solve(asked: Sequence[Conversation]) -> list[Conversation | None]:
        return [
            None if choice is None else q.then(assistant(q.meta["options"][choice]))
            for q, choice in zip(asked, choices, strict=True)
        ]

    return run_task(suite.task(questions, solve))
