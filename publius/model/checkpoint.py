"""Checkpoints: a folder in Hugging Face layout, checksummed, never pickled.

`transformers`, vLLM and llama.cpp's converter load what is written here; checkpoints of the Llama family
written by others load here (those carry no checksums, so none are checked).
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from contextlib import contextmanager, suppress
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
from publius.model.weights import (
    SHARD_BYTES,
    read_json,
    read_weights,
    sha256,
    weight_files,
    write_json,
    write_weights,
)
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
_READ = frozenset({"config.json", "tokenizer.json"})
"""Read beside the weights."""
_WEIGHTS = (".safetensors", ".index.json")
_REBUILD = "delete the artifact and run its stage again, or restore it from a copy"
_M = TypeVar("_M", bound=nn.Module)


class Checkpoint(Artifact):
    """An artifact that holds a language model and its tokenizer."""

    def load(self, device: str | torch.device = "cpu", dtype: torch.dtype = torch.float32) -> Transformer:
        """The model, in eval mode, checksums verified."""
        return load_model(self.path, device=device, dtype=dtype)

    def load_as(
        self, expected: str, device: str | torch.device = "cpu", dtype: torch.dtype = torch.float32
    ) -> tuple[Transformer, Tokenizer]:
        """The model and its tokenizer, if `expected` is their fingerprint.

        Raises:
            UserError: as `load_model`; when they are others by now, or changed while they were read.
        """
        with _unchanged(self.path, expected):
            return _language_model(self.path, device, dtype), self.tokenizer()

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

    Loading verifies the list against the files and reads no others, so nothing else can be loaded under this
    name.
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

    Raises:
        ValueError: for a model with adapters.
    """
    weights = _plain_weights(model)
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

    Raises:
        ValueError: for a trunk with adapters.
    """
    trunk = _plain_weights(model.trunk)
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
        UserError: naming the file that is missing, damaged, not of this checkpoint, or of another
            architecture.
    """
    with _unchanged(folder):
        return _language_model(folder, device, dtype)


def load_reward_model(
    folder: Path, *, device: str | torch.device = "cpu", dtype: torch.dtype = torch.float32
) -> RewardModel:
    """Load a reward model written by `save_reward_checkpoint`, in eval mode.

    The trunk's own language-model head is gone: an untied one is filled with zeros.

    Raises:
        UserError: naming the file that is missing or damaged.
    """
    with _unchanged(folder):
        with torch.device("meta"):
            model = RewardModel(Transformer(read_config(folder)))
        weights = read_weights(folder, device, dtype)
    named = {("" if name.startswith("score") else "trunk.") + name: value for name, value in weights.items()}
    if model.trunk.lm_head is not None:
        shape = model.trunk.lm_head.weight.shape
        named["trunk.lm_head.weight"] = torch.zeros(shape, device=device, dtype=dtype)
    return _fill(model, named, folder)


def verify(folder: Path, expected: str | None = None) -> None:
    """Check every file listed in `checksums.json`, and that no file beside them would be loaded as weights; a
    folder without a list (not ours) passes.

    Args:
        expected: the fingerprint it must have; None for any.

    Raises:
        UserError: naming the first file that is missing, differs or is not listed, or when the fingerprint is
            another.
    """
    listing = folder / _CHECKSUMS
    raw = listing.read_bytes() if listing.exists() else None
    found = None if raw is None else hashlib.sha256(raw).hexdigest()
    if expected not in (None, found):
        raise UserError(
            f"these are other weights by now ({found[:16] + '...' if found else 'without checksums'}, not "
            f"{(expected or '')[:16]}...)",
            where=str(folder),
            fix="decide on what lies there now, or put back what was there",
        )
    if raw is None:
        return
    listed = _listed(raw, listing)
    for name, digest in listed.items():
        path = folder / name
        if not path.is_file():
            raise UserError(
                f"checkpoint file {name} is missing", where=str(path), fix="rebuild the checkpoint"
            )
        if sha256(path) != digest:
            raise UserError(
                f"checkpoint file {name} is damaged: its checksum differs", where=str(path), fix=_REBUILD
            )
    # an index beside the listed weights would have others loaded under this checkpoint's name
    for path in sorted(folder.iterdir()):
        if path.name in _READ or path.name.endswith(_WEIGHTS):
            _check_listed(path, listed)
    for path in weight_files(folder):  # an index may name files of any name
        _check_listed(path, listed)


def _check_listed(path: Path, listed: dict[str, str]) -> None:
    if path.name not in listed:
        raise UserError(
            f"{path.name} is not a file of this checkpoint: no checksum is listed for it",
            where=str(path),
            fix="remove it, or restore the folder from a copy",
        )


def _listed(raw: bytes, path: Path) -> dict[str, str]:
    """Name -> sha256, of a list of checksums."""
    try:
        found = json.loads(raw)
    except (ValueError, RecursionError):
        found = None
    if not isinstance(found, dict) or not all(
        isinstance(digest, str) and Path(name).name == name for name, digest in found.items()
    ):
        raise UserError("the list of checksums is damaged", where=str(path), fix=_REBUILD)
    return found


@contextmanager
def _unchanged(folder: Path, expected: str | None = None) -> Iterator[None]:
    """Verify a checkpoint, and hold it to that: what is read within is what was verified."""
    before = _stamps(folder)
    verify(folder, expected)
    yield
    if _stamps(folder) != before:
        raise UserError(
            "the checkpoint was changed while it was loaded",
            where=str(folder),
            fix="load it again once nothing writes there",
        )


def _stamps(folder: Path) -> dict[str, tuple[int, int, int]] | None:
    """Size and times of what a checkpoint of ours is read from; None for a folder without checksums."""
    if not (folder / _CHECKSUMS).exists():
        return None
    found: dict[str, tuple[int, int, int]] = {}
    for path in folder.iterdir():
        if path.name in _READ or path.name.endswith((*_WEIGHTS, _CHECKSUMS)):
            with suppress(FileNotFoundError):  # taken away this moment
                told = path.stat()
                found[path.name] = (told.st_size, told.st_mtime_ns, told.st_ctime_ns)
    return found


def _language_model(folder: Path, device: str | torch.device, dtype: torch.dtype) -> Transformer:
    """The model in a folder, nothing verified."""
    with torch.device("meta"):
        model = Transformer(read_config(folder))
    weights = read_weights(folder, device, dtype)
    if model.config.tie_embeddings:
        head, embedding = weights.pop("lm_head.weight", None), weights.get("model.embed_tokens.weight")
        if head is not None and embedding is not None and not torch.equal(head, embedding):
            raise UserError(  # transformers 5 computes with it, others without: two models under one name
                "the weights hold a head, lm_head.weight, that is not the embedding config.json ties it to",
                where=str(folder),
                fix="set tie_word_embeddings to false if the head was trained, else take it out",
            )
    return _fill(model, weights, folder)


def _plain_weights(model: Transformer) -> dict[str, Tensor]:
    """`split_weights`, of what any other tool can load."""
    if model.adapted:
        raise ValueError("a checkpoint has no place for adapters: save `adapters.merged(model)`")
    return split_weights(model)


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
