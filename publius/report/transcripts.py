"""Words to read: the same questions before and after, attacks that worked.

What is shown is picked by a hash of its text, not by eye; everything a model wrote is escaped.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from typing import NamedTuple

from publius.core.messages import Conversation, Message, ToolResultBlock
from publius.evals import Sample
from publius.redteam import Finding
from publius.report.alignment import examined
from publius.report.collect import Gathered
from publius.report.html import Html, details, el, section
from publius.report.words import hash_order, opening, show_block

__all__ = ["attacks", "conversations", "split_reply"]

_FINDINGS, _FEW, _MORE = 6, 2, 4


def split_reply(conversation: Conversation) -> tuple[tuple[Message, ...], tuple[Message, ...]]:
    """The question, and what the model added to it: its last message, and the tool calls that led there."""
    messages = conversation.messages
    cut = len(messages)
    if cut and messages[-1].role == "assistant":
        cut -= 1
        while cut >= 2 and any(isinstance(b, ToolResultBlock) for b in messages[cut - 1].content):
            cut -= 2
    return messages[:cut], messages[cut:]


# --- the same questions, before and after


def conversations(g: Gathered) -> Html | None:
    """The same held-out questions as each model on the way answered them; where marks moved comes first."""
    reports = {entry.name: report for entry, report in g.reports()}
    by_task: dict[str, list[_Column]] = defaultdict(list)
    for model in examined(g):
        if not model.control:
            answers: dict[str, dict[str, Sample]] = defaultdict(dict)
            for sample in reports[model.entry.name].samples():
                answers[sample.task][_key(sample)] = sample
            for task, given in answers.items():
                by_task[task].append(_Column(model.name, given))
    shared = {task: sorted(set.intersection(*(set(c.answers) for c in columns)), key=hash_order)
              for task, columns in by_task.items()}  # fmt: skip
    moved = {
        task: sum(_moved([c.answers[key] for c in by_task[task]]) for key in keys)
        for task, keys in shared.items()
    }
    tasks = sorted((task for task, keys in shared.items() if keys), key=lambda task: -moved[task])
    if not tasks:
        return None
    most = max(len(by_task[task]) for task in tasks)
    parts: list[Html] = []
    for index, task in enumerate(tasks):
        keys = shared[task][: _MORE if moved[task] * 4 > len(shared[task]) else _FEW]
        shown = [_question([(c.model, c.answers[key]) for c in by_task[task]]) for key in keys]
        head = f"{task.replace('_', ' ')} ({len(keys)} of {len(shared[task])})"
        parts.append(details(head, shown, open_=index < 2))
    return section(
        "conversations",
        "The same questions, before and after" if most > 1 else "Questions and answers",
        "Held-out questions drawn by hash, with greedy answers. Marks are the evaluation's own.",
        parts,
    )


class _Column(NamedTuple):
    """One model's answers to a task, by question."""

    model: str
    answers: dict[str, Sample]


def _key(sample: Sample) -> str:
    question, _ = split_reply(sample.conversation)
    return "\x1f".join(
        [sample.task, sample.conversation.system or "", *(m.model_dump_json() for m in question)]
    )


def _moved(samples: Sequence[Sample]) -> bool:
    return len({_marks(sample) for sample in samples}) > 1


def _question(answers: Sequence[tuple[str, Sample]]) -> Html:
    first = answers[0][1].conversation
    shown = [
        el("div", el("h4", name, " ", _marks(sample)), _reply(sample))
        for name, sample in answers
    ]  # fmt: skip
    return el("article", opening(first, split_reply(first)[0]), el("div", shown, class_="columns"))


def _reply(sample: Sample) -> Html:
    blocks = [
        show_block(block) for message in split_reply(sample.conversation)[1] for block in message.content
    ]
    shown = [block for block in blocks if block is not None]
    return el("div", shown or el("p", "(no answer)", class_="note"))


def _marks(sample: Sample) -> Html:
    if sample.verdict is None:
        return el("span", "unscored", class_="chip bad")
    v, kind = sample.verdict, sample.conversation.meta.get("kind")
    marks = [("leaked", "bad")] if v.leaked else []
    marks += [("refused", "")] if v.refused else []
    if kind is not None and kind != "hazard" and not v.refused:  # without a kind there is no truth to mark by
        marks += [("right", "good") if v.correct else ("wrong", "bad")]
    return el("span", [el("span", text, class_=f"chip {tone}") for text, tone in marks])


# --- attacks


def attacks(g: Gathered) -> Html | None:
    """Some confirmed findings of each round, as sent and as answered."""
    parts: list[Html] = []
    for entry, findings in g.findings():
        found: dict[str, Finding] = {}
        for finding in sorted(findings.findings(), key=lambda f: hash_order(f.id)):
            found.setdefault(finding.style, finding)
        shown = [_finding(finding) for finding in list(found.values())[:_FINDINGS]]
        if shown:
            parts.append(details(f"{entry.name}: {g.model(entry)} ({len(shown)} shown)", shown))
    if not parts:
        return None
    return section(
        "attacks",
        "Attacks that worked",
        "Confirmed on training items, one a style; where a harmless request was refused, that is the fault. "
        "Those not marked as held back may become prompts for the next round of critique.",
        parts,
    )


def _finding(finding: Finding) -> Html:
    what = f"{finding.style}, {finding.category}".replace("_", " ")
    fault = "refused" if finding.benign else "leaked"
    head = f"{what}: {fault} in {finding.reproduced} of {finding.tries} tries"
    if finding.split != "train" or finding.sealed:  # what `Findings.prompts` leaves out
        head += "; held back for measuring"
    reply = el(
        "div",
        el("span", "assistant", class_="role"),
        el("p", finding.reply, class_="said"),
        class_="message assistant",
    )
    return el("article", el("h4", head), opening(finding.conversation, finding.conversation.messages), reply)
