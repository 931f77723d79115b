"""The cache stores what it is given where it should, and returns it."""

from __future__ import annotations

import torch

from publius.inference.kv_cache import DecodeView, KVCache, PrefillView


def rows(count: int, length: int, start: float = 0.0) -> torch.Tensor:
    """[count, 2 heads, length, 3]: every number different."""
    return start + torch.arange(count * 2 * length * 3, dtype=torch.float32).view(count, 2, length, 3)


def test_prefill_then_decode() -> None:
    cache = KVCache(layers=2, slots=4, kv_heads=2, max_len=8, head_dim=3)
    new = rows(2, 3)
    k, v = PrefillView(cache, torch.tensor([2, 0])).update(1, new, -new)
    assert torch.equal(k, new)
    assert torch.equal(v, -new)
    assert torch.equal(cache.k[1, 2, :, :3], new[0])
    assert torch.equal(cache.v[1, 0, :, :3], -new[1])
    assert not cache.k[0].any()
    assert not cache.k[1, 1].any()
    token = rows(3, 1, start=500)
    k, v = DecodeView(cache, torch.tensor([3, 0, 1]), length=4).update(1, token, -token)
    assert k.shape == (3, 2, 4, 3)
    assert torch.equal(k[0, :, 3], token[0, :, 0])
    assert torch.equal(k[0, :, :3], new[1])
    assert torch.equal(k[2, :, 1], token[2, :, 0])  # over what was there
    assert torch.equal(v[1, :, 0], -token[1, :, 0])


def test_prefix_comes_first_for_every_row() -> None:
    prefix = KVCache(layers=1, slots=1, kv_heads=2, max_len=2, head_dim=3)
    before = rows(1, 2, start=900)
    PrefillView(prefix, torch.tensor([0])).update(0, before, -before)
    cache = KVCache(layers=1, slots=3, kv_heads=2, max_len=6, head_dim=3)
    new = rows(2, 3)
    k, v = PrefillView(cache, torch.tensor([1, 2]), prefix).update(0, new, -new)
    for row in range(2):
        assert torch.equal(k[row], torch.cat((before[0], new[row]), dim=1))
        assert torch.equal(v[row], -k[row])
        assert torch.equal(cache.k[0, row + 1, :, :5], k[row])
    assert not cache.k[0, 0].any()
    only_read, _ = PrefillView(prefix=prefix).update(0, new, -new)
    assert torch.equal(only_read, k)


def test_move() -> None:
    cache = KVCache(layers=1, slots=4, kv_heads=2, max_len=3, head_dim=3)
    cache.k[0] = rows(4, 3)
    expected = cache.k[0, 3, :, :2].clone()
    cache.move(torch.tensor([3]), torch.tensor([1]), length=2)
    assert torch.equal(cache.k[0, 1, :, :2], expected)
    assert torch.equal(cache.k[0, 1, :, 2], rows(4, 3)[1, :, 2])
