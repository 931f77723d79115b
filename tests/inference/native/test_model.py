"""The native pass against the model's own, and against itself: in other pieces, on other threads."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from publius.inference.kv_cache import PagedCache
from publius.inference.native import NativeModel, Weights, can_run, library, why_not
from publius.inference.pages import PAGE
from publius.model.rope import DynamicRope
from publius.model.transformer import Transformer
from publius.testing import tiny_model
from tests.laws.test_engine import VARIANTS

pytestmark = pytest.mark.skipif(library() is None, reason=f"no native pass: {why_not()}")
ODD: dict[str, dict[str, Any]] = {
    "odd": {"hidden_size": 36, "intermediate_size": 51, "vocab_size": 301, "head_dim": 10},
    "odd in all": {"hidden_size": 35, "intermediate_size": 49, "vocab_size": 17, "head_dim": 6},
    "smaller than a vector": {"hidden_size": 3, "intermediate_size": 5, "vocab_size": 2, "head_dim": 2},
    "odd, with biases": {
        "hidden_size": 37, "intermediate_size": 33, "vocab_size": 33, "head_dim": 18, "qkv_bias": True,
        "o_bias": True, "mlp_bias": True, "tie_embeddings": False,
    },
    "one head": {"heads": 1, "kv_heads": 1, "head_dim": 34, "layers": 1},
    "all heads on one": {"heads": 6, "kv_heads": 1, "head_dim": 48, "qk_norm": True},
    "many heads on one": {"heads": 40, "kv_heads": 1, "head_dim": 4},
    "a head for each": {"heads": 5, "kv_heads": 5, "head_dim": 12, "hidden_size": 24},
}  # fmt: skip
SHAPES = {name: fields for name, fields in VARIANTS.items() if name != "dynamic"} | ODD
KINDS: tuple[tuple[Weights, torch.dtype], ...] = (
    ("float32", torch.float32),
    ("float32", torch.bfloat16),
    ("bfloat16", torch.bfloat16),
    ("bfloat16", torch.float32),
    ("int8", torch.float32),
    ("int8", torch.bfloat16),
    ("float32", torch.int8),
    ("int8", torch.int8),
)
KIND = pytest.mark.parametrize(("weights", "cache"), KINDS, ids=lambda value: str(value).split(".")[-1])


def random_model(seed: int = 3, **fields: Any) -> Transformer:
    """Norms and biases random too."""
    model = tiny_model(seed, **fields)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim == 1:
                parameter.add_(torch.randn(parameter.shape, generator=generator) * 0.3)
    return model


def rows_of(model: Transformer, lengths: Sequence[int], seed: int = 0) -> list[list[int]]:
    rng = random.Random(seed)
    return [[rng.randrange(model.config.vocab_size) for _ in range(n)] for n in lengths]


class Native:
    """A packed model and a cache, and rows that are read piece by piece.

    Args:
        model: to pack.
        rows: most there will be, of at most `length` tokens; their pages are dealt out in a random order.
    """

    def __init__(
        self, model: Transformer, weights: Weights = "float32", cache: torch.dtype = torch.float32, *,
        rows: int = 4, length: int = 160, threads: int = 1, seed: int = 0,
    ) -> None:  # fmt: skip
        each = -(-length // PAGE)
        self.packed = NativeModel(model, weights, cache, threads)
        self._cache = PagedCache(model.config, rows * each, native=True, dtype=cache)
        for tensor in (self._cache.keys, self._cache.values):
            # What was not written must not be read. In int8 all bits set make scales that are no numbers.
            tensor.fill_(-1 if cache == torch.int8 else float("nan"))
        pages = random.Random(seed).sample(range(1, rows * each + 1), rows * each)
        self._tables = np.array(pages, np.int32).reshape(rows, each)
        self.read = [0] * rows

    def forward(
        self, pieces: Sequence[tuple[int, Sequence[int]]], wanted: Sequence[int] | None = None
    ) -> Tensor:
        """Logits of `wanted` tokens (None: all) of some next tokens of some rows."""
        tokens = [token for _, piece in pieces for token in piece]
        places = [self.read[row] + i for row, piece in pieces for i in range(len(piece))]
        starts = np.cumsum([0, *(len(piece) for _, piece in pieces)], dtype=np.int32)
        for row, piece in pieces:
            self.read[row] += len(piece)
        wide = max(-(-self.read[row] // PAGE) for row, _ in pieces)
        return self.packed.forward(
            np.array(tokens, np.int32),
            np.array(places, np.int32),
            starts,
            np.ascontiguousarray(self._tables[[row for row, _ in pieces], :wide]),
            np.array(range(len(tokens)) if wanted is None else wanted, np.int32),
            self._cache.keys,
            self._cache.values,
        )[0]


@torch.no_grad()
def full(model: Transformer, row: Sequence[int]) -> Tensor:
    return model(torch.tensor([list(row)]))[0].float()


@pytest.mark.parametrize("shape", SHAPES)
def test_fp32_is_the_models_own(shape: str) -> None:
    """Rows of several pages beside a single token, whole and then one token at a time."""
    model = random_model(**SHAPES[shape])
    rows = rows_of(model, [70, 1, 33, 16])
    expected = [full(model, row) for row in rows]
    assert torch.cat(expected).std() > 0.1  # or nothing was compared
    native = Native(model)
    logits = native.forward([(i, row[:-1] or row) for i, row in enumerate(rows)])
    torch.testing.assert_close(
        logits, torch.cat([e[:-1] if len(e) > 1 else e for e in expected]), rtol=0, atol=1e-4
    )
    last = native.forward([(i, row[-1:]) for i, row in enumerate(rows) if len(row) > 1])
    torch.testing.assert_close(
        last, torch.stack([each[-1] for each in expected if len(each) > 1]), rtol=0, atol=1e-4
    )


def test_a_long_row_is_the_models_own() -> None:
    """Over 512 keys, where the softmax is folded; with a window that begins in the middle of a page."""
    for fields in ({}, {"sliding_window": 531}):
        model = random_model(max_position=2048, **fields)
        [row] = rows_of(model, [1300])
        native = Native(model, rows=1, length=1300)
        logits = torch.cat([native.forward([(0, row[at : at + 500])]) for at in range(0, 1300, 500)])
        torch.testing.assert_close(logits, full(model, row), rtol=0, atol=1e-3)


@pytest.mark.parametrize("cache", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("window", [None, 100, 4096, 4300])
def test_rows_that_are_cut_between_threads_to_the_bit(window: int | None, cache: torch.dtype) -> None:
    """Over 4,096 keys a row is cut where there are more threads than rows; how it is cut changes nothing."""
    model = random_model(max_position=8400, layers=1, sliding_window=window)
    [row] = rows_of(model, [8300])
    wanted = [0, 4094, 4095, 4096, 4097, 8191, 8192, 8299]
    whole = Native(model, cache=cache, rows=1, length=8300).forward([(0, row)], wanted)
    if window is None and cache == torch.float32:
        torch.testing.assert_close(whole, full(model, row)[wanted], rtol=0, atol=1e-3)
    for threads, ends in ((3, (8300,)), (2, (4095, 4100, 8191, 8195, 8300)), (1, (8290, 8300))):
        native = Native(model, cache=cache, rows=1, length=8300, threads=threads)
        got: dict[int, Tensor] = {}
        for begin, end in zip((0, *ends), ends, strict=False):
            places = [place for place in wanted if begin <= place < end]
            logits = native.forward([(0, row[begin:end])], [place - begin for place in places])
            got |= dict(zip(places, logits, strict=True))
        assert torch.equal(torch.stack([got[place] for place in wanted]), whole)


@pytest.mark.parametrize("shape", ["qwen3", "biases", "window", "odd", "odd, with biases"])
@pytest.mark.parametrize("source", [torch.float32, torch.bfloat16], ids=str)
def test_lower_precision_is_near(shape: str, source: torch.dtype) -> None:
    """The largest error, in standard deviations of the logits (2.5 of them are about 6).

    That there is an error shows that the precision is used.
    """
    model = random_model(**SHAPES[shape]).to(source)
    exact = random_model(**SHAPES[shape])
    with torch.no_grad():
        for mine, theirs in zip(exact.parameters(), model.parameters(), strict=True):
            mine.copy_(theirs)
    rows = rows_of(model, [40, 7])
    expected = torch.cat([full(exact, row) for row in rows])
    for weights, cache in KINDS:
        logits = Native(model, weights, cache).forward(list(enumerate(rows)))
        error = float((logits - expected).abs().max() / expected.std())
        if (weights, cache) == ("float32", torch.float32):
            assert error < 1e-5
        else:
            assert 1e-3 < error < (0.2 if weights == "int8" else 0.06), (weights, cache)


@KIND
@pytest.mark.parametrize("shape", ["windows on some layers", "qwen3", "odd", "many heads on one"])
def test_in_any_pieces_to_the_bit(shape: str, weights: Weights, cache: torch.dtype) -> None:
    """Whole and alone, or piece by piece beside others in any order: the same bits."""
    model = random_model(**SHAPES[shape])
    rows = rows_of(model, [75, 40, 17, 1])
    alone = [Native(model, weights, cache, rows=1).forward([(0, row)]) for row in rows]
    for seed in range(4):
        rng = random.Random(seed)
        native = Native(model, weights, cache, seed=seed)
        got: list[list[Tensor]] = [[] for _ in rows]
        while left := [i for i, row in enumerate(rows) if native.read[i] < len(row)]:
            some = rng.sample(left, rng.randint(1, len(left)))
            pieces = [(i, rows[i][native.read[i] :][: rng.choice([1, 2, 5, 16, 33])]) for i in some]
            logits = native.forward(pieces)
            for (i, _), part in zip(pieces, logits.split([len(piece) for _, piece in pieces]), strict=True):
                got[i].append(part)
        for whole, parts in zip(alone, got, strict=True):
            assert torch.equal(torch.cat(parts), whole)


@KIND
def test_only_what_is_wanted(weights: Weights, cache: torch.dtype) -> None:
    model = random_model()
    rows = rows_of(model, [20, 30])
    everything = Native(model, weights, cache).forward(list(enumerate(rows)))
    for wanted in ([49], [0, 19, 20, 33], [33, 2], []):
        native = Native(model, weights, cache)
        logits = native.forward([(0, rows[0]), (1, rows[1][:-1])], [place for place in wanted if place < 49])
        assert torch.equal(logits, everything[[place for place in wanted if place < 49]])
        assert torch.equal(native.forward([(1, rows[1][-1:])]), everything[-1:]), (
            "keys and values of all rows"
        )
        logits = Native(model, weights, cache).forward(list(enumerate(rows)), wanted)
        assert torch.equal(logits, everything[wanted])
        assert logits.shape == (len(wanted), 269)


@KIND
def test_on_any_number_of_threads(weights: Weights, cache: torch.dtype) -> None:
    """Set at the beginning or later."""
    model = random_model(**SHAPES["qwen3"])
    rows = rows_of(model, [75, 40, 17, 1])
    expected = Native(model, weights, cache).forward(list(enumerate(rows)))
    native = Native(model, weights, cache, threads=3)
    assert torch.equal(native.forward(list(enumerate(rows))), expected)
    for threads in (1, 2, 2, 5, 1):
        native.packed.set_threads(threads)
        native.read = [0] * 4
        assert torch.equal(native.forward(list(enumerate(rows))), expected)


@KIND
def test_packed_again(weights: Weights, cache: torch.dtype) -> None:
    """Other weights take the place of those before, on more threads too."""
    models = [random_model(seed, **SHAPES["biases"]) for seed in (3, 4)]
    rows = rows_of(models[0], [40, 9])
    first, second = (Native(m, weights, cache).forward(list(enumerate(rows))) for m in models)
    native = Native(models[0], weights, cache)
    for model, expected in ((models[1], second), (models[0], first)):
        native.packed.set_threads(2)
        native.packed.pack(model)
        native.read = [0] * 4
        assert torch.equal(native.forward(list(enumerate(rows))), expected)


def test_what_it_cannot_run() -> None:
    cpu = torch.device("cpu")
    assert can_run(tiny_model().config, cpu)
    assert not can_run(tiny_model().config, torch.device("meta"))
    assert not can_run(tiny_model(rope=DynamicRope(factor=2)).config, cpu)
