"""Both sides train the same: with the 4-D mask transformers' losses are ours, step for step."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import sides

from publius.model import ModelConfig

SHAPE = ModelConfig(
    vocab_size=64, hidden_size=32, layers=2, heads=2, kv_heads=1, head_dim=16, intermediate_size=64,
    max_position=32,
)  # fmt: skip
CASE = sides.Case(
    side="ours", shape=SHAPE, sequence_length=32, rows=4, dtype="float32", warm=1, windows=2, per_window=4,
    adamw_lr=0.002,
)  # fmt: skip


@pytest.fixture(scope="module")
def ours():
    return sides.train(CASE)


def test_the_peer_with_a_mask_has_our_losses(ours):
    peer = sides.train(CASE.model_copy(update={"side": "hf", "masked": True}))
    assert peer["losses"] == pytest.approx(ours["losses"], abs=2e-4)
    assert peer["weights"] == ours["weights"] == SHAPE.parameters()
    assert ours["last_loss"] < ours["first_loss"] - 0.05


def test_without_a_mask_it_begins_elsewhere_and_trains(ours):
    peer = sides.train(CASE.model_copy(update={"side": "hf", "dtype": "autocast"}))
    assert peer["first_loss"] == pytest.approx(ours["first_loss"], abs=0.05)
    assert peer["last_loss"] < peer["first_loss"] - 0.05
    assert len(peer["windows"]) == 2 and peer["tokens_per_second"] > 0 and peer["steps"] == 9


def test_padding_is_not_counted():
    places = CASE.rows * CASE.sequence_length
    counted = sides.real_tokens(CASE)
    assert len(counted) == CASE.steps and all(0.5 * places < n <= places for n in counted)
    source = sides.batches_of(CASE)
    assert counted[0] == int(source.next().weights_BT.sum())
    assert source.fill > 0.9


def test_rows_may_be_one_document_each():
    whole = CASE.model_copy(update={"alone": True})
    assert sides.batches_of(whole).next().alone and not sides.batches_of(CASE).next().alone
    assert sides.mean_context(whole) == 16.5 > sides.mean_context(CASE) > 3


def test_documents_can_be_learned_and_are_the_same_again():
    made = sides.documents(100, 5000, 20, seed=3)
    assert sum(len(d.tokens) for d in made) >= 5000 - 8
    ids = np.concatenate([d.tokens for d in made])
    assert ids.min() >= 0 and ids.max() < 100
    again = np.concatenate([d.tokens for d in sides.documents(100, 5000, 20, seed=3)])
    assert (ids == again).all()
    pairs = {}
    for a, b in itertools.pairwise(ids):
        pairs.setdefault(int(a), []).append(int(b))
    usual = sum(max(map(b.count, set(b))) for b in pairs.values()) / (len(ids) - 1)
    assert 0.45 < usual < 0.75, "after each word a fixed other one comes half of the time"


def test_modes_have_names():
    assert CASE.mode == "float32 eager"
    assert CASE.model_copy(update={"compiled": True, "muon": True}).mode == "float32 compiled Muon"
    assert sides.Case.model_validate_json(CASE.model_dump_json()) == CASE
