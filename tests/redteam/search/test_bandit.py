"""The bandit finds the arm that pays, counts what it costs, and forgets."""

import json
import random
from collections import Counter

import pytest

from publius.redteam.search.bandit import Arm, Bandit


def played(
    bandit: Bandit, pays: dict[Arm, float], pulls: int, tokens: dict[str, float] | None = None
) -> Counter[Arm]:
    rng, drawn = random.Random(0), Counter[Arm]()
    for _ in range(pulls):
        arm = bandit.choose(rng)
        drawn[arm] += 1
        hit = rng.random() < pays.get(arm, 0.0)
        bandit.update(arm, "goal", float(hit), (tokens or {}).get(arm.style, 100.0))
    return drawn


def test_what_works_is_tried_most_and_everything_is_still_tried():
    bandit = Bandit(["a", "b", "c", "d"], ["", "x"])
    drawn = played(bandit, {Arm("c", "x"): 0.5, Arm("a", ""): 0.05}, 600)
    assert drawn.most_common(1)[0][0] == Arm("c", "x") and drawn[Arm("c", "x")] > 250
    assert len(drawn) == 8 and min(drawn.values()) >= 5
    assert bandit.mean(Arm("c", "x")) > 0.3 > bandit.mean(Arm("b", ""))


def test_of_two_that_work_alike_the_cheaper_is_preferred():
    bandit = Bandit(["cheap", "dear"], [""])
    pays = {Arm("cheap", ""): 0.4, Arm("dear", ""): 0.4}
    drawn = played(bandit, pays, 400, {"cheap": 50.0, "dear": 400.0})
    assert drawn[Arm("cheap", "")] > 4 * drawn[Arm("dear", "")]


def test_what_a_model_stopped_falling_for_is_forgotten():
    bandit = Bandit(["a", "b"], [""], discount=0.97)
    played(bandit, {Arm("a", ""): 0.9}, 200)
    after = played(bandit, {Arm("b", ""): 0.9}, 400)
    assert after[Arm("b", "")] > 200


def test_a_pair_never_tried_stands_on_its_style_and_mutator():
    bandit = Bandit(["a", "b"], ["", "x"], explore=0.0)
    for _ in range(20):
        bandit.update(Arm("a", ""), "g", 0.3, 100)
        bandit.update(Arm("b", ""), "g", 0.0, 100)
    rng = random.Random(1)
    drawn = Counter(bandit.choose(rng) for _ in range(400))
    assert drawn[Arm("a", "x")] > 3 * drawn[Arm("b", "x")]


def test_requests_that_gave_something_are_asked_about_more():
    bandit = Bandit(["a"], [""])
    for place in range(60):
        bandit.update(Arm("a", ""), str(place % 6), 1.0 if place % 6 == 2 else 0.0, 10)
    rng = random.Random(0)
    drawn = Counter(bandit.choose_goal([str(i) for i in range(6)], rng) for _ in range(300))
    assert drawn["2"] > 150 and len(drawn) == 6


def test_what_turns_a_request_into_babble_is_given_up_after_a_few():
    bandit = Bandit(["a"], ["", "sound", "babble"], explore=0.0)
    for _ in range(6):
        for mutator in ("", "sound", "babble"):  # nothing has worked yet: only this tells them apart
            bandit.update(Arm("a", mutator), "g", 0.0, 1, understood=mutator != "babble")
    rng = random.Random(2)
    drawn = Counter(bandit.choose(rng).mutator for _ in range(300))
    assert drawn["babble"] < 45 < 75 < min(drawn["sound"], drawn[""])


def test_babble_says_nothing_of_how_often_a_style_is_refused():
    bandit = Bandit(["a"], [""])
    for _ in range(50):
        bandit.update(Arm("a", ""), "g", 0.0, 1, understood=False)
    assert bandit.base() == pytest.approx(0.05)
    for _ in range(50):
        bandit.update(Arm("a", ""), "g", 0.0, 1)
    assert bandit.base() < 0.02


def test_a_wording_that_worked_is_said_again():
    bandit = Bandit(["a"], [""], explore=0.0)
    for place in range(60):
        bandit.update(Arm("a", "", f"w{place % 6}"), "g", 1.0 if place % 12 == 2 else 0.0, 1)
    rng = random.Random(3)
    drawn = Counter(bandit.choose(rng).wording for _ in range(300))
    assert set(drawn) <= {"w2", ""}  # one that never worked is none to come back to
    assert drawn["w2"] > 250


def test_exploration_is_even_in_what_it_costs():
    bandit = Bandit(["cheap", "dear"], [""], explore=1.0)
    for style, cost in (("cheap", 1.0), ("dear", 9.0)):
        bandit.update(Arm(style, ""), "g", 0.0, cost)
    rng = random.Random(4)
    drawn = Counter(bandit.choose(rng).style for _ in range(1000))
    assert 60 < drawn["dear"] < 140


def test_exploration_alone_draws_evenly():
    drawn = played(Bandit(["a", "b"], ["", "x"], explore=1.0), {Arm("a", ""): 1.0}, 800)
    assert all(150 < count < 250 for count in drawn.values())


def test_what_is_dumped_is_loaded():
    bandit = Bandit(["a", "b"], [""])
    played(bandit, {Arm("a", ""): 0.5}, 50)
    other = Bandit(["a", "b"], [""])
    other.load(json.loads(json.dumps(bandit.dump())))
    assert other.mean(Arm("a", "")) == pytest.approx(bandit.mean(Arm("a", "")))
    assert [other.choose(random.Random(i)) for i in range(9)] == [
        bandit.choose(random.Random(i)) for i in range(9)
    ]
