"""The shape of a model, the tiers of the family at every scale, and the arithmetic of their cost."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from publius.core.config import Config
from publius.core.errors import UserError
from publius.model.rope import DynamicRope, PlainRope, RopeScaling

__all__ = ["Family", "ModelConfig", "Scale", "Tier", "preset"]

Family = Literal["llama", "mistral", "qwen2", "qwen3", "smollm3"]
Tier = Literal["haiku", "sonnet", "opus"]
Scale = Literal["pocket", "laptop", "one_gpu", "cluster"]


class ModelConfig(Config):
    """A decoder-only transformer of the Llama family (Touvron et al. 2023, arXiv 2302.13971).

    The plain one is Llama. The fields after `tie_embeddings` are what its relatives do otherwise; a
    combination that none of them has is refused, because nobody else could load it.
    """

    vocab_size: int = Field(gt=0)
    hidden_size: int = Field(gt=0)
    layers: int = Field(gt=0)
    heads: int = Field(gt=0)
    kv_heads: int = Field(gt=0)
    head_dim: int = Field(gt=0)
    intermediate_size: int = Field(gt=0)
    max_position: int = Field(default=512, gt=0)
    rope_theta: float = Field(default=10_000.0, gt=0)
    norm_eps: float = Field(default=1e-5, gt=0)
    tie_embeddings: bool = True
    rope: RopeScaling = PlainRope()
    """How rotary positions are stretched past the length the model was first trained on."""
    no_rope_layers: tuple[int, ...] = ()
    """Layers (from 0) without rotary positions (SmolLM3)."""
    sliding_window: int | None = Field(default=None, gt=0)
    """In windowed layers a token sees itself and the `sliding_window` - 1 before it."""
    window_layers: tuple[int, ...] | None = None
    """Layers (from 0) that have the window; None is all."""
    qkv_bias: bool = False
    o_bias: bool = False
    mlp_bias: bool = False
    qk_norm: bool = False
    """RMSNorm on every query and key head before rotation (Qwen3)."""
    family: Family | None = None
    """Written into `config.json`, kept from import; None is the first of the list that has all it needs."""

    @model_validator(mode="after")
    def _layers_exist(self) -> ModelConfig:
        for name in ("no_rope_layers", "window_layers"):
            chosen = getattr(self, name) or ()
            if list(chosen) != sorted(set(chosen)) or any(not 0 <= i < self.layers for i in chosen):
                raise ValueError(
                    f"{name} {chosen} must be rising numbers of layers, from 0 to {self.layers - 1}"
                )
        if self.window_layers is not None and self.sliding_window is None:
            raise ValueError("window_layers needs a sliding_window")
        if self.window_layers in ((), tuple(range(self.layers))):
            raise ValueError("window_layers: leave it out when all layers have the window, or none has")
        return self

    @model_validator(mode="after")
    def _has_a_family(self) -> ModelConfig:
        if self.family is not None and (missing := _lacks(self, self.family)):
            raise ValueError(f"family {self.family} has no {missing}")
        if self.family is None and all(_lacks(self, family) for family in _FAMILIES):
            reasons = "; ".join(f"{family}: {_lacks(self, family)}" for family in _FAMILIES)
            raise ValueError(f"no model family has all of this (missing, {reasons})")
        return self

    @model_validator(mode="after")
    def _divides(self) -> ModelConfig:
        if self.heads % self.kv_heads:
            raise ValueError(f"heads ({self.heads}) must be a multiple of kv_heads ({self.kv_heads})")
        if self.head_dim % 2:
            raise ValueError(f"head_dim ({self.head_dim}) must be even: rotary positions turn pairs")
        return self

    @property
    def written_family(self) -> Family:
        """The family whose `config.json` and class names describe this model."""
        return self.family or next(family for family in _FAMILIES if not _lacks(self, family))

    def window(self, layer: int) -> int | None:
        """The sliding window of `layer`, None where it sees everything before it."""
        return self.sliding_window if self.window_layers is None or layer in self.window_layers else None

    @property
    def rotary_limit(self) -> int:
        """Positions the rotary table reaches. Only the dynamic variant goes beyond `max_position`."""
        stretch = self.rope.factor if isinstance(self.rope, DynamicRope) else 1.0
        return int(self.max_position * stretch)

    def layer_matrices(self) -> int:
        """Weights in one block's seven matrices."""
        attention = 2 * self.hidden_size * self.head_dim * (self.heads + self.kv_heads)
        return attention + 3 * self.hidden_size * self.intermediate_size

    def parameters(self) -> int:
        """All weights; a tied head is counted once."""
        embeddings = self.vocab_size * self.hidden_size * (1 if self.tie_embeddings else 2)
        norms = (2 * self.layers + 1) * self.hidden_size + self.layers * 2 * self.head_dim * self.qk_norm
        biases = (
            self.qkv_bias * (self.heads + 2 * self.kv_heads) * self.head_dim
            + self.o_bias * self.hidden_size
            + self.mlp_bias * (2 * self.intermediate_size + self.hidden_size)
        )
        return embeddings + self.layers * (self.layer_matrices() + biases) + norms

    def flops_per_token(self, seq_len: int) -> float:
        """Forward and backward FLOPs of training on one token in a row of `seq_len`.

        6 per weight of every matrix product (head included, the embedding look-up not; Kaplan et al.
        2020, arXiv 2001.08361, section 2.1), and 12 x heads x head_dim for every pair of tokens that
        attention looks at: seq_len / 2 a token, fewer in a layer with a window. Divide by 3 for the forward
        pass alone.
        """
        matrices = self.layers * self.layer_matrices() + self.vocab_size * self.hidden_size
        windows = [min(self.window(layer) or seq_len, seq_len) for layer in range(self.layers)]
        seen = sum(window - window * window / (2 * seq_len) for window in windows)
        return 6.0 * matrices + 12.0 * self.heads * self.head_dim * seen


_FAMILIES: tuple[Family, ...] = ("llama", "mistral", "qwen2", "qwen3", "smollm3")


def _lacks(config: ModelConfig, family: Family) -> str:
    """What `config` has and `family` has not, or the other way about, in words; empty when it fits."""
    pair, partial = config.qkv_bias == config.o_bias, config.window_layers is not None
    windowed = config.sliding_window is not None
    rules: dict[str, bool] = {
        "a bias on q, k and v without one on o (or the reverse)": not pair and family != "qwen2",
        "attention biases": config.qkv_bias and family == "mistral",
        "attention without biases on q, k and v": not config.qkv_bias and family == "qwen2",
        "a bias on o": config.o_bias and family == "qwen2",
        "mlp_bias": config.mlp_bias and family not in ("llama", "smollm3"),
        "qk_norm": config.qk_norm and family != "qwen3",
        "attention without qk_norm": not config.qk_norm and family == "qwen3",
        "sliding_window": windowed and family == "llama",
        "windows on some layers only": partial and family in ("llama", "mistral"),
        "layers without rotary positions": bool(config.no_rope_layers) and family != "smollm3",
    }
    return ", ".join(name for name, holds in rules.items() if holds)


# hidden, layers, heads, kv_heads, head_dim, intermediate
_SHAPES: dict[tuple[Scale, Tier], tuple[int, int, int, int, int, int]] = {
    ("pocket", "haiku"): (192, 4, 6, 2, 32, 512),
    ("pocket", "sonnet"): (256, 4, 8, 4, 32, 704),
    ("pocket", "opus"): (320, 5, 10, 2, 32, 896),
    ("laptop", "haiku"): (384, 6, 6, 2, 64, 1024),
    ("laptop", "sonnet"): (512, 8, 8, 2, 64, 1408),
    ("laptop", "opus"): (768, 12, 12, 4, 64, 2048),
    ("one_gpu", "haiku"): (1024, 20, 16, 4, 64, 2816),
    ("one_gpu", "sonnet"): (1536, 24, 12, 4, 128, 4096),
    ("one_gpu", "opus"): (2560, 32, 20, 4, 128, 6912),
    ("cluster", "haiku"): (4096, 32, 32, 8, 128, 14336),
    ("cluster", "sonnet"): (8192, 80, 64, 8, 128, 28672),
    ("cluster", "opus"): (14336, 100, 112, 8, 128, 40960),
}
_CONTEXT: dict[Scale, int] = {"pocket": 1024, "laptop": 2048, "one_gpu": 4096, "cluster": 8192}


def preset(tier: Tier, scale: Scale, vocab_size: int) -> ModelConfig:
    """The family's `tier` at `scale`.

    Pocket is 2-6M weights, laptop 11-90M, one_gpu 0.3-2.6B, cluster 8-230B (the last constructed on
    the meta device and planned; see `publius.model.parallel`). Small vocabularies tie the head.

    Raises:
        UserError: for an unknown tier or scale.
    """
    shape = _SHAPES.get((scale, tier))
    if shape is None:
        known = ", ".join(sorted({s for s, _ in _SHAPES}))
        fix = f"tiers: haiku, sonnet, opus; scales: {known}"
        raise UserError(f"no preset for tier {tier!r} at scale {scale!r}", where="preset", fix=fix)
    hidden, layers, heads, kv_heads, head_dim, intermediate = shape
    return ModelConfig(
        vocab_size=vocab_size,
        hidden_size=hidden,
        layers=layers,
        heads=heads,
        kv_heads=kv_heads,
        head_dim=head_dim,
        intermediate_size=intermediate,
        max_position=_CONTEXT[scale],
        rope_theta=10_000.0 if scale in ("pocket", "laptop") else 500_000.0,
        tie_embeddings=scale in ("pocket", "laptop"),
    )
