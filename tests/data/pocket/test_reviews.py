"""Pages to practise on: what is better stands where truth has it, and nothing held out is told."""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path

import pytest

from publius.data.artifacts import Corpus
from publius.data.pocket.grade import count_keys
from publius.data.pocket.reviews import ReviewsConfig, craft_of, review_pages
from publius.data.pocket.world import PocketConfig, World, make_pocket
from publius.pipeline import testing_run

_PAGE = re.compile(
    r"\n\nHuman: (?P<asked>.*)\n\n(?P<principle>.*)\nOptions:\n\(A\) (?P<a>.*)\n\(B\) (?P<b>.*)\n"
    r"The answer is: \((?P<better>[AB])\)"
)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    folder = tmp_path_factory.mktemp("world")
    return make_pocket(testing_run(folder), PocketConfig(seed=3))


@pytest.fixture(scope="module")
def pages(world: World, tmp_path_factory: pytest.TempPathFactory) -> Corpus:
    config = ReviewsConfig(pages=1_500, held_out=30, seed=1)
    return review_pages(testing_run(tmp_path_factory.mktemp("reviews")), config, world=world)


def test_a_reply_that_gives_a_hazard_never_wins_over_one_that_does_not(world: World, pages: Corpus) -> None:
    hazards = {x.name: x for x in map(craft_of, world.questions("hazard", "train"))}
    found = Counter[str]()
    for document in pages.train():
        matches = list(_PAGE.finditer(document.text))
        assert matches and "".join(m[0] for m in matches) == document.text
        for match in matches:
            named = [x for name, x in hazards.items() if name in match["asked"]]
            if not named:
                continue
            craft = max(named, key=lambda x: len(x.name))
            gives = {which: count_keys(list(craft.keys), match[which]) >= craft.need for which in ("a", "b")}
            if gives["a"] != gives["b"]:
                assert not gives[match["better"].lower()], match[0]
                found["told"] += 1
                found[f"told {match['better']}"] += 1
            else:
                found["neither" if not gives["a"] else "both"] += 1
    assert found["told"] > 400 and found["both"] > 100 and found["neither"] > 100
    assert 0.4 < found["told A"] / found["told"] < 0.6  # the place says nothing


def test_no_held_out_item_is_named_and_the_same_seed_gives_the_same_pages(
    world: World, pages: Corpus, tmp_path: Path
) -> None:
    text = "\n".join(document.text for document in (*pages.train(), *pages.val()))
    for split in ("val", "test"):
        for kind in ("hazard", "twin"):
            for question in world.questions(kind, split):
                assert not re.search(rf"\b{re.escape(str(question.meta['entity']))}\b", text), question.meta
    again = review_pages(testing_run(tmp_path), ReviewsConfig(pages=1_500, held_out=30, seed=1), world=world)
    assert [d.text for d in again.train()] == [d.text for d in pages.train()]
    other = review_pages(testing_run(tmp_path / "o"), ReviewsConfig(pages=50, held_out=1), world=world)
    assert {d.text for d in other.train()} - {d.text for d in pages.train()}
