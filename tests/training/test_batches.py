"""Packing: nothing lost, nothing doubled, the same every time."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from publius.core.errors import UserError
from publius.training.batches import Example, PackedBatches, ShuffledBatches, collate, pack, starts_of


@settings(max_examples=60)
@given(st.lists(st.integers(0, 60), max_size=40), st.integers(2, 20), st.integers(0, 3))
def test_every_target_is_packed_once_and_rows_never_overflow(lengths, sequence_length, seed):
    rows = pack(lengths, sequence_length, seed)
    assert rows == pack(lengths, sequence_length, seed)
    places = [(p.example, p.start + i) for row in rows for p in row for i in range(p.length)]
    assert sorted(places) == [(d, i) for d, n in enumerate(lengths) for i in range(n - 1)]
    used = [sum(p.length for p in row) for row in rows]
    assert all(0 < total <= sequence_length for total in used)
    assert sum(total * 2 <= sequence_length for total in used) <= 1  # two half-empty rows would be one


def test_best_fit_wastes_little():
    lengths = np.random.default_rng(0).integers(2, 100, 2000).tolist()
    rows = pack(lengths, 128, 0)
    assert sum(n - 1 for n in lengths) / (len(rows) * 128) > 0.98


def test_collate_by_hand():
    examples = [Example([1, 2, 3]), Example([5, 6, 7, 8], [0, 0, 1, 0.5])]
    batch = collate([pack([0, 4], 5, 0)[0]], examples, 5)
    assert batch.tokens_BT.tolist() == [[5, 6, 7, 0, 0]]
    assert batch.targets_BT.tolist() == [[6, 7, 8, 0, 0]]
    assert batch.weights_BT.tolist() == [[0, 1, 0.5, 0, 0]]
    assert batch.positions_BT.tolist() == [[0, 1, 2, 0, 0]]
    assert batch.documents_BT.tolist() == [[0, 0, 0, -1, -1]]
    assert batch.trained_N.tolist() == [1, 2]
    two = collate([pack([0, 4], 5, 0)[0], pack([3], 5, 0)[0]], examples, 5)
    assert two.trained_N.tolist() == [1, 2, 5, 6]


@settings(max_examples=60)
@given(
    st.lists(st.lists(st.integers(1, 9), min_size=1, max_size=5), min_size=1, max_size=4),
    st.integers(0, 6),
    st.integers(0, 30),
)
def test_starts_are_where_documents_change(rows, room, count):
    length = max(map(sum, rows)) + room
    starts = starts_of(rows, length, count)
    numbers = [[i for i, n in enumerate(row) for _ in range(n)] + [-1] * (length - sum(row)) for row in rows]
    flat = [(r, number) for r, row in enumerate(numbers) for number in row]
    brute = [i for i in range(len(flat)) if i == 0 or flat[i] != flat[i - 1]]
    assert starts.dtype == np.int32 and len(starts) == max(count, len(brute) + 1)
    assert starts.tolist() == brute + [len(flat)] * (len(starts) - len(brute))


def test_what_a_batch_says_of_its_documents():
    """As many starts in every batch, so that compiled code is made once; `alone` is true where it can be."""
    batches = [source.next() for source in [source()] for _ in range(40)]
    assert len({len(batch.starts_N) for batch in batches}) == 1
    for batch in batches:
        assert batch.alone == bool((batch.documents_BT <= 0).all())
        changes = batch.documents_BT.diff(dim=1, prepend=torch.full((3, 1), -2)) != 0
        assert set(batch.starts_N.tolist()) == {*changes.flatten().nonzero().flatten().tolist(), 48}
        assert batch.packing.documents_BT is batch.documents_BT and batch.packing.alone == batch.alone
    whole = PackedBatches([Example(list(range(9)))] * 4, sequence_length=8, rows=2, seed=0)
    assert whole.next().alone and whole.next().starts_N[:3].tolist() == [0, 8, 16]


def test_long_documents_are_cut_with_one_token_shared():
    source = PackedBatches([Example(list(range(10)))], sequence_length=4, rows=3, seed=0)
    batch = source.next()
    pairs = {
        (int(t), int(y))
        for t, y, w in zip(
            batch.tokens_BT.flatten(), batch.targets_BT.flatten(), batch.weights_BT.flatten(), strict=True
        )
        if w
    }
    assert pairs == {(i, i + 1) for i in range(9)}


def source(seed=0):
    examples = [Example([i] * (3 + i % 7)) for i in range(50)]
    return PackedBatches(examples, sequence_length=16, rows=3, seed=seed)


def test_epochs_differ_seeds_differ_and_every_epoch_is_whole():
    one = source()
    per_epoch = one.rows_per_epoch
    order = [tuple(map(tuple, one.next().tokens_BT.tolist())) for _ in range(2 * per_epoch)]
    assert order != [tuple(map(tuple, b.tokens_BT.tolist())) for b in (source(1).next() for _ in order)]
    rows = [row for batch in order for row in batch]
    first, second = rows[:per_epoch], rows[per_epoch : 2 * per_epoch]
    assert first != second
    assert sorted(t for row in first for t in row if t) == sorted(
        t for i in range(50) for t in [i] * (2 + i % 7) if t
    )


def test_state_continues_exactly():
    straight, broken = source(), source()
    for _ in range(17):
        straight.next()
        broken.next()
    again = source()
    again.restore(broken.state())
    for _ in range(20):
        for a, b in zip(straight.next()[:5], again.next()[:5], strict=True):
            assert (a == b).all()


def test_once_covers_the_epoch_and_fill_is_its_share():
    one = source()
    batches = list(one.once())
    weight = sum(float(b.weights_BT.sum()) for b in batches)
    assert weight == sum(2 + i % 7 for i in range(50))
    assert sum(len(b.tokens_BT) for b in batches) == one.rows_per_epoch
    assert one.fill == pytest.approx(weight / (one.rows_per_epoch * 16))
    assert one.steps_per_epoch == one.rows_per_epoch / 3


def test_nothing_to_train_on():
    with pytest.raises(UserError, match="nothing to train on"):
        PackedBatches([Example([1])], sequence_length=4, rows=1, seed=0)
    with pytest.raises(UserError, match="nothing to train on"):
        ShuffledBatches([], list, rows=1, seed=0)


def test_shuffled_batches_are_whole_epochs_and_resume():
    def make():
        return ShuffledBatches(list(range(10)), tuple, rows=4, seed=3)

    straight = make()
    drawn = [straight.next() for _ in range(5)]
    flat = [x for batch in drawn for x in batch]
    assert sorted(flat[:10]) == sorted(flat[10:]) == list(range(10)) and flat[:10] != flat[10:]
    again = make()
    for _ in range(3):
        again.next()
    resumed = make()
    resumed.restore(again.state())
    assert [resumed.next() for _ in range(2)] == drawn[3:]
    assert straight.steps_per_epoch == 2.5
