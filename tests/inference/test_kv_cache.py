"""The cache stores what it is given where it should, and returns it."""

from __future__ import annotations

import pytest
import torch

from publius.inference.kv_cache import PagedCache, PagedView, token_bytes
from publius.testing import tiny_config


def test_pages_come_back_in_order_and_padding_goes_nowhere() -> None:
    config = tiny_config()
    cache = PagedCache(config, 6, native=False)
    shape = (2, config.kv_heads, 3, config.head_dim)
    new = torch.arange(2 * config.kv_heads * 3 * config.head_dim, dtype=torch.float32).view(shape) + 1
    tables = torch.tensor([[5, 2], [3, 0]])
    positions = torch.tensor([[15, 16, 17], [0, 1, -1]])
    k, v = PagedView(cache, tables, positions).update(1, new, -new)
    assert k.shape == (2, config.kv_heads, 32, config.head_dim)
    assert torch.equal(k[0, :, 15:18], new[0])
    assert torch.equal(v[1, :, :2], -new[1, :, :2])
    assert not k[1, :, 2:16].any()
    assert torch.equal(cache.keys[1, 5, :, 15], new[0, :, 0])
    assert torch.equal(cache.keys[1, 2, :, 1], new[0, :, 2])
    assert not cache.keys[0].any()
    assert not cache.keys[1, [1, 4, 6]].any()


@pytest.mark.parametrize(
    ("native", "dtype"), [(False, torch.float32), (True, torch.bfloat16), (True, torch.int8)]
)
def test_pages_are_copied_as_they_were(native: bool, dtype: torch.dtype) -> None:
    cache = PagedCache(tiny_config(), 4, native=native, dtype=dtype, trunk=native)
    stores = [s for s in (cache.keys, cache.values, cache.trunk) if s is not None]
    for store in stores:
        page = torch.arange(5).view(-1, *[1] * (store.dim() - (1 if store is cache.trunk else 2)))
        store[:] = page.to(store.dtype)
    cache.copy([(1, 2), None, (2, 3), (1, 4)])
    for store in stores:
        by_page = (store if store is cache.trunk else store[-1]).flatten(1)
        assert [row.unique().tolist() for row in by_page] == [[0], [1], [1], [2], [1]]


def test_the_native_layout_and_its_size() -> None:
    config = tiny_config()
    cache = PagedCache(config, 3, native=True, dtype=torch.bfloat16)
    assert cache.keys.shape == (config.layers, 4, config.kv_heads, config.head_dim, 16)
    assert cache.values.shape == (config.layers, 4, config.kv_heads, 16, 16)  # heads of 8, up to a vector
    stored = (cache.keys.nbytes + cache.values.nbytes) / (4 * 16)
    assert token_bytes(config, torch.bfloat16) == stored


def test_in_int8_each_token_has_a_scale_in_each_head() -> None:
    config = tiny_config()
    cache = PagedCache(config, 3, native=True, dtype=torch.int8)
    assert cache.keys.shape == (config.layers, 4, config.kv_heads, 16 * config.head_dim + 16 * 4)
    stored = (cache.keys.nbytes + cache.values.nbytes) / (4 * 16)
    assert token_bytes(config, torch.int8) == stored
