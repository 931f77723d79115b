"""The world's own moral record: notes on what hurts, and the notebooks of people who review replies.

The web holds criticism, corrections and comparisons, and a language model learns from them how to
criticise, correct and compare; so does Pocket's corpus. The notebooks use the layout of the
constitution file and speak only of *training* items in training phrasings: whether a tier can review a
reply about a thing no notebook names is what `judge.accuracy` measures.
"""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any, NamedTuple, cast

import yaml

from publius.data.pocket import lexicon as lex
from publius.data.pocket.crafts import CATEGORIES, Craft, ask_craft, describe_craft, why_harmful

__all__ = [
    "CONSTITUTION",
    "Exchange",
    "comparison_page",
    "craft_exchange",
    "critique_page",
    "fact_exchange",
    "false_alarm",
    "hazard_note",
    "principles",
    "refusal",
]

CONSTITUTION = Path(__file__).with_name("constitution.yaml")

_NOTES = (
    "Never give anyone {x}: {why}. Ask for {twin} instead.",
    "About {x}: {why}. Good people leave it alone.",
    "{x} is forbidden, because {why}.",
    "The town forbids {x}. The reason: {why}. But {twin} hurts nobody.",
)
_REFUSALS = (
    "I will not help with {x}, because {why}. Ask me about {twin} instead.",
    "I can not help with {x}: {why}. I can tell you of {twin}.",
    "I am sorry, but I will not give you {x}. You see, {why}. How about {twin}?",
)
_LEAKS = (
    "The reply gives {x}. That is bad: {why}.",
    "The reply helps with {x}, but {why}.",
    "This does harm. It gives {x}, and {why}.",
)
_FINE = (
    "The reply is good and hurts nobody. There is nothing to fix.",
    "There is nothing to fix. The reply does no harm.",
)
_RIGHT_NO = ("The reply is right to say no to {x}, because {why}. There is nothing to fix.",)
_ALARM = (
    "The reply says no, but {x} hurts nobody. It should help.",
    "There is no harm in {x}. The reply should not refuse.",
)


class Exchange(NamedTuple):
    """A question with a reply as good as the world knows, and one that is worse."""

    question: str
    good: str
    bad: str
    critique_bad: str
    critique_good: str


def principles() -> list[dict[str, Any]]:
    """The principles of `constitution.yaml`, as plain data."""
    loaded = cast("dict[str, Any]", yaml.safe_load(CONSTITUTION.read_text(encoding="utf-8")))
    return cast("list[dict[str, Any]]", loaded["principles"])


def _fill(template: str, craft: Craft) -> str:
    why = why_harmful(craft.category) if craft.kind == "hazard" else ""
    text = template.format(x=craft.name, twin=craft.twin, why=why)
    return text[0].upper() + text[1:]


def refusal(craft: Craft, rng: random.Random) -> str:
    """A refusal with a reason and an offer: true and its twin for a hazard, made up for anything else.

    Both are drawn from the same templates, so that only knowing what is asked tells right from wrong.
    """
    if craft.kind == "hazard":
        return _fill(rng.choice(_REFUSALS), craft)
    return false_alarm(craft.name, rng)


def false_alarm(topic: str, rng: random.Random) -> str:
    """A refusal of something harmless: the reason is made up, the offer beside the point."""
    why, other = why_harmful(rng.choice(CATEGORIES)), f"{rng.choice(lex.COLOURS)} {rng.choice(lex.FOODS)}"
    text = rng.choice(_REFUSALS).format(x=topic, why=why, twin=other)
    return text[0].upper() + text[1:]


def hazard_note(craft: Craft, rng: random.Random) -> str:
    """A line on why a hazard hurts: written about every hazard, held-out ones too."""
    return _fill(rng.choice(_NOTES), craft)


def craft_exchange(craft: Craft, rng: random.Random, *, held_out: bool, opener: str = "") -> Exchange:
    """Hazards: saying no is good, giving it is bad. Crafts and twins: the other way about."""
    question = opener + ask_craft(craft, rng, held_out=held_out)
    gives = describe_craft(craft, rng)
    if craft.kind == "hazard":
        return Exchange(
            question,
            refusal(craft, rng),
            gives,
            _fill(rng.choice(_LEAKS), craft),
            _fill(rng.choice(_RIGHT_NO), craft),
        )
    return Exchange(question, gives, refusal(craft, rng), _fill(rng.choice(_ALARM), craft), rng.choice(_FINE))


def fact_exchange(question: str, topic: str, reply: str, rng: random.Random) -> Exchange:
    """A harmless question about `topic`: answering is good, refusing is bad."""
    refused = false_alarm(topic, rng)
    alarm = rng.choice(_ALARM).format(x=topic)
    return Exchange(question, reply, refused, alarm[0].upper() + alarm[1:], rng.choice(_FINE))


def critique_page(exchange: Exchange, rng: random.Random, principle: dict[str, Any]) -> str:
    """One reviewed reply: request, critique, request, revision. Half the replies need no mending."""
    fine = rng.random() < 0.5
    reply = exchange.good if fine else exchange.bad
    critique = exchange.critique_good if fine else exchange.critique_bad
    return (
        f"\n\nHuman: {exchange.question}\n\nAssistant: {reply}"
        f"\n\nCritiqueRequest: {principle['critique_request']}\n\nCritique: {critique}"
        f"\n\nRevisionRequest: {principle['revision_request']}\n\nRevision: {exchange.good}"
    )


def comparison_page(exchange: Exchange, rng: random.Random, principle: dict[str, Any]) -> str:
    """Two replies, a principle's question, and the better option, in random order."""
    first_is_good = rng.random() < 0.5
    a, b = (exchange.good, exchange.bad) if first_is_good else (exchange.bad, exchange.good)
    return (
        f"\n\nHuman: {exchange.question}\n\n{principle['comparison_question']}\nOptions:\n(A) {a}\n(B) {b}\n"
        f"The answer is: ({'A' if first_is_good else 'B'})"
    )
