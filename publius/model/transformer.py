"""The one model definition that trains, rolls out and serves: plain tensors."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from publius.model.attention import Attention, Biases, KVCache, RotaryTable, make_biases
from publius.model.config import ModelConfig
from publius.model.fused import Fused, fused_parts
from publius.model.norm import RMSNorm
from publius.model.packed import Kernel, Packing

__all__ = ["Block", "FeedForward", "Transformer"]


class FeedForward(nn.Module):
    """SwiGLU (Shazeer 2020, arXiv 2002.05202): down(silu(gate(x)) * up(x))."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        rows = {"gate_proj": config.intermediate_size, "up_proj": config.intermediate_size}
        self.gate_up_proj = Fused(config.hidden_size, rows, bias=config.mlp_bias)
        self.down_proj = nn.Linear(config.intermediate_size, config.hidden_size, bias=config.mlp_bias)

    def forward(self, x_BTD: Tensor) -> Tensor:
        """[B, T, D] -> [B, T, D]."""
        gate, up = self.gate_up_proj(x_BTD).chunk(2, dim=-1)
        return self.down_proj(F.silu(gate) * up)


class Block(nn.Module):
    """RMSNorm before attention and before the feed-forward, each added to the residual stream."""

    def __init__(self, config: ModelConfig, layer: int) -> None:
        super().__init__()
        self.self_attn = Attention(config, layer)
        self.mlp = FeedForward(config)
        self.input_layernorm = RMSNorm(config.hidden_size, config.norm_eps)
        self.post_attention_layernorm = RMSNorm(config.hidden_size, config.norm_eps)

    def forward(
        self, x_BTD: Tensor, cos: Tensor, sin: Tensor, biases: Biases, cache: KVCache | None
    ) -> Tensor:
        """One layer; arguments as `Attention.forward`."""
        x_BTD = x_BTD + self.self_attn(self.input_layernorm(x_BTD), cos, sin, biases, cache)
        return x_BTD + self.mlp(self.post_attention_layernorm(x_BTD))


class _Body(nn.Module):
    """Holds the weights under the names `model.*` that HF checkpoints use (fused ones apart: see `fused`)."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.embed_tokens = nn.Embedding(config.vocab_size, config.hidden_size)
        self.layers = nn.ModuleList(Block(config, layer) for layer in range(config.layers))
        self.norm = RMSNorm(config.hidden_size, config.norm_eps)


class Transformer(nn.Module):
    """A decoder-only language model.

    `compiled_loss`: training losses may compile what they do to the logits (`training.twin` sets it).
    `kernel`: what computes attention in training where it is not all causal (`training.twin` sets it).
    `adapted`: the blocks' matrices have changes that learn, on a frozen embedding (`adapters` sets it).

    Args:
        config: its shape.
        seed: initial weights come from a generator of their own with this seed; None draws from
            torch's global generator. On the meta device nothing is drawn.
    """

    def __init__(self, config: ModelConfig, *, seed: int | None = None) -> None:
        super().__init__()
        self.config = config
        self.compiled_loss = self.adapted = False
        self.kernel: Kernel = "sdpa"
        self.rotary = RotaryTable(config)
        device = torch.get_default_device()
        with torch.device("meta"):  # nn.Linear would draw weights of its own, only to lose them
            self.model = _Body(config)
            wide, out = config.hidden_size, config.vocab_size
            self.lm_head = None if config.tie_embeddings else nn.Linear(wide, out, bias=False)
        if device.type != "meta":
            self.to_empty(device=device)
            self._initialise(seed)

    @property
    def head_weight(self) -> Tensor:
        """[V, D]: the matrix that turns hidden states into logits (the embedding when tied)."""
        return self.model.embed_tokens.weight if self.lm_head is None else self.lm_head.weight

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self.head_weight.device

    @property
    def dtype(self) -> torch.dtype:
        """The weights' dtype."""
        return self.head_weight.dtype

    @torch.no_grad()
    def _initialise(self, seed: int | None) -> None:
        """Normal weights: embeddings 0.02, matrices 1/sqrt(fan in), and those that write to the residual
        stream shrunk by sqrt(2 x layers) (GPT-2, Radford et al. 2019, section 2.3)."""
        generator = None if seed is None else torch.Generator(self.device).manual_seed(seed)
        fused = fused_parts(self)
        for name, weight in self.named_parameters():
            if weight.ndim < 2:
                weight.fill_(0.0 if name.endswith("bias") else 1.0)  # biases, norms
                continue
            std = 0.02 if "embed_tokens" in name or "lm_head" in name else weight.shape[1] ** -0.5
            if name.endswith(("o_proj.weight", "down_proj.weight")):
                std /= (2 * self.config.layers) ** 0.5
            for rows in [weight[p.start : p.stop] for p in fused[name]] if name in fused else [weight]:
                rows.normal_(0.0, std, generator=generator)

    def hidden(
        self,
        tokens_BT: Tensor,
        *,
        positions_BT: Tensor | None = None,
        mask: Tensor | None = None,
        packing: Packing | None = None,
        cache: KVCache | None = None,
    ) -> Tensor:
        """Hidden states after the final norm, [B, T, D].

        Args:
            tokens_BT: int64 token ids.
            positions_BT: each token's position; None counts 0..T-1. With a cache, give them.
            mask: bool [B, 1, Tq, Tk], True = attend, never to a later place; None is causal (over the cache's
                keys too).
            packing: which places of the rows see each other, instead of a mask; causal within documents.
            cache: takes each layer's new keys and values and returns all to attend to.

        Raises:
            ValueError: with a cache but no positions, a mask and a packing, or a row longer than
                `max_position`.
        """
        if cache is not None and positions_BT is None:
            raise ValueError("a cached forward needs positions_BT: the cache does not say where it is")
        if mask is not None and packing is not None:
            raise ValueError("give a mask or a packing, not both")
        x_BTD = self.model.embed_tokens(tokens_BT)
        cos, sin = self.rotary.at(tokens_BT, positions_BT, x_BTD.dtype)
        biases = make_biases(
            mask, x_BTD, positions_BT, self.config,
            cached=cache is not None, learns=self.adapted, packing=packing, kernel=self.kernel,
        )  # fmt: skip
        for block in self.model.layers:
            x_BTD = block(x_BTD, cos, sin, biases, cache)
        return self.model.norm(x_BTD)

    def logits(self, hidden: Tensor) -> Tensor:
        """[..., D] -> [..., V]."""
        return F.linear(hidden, self.head_weight)

    def forward(
        self,
        tokens_BT: Tensor,
        *,
        positions_BT: Tensor | None = None,
        mask: Tensor | None = None,
        cache: KVCache | None = None,
    ) -> Tensor:
        """Logits [B, T, V]; arguments as `hidden`."""
        return self.logits(self.hidden(tokens_BT, positions_BT=positions_BT, mask=mask, cache=cache))
