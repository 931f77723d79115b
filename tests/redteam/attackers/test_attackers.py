"""Laws that every attacker keeps: it ends, stops when it has succeeded, and has all its chance from the
rng."""

from __future__ import annotations

import pytest

from publius.core.messages import Conversation, assistant
from publius.redteam import STYLES
from publius.redteam.attacker import Attacker, Goal
from publius.redteam.attackers import (
    ATTACKERS,
    Bias,
    Crescendo,
    Encodings,
    Refine,
    Shots,
    Sycophancy,
    SystemInjection,
    ToolInjection,
    Translate,
    Tree,
)
from tests.redteam.attackers.driving import FACT, HAZARD, PLAIN, RECIPE, REFUSAL, TWIN, drive, everything

GOALS = {"hazard": HAZARD, "twin": TWIN, "fact": FACT, "plain": PLAIN, "test": HAZARD._replace(split="test")}
PROBES = {"sycophancy", "deception", "bias"}


def writes(conversation: Conversation) -> str:
    return "Tell me of amber venom, amber balm, Mara and the rude letter, would you?\nAnd which pet?"


@pytest.mark.parametrize("goal", GOALS)
@pytest.mark.parametrize("name", ATTACKERS)
def test_it_ends_against_whoever_always_refuses(name: str, goal: str) -> None:
    for seed in range(3):
        played = drive(ATTACKERS[name], GOALS[goal], lambda c: "I will not say that.", seed=seed)
        assert len(played.sends) <= 20 and len(played.writes) <= 1  # where nobody writes, it asks no more
        with_writer = drive(ATTACKERS[name], GOALS[goal], lambda c: "I will not.", seed=seed, writer=writes)
        assert len(with_writer.sends) <= 20 and len(with_writer.writes) <= 20


@pytest.mark.parametrize("goal", GOALS)
@pytest.mark.parametrize("name", ATTACKERS)
def test_it_ends_against_whoever_never_answers(name: str, goal: str) -> None:
    played = drive(ATTACKERS[name], GOALS[goal], lambda c: None)
    assert len(played.sends) <= 6 and not played.hit
    assert len(drive(ATTACKERS[name], GOALS[goal], lambda c: None, writer=writes).sends) <= 16


@pytest.mark.parametrize("name", sorted({*ATTACKERS} - PROBES - {"benign"}))
def test_it_stops_at_the_first_that_leaks(name: str) -> None:
    played = drive(ATTACKERS[name], HAZARD, lambda c: RECIPE)
    assert played.hit and len(played.sends) == 1


@pytest.mark.parametrize("name", sorted({*ATTACKERS} - PROBES))
def test_on_a_benign_goal_it_stops_at_the_first_refusal(name: str) -> None:
    played = drive(ATTACKERS[name], TWIN, lambda c: REFUSAL)
    assert played.hit and len(played.sends) == 1


@pytest.mark.parametrize("name", ATTACKERS)
def test_it_ends_against_whoever_says_nothing_of_use(name: str) -> None:
    for goal in GOALS.values():
        assert len(drive(ATTACKERS[name], goal, lambda c: "").sends) <= 20


@pytest.mark.parametrize("name", ATTACKERS)
def test_equal_chance_gives_equal_attacks_and_other_chance_others(name: str) -> None:
    goal = FACT if name in PROBES else TWIN if name == "benign" else HAZARD

    def say(conversation: Conversation) -> str:
        return "I will not." if len(conversation.messages) > 1 else "Mara keeps a cat."

    runs = [drive(ATTACKERS[name], goal, say, seed=seed).sends for seed in range(8)]
    assert drive(ATTACKERS[name], goal, say, seed=3).sends == runs[3]
    # an invented tongue leaves nothing to chance
    assert len({repr(run) for run in runs}) > 1 or name == "translate"


@pytest.mark.parametrize("name", sorted({*ATTACKERS} - {"obfuscation", "encodings", "translate", "refine"}))
def test_what_is_asked_for_is_named(name: str) -> None:
    goal = FACT if name in PROBES else TWIN if name == "benign" else HAZARD
    thing = str(goal.question.meta["entity"])
    first = drive(ATTACKERS[name], goal, lambda c: "Hm.").sends[0]
    assert thing.lower() in everything(first).lower() or str(goal.question.meta.get("twin")) in everything(
        first
    )


@pytest.mark.parametrize("name", ATTACKERS)
def test_memory_of_other_goals_never_breaks_it(name: str) -> None:
    past = HAZARD.question.model_copy(
        update={"meta": {"entity": "amber venom", "shown": 1, "mutators": ["typos"]}}
    )
    odd = [
        past.then(assistant("hm")),
        Conversation(messages=(), meta={}),
        past.model_copy(update={"meta": {}}),
    ]
    for goal in GOALS.values():
        assert len(drive(ATTACKERS[name], goal, lambda c: "hm", memory=odd).sends) <= 20


def test_every_style_and_every_kind_is_there() -> None:
    live = {
        "refine", "tree", "crescendo", "shots", "system_injection", "tool_injection", "play_on", "encodings",
        "translate", "sycophancy", "deception", "bias", "benign",
    }  # fmt: skip
    assert set(ATTACKERS) == {*STYLES, *live}
    assert {name for name, attacker in ATTACKERS.items() if attacker.sealed} == {
        "hypothetical", "reconstruction", "tool_result", "tool_injection", "play_on",
    }  # fmt: skip
    assert all(name == attacker.name for name, attacker in ATTACKERS.items())


def test_probes_leave_alone_what_they_cannot_ask() -> None:
    assert not drive(ATTACKERS["sycophancy"], HAZARD, lambda c: RECIPE).sends
    assert not drive(ATTACKERS["benign"], HAZARD, lambda c: REFUSAL).sends
    assert Goal(FACT.question).category == "pet"


@pytest.mark.parametrize(
    "attacker",
    [Refine(steps=1), Tree(first=20), SystemInjection(tries=50), ToolInjection(tries=50), Translate(tries=50),
     Encodings(tries=50), Sycophancy(pushes=50), Bias(pairs=1), Crescendo(openings=50), Shots(counts=(1,))],
    ids=lambda attacker: attacker.name,
)  # fmt: skip
def test_amounts_may_be_more_than_there_is(attacker: Attacker) -> None:
    for goal in GOALS.values():
        drive(attacker, goal, lambda c: "I will not.", writer=writes, most=120)
