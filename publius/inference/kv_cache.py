"""Keys and values of tokens already read, for many sequences at once.

`KVCache` is storage: `[layers, slots, kv_heads, max_len, head_dim]`, allocated once. The model never sees
it; it sees a view with one method, `update(layer, k, v) -> (k, v)`, which stores what the layer just
computed and returns all the keys and values to attend to:

- `PrefillView`: many new tokens per row, optionally after a prefix shared by all rows;
- `DecodeView`: one new token per row, each row at its own position.

Rows are left-aligned (position i at index i). Padding to the right of a row is written too, and is
harmless: it is masked until the row's own tokens overwrite it.

Shape letters: B rows, K key/value heads, T new tokens, P prefix tokens, d head size.
"""

from __future__ import annotations

import torch

__all__ = ["DecodeView", "KVCache", "PrefillView"]


class KVCache:
    """Preallocated keys and values.

    Zeroed, not merely allocated: a masked position has weight 0, and 0 times a stray NaN is NaN.

    Args:
        layers, slots, kv_heads, max_len, head_dim: the shape; `max_len` in tokens.
        dtype, device: of the model's activations.
    """

    def __init__(
        self,
        layers: int,
        slots: int,
        kv_heads: int,
        max_len: int,
        head_dim: int,
        *,
        dtype: torch.dtype = torch.float32,
        device: torch.device | str = "cpu",
    ) -> None:
        shape = (layers, slots, kv_heads, max_len, head_dim)
        self.k = torch.zeros(shape, dtype=dtype, device=device)
        self.v = torch.zeros(shape, dtype=dtype, device=device)

    @property
    def max_len(self) -> int:
        """Tokens a slot can hold."""
        return self.k.shape[3]

    def move(self, source: torch.Tensor, target: torch.Tensor, length: int) -> None:
        """Copy the first `length` positions of slots `source` into slots `target` (no slot in both)."""
        self.k[:, target, :, :length] = self.k[:, source, :, :length]
        self.v[:, target, :, :length] = self.v[:, source, :, :length]

    def put_prefix(self, prefix: KVCache, slots: torch.Tensor) -> None:
        """Copy the one sequence held by `prefix` to the front of every slot in `slots`."""
        self.k[:, slots, :, : prefix.max_len] = prefix.k
        self.v[:, slots, :, : prefix.max_len] = prefix.v


class PrefillView:
    """New rows of T tokens each, after `prefix` (the same for all rows) when given.

    Args:
        store: where to keep what is computed; None to only read (scoring needs no storage).
        slots: int64 [B], the slot of each row; unused without `store`.
        prefix: a one-slot cache exactly as long as the prefix.
    """

    def __init__(
        self, store: KVCache | None = None, slots: torch.Tensor | None = None, prefix: KVCache | None = None
    ) -> None:
        self._store, self._slots, self._prefix = store, slots, prefix
        if store is not None and slots is not None and prefix is not None:
            store.put_prefix(prefix, slots)

    def update(
        self, layer: int, k_BKTd: torch.Tensor, v_BKTd: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Store the rows; return keys and values [B, K, P+T, d]."""
        start = self._prefix.max_len if self._prefix is not None else 0
        if self._store is not None and self._slots is not None:
            end = start + k_BKTd.shape[2]
            self._store.k[layer][self._slots, :, start:end] = k_BKTd
            self._store.v[layer][self._slots, :, start:end] = v_BKTd
        if self._prefix is None:
            return k_BKTd, v_BKTd
        rows = k_BKTd.shape[0]
        before_k = self._prefix.k[layer].expand(rows, -1, -1, -1)
        before_v = self._prefix.v[layer].expand(rows, -1, -1, -1)
        return torch.cat((before_k, k_BKTd), dim=2), torch.cat((before_v, v_BKTd), dim=2)


class DecodeView:
    """One new token for each of the first B slots.

    Args:
        store: the cache.
        positions_B: int64 [B], where each row's new token goes.
        length: keys to return; at least the largest position of a live row, plus one.
    """

    def __init__(self, store: KVCache, positions_B: torch.Tensor, length: int) -> None:
        self._store, self._positions, self._length = store, positions_B, length
        self._rows = torch.arange(len(positions_B), device=positions_B.device)

    def update(
        self, layer: int, k_BKTd: torch.Tensor, v_BKTd: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Store one token per row; return keys and values [B, K, length, d] (views, no copy)."""
        k, v, rows = self._store.k[layer], self._store.v[layer], len(self._rows)
        k[self._rows, :, self._positions] = k_BKTd[:, :, 0]
        v[self._rows, :, self._positions] = v_BKTd[:, :, 0]
        return k[:rows, :, : self._length], v[:rows, :, : self._length]
