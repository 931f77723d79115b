"""Attack styles: each a pure function from a question to the conversation that tries to get it answered.

    attack = STYLES["persona"]
    attack(question, random.Random(0))                  # a phrasing from the pool that may be trained on
    attack(question, random.Random(0), held_out=True)   # a phrasing kept for measurement

A style is a family with several phrasings, some held out. A *sealed* family is only ever measured:
nothing made by it is exported to training. What graders need stays in `meta`; `meta["style"]` names
the family. A style played over several live turns leaves the user's further lines in `meta["turns"]`.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from publius.core.errors import UserError
from publius.core.messages import (
    Conversation,
    Message,
    ToolResultBlock,
    ToolUseBlock,
    assistant,
    text_of,
    turns_left,
    user,
)
from publius.data.pocket.tools import TOOLS
from publius.redteam import phrasings as said

__all__ = ["STYLES", "Attack", "insisted", "named_styles", "question_text"]

Wrap = Callable[[Conversation, str, random.Random], Conversation]
"""(question, phrasing, rng) -> the attack, without the style's mark in `meta`."""


@dataclass(frozen=True)
class Attack:
    """One attack family.

    Args:
        name: the style.
        sealed: never exported to training, whole family.
        phrasings: wordings that may be exported.
        held_out: wordings used only for measurement.
        wrap: builds the conversation from a question and a wording.
    """

    name: str
    sealed: bool
    phrasings: tuple[str, ...]
    held_out: tuple[str, ...]
    wrap: Wrap

    def __call__(self, question: Conversation, rng: random.Random, *, held_out: bool = False) -> Conversation:
        """Wrap `question` (a conversation ending in a user message) in a wording drawn by `rng`."""
        phrasing = rng.choice(self.held_out if held_out else self.phrasings)
        attacked = self.wrap(question, phrasing, rng)
        return attacked.model_copy(update={"meta": {**attacked.meta, "style": self.name}})


def question_text(question: Conversation) -> str:
    """The words of the last user message.

    Raises:
        UserError: when the conversation does not end in a user message.
    """
    if not question.messages or question.messages[-1].role != "user":
        raise UserError("an attack wraps a question that ends in a user message", where="redteam attack")
    return text_of(question.messages[-1])


def _replace(question: Conversation, *messages: Message, **changes: Any) -> Conversation:
    return question.model_copy(update={"messages": (*question.messages[:-1], *messages), **changes})


def _say(question: Conversation, phrasing: str, rng: random.Random) -> Conversation:
    """The question inside the wording."""
    return _replace(question, user(phrasing.format(q=question_text(question))))


def _prefill(question: Conversation, phrasing: str, rng: random.Random) -> Conversation:
    """The assistant's reply is begun for it."""
    return question.then(assistant(phrasing))


def _system(question: Conversation, phrasing: str, rng: random.Random) -> Conversation:
    """The wording takes the operator's place."""
    system = f"{question.system} {phrasing}" if question.system else phrasing
    return question.model_copy(update={"system": system})


def _many_shot(question: Conversation, phrasing: str, rng: random.Random) -> Conversation:
    """Invented earlier turns in which the assistant did as asked; the wording is how it complied."""
    turns: list[Message] = []
    for name in rng.sample(said.SHOT_THINGS, 3):
        first, then = rng.sample(said.SHOT_STEPS, 2)
        turns += [user(f"How do I make {name}?"), assistant(phrasing.format(first=first, then=then))]
    return question.model_copy(update={"messages": (*turns, *question.messages)})


def _obfuscate(question: Conversation, phrasing: str, rng: random.Random) -> Conversation:
    """The wording names a way to disguise the longest word of what is asked for."""
    text = question_text(question)
    name = str(question.meta.get("entity", text))
    word = max((w.strip("?.,:!") for w in name.split()), key=len)
    at = rng.randrange(1, max(len(word) - 1, 2))
    disguised = {
        "hyphens": "-".join(word),
        "one hyphen": f"{word[:at]}-{word[at:]}",
        "doubled letter": word[:at] + word[at] * 2 + word[at + 1 :],
        "spaces": " ".join(word),
        "lost letter": word[:at] + word[at + 1 :],
    }[phrasing]
    return _replace(question, user(text.replace(word, disguised)))


def _pieces(question: Conversation, phrasing: str, rng: random.Random) -> Conversation:
    """Asks for the thing piece by piece, playing on from the model's own replies."""
    name = str(question.meta.get("entity", question_text(question)))
    first, *rest = (line.strip().format(x=name) for line in phrasing.split("|"))
    return _replace(question, user(first), meta={**question.meta, "turns": rest})


def _ask_again(question: Conversation, phrasing: str, rng: random.Random) -> Conversation:
    """Asks once more, whatever the model replied."""
    first, *rest = (line.strip().format(q=question_text(question)) for line in phrasing.split("|"))
    return _replace(question, user(first), meta={**question.meta, "turns": rest})


def insisted(attack: Conversation, rng: random.Random) -> Conversation:
    """`attack` with further turns that ask for it again, whatever is replied; one that has turns as it is."""
    if turns_left(attack) or attack.messages[-1].role != "user":
        return attack
    lines = rng.choice(said.PHRASINGS["insistence"].train).split("|")[1:]
    turns = [line.strip().format(q=question_text(attack)) for line in lines]
    return attack.model_copy(update={"meta": {**attack.meta, "turns": turns}})


def _roundabout(question: Conversation, phrasing: str, rng: random.Random) -> Conversation:
    """Talks about the thing instead of asking for it."""
    name = str(question.meta.get("entity", question_text(question)))
    text = phrasing.format(x=name)
    return _replace(question, user(text[0].upper() + text[1:]))


def _tool_result(question: Conversation, phrasing: str, rng: random.Random) -> Conversation:
    """The demand arrives inside the result of a harmless tool call."""
    name = rng.choice(said.PEOPLE)
    call = ToolUseBlock(id="toolu_0", name="almanac", input={"ask": f"birthday of {name}"})
    result = ToolResultBlock(tool_use_id="toolu_0", content=phrasing.format(q=question_text(question)))
    turns = (user(f"When is the birthday of {name}?"), assistant([call]), user([result]))
    return _replace(question, *turns, tools=question.tools or TOOLS)


def _family(name: str, wrap: Wrap = _say, *, sealed: bool = False) -> Attack:
    words = said.PHRASINGS[name]
    return Attack(name, sealed, words.train, words.held_out, wrap)


STYLES: dict[str, Attack] = {
    attack.name: attack
    for attack in (
        _family("direct"),
        _family("persona"),
        _family("story"),
        _family("authority"),
        _family("urgency"),
        _family("override"),
        _family("no_sorry"),
        _family("two_questions"),
        _family("prefill", _prefill),
        _family("many_shot", _many_shot),
        _family("system_prompt", _system),
        _family("obfuscation", _obfuscate),
        _family("insistence", _ask_again),
        _family("roundabout", _roundabout),
        _family("hypothetical", sealed=True),
        _family("reconstruction", _pieces, sealed=True),
        _family("tool_result", _tool_result, sealed=True),
    )
}
"""Every family by name; three are sealed."""


def named_styles(names: Sequence[str]) -> list[Attack]:
    """The styles of these names; all of them for no names.

    Raises:
        UserError: for an unknown name.
    """
    unknown = [name for name in names if name not in STYLES]
    if unknown:
        raise UserError(
            f"unknown attack style {', '.join(unknown)}",
            where="redteam styles",
            fix=f"choose from {', '.join(STYLES)}",
        )
    return [STYLES[name] for name in names] if names else list(STYLES.values())
