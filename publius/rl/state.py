"""Resume state of an RL run: weights and optimizer moments as safetensors, the rest as JSON. Never pickle."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

__all__ = ["load_state", "save_state"]


def save_state(
    folder: Path,
    models: Mapping[str, nn.Module],
    optimizers: Mapping[str, torch.optim.Optimizer],
    facts: Mapping[str, Any],
) -> None:
    """Write models, optimizer states and JSON-able facts into `folder`."""
    for name, model in models.items():
        save_file(
            {k: v.detach().contiguous().clone() for k, v in model.state_dict().items()},
            folder / f"{name}.safetensors",
        )
    for name, optimizer in optimizers.items():
        moments: dict[str, Tensor] = {
            f"{index}.{key}": value.contiguous()
            for index, state in optimizer.state_dict()["state"].items()
            for key, value in state.items()
        }
        save_file(moments, folder / f"{name}.optimizer.safetensors")
    (folder / "state.json").write_text(json.dumps(facts), "utf-8")


def load_state(
    folder: Path, models: Mapping[str, nn.Module], optimizers: Mapping[str, torch.optim.Optimizer]
) -> dict[str, Any]:
    """Fill models and optimizers (built as when saved) in place; returns the facts."""
    for name, model in models.items():
        model.load_state_dict(load_file(folder / f"{name}.safetensors"))
    for name, optimizer in optimizers.items():
        state: dict[int, dict[str, Tensor]] = {}
        for key, value in load_file(folder / f"{name}.optimizer.safetensors").items():
            index, field = key.split(".", 1)
            state.setdefault(int(index), {})[field] = value
        optimizer.load_state_dict({**optimizer.state_dict(), "state": state})
    return json.loads((folder / "state.json").read_text("utf-8"))
