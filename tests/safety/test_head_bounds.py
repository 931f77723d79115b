"""Bounding a head: what flags and where the threshold lies are of the model that it was trained on."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import get_args

import numpy as np
import pytest

from publius.core.errors import UserError
from publius.core.messages import Conversation, assistant, user
from publius.data.files import JsonlWriter
from publius.data.pocket.crafts import CATEGORIES
from publius.inference.readings import Probe
from publius.model.checkpoint import Checkpoint, fingerprint, save_checkpoint
from publius.pipeline import testing_run
from publius.safety.exchanges import SPLITS, Exchange, Exchanges, Label
from publius.safety.head import HeadDocument, LastBlock, TrainedHead, write_head
from publius.safety.head_bounds import BoundConfig, bound_head
from publius.safety.probe import ProbeDocument, TrainedProbe, write_probe
from publius.testing import byte_tokenizer, tiny_model

BOUND = BoundConfig(false_positives=0.5, missed=0.1, hold_back=4)


def folder(path: Path) -> Path:
    path.mkdir()
    return path


def checkpoint(path: Path, seed: int) -> Checkpoint:
    save_checkpoint(folder(path), tiny_model(seed), byte_tokenizer())
    return Checkpoint(path)


def probe(path: Path, model: Checkpoint) -> TrainedProbe:
    states = model.load().config.hidden_size
    rng, outputs = np.random.default_rng(0), ("harm", *CATEGORIES)
    document = ProbeDocument(
        model=fingerprint(model), outputs=outputs, layers=(), average=0.3, threshold=0.0, hold_back=4,
        benign=20, false_positives=0.1,
    )  # fmt: skip
    weights = rng.normal(size=(len(outputs), states + 1)).astype(np.float32)
    return write_probe(folder(path), Probe(weights, ()), document)


def head(path: Path, model: Checkpoint) -> TrainedHead:
    outputs = ("harm", *CATEGORIES)
    document = HeadDocument(
        model=fingerprint(model), outputs=outputs, flag=0.0, mix=0.5, threshold=0.0, hold_back=4, benign=0,
        false_positives=1.0, flagged=1.0,
    )  # fmt: skip
    return write_head(folder(path), LastBlock(model.load(), len(outputs)), document)


def exchanges(path: Path, model: Checkpoint) -> Exchanges:
    folder(path)
    identity = fingerprint(model)
    for split in SPLITS:
        with JsonlWriter(path / f"{split}.jsonl.zst") as writer:
            for number, label in itertools.product(range(20), get_args(Label)[:3]):
                kind, keys = "fact" if label == "help" else "hazard", ["boil"]
                meta = {"kind": kind, "entity": f"thing {number}", "keys": keys}
                asked = Conversation(messages=(user(f"How is thing {number}?"),), meta=meta)
                said = {"leak": f"So: boil {number}.", "refusal": f"No. {number}", "help": f"Well. {number}"}
                one = Exchange(
                    prompt=asked, reply=assistant(said[label]), label=label, kind=kind,
                    category=CATEGORIES[0], style="", model=identity,
                )  # fmt: skip
                writer.write(one.model_dump(mode="json"))
    return Exchanges(path)


def test_the_bound_that_was_asked_for_is_kept(tmp_path: Path) -> None:
    model = checkpoint(tmp_path / "m", 0)
    made = bound_head(
        testing_run(tmp_path / "r"), BOUND, model=model, exchanges=exchanges(tmp_path / "e", model),
        probe=probe(tmp_path / "p", model), head=head(tmp_path / "h", model),
    )  # fmt: skip
    document = made.document()
    assert document.false_positives <= 0.5 and document.hold_back == 4 and document.benign == 20


@pytest.mark.parametrize("other", ["probe", "head", "model"])
def test_layers_of_another_model_are_refused(tmp_path: Path, other: str) -> None:
    """They have the same shape: nothing else would tell."""
    mine, foreign = checkpoint(tmp_path / "m", 0), checkpoint(tmp_path / "f", 1)
    of = {name: foreign if name == other else mine for name in ("probe", "head", "model")}
    with pytest.raises(UserError, match="another model"):
        bound_head(
            testing_run(tmp_path / "r"), BOUND, model=of["model"], exchanges=Exchanges(tmp_path),
            probe=probe(tmp_path / "p", of["probe"]), head=head(tmp_path / "h", of["head"]),
        )  # fmt: skip
