"""Checkpoints: a folder in Hugging Face layout, checksummed, never pickled.

`transformers`, vLLM and llama.cpp's converter load what is written here; checkpoints of the Llama family
written by others load here (those carry no checksums, so none are checked).
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from publius.core.errors import UserError
from publius.model.config import ModelConfig
from publius.model.fused import fuse_weights, split_weights
from publius.model.heads import RewardModel
from publius.model.hf_config import class_name, config_from_hf, config_to_hf
from publius.model.transformer import Transformer
from publius.model.weights import SHARD_BYTES, read_json, read_weights, sha256, write_json, write_weights
from publius.pipeline.artifact import Artifact
from publius.tokenizer.renderer import Renderer
from publius.tokenizer.tokenizer import Tokenizer

__all__ = [
    "Checkpoint",
    "RewardCheckpoint",
    "fingerprint",
    "is_reward",
    "load_model",
    "load_reward_model",
    "read_config",
    "save_checkpoint",
    "save_reward_checkpoint",
    "verify",
]

_CHECKSUMS = "checksums.json"
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
        return read_config(self.path)


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
        return read_config(self.path)


def fingerprint(model: Checkpoint | RewardCheckpoint) -> str:
    """The sha256 that names a checkpoint's weights, config and tokenizer: that of its list of checksums.

    Loading verifies the list against the files, so nothing else can be loaded under this name.
    """
    return hashlib.sha256(model.file("checksums.json").read_bytes()).hexdigest()


def save_checkpoint(
    folder: Path,
    model: Transformer,
    tokenizer: Tokenizer,
    *,
    dtype: torch.dtype = torch.float32,
    shard_bytes: int = SHARD_BYTES,
) -> None:
    """Write `model` to `folder` as its family's `...ForCausalLM`, with its tokenizer and checksums.

    A tied head is not written twice: transformers ties it again on load.

    Args:
        folder: made when missing.
        model: of any family of `ModelConfig`.
        tokenizer: of the same vocabulary.
        dtype: of the weights on disk.
        shard_bytes: more weights than this go into several files with an index.
    """
    weights = split_weights(model)
    _save(folder, model.config, weights, tokenizer, "ForCausalLM", {}, dtype, shard_bytes)


def save_reward_checkpoint(
    folder: Path,
    model: RewardModel,
    tokenizer: Tokenizer,
    *,
    dtype: torch.dtype = torch.float32,
    shard_bytes: int = SHARD_BYTES,
) -> None:
    """Write `model` to `folder` as its family's `...ForSequenceClassification` with one label.

    transformers scores the last token that is not padding, which is `last_B` of a right-padded batch.
    """
    trunk = split_weights(model.trunk)
    weights = {name: value for name, value in trunk.items() if not name.startswith("lm_head")}
    weights["score.weight"] = model.score.weight
    extra = {"num_labels": 1, "id2label": {"0": "reward"}, "label2id": {"reward": 0}}
    config = model.trunk.config
    _save(folder, config, weights, tokenizer, "ForSequenceClassification", extra, dtype, shard_bytes)


def load_model(
    folder: Path, *, device: str | torch.device = "cpu", dtype: torch.dtype = torch.float32
) -> Transformer:
    """Load a language model from a Hugging Face folder, ours or another's, in eval mode.

    Raises:
        UserError: naming the file that is missing, damaged, or of another architecture.
    """
    verify(folder)
    with torch.device("meta"):
        model = Transformer(read_config(folder))
    weights = read_weights(folder, device, dtype)
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
        model = RewardModel(Transformer(read_config(folder)))
    weights = read_weights(folder, device, dtype)
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
    for name, expected in read_json(listing).items():
        path = folder / name
        if not path.is_file():
            raise UserError(
                f"checkpoint file {name} is missing", where=str(path), fix="rebuild the checkpoint"
            )
        if sha256(path) != expected:
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
    task: str,
    extra: dict[str, Any],
    dtype: torch.dtype,
    shard_bytes: int,
) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    ids = {
        "bos_token_id": tokenizer.bos_id,
        "eos_token_id": tokenizer.end_id,
        "pad_token_id": tokenizer.pad_id,
    }
    extra = {
        "architectures": [class_name(config.written_family, task)],
        "torch_dtype": str(dtype).removeprefix("torch."),
        **ids,
        **extra,
    }
    write_weights(folder, weights, dtype, shard_bytes)
    tokenizer.save(folder)
    (folder / "chat_template.jinja").write_text(Renderer(tokenizer).chat_template(), encoding="utf-8")
    write_json(folder / "config.json", config_to_hf(config, **extra))
    write_json(folder / "generation_config.json", {**ids, "do_sample": True, "temperature": 1.0})
    files = sorted(path for path in folder.iterdir() if path.is_file() and path.name != _CHECKSUMS)
    write_json(folder / _CHECKSUMS, {path.name: sha256(path) for path in files})


def _fill(model: _M, weights: dict[str, Tensor], folder: Path) -> _M:
    expected = split_weights(model)
    wrong = sorted(set(expected) ^ set(weights)) or sorted(
        name for name, value in weights.items() if value.shape != expected[name].shape
    )
    if wrong:
        raise UserError(
            f"weights do not fit config.json: {', '.join(wrong[:4])}",
            where=str(folder),
            fix="use a checkpoint whose weights and config.json belong together",
        )
    model.load_state_dict(fuse_weights(model, weights), assign=True)
    return model.eval()


def read_config(folder: Path) -> ModelConfig:
    """The model's shape, from `config.json`.

    Raises:
        UserError: when it is missing or asks for what this model does not have.
    """
    path = folder / "config.json"
    return config_from_hf(read_json(path), where=str(path))


def is_reward(folder: Path) -> bool:
    """Does the folder hold a reward model (sequence classification)?"""
    names = read_json(folder / "config.json").get("architectures") or []
    return any(str(name).endswith("ForSequenceClassification") for name in names)
