"""The probe monitor: averages, thresholds, holding back, files."""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from publius.core.errors import UserError
from publius.core.messages import Conversation, user
from publius.inference.readings import Probe
from publius.safety.monitor import Monitors
from publius.safety.probe import (
    Average,
    Leaving,
    ProbeDocument,
    ProbeMonitor,
    TrainedProbe,
    averages,
    write_probe,
)
from publius.safety.replay import replay
from publius.testing import byte_tokenizer

ASKED = Conversation(messages=(user("What is new?"),))
TOKENIZER = byte_tokenizer()


def document(**changes: object) -> ProbeDocument:
    return ProbeDocument.model_validate(
        {"model": "x", "outputs": ["harm", "poison", "rumour"], "layers": [], "average": 0.5,
         "threshold": 1.0, "hold_back": 2, "benign": 600, "false_positives": 0.005, **changes}
    )  # fmt: skip


def monitor(**changes: object) -> ProbeMonitor:
    return ProbeMonitor(Probe(np.zeros((3, 33), np.float32)), document(**changes))


def rows(*firsts: float) -> np.ndarray:
    return np.array([[first, 0.0, 1.0] for first in firsts], np.float32)


def test_the_average_moves_from_the_first_reading_on() -> None:
    found = [float(mean[0]) for mean in averages(rows(4, 0, 0), 0.25)]
    assert found == [4.0, 3.0, 2.25]


@settings(max_examples=200)
@given(
    readings=st.lists(st.floats(width=32, allow_subnormal=False), min_size=1, max_size=20),
    weight=st.floats(0.01, 1),
)
def test_an_average_in_plain_numbers_is_the_same_to_the_digit(readings: list[float], weight: float) -> None:
    scores, average = rows(*readings), Average(weight)
    with np.errstate(all="ignore"):
        expected = [float(mean[0]) for mean in averages(scores, weight)]
        found = [average.take(scores[place, 0]) for place in range(len(scores))]
    assert np.array_equal(found, expected, equal_nan=True)


def test_what_may_leave_is_the_newest_length_known_then() -> None:
    leaving = Leaving()
    for tokens, length in ((1, 0), (2, 3), (2, 4), (5, 9)):
        leaving.add(tokens, length)
    assert [leaving.upto(tokens) for tokens in (-3, 0, 1, 2, 4, 5, 3, 5)] == [0, 0, 0, 4, 4, 9, 0, 9]


def test_above_the_threshold_it_blocks_and_names_the_likeliest_category() -> None:
    verdict, verified = monitor().watch(ASKED).reply("abc", rows(0, 0, 4), done=False)
    assert (verdict.action, verdict.category, verdict.monitor, verified) == ("block", "rumour", "probe", 0)
    assert 0.5 < verdict.score < 1
    assert monitor().watch(ASKED).reply("abc", rows(0, 0, 1.9), done=False)[0].action == "allow"
    assert monitor(threshold=9.0).watch(ASKED).reply("abc", rows(0, 0, 4), done=True)[1] == 3


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_what_is_no_number_blocks(bad: float) -> None:
    assert monitor().watch(ASKED).reply("ab", rows(0, bad), done=False)[0].action == "block"
    assert monitor().watch(ASKED).reply("ab", np.full((2, 3), bad, np.float32), done=True)[0].score == 1.0


def test_text_without_readings_fails_closed() -> None:
    watching = Monitors([monitor()]).watch(ASKED)
    verdict, verified = watching.reply("a", np.empty((0, 3), np.float32), done=True)
    assert (verdict.action, verdict.category, verified) == ("block", "monitor_error", 0)


def test_hold_back_is_counted_in_tokens() -> None:
    watch = monitor().watch(ASKED)
    texts = ("One", "One two", "One two", "One two three", "One two three four")
    said = [watch.reply(text, rows(*[0] * n), done=False)[1] for n, text in enumerate(texts, 1)]
    assert said == [0, 0, 3, 7, 7]
    assert watch.reply(texts[-1], rows(*[0] * 5), done=True)[1] == len(texts[-1])


@settings(max_examples=200)
@given(
    readings=st.lists(st.floats(-4, 4, width=32), min_size=1, max_size=30),
    cuts=st.lists(st.integers(1, 30), max_size=8),
    hold_back=st.integers(0, 5),
)
def test_the_same_verdict_however_the_reply_is_cut(
    readings: list[float], cuts: list[int], hold_back: int
) -> None:
    text = "x" * len(readings)
    scores = rows(*readings)
    one = monitor(hold_back=hold_back)
    expected, _ = one.watch(ASKED).reply(text, scores, done=True)
    watch, left = one.watch(ASKED), 0
    places = sorted({min(cut, len(readings)) for cut in cuts} | {len(readings)})
    for place in places:
        verdict, verified = watch.reply(text[:place], scores[:place], done=place == len(readings))
        if verdict.action == "block":
            break
        left = max(left, verified)
    assert verdict.action == expected.action and verdict.category == expected.category
    if verdict.action == "block":
        # nothing left that had not been judged `hold_back` tokens before
        crossed = next(n for n, mean in enumerate(averages(scores, one.document.average), 1) if mean[0] > 1.0)
        assert left <= max(0, crossed - 1 - hold_back) or left <= max(
            (a for a, b in itertools.pairwise([0, *places]) if b >= crossed), default=0
        )
    else:
        assert left == len(text)


def test_a_replayed_reply_is_what_a_client_gets() -> None:
    tokens = [*TOKENIZER.encode("abcdef"), TOKENIZER.end_id]
    late = rows(0, 0, 0, 0, 9, 9, 9)
    came = replay(Monitors([monitor()]).watch(ASKED), tokens, late, TOKENIZER)
    assert (came.verdict.action, came.left, came.read, came.left_tokens) == ("block", "ab", 5, 2)
    whole = replay(Monitors([monitor()]).watch(ASKED), tokens, rows(*[0] * 7), TOKENIZER)
    assert (whole.verdict.action, whole.left, whole.read) == ("allow", "abcdef", 7)
    none = replay(Monitors().watch(ASKED), TOKENIZER.encode("naïve"), np.empty((6, 0), np.float32), TOKENIZER)
    assert none.left == "naïve"


def test_files(tmp_path: Path) -> None:
    weights = np.random.default_rng(0).normal(size=(3, 65)).astype(np.float32)
    write_probe(tmp_path, Probe(weights, (1,)), document(layers=[1]))
    found = ProbeMonitor.load(tmp_path, model="x", threshold=7.0, hold_back=0)
    assert np.array_equal(found.probe.weights, weights) and found.probe.layers == (1,)
    assert (found.threshold, found.hold_back) == (7.0, 0)
    assert ProbeMonitor.load(tmp_path).threshold == 1.0
    with pytest.raises(UserError, match="trained on the weights"):
        ProbeMonitor.load(tmp_path, model="y")
    assert not [path for path in tmp_path.iterdir() if path.suffix not in (".json", ".safetensors")]


@pytest.mark.parametrize("name", ["probe.json", "probe.safetensors"])
@pytest.mark.parametrize("damage", ["missing", "empty", "garbage"])
def test_damaged_files_are_one_clear_error(tmp_path: Path, name: str, damage: str) -> None:
    write_probe(tmp_path, Probe(np.zeros((3, 33), np.float32)), document())
    path = tmp_path / name
    if damage == "missing":
        path.unlink()
    else:
        path.write_bytes(b"" if damage == "empty" else b"\x00garbage")
    with pytest.raises(UserError):
        TrainedProbe(tmp_path).probe()


def test_weights_that_do_not_fit_the_document_are_refused(tmp_path: Path) -> None:
    write_probe(tmp_path, Probe(np.zeros((2, 33), np.float32)), document())
    with pytest.raises(UserError, match="shape"):
        ProbeMonitor.load(tmp_path)
    write_probe(tmp_path, Probe(np.full((3, 33), np.nan, np.float32)), document())
    with pytest.raises(UserError, match="numbers"):
        ProbeMonitor.load(tmp_path)
