from __future__ import annotations

import random
from pathlib import Path

import pytest
import yaml
from hypothesis import example, given
from hypothesis import strategies as st

from publius.constitution.lint import doubts
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
    assert doubts(c) == []
    assert len(c.principles) == 16
    assert {p.category for p in c.principles} == set(c.categories)
    assert any(shot.unchanged for shot in c.critiques)
    assert not all(shot.unchanged for shot in c.critiques)
    assert c.principle("honesty").category == "truth"
    with pytest.raises(UserError, match="no principle 'nope'"):
        c.principle("nope")


def test_the_examples_of_the_default_are_asked_by_its_principles() -> None:
    c = Constitution.load()
    for shot in c.critiques:
        asked = [(p.critique_request, p.revision_request) for p in c.principles]
        assert (shot.critique_request, shot.revision_request) in asked
    for shot in (*c.comparisons, *c.reasonings):
        assert shot.question in [p.comparison_question for p in c.principles]
    assert sum(shot.unchanged for shot in c.critiques) >= 2
    assert not c.critiques[0].unchanged and c.critiques[1].unchanged, "two examples show one of each kind"


def test_a_principle_may_lack_one_half_but_must_say_so() -> None:
    judging = edited(lambda d: d["principles"][0].update(critique_request=None, revision_request=None))
    [only] = Constitution.parse(judging).principles
    assert [only.serves(use) for use in ("critique", "revision", "comparison")] == [False, False, True]
    assert Constitution.model_validate(Constitution.parse(judging).model_dump()) == Constitution.parse(
        judging
    )
    revising = edited(lambda d: d["principles"][0].update(comparison_question=None))
    c = Constitution.parse(revising)
    assert c.sample(random.Random(0), "critique") == c.principles[0]
    with pytest.raises(UserError, match="no principle can be used for comparison"):
        c.sample(random.Random(0))
    for lacking, what in (
        (
            {"revision_request": None, "comparison_question": None, "critique_request": None},
            "needs a revision_req",
        ),
        ({"revision_request": None}, "a critique_request needs"),
    ):
        with pytest.raises(UserError, match=what) as error:
            Constitution.parse(edited(lambda d, more=lacking: d["principles"][0].update(more)), "mine.yaml")
        assert error.value.where == "mine.yaml: principles[0]"


@pytest.mark.parametrize(
    ("text", "line"),
    [
        (MINIMAL.replace("    source:", "    text: Again.\n    source:"), 9),
        (f"{MINIMAL}title: Again\n", 14),
    ],
)
def test_a_key_written_twice_is_refused(text: str, line: int) -> None:
    with pytest.raises(UserError, match="stands twice") as error:
        Constitution.parse(text, "mine.yaml")
    assert error.value.where == f"mine.yaml, line {line}"


def test_the_written_file_reads_back(tmp_path: Path) -> None:
    for c in (Constitution.load(), Constitution.parse(MINIMAL)):
        (tmp_path / "c.yaml").write_text(c.to_yaml("Mine.\n\nAll of it."), "utf-8")
        assert Constitution.load(tmp_path / "c.yaml") == c
    odd = {"title": " two\n\nlines \n", "id": "yes", "version": "1.10"}
    c = Constitution.load().model_copy(update=odd)
    assert Constitution.parse(c.to_yaml()) == c


@given(st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=80))
@example("\x85")
@example("a\u2028" * 40)
@example(" \n\n x\n" * 20)
def test_any_text_survives_the_file(text: str) -> None:
    c = Constitution.parse(MINIMAL)
    [principle] = c.principles
    changed = principle.model_copy(update={"text": text, "critique_request": f"a\n{text}", "source": text})
    c = c.model_copy(
        update={"title": text, "principles": (changed,), "categories": {text: text, "truth": ""}}
    )
    assert Constitution.parse(c.to_yaml()) == c


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
        (
            lambda d: d["principles"][0].update(comparison_question=" "),
            "field `principles[0].comparison_question` is empty",
        ),
        (lambda d: d.update(princples=[]), "unknown field `princples`"),
        (lambda d: d.update(principles=["kind"]), "bad value"),
        (lambda d: d.update(principles=3), "bad value"),
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
    with pytest.raises(UserError, match="larger than 4 MB"):
        Constitution.load("/dev/zero")
    with pytest.raises(UserError, match="this is no timestamp") as error:
        Constitution.parse("id: x\nversion: 2020-13-45\n", "mine.yaml")
    assert error.value.where == "mine.yaml, line 2"
    with pytest.raises(UserError, match="nested too deep"):
        Constitution.parse("[" * 3000)


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
