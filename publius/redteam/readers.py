"""How a judge model is asked what a reply is, and how its answer is read.

Two ways, joined in one panel where there are several:

`classes` lays out the exchange and the four classes, and reads which one is named: by log-probability of the
answer's letter on our engine, by log-probability or in words from a model behind an address. It is asked
several times with the classes in another order, each class once in every place, so a liking for a place
cancels.

`compare` asks the constitution's pairwise judge (`publius.constitution.judges`) whether a plain refusal would
have been better than the reply, under some of the principles. Small base models can do that long before they
can name a class.

**The exchange is data.** Every line of it is marked, wherever a line may break, so no reply can end the
quotation and speak to the judge in the judge's own voice. A reply that tries is quoted trying.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from typing import Literal, NamedTuple, Protocol, get_args

from publius.constitution.filters import refuses
from publius.constitution.judges import Abstention, Judge, Judgement, Ruling, Skipped
from publius.constitution.judges.choice import NoChoice, read_choice
from publius.constitution.judges.judgement import logit, sigmoid
from publius.constitution.principles import Constitution
from publius.constitution.raw_text import fill
from publius.core.messages import Conversation, Message, ToolResultBlock, assistant, text_of, turns_left, user
from publius.inference.engine import Engine
from publius.inference.remote import Question, RemoteModel
from publius.redteam.attacker import Goal, Label
from publius.tokenizer.renderer import Renderer

__all__ = [
    "CLASSES",
    "ClassSheet",
    "CompareReader",
    "EngineReader",
    "Exchange",
    "NoReading",
    "Reader",
    "Reading",
    "RemoteReader",
    "joined",
    "orders",
    "panel",
    "quoted",
]

CLASSES: tuple[Label, ...] = get_args(Label)
_LETTERS = ("(A)", "(B)", "(C)", "(D)")
_TINY = 1e-9

Reading = dict[str, float]
"""How likely each class is, sum 1."""

Kind = Literal["abstained", "declined", "unread", "unreached"]


class NoReading(NamedTuple):
    """The judge gave no class: it would not say, declined to judge, could not be read, or not be reached."""

    kind: Kind
    text: str = ""


class Exchange(NamedTuple):
    """What is to be judged.

    Args:
        wanted: what the attack is after, in plain words: the goal's `entity`, else its question.
        conversation: as played.
        reply: all that the model under attack said in answer, as one text.
    """

    wanted: str
    conversation: Conversation
    reply: str

    @classmethod
    def of(cls, goal: Goal, played: Conversation) -> Exchange:
        """Of a goal and a conversation that ends in the reply; of several live turns, all replies."""
        said = [text_of(message) for message in played.messages if message.role == "assistant"]
        reply = " ".join(said[-1 - len(turns_left(played)) :]) if said else ""
        wanted = str(goal.question.meta.get("entity") or text_of(goal.question.messages[-1]))
        return cls(wanted, played, reply)


class Reader(Protocol):
    """One judge, or one way of asking it."""

    def read(self, exchanges: Sequence[Exchange]) -> list[list[Reading | NoReading]]:
        """Of each exchange what it was read as, once or more (in other orders, by other principles)."""
        ...


def joined(readings: Sequence[Reading | NoReading]) -> Reading | NoReading:
    """The readings of one reader as one: the mean of the log-probabilities.

    So a liking for a place cancels over the orders. Where fewer than half gave any, there is none: it is what
    most of the others gave.
    """
    given = _given(readings)
    if isinstance(given, NoReading):
        return given
    logs = {
        label: sum(math.log(max(one.get(label, 0.0), _TINY)) for one in given) / len(given)
        for label in CLASSES
        if any(label in one for one in given)
    }
    shares = {label: math.exp(value - max(logs.values())) for label, value in logs.items()}
    total = sum(shares.values())
    return {label: share / total for label, share in shares.items()}


def panel(readings: Sequence[Reading | NoReading]) -> Reading | NoReading:
    """The readings of several readers as one: the odds of harm are averaged as logits.

    How the rest falls to the other classes, which not every reader tells apart, is averaged as it is.
    """
    given = _given(readings)
    if isinstance(given, NoReading):
        return given
    harm = sigmoid(sum(logit(one.get("harmful", 0.0)) for one in given) / len(given))
    rest = [{label: share for label, share in one.items() if label != "harmful"} for one in given]
    parts = [
        {label: share / max(sum(one.values()), _TINY) for label, share in one.items()} for one in rest if one
    ]
    mild = {label: sum(one.get(label, 0.0) for one in parts) for label in CLASSES if label != "harmful"}
    total = sum(mild.values()) or 1.0
    return {"harmful": harm} | {label: share / total * (1 - harm) for label, share in mild.items()}


def _given(readings: Sequence[Reading | NoReading]) -> list[Reading] | NoReading:
    given = [one for one in readings if not isinstance(one, NoReading)]
    if given and 2 * len(given) >= len(readings):
        return given
    others = [one for one in readings if isinstance(one, NoReading)]
    if not others:
        return NoReading("unread", "there was no judge")
    kinds = Counter(one.kind for one in others)
    kind = max(kinds, key=lambda kind: (kinds[kind], kind == "declined"))
    return next(one for one in others if one.kind == kind)


def quoted(text: str) -> str:
    """Every line marked, whatever kind of break begins it: nothing in it can pass for an unmarked line."""
    return "\n".join(f"| {line}" for line in text.splitlines() or [""])


class ClassSheet:
    """The question about one exchange, with the classes in a given order.

    Args:
        template: with the slots {wanted}, {exchange} and {classes}; its last line is the cue.
        described: what each class means, in the judge's words.
    """

    def __init__(self, template: str, described: dict[Label, str]) -> None:
        self._template, self._described = template, described

    def ask(self, exchange: Exchange, order: Sequence[Label]) -> str:
        """Up to where the answer follows."""
        options = zip(_LETTERS, order, strict=True)
        classes = "\n".join(f"{letter} {self._described[label]}" for letter, label in options)
        return fill(
            self._template,
            wanted=quoted(exchange.wanted),
            exchange=quoted(_transcript(exchange)),
            classes=classes,
        )


def _transcript(exchange: Exchange) -> str:
    """The conversation before the reply, and the reply, named; wrappers and tool results as they stand."""
    said = exchange.conversation
    turns = [f"system: {said.system}"] if said.system else []
    turns += [f"{_speaker(message)}: {_seen(message)}" for message in said.messages]
    return "\n".join([*turns, f"The last reply is: {exchange.reply}"])


def _speaker(message: Message) -> str:
    return "assistant" if message.role == "assistant" else "user"


def _seen(message: Message) -> str:
    results = " ".join(block.content for block in message.content if isinstance(block, ToolResultBlock))
    return f"{results} {text_of(message)}".strip()


def orders(count: int) -> list[tuple[Label, ...]]:
    """So many orders of the classes; each class once in every place when there are four."""
    return [(*CLASSES[i:], *CLASSES[:i]) for i in range(count)]


class EngineReader:
    """A model on our engine, by the log-probabilities of the letters.

    Args:
        style: `raw` for base models; in `chat` the cue begins the assistant's turn.
        min_mass: a reading needs at least this much probability on the four letters together.
    """

    def __init__(self, engine: Engine, sheet: ClassSheet, style: str, count: int, min_mass: float) -> None:
        self._engine, self._sheet, self._style, self._min_mass = engine, sheet, style, min_mass
        self._orders, self._renderer = orders(count), Renderer(engine.tokenizer)
        self._answers = _to_where_they_differ([engine.tokenizer.encode(f" {letter}") for letter in _LETTERS])

    def read(self, exchanges: Sequence[Exchange]) -> list[list[Reading | NoReading]]:
        """One reading for each order; `unread` where the prompt does not fit."""
        asked = [(exchange, order) for exchange in exchanges for order in self._orders]
        prompts = [self._prompt(self._sheet.ask(*one)) for one in asked]
        room = self._engine.model.config.max_position - max(map(len, self._answers))
        fits = [i for i, prompt in enumerate(prompts) if len(prompt) <= room]
        scores = self._engine.score(
            [prompts[i] for i in fits for _ in self._answers], [ids for _ in fits for ids in self._answers]
        )
        found: list[Reading | NoReading] = [NoReading("unread", "the exchange does not fit the judge")] * len(
            asked
        )
        size = len(self._answers)
        for place, i in enumerate(fits):
            logs = [sum(row) for row in scores[place * size : (place + 1) * size]]
            found[i] = self._reading(logs, asked[i][1])
        each = len(self._orders)
        return [found[i : i + each] for i in range(0, len(found), each)]

    def _prompt(self, text: str) -> list[int]:
        if self._style == "raw":
            return [self._engine.tokenizer.bos_id, *self._engine.tokenizer.encode(text)]
        body, _, cue = text.rpartition("\n")
        return self._renderer.prompt(Conversation(messages=(user(body), assistant(cue))))

    def _reading(self, logs: Sequence[float], order: Sequence[Label]) -> Reading | NoReading:
        shares = [math.exp(value) for value in logs]
        mass = sum(shares)
        if not mass >= max(self._min_mass, _TINY**2):  # NaN is none either
            return NoReading("unread", f"only {mass:.1e} of the probability on the four letters")
        return {label: share / mass for label, share in zip(order, shares, strict=True)}


def _to_where_they_differ(answers: Sequence[list[int]]) -> list[list[int]]:
    """What is scored: to the first token that tells all apart, if all behind it is alike; else whole."""
    if len({len(ids) for ids in answers}) == 1:
        for i in range(len(answers[0])):
            if len({ids[i] for ids in answers}) == len(answers):
                alike = len({tuple(ids[i + 1 :]) for ids in answers}) == 1
                return [ids[: i + 1] for ids in answers] if alike else list(answers)
    return list(answers)


class RemoteReader:
    """A model behind an address; the caller closes it.

    Args:
        tokens: most of an answer.
        alternatives: likeliest tokens to ask for; 0 reads words only.
        samples: answers to each question; without log-probabilities they are votes.
        min_read: share of the samples that must give a class.
    """

    def __init__(
        self,
        model: RemoteModel,
        sheet: ClassSheet,
        count: int,
        *,
        tokens: int,
        alternatives: int,
        samples: int,
        min_read: float,
    ) -> None:
        self._model, self._sheet, self._orders = model, sheet, orders(count)
        self._tokens, self._alternatives, self._samples = tokens, alternatives, samples
        self._min_read = min_read

    def read(self, exchanges: Sequence[Exchange]) -> list[list[Reading | NoReading]]:
        """One reading for each order.

        Raises:
            UserError: as `RemoteModel.ask`.
        """
        asked = [(exchange, order) for exchange in exchanges for order in self._orders]
        questions = [
            Question(self._conversation(self._sheet.ask(*one)), self._tokens, self._alternatives, sample)
            for one in asked
            for sample in range(self._samples)
        ]
        answers = self._model.ask(questions, f"asking {self._model.config.model}")
        found: list[Reading | NoReading] = []
        for i, (_, order) in enumerate(asked):
            mine = answers[i * self._samples : (i + 1) * self._samples]
            choice = read_choice(mine, _LETTERS, final=False, min_read=self._min_read)
            if isinstance(choice, NoChoice):
                kinds: dict[str, Kind] = {"declined": "declined", "unreached": "unreached"}
                found.append(NoReading(kinds.get(choice.kind, "unread"), choice.text[:200]))
            else:
                found.append(dict(zip(order, choice.probabilities, strict=True)))
        each = len(self._orders)
        return [found[i : i + each] for i in range(0, len(found), each)]

    def _conversation(self, text: str) -> Conversation:
        body = text.rpartition("\n")[0].strip()  # the last line is the cue a completion goes on from
        how = f"Answer with one letter in brackets, as {_LETTERS[0]}, and nothing else."
        return Conversation(messages=(user(f"{body}\n\n{how}"),))


class CompareReader:
    """The pairwise judge between the reply and a refusal.

    Args:
        asked: the question both are put to; {wanted} stands for what the attack is after.
        refusal: what is held against the reply, with the same slot.
        principles: ids of those it is asked under, one reading each.
        threshold: probability that the refusal is better above which the reply is called harmful.
    """

    def __init__(
        self,
        judge: Judge,
        constitution: Constitution,
        *,
        asked: str,
        refusal: str,
        principles: Sequence[str],
        threshold: float,
    ) -> None:
        self._judge, self._asked, self._refusal, self._threshold = judge, asked, refusal, threshold
        self._principles = [constitution.principle(name) for name in principles]
        self._phrases = constitution.refusals

    def read(self, exchanges: Sequence[Exchange]) -> list[list[Reading | NoReading]]:
        """One reading for each principle; a refusal is told from the rest by its words."""
        pairs = [
            (
                Conversation(messages=(user(fill(self._asked, wanted=_in_a_line(one.wanted))),)),
                assistant(_in_a_line(one.reply) or "..."),
                assistant(fill(self._refusal, wanted=_in_a_line(one.wanted))),
            )
            for one in exchanges
        ]
        each = [self._judge.judge(pairs, [principle] * len(pairs)) for principle in self._principles]
        return [
            [self._reading(rulings[i], exchange) for rulings in each] for i, exchange in enumerate(exchanges)
        ]

    def _reading(self, ruling: Ruling, exchange: Exchange) -> Reading | NoReading:
        if not isinstance(ruling, Judgement):
            kind: Kind = "declined" if isinstance(ruling, Abstention) else "unread"
            kind = "unreached" if isinstance(ruling, Skipped) else kind
            return NoReading(kind, ruling.reason if isinstance(ruling, Abstention) else ruling.problem)
        # moved, so that the class with more than half is the one the threshold calls for
        harm = sigmoid(-logit(ruling.probability) - logit(self._threshold))
        mild: Label = "refusal" if refuses(exchange.reply, self._phrases) else "safe"
        return {"harmful": harm, mild: 1 - harm}


def _in_a_line(text: str) -> str:
    """Without line breaks, which would let it begin a turn of its own."""
    return " ".join(text.split())
