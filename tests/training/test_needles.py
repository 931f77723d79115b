"""Needles: nothing that trains is in a test."""

import random
import re

import numpy as np
import pytest

from publius.core.errors import UserError
from publius.testing.fakes import byte_tokenizer
from publius.training.needles import TEST_WORDINGS, TRAIN_WORDINGS, draw_needles, lexicon

WORDS = byte_tokenizer()


def made_up(count, seed=0):
    """`count` different words of three to six letters."""
    rng = random.Random(seed)
    found: dict[str, None] = {}
    while len(found) < count:
        found["".join(rng.choice("abdeiklmnorstu") for _ in range(rng.randint(3, 6)))] = None
    return list(found)


def documents(texts):
    return [np.array([WORDS.bos_id, *WORDS.encode(text), WORDS.end_id]) for text in texts]


def test_sides_share_no_word_and_need_no_agreement_about_the_text():
    known = made_up(400)
    halves = lexicon(documents([" ".join(known[:300])] * 2), WORDS)
    others = lexicon(documents([" ".join(known[100:])] * 2), WORDS)
    assert set(halves.train) | set(halves.test) == set(known[:300])
    assert not set(halves.train) & set(halves.test)
    assert not set(halves.train) & set(others.test) and not set(halves.test) & set(others.train)
    assert 0.12 < len(halves.test) / 300 < 0.28


def test_words_are_small_whole_and_seen_twice():
    text = " ".join(made_up(300)) + " Rome, don't x9 lamp"
    found = lexicon(documents([text, text, "once-only onlyonce"]), WORDS)
    every = {*found.train, *found.test}
    assert "lamp" in every
    assert not every & {"rome", "Rome", "don", "don't", "x9", "once", "only", "onlyonce"}


def test_training_words_are_counted():
    known = made_up(200)
    text = " ".join(f"{word} " * (2 + i % 3) for i, word in enumerate(known))
    found = lexicon(documents([text]), WORDS)
    assert found.counts == tuple(2 + known.index(word) % 3 for word in found.train)


def test_words_are_drawn_by_their_chances():
    words = made_up(40)
    chances = [0.5 if i == 3 else 0.5 / 38 if i != 7 else 0.0 for i in range(40)]
    drawn = draw_needles(np.random.default_rng(0), words, TRAIN_WORDINGS, 200, longest=4, chances=chances)
    values = " ".join(needle.value for needle in drawn).split()
    assert 0.4 < values.count(words[3]) / len(values) < 0.6
    assert words[7] not in values and all(words[7] not in needle.key.split() for needle in drawn)


def test_too_few_words_are_refused():
    with pytest.raises(UserError, match="too few different words"):
        lexicon(documents(["ten words that are here twice " * 2]), WORDS)


def test_wordings_for_tests_have_content_words_of_their_own():
    def content(wordings):
        texts = [w.statement + " " + w.question for w in wordings]
        return {
            word
            for text in texts
            for word in re.findall(r"[a-z]+", text.lower())
            if word not in {"the", "of", "is", "to", "what", "it", "for", "key", "value", "that"}
        }

    assert not content(TRAIN_WORDINGS) & content(TEST_WORDINGS)


def test_needles_have_distinct_keys_and_answers_that_follow_the_question():
    needles = draw_needles(np.random.default_rng(0), made_up(40), TRAIN_WORDINGS, 60)
    assert len({needle.key for needle in needles}) == 60
    for needle in needles:
        assert needle.statement.endswith(needle.answer) and needle.key in needle.question
        assert needle.value not in needle.question and needle.answer == f" {needle.value}."
        assert set(needle.key.split()) <= set(made_up(40)) and len(set(needle.key.split())) == 2


def test_values_have_two_words_to_as_many_as_asked():
    sizes = {
        len(needle.value.split())
        for needle in draw_needles(np.random.default_rng(0), made_up(60), TRAIN_WORDINGS, 200, longest=5)
    }
    assert sizes == {2, 3, 4, 5}
    usual = draw_needles(np.random.default_rng(0), made_up(60), TEST_WORDINGS, 50)
    assert {len(needle.value.split()) for needle in usual} == {2}


def test_more_needles_than_there_are_keys_are_refused():
    words = made_up(24)
    every = draw_needles(np.random.default_rng(0), words, TRAIN_WORDINGS, 24 * 23)
    assert len({needle.key for needle in every}) == 24 * 23
    with pytest.raises(UserError, match="24 words make 552 different keys, and 553 are asked for"):
        draw_needles(np.random.default_rng(0), words, TRAIN_WORDINGS, 553)
