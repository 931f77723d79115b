"""What a training loop saves: weights, moments and random state as safetensors, the rest as JSON.

One process writes `state.safetensors`; several write a part each (`distributed.parts`). Either is read by any
number of processes: tensors have the names of a checkpoint, whatever the layout in memory.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from publius.core.errors import UserError
from publius.model.fused import fused_parts, split_weights
from publius.training.optimizer import Optimizers

__all__ = [
    "demand",
    "load_state",
    "random_state",
    "read_words",
    "restore_random",
    "save_state",
    "write_words",
]

_ONE = "state.safetensors"
_WORDS = "state.json"


def save_state(folder: Path, model: nn.Module, optimizers: Optimizers, words: dict[str, Any]) -> None:
    """Write everything a resumed loop needs into `folder`; `words` are JSON-able facts of the caller."""
    state = {f"model.{name}": value for name, value in split_weights(model).items()}
    state |= {f"optimizer.{name}": value for name, value in optimizers.tensors().items()} | random_state()
    save_file({n: v.detach().cpu().contiguous().clone() for n, v in state.items()}, folder / _ONE)
    write_words(folder, words)


def load_state(folder: Path, model: nn.Module, optimizers: Optimizers) -> dict[str, Any]:
    """Put weights, moments and random state back in place; returns the facts.

    Raises:
        UserError: when the state is another model's.
    """
    state = load_file(folder / _ONE) if (folder / _ONE).exists() else _read_parts(folder)
    weights, fused = dict(model.named_parameters()), fused_parts(model)
    with torch.no_grad():
        for name, parameter in weights.items():
            parts = [part.name for part in fused.get(name, ())] or [name]
            if not parameter.requires_grad and f"model.{parts[0]}" not in state:
                continue  # several ranks write what learns; what is frozen is what it was
            demand(folder, [f"model.{part}" for part in parts], state)
            parameter.copy_(torch.cat([state[f"model.{part}"] for part in parts]).reshape(parameter.shape))
    optimizers.restore(_without_prefix(state))
    restore_random(state)
    return read_words(folder)


def _read_parts(folder: Path) -> dict[str, Tensor]:
    """All of a state that several ranks wrote: each file's header says where in the whole its parts lie."""
    parts: dict[str, list[tuple[list[int], Tensor]]] = {}
    for path in sorted(folder.glob("*.safetensors")):
        with safe_open(path, framework="pt") as file:
            offsets = json.loads(file.metadata()["DCP_SHARDING_INFO"])
            for name in file.keys():  # noqa: SIM118
                parts.setdefault(name, []).append((offsets[name]["saved_offsets"], file.get_tensor(name)))
    return {name: _joined(found) for name, found in parts.items()}


def _joined(parts: list[tuple[list[int], Tensor]]) -> Tensor:
    ends = [[o + n for o, n in zip(offset, part.shape, strict=True)] for offset, part in parts]
    whole = torch.empty([max(sizes) for sizes in zip(*ends, strict=True)], dtype=parts[0][1].dtype)
    for (offset, part), end in zip(parts, ends, strict=True):
        whole[tuple(slice(o, e) for o, e in zip(offset, end, strict=True))] = part
    return whole


def demand(folder: Path, wanted: Iterable[str], found: Iterable[str]) -> None:
    """Does the state in `folder` have all that is wanted?

    Raises:
        UserError: when it does not.
    """
    missing = sorted(set(wanted) - set(found))
    if missing:
        raise UserError(
            f"the saved state has no {missing[0]}: it is of another model or an older version",
            where=str(folder),
            fix="delete the unfinished artifact (its .partial folder) and run again: the stage starts over",
        )


def _without_prefix(state: dict[str, Tensor]) -> dict[str, Tensor]:
    return {n.removeprefix("optimizer."): v for n, v in state.items() if n.startswith("optimizer.")}


def random_state() -> dict[str, Tensor]:
    """Of torch's generators, by name."""
    state = {"rng.cpu": torch.get_rng_state()}
    if torch.cuda.is_available():
        state["rng.cuda"] = torch.cuda.get_rng_state()
    return state


def restore_random(state: dict[str, Tensor]) -> None:
    torch.set_rng_state(state["rng.cpu"])
    if "rng.cuda" in state and torch.cuda.is_available():
        torch.cuda.set_rng_state(state["rng.cuda"])


def write_words(folder: Path, words: dict[str, Any]) -> None:
    """The facts, as JSON."""
    (folder / _WORDS).write_text(json.dumps(words), encoding="utf-8")


def read_words(folder: Path) -> dict[str, Any]:
    """What `write_words` wrote."""
    return json.loads((folder / _WORDS).read_text(encoding="utf-8"))
