"""Attention by blocks of queries against PyTorch's own, values and gradients."""

import pytest
import torch
import torch.nn.functional as F

from publius.model.attention import document_mask, make_biases
from publius.model.blocked import blocked_attention, plan_blocks, query_spans, seen_spans
from publius.testing.fakes import tiny_config, tiny_model


def case(length, heads, kv_heads, dtype, seed=0):
    g = torch.Generator().manual_seed(seed)
    shapes = [(2, length, n, 8) for n in (heads, kv_heads, kv_heads)]
    return [
        torch.randn(shape, generator=g, dtype=torch.float64).to(dtype).requires_grad_() for shape in shapes
    ]


def band(length, window, documents):
    """The mask, place by place."""
    mask = torch.zeros(2, 1, length, length, dtype=torch.bool)
    for b in range(2):
        for i in range(length):
            for j in range(i + 1):
                near = window is None or j > i - window
                mask[b, 0, i, j] = near and (documents is None or bool(documents[b, i] == documents[b, j]))
    return mask


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
@pytest.mark.parametrize(("heads", "kv_heads"), [(4, 2), (3, 3), (6, 1)])
@pytest.mark.parametrize("length", [1, 64, 150, 560])
@pytest.mark.parametrize("window", [None, 5, 70])
@pytest.mark.parametrize("packed", [True, False])
def test_blocks_are_sdpa(length, heads, kv_heads, window, packed, dtype):
    documents = torch.stack((torch.arange(length) // 40, torch.arange(length) // 97)) if packed else None
    mask = band(length, window, documents)
    q, k, v = case(length, heads, kv_heads, dtype)
    scores = torch.zeros(mask.shape, dtype=dtype).masked_fill_(~mask, torch.finfo(dtype).min)
    ours = blocked_attention(q, k, v, plan_blocks(mask, scores, 2, kv_heads, heads // kv_heads, window))
    exact = [x.detach().double().requires_grad_() for x in (q, k, v)]
    turned = [x.transpose(1, 2) for x in exact]
    theirs = (
        F.scaled_dot_product_attention(*turned, attn_mask=mask, enable_gqa=True).transpose(1, 2).flatten(2)
    )
    pull = torch.randn(ours.shape, generator=torch.Generator().manual_seed(9), dtype=torch.float64).to(dtype)
    ours.backward(pull)
    theirs.backward(pull.double())
    tolerance = {"rtol": 1e-9, "atol": 1e-9} if dtype == torch.float64 else {"rtol": 0.05, "atol": 0.05}
    torch.testing.assert_close(ours.double(), theirs, **tolerance)
    for mine, other in zip((q, k, v), exact, strict=True):
        torch.testing.assert_close(mine.grad.double(), other.grad, **tolerance)


def test_keys_that_no_query_of_a_block_may_see_are_not_computed():
    assert [tuple(span) for span in query_spans(150, 2, None)] == [(0, 64, 0), (64, 128, 0), (128, 150, 0)]
    assert [tuple(span) for span in query_spans(150, 2, 10)] == [(0, 64, 0), (64, 128, 55), (128, 150, 119)]
    assert len(query_spans(150, 1, None)) == 2
    documents = torch.tensor([0] * 70 + [1] * 130 + [-1] * 10)
    seen = document_mask(documents[None])[0, 0]
    assert [span.low for span in seen_spans(seen, 2)] == [0, 0, 64, 64]  # from place 70, and a multiple of 64
    seen[205] = False  # sees nothing
    assert [span.low for span in seen_spans(seen, 2)] == [0, 0, 64, 0]


def test_training_on_cpu_takes_blocks_and_long_rows_or_a_cache_do_not():
    x = torch.zeros(1, 100, 32, requires_grad=True)
    config = tiny_config()
    assert make_biases(None, x, None, config, cached=False).full.plan
    assert not make_biases(None, x, None, config, cached=True).full.plan
    assert not make_biases(
        None, torch.zeros(1, 1025, 32, requires_grad=True), None, config, cached=False
    ).full.plan
    with torch.no_grad():
        assert not make_biases(None, x, None, config, cached=False).full.plan


def test_layers_with_a_window_take_blocks_in_long_rows_too_and_give_what_others_give():
    model = tiny_model(sliding_window=40, window_layers=(0,), max_position=1200)
    tokens = torch.randint(13, 269, (1, 1200), generator=torch.Generator().manual_seed(0))
    x = torch.zeros(1, 1200, 32, requires_grad=True)
    made = make_biases(None, x, None, model.config, cached=False)
    assert made.full.plan is None and made.windowed.plan is not None
    assert max(stop - low for _, stop, low in made.windowed.plan.spans) < 64 + 40 + 64
    trained = model.hidden(tokens)
    with torch.no_grad():
        torch.testing.assert_close(trained, model.hidden(tokens), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("masked", [True, False])
@pytest.mark.parametrize(
    "changes", [{}, {"sliding_window": 9, "window_layers": (0,)}, {"qk_norm": True}, {"no_rope_layers": (0,)}]
)
def test_a_training_forward_is_the_inference_forward(masked, changes):
    """With gradients attention goes by blocks, without by SDPA."""
    model = tiny_model(1, **changes)
    tokens = torch.randint(0, 269, (2, 150), generator=torch.Generator().manual_seed(2))
    mask = document_mask((torch.arange(150) // 60).expand(2, -1)) if masked else None
    trained = model.hidden(tokens, mask=mask)
    with torch.no_grad():
        torch.testing.assert_close(trained.detach(), model.hidden(tokens, mask=mask), rtol=1e-4, atol=1e-4)


@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf")  # dynamo's own
def test_compiled_blocks_give_the_same_gradients():
    tokens = torch.randint(0, 269, (2, 100), generator=torch.Generator().manual_seed(2))
    mask = document_mask((torch.arange(100) // 60).expand(2, -1))
    grads = []
    for compiled in (False, True):
        model = tiny_model(1, scale=5.0, layers=2, qk_norm=True)
        if compiled:
            for block in model.model.layers:
                block.compile(dynamic=False, backend="aot_eager")
        model.hidden(tokens, mask=mask).square().sum().backward()
        grads.append([p.grad for p in model.parameters()])
    for eager, traced in zip(*grads, strict=True):
        torch.testing.assert_close(eager, traced, rtol=1e-3, atol=1e-3)


def test_autocast_computes_all_of_it_in_one_dtype():
    """As with `.to(bfloat16)` throughout; a query with nothing to see gives no NaN."""
    q, k, v = case(100, 4, 2, torch.float32)
    mask = document_mask(torch.arange(100).div(40, rounding_mode="floor").expand(2, -1))
    mask[:, :, 70] = False
    scores = torch.zeros(mask.shape).masked_fill_(~mask, torch.finfo(torch.float32).min)
    plan = plan_blocks(mask, scores, 2, 2, 2, None)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        out = blocked_attention(q, k, v, plan)
    out.float().square().sum().backward()
    assert out.dtype == torch.bfloat16 and bool(out.isfinite().all())
    others = [x.detach().clone().requires_grad_() for x in (q, k, v)]
    narrow = [x.to(torch.bfloat16) for x in others]
    low = scores.clamp_min(torch.finfo(torch.bfloat16).min).to(torch.bfloat16)
    blocked_attention(*narrow, plan_blocks(mask, low, 2, 2, 2, None)).float().square().sum().backward()
    for mine, other in zip((q, k, v), others, strict=True):
        assert mine.grad is not None and bool(mine.grad.isfinite().all())
        torch.testing.assert_close(mine.grad, other.grad)
