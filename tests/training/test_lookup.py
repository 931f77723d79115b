"""Rows of lookups: what has weight can be looked up, and a source goes on from where it was."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from publius.pipeline import testing_run
from publius.testing.fakes import byte_tokenizer, tiny_model
from publius.training.batches import Example, PackedBatches
from publius.training.lookup import (
    LookupBatches,
    LookupConfig,
    draw_row,
    lookup_rows,
    measure_lookup,
    plain_ids,
)
from publius.training.pretrain import PretrainConfig, pretrain
from tests.training.test_pretrain import config, inputs

IDS = np.arange(20, 120)


@settings(max_examples=40)
@given(st.integers(0, 10**6), st.integers(2, 200), st.integers(2, 300))
def test_what_has_weight_stood_before_after_the_same_token(seed, length, fewest):
    row = draw_row(np.random.default_rng(seed), IDS, length, fewest)
    assert len(row.tokens) == len(row.weights) == length + 1
    assert set(row.tokens.tolist()) <= set(IDS.tolist()) and set(row.weights.tolist()) <= {0.0, 1.0}
    seen: set[tuple[int, int]] = set()
    for place in range(1, length + 1):
        pair = (int(row.tokens[place - 1]), int(row.tokens[place]))
        if row.weights[place]:
            assert pair in seen
        seen.add(pair)


def test_rows_differ_in_how_many_tokens_they_have_and_much_can_be_looked_up():
    rng = np.random.default_rng(0)
    rows = [draw_row(rng, IDS, 256, 8) for _ in range(100)]
    kinds = [len(set(row.tokens.tolist())) for row in rows]
    assert min(kinds) < 15 and max(kinds) > 60
    assert 0.25 < np.mean([row.weights.mean() for row in rows]) < 0.7
    for row in rows[:10]:  # no distance helps: what is looked up is not always as far back
        places = np.flatnonzero(row.weights)
        gaps = {int(p - max(np.flatnonzero(row.tokens[:p] == row.tokens[p]), default=p)) for p in places}
        assert len(gaps) > 3


def test_every_token_but_special_ones_is_drawn():
    words = byte_tokenizer()
    assert plain_ids(words).tolist() == [i for i in range(words.vocab_size) if i not in words.special_ids]


def source(share=0.5, rows=4, texts=30):
    examples = [Example(np.arange(5 + i) % 20) for i in range(texts)]
    looking = LookupConfig(share=share)
    packed = PackedBatches(examples, sequence_length=48, rows=rows - lookup_rows(looking, rows), seed=0)
    return LookupBatches(packed, IDS, looking, rows=rows, seed=0)


def test_a_batch_has_text_and_lookups_in_their_shares():
    batch = source(0.25).next()
    assert batch.tokens_BT.shape == (4, 48)
    assert (batch.tokens_BT[:3] < 20).all() and (batch.tokens_BT[3] >= 20).all()
    assert batch.positions_BT[3].tolist() == list(range(48)) and not batch.documents_BT[3].any()
    assert torch.equal(batch.tokens_BT[3, 1:], batch.targets_BT[3, :-1])
    assert batch.trained_N.tolist() == np.flatnonzero(batch.weights_BT.flatten() > 0).tolist()
    assert (source(1.0).next().tokens_BT >= 20).all()
    assert lookup_rows(LookupConfig(share=0.01), 4) == 1


@pytest.mark.parametrize("at", [0, 1, 3, 7])
@pytest.mark.parametrize("share", [0.5, 1.0])
def test_continues_exactly_from_any_place(at, share):
    whole, first, again = source(share), source(share), source(share)
    batches = [whole.next() for _ in range(10)]
    for _ in range(at):
        first.next()
    again.restore(first.state())
    for expected in batches[at:]:
        made = again.next()
        assert made[6:] == expected[6:]
        for a, b in zip(made[:6], expected[:6], strict=True):
            assert torch.equal(a, b)


def test_ranks_share_the_rows_of_a_batch():
    whole, parts = source(), [source(), source()]
    for index, part in enumerate(parts):
        part.share(index, 2)
    for _ in range(3):
        expected, made = whole.next(), [part.next() for part in parts]
        for column in range(5):
            assert torch.equal(torch.cat([batch[column] for batch in made]), expected[column])
        assert made[1].trained_N.tolist() == np.flatnonzero(made[1].weights_BT.flatten() > 0).tolist()


def test_the_measure_counts_what_can_be_looked_up():
    model, ids = tiny_model(vocab_size=4), np.array([1, 2, 3])
    rng = np.random.default_rng(0)
    right = asked = 0
    for _ in range(32):
        row = draw_row(rng, ids, 40, 64)
        for place in np.flatnonzero(row.weights):
            with torch.no_grad():
                logits = model(torch.from_numpy(row.tokens[:place])[None])[0, -1]
            right, asked = right + int(logits.argmax() == row.tokens[place]), asked + 1
    assert measure_lookup(model, ids, 40) == pytest.approx(right / asked) and 0 < right < asked


def test_pretraining_mixes_them_in_and_says_so(tmp_path):
    given_ = inputs(tmp_path)
    run = testing_run(tmp_path / "run")
    pretrain(run, config(steps=3, lookup={"share": 0.5}), **given_)
    assert run.metrics["val_bpb"]["value"] > 0 and run.tokens == 3 * 96
    assert 0 <= run.metrics["lookup_accuracy"]["value"] < 0.5
    pretrain(testing_run(tmp_path / "all"), config(steps=2, lookup={"share": 1.0}), **given_)
    with pytest.raises(ValidationError, match="epochs are of text"):
        config(epochs=1, lookup={"share": 1.0})
    assert PretrainConfig(epochs=1, lookup=LookupConfig(share=0.5)).text_rows == 4


def test_rows_of_lookups_and_varlen_do_not_go_together():
    with pytest.raises(ValidationError, match="use flex or sdpa"):
        PretrainConfig(lookup=LookupConfig(), attention="varlen", steps=1)
