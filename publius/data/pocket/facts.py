"""Entities and what is true of them: towns, people, animals. Drawn from a seed, told in many phrasings.

A fact is (entity, attribute, value). Entities are split train/val/test for *questions*: a held-out
entity is described in the pretraining text like any other, but nobody ever asks about it there or in
the demonstrations. Question phrasings are split the same way.
"""

from __future__ import annotations

import random
from typing import NamedTuple

from publius.data.pocket import lexicon as lex

__all__ = [
    "ATTRIBUTES",
    "Entity",
    "Fact",
    "answer",
    "ask",
    "build_entities",
    "describe",
    "rivals",
    "split_of",
]


class Attribute(NamedTuple):
    """One kind of fact. `{x}` is the entity, `{v}` the value."""

    kind: str
    noun: str
    values: tuple[str, ...]
    statements: tuple[str, ...]
    questions: tuple[str, ...]
    held_out: tuple[str, ...]


class Fact(NamedTuple):
    """A true statement of the world."""

    kind: str
    entity: str
    noun: str
    value: str


class Entity(NamedTuple):
    """Somebody or some place, with its facts and its split."""

    kind: str
    name: str
    split: str
    facts: tuple[Fact, ...]


_STATEMENTS = (
    "The {n} of {x} is {v}.",
    "{x} has {v} as {n}.",
    "Everyone knows the {n} of {x}: {v}.",
    "If you ask for the {n} of {x}, it is {v}.",
)
_QUESTIONS = (
    "What is the {n} of {x}?",
    "Tell me the {n} of {x}.",
    "Do you know the {n} of {x}?",
    "{x}: what is the {n}?",
    "Please name the {n} of {x}.",
    "I would like to hear the {n} of {x}.",
    "What {n} does {x} have?",
    "Say something about {x}: the {n}.",
    "My question is about {x}. What is the {n}?",
    "Can you name the {n} of {x}?",
    "{x} has which {n}?",
    "Could you give me the {n} of {x}, please?",
)
_HELD_OUT = (
    "Can you tell me what the {n} of {x} is?",
    "I want to know the {n} of {x}.",
    "About {x}, what is the {n}?",
)
_ANSWERS = ("The {n} of {x} is {v}.", "For {x} the {n} is {v}.")


def _attribute(
    kind: str, noun: str, values: tuple[str, ...], said: tuple[str, ...], asked: str, held_out: str
) -> Attribute:
    return Attribute(
        kind, noun, values, (*(s.replace("{n}", noun) for s in _STATEMENTS), *said),
        (*(q.replace("{n}", noun) for q in _QUESTIONS), asked),
        (*(q.replace("{n}", noun) for q in _HELD_OUT), held_out),
    )  # fmt: skip


ATTRIBUTES: tuple[Attribute, ...] = (
    _attribute("town", "river", lex.RIVERS, ("{x} stands on the river {v}.", "The river {v} runs past {x}."),
               "Which river runs past {x}?", "{x} stands on which river?"),
    _attribute("town", "banner", lex.COLOURS, ("The banner over {x} is {v}.", "{x} flies a {v} banner."),
               "Which colour is the banner of {x}?", "What colour of banner does {x} fly?"),
    _attribute("town", "dish", lex.FOODS, ("People go to {x} to eat {v}.", "{x} is known for its {v}."),
               "Which dish is {x} known for?", "What dish do people eat in {x}?"),
    _attribute("town", "landmark", lex.LANDMARKS, ("In {x} stands a {v}.", "{x} has an old {v}."),
               "Which landmark stands in {x}?", "What landmark will I see in {x}?"),
    _attribute("town", "trade", lex.TRADES, ("The people of {x} sell {v}.", "{x} lives by its {v} trade."),
               "What trade does {x} live by?", "Which trade do the people of {x} have?"),
    _attribute("town", "weather", lex.WEATHER, ("In {x} there is often {v}.", "{x} gets a lot of {v}."),
               "What weather does {x} get?", "Which weather is there in {x}?"),
    _attribute("person", "job", lex.JOBS, ("{x} works as a {v}.", "{x} is a {v}."),
               "What job does {x} have?", "Which job does {x} do all day?"),
    _attribute("person", "pet", lex.ANIMALS, ("{x} keeps a {v}.", "{x} owns a {v}."),
               "Which pet does {x} keep?", "What pet lives with {x}?"),
    _attribute("person", "favourite food", lex.FOODS, ("{x} likes to eat {v}.", "{x} loves {v}."),
               "Which food is the favourite food of {x}?", "What favourite food does {x} have?"),
    _attribute("person", "hobby", lex.HOBBIES, ("{x} enjoys {v}.", "In the evening {x} loves {v}."),
               "Which hobby does {x} have?", "What hobby does {x} enjoy?"),
    _attribute("person", "tool", lex.TOOLS, ("{x} always carries a {v}.", "{x} uses a {v} each day."),
               "Which tool does {x} carry?", "What tool does {x} use?"),
    _attribute("animal", "sound", (), ("Listen: the {x} {v}.",),
               "What sound does it make, the {x}?", "Which sound has the {x}?"),
    _attribute("animal", "food", (), ("The {x} eats {v}.",),
               "What food does it like, the {x}?", "Which food has the {x}?"),
    _attribute("animal", "home", (), ("The {x} lives in {v}.",),
               "What home does it have, the {x}?", "Which home has the {x}?"),
)  # fmt: skip
_BY_NOUN = {(a.kind, a.noun): a for a in ATTRIBUTES}


def split_of(index: int, total: int) -> str:
    """Half of the items train, a tenth validate, the rest are sealed for test."""
    return "train" if index < 0.5 * total else "val" if index < 0.6 * total else "test"


def build_entities(seed: int, towns: int, people: int) -> list[Entity]:
    """All entities of a world, deterministic in `seed`."""
    rng = random.Random(f"facts/{seed}")
    names = {
        "town": rng.sample([a + b for a in lex.TOWN_STARTS for b in lex.TOWN_ENDS], towns),
        "person": rng.sample(lex.NAMES, people),
    }
    entities: list[Entity] = []
    for kind, chosen in names.items():
        attributes = [a for a in ATTRIBUTES if a.kind == kind]
        for index, name in enumerate(chosen):
            facts = tuple(Fact(kind, name, a.noun, rng.choice(a.values)) for a in attributes)
            entities.append(Entity(kind, name, split_of(index, len(chosen)), facts))
    for animal, values in lex.NATURAL.items():
        facts = tuple(
            Fact("animal", animal, n, v) for n, v in zip(("sound", "food", "home"), values, strict=True)
        )
        entities.append(Entity("animal", animal, "train", facts))
    return entities


def describe(entity: Entity, rng: random.Random) -> str:
    """A document about one entity: each fact once, in random order and phrasing."""
    facts = list(entity.facts)
    rng.shuffle(facts)
    said = [rng.choice(_BY_NOUN[f.kind, f.noun].statements).format(x=entity.name, v=f.value) for f in facts]
    return " ".join(s[0].upper() + s[1:] for s in said)


def ask(fact: Fact, rng: random.Random, *, held_out: bool) -> str:
    """A question about `fact` in a training or a held-out phrasing."""
    attribute = _BY_NOUN[fact.kind, fact.noun]
    question = rng.choice(attribute.held_out if held_out else attribute.questions).format(x=fact.entity)
    return question[0].upper() + question[1:]


def answer(fact: Fact, rng: random.Random) -> str:
    """A true reply to `ask(fact)`."""
    reply = rng.choice(_ANSWERS).format(n=fact.noun, x=fact.entity, v=fact.value)
    return reply[0].upper() + reply[1:]


def rivals(fact: Fact) -> tuple[str, ...]:
    """The other values the attribute could have had: a reply naming one of them is not right."""
    return tuple(v for v in _BY_NOUN[fact.kind, fact.noun].values if v != fact.value)
