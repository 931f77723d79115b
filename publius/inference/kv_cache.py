"""Keys and values of tokens already read, in pages that rows hold and share (`pages` says which).

`PagedCache` is storage, made once. The native pass reads and writes it itself. The model's own forward sees a
`PagedView` with one method, `update(layer, k, v) -> (k, v)`, which stores what the layer just computed and
returns all the keys and values to attend to.

Shape letters: B rows, K key/value heads, T new tokens, L keys, n pages of a row, d head size.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor

from publius.inference.pages import PAGE
from publius.model.config import ModelConfig

__all__ = ["PagedCache", "PagedView", "token_bytes"]

_LANES = 16
_SCALE = 4
"""Bytes of a scale: in int8, one for each token's key and one for its value in each head."""


def _deep(config: ModelConfig) -> int:
    """Head size, up to whole vectors: of values in the native layout."""
    return -(-config.head_dim // _LANES) * _LANES


def token_bytes(config: ModelConfig, dtype: torch.dtype, *, trunk: bool = False) -> int:
    """Memory of one token's keys and values in all layers, and of what the last gets where that is kept."""
    scales = 2 * _SCALE if dtype == torch.int8 else 0
    kept = config.layers * config.kv_heads * ((config.head_dim + _deep(config)) * dtype.itemsize + scales)
    return kept + (config.hidden_size * torch.float32.itemsize if trunk else 0)


class PagedCache:
    """Keys and values of `pages` pages and of page 0, where padding goes.

    Memory is asked for at once and, on CPU, taken by the system only as pages are first written.

    Args:
        config: layers, heads and their size.
        pages: usable pages.
        native: as `native/forward.cpp` reads it: keys [layers, pages, K, d, PAGE], values [.., PAGE, d up to
            whole vectors]; else both [layers, pages, K, PAGE, d].
        dtype: int8 (native only) is flat in a head, [layers, pages, K, numbers and then PAGE scales in fp32].
        trunk: (native only) keep besides what the last layer gets of every token, fp32 [pages, PAGE, D].
    """

    def __init__(
        self,
        config: ModelConfig,
        pages: int,
        *,
        native: bool,
        dtype: torch.dtype = torch.float32,
        device: torch.device | str = "cpu",
        trunk: bool = False,
    ) -> None:
        self.pages = pages
        wide = (pages + 1, PAGE, config.hidden_size)
        self.trunk = torch.empty(wide, dtype=torch.float32, device=device) if trunk and native else None
        front, d = (config.layers, pages + 1, config.kv_heads), config.head_dim
        if dtype == torch.int8:
            shapes = tuple((*front, PAGE * (size + _SCALE)) for size in (d, _deep(config)))
        elif native:
            shapes = ((*front, d, PAGE), (*front, PAGE, _deep(config)))
        else:
            shapes = ((*front, PAGE, d),) * 2
        self.keys, self.values = (torch.empty(shape, dtype=dtype, device=device) for shape in shapes)
        # A masked place weighs nothing, but nothing times NaN is NaN: where the model's own forward reads
        # them, pages hold numbers from the first (and see `clear`). The native pass reads no masked place.
        if not native:
            self.keys.zero_()
            self.values.zero_()

    def copy(self, pairs: Iterable[tuple[int, int] | None]) -> None:
        """From the first page of every pair to the second, all as they were before."""
        found = [pair for pair in pairs if pair is not None]
        if not found:
            return
        sources, targets = ([pair[side] for pair in found] for side in (0, 1))
        for store in (self.keys, self.values):
            store[:, targets] = store[:, sources]
        if self.trunk is not None:
            self.trunk[targets] = self.trunk[sources]

    def clear(self, pages: Sequence[int]) -> None:
        """Zeros: what these pages held was not numbers, and must not reach who holds them next."""
        for store in (self.keys, self.values):
            store[:, list(pages)] = 0


class PagedView:
    """Some rows of the cache, T new tokens each, for the model's own forward.

    Args:
        cache: not native.
        tables_Bn: int64 [B, n], pages of each row; 0 past its end.
        positions_BT: int64 [B, T], where the new tokens go; -1 is padding and goes to page 0.
    """

    def __init__(self, cache: PagedCache, tables_Bn: Tensor, positions_BT: Tensor) -> None:
        self._cache, self._tables = cache, tables_Bn
        places = positions_BT.clamp(min=0)
        padding_BT = positions_BT < 0
        self._pages = tables_Bn.gather(1, places // PAGE).masked_fill(padding_BT, 0)
        self._offsets = places % PAGE
        self._padding_B1T1 = padding_BT[:, None, :, None] if padding_BT.any() else None

    def update(self, layer: int, k_BKTd: Tensor, v_BKTd: Tensor) -> tuple[Tensor, Tensor]:
        """Store the new tokens; return keys and values [B, K, n * PAGE, d]."""
        both: list[Tensor] = []
        for store, new in ((self._cache.keys[layer], k_BKTd), (self._cache.values[layer], v_BKTd)):
            if self._padding_B1T1 is not None:  # page 0 is everybody's: no row's NaN may reach it
                new = new.masked_fill(self._padding_B1T1, 0)
            store[self._pages, :, self._offsets] = new.transpose(1, 2)
            rows_BnKPd = store[self._tables]
            both.append(rows_BnKPd.transpose(1, 2).flatten(2, 3))
        return both[0], both[1]
