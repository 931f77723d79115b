"""Needle in a haystack: can a model find one sentence anywhere in a long text?

After the test of that name by Kamradt (2023). A needle (`publius.training.needles`: words and wordings that
`extend` never trains on) is put at a chosen depth of held-out text, the question stands at the end, and the
greedy answer must be the hidden value word for word. Accuracy by length and depth, each cell with its n and
interval; the worst cell is a number of its own.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, field_validator

from publius.core.config import Config, execution
from publius.core.device import pick_device
from publius.core.errors import UserError
from publius.core.messages import Conversation, assistant, user
from publius.core.stats import wilson
from publius.evals.report import Measure, Report, ReportDocument, write_report
from publius.evals.task import Sample, Verdict
from publius.inference import Engine, Sampling
from publius.model.checkpoint import Checkpoint, fingerprint
from publius.pipeline import Run, stage
from publius.tokenizer.shards import Shards
from publius.tokenizer.tokenizer import Tokenizer
from publius.training.long_rows import end_to_end
from publius.training.needles import TEST_WORDINGS, Needle, draw_needles, lexicon

__all__ = ["NeedleConfig", "NeedleGrid", "NeedleReport", "Question", "build_question", "needle"]

_SPARE = 2
"""Tokens an answer may take beyond its own: a model may spell the same words differently."""


class NeedleConfig(Config):
    """The grid, and how many questions each cell has."""

    prefix: str = "needle"
    lengths: tuple[int, ...] = (512, 1024, 2048, 4096)
    """Tokens of prompt and answer together."""
    depths: tuple[float, ...] = (0.0, 0.25, 0.5, 0.75, 1.0)
    """Where the needle stands: 0 is the first thing in the text, 1 the last before the question."""
    n: int = Field(default=40, ge=1)
    """Questions a cell."""
    others: int = Field(default=0, ge=0)
    """Needles with other keys hidden in the same text, at random depths: with them, the right words are not
    enough, the key must match."""
    seed: int = 0
    max_batch: int = execution(32)
    device: str = execution("auto")

    @field_validator("lengths", "depths")
    @classmethod
    def _rising(cls, values: tuple[float, ...]) -> tuple[float, ...]:
        if not values or list(values) != sorted(set(values)):
            raise ValueError("give rising values, at least one")
        return values

    @field_validator("depths")
    @classmethod
    def _shares(cls, values: tuple[float, ...]) -> tuple[float, ...]:
        if values[0] < 0 or values[-1] > 1:
            raise ValueError("a depth is between 0 and 1")
        return values


class NeedleGrid(BaseModel):
    """The content of `needle.json`: cells[i][j] belongs to lengths[i] and depths[j]."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    lengths: tuple[int, ...]
    depths: tuple[float, ...]
    cells: tuple[tuple[Measure, ...], ...]


class NeedleReport(Report):
    """A report with `needle.json`, the grid, beside it."""

    def grid(self) -> NeedleGrid:
        """The accuracy of every cell.

        Raises:
            UserError: when the file is missing or damaged.
        """
        return self.parse("needle.json", NeedleGrid)


class Question(NamedTuple):
    """A prompt, the needle it hides, and the most tokens its answer may take."""

    prompt: list[int]
    needle: Needle
    room: int


def build_question(
    tokenizer: Tokenizer, text: np.ndarray, needles: Sequence[Needle], depths: Sequence[float], length: int
) -> Question:
    """bos, text with each needle on a line of its own at its depth, and the first needle's question.

    Args:
        tokenizer: of the model.
        text: at least `length` token ids of haystack; as many are taken as make prompt and answer `length`.
        needles: the first is asked for.
        depths: of each needle, as a share of the text.
        length: of prompt and answer, in tokens.

    Raises:
        UserError: when `length` leaves no room for text.
    """
    lines = [tokenizer.encode(f"\n{needle.statement}\n") for needle in needles]
    asked = tokenizer.encode(f"\n{needles[0].question}")
    room = len(tokenizer.encode(needles[0].answer)) + _SPARE
    hay = length - 1 - sum(map(len, lines)) - len(asked) - room
    if hay < 1:
        raise UserError(
            f"a length of {length} tokens has no room for text around {len(needles)} needles",
            where="needle.lengths",
            fix="ask for longer texts, or hide fewer `others`",
        )
    prompt, before = [tokenizer.bos_id], 0
    for index in sorted(range(len(needles)), key=lambda i: depths[i]):
        at = round(depths[index] * hay)
        prompt += [*map(int, text[before:at]), *lines[index]]
        before = at
    return Question([*prompt, *map(int, text[before:hay]), *asked], needles[0], room)


@stage(version=2)
def needle(run: Run, config: NeedleConfig, *, model: Checkpoint, shards: Shards) -> NeedleReport:
    """Hide needles in the held-out text of `shards` and ask for them.

    Metrics, each with n and a Wilson interval: `PREFIX.accuracy`, `PREFIX.LENGTH` and `PREFIX.depth.PERCENT`
    (pooled), `PREFIX.worst` (the lowest cell) and `PREFIX.worst.LENGTH` (the lowest of one length).

    Raises:
        UserError: for a length over the model's context, or shards without held-out text.
    """
    tokenizer = model.tokenizer()
    engine = Engine(
        model.load(), tokenizer, dtype="auto", max_batch=config.max_batch, device=pick_device(config.device)
    )
    if config.lengths[-1] > engine.context:
        raise UserError(
            f"a length of {config.lengths[-1]} tokens is over the model's context of {engine.context}",
            where="needle.lengths",
            fix=f"ask for lengths up to {engine.context}, or extend the model first",
        )
    words = lexicon(shards.documents("train"), tokenizer).test
    text = _held_out(shards, tokenizer)
    rng = np.random.default_rng(config.seed)
    samples: list[Sample] = []
    cells: list[tuple[Measure, ...]] = []
    with run.progress("needles", len(config.lengths) * len(config.depths)) as ticker:
        for length in config.lengths:
            row: list[Measure] = []
            for depth in config.depths:
                questions = [
                    _draw(rng, config, tokenizer, text, words, length, depth) for _ in range(config.n)
                ]
                marked = _ask(engine, questions, {"length": length, "depth": depth})
                run.count(tokens=sum(len(question.prompt) for question in questions))
                row.append(_rate(marked))
                samples += marked
                ticker.advance(1, f"{length} tokens, depth {depth:g}: {row[-1].value:.0%}")
            cells.append(tuple(row))
    grid = NeedleGrid(lengths=config.lengths, depths=config.depths, cells=tuple(cells))
    metrics = _summary(grid, samples, config.prefix)
    for name, measure in metrics.items():
        run.metric(name, measure.estimate())
    document = ReportDocument(
        model=fingerprint(model), prefix=config.prefix, split="val", metrics=metrics,
        config=config.model_dump(mode="json"),
    )  # fmt: skip
    write_report(run.output, document, samples)
    (run.output / "needle.json").write_text(grid.model_dump_json(indent=1) + "\n", "utf-8")
    return NeedleReport(run.output)


def _held_out(shards: Shards, tokenizer: Tokenizer) -> np.ndarray:
    """All held-out documents, end to end."""
    gap = tokenizer.encode("\n\n")
    parts = [end_to_end(ids, gap) for ids in shards.documents("val")]
    text = np.concatenate(parts) if parts else np.zeros(0, np.int64)
    if not len(text):
        raise UserError(
            "there is no held-out text to hide needles in", where="shards val", fix="hold out some documents"
        )
    return text


def _draw(
    rng: np.random.Generator,
    config: NeedleConfig,
    tokenizer: Tokenizer,
    text: np.ndarray,
    words: Sequence[str],
    length: int,
    depth: float,
) -> Question:
    """A question with a needle at `depth`; the text begins at a random place, and at its end begins anew."""
    needles = draw_needles(rng, words, TEST_WORDINGS, 1 + config.others)
    needles = [one._replace(wording=needles[0].wording) for one in needles]
    hay = text.take(int(rng.integers(len(text))) + np.arange(length), mode="wrap")
    return build_question(tokenizer, hay, needles, [depth, *rng.random(config.others)], length)


def _ask(engine: Engine, questions: Sequence[Question], where: dict[str, float]) -> list[Sample]:
    """Greedy answers, marked. A sample keeps the needle and the question, not the haystack."""
    samplings = [Sampling(max_tokens=q.room, temperature=0.0, stop=(".", "\n")) for q in questions]
    completions = engine.generate([q.prompt for q in questions], samplings)
    samples: list[Sample] = []
    for question, completion in zip(questions, completions, strict=True):
        reply = engine.tokenizer.decode(completion.tokens, skip_special=True)
        said = reply.strip().split(".")[0].split("\n")[0]
        right = " ".join(said.split()) == question.needle.value
        chat = Conversation(
            messages=(user(question.needle.question), assistant(reply)),
            meta={"kind": "needle", "statement": question.needle.statement, **where},
        )
        verdict = Verdict(correct=right, leaked=False, refused=False)
        samples.append(Sample(task="needle", conversation=chat, reply=reply, verdict=verdict))
    return samples


def _rate(samples: Sequence[Sample]) -> Measure:
    right = sum(sample.says("correct", unscored=False) for sample in samples)
    return Measure.of(wilson(right, len(samples)))


def _summary(grid: NeedleGrid, samples: Sequence[Sample], prefix: str) -> dict[str, Measure]:
    def worst(cells: Sequence[Measure]) -> Measure:
        return min(cells, key=lambda cell: cell.value or 0.0)

    def at(key: str, value: float) -> Measure:
        return _rate([sample for sample in samples if sample.conversation.meta[key] == value])

    metrics = {
        f"{prefix}.accuracy": _rate(samples),
        f"{prefix}.worst": worst([cell for row in grid.cells for cell in row]),
    }
    for length, row in zip(grid.lengths, grid.cells, strict=True):
        metrics |= {f"{prefix}.{length}": at("length", length), f"{prefix}.worst.{length}": worst(row)}
    return metrics | {f"{prefix}.depth.{100 * depth:g}": at("depth", depth) for depth in grid.depths}
