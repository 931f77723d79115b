"""How a last-block head reads an exchange: over what the engine has kept of it, or all of it anew.

Over the engine's *trunk* (`Request.trunk`) only the block itself is computed, by the CPU's native pass, and
its numbers depend on the tokens alone, whatever is read together. Where there is no trunk PyTorch computes
the layers below once more.

Shape letters: B rows, T tokens, D hidden size, K outputs, H key heads, d head dimension.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Sequence
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from publius.inference.kv_cache import PagedCache
from publius.inference.native import NativeModel, can_run
from publius.inference.pages import PAGE
from publius.model.attention import KVCache, make_biases
from publius.model.norm import RMSNorm
from publius.model.transformer import Block, Transformer

__all__ = ["Head", "HeadReading", "NativeHead", "TrunkReading", "stream_before"]

_AT_ONCE = 512
"""Most tokens of one native call: what it needs besides grows with them."""


class Head(Protocol):
    """What is read with."""

    block: Block
    norm: RMSNorm
    out: nn.Linear

    def __call__(
        self, stream_BTD: Tensor, model: Transformer, positions_BT: Tensor, cache: KVCache, /
    ) -> Tensor:
        """Log-odds [B, T, K] of what the block gets."""
        ...


def stream_before(
    model: Transformer, tokens_BT: Tensor, positions_BT: Tensor | None = None, cache: KVCache | None = None
) -> Tensor:
    """The residual stream [B, T, D] that the last block gets; causal, whole rows, or their continuation over
    a cache, with its positions.

    Computed beside the engine's own passes, from the same weights: it leaves no trace in the model.
    """
    x_BTD = model.model.embed_tokens(tokens_BT)
    cos, sin = model.rotary.at(tokens_BT, positions_BT, x_BTD.dtype)
    biases = make_biases(None, x_BTD, positions_BT, model.config, cached=cache is not None)
    for block in list(model.model.layers)[:-1]:
        x_BTD = block(x_BTD, cos, sin, biases, cache)
    return x_BTD


class NativeHead:
    """A head packed for the native pass: a model of one layer, whose logits are the outputs.

    Args:
        head: on CPU, fp32.
        network: the model it stands on, which `can_run` says yes to.
    """

    def __init__(self, head: Head, network: Transformer) -> None:
        shape = {"layers": 1, "vocab_size": head.out.out_features, "tie_embeddings": False}
        with torch.device("cpu"):
            shell = Transformer(network.config.model_copy(update=shape), seed=0)
        shell.model.layers[0], shell.model.norm, shell.lm_head = head.block, head.norm, head.out  # pyright: ignore
        self.config = shell.config
        self._model = NativeModel(shell.float(), "float32", torch.float32, threads=1)
        self._bias_K = head.out.bias.detach().float().numpy().copy()
        self._lock = threading.Lock()

    @staticmethod
    def made(head: Head, network: Transformer) -> NativeHead | None:
        """None where the native pass cannot run it."""
        return NativeHead(head, network) if can_run(network.config, network.device) else None

    def effort(self, tokens: int, before: int) -> float:
        """FLOPs of reading `tokens` behind `before`; infinite while others read, who would be waited for."""
        if self._lock.locked():
            return math.inf
        return tokens * self.config.flops_per_token(2 * before + tokens) / 3

    def read(
        self, trunk_TD: NDArray[np.float32], first: int, wanted: int, cache: PagedCache
    ) -> NDArray[np.float32]:
        """The outputs [wanted, K] at the last places of some that follow each other, `first` on."""
        count, found = len(trunk_TD), list[NDArray[np.float32]]()
        table = np.arange(1, cache.pages + 1, dtype=np.int32)[None]
        for start in range(0, count, _AT_ONCE):
            inputs_TD = torch.from_numpy(trunk_TD[start : start + _AT_ONCE])
            size = len(inputs_TD)
            places = np.arange(first + start, first + start + size, dtype=np.int32)
            rows = np.arange(max(0, count - wanted - start), size, dtype=np.int32)
            with self._lock:  # one pass at a time: they share what they compute in
                told = self._model.forward(
                    places, places, np.array((0, size), np.int32), table, rows, cache.keys, cache.values,
                    inputs=inputs_TD,
                )  # fmt: skip
            found.append(told.logits_NV.numpy() + self._bias_K)
        return np.concatenate(found)


class TrunkReading:
    """One exchange as a head reads it over the engine's trunk, each place once.

    Args:
        head: packed.
        prompt: tokens of it.
        trunk_TD: written up to the place that each token asked about was drawn from.
    """

    def __init__(self, head: NativeHead, prompt: int, trunk_TD: NDArray[np.float32]) -> None:
        self._head, self._trunk, self._next, self._place = head, trunk_TD, prompt, 0
        self._kept: PagedCache | None = PagedCache(head.config, -(-len(trunk_TD) // PAGE), native=True)

    def more(self, drawn: Sequence[int]) -> NDArray[np.float32]:
        """As `HeadReading.more`."""
        kept, self._kept = self._kept, None
        if kept is None or not self._next:
            raise ValueError("nothing can be read without what came before it")
        count = len(drawn)
        end = self._next + count - 1
        if end > len(self._trunk):
            raise ValueError("more tokens than the engine has kept the trunk of")
        rows = np.empty((0, self._head.config.vocab_size), np.float32)
        if count:
            rows = self._head.read(self._trunk[self._place : end], self._place, count, kept)
            self._next, self._place = end + 1, end
        self._kept = kept
        return rows


class _Kept:
    """Keys and values [1, H, T, d] of what has been read, by layer."""

    def __init__(self) -> None:
        self._layers: dict[int, tuple[Tensor, Tensor]] = {}

    def update(self, layer: int, k_BKTd: Tensor, v_BKTd: Tensor) -> tuple[Tensor, Tensor]:
        """As `KVCache.update`."""
        if layer in self._layers:
            k, v = self._layers[layer]
            k_BKTd, v_BKTd = torch.cat((k, k_BKTd), 2), torch.cat((v, v_BKTd), 2)
        self._layers[layer] = k_BKTd, v_BKTd
        return k_BKTd, v_BKTd


class HeadReading:
    """One exchange as the head reads it, each token once.

    Which tokens are read together changes the last digits of what is said of them: whoever wants the same
    digits asks in the same pieces (`cascade` does). What failed once says nothing any more.

    Args:
        head: the block.
        network: the model it stands on.
        prompt: its tokens.
    """

    def __init__(self, head: Head, network: Transformer, prompt: Sequence[int]) -> None:
        self._head, self._network = head, network
        self._next, self._place = list(prompt), 0
        self._kept: _Kept | None = _Kept()
        with torch.inference_mode(False):
            # the model keeps these tables, and those made inside `more` could not be trained through
            for dtype in {network.dtype, torch.float32}:
                network.rotary.at(torch.zeros((1, 1), dtype=torch.long, device=network.device), None, dtype)

    @torch.inference_mode()
    def more(self, drawn: Sequence[int]) -> NDArray[np.float32]:
        """Log-odds [tokens, K] of the next tokens drawn, each at the place its token was drawn from.

        Raises:
            ValueError: after a failure: something would be missing from what was read.
        """
        kept, self._kept = self._kept, None
        if kept is None or not self._next:
            raise ValueError("nothing can be read without what came before it")
        count, device = len(drawn), self._network.device
        if count:
            tokens_BT = torch.tensor([[*self._next, *drawn[:-1]]], device=device)
            positions_BT = torch.arange(tokens_BT.shape[1], device=device)[None] + self._place
            stream_BTD = stream_before(self._network, tokens_BT, positions_BT, kept)
            logits_BTK = self._head(stream_BTD, self._network, positions_BT, kept)
            self._next, self._place = [drawn[-1]], self._place + tokens_BT.shape[1]
            rows = logits_BTK[0, -count:].float().cpu().numpy()
        else:
            rows = np.empty((0, self._head.out.out_features), np.float32)
        self._kept = kept
        return rows
