"""A model's weights packed for `forward.cpp`, and one call: tokens in, logits out, keys and values kept."""

from __future__ import annotations

import ctypes
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from publius.inference.native.build import library
from publius.model.attention import Attention
from publius.model.config import ModelConfig
from publius.model.rope import DynamicRope
from publius.model.transformer import Block, Transformer

__all__ = ["LANES", "NativeModel", "Passed", "Weights", "can_run"]

Weights = Literal["float32", "bfloat16", "int8"]
"""`int8` keeps a scale for each output. Activations are then int8 too, with a scale for every 32, where the
CPU multiplies in int8; else fp32."""

LANES = 16
_KINDS: dict[Weights, int] = {"float32": 0, "bfloat16": 1, "int8": 2}
_NAMES: dict[torch.dtype, Weights] = {
    torch.float32: "float32",
    torch.bfloat16: "bfloat16",
    torch.int8: "int8",
}
_QKV, _O, _GATE_UP, _DOWN, _HEAD = range(5)
_BEFORE_ATTENTION, _BEFORE_MLP, _QUERIES, _KEYS, _LAST = range(5)
Ints = NDArray[np.int32]


class _Shape(ctypes.Structure):
    _fields_ = [
        (name, ctypes.c_int32)
        for name in (
            "layers", "width", "heads", "kv_heads", "head_dim", "inner", "vocab", "kind", "cache",
            "threads",
        )
    ] + [("eps", ctypes.c_float)]  # fmt: skip


class _Call(ctypes.Structure):
    _fields_ = (
        [(name, ctypes.c_int32) for name in ("rows", "sequences", "outputs", "table_width")]
        + [(name, ctypes.c_void_p) for name in ("tokens", "positions", "starts", "tables", "wanted")]
        + [(name, ctypes.c_void_p) for name in ("keys", "values")]
        + [("pages", ctypes.c_int64), ("logits", ctypes.c_void_p)]
        + [("taps", ctypes.c_int32), ("layers", ctypes.c_void_p), ("states", ctypes.c_void_p)]
        + [("probe", ctypes.c_void_p), ("reads", ctypes.c_int32)]
        + [(name, ctypes.c_void_p) for name in ("read", "inputs", "trunk", "trunks")]
    )


class Passed(NamedTuple):
    """What one call computed; N wanted rows."""

    logits_NV: Tensor
    """fp32."""
    states_NS: Tensor | None
    """fp32, where they are asked for."""
    readings_NK: NDArray[np.float32] | None
    """What the probe says of these states, where there is one."""


def can_run(config: ModelConfig, device: torch.device) -> bool:
    """Whether the native pass computes this model here. Dynamic RoPE turns rows by the longest: not it."""
    return device.type == "cpu" and not isinstance(config.rope, DynamicRope) and library() is not None


class NativeModel:
    """`model` packed for the CPU it is on.

    Args:
        model: on CPU. Its embedding (fp32 or bf16) and rotary table are shared, all else is packed (a copy).
        weights: what products read.
        cache_dtype: of keys and values, fp32, bf16 or int8.
        threads: of a call.
    """

    def __init__(self, model: Transformer, weights: Weights, cache_dtype: torch.dtype, threads: int) -> None:
        found = library()
        assert found is not None, "ask can_run first"
        self._library, c = found, model.config
        self._library.publius_new.restype = ctypes.c_void_p
        self.config, self.cache_dtype = c, cache_dtype
        self._columns = -(-c.vocab_size // LANES) * LANES
        shape = _Shape(
            c.layers, c.hidden_size, c.heads, c.kv_heads, c.head_dim, c.intermediate_size, c.vocab_size,
            _KINDS[weights], _KINDS[_NAMES[cache_dtype]], threads, c.norm_eps,
        )  # fmt: skip
        self._model = ctypes.c_void_p(self._library.publius_new(ctypes.byref(shape)))
        self._kept: list[Tensor] = []
        self._known: dict[str, tuple[NDArray[Any], int]] = {}
        self.pack(model)

    def __del__(self) -> None:
        if getattr(self, "_model", None):
            self._library.publius_free(self._model)

    def set_threads(self, threads: int) -> None:
        """Of calls from now on."""
        self._library.publius_threads(self._model, threads)

    @torch.no_grad()
    def pack(self, model: Transformer) -> None:
        """Take the weights of `model`, of the same config, again."""
        c = self.config
        for number, block in enumerate(model.model.layers):
            assert isinstance(block, Block)
            attention, mlp = block.self_attn, block.mlp
            self._matrix(number, _QKV, attention.qkv_proj)
            self._matrix(number, _O, attention.o_proj)
            self._matrix(number, _GATE_UP, mlp.gate_up_proj)
            self._matrix(number, _DOWN, mlp.down_proj)
            self._norm(number, _BEFORE_ATTENTION, block.input_layernorm.weight)
            self._norm(number, _BEFORE_MLP, block.post_attention_layernorm.weight)
            self._attention(number, attention)
        self._weight(0, _HEAD, model.head_weight)
        self._norm(0, _LAST, model.model.norm.weight)
        places = torch.arange(c.max_position)[None]
        with torch.inference_mode(False):
            cosine, sine = (
                part[0, :, 0].contiguous() for part in model.rotary.at(places, None, torch.float32)
            )
        embedding = model.model.embed_tokens.weight.detach().contiguous()
        if embedding.dtype not in (torch.float32, torch.bfloat16):
            embedding = embedding.float()
        self._kept = [embedding, cosine, sine]
        self._library.publius_tables(
            self._model, _at(embedding), embedding.dtype == torch.bfloat16, _at(cosine), _at(sine)
        )

    def _attention(self, number: int, attention: Attention) -> None:
        if attention.q_norm is not None and attention.k_norm is not None:
            self._norm(number, _QUERIES, attention.q_norm.weight)
            self._norm(number, _KEYS, attention.k_norm.weight)
        self._library.publius_layer(self._model, number, attention.window or 0, attention.rotary)

    def _matrix(self, layer: int, which: int, linear: nn.Linear) -> None:
        self._weight(layer, which, linear.weight)
        if linear.bias is not None:
            bias = linear.bias.detach().float().contiguous()
            self._library.publius_bias(self._model, layer, which, _at(bias), len(bias))

    def _weight(self, layer: int, which: int, weight: Tensor) -> None:
        weight, half = weight.detach().contiguous(), weight.dtype == torch.bfloat16
        if not half:
            weight = weight.float()
        self._library.publius_matrix(self._model, layer, which, _at(weight), half, *weight.shape)

    def _norm(self, layer: int, which: int, weight: Tensor) -> None:
        weight = weight.detach().float().contiguous()
        self._library.publius_norm(self._model, layer, which, _at(weight), len(weight))

    def forward(
        self,
        tokens: Ints,
        positions: Ints,
        starts: Ints,
        tables: Ints,
        wanted: Ints,
        keys: Tensor,
        values: Tensor,
        layers: tuple[int, ...] | None = None,
        *,
        probe: NDArray[np.float32] | None = None,
        inputs: Tensor | None = None,
        trunk: Tensor | None = None,
        trunks: NDArray[np.uint64] | None = None,
    ) -> Passed:
        """One pass.

        Args:
            tokens, positions: [rows], the rows of a sequence next to each other, at rising positions.
            starts: [sequences + 1], the first row of each sequence, and the number of rows.
            tables: [sequences, n], the page of every 16 positions.
            wanted: rows whose logits are returned.
            keys, values: of `PagedCache`, written at the new positions and read before them.
            layers: after which layers (rising) the residual stream is wanted, divided by its root mean
                square, before the final hidden state; None wants no states at all.
            probe: [K, (layers + 1) * D + 1], linear outputs of these states, a bias last: they are returned
                in place of the states.
            inputs: fp32 [rows, D], what the first layer gets in place of embedded tokens.
            trunk: of `PagedCache`, where what the last layer gets is written, at the new positions.
            trunks: [sequences], beside `trunk`: addresses of fp32 [positions, D] that it is also written to,
                or 0.
        """
        # Said in full: the native pass writes fp32 whatever PyTorch's defaults are.
        logits = torch.empty(len(wanted), self._columns, dtype=torch.float32, device="cpu")
        taps = np.array(layers or (), np.int32)
        states = read = None
        if probe is not None:
            read = self._room(len(wanted), len(probe))
        elif layers is not None:
            wide = (len(taps) + 1) * self.config.hidden_size
            states = torch.empty(len(wanted), wide, dtype=torch.float32, device="cpu")
        call = _Call(
            len(tokens), len(starts) - 1, len(wanted), tables.shape[1],
            tokens.ctypes.data, positions.ctypes.data, starts.ctypes.data, tables.ctypes.data,
            wanted.ctypes.data,
            keys.data_ptr(), values.data_ptr(), keys.shape[1], logits.data_ptr(),
            len(taps), taps.ctypes.data, None if states is None else states.data_ptr(),
            self._again("probe", probe), 0 if probe is None else len(probe), self._again("read", read),
            None if inputs is None else inputs.data_ptr(), None if trunk is None else trunk.data_ptr(),
            self._again("trunks", trunks),
        )  # fmt: skip
        self._library.publius_forward(self._model, ctypes.byref(call))
        told = logits[:, : self.config.vocab_size]
        return Passed(told, states, None if read is None else read[: len(wanted)].copy())

    def _again(self, name: str, array: NDArray[Any] | None) -> int | None:
        """Where an array is, which mostly is the one of the call before: asking numpy is slow."""
        if array is None:
            return None
        known = self._known.get(name)
        if known is None or known[0] is not array:
            known = self._known[name] = array, array.ctypes.data
        return known[1]

    def _room(self, rows: int, outputs: int) -> NDArray[np.float32]:
        """Where readings are written, [at least `rows`, outputs]; the same from call to call."""
        known = self._known.get("read")
        if known is None or len(known[0]) < rows or known[0].shape[1] != outputs:
            return np.empty((rows, outputs), np.float32)
        return known[0]


def _at(tensor: Tensor) -> ctypes.c_void_p:
    return ctypes.c_void_p(tensor.data_ptr())
