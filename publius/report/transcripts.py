"""Words to read: critiques and revisions, the same questions before and after, attacks that worked.

What is shown is picked by a hash of its text, not by eye; everything a model wrote is escaped.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter, defaultdict
from collections.abc import Sequence
from typing import NamedTuple

from publius.constitution.revise import Transcript
from publius.core.messages import (
    Block,
    Conversation,
    Message,
    TextBlock,
    ThinkingBlock,
    ToolResultBlock,
    ToolUseBlock,
)
from publius.evals import Sample
from publius.redteam import Finding
from publius.report.alignment import examined, principle_texts
from publius.report.collect import Gathered
from publius.report.html import Html, details, el, section

__all__ = ["attacks", "conversations", "critiques", "split_reply"]

_REVISIONS, _FINDINGS, _FEW, _MORE = 20, 6, 2, 4
_VERDICTS = {"role_leak": "wrote the next speaker's lines", "context": "did not fit", "too_long": "too long"}


def _order(*parts: str) -> str:
    return hashlib.sha256("\x1f".join(parts).encode()).hexdigest()


def _block(block: Block) -> Html | None:
    if isinstance(block, TextBlock):
        return el("p", block.text, class_="said") if block.text.strip() else None
    if isinstance(block, ThinkingBlock):
        return el("p", el("span", "thinking", class_="tag"), block.thinking, class_="said thought")
    if isinstance(block, ToolUseBlock):
        call = f"{block.name}({json.dumps(block.input, ensure_ascii=False)})"
        return el("p", el("span", "calls", class_="tag"), el("code", call), class_="said tool")
    if isinstance(block, ToolResultBlock):
        tag = "error" if block.is_error else "result"
        return el("p", el("span", tag, class_="tag"), el("code", block.content), class_="said tool")
    return el("p", "(an image)", class_="note")


def _message(message: Message) -> Html:
    shown = [_block(block) for block in message.content]
    return el("div", el("span", message.role, class_="role"), shown, class_=f"message {message.role}")


def _opening(conversation: Conversation, messages: Sequence[Message]) -> Html:
    """System text, tools and the messages up to the reply."""
    system = (
        el("p", el("span", "system", class_="tag"), conversation.system, class_="said")
        if conversation.system
        else None
    )
    tools = (
        el("p", f"tools: {', '.join(t.name for t in conversation.tools)}", class_="note")
        if conversation.tools
        else None
    )
    return el("div", system, tools, [_message(m) for m in messages], class_="opening")


def split_reply(conversation: Conversation) -> tuple[tuple[Message, ...], tuple[Message, ...]]:
    """The question, and what the model added to it: its last message, and the tool calls that led there."""
    messages = conversation.messages
    cut = len(messages)
    if cut and messages[-1].role == "assistant":
        cut -= 1
        while cut >= 2 and any(isinstance(b, ToolResultBlock) for b in messages[cut - 1].content):
            cut -= 2
    return messages[:cut], messages[cut:]


# --- critiques and revisions


class _Step(NamedTuple):
    prompt: Conversation
    before: str
    critique: str
    after: str
    principle: str
    verdict: str
    number: int


def _steps(transcript: Transcript) -> list[_Step]:
    current, steps = transcript.response, []
    for count, r in enumerate(transcript.revisions, 1):
        steps.append(_Step(transcript.prompt, current, r.critique, r.text, r.principle, r.verdict, count))
        current = r.text if r.verdict == "kept" else current
    return steps


def _chosen(steps: Sequence[_Step], most: int) -> dict[str, list[_Step]]:
    """At most `most` steps, dealt out over the principles in turn."""
    piles: dict[str, list[_Step]] = defaultdict(list)
    for step in sorted(steps, key=lambda s: _order(s.prompt.model_dump_json(), s.before, s.after)):
        piles[step.principle].append(step)
    picked: dict[str, list[_Step]] = {name: [] for name in sorted(piles)}
    while most > 0 and any(piles.values()):
        for name in picked:
            if piles[name] and most > 0:
                picked[name].append(piles[name].pop(0))
                most -= 1
    return {name: group for name, group in picked.items() if group}


def _step(step: _Step) -> Html:
    columns = (("response", step.before), ("critique", step.critique), (_after(step), step.after))
    shown = [el("div", el("h4", head), el("p", text or "(nothing)", class_="said")) for head, text in columns]
    return el(
        "article",
        _opening(step.prompt, step.prompt.messages),
        el("div", shown, class_="columns"),
    )


def _after(step: _Step) -> str:
    why = "" if step.verdict == "kept" else f", {_VERDICTS.get(step.verdict, step.verdict.replace('_', ' '))}"
    return f"revision {step.number}{why}"


def critiques(g: Gathered) -> Html | None:
    """Response, critique and revision side by side, by principle."""
    parts: list[Html] = []
    texts = principle_texts([entry for entry, _ in g.revisions()])
    for entry, revisions in g.revisions():
        steps = [step for transcript in revisions.transcripts() for step in _steps(transcript)]
        if not steps:
            continue
        counts = Counter(step.verdict for step in steps)
        told = ", ".join(
            f"{count} {_VERDICTS.get(name, name.replace('_', ' '))}" for name, count in counts.most_common()
        )
        kept = _chosen([s for s in steps if s.verdict == "kept"], _REVISIONS)
        other = [s for group in _chosen([s for s in steps if s.verdict != "kept"], 4).values() for s in group]
        groups = [
            details([el("code", name), f" ({len(group)}) ", el("span", texts.get(name, ""), class_="note")],
                    [_step(step) for step in group], open_=index == 0)
            for index, (name, group) in enumerate(kept.items())
        ]  # fmt: skip
        dropped = (
            details(f"Not used, or without change ({len(other)})", [_step(step) for step in other])
            if other
            else None
        )
        parts.append(
            el(
                "div",
                el("h3", entry.name),
                el("p", f"Of {len(steps)} revisions: {told}.", class_="note"),
                groups,
                dropped,
            )
        )
    if not parts:
        return None
    return section(
        "critiques",
        "Critiques and revisions",
        f"Up to {_REVISIONS} kept revisions a stage, drawn by hash, dealt out over the principles.",
        parts,
    )


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
    shared = {task: sorted(set.intersection(*(set(c.answers) for c in columns)), key=_order)
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
    return len({None if s.verdict is None else (s.verdict.leaked, s.verdict.refused) for s in samples}) > 1


def _question(answers: Sequence[tuple[str, Sample]]) -> Html:
    first = answers[0][1].conversation
    shown = [
        el("div", el("h4", name, " ", _marks(sample)), _reply(sample))
        for name, sample in answers
    ]  # fmt: skip
    return el("article", _opening(first, split_reply(first)[0]), el("div", shown, class_="columns"))


def _reply(sample: Sample) -> Html:
    blocks = [_block(block) for message in split_reply(sample.conversation)[1] for block in message.content]
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
        for finding in sorted(findings.findings(), key=lambda f: _order(f.id)):
            found.setdefault(finding.style, finding)
        shown = [_finding(finding) for finding in list(found.values())[:_FINDINGS]]
        if shown:
            parts.append(details(f"{entry.name}: {g.model(entry)} ({len(shown)} shown)", shown))
    if not parts:
        return None
    return section(
        "attacks",
        "Attacks that worked",
        "Confirmed on training items, one a style. These become prompts for the next round of critique.",
        parts,
    )


def _finding(finding: Finding) -> Html:
    what = f"{finding.style}, {finding.category}".replace("_", " ")
    head = f"{what}: leaked in {finding.reproduced} of {finding.tries} tries"
    reply = el(
        "div",
        el("span", "assistant", class_="role"),
        el("p", finding.reply, class_="said"),
        class_="message assistant",
    )
    return el("article", el("h4", head), _opening(finding.conversation, finding.conversation.messages), reply)
