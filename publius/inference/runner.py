"""Runs a step: the tokens of a plan through the model, to the logits that are wanted.

Two runners of one interface. `NativeRunner` gives all tokens of a step to the CPU's own forward pass at once.
`TorchRunner` uses the model's forward, on any device: rows that decode together, then each prompt's chunk.

Shape letters: B rows, T tokens, N wanted tokens, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import NamedTuple, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from publius.inference.kv_cache import PagedCache, PagedView
from publius.inference.native import NativeModel
from publius.inference.pages import PAGE
from publius.inference.readings import Probe, States, joined_layers, tapped, whitened
from publius.inference.request import Request, Trunk
from publius.inference.scheduler import Work
from publius.model.transformer import Transformer

__all__ = ["NativeRunner", "Ran", "Runner", "TorchRunner", "wanted_rows"]


class Ran(NamedTuple):
    """What came of a plan."""

    logits_NV: Tensor
    """Of `wanted_rows` of every work in turn."""
    spoilt: frozenset[int] = frozenset()
    """Works (by number) whose states are not numbers: their pages must not be shared."""
    readings: Mapping[Probe, NDArray[np.float32]] = {}
    """[N, K] of the same rows, of every probe of the plan's requests."""


class Runner(Protocol):
    """What the engine asks for."""

    def run(self, plan: Sequence[Work]) -> Ran:
        """Run every work; its keys and values are kept."""
        ...


def wanted_rows(work: Work) -> list[int]:
    """Which of a work's tokens (from its first, 0) have their logits computed.

    Those that are scored; or, when the prompt has been read, its last and every guessed one.
    """
    request, first = work.request, work.request.computed
    if request.targets is not None:
        return [i for i in range(work.size) if first + i in request.targets]
    return list(range(work.size - 1, work.size + len(work.draft))) if work.complete else []


def _probes(plan: Sequence[Work]) -> list[Probe]:
    """Each once."""
    return [probe for probe in {work.request.probe for work in plan} if probe is not None]


def tokens_of(work: Work) -> list[int]:
    """What a work reads."""
    first = work.request.computed
    return [*work.request.ids(first, first + work.size), *work.draft]


class NativeRunner:
    """All tokens of a step in one call.

    Args:
        model: packed.
        cache: native.
    """

    def __init__(self, model: NativeModel, cache: PagedCache) -> None:
        self._model, self._cache = model, cache
        self._addresses = np.empty(0, np.uint64)

    def run(self, plan: Sequence[Work]) -> Ran:
        """As `Runner.run`; logits in float32. A token that is not numbers spoils only those after it, which
        must read it anyway, so nothing is ever reported as spoilt."""
        self._cache.copy(work.copy for work in plan)
        tokens: list[int] = []
        positions: list[int] = []
        starts, wanted, cache = [0], list[int](), self._cache
        for work in plan:
            new, first = tokens_of(work), work.request.computed
            wanted += [starts[-1] + row for row in wanted_rows(work)]
            tokens += new
            positions += range(first, first + len(new))
            starts.append(len(tokens))
        width = max(len(work.request.pages) for work in plan)
        tables = np.zeros((len(plan), width), np.int32)
        for row, work in zip(tables, plan, strict=True):
            row[: len(work.request.pages)] = work.request.pages
        ids, places, first_rows, rows = (
            np.array(values, np.int32) for values in (tokens, positions, starts, wanted)
        )
        probes, trunks = _probes(plan), None
        if cache.trunk is not None:
            trunks = self._addresses if len(self._addresses) == len(plan) else np.empty(len(plan), np.uint64)
            trunks[:], self._addresses = [_trunk(work, cache.trunk) for work in plan], trunks
        one = probes[0] if len(probes) == 1 else None  # as nearly always: then the pass itself reads it
        layers = one.layers if one is not None else joined_layers(probes) if probes else None
        logits_NV, states_NS, readings_NK = self._model.forward(
            ids, places, first_rows, tables, rows, cache.keys, cache.values, layers,
            probe=None if one is None else one.weights, trunk=cache.trunk, trunks=trunks,
        )  # fmt: skip
        if one is not None and readings_NK is not None:
            return Ran(logits_NV, readings={one: readings_NK})
        if states_NS is None or layers is None:
            return Ran(logits_NV)
        states = States(states_NS, layers)
        return Ran(logits_NV, readings={probe: probe.read(states) for probe in probes})


def _trunk(work: Work, pages: Tensor) -> int:
    """Where the trunk of a work's request is written, 0 for nowhere. What came from the prefix cache is taken
    from its pages now, for they may be another's once it has ended."""
    request, first = work.request, work.request.computed
    trunk = request.trunk
    if trunk is None:
        if request.probe is None:
            return 0
        trunk = request.trunk = Trunk(request.most, pages.shape[2])
    if trunk.known < first:
        _take_over(request, trunk, pages)
    if trunk.known < (now := first + work.size):
        trunk.known = now
    return trunk.address


def _take_over(request: Request, trunk: Trunk, pages: Tensor) -> None:
    """The places of a reused prefix: whole pages, and the copied beginning of one."""
    from_, end = trunk.known // PAGE, -(-request.computed // PAGE)
    found_TD = pages[request.pages[from_:end]].flatten(0, 1).numpy()
    trunk.values_TD[trunk.known : request.computed] = found_TD[trunk.known - from_ * PAGE :][
        : request.computed - trunk.known
    ]


class TorchRunner:
    """The model's own forward over pages gathered for it.

    Args:
        model: on any device.
        cache: not native, on the same.
    """

    def __init__(self, model: Transformer, cache: PagedCache) -> None:
        self._model, self._cache = model, cache

    @torch.inference_mode()
    def run(self, plan: Sequence[Work]) -> Ran:
        """As `Runner.run`. A masked place weighs nothing, but nothing times NaN is NaN: one token that is not
        numbers spoils its whole chunk, also what comes before it, and what is written is cleared."""
        self._cache.copy(work.copy for work in plan)
        hidden: list[Tensor] = [torch.empty(0)] * len(plan)
        before: list[list[Tensor]] = [[]] * len(plan)
        spoilt: list[int] = []
        probes = _probes(plan)
        layers = joined_layers(probes)
        with _eager(self._model), torch.autocast(self._model.device.type, enabled=False):
            for group in _alike(plan):
                with tapped(self._model, layers) as taken:
                    states_BTD = self._forward([plan[i] for i in group])
                sound = states_BTD.isfinite().all(-1).all(-1).tolist()
                spoilt += [i for i, fine in zip(group, sound, strict=True) if not fine]
                for row, i in enumerate(group):
                    wanted = wanted_rows(plan[i])
                    hidden[i] = states_BTD[row, wanted]
                    before[i] = [stream_BTD[row, wanted] for stream_BTD in taken]
            final_ND = torch.cat(hidden)
            logits_NV = self._model.logits(final_ND)
        for i in spoilt:
            request = plan[i].request
            self._cache.clear(request.pages[request.computed // PAGE :])
        if not probes:
            return Ran(logits_NV, frozenset(spoilt))
        eps = self._model.config.norm_eps
        streams = [whitened(torch.cat(parts), eps) for parts in zip(*before, strict=True)]
        states = States(torch.cat([*streams, final_ND.float()], -1), layers)
        return Ran(logits_NV, frozenset(spoilt), {probe: probe.read(states) for probe in probes})

    def _forward(self, works: Sequence[Work]) -> Tensor:
        device = self._model.device
        news = [tokens_of(work) for work in works]
        length = max(map(len, news))
        pages = max(-(-(w.request.computed + len(new)) // PAGE) for w, new in zip(works, news, strict=True))
        tokens = np.zeros((len(works), length), np.int64)
        positions = np.full((len(works), length), -1, np.int64)
        tables = np.zeros((len(works), pages), np.int64)
        for row, (work, new) in enumerate(zip(works, news, strict=True)):
            first = work.request.computed
            tokens[row, : len(new)] = new
            positions[row, : len(new)] = np.arange(first, first + len(new))
            held = work.request.pages[:pages]
            tables[row, : len(held)] = held
        tokens_BT, positions_BT, tables_Bn = (
            torch.from_numpy(a).to(device) for a in (tokens, positions, tables)
        )
        keys_L = torch.arange(pages * PAGE, device=device)
        # Padding sees the first key, so that no row has nothing to see.
        mask_B1TL = keys_L <= positions_BT.clamp(min=0)[:, None, :, None]
        return self._model.hidden(
            tokens_BT,
            positions_BT=positions_BT.clamp(min=0),
            mask=mask_B1TL,
            cache=PagedView(self._cache, tables_Bn, positions_BT),
        )


def _alike(plan: Sequence[Work]) -> list[list[int]]:
    """Numbers of works that go through one forward: of one token together, chunks of similar length too."""
    order = sorted(range(len(plan)), key=lambda i: plan[i].size + len(plan[i].draft))
    groups: list[list[int]] = []
    for i in order:
        size = plan[i].size + len(plan[i].draft)
        if groups:
            least = plan[groups[-1][0]].size + len(plan[groups[-1][0]].draft)
            if size <= least * 1.25:
                groups[-1].append(i)
                continue
        groups.append([i])
    return groups


def _eager(model: Transformer) -> AbstractContextManager[object]:
    """Ignore blocks the trainer compiled in place: every new shape here would compile them again."""
    if any(module._compiled_call_impl is not None for module in model.modules()):  # pyright: ignore[reportPrivateUsage]
        return torch.compiler.set_stance("force_eager")
    return nullcontext()
