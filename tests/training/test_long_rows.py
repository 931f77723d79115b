"""Rows of one long document: nothing lost, needles before their questions, and a place to go on from."""

import re
from itertools import pairwise

import numpy as np
import pytest
import torch

from publius.core.errors import UserError
from publius.testing.fakes import byte_tokenizer
from publius.training.long_rows import Hiding, LongBatches, Plan
from publius.training.lookup import LookupConfig
from publius.training.needles import TRAIN_WORDINGS
from tests.training.test_needles import documents, made_up

WORDS = byte_tokenizer()
KEYS = tuple(made_up(60))
TEXTS = [" ".join(made_up(5 + i, seed=i)) for i in range(30)]
PLANS = [Plan(64, 3, 2), Plan(256, 2, 3), Plan(1024, 1, 2)]
HIDING = Hiding(KEYS, 1.0, 160, 5.0)


def source(hiding=None, plans=PLANS, texts=TEXTS, seed=0):
    return LongBatches(documents(texts), WORDS, plans, seed=seed, hiding=hiding)


def test_phases_follow_one_another_and_the_last_stays():
    batches = source()
    shapes = [tuple(batches.next().tokens_BT.shape) for _ in range(9)]
    assert shapes == [(3, 64)] * 2 + [(2, 256)] * 3 + [(1, 1024)] * 4


def test_what_is_trained_on_is_known_before_a_device_is_asked():
    batches = source(HIDING._replace(answer_weight=0.0))
    left_out = 0
    for batch in (batches.next() for _ in range(6)):
        weights = batch.weights_BT.flatten().tolist()
        assert batch.trained_N.tolist() == [i for i, weight in enumerate(weights) if weight > 0]
        left_out += weights.count(0.0)
    assert left_out > 0


def test_an_epoch_holds_every_document_once_and_rows_join_without_loss():
    total = sum(len(WORDS.encode(text + "\n\n")) for text in TEXTS)
    batches = source(plans=[Plan(100, 1, 10**6)])
    stream: list[int] = []
    while len(stream) < 2 * total:
        batch = batches.next()
        assert batch.tokens_BT[0, 0] == WORDS.bos_id
        assert torch.equal(batch.tokens_BT[0, 1:], batch.targets_BT[0, :-1])
        assert (batch.weights_BT == 1).all() and not batch.answers_BT.any()
        stream += batch.targets_BT[0].tolist()
    for epoch in range(2):
        text = WORDS.decode(stream[epoch * total : (epoch + 1) * total])
        assert sorted(text.split("\n\n")) == sorted([*TEXTS, ""])
    assert stream[:total] != stream[total : 2 * total]


def _answers(batch, row):
    """Each answer as (start, text)."""
    marked = [*batch.answers_BT[row].tolist(), False]
    targets = batch.targets_BT[row].tolist()
    found = []
    start = None
    for place, on in enumerate(marked):
        if on and start is None:
            start = place
        elif not on and start is not None:
            found.append((start, WORDS.decode(targets[start:place])))
            start = None
    return found


def test_an_answer_was_stated_before_and_is_worth_more():
    batches = source(HIDING, plans=[Plan(1024, 2, 10**6)])
    late = seen = 0
    for _ in range(10):
        batch = batches.next()
        assert (batch.weights_BT[batch.answers_BT] == 5).all()
        for row in range(2):
            before = WORDS.decode(batch.tokens_BT[row].tolist(), skip_special=True)
            answers = _answers(batch, row)
            values = [text.strip(" .\n") for _, text in answers]
            for place, text in answers:
                seen += 1
                late += place > 700
                asked = WORDS.decode(batch.tokens_BT[row, : place + 1].tolist(), skip_special=True)
                question = asked.rsplit("\n", 1)[1]
                key = next(
                    " ".join(pair)
                    for w in TRAIN_WORDINGS
                    for pair in pairwise(re.findall(r"\w+", question))
                    if w.question.format(key=" ".join(pair)) == question
                )
                stated = [w.statement.format(key=key, value=text.strip(" .\n")) for w in TRAIN_WORDINGS]
                assert any(f"\n{line}\n" in asked for line in stated), question
            zero = [i for i, w in enumerate(batch.weights_BT[row].tolist()) if w == 0]
            assert len(zero) == sum(len(WORDS.encode(f" {value}.\n")) for value in values)
            assert all(before.count(value) >= 2 for value in values)
    assert seen > 20 and late > seen / 3  # half are asked at the end


def test_a_share_of_rows_has_needles():
    batches = source(HIDING._replace(share=0.25), plans=[Plan(256, 1, 10**6)])
    count = sum(bool(batches.next().answers_BT.any()) for _ in range(200))
    assert 30 <= count <= 70


def test_segments_stand_twice_and_the_second_time_is_asked_after_two_tokens():
    batches = source(HIDING._replace(segments=1.0), plans=[Plan(512, 1, 10**6)])
    found = 0
    for _ in range(30):
        batch = batches.next()
        tokens, weights = batch.targets_BT[0].tolist(), batch.weights_BT[0].tolist()
        assert not batch.answers_BT.any() and set(weights) <= {0.0, 1.0, 5.0}
        for place in range(3, 512):
            if weights[place] == 5:
                asked = tokens[place - 2 : place + 1]
                assert any(tokens[i : i + 3] == asked for i in range(place - 3)), place
                found += 1
    assert found > 30
    half = source(HIDING._replace(segments=0.5), plans=[Plan(1024, 1, 10**6)])
    kinds = [
        (batch.answers_BT.any(), (batch.weights_BT == 5).any()) for batch in (half.next() for _ in range(20))
    ]
    assert any(answers for answers, _ in kinds) and any(asked and not answers for answers, asked in kinds)


def test_tokens_of_segments_are_as_common_as_in_the_text():
    def most(common):
        hiding = HIDING._replace(segments=1.0, common=common)
        batches = LongBatches(documents(["zz " * 40]), WORDS, [Plan(512, 1, 10**6)], seed=0, hiding=hiding)
        asked = [batches.next() for _ in range(20)]
        hidden = [t for b in asked for t, w in zip(b.targets_BT[0], b.weights_BT[0], strict=True) if w == 5]
        return sum(int(token) in known for token in hidden) / len(hidden)

    known = set(WORDS.encode("zz \n\n"))
    assert most(0.0) < 0.1 and 0.4 < most(0.5) < 0.65 and most(1.0) == 1.0


def test_a_share_of_rows_are_lookups():
    batches = LongBatches(
        documents(TEXTS), WORDS, [Plan(256, 1, 10**6)], seed=0, lookup=LookupConfig(share=0.25)
    )
    found = [batches.next() for _ in range(200)]
    lookups = [batch for batch in found if (batch.weights_BT == 0).any()]
    assert 30 <= len(lookups) <= 70 and all(batch.tokens_BT.shape == (1, 256) for batch in lookups)
    assert not any(batch.answers_BT.any() for batch in lookups)


@pytest.mark.parametrize("at", [0, 1, 2, 4, 6, 8])
def test_continues_exactly_from_any_place(at):
    whole, first = source(HIDING), source(HIDING)
    batches = [whole.next() for _ in range(12)]
    for _ in range(at):
        first.next()
    again = source(HIDING)
    again.restore(first.state())
    for expected in batches[at:]:
        for a, b in zip(again.next(), expected, strict=True):
            assert torch.equal(a, b)
    other = source(HIDING, seed=1)
    assert not torch.equal(other.next().tokens_BT, batches[0].tokens_BT)


def test_nothing_to_train_on_is_refused():
    with pytest.raises(UserError, match="nothing to train on"):
        LongBatches([np.array([2, 3])], WORDS, PLANS, seed=0)


def test_a_row_with_room_for_more_needles_than_there_are_keys_is_made():
    few = Hiding(tuple(made_up(4)), 1.0, 32, 5.0)  # twelve keys, and room for up to 128
    batches = source(few, [Plan(4096, 1, 4)])
    for _ in range(4):
        assert batches.next().answers_BT.any()
