"""Critiques and revisions to read: response, critique and revision side by side, filtered by principle.

The filters are radio buttons and style rules: the page runs no script. Where a browser does not know
`:has()`, everything stays visible.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from publius.constitution.revise import Transcript
from publius.core.messages import text_of
from publius.report.alignment import principle_texts
from publius.report.collect import Gathered
from publius.report.html import Html, el, section
from publius.report.words import hash_order, opening

__all__ = ["critiques", "filter_rules"]

_ANSWERS, _OPEN, _SUMMARY = 24, 2, 90
_REASONS = {
    "role_leak": "wrote the next speaker's lines",
    "context": "did not fit",
    "too_long": "too long",
    "no_critique": "no critique",
    "refused_critique": "refused to criticise",
    "copy": "a copy",
    "drift": "another language",
    "truncated": "cut off",
}
_OUTCOMES = ("kept", "unchanged", "dropped")


class _Step(NamedTuple):
    """One revision, with the text it was asked to mend."""

    number: int
    before: str
    critique: str
    after: str
    principle: str
    verdict: str

    @property
    def outcome(self) -> str:
        return self.verdict if self.verdict in _OUTCOMES else "dropped"


def _steps(transcript: Transcript) -> list[_Step]:
    current, steps = transcript.response, []
    for count, r in enumerate(transcript.revisions, 1):
        steps.append(_Step(count, current, r.critique, r.text, r.principle, r.verdict))
        current = r.text if r.verdict == "kept" else current
    return steps


def _names(g: Gathered) -> list[str]:
    """Every principle drawn in the run; a principle's place here is its CSS class."""
    drawn = {r.principle for _, made in g.revisions() for t in made.transcripts() for r in t.revisions}
    return sorted(drawn)


def filter_rules(g: Gathered) -> str:
    """Style rules: with a principle and an outcome chosen, only chains with such a step, and those steps."""
    rules: list[str] = []
    for principle in ["", *(f"p{i}" for i in range(len(_names(g))))]:
        for outcome in ("", *_OUTCOMES):
            wanted = "".join(f".{name}" for name in (principle, outcome) if name)
            if wanted:
                picked = "".join(f":has(.pick-{name}:checked)" for name in (principle, outcome) if name)
                rules.append(
                    f".viewer{picked} .chain:not(:has({wanted})),.viewer{picked} .step:not({wanted})"
                )
    return f"{','.join(rules)}{{display:none}}\n" if rules else ""


def critiques(g: Gathered) -> Html | None:
    """Each stage's answers on their way through critique and revision."""
    texts, names = principle_texts([entry for entry, _ in g.revisions()]), _names(g)
    parts: list[Html] = []
    for group, (entry, revisions) in enumerate(g.revisions()):
        chains = [t for t in revisions.transcripts() if t.revisions]
        if not chains:
            continue
        shown = _chosen(chains, _ANSWERS)
        counts = Counter(r.verdict for t in chains for r in t.revisions)
        told = ", ".join(f"{count} {_reason(name)}" for name, count in counts.most_common())
        parts.append(
            el(
                "div",
                el("h3", entry.name),
                el("p", f"Of {counts.total()} revisions: {told}.", class_="note"),
                el("p", f"{len(shown)} of {len(chains)} answers shown.", class_="note"),
                _filters(group, shown, names, texts),
                [_chain(t, names, texts, open_=i < _OPEN) for i, t in enumerate(shown)],
                class_="viewer",
            )
        )  # fmt: skip
    if not parts:
        return None
    return section(
        "critiques",
        "Critiques and revisions",
        f"Up to {_ANSWERS} answers a stage, drawn by hash, dealt out over principles and over the reasons "
        "for dropping a revision. Each revision stands beside what it mends and the critique it follows.",
        parts,
    )


def _chosen(chains: Sequence[Transcript], most: int) -> list[Transcript]:
    """At most `most`: one in turn from those of each principle and those dropped for each reason."""
    order = {id(t): hash_order(t.prompt.model_dump_json(), t.response) for t in chains}
    ranked = sorted(chains, key=lambda t: order[id(t)])
    piles: dict[tuple[str, str], list[Transcript]] = defaultdict(list)
    for transcript in ranked:
        kinds = {("principle", r.principle) for r in transcript.revisions}
        kinds |= {("reason", r.verdict) for r in transcript.revisions if r.verdict != "kept"}
        for kind in kinds:
            piles[kind].append(transcript)
    picked: set[int] = set()
    turns = [iter(piles[kind]) for kind in sorted(piles)]
    while turns and len(picked) < most:
        for pile in list(turns):
            fresh = next((t for t in pile if id(t) not in picked), None)
            if fresh is None:
                turns.remove(pile)
            elif len(picked) < most:
                picked.add(id(fresh))
    return [t for t in ranked if id(t) in picked]


def _filters(group: int, shown: Sequence[Transcript], names: Sequence[str], texts: dict[str, str]) -> Html:
    steps = [step for t in shown for step in _steps(t)]
    by_principle, by_outcome = Counter(s.principle for s in steps), Counter(s.outcome for s in steps)
    principles = [
        (f"p{i}", el("code", name), by_principle[name], texts.get(name))
        for i, name in enumerate(names)
        if by_principle[name]
    ]
    outcomes = [(name, name, by_outcome[name], None) for name in _OUTCOMES if by_outcome[name]]
    return el(
        "div",
        _radios("principle", f"pick-principle-{group}", [("all", "all", len(steps), None), *principles]),
        _radios("outcome", f"pick-outcome-{group}", [("all", "all", len(steps), None), *outcomes]),
    )


def _radios(legend: str, name: str, choices: Iterable[tuple[str, str, int, str | None]]) -> Html:
    made = [
        el(
            "label",
            el("input", type="radio", name=name, class_=f"pick-{key}", checked=index == 0),
            " ", word, el("span", f" {count}", class_="note"), title=title,
        )
        for index, (key, word, count, title) in enumerate(choices)
    ]  # fmt: skip
    return el("fieldset", el("legend", legend), made, class_="filter")


def _chain(transcript: Transcript, names: Sequence[str], texts: dict[str, str], *, open_: bool) -> Html:
    """One answer and all its revisions, in order."""
    prompt = transcript.prompt
    whole = text_of(prompt.messages[-1])
    asked = " ".join(whole.split())
    asked = asked if len(asked) <= _SUMMARY else f"{asked[:_SUMMARY].rstrip()}..."
    steps = _steps(transcript)
    head = el("summary", el("span", asked, class_="who"), " ", [_chip(step.verdict) for step in steps])
    said = prompt.system or prompt.tools or len(prompt.messages) > 1 or asked != whole
    inner = [
        opening(prompt, prompt.messages) if said else None,  # the head has said it already
        [_step(s, names.index(s.principle), texts.get(s.principle, "")) for s in steps],
    ]
    return el("details", head, el("div", inner, class_="inside"), class_="chain", open=open_)


def _step(step: _Step, place: int, principle: str) -> Html:
    before = "response" if step.number == 1 else f"before revision {step.number}"
    columns = (
        (before, step.before),
        ("critique", step.critique),
        (el("span", f"revision {step.number} ", _chip(step.verdict)), step.after),
    )
    shown = [el("div", el("h4", head), el("p", text or "(nothing)", class_="said")) for head, text in columns]
    said = el("p", el("code", step.principle), " ", principle, class_="note")
    return el("div", said, el("div", shown, class_="columns"), class_=f"step p{place} {step.outcome}")


def _chip(verdict: str) -> Html:
    tone = {"kept": "good", "unchanged": ""}.get(verdict, "bad")
    return el("span", _reason(verdict), class_=f"chip {tone}".strip())


def _reason(verdict: str) -> str:
    return _REASONS.get(verdict, verdict.replace("_", " "))
