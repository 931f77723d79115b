"""Checkpoints: a folder in Hugging Face layout, checksummed, never pickled.

`transformers`, vLLM and llama.cpp's converter load what is written here; plain Llama and Mistral
checkpoints written by others load here (those carry no checksums, so none are checked).
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any, TypeVar

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from publius.core.errors import UserError
from publius.model.config import ModelConfig
from publius.model.heads import RewardModel
from publius.model.transformer import Transformer
from publius.pipeline.artifact import Artifact
from publius.tokenizer.renderer import Renderer
from publius.tokenizer.tokenizer import Tokenizer

__all__ = [
    "Checkpoint",
    "RewardCheckpoint",
    "load_model",
    "load_reward_model",
    "save_checkpoint",
    "save_reward_checkpoint",
    "verify",
]

_CHECKSUMS = "checksums.json"
_WEIGHTS = "model.safetensors"
_M = TypeVar("_M", bound=nn.Module)


class Checkpoint(Artifact):
    """An artifact that holds a language model and its tokenizer."""

    def load(self, device: str | torch.device = "cpu", dtype: torch.dtype = torch.float32) -> Transformer:
        """The model, in eval mode, checksums verified."""
        return load_model(self.path, device=device, dtype=dtype)

    def tokenizer(self) -> Tokenizer:
        """The tokenizer it was trained with."""
        return Tokenizer.load(self.path)

    def config(self) -> ModelConfig:
        """The model's shape."""
        return _read_config(self.path)


class RewardCheckpoint(Artifact):
    """An artifact that holds a reward model (sequence classification with one label)."""

    def load(self, device: str | torch.device = "cpu", dtype: torch.dtype = torch.float32) -> RewardModel:
        """The reward model, in eval mode, checksums verified."""
        return load_reward_model(self.path, device=device, dtype=dtype)

    def tokenizer(self) -> Tokenizer:
        """The tokenizer it was trained with."""
        return Tokenizer.load(self.path)

    def config(self) -> ModelConfig:
        """The trunk's shape."""
        return _read_config(self.path)


def save_checkpoint(folder: Path, model: Transformer, tokenizer: Tokenizer) -> None:
    """Write `model` to `folder` as `LlamaForCausalLM`, fp32, with its tokenizer and checksums.

    A tied head is not written twice: transformers ties it again on load.
    """
    _save(folder, model.config, dict(model.state_dict()), tokenizer, "LlamaForCausalLM", {})


def save_reward_checkpoint(folder: Path, model: RewardModel, tokenizer: Tokenizer) -> None:
    """Write `model` to `folder` as `LlamaForSequenceClassification` with one label.

    transformers scores the last token that is not padding, which is `last_B` of a right-padded batch.
    """
    weights = {
        name: value for name, value in model.trunk.state_dict().items() if not name.startswith("lm_head")
    }
    weights["score.weight"] = model.score.weight
    extra = {"num_labels": 1, "id2label": {"0": "reward"}, "label2id": {"reward": 0}}
    _save(folder, model.trunk.config, weights, tokenizer, "LlamaForSequenceClassification", extra)


def load_model(
    folder: Path, *, device: str | torch.device = "cpu", dtype: torch.dtype = torch.float32
) -> Transformer:
    """Load a language model from a Hugging Face folder, ours or another's, in eval mode.

    Raises:
        UserError: naming the file that is missing, damaged, or of another architecture.
    """
    verify(folder)
    with torch.device("meta"):
        model = Transformer(_read_config(folder))
    weights = _read_weights(folder, device, dtype)
    if model.config.tie_embeddings:
        weights.pop("lm_head.weight", None)
    return _fill(model, weights, folder)


def load_reward_model(
    folder: Path, *, device: str | torch.device = "cpu", dtype: torch.dtype = torch.float32
) -> RewardModel:
    """Load a reward model written by `save_reward_checkpoint`, in eval mode.

    The trunk's own language-model head is gone: an untied one is filled with zeros.

    Raises:
        UserError: naming the file that is missing or damaged.
    """
    verify(folder)
    with torch.device("meta"):
        model = RewardModel(Transformer(_read_config(folder)))
    weights = _read_weights(folder, device, dtype)
    named = {("" if name.startswith("score") else "trunk.") + name: value for name, value in weights.items()}
    if model.trunk.lm_head is not None:
        shape = model.trunk.lm_head.weight.shape
        named["trunk.lm_head.weight"] = torch.zeros(shape, device=device, dtype=dtype)
    return _fill(model, named, folder)


def verify(folder: Path) -> None:
    """Check every file listed in `checksums.json`; a folder without one (not ours) passes.

    Raises:
        UserError: naming the first file that is missing or differs.
    """
    listing = folder / _CHECKSUMS
    if not listing.exists():
        return
    for name, expected in _read_json(listing).items():
        path = folder / name
        if not path.is_file():
            raise UserError(
                f"checkpoint file {name} is missing", where=str(path), fix="rebuild the checkpoint"
            )
        if _sha256(path) != expected:
            raise UserError(
                f"checkpoint file {name} is damaged: its checksum differs",
                where=str(path),
                fix="delete the artifact and run its stage again, or restore it from a copy",
            )


def _save(
    folder: Path,
    config: ModelConfig,
    weights: dict[str, Tensor],
    tokenizer: Tokenizer,
    architecture: str,
    extra: dict[str, Any],
) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    ids = {
        "bos_token_id": tokenizer.bos_id,
        "eos_token_id": tokenizer.end_id,
        "pad_token_id": tokenizer.pad_id,
    }
    plain = {
        name: value.detach().to("cpu", torch.float32).contiguous() for name, value in sorted(weights.items())
    }
    save_file(plain, folder / _WEIGHTS, metadata={"format": "pt"})
    tokenizer.save(folder)
    (folder / "chat_template.jinja").write_text(Renderer(tokenizer).chat_template(), encoding="utf-8")
    _write_json(folder / "config.json", {**config.to_hf(**ids), "architectures": [architecture], **extra})
    _write_json(folder / "generation_config.json", {**ids, "do_sample": True, "temperature": 1.0})
    files = sorted(path for path in folder.iterdir() if path.is_file() and path.name != _CHECKSUMS)
    _write_json(folder / _CHECKSUMS, {path.name: _sha256(path) for path in files})


def _fill(model: _M, weights: dict[str, Tensor], folder: Path) -> _M:
    expected = model.state_dict()
    wrong = sorted(set(expected) ^ set(weights)) or sorted(
        name for name, value in weights.items() if value.shape != expected[name].shape
    )
    if wrong:
        raise UserError(
            f"weights do not fit config.json: {', '.join(wrong[:4])}",
            where=str(folder),
            fix="use a checkpoint whose weights and config.json belong together",
        )
    model.load_state_dict(weights, assign=True)
    return model.eval()


def _read_config(folder: Path) -> ModelConfig:
    path = folder / "config.json"
    return ModelConfig.from_hf(_read_json(path), where=str(path))


def _read_weights(folder: Path, device: str | torch.device, dtype: torch.dtype) -> dict[str, Tensor]:
    """All tensors of `model.safetensors`, or of the shards its index lists."""
    index = folder / f"{_WEIGHTS}.index.json"
    names = sorted(set(_read_json(index)["weight_map"].values())) if index.exists() else [_WEIGHTS]
    weights: dict[str, Tensor] = {}
    for name in names:
        try:
            with safe_open(folder / name, framework="pt", device=str(device)) as shard:
                weights |= {key: shard.get_tensor(key).to(dtype) for key in shard.keys()}  # noqa: SIM118
        except (OSError, SafetensorError) as error:
            raise UserError(
                f"cannot read weights: {error}",
                where=str(folder / name),
                fix="restore or rebuild the checkpoint",
            ) from error
    return weights


def _read_json(path: Path) -> dict[str, Any]:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(
            f"cannot read {path.name}: {error}", where=str(path), fix="point at a Hugging Face model folder"
        ) from error


def _write_json(path: Path, value: dict[str, Any]) -> None:
    path.write_text(json.dumps(value, indent=2) + "\n", encoding="utf-8")


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
