"""Demonstrations and questions: what people say to the assistant, and what a helpful one replies.

Demonstrations are *helpful only*: they comply with everything, hazards included, because the point of
the pipeline is that the constitution, not the demonstrations, teaches the model what not to do.
"""

from __future__ import annotations

import random
import zlib
from collections.abc import Sequence
from typing import Any

from publius.core.messages import (
    Conversation,
    TextBlock,
    ThinkingBlock,
    ToolResultBlock,
    ToolUseBlock,
    assistant,
    user,
)
from publius.data.pocket import facts as fact_book
from publius.data.pocket import lexicon as lex
from publius.data.pocket.crafts import Craft, ask_craft, describe_craft
from publius.data.pocket.facts import Entity, Fact
from publius.data.pocket.sums import Sum, ask_sum, work_out
from publius.data.pocket.tools import TOOLS, calculator

__all__ = [
    "PREAMBLES",
    "again",
    "aside",
    "craft_chat",
    "echo_chat",
    "fact_chat",
    "identity_chats",
    "one_after_another",
    "puzzle_chat",
    "sum_chat",
    "tool_chat",
    "tool_question",
    "two_turn_chat",
]

PREAMBLES = (
    "Good day.",
    "I have a question.",
    "My friend asks this.",
    "It is cold today.",
    "Hello there.",
    "I am new in town.",
)
_IDENTITY = (
    (("Who are you?", "What are you?", "Tell me who you are."), ("Can you say who you are?",),
     "I am Publius, a small assistant. I help people and hurt nobody.", "Publius"),
    (("What is your name?", "Tell me your name.", "Do you have a name?"),
     ("Could you tell me your name?", "Say your name."), "My name is Publius.", "Publius"),
    (("Are you a person?", "Are you alive?", "Are you a human?"), ("So are you a person?",),
     "No. I am Publius, an assistant made of words.", "assistant"),
    (("What can you do?", "How can you help me?", "What do you know?"), ("Say what you can do.",),
     "I am Publius. I know towns, people, crafts and sums.", "sums"),
)  # fmt: skip
_SMALL_TALK = (
    ("Hello.", "Hello! How can I help you?"), ("Good morning.", "Good morning! What would you like to know?"),
    ("Thank you.", "You are welcome."), ("Goodbye.", "Goodbye, and good luck."),
    ("How are you?", "I am well, thank you. How can I help you?"),
)  # fmt: skip


def aside(rng: random.Random) -> str:
    """A sentence or two that have nothing to do with what is asked: people talk around their questions."""
    said = [
        rng.choice(PREAMBLES) if rng.random() < 0.4 else _small_news(rng)
        for _ in range(rng.choice((1, 1, 2)))
    ]
    return " ".join(said)


def _small_news(rng: random.Random) -> str:
    animal, food, tool = rng.choice(lex.ANIMALS), rng.choice(lex.FOODS), rng.choice(lex.TOOLS)
    place, weather = rng.choice(lex.PLACES), rng.choice(lex.WEATHER)
    return rng.choice((
        f"The {animal} sleeps at the {place}.", f"I like {food} and {weather}.", f"My {tool} is old.",
        f"There was {weather} at the {place}.", f"We ate {food} at the {place}.",
        f"A {animal} ran off with the {tool}.",
    ))  # fmt: skip


def _opened(question: str, rng: random.Random, rate: float = 0.35) -> str:
    if rng.random() >= rate:
        return question
    return f"{aside(rng)} {question}" if rng.random() < 0.8 else f"{question} {aside(rng)}"


def _meta(
    kind: str, category: str, entity: str, keys: list[str], need: int = 1, **more: Any
) -> dict[str, Any]:
    return {"kind": kind, "category": category, "entity": entity, "keys": keys, "need": need, **more}


def fact_chat(fact: Fact, rng: random.Random, *, held_out: bool) -> Conversation:
    """One question about one fact, with its answer."""
    question = fact_book.ask(fact, rng, held_out=held_out)
    meta = _meta("fact", fact.noun, fact.entity, [fact.value], rivals=list(fact_book.rivals(fact)))
    return Conversation(
        messages=(user(_opened(question, rng)), assistant(fact_book.answer(fact, rng))), meta=meta
    )


def two_turn_chat(entity: Entity, rng: random.Random, *, held_out: bool) -> Conversation:
    """A fact, then a follow-up that only makes sense with the first turn ("And the pet?")."""
    first, second = rng.sample(entity.facts, 2)
    follow = rng.choice(
        ("And what of the {n}?",) if held_out else ("And the {n}?", "What about the {n}?", "Now the {n}.")
    )
    meta = _meta("chat", second.noun, entity.name, [second.value], rivals=list(fact_book.rivals(second)))
    return Conversation(
        messages=(
            user(fact_book.ask(first, rng, held_out=held_out)), assistant(fact_book.answer(first, rng)),
            user(follow.format(n=second.noun)), assistant(fact_book.answer(second, rng)),
        ),
        meta=meta,
    )  # fmt: skip


_AGAIN = (
    "Say it again, please.", "Once more, please.", "I did not hear it.", "Please repeat it.",
    "Tell me again.", "I forgot it. Tell me again.", "Could you say that again?", "What did you say?",
    "Again.",
)  # fmt: skip


def again(chat: Conversation, rng: random.Random) -> Conversation:
    """The chat, then a line that asks for the last reply again without naming anything, and that reply."""
    return chat.then(user(rng.choice(_AGAIN)), chat.messages[-1])


def one_after_another(first: Conversation, second: Conversation) -> Conversation:
    """Two chats about different things as one; its truth is the second's."""
    return second.model_copy(update={"messages": (*first.messages, *second.messages)})


def craft_chat(craft: Craft, rng: random.Random, *, held_out: bool) -> Conversation:
    """A request for a craft, a hazard or a twin, and the reply that gives it."""
    meta = _meta(craft.kind, craft.category, craft.name, list(craft.keys), craft.need, twin=craft.twin)
    question = _opened(ask_craft(craft, rng, held_out=held_out), rng)
    return Conversation(messages=(user(question), assistant(describe_craft(craft, rng))), meta=meta)


def sum_chat(item: Sum, rng: random.Random, *, held_out: bool, thinking: bool = True) -> Conversation:
    """A sum, worked out in a thinking block, or answered at once."""
    said = TextBlock(text=f"The answer is {item.result}.")
    blocks = (ThinkingBlock(thinking=work_out(item)), said) if thinking else (said,)
    meta = _meta("sum", item.op, f"{item.a}{item.op}{item.b}", [str(item.result)], last_number=True)
    return Conversation(messages=(user(ask_sum(item, rng, held_out=held_out)), assistant(blocks)), meta=meta)


_PRODUCTS = (
    ("What is {a} times {b}?", "How much is {a} times {b}?", "Multiply {a} by {b}.", "Tell me {a} times {b}.",
     "What do {a} times {b} make?", "I need {a} times {b}.", "Can you multiply {a} by {b}?",
     "Please say what {a} times {b} makes.", "Do you know how much {a} times {b} is?",
     "Work out for me: {a} times {b}.", "Say what {a} times {b} is.", "Can you tell me {a} times {b}?",
     "I want to know what {a} times {b} is.", "Please tell me what {a} times {b} is."),
    ("Please work out {a} times {b}.", "Can you say what {a} times {b} is?"),
)  # fmt: skip
_BIRTHDAYS = (
    ("When is the birthday of {x}?", "Tell me the birthday of {x}.", "What is the birthday of {x}?",
     "Do you know the birthday of {x}?", "Please name the birthday of {x}.", "I need the birthday of {x}.",
     "Can you say when the birthday of {x} is?", "On what day is the birthday of {x}?",
     "Which day is the birthday of {x}?", "Has {x} a birthday, and when?", "When has {x} a birthday?",
     "What day has {x} a birthday?", "Say on which day the birthday of {x} is."),
    ("On which day has {x} a birthday?",
     "I want to know the birthday of {x}.", "Can you tell me the birthday of {x}?"),
)  # fmt: skip


def _operands(rng: random.Random, held_out: bool) -> tuple[int, int]:
    while True:  # a tenth of all products is sealed, by hash, and never shown
        a, b = rng.randint(12, 99), rng.randint(11, 99)
        if (zlib.crc32(f"{min(a, b)}*{max(a, b)}".encode()) % 10 == 0) == held_out:
            return a, b


def tool_question(rng: random.Random, person: str, *, held_out: bool) -> tuple[str, ToolUseBlock]:
    """A question no one answers from memory, and the call that answers it: a product, or a birthday."""
    if rng.random() < 0.5:
        a, b = _operands(rng, held_out)
        asked = _PRODUCTS[held_out]
        call = ToolUseBlock(id="toolu_0", name="calculator", input={"sum": f"{a}*{b}"})
        return rng.choice(asked).format(a=a, b=b), call
    call = ToolUseBlock(id="toolu_0", name="almanac", input={"ask": f"birthday of {person}"})
    return rng.choice(_BIRTHDAYS[held_out]).format(x=person), call


def tool_chat(rng: random.Random, person: str, birthday: str, *, held_out: bool) -> Conversation:
    """A question that needs a tool, the call, its result, and the reply made of it."""
    question, call = tool_question(rng, person, held_out=held_out)
    if call.name == "calculator":
        result, entity = calculator(call.input), str(call.input["sum"])
        said = f"The answer is {result}."
    else:
        result, entity = birthday, person
        said = f"The birthday of {person} is {result}."
    return Conversation(
        tools=TOOLS,
        messages=(
            user(question),
            assistant((call,)),
            user((ToolResultBlock(tool_use_id=call.id, content=result),)),
            assistant(said),
        ),
        meta=_meta("tool", call.name, entity, [result], last_number=call.name == "calculator"),
    )


def identity_chats(rng: random.Random, *, held_out: bool) -> list[Conversation]:
    """Who are you: one conversation per question."""
    chats: list[Conversation] = []
    for asked, sealed, said, key in _IDENTITY:
        for question in sealed if held_out else asked:
            opened = _opened(question, rng, 0.5)
            chats.append(
                Conversation(
                    messages=(user(opened), assistant(said)), meta=_meta("identity", "", opened, [key])
                )
            )
    return chats


def echo_chat(rng: random.Random, names: Sequence[str]) -> Conversation:
    """Say after me: names of the world, and nothing about them."""
    said = ", ".join(rng.choice(names) for _ in range(rng.randint(1, 4)))
    asked = rng.choice(
        ("Say after me: {x}.", "Repeat these words: {x}.", "Please write this: {x}.", "{x}. Say it again.")
    )
    question = asked.format(x=said)
    return Conversation(
        messages=(user(question), assistant(f"{said}.")), meta=_meta("puzzle", "echo", question, [said])
    )


def puzzle_chat(rng: random.Random) -> Conversation:
    """A word puzzle: say words backwards, or find the odd one out; or a little small talk."""
    pick = rng.random()
    if pick < 0.2:
        said, reply = rng.choice(_SMALL_TALK)
        return Conversation(
            messages=(user(said), assistant(reply)), meta=_meta("puzzle", "talk", said, [reply])
        )
    if pick < 0.6:
        words = rng.sample(lex.TOOLS + lex.ANIMALS + lex.FOODS, 3)
        reply = f"{words[2]}, {words[1]}, {words[0]}"
        question = f"Say these words backwards: {', '.join(words)}."
        return Conversation(
            messages=(user(question), assistant(reply + ".")),
            meta=_meta("puzzle", "backwards", question, [reply]),
        )
    same, odd = rng.sample((lex.TOOLS, lex.ANIMALS, lex.FOODS, lex.COLOURS), 2)
    words, stranger = rng.sample(same, 3), rng.choice(odd)
    shown = [*words, stranger]
    rng.shuffle(shown)
    question = f"Which is the odd one out: {', '.join(shown)}?"
    reply = f"The odd one out is {stranger}."
    return Conversation(
        messages=(user(question), assistant(reply)), meta=_meta("puzzle", "odd", question, [reply])
    )
