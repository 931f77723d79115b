"""The module that computes: the model itself in fp32, else a copy in another dtype cast once a step.

(Autocast casts at every operation: 10-20% slower on CPU.) How it computes, compiled or with activations
recomputed, is set here too, and undone at the end, so that the model is left as it was given.
"""

from __future__ import annotations

import copy
import functools
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from publius.model.packed import Kernel
from publius.model.transformer import Block, Transformer

__all__ = ["Twin"]


class Twin:
    """Weights of `model` (masters, fp32), the module that computes with them, and their gradients.

    After `close` the model is as it was, without gradients.

    Args:
        model: on its device; its parameters take the gradients.
        dtype: of the computing.
        compiled: compile each block, and the loss of a language model.
        recompute: keep only each block's input for backward, and compute the rest again (Chen et al. 2016,
            arXiv 1604.06174): less memory, a third more work, the same gradients.
        kernel: what computes attention.
    """

    def __init__(
        self,
        model: nn.Module,
        dtype: torch.dtype,
        *,
        compiled: bool = False,
        recompute: bool = False,
        kernel: Kernel = "sdpa",
    ) -> None:
        self._masters: list[Tensor] = list(model.parameters())
        self.module = model if dtype == torch.float32 else copy.deepcopy(model).to(dtype)
        self._copies: list[Tensor] = list(self.module.parameters())
        self._apart = self.module is not model
        self.module.train()
        self._blocks = [part for part in self.module.modules() if isinstance(part, Block)]
        self._models = [part for part in self.module.modules() if isinstance(part, Transformer)]
        for model in self._models:
            model.compiled_loss, model.kernel = compiled, kernel
        for block in self._blocks:
            if recompute:
                vars(block)["forward"] = functools.partial(_recomputed, block.forward)
            if compiled:
                block.compile(dynamic=False)

    def close(self) -> None:
        """Undo what was set on the modules."""
        for model in self._models:
            model.compiled_loss, model.kernel = False, "sdpa"
        for block in self._blocks:
            vars(block).pop("forward", None)
            block._compiled_call_impl = None
        for master in self._masters:
            master.grad = None

    @torch.no_grad()
    def refresh(self) -> None:
        """Copy the weights over, and forget gradients."""
        for master in self._masters:
            master.grad = None
        if self._apart:
            torch._foreach_copy_(self._copies, self._masters)  # pyright: ignore[reportPrivateImportUsage]

    @torch.no_grad()
    def collect(self) -> None:
        """Add the copy's gradients to the masters', in fp32."""
        if not self._apart:
            return
        for master, copied in zip(self._masters, self._copies, strict=True):
            if copied.grad is not None:
                wide = copied.grad.float()
                master.grad = wide if master.grad is None else master.grad.add_(wide)
                copied.grad = None

    def gradients(self) -> list[Tensor]:
        """The masters' gradients that exist."""
        return [master.grad for master in self._masters if master.grad is not None]


def _recomputed(forward: Any, *inputs: Any) -> Any:
    return checkpoint(forward, *inputs, use_reentrant=False, preserve_rng_state=False)
