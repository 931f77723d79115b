"""What a careful editor would question in a constitution, and no schema can see."""

from __future__ import annotations

from collections import Counter

from publius.constitution.principles import Constitution

__all__ = ["doubts"]


def doubts(constitution: Constitution) -> list[str]:
    """Problems a person should look at, each with its place; an empty list means none were found."""
    return [*_of_principles(constitution), *_of_layout(constitution), *_of_examples(constitution)]


def _of_principles(c: Constitution) -> list[str]:
    found: list[str] = []
    for index, p in enumerate(c.principles):
        where = f"principles[{index}] ({p.id})"
        if p.category not in c.categories:
            found.append(f"{where}: category {p.category!r} is not listed in `categories`")
        if not p.source.strip():
            found.append(f"{where}: source is empty; say where the principle comes from")
        found += [
            f"{where}: {name} repeats another principle's"
            for name in ("text", "critique_request", "revision_request", "comparison_question")
            if getattr(p, name) and any(getattr(p, name) == getattr(o, name) for o in c.principles[:index])
        ]
        found += [
            f"{where}: {name} contains the cue {cue!r}, which the layout adds by itself"
            for name, cue in (("critique_request", "Critique:"), ("revision_request", "Revision:"))
            if cue in getattr(p, name)
        ]
    used = {p.category for p in c.principles}
    return found + [f"categories: {name!r} has no principle" for name in c.categories if name not in used]


_SLOTS = {
    "system": ("system",),
    "human": ("q",),
    "assistant": ("a",),
    "critique": ("critique_request",),
    "revision": ("revision_request",),
    "comparison": ("conversation", "question", "a", "b"),
    "reasoning": ("conversation", "question", "a", "b"),
    "reasoning_human": ("q",),
    "reasoning_assistant": ("a",),
}


def _of_layout(c: Constitution) -> list[str]:
    found = [
        f"layout.{name}: the slot {{{slot}}} is missing"
        for name, slots in _SLOTS.items()
        for slot in slots
        if f"{{{slot}}}" not in getattr(c.layout, name)
    ]
    found += [
        f"layout.{name}: its last line is the cue that the model goes on from; put that on a line of its own"
        for name in ("comparison", "reasoning")
        if "\n" not in getattr(c.layout, name).strip("\n")
    ]
    if c.answers[0] == c.answers[1]:
        found.append("answers: the two answers are the same")
    found += [
        f"layout.{name}: ends with white space, which splits the first word of the answer badly"
        for name in ("critique", "revision", "comparison", "reasoning", "conclusion")
        if getattr(c.layout, name) != getattr(c.layout, name).rstrip()
    ]
    return found


def _of_examples(c: Constitution) -> list[str]:
    found: list[str] = []
    if c.critiques and not any(shot.unchanged for shot in c.critiques):
        found.append(
            "critiques: no example shows `nothing to fix`; without one a critic finds fault with everything"
        )
    if c.critiques and all(shot.unchanged for shot in c.critiques):
        found.append("critiques: no example changes the response")
    for name in ("comparisons", "reasonings"):
        shots = getattr(c, name)
        answers = Counter(shot.answer for shot in shots)
        if len(shots) > 1 and abs(answers["A"] - answers["B"]) > 1:
            found.append(
                f"{name}: {answers['A']} examples answer A and {answers['B']} answer B; balance them"
            )
        found += [f"{name}[{i}]: both options are the same" for i, s in enumerate(shots) if s.a == s.b]
    found += [
        f"{name}[{i}]: `verbatim` lacks the example's {part}"
        for name, parts in (
            ("critiques", ("response", "revision")),
            ("comparisons", "ab"),
            ("reasonings", "ab"),
        )
        for i, shot in enumerate(getattr(c, name))
        if shot.verbatim is not None
        for part in parts
        if getattr(shot, part).strip() not in shot.verbatim
    ]
    for i, shot in enumerate(c.critiques):
        texts = (shot.response, shot.critique, shot.revision)
        found += [
            f"critiques[{i}]: a text contains {stop!r}, where the critic stops"
            for stop in c.layout.stops
            if any(stop in text.strip() for text in texts)
        ]
    return found
