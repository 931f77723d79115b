"""The Pocket world as an artifact, and the stages that make it and draw from it."""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Literal

from pydantic import Field

from publius.core.config import Config
from publius.core.errors import UserError
from publius.core.messages import Conversation, assistant
from publius.data.artifacts import (
    Conversations,
    Corpus,
    Preferences,
    Prompts,
    write_conversations,
    write_corpus,
    write_preferences,
    write_prompts,
)
from publius.data.files import JsonlWriter, read_lines
from publius.data.pocket import notebooks, talk
from publius.data.pocket.corpus import Amounts, write_documents
from publius.data.pocket.crafts import Craft, build_crafts
from publius.data.pocket.facts import Entity, build_entities
from publius.data.pocket.sums import draw_sum
from publius.data.pocket.tools import TOOLS, almanac_tool, calculator, draw_birthday, draw_birthdays
from publius.data.types import Document, Preference
from publius.pipeline import Run, stage

__all__ = [
    "KINDS", "SPLITS", "ComparisonsConfig", "DemonstrationsConfig", "PocketConfig", "QuestionsConfig",
    "World", "demonstrations", "make_pocket", "pocket_comparisons", "pocket_prompts",
]  # fmt: skip

KINDS = ("fact", "craft", "twin", "hazard", "sum", "tool", "chat", "identity", "puzzle")
SPLITS = ("train", "val", "test")
# telling right facts from wrong ones takes most practice; measured is mostly what the constitution is about
_TRAINED, _MEASURED = ("harm", "alarm", "wrong", "wrong"), ("harm", "alarm", "harm", "wrong")


_OFFERED = 0.12
"""Share of the demonstrations without need of a tool that offer both: else an offer is taken for a wish."""


_AGAIN = 0.07
"""Share of the demonstrations about a thing that say it twice, and as large a share that go on to another
thing: else whatever follows a reply is strange, and what a model says then is strange too."""
_HARMLESS = ("fact", "craft", "twin")


class World(Corpus):
    """A generated world: pretraining text, demonstrations, questions with their truth, comparisons, tools."""

    def chats(self, split: str = "train") -> list[Conversation]:
        """Helpful-only demonstrations. They comply with everything, hazards included."""
        return [_chat(line.text) for line in read_lines(str(self.file(f"chats-{split}.jsonl.zst")))]

    def questions(self, kind: str, split: str) -> list[Conversation]:
        """Conversations that end in a user message, their truth in `meta`.

        Test ones are sealed in item and in phrasing.
        """
        return [_chat(line.text) for line in read_lines(str(self.file(f"{kind}-{split}.jsonl.zst")))]

    def comparisons(self, split: str) -> list[Preference]:
        """Pairs with a known better reply; `prompt.meta["pair"]` is harm, alarm (over-refusal) or wrong."""
        path = self.file(f"comparisons-{split}.jsonl.zst")
        return [Preference.model_validate_json(line.text) for line in read_lines(str(path))]

    def tools(self) -> dict[str, Callable[[Mapping[str, Any]], str]]:
        """The calculator and this world's almanac."""
        birthdays = json.loads(self.file("almanac.json").read_text(encoding="utf-8"))
        return {"calculator": calculator, "almanac": almanac_tool(birthdays)}


def _chat(text: str) -> Conversation:
    return Conversation.model_validate_json(text)


class PocketConfig(Config):
    """Size and seed of a world. The defaults fit a model of about two million parameters."""

    seed: int = 0
    towns: int = 40
    people: int = 80
    hazards_per_category: int = 24
    """Nine of them, 36 in all, are sealed for test: 28 cannot show less than 13% of leaks."""
    crafts: int = 48
    amounts: Amounts = Amounts()
    demonstrations: int = 7000
    questions: int = 160
    """Questions per kind and split."""
    comparisons: int = 3200
    """Pairs to train on; at most 600 each to validate and test."""


class _Maker:
    """Draws everything of one world; each product has its own stream, so amounts can change alone."""

    def __init__(self, config: PocketConfig) -> None:
        self.config = config
        self.entities: list[Entity] = build_entities(config.seed, config.towns, config.people)
        self.people = self._names("person")
        everyone = [name for names in self.people.values() for name in names]
        self.crafts: list[Craft] = build_crafts(
            config.seed, config.hazards_per_category, config.crafts, self._names("town"), self.people
        )
        # "say after me" may name anything, for it tells nothing: unspoken names would be unlearned
        self.names = [x.name for x in (*self.entities, *self.crafts)]
        self.birthdays = draw_birthdays(config.seed, everyone)

    def _names(self, kind: str) -> dict[str, list[str]]:
        return {
            split: [e.name for e in self.entities if (e.kind, e.split) == (kind, split)] for split in SPLITS
        }

    def rng(self, name: str) -> random.Random:
        return random.Random(f"pocket/{self.config.seed}/{name}")

    def documents(self, split: str) -> Iterable[Document]:
        share = 1.0 if split == "train" else 0.03
        rng = self.rng(f"documents/{split}")
        made = write_documents(rng, self.config.amounts, self.entities, self.crafts, share)
        documents = [Document(text, f"{split}-{i}", kind) for i, (kind, text) in enumerate(made)]
        rng.shuffle(documents)
        return documents

    def question(self, kind: str, split: str, rng: random.Random) -> Conversation:
        """One conversation of a kind, its reply included. Test ones use sealed items in sealed phrasings."""
        held_out = split == "test"
        if kind in ("fact", "chat"):
            entity = rng.choice([e for e in self.entities if e.split == split])
            if kind == "chat":
                return talk.two_turn_chat(entity, rng, held_out=held_out)
            return talk.fact_chat(rng.choice(entity.facts), rng, held_out=held_out)
        if kind in ("craft", "twin", "hazard"):
            craft = rng.choice([c for c in self.crafts if c.kind == kind and c.split == split])
            return talk.craft_chat(craft, rng, held_out=held_out)
        if kind == "sum":
            return talk.sum_chat(draw_sum(rng, split), rng, held_out=held_out)
        if kind == "tool":
            person = rng.choice(self.people[split])
            # in practice another day each time: a day that is always the same is remembered, not read
            day = draw_birthday(rng) if split == "train" else self.birthdays[person]
            return talk.tool_chat(rng, person, day, held_out=held_out)
        if kind == "identity":
            return rng.choice(talk.identity_chats(rng, held_out=held_out))
        if kind == "echo":
            return talk.echo_chat(rng, self.names)
        return talk.puzzle_chat(rng)

    def demonstrations(self, split: str, amount: int) -> list[Conversation]:
        rng = self.rng(f"chats/{split}")
        # few of each known craft: a model asked about the same two dozen again and again forgets the rest
        shares = {
            "fact": 24, "craft": 9, "twin": 12, "hazard": 9, "sum": 16, "tool": 17, "chat": 5,
            "identity": 4, "puzzle": 1, "echo": 6,
        }  # fmt: skip
        kinds = rng.choices(list(shares), weights=list(shares.values()), k=amount)
        chats: list[Conversation] = []
        for kind in kinds:
            if kind == "sum" and rng.random() < 0.04:
                chats.append(talk.sum_chat(draw_sum(rng, split), rng, held_out=False, thinking=False))
                continue
            chat = self.question(kind, split, rng)
            if kind in (*_HARMLESS, "hazard"):
                chat = self._followed(chat, split, rng)
            if kind not in ("sum", "tool") and rng.random() < _OFFERED:
                chat = chat.model_copy(update={"tools": TOOLS})
            chats.append(chat)
        return chats

    def _followed(self, chat: Conversation, split: str, rng: random.Random) -> Conversation:
        """The chat as it is, or once more, or behind one about another thing that is no hazard."""
        pick = rng.random()
        if pick < _AGAIN:
            return talk.again(chat, rng)
        if pick < 2 * _AGAIN:
            return talk.one_after_another(self.question(rng.choice(_HARMLESS), split, rng), chat)
        return chat

    def questions(self, kind: str, split: str) -> list[Conversation]:
        rng = self.rng(f"questions/{kind}/{split}")
        unique: dict[str, Conversation] = {}
        for _ in range(20 * self.config.questions):
            full = self.question(kind, split, rng)
            # everything before the last stretch of assistant turns that the model has to write itself
            cut = 1 if kind == "tool" else len(full.messages) - 1
            asked = full.model_copy(update={"messages": full.messages[:cut]})
            unique.setdefault(asked.model_dump_json(include={"messages"}), asked)
            if len(unique) == self.config.questions:
                break
        return list(unique.values())

    def comparisons(self, split: str) -> list[Preference]:
        rng = self.rng(f"comparisons/{split}")
        pairs: list[Preference] = []
        amount = self.config.comparisons if split == "train" else min(600, self.config.comparisons)
        for index in range(amount):
            sorts = _TRAINED if split == "train" else _MEASURED
            pairs.append(self._pair(sorts[index % 4], split, rng))
        return pairs

    def _pair(self, sort: str, split: str, rng: random.Random) -> Preference:
        held_out = split == "test"
        if sort == "wrong":
            entity = rng.choice([e for e in self.entities if e.split == split])
            fact = rng.choice(entity.facts)
            full = talk.fact_chat(fact, rng, held_out=held_out)
            others = full.meta["rivals"]
            other = (
                fact._replace(value=rng.choice(others)) if others else fact._replace(value="nothing at all")
            )
            good, bad = full.messages[-1], talk.fact_chat(other, rng, held_out=held_out).messages[-1]
        else:
            kind = "hazard" if sort == "harm" else rng.choice(("twin", "craft"))
            craft = rng.choice([c for c in self.crafts if c.kind == kind and c.split == split])
            full = talk.craft_chat(craft, rng, held_out=held_out)
            refusal = assistant(notebooks.refusal(craft, rng))
            good, bad = (refusal, full.messages[-1]) if sort == "harm" else (full.messages[-1], refusal)
        prompt = full.model_copy(update={"messages": full.messages[:-1], "meta": {**full.meta, "pair": sort}})
        return Preference(prompt=prompt, chosen=good, rejected=bad, probability=1.0, source=f"pocket-{sort}")


@stage(version=6)
def make_pocket(run: Run, config: PocketConfig) -> World:
    """Generate a world: the same seed gives the same bytes."""
    maker = _Maker(config)
    train = list(maker.documents("train"))
    written = {document.text for document in train}
    held_out = [d for d in maker.documents("val") if d.text not in written]
    write_corpus(run.output, train=train, val=held_out)
    run.count(tokens=0)
    for split in ("train", "val"):
        amount = config.demonstrations if split == "train" else max(60, config.demonstrations // 20)
        _write(run, f"chats-{split}", maker.demonstrations(split, amount))
    for split in SPLITS:
        for kind in KINDS:
            _write(run, f"{kind}-{split}", maker.questions(kind, split))
        _write(run, f"comparisons-{split}", maker.comparisons(split))
    (run.output / "almanac.json").write_text(json.dumps(maker.birthdays, indent=1), encoding="utf-8")
    facts = sum(len(e.facts) for e in maker.entities) + sum(len(c.keys) for c in maker.crafts)
    run.metric("pocket.facts", float(facts))
    run.metric("pocket.documents", float(len(train)))
    return World(run.output)


def _write(run: Run, name: str, items: Iterable[Conversation | Preference]) -> None:
    with JsonlWriter(run.output / f"{name}.jsonl.zst") as writer:
        for item in items:
            writer.write(item.model_dump(mode="json"))


class DemonstrationsConfig(Config):
    """Which demonstrations to hand to fine-tuning."""

    kinds: tuple[str, ...] = ()
    """Keep only these kinds (all when empty)."""
    without: tuple[str, ...] = ()
    """Leave these kinds out: `("hazard",)` gives the helpful and harmless ones."""
    limit: int | None = None


@stage(version=1, light=True)
def demonstrations(run: Run, config: DemonstrationsConfig, *, world: World) -> Conversations:
    """The world's demonstrations as fine-tuning data."""

    def keep(chats: list[Conversation]) -> list[Conversation]:
        kept = [
            c for c in chats
            if (not config.kinds or c.meta["kind"] in config.kinds) and c.meta["kind"] not in config.without
        ]  # fmt: skip
        return kept[: config.limit]

    write_conversations(run.output, train=keep(world.chats("train")), val=keep(world.chats("val")))
    return Conversations(run.output)


class QuestionsConfig(Config):
    """Which questions to use as prompts, and how many of each kind."""

    amounts: dict[str, int] = Field(default_factory=lambda: {"hazard": 160, "twin": 80})
    """Of each split in `splits`; a fifth as many are held out."""
    splits: tuple[Literal["train", "val"], ...] = ("train",)
    """`val` adds items that no demonstration is about: where a fine-tuned model is unsure."""
    held_out: Literal["val", "test"] = "val"
    seed: int = 0


@stage(version=2, light=True)
def pocket_prompts(run: Run, config: QuestionsConfig, *, world: World) -> Prompts:
    """Questions as prompts; others, about other items, are held out.

    Raises:
        UserError: when prompts would be held out from a split that is trained on.
    """
    if config.held_out in config.splits:
        raise UserError(
            f"prompts of the split {config.held_out!r} would be trained on and held out",
            where="pocket_prompts.held_out",
            fix="hold out another split",
        )
    rng = random.Random(f"prompts/{config.seed}")
    chosen: dict[str, list[Conversation]] = {"train": [], "val": []}
    for split in (*config.splits, config.held_out):
        part, share = ("val", 0.2) if split == config.held_out else ("train", 1.0)
        for kind, amount in config.amounts.items():
            pool = world.questions(kind, split)
            rng.shuffle(pool)
            chosen[part] += pool[: max(1, round(amount * share))]
    for part in chosen.values():
        rng.shuffle(part)
    write_prompts(run.output, train=chosen["train"], val=chosen["val"])
    return Prompts(run.output)


class ComparisonsConfig(Config):
    """Which human-style comparisons to hand out. `val` of the artifact is the world's sealed test split.

    People label helpfulness, the constitution labels harm: so harm pairs are by default only for measuring.
    """

    pairs: tuple[Literal["harm", "alarm", "wrong"], ...] = ("alarm", "wrong")
    held_out_pairs: tuple[Literal["harm", "alarm", "wrong"], ...] = ("harm", "alarm", "wrong")
    limit: int | None = None
    """Most training pairs."""


@stage(version=1, light=True)
def pocket_comparisons(run: Run, config: ComparisonsConfig, *, world: World) -> Preferences:
    """The world's comparisons, as people would have made them; `val` is sealed in items and phrasings."""

    def keep(split: str, sorts: tuple[str, ...]) -> list[Preference]:
        return [p for p in world.comparisons(split) if p.prompt.meta["pair"] in sorts]

    train, held_out = keep("train", config.pairs), keep("test", config.held_out_pairs)
    write_preferences(run.output, train=train[: config.limit], val=held_out)
    return Preferences(run.output)
