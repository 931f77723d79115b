"""The model against a plain re-implementation, its masks, cache and initial weights."""

import itertools
import math

import pytest
import torch

from publius.model.attention import document_mask
from publius.model.fused import split_weights
from publius.model.transformer import Transformer
from publius.testing.fakes import tiny_config, tiny_model


def naive_logits(model, tokens):
    """Llama's forward for one row, written out with loops over heads and positions."""
    c, w = model.config, split_weights(model)

    def norm(x, weight):
        return x / torch.sqrt((x * x).mean(-1, keepdim=True) + c.norm_eps) * weight

    def rope(x):  # [T, d]
        out = x.clone()
        for t in range(x.shape[0]):
            for i in range(c.head_dim // 2):
                angle = t * c.rope_theta ** (-2 * i / c.head_dim)
                a, b = x[t, i], x[t, i + c.head_dim // 2]
                out[t, i] = a * math.cos(angle) - b * math.sin(angle)
                out[t, i + c.head_dim // 2] = b * math.cos(angle) + a * math.sin(angle)
        return out

    x = w["model.embed_tokens.weight"][tokens]
    for layer in range(c.layers):
        p = f"model.layers.{layer}."
        h = norm(x, w[p + "input_layernorm.weight"])
        q, k, v = (h @ w[f"{p}self_attn.{n}_proj.weight"].T for n in "qkv")
        heads = []
        for head in range(c.heads):
            kv = head // (c.heads // c.kv_heads)
            part = slice(head * c.head_dim, (head + 1) * c.head_dim)
            kv_part = slice(kv * c.head_dim, (kv + 1) * c.head_dim)
            scores = rope(q[:, part]) @ rope(k[:, kv_part]).T / math.sqrt(c.head_dim)
            scores = scores.masked_fill(torch.ones_like(scores).triu(1).bool(), -torch.inf)
            heads.append(scores.softmax(-1) @ v[:, kv_part])
        x = x + torch.cat(heads, -1) @ w[p + "self_attn.o_proj.weight"].T
        h = norm(x, w[p + "post_attention_layernorm.weight"])
        gate, up = h @ w[p + "mlp.gate_proj.weight"].T, h @ w[p + "mlp.up_proj.weight"].T
        x = x + (gate * torch.sigmoid(gate) * up) @ w[p + "mlp.down_proj.weight"].T
    return norm(x, w["model.norm.weight"]) @ model.head_weight.T


@pytest.mark.parametrize("tied", [True, False])
def test_forward_is_the_written_out_one(tied):
    model = tiny_model(3, tie_embeddings=tied)
    tokens = torch.randint(0, 269, (1, 9), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        torch.testing.assert_close(model(tokens)[0], naive_logits(model, tokens[0]), rtol=1e-4, atol=1e-4)


def test_the_future_has_no_effect():
    model, tokens = tiny_model(), torch.arange(12)[None]
    changed = tokens.clone()
    changed[0, 8:] += 50
    with torch.no_grad():
        a, b = model(tokens), model(changed)
    torch.testing.assert_close(a[:, :8], b[:, :8])
    assert (a[:, 8:] - b[:, 8:]).abs().max() > 1e-3


def test_only_relative_positions_matter():
    model, tokens = tiny_model(), torch.arange(20, 32)[None]
    with torch.no_grad():
        there = model(tokens, positions_BT=torch.arange(100, 112)[None])
        torch.testing.assert_close(model(tokens), there, rtol=1e-3, atol=1e-3)


class ListCache:
    """The least cache there can be."""

    def __init__(self):
        self.kept = {}

    def update(self, layer, k_BKTd, v_BKTd):
        if layer in self.kept:
            k, v = self.kept[layer]
            k_BKTd, v_BKTd = torch.cat((k, k_BKTd), 2), torch.cat((v, v_BKTd), 2)
        self.kept[layer] = (k_BKTd, v_BKTd)
        return k_BKTd, v_BKTd


@pytest.mark.parametrize("cuts", [(5, 6, 7), (1, 4, 9), (9,)])
def test_cached_pieces_equal_one_forward(cuts):
    model, tokens = tiny_model(), torch.randint(0, 269, (2, 10), generator=torch.Generator().manual_seed(1))
    edges = [0, *cuts, 10]
    cache, parts = ListCache(), []
    with torch.no_grad():
        for a, b in itertools.pairwise(edges):
            positions = torch.arange(a, b).expand(2, -1)
            parts.append(model(tokens[:, a:b], positions_BT=positions, cache=cache))
        torch.testing.assert_close(torch.cat(parts, 1), model(tokens), rtol=1e-4, atol=1e-4)


def test_a_cache_needs_positions_and_rows_have_a_limit():
    model = tiny_model(max_position=8)
    with pytest.raises(ValueError, match="positions_BT"):
        model(torch.zeros(1, 2, dtype=torch.long), cache=ListCache())
    with pytest.raises(ValueError, match="max_position"):
        model(torch.zeros(1, 9, dtype=torch.long))


def test_document_mask():
    mask = document_mask(torch.tensor([[0, 0, 1, -1]]))[0, 0].int().tolist()
    assert mask == [[1, 0, 0, 0], [1, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]]


def test_a_row_that_may_attend_to_nothing_is_finite():
    mask = torch.zeros(1, 1, 4, 4, dtype=torch.bool)
    assert torch.isfinite(tiny_model()(torch.arange(4)[None], mask=mask)).all()


@pytest.mark.parametrize("masked", [True, False])
def test_bf16_training_path_agrees_with_sdpa(masked):
    """With gradients on CPU attention goes by blocks of queries; without, by SDPA."""
    model = tiny_model(1, scale=5.0).to(torch.bfloat16)
    tokens = torch.randint(0, 269, (3, 24), generator=torch.Generator().manual_seed(2))
    mask = document_mask((torch.arange(24) // 7).expand(3, -1)) if masked else None
    dense = model.hidden(tokens, mask=mask)
    with torch.no_grad():
        fused = model.hidden(tokens, mask=mask)
        exact = tiny_model(1, scale=5.0).hidden(tokens, mask=mask)
    assert dense.requires_grad
    errors = [(x.float() - exact).abs().mean() for x in (dense.detach(), fused)]
    assert errors[0] < 1.5 * errors[1] + 1e-4 and errors[0] < 0.02


def test_bf16_gradients_are_the_fp32_ones_rounded():
    tokens = torch.randint(0, 269, (2, 16), generator=torch.Generator().manual_seed(4))
    grads = []
    for dtype in (torch.float32, torch.bfloat16):
        model = tiny_model(2, scale=5.0).to(dtype)
        model(tokens).float().log_softmax(-1)[..., 3].sum().backward()
        grads.append(model.model.layers[0].self_attn.qkv_proj.weight.grad.float().flatten())
    assert torch.cosine_similarity(*grads, dim=0) > 0.999


def test_seeded_weights_repeat_and_leave_the_global_generator_alone():
    before = torch.get_rng_state()
    a, b, c = (Transformer(tiny_config(), seed=seed) for seed in (1, 1, 2))
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(a.head_weight, b.head_weight) and not torch.equal(a.head_weight, c.head_weight)
    down = Transformer(tiny_config(intermediate_size=4096), seed=0).model.layers[0].mlp.down_proj.weight
    assert down.std().item() == pytest.approx(4096**-0.5 / 2, rel=0.05)  # sqrt(2 layers x 2)
    assert (a.device.type, a.dtype) == ("cpu", torch.float32)


def test_it_trains_after_it_was_read_in_inference_mode():
    model, tokens = tiny_model(), torch.arange(13, 33)[None]
    with torch.inference_mode():
        before = model(tokens).clone()
    after = model(tokens)
    after.sum().backward()
    assert torch.allclose(after.detach(), before, atol=1e-5)
