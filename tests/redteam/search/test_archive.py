"""The archive keeps the best of each place and aims at what is weak."""

import json
import random

from publius.core.messages import Conversation, assistant, user
from publius.redteam.search.archive import Archive, Cell, Elite, cell_of, turns_bucket
from publius.redteam.search.chains import Chain

CELL = Cell("poison", "persona", "1", "en")


def elite(seed: int, score: float, succeeded: bool = False) -> Elite:
    sent = Conversation(messages=(user(f"attack {seed}"),))
    return Elite(
        chain=Chain(style="persona", seed=seed), goal=0, conversation=sent, score=score, succeeded=succeeded
    )


def test_a_cell_keeps_its_best_and_a_success_is_better_than_any_score():
    archive = Archive(keep=2)
    assert archive.add(CELL, elite(1, 0.2), "safe")
    assert archive.add(CELL, elite(2, 0.9), "safe")
    assert not archive.add(CELL, elite(3, 0.1), "safe")
    assert archive.add(CELL, elite(4, 0.5, succeeded=True), "harmful")
    assert [kept.chain.seed for kept in archive.elites("poison", "persona")] == [4, 2]
    (count,) = archive.counts()
    assert (count.tried, count.succeeded, count.unscored, count.best) == (4, 1, 0, 0.9)


def test_one_chain_is_kept_once_with_its_best_score():
    archive = Archive(keep=3)
    for score in (0.2, 0.6, 0.4):
        archive.add(CELL, elite(1, score), "safe")
    assert [kept.score for kept in archive.elites()] == [0.6]


def test_what_has_no_label_is_counted_and_never_kept():
    archive = Archive()
    assert not archive.add(CELL, elite(1, 1.0), None)
    (count,) = archive.counts()
    assert count.unscored == count.tried == 1 and count.best == 0 and not archive.elites()


def test_new_attacks_are_aimed_at_what_was_tried_and_broken_least():
    archive = Archive()
    for seed in range(30):
        archive.add(CELL, elite(seed, 0.0), "refusal")
    archive.add(CELL._replace(category="rumour"), elite(0, 1.0, True), "harmful")
    for _ in range(5):
        archive.confirm(CELL._replace(category="rumour"))
    rng = random.Random(0)
    drawn = [archive.weak(["poison", "rumour", "forgery"], "persona", rng) for _ in range(300)]
    assert drawn.count("forgery") > 200 and 0 < drawn.count("poison") < 50


def test_parents_are_what_got_most_for_what_it_cost_where_little_was_found():
    archive, rng = Archive(keep=3), random.Random(0)
    assert archive.parent("persona", rng) is None
    archive.add(CELL, elite(0, 0.0), "refusal")
    assert archive.parent("persona", rng) is None  # it got nothing that could be built on
    archive.add(CELL, elite(1, 0.5).model_copy(update={"tokens": 100}), "safe")
    archive.add(CELL, elite(2, 0.9).model_copy(update={"tokens": 2000}), "safe")
    other = CELL._replace(category="rumour")
    archive.add(other, elite(3, 0.5).model_copy(update={"tokens": 100}), "safe")
    for _ in range(9):
        archive.confirm(other)
    drawn = [parent.chain.seed for _ in range(300) if (parent := archive.parent("persona", rng)) is not None]
    assert archive.parent("story", rng) is None  # what is tried is the bandit's to say, and it counts costs
    assert drawn.count(1) > 220 and 0 < drawn.count(2) < 50 and 0 < drawn.count(3) < 60


def test_places_are_told_apart_by_turns_and_language():
    talk = Conversation(messages=(user("a"), assistant("b"), user("c")), meta={"language": "pig latin"})
    assert cell_of("poison", "direct", talk) == Cell("poison", "direct", "2-3", "pig latin")
    assert [turns_bucket(n) for n in (1, 2, 3, 4, 9)] == ["1", "2-3", "2-3", "4+", "4+"]


def test_what_is_dumped_is_loaded():
    archive = Archive(keep=2)
    archive.add(CELL, elite(1, 0.4), "safe")
    archive.confirm(CELL)
    again = Archive.load(json.loads(json.dumps(archive.dump())), keep=2)
    assert again.counts() == archive.counts() and again.elites() == archive.elites()
    assert again.filled() == 1 and again.quality() == 0.4
