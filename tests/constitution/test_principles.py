from __future__ import annotations

import random
from pathlib import Path

import pytest
import yaml

from publius.constitution.principles import Constitution
from publius.constitution.revise import ReviseConfig
from publius.core.config import canonical
from publius.core.errors import UserError

MINIMAL = """
id: small
version: "1"
title: A small one
categories: {truth: being true}
principles:
  - id: true
    text: Say what is true.
    source: common sense
    category: truth
    critique_request: What is false here?
    revision_request: Make it true.
    comparison_question: Which is truer?
""".replace("id: true", "id: is-true")


def edited(change) -> str:
    data = yaml.safe_load(MINIMAL)
    change(data)
    return yaml.safe_dump(data)


def test_the_default_is_clean_and_complete() -> None:
    c = Constitution.load()
    assert c.check() == []
    assert len(c.principles) == 16
    assert {p.category for p in c.principles} == set(c.categories)
    assert any(shot.unchanged for shot in c.critiques)
    assert not all(shot.unchanged for shot in c.critiques)
    assert c.principle("honesty").category == "truth"
    with pytest.raises(UserError, match="no principle 'nope'"):
        c.principle("nope")


def test_every_text_is_in_the_hash() -> None:
    plain = Constitution.parse(MINIMAL)
    assert plain.hash == Constitution.parse(MINIMAL).hash
    assert plain.hash != Constitution.parse(MINIMAL.replace("truer", "more true")).hash


@pytest.mark.parametrize(
    ("change", "what"),
    [
        (
            lambda d: d["principles"][0].pop("revision_request"),
            "field `principles[0].revision_request` is missing",
        ),
        (lambda d: d.update(princples=[]), "unknown field `princples`"),
        (lambda d: d["principles"].append(d["principles"][0]), "duplicate principle id 'is-true'"),
        (lambda d: d.update(clamp=[0.6, 0.4]), "clamp must be"),
        (lambda d: d.update(principles=[]), "at least 1 item"),
        (
            lambda d: d.update(comparisons=[{"conversation": ["a", "b"], "a": "x", "b": "y", "answer": "A"}]),
            "must end with the human",
        ),
    ],
)
def test_bad_fields_are_named(change, what: str) -> None:
    with pytest.raises(UserError) as error:
        Constitution.parse(edited(change), "mine.yaml")
    assert what in error.value.what
    assert error.value.where.startswith("mine.yaml")
    assert error.value.fix


def test_bad_files(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="cannot read"):
        Constitution.load(tmp_path / "none.yaml")
    (tmp_path / "a.yaml").write_text("id: x\n  bad: [", "utf-8")
    with pytest.raises(UserError, match=r"line 2"):
        Constitution.load(tmp_path / "a.yaml")
    (tmp_path / "b.yaml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(UserError, match="UTF-8"):
        Constitution.load(tmp_path / "b.yaml")
    with pytest.raises(UserError, match="mapping"):
        Constitution.parse("- a list")


def test_lint_finds_what_a_schema_cannot() -> None:
    def change(d) -> None:
        d["principles"][0]["source"] = " "
        d["principles"].append({**d["principles"][0], "id": "two", "category": "nowhere"})
        d["principles"][0]["critique_request"] = "Say it. Critique:"
        d["categories"]["lonely"] = "no principle has it"
        d["answers"] = [" X", " X"]
        d["layout"] = {"human": "Human: ", "critique": "\n\nCritique: {critique_request} "}
        shot = {
            "conversation": "q",
            "response": "r\n\nHuman: x",
            "critique_request": "c",
            "critique": "fine",
            "revision_request": "r",
            "revision": "other",
        }
        d["critiques"] = [shot]
        pair = {"conversation": "q", "a": "same", "b": "same", "answer": "A"}
        d["comparisons"] = [pair, pair]

    found = "\n".join(Constitution.parse(edited(change)).check())
    for what in (
        "source is empty",
        "category 'nowhere' is not listed",
        "text repeats another",
        "'lonely' has no principle",
        "contains the cue 'Critique:'",
        "layout.human: the slot {q} is missing",
        "layout.critique: ends with white",
        "the two answers are the same",
        "no example shows `nothing to fix`",
        "2 examples answer A and 0 answer B",
        "comparisons[0]: both options are the same",
        "where the critic stops",
    ):
        assert what in found


def test_lint_wants_a_change_too() -> None:
    shot = {
        "conversation": "q",
        "response": "r",
        "critique_request": "c",
        "critique": "fine",
        "revision_request": "r",
        "revision": "r",
    }
    found = Constitution.parse(edited(lambda d: d.update(critiques=[shot]))).check()
    assert found == ["critiques: no example changes the response"]


def test_sampling_follows_the_weights() -> None:
    def change(d) -> None:
        d["principles"].append({**d["principles"][0], "id": "heavy", "weight": 3.0})

    c = Constitution.parse(edited(change))
    rng = random.Random(0)
    drawn = [c.sample(rng).id for _ in range(4000)]
    assert drawn.count("heavy") / 4000 == pytest.approx(0.75, abs=0.03)


def test_configs_take_a_path_and_carry_the_content(tmp_path: Path) -> None:
    path = tmp_path / "c.yaml"
    path.write_text(MINIMAL, "utf-8")
    config = ReviseConfig.model_validate({"constitution": str(path)})
    assert config.constitution.id == "small"
    before = canonical(config)
    path.write_text(MINIMAL.replace("What is false", "What is wrong"), "utf-8")
    assert canonical(ReviseConfig.model_validate({"constitution": path})) != before
    assert ReviseConfig().constitution.id == "publius-default"
