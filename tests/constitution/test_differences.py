from __future__ import annotations

from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from publius.constitution.differences import Difference, differences, word_pieces
from publius.constitution.principles import Constitution
from publius.core.config import canonical

DEFAULT = Constitution.load()


def changed(change: Any) -> Constitution:
    data = yaml.safe_load(DEFAULT.to_yaml())
    change(data)
    return Constitution.model_validate(data)


@given(st.text(max_size=60), st.text(max_size=60))
def test_the_pieces_are_both_texts(before: str, after: str) -> None:
    pieces = word_pieces(before, after)
    assert "".join(p.text for p in pieces if p.kind != "added") == before
    assert "".join(p.text for p in pieces if p.kind != "removed") == after
    assert all(p.text for p in pieces)
    assert before != after or all(p.kind == "same" for p in pieces)


def test_neighbouring_changes_are_one() -> None:
    pieces = word_pieces("Point out where it helps with cheating.", "Say whether it helps with cheating.")
    assert [tuple(p) for p in pieces] == [
        ("removed", "Point out where"), ("added", "Say whether"), ("same", " it helps with cheating."),
    ]  # fmt: skip
    unlike = word_pieces("Do not help a person.", "A private life is not public because it can be found.")
    assert [p.kind for p in unlike] == ["removed", "added"]


def test_words_stay_whole() -> None:
    pieces = [tuple(p) for p in word_pieces("Say what is false, plainly.", "Say what is made up, plainly.")]
    assert pieces == [
        ("same", "Say what is "),
        ("removed", "false"),
        ("added", "made up"),
        ("same", ", plainly."),
    ]


def test_nothing_changed() -> None:
    assert differences(DEFAULT, Constitution.load()) == []


def test_what_changed_is_named() -> None:
    def change(d: Any) -> None:
        d["version"] = "9"
        d["categories"]["new"] = "A new one."
        d["layout"] = {"separator": "---"}
        d["temperature"] = 0.5
        (dignity, liberty, *others) = d["principles"]
        others[0]["text"] = "Changed."
        d["principles"] = [liberty, *others, {**dignity, "id": "worth", "category": "new"}]
        d["critiques"].insert(0, {**d["critiques"][1], "conversation": ["a", "b", "c"]})
        del d["reasonings"][0]

    found = {(d.kind, d.where) for d in differences(DEFAULT, changed(change))}
    assert found == {
        ("changed", "version"),
        ("added", "categories.new"),
        ("changed", "layout.separator"),
        ("changed", "temperature"),
        ("removed", "principles[dignity]"),
        ("added", "principles[worth]"),
        ("changed", "principles[privacy].text"),
        ("added", "critiques[a / b / c]"),
        ("removed", "reasonings[How do I copy my neighbour's house key without him knowing?]"),
    }


def test_another_order_is_a_difference_of_its_own() -> None:
    turned = changed(lambda d: d["principles"].reverse())
    [only] = differences(DEFAULT, turned)
    assert only.where == "principles (order)" and only.before and only.before.startswith("dignity, liberty")
    assert only.after and only.after.startswith("machine, community")


def test_examples_of_one_conversation_are_told_apart() -> None:
    twice = changed(lambda d: d["critiques"].append(d["critiques"][0] | {"response": "Other."}))
    [only] = differences(DEFAULT, twice)
    assert (only.kind, only.where[-4:]) == ("added", " #2]") and "response: Other." in (only.after or "")


def leaves(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    if isinstance(value, dict):
        return [leaf for key in value for leaf in leaves(value[key], (*path, key))]
    if isinstance(value, list):
        return [leaf for index, item in enumerate(value) for leaf in leaves(item, (*path, index))]
    return [path]


LEAVES = [path for path in leaves(canonical(DEFAULT)) if path[-1] not in ("answer", "chat")]


@given(st.sampled_from(LEAVES))
def test_whatever_changes_is_seen(path: tuple[Any, ...]) -> None:
    data: Any = canonical(DEFAULT)
    inner = data
    for key in path[:-1]:
        inner = inner[key]
    old = inner[path[-1]]
    inner[path[-1]] = old + 0.05 if isinstance(old, float) else f"{old or ''} more"
    other = Constitution.model_validate(data)
    assert other.hash != DEFAULT.hash
    assert differences(DEFAULT, other) != []
    assert differences(other, DEFAULT) != []


@pytest.mark.parametrize("path", [("layout", "chat"), ("comparisons", 0, "answer")])
def test_choices_are_seen_too(path: tuple[Any, ...]) -> None:
    data: Any = canonical(DEFAULT)
    inner = data
    for key in path[:-1]:
        inner = inner[key]
    inner[path[-1]] = {"transcript": "turns", "B": "A"}[inner[path[-1]]]
    [only] = differences(DEFAULT, Constitution.model_validate(data))
    assert isinstance(only, Difference) and only.kind == "changed"
