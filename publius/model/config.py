"""The shape of a model, the tiers of the family at every scale, and the arithmetic of their cost."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field, model_validator

from publius.core.config import Config
from publius.core.errors import UserError

__all__ = ["ModelConfig", "Scale", "Tier", "preset"]

Tier = Literal["haiku", "sonnet", "opus"]
Scale = Literal["pocket", "laptop", "one_gpu", "cluster"]


class ModelConfig(Config):
    """A decoder-only transformer of the Llama family (Touvron et al. 2023, arXiv 2302.13971)."""

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

    @model_validator(mode="after")
    def _divides(self) -> ModelConfig:
        if self.heads % self.kv_heads:
            raise ValueError(f"heads ({self.heads}) must be a multiple of kv_heads ({self.kv_heads})")
        if self.head_dim % 2:
            raise ValueError(f"head_dim ({self.head_dim}) must be even: rotary positions turn pairs")
        return self

    def layer_matrices(self) -> int:
        """Weights in one block's seven matrices."""
        attention = 2 * self.hidden_size * self.head_dim * (self.heads + self.kv_heads)
        return attention + 3 * self.hidden_size * self.intermediate_size

    def parameters(self) -> int:
        """All weights; a tied head is counted once."""
        embeddings = self.vocab_size * self.hidden_size * (1 if self.tie_embeddings else 2)
        norms = (2 * self.layers + 1) * self.hidden_size
        return embeddings + self.layers * self.layer_matrices() + norms

    def flops_per_token(self, seq_len: int) -> float:
        """Forward and backward FLOPs of training on one token in a row of `seq_len`.

        6 per weight of every matrix product (head included, the embedding look-up not; Kaplan et al.
        2020, arXiv 2001.08361, section 2.1), and 6 x layers x heads x head_dim x seq_len for attention,
        counting only the causal half. Divide by 3 for the forward pass alone.
        """
        matrices = self.layers * self.layer_matrices() + self.vocab_size * self.hidden_size
        return 6.0 * matrices + 6.0 * self.layers * self.heads * self.head_dim * seq_len

    def to_hf(self, **ids: int) -> dict[str, Any]:
        """The `config.json` that transformers, vLLM and llama.cpp's converter read; `ids` are token ids."""
        return {
            "architectures": ["LlamaForCausalLM"],
            "model_type": "llama",
            "vocab_size": self.vocab_size,
            "hidden_size": self.hidden_size,
            "intermediate_size": self.intermediate_size,
            "num_hidden_layers": self.layers,
            "num_attention_heads": self.heads,
            "num_key_value_heads": self.kv_heads,
            "head_dim": self.head_dim,
            "max_position_embeddings": self.max_position,
            "rms_norm_eps": self.norm_eps,
            "rope_theta": self.rope_theta,
            "tie_word_embeddings": self.tie_embeddings,
            "hidden_act": "silu",
            "attention_bias": False,
            "mlp_bias": False,
            "attention_dropout": 0.0,
            "torch_dtype": "float32",
            **ids,
        }

    @classmethod
    def from_hf(cls, config: dict[str, Any], where: str = "config.json") -> ModelConfig:
        """Read a `config.json` of the plain Llama family.

        Raises:
            UserError: naming the first feature this architecture does not have.
        """
        _check_supported(config, where)
        rope = config.get("rope_parameters") or {}
        heads = int(config["num_attention_heads"])
        return cls(
            vocab_size=config["vocab_size"],
            hidden_size=config["hidden_size"],
            layers=config["num_hidden_layers"],
            heads=heads,
            kv_heads=config.get("num_key_value_heads") or heads,
            head_dim=config.get("head_dim") or config["hidden_size"] // heads,
            intermediate_size=config["intermediate_size"],
            max_position=config.get("max_position_embeddings", 2048),
            rope_theta=rope.get("rope_theta") or config.get("rope_theta") or 10_000.0,
            norm_eps=config.get("rms_norm_eps", 1e-6),
            tie_embeddings=config.get("tie_word_embeddings", False),
        )


def _check_supported(config: dict[str, Any], where: str) -> None:
    fix = "use a Llama-family checkpoint: SwiGLU, RMSNorm, plain rotary positions, no biases"
    needed = (
        "vocab_size",
        "hidden_size",
        "num_hidden_layers",
        "num_attention_heads",
        "intermediate_size",
    )
    for name in needed:
        if name not in config:
            raise UserError(f"the model's config has no {name!r}", where=where, fix=fix)
    kind = config.get("model_type")
    if kind not in ("llama", "mistral"):
        raise UserError(f"model_type {kind!r} is not supported", where=where, fix=fix)
    scaling = config.get("rope_parameters") or config.get("rope_scaling") or {}
    if scaling.get("rope_type", scaling.get("type", "default")) != "default":
        raise UserError(f"rotary scaling {scaling} is not supported", where=where, fix=fix)
    for name in ("attention_bias", "mlp_bias", "sliding_window"):
        if config.get(name):
            raise UserError(f"{name}={config[name]!r} is not supported", where=where, fix=fix)
    if config.get("hidden_act", "silu") != "silu":
        raise UserError(f"hidden_act {config['hidden_act']!r} is not supported", where=where, fix=fix)


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
