"""In from another's checkpoint, out to another's tools: whole, checked, or not at all.

Our renderer marks turns, thinking and tools with special tokens of its own. A tokenizer that lacks them
gets them at the end of its vocabulary, and the model a row for each: the mean of the rows it knows, so that
a token never seen says nothing in particular (Hewitt 2021, "Initializing new word embeddings for pretrained
language models"). The model has still never seen them: fine-tune it before chatting with it.
"""

from __future__ import annotations

import math
import re
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Literal, NamedTuple

import torch
from pydantic import Field

from publius.core.config import Config
from publius.core.errors import UserError
from publius.model.checkpoint import (
    Checkpoint,
    is_reward,
    load_model,
    load_reward_model,
    read_config,
    save_checkpoint,
    save_reward_checkpoint,
)
from publius.model.fused import split_weights
from publius.model.transformer import Transformer
from publius.model.weights import SHARD_BYTES, read_json, sha256, weight_files
from publius.pipeline import Run, stage
from publius.tokenizer.tokenizer import Tokenizer

__all__ = [
    "ExportType",
    "Exported",
    "ImportConfig",
    "Imported",
    "export_checkpoint",
    "import_checkpoint",
    "import_model",
    "import_to",
    "parse_size",
    "whole_or_nothing",
]

ExportType = Literal["float32", "bfloat16"]
_UNITS = {"": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "KIB": 2**10, "MIB": 2**20, "GIB": 2**30}


class Imported(NamedTuple):
    """A checked model, ready to be trained, and what had to be added to it."""

    model: Transformer
    tokenizer: Tokenizer
    added: tuple[str, ...]
    """Special tokens its tokenizer lacked."""
    new_rows: int
    """Embedding rows the model grew by (fewer than `added` when it had spare ones)."""


class Exported(NamedTuple):
    """What was written."""

    architecture: str
    parameters: int
    files: tuple[str, ...]
    bytes: int


class ImportConfig(Config):
    """Which model to start from."""

    folder: str = Field(min_length=1)
    """A folder in Hugging Face layout: config.json, safetensors, tokenizer.json."""


def import_model(folder: Path) -> Imported:
    """Read a language model made elsewhere, check every tensor, and give it our special tokens.

    Raises:
        UserError: naming the file, key or tensor that is missing, damaged, not finite or not supported.
    """
    if not folder.is_dir():
        raise UserError("there is no such folder", where=str(folder), fix="give a Hugging Face model folder")
    if is_reward(folder):
        raise UserError(
            "this is a reward model, not a language model", where=str(folder), fix="give a ...ForCausalLM"
        )
    model, tokenizer = load_model(folder), Tokenizer.load(folder)
    for name, weight in split_weights(model).items():
        if not bool(torch.isfinite(weight).all()):
            raise UserError(
                f"the tensor {name} holds numbers that are not finite",
                where=str(folder),
                fix="get the checkpoint again, or an earlier one",
            )
    new = [tokenizer.special[token] for token in tokenizer.added]
    known, before = min(new, default=tokenizer.vocab_size), model.config.vocab_size
    if known > before:
        raise UserError(
            f"the tokenizer has {known} ids, the model only {before}",
            where=str(folder),
            fix="use the tokenizer the model was trained with",
        )
    if new:
        model = _with_rows(model, known, new, max(before, tokenizer.vocab_size))
    return Imported(model, tokenizer, tokenizer.added, model.config.vocab_size - before)


@torch.no_grad()
def _with_rows(model: Transformer, known: int, new: list[int], size: int) -> Transformer:
    """The model with a vocabulary of `size`, and the mean of rows 0 to `known` - 1 in the rows `new`.

    Rows between (room left by whoever trained it) stay as they are.
    """
    state = model.state_dict()
    for name in ("model.embed_tokens.weight", "lm_head.weight"):
        if name in state:
            mean = state[name][:known].mean(0, keepdim=True)
            grown = torch.cat((state[name], mean.expand(size - len(state[name]), -1)))
            grown[new] = mean
            state[name] = grown
    with torch.device("meta"):
        larger = Transformer(model.config.model_copy(update={"vocab_size": size}))
    larger.load_state_dict(state, assign=True)
    return larger.eval()


def _fingerprint(config: ImportConfig) -> dict[str, str]:
    """File -> SHA-256 of all that is read: another checkpoint under the same name is another base."""
    folder = Path(config.folder)
    if not folder.is_dir():
        raise UserError("there is no such folder", where=str(folder), fix="give a Hugging Face model folder")
    named = [folder / "config.json", folder / "tokenizer.json", *weight_files(folder)]
    return {path.name: sha256(path) for path in named if path.is_file()}


@stage(version=1, fingerprint=_fingerprint)
def import_checkpoint(run: Run, config: ImportConfig) -> Checkpoint:
    """Start a recipe from a base made elsewhere instead of from pretraining.

    Metrics: `params`, `special_tokens_added`, `rows_added`.

    Raises:
        UserError: as `import_model`.
    """
    found = import_model(Path(config.folder))
    run.metric("params", sum(p.numel() for p in found.model.parameters()))
    run.metric("special_tokens_added", len(found.added))
    run.metric("rows_added", found.new_rows)
    save_checkpoint(run.output, found.model, found.tokenizer)
    return Checkpoint(run.output)


def export_checkpoint(
    source: Path, target: Path, *, dtype: ExportType = "float32", shard_bytes: int = SHARD_BYTES
) -> Exported:
    """Write the model in `source` (language or reward) to `target` for other tools, with checksums.

    Raises:
        UserError: when `source` holds no model, or `target` holds anything.
    """
    kind = {"float32": torch.float32, "bfloat16": torch.bfloat16}[dtype]
    with whole_or_nothing(target) as folder:
        tokenizer = Tokenizer.load(source)
        if is_reward(source):
            reward = load_reward_model(source)
            save_reward_checkpoint(folder, reward, tokenizer, dtype=kind, shard_bytes=shard_bytes)
        else:
            save_checkpoint(folder, load_model(source), tokenizer, dtype=kind, shard_bytes=shard_bytes)
        summary = _summary(folder)
    return summary


def _summary(folder: Path) -> Exported:
    files = weight_files(folder)
    config = read_config(folder)
    parameters = config.parameters()
    if is_reward(folder):  # a row of scores, and no head of its own
        heads = 0 if config.tie_embeddings else config.vocab_size
        parameters += (1 - heads) * config.hidden_size
    size = sum(path.stat().st_size for path in files)
    architecture = str(read_json(folder / "config.json")["architectures"][0])
    return Exported(architecture, parameters, tuple(path.name for path in files), size)


def import_to(source: Path, target: Path) -> Imported:
    """`import_model`, written to `target` as one of our checkpoints.

    Raises:
        UserError: as `import_model`, or when `target` holds anything.
    """
    with whole_or_nothing(target) as folder:
        found = import_model(source)
        save_checkpoint(folder, found.model, found.tokenizer)
    return found


@contextmanager
def whole_or_nothing(target: Path) -> Iterator[Path]:
    """A folder beside `target` that becomes `target` when the block ends well, and is gone when it does not.

    Raises:
        UserError: when `target` exists and is not an empty folder, or is `.` or `..`.
    """
    fix = "give a folder that does not exist"
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise UserError("the target is not empty", where=str(target), fix=fix)
    if target.name in ("", ".."):
        raise UserError("the target cannot be replaced: it has no name", where=str(target), fix=fix)
    if target.is_symlink():
        target = target.resolve()  # what the link names, not the link
    # a name nobody else has: neither a folder of the user's nor another command's
    partial = target.with_name(f"{target.name}.{secrets.token_hex(4)}.partial")
    partial.mkdir(parents=True)
    try:
        yield partial
        if target.exists():
            target.rmdir()
        partial.rename(target)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise


def parse_size(text: str) -> int:
    """Bytes from words: `5GB` and `500MB` are powers of ten, `4GiB` of two.

    Raises:
        UserError: for anything else, or for less than a byte.
    """
    found = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([A-Za-z]*)\s*", text)
    unit = _UNITS.get(found[2].upper()) if found else None
    size = 0.0 if found is None or unit is None else float(found[1]) * unit
    if not 1 <= size < math.inf:
        raise UserError(f"{text!r} is not a size", where="max-shard-size", fix="write it like 5GB or 500MB")
    return int(size)
