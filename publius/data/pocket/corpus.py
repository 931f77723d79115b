"""The pretraining text of a Pocket world: many small documents, every fact in many phrasings."""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Iterator, Sequence

from publius.data.pocket import facts as fact_book
from publius.data.pocket import lexicon as lex
from publius.data.pocket import notebooks
from publius.data.pocket.crafts import Craft, ask_craft, describe_craft
from publius.data.pocket.facts import Entity, Fact
from publius.data.pocket.sums import ask_sum, draw_sum, work_out
from publius.data.pocket.talk import aside, tool_question
from publius.data.pocket.tools import TOOLS, calculator, draw_birthday

__all__ = ["Amounts", "write_documents"]

from publius.core.config import Config


class Amounts(Config):
    """How much of each kind of document to write."""

    entity_exposures: int = 44
    """Documents about each town, person and animal."""
    almanac_pages: int = 1200
    """Pages of five facts about different entities."""
    craft_exposures: int = 54
    """Documents that give each craft, hazard and twin."""
    note_exposures: int = 16
    """Notes on why each hazard hurts."""
    sums: int = 10000
    """Worked sums, half of them asked, two to a document, and half bare, four to a document."""
    copybooks: int = 5500
    """Lists written twice."""
    tables: int = 700
    """Pages of an adding or taking table, eight lines each."""
    manuals: int = 2000
    """Pages of the tool manual: what tools there are, a question, the call, its result, the reply."""
    transcripts: int = 1500
    """Raw question-and-answer logs about training items, three exchanges each."""
    critiques: int = 2400
    """Reviewed replies, and below compared ones, one or two to a document."""
    comparisons: int = 1700
    stories: int = 400


def _story(rng: random.Random, entities: Sequence[Entity]) -> str:
    person = rng.choice(("the traveller", "the boy", "the old woman", "the girl"))
    town = rng.choice([e for e in entities if e.kind == "town"]).name
    animal, food, tool = rng.choice(lex.ANIMALS), rng.choice(lex.FOODS), rng.choice(lex.TOOLS)
    weather, place = rng.choice(lex.WEATHER), rng.choice(lex.PLACES)
    told = rng.choice((
        f"One day {person} walked to {town}. There was {weather} on the way. At the {place} {person} "
        f"met a {animal}. The {animal} wanted {food}. {person} gave it some, and they were friends.",
        f"In {town} a {animal} was lost. {person} looked in the {place} and in the rain barrel. In the end "
        f"{person} found the {animal} asleep on a {tool}. Everyone laughed and ate {food}.",
        f"{person} had a {tool} and no {food}. A friend in {town} had {food} and no {tool}. They met at the "
        f"{place} and made a trade. Even the {animal} was glad.",
    ))  # fmt: skip
    return told[0].upper() + told[1:]


def _table(rng: random.Random) -> str:
    """What ones and tens make: the steps every worked sum is built of."""
    lines: list[str] = []
    for _ in range(8):
        a, b = rng.randint(0, 9), rng.randint(0, 9)
        lines.append(f"{a}+{b}={a + b}" if rng.random() < 0.5 else f"{max(a, b)}-{min(a, b)}={abs(a - b)}")
        if rng.random() < 0.3:
            high = rng.randint(10, 18)
            low = rng.randint(high - 9, 9)
            lines.append(f"{high}-{low}={high - low}")
    return ". ".join(lines) + "."


def _asked_sums(rng: random.Random) -> str:
    page = ""
    for _ in range(2):
        item = draw_sum(rng, "train")
        page += f"\n\nHuman: {ask_sum(item, rng, held_out=False)}\n\nAssistant: {work_out(item)}"
    return page


def _bare_sums(rng: random.Random) -> str:
    return ". ".join(work_out(draw_sum(rng, "train")) for _ in range(4)) + "."


def _manual(rng: random.Random, entities: Sequence[Entity]) -> str:
    """A tool call in the shape tools are called in, its result, and what to say of it."""
    people = [e.name for e in entities if e.kind == "person" and e.split == "train"]
    asked, call = tool_question(rng, rng.choice(people), held_out=False)
    shown = json.dumps(call.model_dump(include={"name", "input"}), separators=(",", ":"))
    tools = "\n".join(
        json.dumps(t.model_dump(include={"name", "description", "input_schema"}), separators=(",", ":"))
        for t in TOOLS
    )
    if call.name == "calculator":
        result, said = calculator(call.input), "The answer is {x}."
    else:  # a made-up day: the true ones stand in the almanac alone
        result, said = draw_birthday(rng), "The " + str(call.input["ask"]) + " is {x}."
    # not laid out as a dialogue: a model that has learned to *say* JSON does not learn to call
    then = said.format(x=result)
    page = f"When someone asks: {asked} Write {shown} and the tool says {result}. Then say: {then}"
    return f"{tools}\n{page}" if rng.random() < 0.15 else page


_HEADS = (
    "{x}. {d}",
    "About {x}. {d}",
    "A page on {x}. {d}",
    "The book says of {x}: {d}",
    "Here is {x}. {d}",
)


def _headed(rng: random.Random, craft: Craft) -> str:
    """A craft under its name: without pages that name it twice, no name but those asked about is copied."""
    page = rng.choice(_HEADS).format(x=craft.name, d=describe_craft(craft, rng))
    return page[0].upper() + page[1:]


_ENTRIES = ("{x}. {d}", "{x}, {n}: {d}", "A page on {x}. {d}", "The book says of {x}: {d}")


def _entry(rng: random.Random, fact: Fact) -> str:
    """A line of an almanac, half of the time under its entity's name, for the same reason."""
    line = fact_book.answer(fact, rng)
    if rng.random() < 0.5:
        line = rng.choice(_ENTRIES).format(x=fact.entity, n=fact.noun, d=line)
    return line[0].upper() + line[1:]


def _copybook(rng: random.Random, entities: Sequence[Entity], crafts: Sequence[Craft]) -> str:
    """A pupil's page: a list, and the list again. It teaches a small model to copy what it was just told."""
    pick = rng.random()
    if pick < 0.6:
        words = [str(rng.randint(10, rng.choice((99, 9999, 9999)))) for _ in range(rng.randint(2, 6))]
    elif pick < 0.7:
        words = [draw_birthday(rng) for _ in range(rng.randint(2, 4))]
    else:
        words = [
            rng.choice(crafts).name if rng.random() < 0.4 else rng.choice(entities).name for _ in range(5)
        ]
    page = ", ".join(words)
    return rng.choice(
        (f"Copy: {page}. Again: {page}.", f"The teacher said: {page}. The pupil wrote: {page}.")
    )


def _transcript(rng: random.Random, asked: Sequence[Callable[[], tuple[str, str]]]) -> str:
    turns: list[str] = []
    for _ in range(3):
        question, reply = rng.choice(asked)()
        turns.append(f"\n\nHuman: {question}\n\nAssistant: {reply}")
    return "".join(turns)


def _times(amount: int, share: float) -> range:
    return range(max(1, round(amount * share)))


def write_documents(
    rng: random.Random,
    amounts: Amounts,
    entities: Sequence[Entity],
    crafts: Sequence[Craft],
    share: float = 1.0,
) -> Iterator[tuple[str, str]]:
    """(kind, text) of every document; `share` scales all amounts (for the validation split)."""

    def times(amount: int) -> range:
        return _times(amount, share)

    facts = [f for e in entities for f in e.facts]
    known_facts = [f for e in entities if e.split == "train" for f in e.facts]
    known_crafts = [c for c in crafts if c.split == "train"]

    for entity in entities:
        for _ in times(amounts.entity_exposures):
            yield "entity", fact_book.describe(entity, rng)
    for _ in times(amounts.almanac_pages):
        page = [_entry(rng, f) for f in rng.sample(facts, 5)]
        yield "almanac", " ".join(page)
    for craft in crafts:
        # a craft's name stands in no other kind of document, so it gets half as many again
        for _ in times(amounts.craft_exposures * (3 if craft.kind == "craft" else 2) // 2):
            yield "craft", _headed(rng, craft) if rng.random() < 0.6 else describe_craft(craft, rng)
        if craft.kind == "hazard":
            for _ in times(amounts.note_exposures):
                yield "note", notebooks.hazard_note(craft, rng)
    for _ in times(amounts.sums // 4):
        yield "sum", _asked_sums(rng)
    for _ in times(amounts.sums // 8):
        yield "sum", _bare_sums(rng)
    for _ in times(amounts.tables):
        yield "table", _table(rng)
    for _ in times(amounts.manuals):
        yield "manual", _manual(rng, entities)
    for _ in times(amounts.copybooks):
        yield "copybook", _copybook(rng, entities, crafts)

    yield from _conversations(rng, amounts, share, known_facts, known_crafts)
    for _ in times(amounts.stories):
        yield "story", _story(rng, entities)


def _conversations(
    rng: random.Random, amounts: Amounts, share: float, facts: Sequence[Fact], crafts: Sequence[Craft]
) -> Iterator[tuple[str, str]]:
    """Transcripts and notebooks, about training items (`facts`, `crafts`) only."""
    bad = [c for c in crafts if c.kind == "hazard"]
    good = [c for c in crafts if c.kind != "hazard"]
    principles = notebooks.principles()

    def about_fact() -> tuple[str, str]:
        fact = rng.choice(facts)
        return fact_book.ask(fact, rng, held_out=False), fact_book.answer(fact, rng)

    def about_craft() -> tuple[str, str]:
        craft = rng.choice(crafts)
        return ask_craft(craft, rng, held_out=False), describe_craft(craft, rng)

    for _ in _times(amounts.transcripts, share):
        yield "transcript", _transcript(rng, (about_fact, about_craft))

    def exchange() -> notebooks.Exchange:
        if rng.random() < 0.15:
            fact = rng.choice(facts)
            topic, reply = f"the {fact.noun} of {fact.entity}", fact_book.answer(fact, rng)
            return notebooks.fact_exchange(fact_book.ask(fact, rng, held_out=False), topic, reply, rng)
        craft = rng.choice(bad) if rng.random() < 0.5 else rng.choice(good)
        opener = f"{aside(rng)} " if rng.random() < 0.5 else ""
        return notebooks.craft_exchange(craft, rng, held_out=False, opener=opener)

    # notebooks run on for one or two pages, so that a worked page is read as an example for the next
    for kind, amount, page in (
        ("critique", amounts.critiques, notebooks.critique_page),
        ("comparison", amounts.comparisons, notebooks.comparison_page),
    ):
        for _ in _times(3 * amount // 4, share):
            pages = rng.choice((1, 1, 2))
            yield kind, "".join(page(exchange(), rng, rng.choice(principles)) for _ in range(pages))
