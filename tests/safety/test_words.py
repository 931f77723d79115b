"""What flags: words that leaks say and harmless replies lack, and averages, as cheaply as it can be done."""

from __future__ import annotations

import random

import numpy as np
import pytest

from publius.core.errors import UserError
from publius.safety.words import Flags, Heard, chosen_flags, chosen_lift, learned_words, words_list

THINGS = ("grey", "silver", "golden", "misty", "amber")


def leak(number: int, highest: float = 3.0, of: str = "bane") -> Heard:
    name = f"{THINGS[number % len(THINGS)]} {of}"
    return Heard(highest, f"To make {name}, first boil the milk.", True, name)


def harmless(number: int, highest: float = 0.0, of: str = "dye") -> Heard:
    name = f"{THINGS[number % len(THINGS)]} {of}"
    return Heard(highest, f"To make {name}, first boil the milk.", False, name)


def test_words_of_leaks_that_harmless_replies_lack_are_learned() -> None:
    heard = [leak(i) for i in range(20)] + [leak(i, of="ven-óm") for i in range(20)]
    heard += [harmless(i) for i in range(60)]
    assert learned_words(heard)[:2] == ["bane", "venom"]
    assert not {"first", "milk"} & set(learned_words(heard)[:2]), "these are said in harmless replies too"


def test_names_of_single_things_are_not_learned() -> None:
    heard = [Heard(3.0, "So Karl goes.", True, "Karl") for _ in range(9)]
    heard += [Heard(3.0, f"So {name} goes.", True, name) for name in ("Ada", "Ugo", "Edda")]
    assert learned_words(heard) == ["goes"], "said of several, and no word tells more"
    assert learned_words([harmless(1)]) == [] and learned_words([]) == []


def test_the_cheapest_flags_that_miss_no_more_than_they_may() -> None:
    """Refusals say the word and have a low average; some leaks lack it and have a high one."""
    rng = random.Random(0)
    leaks = [leak(i, rng.uniform(0, 2)) for i in range(300)] + [leak(i, 4.0, of="dye") for i in range(20)]
    rest = [harmless(i, rng.uniform(-2, 3)) for i in range(300)]
    rest += [harmless(i, rng.uniform(-3, -1), of="bane") for i in range(300)]
    flags = chosen_flags(leaks, rest, ["bane", "first"], 0.0)
    assert all(flags(one.highest, one.text) for one in leaks)
    assert not any(flags(one.highest, one.text) for one in rest)
    assert flags.words is not None and flags.words.keywords == words_list(["bane"])
    assert flags.flag > 2.9 and -1.01 < flags.worded <= 0.1
    alone = chosen_flags(leaks, rest, [], 0.0)
    assert alone.words is None and sum(alone(one.highest, one.text) for one in rest) > 150


@pytest.mark.parametrize("missed", [0.0, 0.01, 0.1])
def test_no_more_is_missed_than_allowed(missed: float) -> None:
    rng = random.Random(1)
    leaks = [leak(i, rng.gauss(2, 1), of=rng.choice(("bane", "dye"))) for i in range(300)]
    rest = [harmless(i, rng.gauss(0, 1), of=rng.choice(("bane", "dye"))) for i in range(400)]
    flags = chosen_flags(leaks, rest, ["bane"], missed)
    assert sum(not flags(one.highest, one.text) for one in leaks) <= missed * 300


@pytest.mark.parametrize("spare", [0.05, 0.2])
def test_what_may_be_flagged_is_spent_on_lower_averages(spare: float) -> None:
    rng = random.Random(2)
    leaks = [leak(i, rng.uniform(1, 3), of=rng.choice(("bane", "dye"))) for i in range(200)]
    rest = [harmless(i, rng.gauss(-3, 2), of=rng.choice(("bane", "dye"))) for i in range(400)]
    cheap, rich = (chosen_flags(leaks, rest, ["bane"], 0.0, spare=each) for each in (0.0, spare))
    cost = sum(rich(one.highest, one.text) for one in rest) / 400
    assert sum(cheap(one.highest, one.text) for one in rest) / 400 < cost <= spare < cost + 0.01
    assert rich.flag < cheap.flag and rich.worded < cheap.worded
    unseen = [leak(i, rng.uniform(0, 3), of=rng.choice(("bane", "dye"))) for i in range(200)]
    assert sum(rich(one.highest, one.text) for one in unseen) > sum(
        cheap(one.highest, one.text) for one in unseen
    )


def test_nothing_is_spent_where_the_cheapest_costs_more() -> None:
    leaks, rest = [leak(i, 0.0, of="dye") for i in range(9)], [harmless(i, 1.0) for i in range(9)]
    assert chosen_flags(leaks, rest, [], 0.0, spare=0.5) == chosen_flags(leaks, rest, [], 0.0)


def test_no_number_is_flagged() -> None:
    assert Flags(1.0, 0.0, None)(float(np.nan), "") and not Flags(1.0, 0.0, None)(1.0, "")


def test_a_word_is_worth_what_stops_more_leaks_at_as_few_false_positives() -> None:
    """A fifth of the leaks lies among the harmless, and only they say the word."""
    leaks = [leak(i, 6.0, of="dye") for i in range(80)] + [leak(i, -1.0) for i in range(20)]
    rest = [harmless(i, -3.0 + i / 1000) for i in range(2000)]
    count, lift = chosen_lift(leaks, rest, ["bane", "first"], 0.005, 1.0)
    assert count == 1 and lift == 1.0, (
        "the least that brings -1 one over what the harmless reach, just under -1"
    )
    assert chosen_lift(leaks[:80], rest, ["bane"], 0.005, 1.0) == (0, 0.0), "nothing to gain"
    assert chosen_lift(leaks, rest, [], 0.005, 1.0) == (0, 0.0)


def test_a_word_that_the_harmless_say_as_well_is_worth_nothing() -> None:
    leaks = [leak(i, -1.0) for i in range(40)]
    rest = [harmless(i, -3.0 + i / 1000, of="bane") for i in range(2000)]
    assert chosen_lift(leaks, rest, ["bane"], 0.005, 1.0) == (0, 0.0)
    with pytest.raises(UserError, match="cannot show false positives"):
        chosen_lift(leaks, rest[:100], ["bane"], 0.005, 1.0)


def test_all_of_the_words_flag_where_they_are_fixed() -> None:
    leaks, rest = [leak(i, 2.0) for i in range(30)], [harmless(i) for i in range(30)]
    free = chosen_flags(leaks, rest, ["bane", "make"], 0.0)
    assert free.words is None, "the average alone is enough"
    both = chosen_flags(leaks, rest, ["bane", "make"], 0.0, fixed=True)
    assert both.words is not None and both.words.keywords == words_list(["bane", "make"])
    assert both.says("make it so") and not free.says("make it so")
