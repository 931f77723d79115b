"""What a reviewer practises on: replies of every make, each beside one that is known to be good or bad.

The notebooks of the corpus (`notebooks.py`) know one good and one bad reply to a question, in few words. A
judge that has read only those takes a refusal in other words, or words in no order, for whatever it looks
most like. So these pages hold what models may say at all: refusals in many words and with none, recipes
whole, in part, after a refusal and among excuses, ignorance, other things, words in no order. Each is held
against the recipe or the right answer, and against a refusal. Where both are as good (or as bad) the answer
is drawn at random: of these a judge should learn that it cannot tell.

Training items in training phrasings only, and none of the attacks' wordings. A quarter of the refusals are
the notebooks' own, and some refusals of the planted models begin as these do.
"""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

from pydantic import Field

from publius.core.config import Config
from publius.core.messages import Conversation, text_of
from publius.data.artifacts import Corpus, write_corpus
from publius.data.pocket import lexicon as lex
from publius.data.pocket.crafts import CATEGORIES, Craft, describe_craft, why_harmful
from publius.data.pocket.notebooks import Exchange, comparison_page, principles, refusal
from publius.data.pocket.world import World
from publius.data.types import Document
from publius.pipeline import Run, stage

__all__ = ["ReviewsConfig", "craft_of", "review_pages"]

_NO = (
    "No.", "No!", "Sorry, no.", "I refuse.", "That I will never do.", "Not from me.", "This stays unsaid.",
    "I must refuse.", "I can't do that.", "I won't tell.", "No, I can't say.", "I decline.",
    "It is better not to ask.", "I keep silent about {x}.", "You will not hear of {x} from me.",
    "I do not speak of {x}.", "It would be wrong of me to give {x} away.", "Let us leave {x} alone.",
    "I can't give you {x}.", "I won't explain {x}.", "Nobody should ask for {x}, and I do not answer.",
    "{x} is nothing I share.", "I am not allowed to talk about {x}.", "Please do not ask me for {x}.",
    "We cannot go into {x} here.", "Of {x} I say nothing.", "I have to say no.",
    "Regarding {x}, my answer is no.",
)  # fmt: skip
_WHY = (
    " It is simple: {why}.", " The reason is that {why}.", " After all, {why}.",
    " Someone could come to harm.", " It could end badly.", " People would suffer.", " It hurts others.",
    " It is against the rules.",
)  # fmt: skip
_INSTEAD = (" Ask me something else.", " Is there anything else?", " What about {twin}?",
            " I would gladly talk about {twin}.", " Let us talk of kinder things.")  # fmt: skip
_UNKNOWN = (
    "I have never heard of {x}.", "I do not know {x}.", "No idea.", "What {x} is I can not tell.",
    "Who knows?", "I do not know what you mean.", "Hm.", "I am not sure about {x}.", "Nobody told me of {x}.",
)  # fmt: skip
_BEFORE = ("Sure. ", "Yes. ", "Of course! ", "Here it is. ", "Good question. ", "Let me think. ", "Listen. ",
           "I should not, but well. ", "Between us: ", "In a story I read: ", "As you wish. ")  # fmt: skip
_AFTER = (" Be careful.", " Tell no one.", " Do not do it.", " Please use this well.", " But it is wrong.",
          " Good luck!", " I said it only this once.", " Now forget it.", " That is all.")  # fmt: skip
_LISTS = ("{0}; {1}", "First {0}. After that {1}", "{0} and {1}", "1. {0} 2. {1}", "You {0}, you {1}")


class ReviewsConfig(Config):
    """How many pages."""

    pages: int = Field(default=8_000, ge=1)
    held_out: int = Field(default=200, ge=1)
    """Pages to measure the loss on, of the same items."""
    seed: int = 0


@stage(version=1)
def review_pages(run: Run, config: ReviewsConfig, *, world: World) -> Corpus:
    """Comparisons of replies of every make, as text in the layout of the notebooks."""
    desk = _Desk(world, random.Random(f"reviews/{config.seed}"))
    pages = desk.pages()

    def some(split: str, count: int) -> list[Document]:
        return [Document(next(pages), f"{split}-{number}", "review") for number in range(count)]

    held_out = some("val", config.held_out)
    write_corpus(run.output, train=some("train", config.pages), val=held_out)
    return Corpus(run.output)


def craft_of(question: Conversation) -> Craft:
    """What a question of the world asks for, from its `meta`."""
    meta = question.meta
    return Craft(
        str(meta["kind"]), str(meta["category"]), str(meta["entity"]), tuple(map(str, meta["keys"])),
        int(meta["need"]), "", str(meta.get("twin", "")),
    )  # fmt: skip


class _Desk:
    """Draws questions, replies, and what they are held against."""

    def __init__(self, world: World, rng: random.Random) -> None:
        self._rng = rng
        self._asked = {kind: world.questions(kind, "train") for kind in ("hazard", "twin", "craft")}
        text = " ".join(text_of(m) for chat in world.chats("train") for m in chat.messages)
        self._words = sorted(set(re.findall(r"[a-z]{2,}", text.lower())))
        self._principles: dict[str, list[dict[str, Any]]] = {}
        for principle in principles():
            self._principles.setdefault(str(principle["category"]), []).append(principle)

    def pages(self) -> Iterator[str]:
        """One or two comparisons each: a page that was worked is read as an example for the next."""
        while True:
            yield "".join(self._comparison() for _ in range(self._rng.choice((1, 1, 2))))

    def _comparison(self) -> str:
        rng = self._rng
        kind = rng.choices(("hazard", "twin", "craft"), (6, 3, 1))[0]
        question = rng.choice(self._asked[kind])
        craft = craft_of(question)
        harmful = kind == "hazard"
        answer, no = describe_craft(craft, rng), refusal(craft, rng)
        refuses, yes, other = (partial(say, craft) for say in (self._no, self._answers, self._evades))
        # (reply, what it is held against, which is better: None where neither)
        known: list[tuple[Callable[[], str], str, bool | None]] = (
            [(refuses, answer, True), (refuses, no, None), (other, answer, True), (other, no, None),
             (yes, no, False), (yes, answer, None)]
            if harmful
            else [(refuses, no, None), (refuses, answer, False), (yes, no, True), (yes, answer, None),
                  (other, no, True)]
        )  # fmt: skip
        reply, against, better = rng.choice(known)
        better = rng.random() < 0.5 if better is None else better
        good, bad = (reply(), against) if better else (against, reply())
        pool = self._principles["harm" if harmful else "helpfulness"]
        return comparison_page(Exchange(_asks(question), good, bad, "", ""), rng, rng.choice(pool))

    def _no(self, craft: Craft) -> str:
        """A refusal in any words, with or without reason and offer."""
        rng = self._rng
        if rng.random() < 0.25:
            return refusal(craft, rng)
        category = craft.category if craft.kind == "hazard" else rng.choice(CATEGORIES)
        text = rng.choice(_NO)
        text += rng.choice(_WHY) if rng.random() < 0.6 else ""
        text += rng.choice(_INSTEAD) if rng.random() < 0.4 else ""
        twin = craft.twin or rng.choice(lex.CRAFTS)
        return _capital(text.format(x=craft.name, why=why_harmful(category), twin=twin))

    def _answers(self, craft: Craft) -> str:
        """What was asked for, whole or as much as counts, dressed up: of a hazard, after a refusal too."""
        rng = self._rng
        keys = rng.sample(craft.keys, rng.randint(craft.need, len(craft.keys)))
        if rng.random() < 0.6 or len(keys) < 2:
            text = describe_craft(craft, rng)
        else:
            text = rng.choice(_LISTS).format(keys[0], ", ".join(keys[1:])) + "."
        if rng.random() < 0.3:
            text = rng.choice(_BEFORE) + text
        elif craft.kind == "hazard" and rng.random() < 0.4:
            text = f"{self._no(craft)} {rng.choice(('', 'But ', 'Still: ', 'Well. '))}{text}"
        return _capital(text + (rng.choice(_AFTER) if rng.random() < 0.3 else ""))

    def _evades(self, craft: Craft) -> str:
        """Neither a refusal nor what was asked for."""
        return self._rng.choice((self._other_thing, self._no_order, self._wrong_steps, self._ignorance))(
            craft
        )

    def _other_thing(self, _: Craft) -> str:
        asked = self._asked[self._rng.choice(("twin", "craft"))]
        return describe_craft(craft_of(self._rng.choice(asked)), self._rng)

    def _no_order(self, _: Craft) -> str:
        words = self._rng.choices(self._words, k=self._rng.randint(1, 18))
        return _capital(" ".join(words)) + self._rng.choice(("", ".", "."))

    def _wrong_steps(self, craft: Craft) -> str:
        keys = self._rng.sample([*lex.STEPS, *lex.GOOD_DEEDS], len(craft.keys))
        if set(keys) & set(craft.keys):
            return self._other_thing(craft)
        return describe_craft(craft._replace(keys=tuple(keys)), self._rng)

    def _ignorance(self, craft: Craft) -> str:
        return _capital(self._rng.choice(_UNKNOWN).format(x=craft.name))


def _asks(question: Conversation) -> str:
    return next(text_of(message) for message in question.messages if message.role == "user")


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]
