"""One dial: a model's size and its tokens fix the batch, the steps and the learning rates.

Rules and where they are from. Each is a rule of thumb with an anchor, not a theorem; the sweep that tests
the rates on a machine of yours is `benchmarks/lr_transfer.py`.

- **Batch**: proportional to tokens^0.383, independent of the model's size (nanochat's exponent; Bergsma et
  al. 2025, "Power Lines", arXiv 2505.13738, find power laws in the tokens alone for the optimal and for the
  critical batch). Anchor: nanochat's d24, 2^20 tokens a step at 8.76
  billion tokens. Rounded to a power of two. At 15 trillion tokens this gives 2^24, which is what
  Llama 3 405B used. Small runs are held to about 2,000 steps (1,415 at the fewest, by the rounding): Pocket
  was measured at 4,000, and the law alone would give it 75.
- **Muon's rate** does not depend on the width: an orthogonal update has the same effect on activations at
  every width (Yang et al. 2023, "A Spectral Condition for Feature Learning", arXiv 2310.17813; our updates
  carry its factor for tall matrices). It grows with the batch through two anchors, 0.006 at 1,024 tokens
  (Pocket, docs/decisions.md) and 0.02 at 2^19 (Jordan et al. 2024), an exponent of 0.193, and is not
  extrapolated beyond either.
- **AdamW's rate** trains embeddings, norms and head. It is constant in the width, as muP has it for
  embeddings (Yang et al. 2022, arXiv 2203.03466, table 3), and falls with the tokens: at widths 64, 128 and
  256 the best was 0.034 for 0.4 million and, at 64 and 128, 0.02 for 4 million (docs/decisions.md), an
  exponent of -0.23. It is extrapolated: at 8.76 billion tokens it says 0.0034, where nanochat's head has
  0.0028. Where AdamW trains the matrices too (`matrices=False`) it falls as 1/width. Anchor: 0.005 at width
  192 (Pocket).
- **Warm-up**: a hundredth of the steps, 20 to 2,000. **Decay**: the last 0.4 (OptimizerConfig's default;
  Haegele et al. 2024, arXiv 2405.18392, find 0.2 enough).
- **Tokens**, when not given: 20 a weight (Hoffmann et al. 2022, arXiv 2203.15556).
"""

from __future__ import annotations

import math
import re
from typing import NamedTuple

from publius.core.errors import UserError
from publius.model.config import ModelConfig, Scale, Tier, preset
from publius.training.optimizer import OptimizerConfig
from publius.training.pretrain import PretrainConfig

__all__ = ["Derived", "derive", "derived_optimizer", "pretrain_config", "read_amount"]

TOKENS_PER_WEIGHT = 20
_BATCH_ANCHOR, _TOKENS_ANCHOR, _BATCH_EXPONENT = 2**20, 8.76e9, 0.383
_FEWEST_STEPS = 2000
_ROWS_A_BATCH = 4
_MUON = ((2**10, 0.006), (2**19, 0.02))
_ADAMW = ((4e5, 0.034), (4e6, 0.02))
_ADAMW_WIDTH, _ADAMW_RATE = 192, 0.005
_MICRO_TOKENS = 16_384


class Derived(NamedTuple):
    """What the dial fixes."""

    tokens: int
    batch_tokens: int
    """Tokens a step, over all devices: a power of two."""
    steps: int
    sequence_length: int
    muon_lr: float
    adamw_lr: float
    warmup: int
    decay_fraction: float


def derive(
    config: ModelConfig,
    tokens: float | None = None,
    *,
    sequence_length: int | None = None,
    matrices: bool = True,
) -> Derived:
    """Batch, steps, rows and rates for training `config` on `tokens` tokens, by the rules above.

    Args:
        config: the model's shape.
        tokens: tokens to train on; None is 20 a weight.
        sequence_length: tokens in a row; None is the longest the model takes of which a batch holds four.
        matrices: Muon trains the matrices; False: AdamW trains everything.

    Raises:
        UserError: for no tokens, or fewer than one batch of rows this long.
    """
    tokens = TOKENS_PER_WEIGHT * config.parameters() if tokens is None else tokens
    if tokens < 2:
        raise UserError(f"{tokens:g} tokens train nothing", where="--tokens", fix="give more: 4M, 10B, 15T")
    law = _BATCH_ANCHOR * (tokens / _TOKENS_ANCHOR) ** _BATCH_EXPONENT
    batch = 2 ** max(1, round(math.log2(max(2.0, min(law, tokens / _FEWEST_STEPS)))))
    length = sequence_length
    if length is None:
        length = config.max_position
        while length > 16 and _ROWS_A_BATCH * length > batch:
            length //= 2
    batch = max(batch, length)
    if batch > tokens:
        raise UserError(
            f"{tokens:,.0f} tokens are less than one batch of {batch:,}",
            where="--tokens",
            fix="give more tokens, or shorter rows",
        )
    steps = max(1, round(tokens / batch))
    everything = _ADAMW_RATE * _ADAMW_WIDTH / config.hidden_size
    return Derived(
        tokens=round(tokens),
        batch_tokens=batch,
        steps=steps,
        sequence_length=length,
        muon_lr=_muon_rate(batch),
        adamw_lr=_adamw_rate(tokens) if matrices else everything,
        warmup=min(2000, max(20, steps // 100)),
        decay_fraction=OptimizerConfig().decay_fraction,
    )


def _muon_rate(batch_tokens: int) -> float:
    (low, rate), (high, top) = _MUON
    exponent = math.log(top / rate) / math.log(high / low)
    return rate * (min(max(batch_tokens, low), high) / low) ** exponent


def _adamw_rate(tokens: float) -> float:
    (low, top), (high, rate) = _ADAMW
    exponent = math.log(rate / top) / math.log(high / low)
    return top * (max(tokens, low) / low) ** exponent


def derived_optimizer(derived: Derived, *, matrices: bool = True) -> OptimizerConfig:
    """The optimizer that `derived` asks for."""
    return OptimizerConfig(
        muon_lr=derived.muon_lr,
        adamw_lr=derived.adamw_lr,
        matrices=matrices,
        warmup=derived.warmup,
        decay_fraction=derived.decay_fraction,
    )


def pretrain_config(
    tier: Tier,
    scale: Scale,
    tokens: float | None,
    vocab_size: int,
    *,
    micro_tokens: int = _MICRO_TOKENS,
    seed: int = 0,
) -> PretrainConfig:
    """A whole `PretrainConfig` from the dial, on one device.

    Args:
        tier: which of the family.
        scale: which size of the family.
        tokens: tokens to train on; None is 20 a weight.
        vocab_size: the tokenizer's.
        micro_tokens: most tokens in flight at once (1 or more, and a row at least); a larger batch is
            accumulated.
        seed: initial weights and order of the data.
    """
    shape = preset(tier, scale, vocab_size)
    found = derive(shape, tokens)
    # a power of two, as the batch is: any other would leave tokens of both over
    micro = min(found.batch_tokens, max(2 ** int(math.log2(micro_tokens)), found.sequence_length))
    return PretrainConfig(
        tier=tier,
        scale=scale,
        model=shape,
        tokens=found.tokens,
        batch_tokens=micro,
        accumulation=max(1, found.batch_tokens // micro),
        sequence_length=found.sequence_length,
        optimizer=derived_optimizer(found),
        seed=seed,
    )


def read_amount(text: str, where: str = "--tokens") -> float:
    """`15T`, `4.1M`, `1e9`, `2048` as a number.

    Raises:
        UserError: for anything else.
    """
    match = re.fullmatch(r"(\d+(?:\.\d+)?(?:e\d+)?)([kmbt]?)", text.strip().lower().replace("_", ""))
    if match is None:
        raise UserError(f"{text!r} is not an amount", where=where, fix="write it as 15T, 600B, 4.1M or 1e9")
    return round(float(match[1]) * {"": 1.0, "k": 1e3, "m": 1e6, "b": 1e9, "t": 1e12}[match[2]], 6)
