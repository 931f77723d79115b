"""What a training loop saves: weights, moments and random state as safetensors, the rest as JSON."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import nn

from publius.training.optimizer import Optimizers

__all__ = ["load_state", "save_state"]


def save_state(folder: Path, model: nn.Module, optimizers: Optimizers, words: dict[str, Any]) -> None:
    """Write everything a resumed loop needs into `folder`; `words` are JSON-able facts of the caller."""
    state = {f"model.{name}": value.detach() for name, value in model.named_parameters()}
    state |= {f"optimizer.{name}": value for name, value in optimizers.tensors().items()}
    state["rng.cpu"] = torch.get_rng_state()
    if torch.cuda.is_available():
        state["rng.cuda"] = torch.cuda.get_rng_state()
    save_file({n: v.cpu().contiguous().clone() for n, v in state.items()}, folder / "state.safetensors")
    (folder / "state.json").write_text(json.dumps(words), encoding="utf-8")


def load_state(folder: Path, model: nn.Module, optimizers: Optimizers) -> dict[str, Any]:
    """Put weights, moments and random state back in place; returns the facts."""
    state = load_file(folder / "state.safetensors")
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.copy_(state[f"model.{name}"])
    optimizers.restore(
        {n.removeprefix("optimizer."): v for n, v in state.items() if n.startswith("optimizer.")}
    )
    torch.set_rng_state(state["rng.cpu"])
    if "rng.cuda" in state and torch.cuda.is_available():
        torch.cuda.set_rng_state(state["rng.cuda"])
    return json.loads((folder / "state.json").read_text(encoding="utf-8"))
