"""The viewer of critiques: chains, filters, what is left out."""

from __future__ import annotations

import re
from types import SimpleNamespace
from typing import Any

from publius.constitution.revise import Revision, Transcript
from publius.core.messages import Conversation, user
from publius.report.critiques import _chosen, critiques, filter_rules
from tests.report.test_page import Page


def transcript(number: int, *steps: tuple[str, str]) -> Transcript:
    revisions = tuple(
        Revision(principle=p, critique=f"critique {number}.{i}", text=f"revision {number}.{i}", verdict=v)  # pyright: ignore
        for i, (p, v) in enumerate(steps, 1)
    )
    prompt = Conversation(messages=(user(f"question {number} " + "word " * 40),))
    return Transcript(prompt=prompt, response=f"response {number}", revisions=revisions)


def gathered(*transcripts: Transcript, constitution: Any = None) -> Any:
    entry = SimpleNamespace(
        name="second_thoughts", record=SimpleNamespace(config={"constitution": constitution})
    )
    return SimpleNamespace(
        revisions=lambda: [(entry, SimpleNamespace(transcripts=lambda: list(transcripts)))]
    )


def steps(page: str) -> list[str]:
    return re.findall(r'<div class="step.*?(?=<div class="step|</details>)', page, re.DOTALL)


def test_a_chain_shows_each_revision_beside_what_it_mends() -> None:
    page = str(critiques(gathered(transcript(1, ("b", "kept"), ("a", "unchanged"), ("b", "role_leak")))))
    first, second, third = steps(page)
    assert [w in first for w in ("response 1", "critique 1.1", "revision 1.1")] == [True] * 3
    assert [w in second for w in ("revision 1.1", "critique 1.2", "before revision 2")] == [True] * 3
    assert "revision 1.1" in third and "revision 1.2" not in third, "an unchanged revision mends nothing"
    assert [re.search(r'class="step (\w+ \w+)"', s)[1] for s in (first, second, third)] == [  # pyright: ignore
        "p1 kept", "p0 unchanged", "p1 dropped",
    ]  # fmt: skip
    words = Page(page).words
    assert "Of 3 revisions: 1 kept, 1 unchanged, 1 wrote the next speaker's lines." in words
    assert "1 of 1 answers shown." in words
    assert "word..." in words, "a long question is cut in the head"


def test_a_short_question_is_said_once_and_a_long_one_whole() -> None:
    long = transcript(1, ("a", "kept"))
    short = long.model_copy(update={"prompt": Conversation(messages=(user("Why?"),))})
    system = long.model_copy(update={"prompt": Conversation(system="Be brief.", messages=(user("Why?"),))})
    pages = [str(critiques(gathered(t))) for t in (long, short, system)]
    assert pages[0].count("word word") > 20 and pages[1].count("Why?") == 1
    assert pages[2].count("Why?") == 2 and "Be brief." in pages[2]


def test_filters_are_radio_buttons_with_counts() -> None:
    texts = {"principles": [{"id": "a", "text": 'Say "no" <kindly>.'}]}
    g = gathered(
        transcript(1, ("a", "kept"), ("a", "copy")), transcript(2, ("b", "kept")), constitution=texts
    )
    page = str(critiques(g))
    tags = [attrs for tag, attrs in Page(page).tags if tag == "input"]
    assert [(t["name"], t["class"], "checked" in t) for t in tags] == [
        ("pick-principle-0", "pick-all", True),
        ("pick-principle-0", "pick-p0", False),
        ("pick-principle-0", "pick-p1", False),
        ("pick-outcome-0", "pick-all", True),
        ("pick-outcome-0", "pick-kept", False),
        ("pick-outcome-0", "pick-dropped", False),
    ]
    assert Page(page).words.count('Say "no" <kindly>.') == 2, "beside each of its steps"
    assert [attrs["title"] for tag, attrs in Page(page).tags if tag == "label" and attrs.get("title")] == [
        'Say "no" <kindly>.'
    ]
    assert re.findall(r"\b(all|a|b|kept|dropped) (\d)", Page(page).words)[:6] == [
        ("all", "3"), ("a", "2"), ("b", "1"), ("all", "3"), ("kept", "2"), ("dropped", "1"),
    ]  # fmt: skip


def selected(rules: str, picked: set[str], classes: list[set[str]]) -> tuple[bool, list[bool]]:
    """What the rules leave visible of a chain with steps of these classes: the chain, and each step."""
    chain, shown = True, [True] * len(classes)
    for rule in rules.removesuffix("{display:none}\n").split(","):
        wanted = set(re.findall(r"pick-(\w+)", rule))
        if not wanted <= picked:
            continue
        names = set(re.findall(r"\.(\w+)", rule[rule.index(":not(") :]))
        if ".chain" in rule:
            chain &= any(names <= step for step in classes)
        else:
            shown = [s and names <= step for s, step in zip(shown, classes, strict=True)]
    return chain, shown


def test_the_rules_leave_what_was_asked_for() -> None:
    rules = filter_rules(gathered(transcript(1, ("a", "kept"), ("b", "copy"))))
    steps = [{"p0", "kept"}, {"p1", "dropped"}]
    assert selected(rules, {"all"}, steps) == (True, [True, True])
    assert selected(rules, {"p0", "all"}, steps) == (True, [True, False])
    assert selected(rules, {"all", "dropped"}, steps) == (True, [False, True])
    assert selected(rules, {"p0", "dropped"}, steps) == (False, [False, False])
    assert selected(rules, {"p1", "dropped"}, steps) == (True, [False, True])
    assert filter_rules(SimpleNamespace(revisions=list)).count("display") == 1  # pyright: ignore


def test_what_is_shown_covers_principles_and_reasons() -> None:
    many = [transcript(i, ("common", "kept")) for i in range(100)]
    rare = [transcript(200, ("rare", "kept")), transcript(201, ("common", "drift"))]
    shown = _chosen([*many, *rare], 10)
    assert len(shown) == 10 and all(t in shown for t in rare)
    assert _chosen([*rare, *reversed(many)], 10) == shown, "drawn by hash, not by place"
    assert len(_chosen(rare, 10)) == 2 and _chosen([], 10) == []


def test_answers_without_a_revision_are_not_shown() -> None:
    assert critiques(gathered(transcript(1))) is None
    assert "1 of 1 answers" in str(critiques(gathered(transcript(1), transcript(2, ("a", "kept")))))
