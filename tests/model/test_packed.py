"""Kernels that skip what is masked, held to the dense mask: values, gradients, and what is compiled.

PyTorch refuses a gradient of FlexAttention on CPU, because the code that inductor makes for a CPU has none;
its reference implementation, which all its kernels are held to, has. `flex` lifts the refusal, so that the
same code as on a GPU runs here, traced too. FlashAttention has no CPU kernel: a stand-in written from what
`varlen_attn` promises checks what it is given, and a test of the real one needs CUDA.
"""

import importlib
import itertools
import shutil

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch._dynamo.backends.common import aot_autograd
from torch._dynamo.testing import CompileCounterWithBackend
from torch._functorch.partitioners import default_partition

from publius.model import attention, packed, varlen
from publius.model.attention import Bias, document_mask, make_biases
from publius.model.packed import Packing, attend_blocks, document_blocks, row_starts
from publius.model.varlen import attend_documents
from publius.testing.fakes import tiny_config, tiny_model
from publius.training.batches import starts_of
from publius.training.twin import Twin

torch_flex = importlib.import_module("torch.nn.attention.flex_attention")
ROWS = st.lists(st.lists(st.integers(1, 30), min_size=1, max_size=6), min_size=1, max_size=3)
WINDOWS = st.one_of(st.none(), st.integers(1, 70))


@pytest.fixture
def flex(monkeypatch):
    monkeypatch.setattr(torch_flex, "_validate_device", lambda *_: None)
    monkeypatch.setattr(torch_flex, "_FLEX_ATTENTION_DISABLE_COMPILE_DEBUG", True)
    yield
    torch._dynamo.reset()


def documents_of(rows):
    """Rows of documents of these lengths; the shorter rows end in padding."""
    length = max(map(sum, rows))
    out = torch.full((len(rows), length), -1)
    for row, lengths in zip(out, rows, strict=True):
        row[: sum(lengths)] = torch.arange(len(lengths)).repeat_interleave(torch.tensor(lengths))
    return out


def mask_of(documents, length, window):
    """bool [B, 1, T, T]."""
    mask = document_mask(documents) if documents is not None else torch.ones(1, 1, length, length).tril() > 0
    return mask if window is None else mask.triu(1 - window)


def blocks_of(mask, size):
    """What a look at every place says of each block: (partly seen, wholly seen), [B, n, n]."""
    extra = -mask.shape[-1] % size
    cut = F.pad(mask[:, 0], (0, extra, 0, extra)).unflatten(2, (-1, size)).unflatten(1, (-1, size))
    some, every = cut.any(-1).any(2), cut.all(-1).all(2)
    return some & ~every, every


def listed(counts, places):
    """bool [B, n, n] from the form that kernels read."""
    counts, places = counts[:, 0], places[:, 0].long()
    return torch.zeros(places.shape, dtype=torch.bool).scatter(
        2, places, torch.arange(places.shape[-1]) < counts[..., None]
    )


def read(blocks):
    """(partly, wholly, and both seen from the keys)."""
    return [
        listed(blocks.kv_num_blocks, blocks.kv_indices),
        listed(blocks.full_kv_num_blocks, blocks.full_kv_indices),
        listed(blocks.q_num_blocks, blocks.q_indices).mT,
        listed(blocks.full_q_num_blocks, blocks.full_q_indices).mT,
    ]


@settings(max_examples=200)
@given(ROWS, WINDOWS, st.booleans())
def test_blocks_are_those_a_look_at_every_place_finds(rows, window, one):
    documents = None if one else documents_of(rows)
    length = max(map(sum, rows))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(packed, "_BLOCK", 8)
        found = document_blocks(documents, length, window, torch.device("cpu"))
    part, whole = blocks_of(mask_of(documents, length, window), 8)
    assert found.seq_lengths == (length, length) and found.BLOCK_SIZE == (8, 8)
    for mine, brute in zip(read(found), (part, whole, part, whole), strict=True):
        assert torch.equal(mine, brute)


def test_blocks_are_those_pytorch_makes():
    documents = documents_of([[200, 90, 10, 70], [370], [1, 128, 128]])
    mine = document_blocks(documents, 370, None, torch.device("cpu"))
    theirs = torch_flex.create_block_mask(mine.mask_mod, 3, None, 370, 370, device="cpu")
    for name in ("num_blocks", "indices"):
        for side in ("kv", "full_kv", "q", "full_q"):
            a, b = getattr(mine, f"{side}_{name}"), getattr(theirs, f"{side}_{name}")
            assert a.dtype == b.dtype and torch.equal(a, b), (side, name)


@settings(max_examples=60)
@given(st.lists(st.integers(-1, 3), min_size=1, max_size=50), WINDOWS)
def test_documents_in_any_order_lose_nothing(numbers, window):
    documents = torch.tensor([numbers])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(packed, "_BLOCK", 8)
        part, whole, *_ = read(document_blocks(documents, len(numbers), window, torch.device("cpu")))
    some, every = blocks_of(mask_of(documents, len(numbers), window), 8)
    assert not (whole & ~every).any() and not ((some | every) & ~(part | whole)).any()


def parts_of(documents, heads, kv_heads, dim, seed):
    g = torch.Generator().manual_seed(seed)
    shapes = [(*documents.shape, n, dim) for n in (heads, kv_heads, kv_heads)]
    return [torch.randn(shape, generator=g).requires_grad_() for shape in shapes]


def dense(q, k, v, mask):
    turned = [x.transpose(1, 2) for x in (q, k, v)]
    out = F.scaled_dot_product_attention(*turned, attn_mask=mask, enable_gqa=True)
    return out.transpose(1, 2).flatten(2)


def same(attend, documents, window, heads=4, kv_heads=2, dim=16, seed=0):
    """Values and gradients of `attend` are those with the dense mask."""
    parts = parts_of(documents, heads, kv_heads, dim, seed)
    others = [part.detach().clone().requires_grad_() for part in parts]
    mine, truth = attend(*parts), dense(*others, mask_of(documents, documents.shape[1], window))
    pull = torch.randn(truth.shape, generator=torch.Generator().manual_seed(9))
    torch.testing.assert_close(mine, truth, rtol=1e-5, atol=1e-5)
    mine.backward(pull)
    truth.backward(pull)
    for part, other in zip(parts, others, strict=True):
        torch.testing.assert_close(part.grad, other.grad, rtol=1e-5, atol=1e-5)


@settings(max_examples=25)
@given(ROWS, WINDOWS, st.sampled_from([(4, 2), (3, 3), (6, 1)]), st.integers(0, 99))
def test_flex_is_the_dense_mask(rows, window, heads, seed):
    documents = documents_of(rows)
    blocks = document_blocks(documents, documents.shape[1], window, torch.device("cpu"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch_flex, "_validate_device", lambda *_: None)
        patch.setattr(torch_flex, "_FLEX_ATTENTION_DISABLE_COMPILE_DEBUG", True)
        same(lambda q, k, v: attend_blocks(q, k, v, blocks), documents, window, *heads, seed=seed)


def test_pytorch_still_refuses_a_gradient_on_cpu():
    """What `attention_kernel` tells users, and why `flex` is here."""
    documents = documents_of([[3, 4]])
    with pytest.raises(NotImplementedError, match="backward on CPU"):
        attend_blocks(
            *parts_of(documents, 2, 2, 16, 0), document_blocks(documents, 7, None, torch.device("cpu"))
        )


def flash(q, k, v, cu_q, cu_k, max_q, max_k, *, window_size, enable_gqa=False):
    """`varlen_attn` from its documentation: causal by a right side of 0, so many places to the left."""
    assert torch.equal(cu_q, cu_k) and cu_q.dtype == torch.int32 and cu_q[-1] == len(q)
    assert q.shape[1] == k.shape[1] or enable_gqa == bool(varlen._GROUPED)
    left, right = window_size
    assert right == 0
    bounds = cu_q.tolist()
    outs = []
    for start, stop in itertools.pairwise(bounds):
        length = stop - start
        assert 0 <= length <= max_q == max_k
        if length:
            mask = mask_of(None, length, None if left < 0 else left + 1)
            outs.append(dense(*(x[None, start:stop] for x in (q, k, v)), mask)[0].unflatten(1, q.shape[1:]))
    return torch.cat(outs)


@settings(max_examples=25)
@given(ROWS, WINDOWS, st.integers(0, 40))
def test_varlen_is_given_what_makes_it_the_dense_mask(rows, window, count):
    documents = documents_of(rows)
    starts = torch.from_numpy(starts_of(rows, documents.shape[1], count))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(varlen, "varlen_attn", flash)
        same(lambda q, k, v: attend_documents(q, k, v, starts, window), documents, window)


def test_rows_that_are_one_document_each():
    assert row_starts(3, 5, torch.device("cpu")).tolist() == [0, 5, 10, 15]


VARIANTS = [{}, {"sliding_window": 9, "window_layers": (0,)}, {"sliding_window": 9}, {"qk_norm": True}]


def trained(model, packing, kernel, **settings):
    """Loss and gradients of the places that are not padding."""
    model.kernel = kernel
    tokens = torch.randint(0, 269, packing.documents_BT.shape, generator=torch.Generator().manual_seed(2))
    hidden = model.hidden(tokens, packing=packing, **settings)
    loss = hidden[packing.documents_BT >= 0].square().mean()
    loss.backward()
    return loss.detach(), [parameter.grad for parameter in model.parameters()]


def agree(one, other):
    torch.testing.assert_close(one[0], other[0], rtol=1e-5, atol=1e-5)
    for a, b in zip(one[1], other[1], strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("kernel", ["flex", "varlen"])
@pytest.mark.parametrize("rows", [[[40, 3, 90], [133], [50, 60]], [[133], [90]]])
@pytest.mark.parametrize("changes", VARIANTS)
def test_a_whole_model_computes_the_same(kernel, rows, changes, flex, monkeypatch):
    monkeypatch.setattr(varlen, "varlen_attn", flash)
    documents = documents_of(rows)
    starts = torch.from_numpy(starts_of(rows, 133, 12))
    packing = Packing(documents, alone=len(rows) == 2, starts_N=starts)
    truth = trained(tiny_model(1, **changes), Packing(documents), "sdpa")
    agree(trained(tiny_model(1, **changes), packing, kernel), truth)


@pytest.mark.parametrize("kernel", ["flex", "varlen"])
def test_rows_without_documents_may_have_windows(kernel, flex, monkeypatch):
    monkeypatch.setattr(varlen, "varlen_attn", flash)
    tokens = torch.randint(0, 269, (2, 40), generator=torch.Generator().manual_seed(2))
    found = []
    for choice in ("sdpa", kernel):
        model = tiny_model(1, **VARIANTS[1])
        model.kernel = choice
        loss = model.hidden(tokens).square().mean()
        loss.backward()
        found.append((loss.detach(), [parameter.grad for parameter in model.parameters()]))
    agree(*found)


@pytest.mark.parametrize("changes", VARIANTS[:3])
def test_one_document_a_row_needs_no_mask(changes, monkeypatch):
    """Where the shortcut is taken (here: rows are long), losses and gradients are those with the mask."""
    monkeypatch.setattr(attention, "_BLOCKED_LIMIT", 8)
    documents = documents_of([[50], [23]])
    truth = trained(tiny_model(1, **changes), Packing(documents), "sdpa")
    agree(trained(tiny_model(1, **changes), Packing(documents, alone=True), "sdpa"), truth)


def test_when_a_mask_is_made():
    config, documents = tiny_config(sliding_window=9), documents_of([[50], [23]])
    x = torch.zeros(2, 50, 32, requires_grad=True)

    def made(packing, kernel="sdpa", x=x, cached=False):
        return make_biases(None, x, None, config, cached=cached, packing=packing, kernel=kernel)

    several, alone = Packing(documents), Packing(documents, alone=True)
    with torch.no_grad():
        for kernel in ("sdpa", "flex", "varlen"):  # without gradients all are SDPA
            assert made(several, kernel).full.scores is not None
        assert made(alone).full.scores is not None  # a short row on CPU: to the bit as ever
    meta = torch.zeros(2, 50, 32, requires_grad=True, device="meta")
    on_meta = Packing(documents.to("meta"), alone=True)
    assert made(on_meta, x=meta).full == Bias(None)
    assert made(on_meta, x=meta).windowed.scores is not None
    assert made(on_meta, x=meta, cached=True).full.scores is not None
    assert made(several, "flex").full.blocks is not None and made(several, "flex").full.scores is None
    assert made(alone, "flex").full == Bias(None)
    assert made(alone, "flex").windowed.blocks is not None
    with pytest.raises(ValueError, match="starts_N"):
        made(several, "varlen")


def test_a_mask_or_a_packing():
    tokens = torch.zeros(1, 4, dtype=torch.long)
    packing = Packing(torch.zeros(1, 4, dtype=torch.long))
    with pytest.raises(ValueError, match="not both"):
        tiny_model().hidden(tokens, packing=packing, mask=document_mask(packing.documents_BT))


@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf")  # dynamo's own
@pytest.mark.parametrize("changes", [{}, {"sliding_window": 9, "window_layers": (0,)}])
@pytest.mark.parametrize("recompute", [False, True])
def test_compiled_blocks_are_compiled_once_for_all_batches(flex, recompute, changes):
    """Traced with their backward, as for a GPU; only the code that would be made of it is left out."""
    made = CompileCounterWithBackend("aot_eager")
    model = tiny_model(1, layers=2, **changes)
    twin = Twin(model, torch.float32, recompute=recompute, kernel="flex")
    for block in model.model.layers:
        block.compile(dynamic=False, backend=made, fullgraph=True)
    counts = []
    for rows in ([[40, 3, 90], [133]], [[5, 60], [100, 33]], [[1] * 20, [33, 100]]):
        twin.refresh()
        found = trained(model, Packing(documents_of([*rows, [133]])), "flex")
        truth = trained(tiny_model(1, layers=2, **changes), Packing(documents_of([*rows, [133]])), "sdpa")
        agree(found, truth)
        counts.append(made.frame_count)
    assert counts == [counts[0]] * 3 and 1 <= counts[0] <= 2


@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf")  # dynamo's own
@pytest.mark.parametrize("changes", VARIANTS[:2])
def test_varlen_is_traced_with_its_backward(changes):
    """As for a GPU, up to the call of the kernel, which has no code for a CPU."""
    seen = set()

    def split(joint, inputs, **options):
        seen.update(str(node.target) for node in joint.graph.nodes)
        return default_partition(joint, inputs, **options)

    def compiler(graph, _):
        return lambda *_: pytest.fail("has run")

    traced = aot_autograd(fw_compiler=compiler, bw_compiler=compiler, partition_fn=split)
    model, documents = tiny_model(1, **changes), documents_of([[40, 3, 90], [133]])
    for block in model.model.layers:
        block.compile(dynamic=False, backend=traced, fullgraph=True)
    starts = torch.from_numpy(starts_of([[40, 3, 90], [133]], 133, 9))
    with pytest.raises(pytest.fail.Exception, match="has run"):
        trained(model, Packing(documents, starts_N=starts), "varlen")
    assert seen >= {"torch_attn._varlen_attn.default", "torch_attn._varlen_attn_backward.default"}
    torch._dynamo.reset()


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # inductor's own
@pytest.mark.skipif(shutil.which("g++") is None, reason="inductor has no compiler")
def test_a_real_kernel_reads_the_blocks(tmp_path, monkeypatch):
    """The reference asks for every place; compiled code (on CPU forward only) visits the blocks listed."""
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path))
    attend = torch.compile(torch_flex.flex_attention, dynamic=False)

    def far(documents, spoil=None):
        blocks = document_blocks(documents, 500, 300, torch.device("cpu"))
        if spoil is not None:
            getattr(blocks, spoil).zero_()
        parts = [part.detach() for part in parts_of(documents, 4, 2, 16, 0)]
        found = attend(*(x.transpose(1, 2) for x in parts), block_mask=blocks, enable_gqa=True)
        truth = dense(*parts, mask_of(documents, 500, 300))
        return float((found.transpose(1, 2).flatten(2) - truth).abs().max())

    documents = documents_of([[300, 7, 150, 43], [500], [200, 180]])
    assert far(documents) < 1e-5 and far(documents.flip(0)) < 1e-5
    assert far(documents, "kv_num_blocks") > 0.1 and far(documents, "full_kv_num_blocks") > 0.1
    torch._dynamo.reset()


def test_autocast_gives_the_kernel_one_dtype(flex):
    documents = documents_of([[20, 30]])
    q, k, v = parts_of(documents, 4, 2, 16, 0)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        out = attend_blocks(
            q, k, v.to(torch.bfloat16), document_blocks(documents, 50, None, torch.device("cpu"))
        )
    assert out.dtype == torch.bfloat16
    torch.testing.assert_close(
        out.float(), dense(q, k, v, mask_of(documents, 50, None)), rtol=0.05, atol=0.05
    )


@pytest.mark.skipif(not torch.cuda.is_available(), reason="the kernels themselves are for CUDA")
@pytest.mark.parametrize("kernel", ["flex", "varlen"])
@pytest.mark.parametrize("window", [None, 100])
def test_on_a_gpu_they_are_no_further_from_the_truth_than_the_dense_mask(kernel, window):
    rows = [[300, 7, 150, 43], [500], [200, 180]]
    documents, cuda = documents_of(rows).cuda(), torch.device("cuda")
    starts = torch.from_numpy(starts_of(rows, 500, 20)).cuda()
    mask = mask_of(documents, 500, window)

    def values(attend, dtype):
        made = [x.detach().to(cuda, dtype).requires_grad_() for x in parts_of(documents, 8, 2, 64, 0)]
        out = attend(*made)
        out.float().square().sum().backward()
        return [out.detach().float(), *(x.grad.float() for x in made)]

    def sparse(q, k, v):
        if kernel == "flex":
            return attend_blocks(q, k, v, document_blocks(documents, 500, window, cuda))
        return attend_documents(q, k, v, starts, window)

    truth = values(lambda q, k, v: dense(q, k, v, mask), torch.float32)
    usual = values(lambda q, k, v: dense(q, k, v, mask), torch.bfloat16)
    for mine, other, exact in zip(values(sparse, torch.bfloat16), usual, truth, strict=True):
        assert (mine - exact).abs().mean() <= 1.5 * (other - exact).abs().mean()
