"""Where a model runs: its weights in the dtype and layout of the machine, its cache, the runner over both.

Weights follow the trainer. Where the model's own forward runs in the weights' own dtype, its tensors are
shared; else they are packed or cast again whenever they have changed.
"""

from __future__ import annotations

import copy
from typing import Literal

import torch

from publius.core.device import compute_dtype, free_memory
from publius.core.errors import UserError
from publius.inference.kv_cache import PagedCache, token_bytes
from publius.inference.native import NativeModel, can_run
from publius.inference.pages import PAGE
from publius.inference.runner import NativeRunner, Runner, TorchRunner
from publius.model.transformer import Transformer

__all__ = ["CacheDtype", "Dtype", "Host"]

Dtype = torch.dtype | Literal["auto", "int8"] | None
CacheDtype = Literal["int8"] | None
_MEMORY = 0.25
"""Share of the free memory that keys and values may take, unless told."""


class Host:
    """One model, ready to run. Arguments as `Engine`'s.

    Raises:
        UserError: when int8 is asked for where the native pass cannot run.
    """

    def __init__(
        self,
        model: Transformer,
        *,
        dtype: Dtype,
        device: torch.device | str | None,
        native: bool,
        max_batch: int,
        cache_tokens: int | None,
        cache_dtype: CacheDtype = None,
        trunk: bool = False,
    ) -> None:
        self._trunk = trunk
        self._dtype, self._device, self._wants_native = dtype, device, native
        self._max_batch, self._cache_tokens, self._cache_dtype = max_batch, cache_tokens, cache_dtype
        self._runner: Runner | None = None
        self._native: NativeModel | None = None
        self._cache: PagedCache | None = None
        self._copy: Transformer | None = None
        self._layout: tuple[object, ...] = ()
        """What cache and runner were made for."""
        self._seen: tuple[int, ...] = ()
        self._pages: int | None = None
        self.load(model)

    @property
    def dtype(self) -> torch.dtype:
        """What products read."""
        own, wanted = self._source.dtype, self._dtype
        if wanted == "int8":
            return torch.int8
        if wanted == "auto":
            return _measured_dtype(self.device, own, self._max_batch, self.native)
        return wanted if isinstance(wanted, torch.dtype) else own

    @property
    def device(self) -> torch.device:
        """Where it computes."""
        return torch.device(self._device) if self._device is not None else self._source.device

    @property
    def native(self) -> bool:
        """Whether the CPU's own forward pass runs."""
        return self._native_for(self._source)

    def _native_for(self, model: Transformer) -> bool:
        wanted = model.dtype if self._dtype in (None, "auto") else self._dtype
        device = torch.device(self._device) if self._device is not None else model.device
        fits = wanted in ("int8", torch.float32, torch.bfloat16)
        return self._wants_native and fits and can_run(model.config, device)

    @property
    def shares(self) -> bool:
        """Whether the runner reads the tensors of the model that was loaded."""
        return not self.native and self.dtype == self._source.dtype and self.device == self._source.device

    def load(self, model: Transformer) -> None:
        """Run `model` from now on; of another shape, everything is made anew when it is next needed.

        Raises:
            UserError: when it cannot run here; the model before is kept.
        """
        for name, wanted in (("dtype", self._dtype), ("cache_dtype", self._cache_dtype)):
            if wanted == "int8" and not self._native_for(model):
                raise UserError(
                    "int8 needs the native pass, which cannot run this model here",
                    where=f"Engine.{name}",
                    fix=f"leave {name} out, or install a C++ compiler on a CPU",
                )
        self._source = model
        # Where each weight is found, not the weight: `load_state_dict(assign=True)` puts others there.
        self._weights = [
            (module._parameters, name)  # pyright: ignore[reportPrivateUsage]
            for module in model.modules()
            for name, weight in module._parameters.items()  # pyright: ignore[reportPrivateUsage]
            if weight is not None
        ]
        self._seen = ()
        if self._runner is not None and self.shares:
            self._runner = None  # it holds the tensors of the model before
        self._settle()
        with torch.inference_mode(False):
            # The model makes its rotary table at first use and keeps it. Made in inference mode, it could
            # not be used in training afterwards.
            first = torch.zeros((1, 1), dtype=torch.int64, device=self.model.device)
            self.model.rotary.at(first, None, self.model.dtype)

    def _settle(self) -> None:
        """Cache and runner of another shape, dtype or device are made anew when they are next needed."""
        layout = (self._source.config, self.dtype, self.device, self.native)
        if layout != self._layout:
            self._runner = self._native = self._cache = self._copy = None
            if self._layout[:1] != layout[:1]:
                self._pages = None
            self._layout = layout
        self.model = self._source
        if not (self.native or self.shares):
            self._cast()

    def refresh(self) -> bool:
        """Follow the weights; whether they, their dtype or the number of threads have changed since then.

        Seen by the tensors' own counts of writes in place and by their addresses: what optimizers, `copy_`,
        `load_state_dict` and `to` do, and not what is written through `.data`.
        """
        weights = [found[name] for found, name in self._weights]
        now = (
            torch.get_num_threads(),
            *[-1 if w is None or w.is_inference() else w._version for w in weights],
            *[0 if w is None else w.data_ptr() for w in weights],
        )
        if now == self._seen:
            return False
        self._seen = now
        self._settle()
        if self._native is not None:
            self._native.set_threads(torch.get_num_threads())
            self._native.pack(self._source)
        return True

    @torch.inference_mode(False)
    @torch.no_grad()
    def _cast(self) -> None:
        """Keep a copy of the source in another dtype or on another device, refreshed in place."""
        if self._copy is None:
            self._copy = copy.deepcopy(self._source).to(self.device, self.dtype).requires_grad_(False)
        for mine, theirs in zip(self._copy.parameters(), self._source.parameters(), strict=True):
            mine.copy_(theirs)
        self.model = self._copy

    @property
    def cache(self) -> PagedCache:
        """Made at first use, since its size goes by the memory that is free; kept so for a shape."""
        if self._cache is None:
            c, device = self._source.config, self.device
            dtype = self._kept_dtype
            if self._pages is None:
                tokens = self._cache_tokens
                if tokens is None:
                    each = token_bytes(c, dtype, trunk=self._trunk)
                    room = int(free_memory(device) * _MEMORY) // each
                    tokens = min(self._max_batch * c.max_position, max(room, PAGE))
                self._pages = -(-tokens // PAGE)
            with torch.inference_mode(False):  # an engine may outlive the mode it is first used in
                self._cache = PagedCache(
                    c, self._pages, native=self.native, dtype=dtype, device=device, trunk=self._trunk
                )
        return self._cache

    @property
    def _kept_dtype(self) -> torch.dtype:
        """Of keys and values."""
        if self._cache_dtype == "int8":
            return torch.int8
        return compute_dtype(self.device) if self.dtype == torch.int8 else self.dtype

    @property
    def runner(self) -> Runner:
        """Over the cache."""
        if self._runner is None:
            if self.native:
                kind = (
                    "int8"
                    if self.dtype == torch.int8
                    else "bfloat16"
                    if self.dtype == torch.bfloat16
                    else "float32"
                )
                self._native = NativeModel(self._source, kind, self.cache.keys.dtype, torch.get_num_threads())
                self._runner = NativeRunner(self._native, self.cache)
            else:
                self._runner = TorchRunner(self.model, self.cache)
        return self._runner


def _measured_dtype(device: torch.device, own: torch.dtype, rows: int, native: bool) -> torch.dtype:
    """bf16 where the hardware multiplies in it and it gains; else the model's own.

    The native pass gains at any number of rows: half the bytes. PyTorch on CPU (one core with AVX512-BF16,
    models of 192x4 and 256x4) gains from some 16 rows: at one row fp32 is up to twice as fast.
    """
    return compute_dtype(device) if native or device.type == "cuda" or rows >= 32 else own
