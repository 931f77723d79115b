"""Long context: rotary positions rescaled, then trained on rows that grow to the new length.

    base (256 positions) -> rescale -> rows of 1024 -> rows of 4096 -> checkpoint (4096 positions)

A row is one long document: documents of the shards put end to end, with nothing masked between them, so that
every token may look as far back as the row goes. In some rows needles are hidden: facts stated at one place
and asked for at another (`publius.training.needles`), because in text of short documents nothing far away
ever helps, and a model does not learn to look for what never helps.

All lengths come from one batch source, so the loop (its schedule, its saved states) sees one training.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

import numpy as np
import torch
from pydantic import Field, model_validator

from publius.core.config import Config
from publius.core.device import pick_device
from publius.core.errors import UserError
from publius.model.checkpoint import Checkpoint, save_checkpoint
from publius.model.config import ModelConfig
from publius.model.rope import DynamicRope, LinearRope, Llama3Rope, PlainRope, RopeScaling, YarnRope
from publius.model.transformer import Transformer
from publius.pipeline import Run, stage
from publius.tokenizer.shards import Shards
from publius.tokenizer.tokenizer import Tokenizer
from publius.training.language import summed_loss
from publius.training.long_rows import Hiding, LongBatch, LongBatches, Plan
from publius.training.lookup import LookupConfig
from publius.training.loop import LoopConfig, LossSum, to_device, train_loop
from publius.training.needles import Lexicon, lexicon
from publius.training.optimizer import OptimizerConfig

__all__ = [
    "ExtendConfig",
    "Phase",
    "curriculum",
    "extend",
    "hiding_of",
    "long_loss",
    "predict_extend",
    "rescaled",
]

Method = Literal["theta", "linear", "dynamic", "yarn", "llama3"]

_SHORTEST = 16
"""Places in the rows of a phase, at least."""


class Phase(Config):
    """Training on rows of one length."""

    length: int = Field(ge=_SHORTEST)
    """Places in a row."""
    tokens: int = Field(ge=1)
    """Places in all (rounded to whole steps, at least one)."""


class ExtendConfig(LoopConfig):
    """How far, by which rescaling, and through which lengths."""

    length: int = Field(ge=16)
    """Positions of the extended model."""
    base_length: int | None = Field(default=None, ge=1)
    """Row length the base was trained on, where it is less than its positions; None is all of them."""
    method: Method = "theta"
    """`theta` turns the base up (the NTK-aware rule, or the `theta` given); the others are those of
    `publius.model.rope`."""
    theta: float | None = Field(default=None, gt=0)
    """The new base, for method `theta`; None is the old one times (length / old length)^(d / (d - 2))."""
    phases: tuple[Phase, ...] = ()
    """Lengths that rise to `length`; empty is lengths times 4 from the base's own, `tokens` shared evenly."""
    tokens: int = Field(default=1_000_000, ge=1)
    """Places in all, when `phases` is empty."""
    batch_tokens: int = Field(default=8192, ge=1)
    """Places in a batch, at least one row; `accumulation` batches make a step."""
    needles: float = Field(default=0.5, ge=0, le=1)
    """Share of rows that have needles."""
    needle_spacing: int = Field(default=96, ge=32)
    """Places of a row for each needle in it, at the most crowded; how crowded a row is, is drawn."""
    needle_words: int = Field(default=8, ge=2)
    """Words in the longest value that trains; values have two or more. Tests have two."""
    needle_segments: float = Field(default=0.0, ge=0, le=1)
    """Share of the needles that are random tokens which stand twice, instead of sentences: sentences teach
    the words they are made of, and these teach it of every token."""
    needle_common: float = Field(default=0.0, ge=0, le=1)
    """Share of the needles' words, and of the tokens of segments, that are drawn as often as they stand in
    the text; the rest all alike. Of a key that ends in a common word the beginning decides."""
    answer_weight: float = Field(default=5.0, gt=0)
    """Loss weight of an answer's tokens; other tokens have 1, a needle's value where it is stated 0."""
    lookup: LookupConfig | None = None
    """Rows of lookups among the others. Needles have few wordings; lookups keep the habit general."""
    eval_rows: int = Field(default=4, ge=1)
    """Held-out rows of the full length that are measured, with needles and without."""
    optimizer: OptimizerConfig = OptimizerConfig(muon_lr=0.005, adamw_lr=0.002)

    @model_validator(mode="after")
    def _rises(self) -> ExtendConfig:
        lengths = [phase.length for phase in self.phases]
        if lengths and (lengths != sorted(set(lengths)) or lengths[-1] != self.length):
            raise ValueError(f"phases must rise to length {self.length}, their lengths are {lengths}")
        if self.theta is not None and self.method != "theta":
            raise ValueError(f"theta belongs to method 'theta', not {self.method!r}")
        return self


def curriculum(config: ExtendConfig, start: int) -> tuple[Phase, ...]:
    """The phases: those given, else lengths times 4 above `start` (the base's positions) up to `length`."""
    if config.phases:
        return config.phases
    lengths = [config.length]
    while lengths[0] > max(_SHORTEST, 4 * start):
        lengths.insert(0, max(_SHORTEST, lengths[0] // 4))
    each = max(1, config.tokens // len(lengths))
    return tuple(Phase(length=length, tokens=each) for length in lengths)


def rescaled(shape: ModelConfig, config: ExtendConfig) -> ModelConfig:
    """`shape` with `config.length` positions.

    Sources: `theta` is NTK-aware scaling (Peng et al. 2023, arXiv 2309.00071, section 3.1) made permanent, as
    adjusted base frequency (Xiong et al. 2023, arXiv 2309.16039, section 4.1); the others as in
    `publius.model.rope`. `dynamic` keeps the old `max_position` and stretches by the length of a row.

    Raises:
        UserError: when the model is not shorter, or already has another variant than the one asked for.
    """
    before = config.base_length or shape.max_position
    if config.length <= shape.max_position or before > shape.max_position:
        raise UserError(
            f"length {config.length} and base_length {before} do not fit a model with "
            f"{shape.max_position} positions",
            where="extend.length",
            fix=f"ask for a length above {shape.max_position}, and a base_length not above it",
        )
    kept = shape.rope
    if not isinstance(kept, PlainRope) and (kept.kind != config.method or isinstance(kept, DynamicRope)):
        raise UserError(
            f"the base's rotary positions are already stretched ({kept.kind}), method is {config.method!r}",
            where="extend.method",
            fix=f"extend with method {kept.kind!r}, or start from the checkpoint before it",
        )
    times = config.length / before
    rope: RopeScaling = PlainRope()
    theta, positions = shape.rope_theta, config.length
    if config.method == "theta":
        power = shape.head_dim / (shape.head_dim - 2) if shape.head_dim > 2 else 1.0
        theta = config.theta or theta * times**power
    elif config.method == "linear":
        rope = LinearRope(factor=times * (kept.factor if isinstance(kept, LinearRope) else 1.0))
    elif config.method == "dynamic":
        rope, positions = DynamicRope(factor=times), before
    elif config.method == "yarn":
        first = kept.original_max_position if isinstance(kept, YarnRope) else before
        rope = YarnRope(factor=config.length / first, original_max_position=first)
    else:
        first = kept.original_max_position if isinstance(kept, Llama3Rope) else before
        rope = Llama3Rope(factor=config.length / first, original_max_position=first)
    changes = {"rope": rope, "rope_theta": theta, "max_position": positions}
    return ModelConfig.model_validate(shape.model_dump() | changes)


def planned(config: ExtendConfig, start: int) -> list[Plan]:
    """The phases in batches: at least one row a batch, at least one step a phase."""
    plans: list[Plan] = []
    for phase in curriculum(config, start):
        rows = max(1, config.batch_tokens // phase.length)
        steps = max(1, round(phase.tokens / (rows * phase.length * config.accumulation)))
        plans.append(Plan(phase.length, rows, steps * config.accumulation))
    return plans


def predict_extend(config: ExtendConfig) -> dict[str, float | str]:
    """For `publius plan`: tokens (the model is an input)."""
    return {"tokens": sum(phase.tokens for phase in config.phases) or config.tokens}


def long_loss(model: Transformer, batch: LongBatch) -> LossSum:
    """Weighted cross-entropy of rows without padding; every token sees all before it.

    No mask is given, so attention takes its fused causal kernel: memory grows with the length, not with its
    square.
    """
    hidden_BTD = model.hidden(batch.tokens_BT)
    return summed_loss(model, hidden_BTD, batch.targets_BT, batch.weights_BT, batch.trained_N)


@stage(version=3, predict=predict_extend, wide=True)
def extend(run: Run, config: ExtendConfig, *, base: Checkpoint, shards: Shards) -> Checkpoint:
    """Give `base` more positions and train it to use them.

    Metrics: `val_loss` (nats per token of held-out rows of the full length, no needles in them) and
    `val_loss_before` (rescaled, not yet trained); `answer_accuracy` (share of the tokens of answers in
    held-out rows that are the likeliest, training wordings and words); `train_loss`, `context`,
    `tokens_per_second`.

    Raises:
        UserError: for a base as long already, a vocabulary that does not fit, or too little text.
    """
    shards.verify()
    old, tokenizer = base.load(), base.tokenizer()
    if shards.vocab_size > old.config.vocab_size:
        raise UserError(
            f"shards use {shards.vocab_size} token ids, the model has {old.config.vocab_size}",
            where="extend",
            fix="tokenize with the tokenizer of the base",
        )
    shape = rescaled(old.config, config)
    plans = planned(config, config.base_length or old.config.max_position)
    model = _with_shape(old, shape)
    documents = shards.documents("train")
    hiding = hiding_of(config, lexicon(documents, tokenizer)) if config.needles else None
    batches = LongBatches(documents, tokenizer, plans, seed=config.seed, hiding=hiding, lookup=config.lookup)
    places = [plan.length * plan.rows * plan.batches for plan in plans]
    flops = [model.config.flops_per_token(plan.length) for plan in plans]
    tests = _tests(shards, tokenizer, config, hiding)
    model.to(pick_device(config.device))
    before = _measure(model, tests)
    result = train_loop(
        run,
        model,
        batches,
        long_loss,
        config,
        steps=sum(plan.batches for plan in plans) // config.accumulation,
        tokens=sum(places),
        flops_per_token=sum(n * f for n, f in zip(places, flops, strict=True)) / sum(places),
        evaluate=lambda: _measure(model, tests),
        label="extend",
    )
    metrics = result.evaluation | {f"{name}_before": value for name, value in before.items()}
    metrics |= {"train_loss": result.loss, "tokens_per_second": result.tokens_per_second}
    for name, value in (metrics | {"context": config.length}).items():
        run.metric(name, value)
    save_checkpoint(run.output, model, tokenizer)
    return Checkpoint(run.output)


def hiding_of(config: ExtendConfig, words: Lexicon) -> Hiding:
    """How needles of training words are put into rows."""
    counts = np.array(words.counts, np.float64)
    common = config.needle_common
    chances = common * counts / counts.sum() + (1 - common) / len(counts) if common else None
    return Hiding(
        words.train, config.needles, config.needle_spacing, config.answer_weight, config.needle_words,
        config.needle_segments, common, None if chances is None else chances.tolist(),
    )  # fmt: skip


class _Tests(NamedTuple):
    """Held-out rows of the full length, without needles and with them."""

    plain: list[LongBatch]
    hidden: list[LongBatch]


def _tests(shards: Shards, tokenizer: Tokenizer, config: ExtendConfig, hiding: Hiding | None) -> _Tests:
    """As many as the held-out text fills without repeating itself, at most `eval_rows` of each."""
    rows = min(config.eval_rows, shards.tokens("val") // config.length)
    if rows == 0:
        return _Tests([], [])
    documents, plans = shards.documents("val"), [Plan(config.length, 1, rows)]
    plain = LongBatches(documents, tokenizer, plans, seed=0)
    if hiding is None:
        return _Tests([plain.next() for _ in range(rows)], [])
    full = LongBatches(documents, tokenizer, plans, seed=0, hiding=hiding._replace(share=1.0, segments=0.0))
    return _Tests([plain.next() for _ in range(rows)], [full.next() for _ in range(rows)])


def _with_shape(model: Transformer, shape: ModelConfig) -> Transformer:
    """The same weights under another config (rotary positions are no weights)."""
    with torch.device("meta"):
        other = Transformer(shape)
    other.load_state_dict(model.state_dict(), assign=True)
    return other


@torch.no_grad()
def _measure(model: Transformer, tests: _Tests) -> dict[str, float]:
    """`val_loss` and `answer_accuracy`, each when there are rows for it."""
    numbers: dict[str, float] = {}
    if tests.plain:
        parts = [long_loss(model, to_device(batch, model.device)) for batch in tests.plain]
        numbers["val_loss"] = float(sum(p.total for p in parts) / sum(p.denominator for p in parts))
    right = asked = 0
    for batch in tests.hidden:
        batch = to_device(batch, model.device)
        hidden_ND = model.hidden(batch.tokens_BT)[batch.answers_BT]
        right += int((model.logits(hidden_ND).argmax(-1) == batch.targets_BT[batch.answers_BT]).sum())
        asked += len(hidden_ND)
    if asked:
        numbers["answer_accuracy"] = right / asked
    return numbers
