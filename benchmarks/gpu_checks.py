"""What `gpu.py` checks on a device before it measures: logits, loss curves, and the kernels of attention."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import torch
from sides import Case, batches_of, peer_model, train
from torch.nn import functional as F

from publius.model import ModelConfig
from publius.model.attention import document_mask
from publius.model.packed import Kernel, attend_blocks, document_blocks
from publius.model.transformer import Transformer
from publius.model.varlen import attend_documents
from publius.training.batches import starts_of

__all__ = ["Check", "curve_checks", "kernel_checks", "kernel_curve", "logit_checks"]


class Check(NamedTuple):
    """Something measured that must not be above a limit."""

    name: str
    value: float
    limit: float

    @property
    def ok(self) -> bool:
        """Whether it is right; what is not a number is not."""
        return self.value <= self.limit


def logit_checks(shape: ModelConfig, device: torch.device) -> list[Check]:
    """Ours against transformers, on the same packed rows from the same weights.

    In fp32 the largest difference; in bf16 our mean distance from the fp32 logits over transformers' own,
    because there both are wrong, and ours must not be more so.
    """
    case = Case(side="ours", shape=shape, sequence_length=min(512, shape.max_position), rows=2)
    batch = batches_of(case).next()
    tokens, documents = batch.tokens_BT.to(device), batch.documents_BT.to(device)
    positions, mask = batch.positions_BT.to(device), document_mask(documents)
    real = documents >= 0
    ours, peer = Transformer(shape, seed=0).eval(), peer_model(shape, 0).eval()
    found: dict[tuple[str, str, str], torch.Tensor] = {}
    for dtype in (torch.float32, torch.bfloat16):
        ours.to(device, dtype)
        peer.to(device, dtype)
        for how, packed in (("plain", False), ("packed", True)):
            key = (str(dtype).removeprefix("torch."), how)
            rows = {"position_ids": positions, "attention_mask": mask} if packed else {}
            with torch.no_grad():
                mine = ours(tokens, positions_BT=positions, mask=mask) if packed else ours(tokens)
                theirs = peer(input_ids=tokens, use_cache=False, **rows).logits
            found[(*key, "ours")], found[(*key, "peer")] = mine[real].float(), theirs[real].float()
    checks: list[Check] = []
    for how in ("plain", "packed"):
        truth = found["float32", how, "peer"]
        far = (found["float32", how, "ours"] - truth).abs().max()
        checks.append(Check(f"logits, {how}, float32: largest difference", float(far), 1e-3))
        off = [float((found["bfloat16", how, side] - truth).abs().mean()) for side in ("ours", "peer")]
        checks.append(
            Check(f"logits, {how}, bfloat16: our mean error over transformers'", off[0] / off[1], 1.5)
        )
    return checks


def curve_checks(shape: ModelConfig, device: str) -> list[Check]:
    """The loss curve of the device against the CPU's in fp32: largest difference in nats over 20 steps."""
    timing = {"warm": 2, "windows": 1, "per_window": 18}
    base = Case(side="ours", shape=shape, sequence_length=128, rows=4, dtype="float32", **timing)
    truth = train(base)["losses"]
    checks: list[Check] = []
    for dtype, limit in (("float32", 0.01), ("bfloat16", 0.1)):
        found = train(base.model_copy(update={"device": device, "dtype": dtype}))["losses"]
        gap = max(abs(a - b) for a, b in zip(truth, found, strict=True))
        checks.append(Check(f"loss curve, {dtype}: largest difference from the CPU's in float32", gap, limit))
    return checks


LENGTHS = ([300, 7, 150, 43], [500], [1] * 20 + [200, 180])
"""Documents of three rows of 500 places: one that fills its row, short ones, and some padding."""


def kernel_checks(kernel: Kernel, device: torch.device, dtype: torch.dtype) -> list[Check]:
    """A kernel against the dense mask in fp32: outputs, and gradients of queries, keys and values.

    In fp32 the largest difference; in bf16 its mean error over that of SDPA with the dense mask. Forward
    alone where there is no gradient (CPU).
    """
    numbers = [np.repeat(np.arange(len(row)), row) for row in LENGTHS]
    rows = [np.pad(row, (0, 500 - len(row)), constant_values=-1) for row in numbers]
    documents = torch.from_numpy(np.stack(rows)).to(device)
    starts = torch.from_numpy(starts_of(LENGTHS, 500, 64)).to(device)
    name = str(dtype).removeprefix("torch.")
    checks: list[Check] = []
    for window in (None, 100):
        mask = document_mask(documents) if window is None else document_mask(documents).triu(1 - window)

        def attend(
            q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, window: int | None = window
        ) -> torch.Tensor:
            if kernel == "flex":
                return attend_blocks(q, k, v, document_blocks(documents, 500, window, device))
            return attend_documents(q, k, v, starts, window)

        def dense(
            q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, mask: torch.Tensor = mask
        ) -> torch.Tensor:
            turned = [x.transpose(1, 2) for x in (q, k, v)]
            out = F.scaled_dot_product_attention(*turned, attn_mask=mask, enable_gqa=True)
            return out.transpose(1, 2).flatten(2)

        truth = _values(dense, device, torch.float32)
        mine = _values(attend, device, dtype)
        where = f"attention, {kernel}, {'no window' if window is None else 'window'}, {name}"
        if dtype == torch.float32:
            far = max(float((a - b).abs().max()) for a, b in zip(mine, truth, strict=True))
            checks.append(Check(f"{where}: largest difference from the dense mask", far, 1e-3))
        else:
            errors = [
                [float((a.float() - b).abs().mean()) for a, b in zip(found, truth, strict=True)]
                for found in (mine, _values(dense, device, dtype))
            ]
            worst = max(a / b for a, b in zip(*errors, strict=True))
            checks.append(Check(f"{where}: mean error over the dense mask's", worst, 1.5))
    return checks


def _values(
    attend: Callable[..., torch.Tensor], device: torch.device, dtype: torch.dtype
) -> list[torch.Tensor]:
    """Output and gradients for the same numbers each time; on CPU the output alone."""
    g = torch.Generator().manual_seed(0)
    draw = [torch.randn(3, 500, heads, 64, generator=g) for heads in (8, 2, 2)]
    pull = torch.randn(3, 500, 512, generator=g)
    trains = device.type == "cuda"
    parts = [x.to(device, dtype).requires_grad_(trains) for x in draw]
    out = attend(*parts)
    if not trains:
        return [out]
    out.backward(pull.to(device, dtype))
    return [out.detach(), *(part.grad for part in parts if part.grad is not None)]


def kernel_curve(kernel: Kernel, shape: ModelConfig, device: str) -> Check:
    """The loss curve in bf16 with a kernel against the CPU's in fp32: largest difference over 20 steps."""
    base = Case(
        side="ours",
        shape=shape,
        sequence_length=128,
        rows=4,
        dtype="float32",
        warm=2,
        windows=1,
        per_window=18,
    )
    changes = {"device": device, "dtype": "bfloat16", "attention": kernel}
    truth, found = train(base)["losses"], train(base.model_copy(update=changes))["losses"]
    gap = max(abs(a - b) for a, b in zip(truth, found, strict=True))
    return Check(f"loss curve, {kernel}, bfloat16: largest difference from the CPU's in float32", gap, 0.1)
