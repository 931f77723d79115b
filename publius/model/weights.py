"""Named tensors on disk: safetensors, in one file or in shards with an index, in Hugging Face layout."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from publius.core.errors import UserError

__all__ = [
    "SHARD_BYTES",
    "read_json",
    "read_weights",
    "sha256",
    "weight_files",
    "write_json",
    "write_weights",
]

SHARD_BYTES = 5_000_000_000
"""Largest file of weights, unless told otherwise; one tensor is never cut."""
_WEIGHTS = "model.safetensors"
_INDEX = "model.safetensors.index.json"
_FIX = "restore or rebuild the checkpoint"


def weight_files(folder: Path) -> list[Path]:
    """The files that hold the weights: those the index lists, or the only one.

    Raises:
        UserError: when there are none, or two sets of them, or the index lists one that is missing.
    """
    index = folder / _INDEX
    if index.exists():
        listed = read_json(index).get("weight_map")
        if not isinstance(listed, dict) or not all(isinstance(name, str) for name in listed.values()):
            raise UserError("the index of weights has no map of file names", where=str(index), fix=_FIX)
        names = sorted(set(listed.values()))
        if not names:
            raise UserError("the index of weights lists none", where=str(index), fix=_FIX)
        if (folder / _WEIGHTS).exists() and _WEIGHTS not in names:
            raise UserError(  # transformers would take the one, vLLM the other
                f"there are two sets of weights: {_WEIGHTS}, and the shards of {_INDEX}",
                where=str(folder),
                fix="remove the one that is not meant (with its index)",
            )
    elif (folder / _WEIGHTS).exists():
        names = [_WEIGHTS]
    elif any(folder.glob("pytorch_model*.bin")):
        raise UserError(
            "cannot read weights: they are pickled (pytorch_model.bin), which can run code",
            where=str(folder),
            fix="convert them to safetensors first (save_pretrained of transformers does)",
        )
    else:
        raise UserError("cannot read weights: there are none", where=str(folder / _WEIGHTS), fix=_FIX)
    for name in names:
        if Path(name).name != name or not (folder / name).is_file():
            raise UserError("cannot read weights: a shard is missing", where=str(folder / name), fix=_FIX)
    return [folder / name for name in names]


def read_weights(
    folder: Path, device: str | torch.device = "cpu", dtype: torch.dtype | None = None
) -> dict[str, Tensor]:
    """All tensors by name, in `dtype` (None: as stored), copied: a file written over later changes none.

    Old checkpoints also store the rotary rates, which follow from the config: those are left out.

    Raises:
        UserError: for a file that is missing or damaged, or a tensor that its index and it do not agree on.
    """
    weights: dict[str, Tensor] = {}
    for path in weight_files(folder):
        for name, tensor in _tensors(path, device):
            if name in weights:
                raise UserError(f"the weights hold {name} twice", where=str(path), fix=_FIX)
            if not name.endswith("rotary_emb.inv_freq"):
                # on the CPU it is a map of the file, and would follow what is written there
                weights[name] = tensor.to(dtype=dtype or tensor.dtype, copy=True)
    return weights


def _tensors(path: Path, device: str | torch.device) -> Iterator[tuple[str, Tensor]]:
    try:
        with safe_open(path, framework="pt", device=str(device)) as shard:
            for key in shard.keys():  # noqa: SIM118
                yield key, shard.get_tensor(key)
    except (OSError, SafetensorError) as error:
        raise UserError(f"cannot read weights: {error}", where=str(path), fix=_FIX) from error


def write_weights(
    folder: Path, weights: dict[str, Tensor], dtype: torch.dtype, shard_bytes: int = SHARD_BYTES
) -> None:
    """Write `weights` in `dtype`: one file, or shards of at most `shard_bytes` and their index.

    Files of weights written before, in more shards or fewer, are removed: left beside the new they would be
    read for them.
    """
    shards: list[list[str]] = [[]]
    filled = total = 0
    for name in sorted(weights):
        size = weights[name].numel() * dtype.itemsize
        if shards[-1] and filled + size > shard_bytes:
            shards.append([])
            filled = 0
        shards[-1].append(name)
        filled, total = filled + size, total + size
    where: dict[str, str] = {}
    for number, names in enumerate(shards, start=1):
        one = len(shards) == 1
        file = _WEIGHTS if one else f"model-{number:05d}-of-{len(shards):05d}.safetensors"
        plain = {name: weights[name].detach().to("cpu", dtype).contiguous() for name in names}
        save_file(plain, folder / file, metadata={"format": "pt"})
        where |= dict.fromkeys(names, file)
    for old in (folder / _WEIGHTS, folder / _INDEX, *folder.glob("model-?????-of-?????.safetensors")):
        if old.name not in where.values():
            old.unlink(missing_ok=True)
    if len(shards) > 1:
        write_json(folder / _INDEX, {"metadata": {"total_size": total}, "weight_map": where})


def read_json(path: Path) -> dict[str, Any]:
    """The object in a JSON file.

    Raises:
        UserError: when it is missing or is not a JSON object.
    """
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(value, dict):
            raise ValueError("it is not a JSON object")
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(
            f"cannot read {path.name}: {error}", where=str(path), fix="point at a Hugging Face model folder"
        ) from error
    return value


def write_json(path: Path, value: dict[str, Any]) -> None:
    """Write `value`, indented, in the order given."""
    path.write_text(json.dumps(value, indent=2) + "\n", encoding="utf-8")


def sha256(path: Path) -> str:
    """The file's SHA-256, hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
