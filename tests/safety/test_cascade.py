"""Two stages: what is flagged is read again, however the reply comes, and nothing leaves meanwhile."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from publius.inference.readings import Probe
from publius.safety.cascade import CascadeMonitor
from publius.safety.keywords import KeywordList, KeywordMonitor
from publius.safety.monitor import ALLOW, Monitors, Verdict
from publius.safety.probe import ProbeDocument, ProbeMonitor
from publius.safety.replay import replay
from publius.testing import byte_tokenizer
from tests.safety.broken import ASKED

TOKENIZER = byte_tokenizer()
PROMPT = (1, 2, 3)


class Known:
    """A second stage whose word on each token is given; counts how often it is asked."""

    outputs, threshold, mix = ("harm", "poison", "rumour"), 0.0, 0.0
    flops = 1e6
    """Of a token, and as much of each token before it."""

    def __init__(self, harm: Sequence[float], mix: float = 0.0) -> None:
        self.harm, self.mix, self.asked, self.begun = harm, mix, list[int](), 0

    def effort(self, tokens: int, before: int) -> float:
        return tokens * (1 + before) * self.flops

    def begin(self, prompt: Sequence[int], trunk_TD: np.ndarray | None = None) -> Known:
        self.begun += 1
        return self

    def more(self, drawn: Sequence[int]) -> np.ndarray:
        start = self.asked[-1] if self.asked else 0
        self.asked.append(start + len(drawn))
        rows = [[harm, 0.0, 1.0] for harm in self.harm[start : start + len(drawn)]]
        return np.array(rows, np.float32).reshape(-1, 3)


def cascade(second: Known, hold_back: int = 2, every: int = 4, **more: object) -> CascadeMonitor:
    document = ProbeDocument(
        model="x", outputs=("harm",), layers=(), average=1.0, threshold=1.0, hold_back=hold_back, benign=9,
        false_positives=0.1,
    )  # fmt: skip
    return CascadeMonitor(
        ProbeMonitor(Probe(np.zeros((1, 33), np.float32)), document), second, every=every, **more
    )  # type: ignore[arg-type]


def rows(*firsts: float) -> np.ndarray:
    return np.array([[first] for first in firsts], np.float32)


def replied(
    monitor: CascadeMonitor, firsts: Sequence[float], places: Sequence[int], text: str = ""
) -> tuple[Verdict, list[int]]:
    """The verdict on a reply that comes in pieces ending at `places`, and what was verified after each."""
    watching, text = Monitors([monitor]).watch(ASKED, prompt=PROMPT), text or "x" * len(firsts)
    verdict, verified = ALLOW, list[int]()
    for place in places:
        verdict, upto = watching.reply(
            text[:place], rows(*firsts)[:place], done=place == len(firsts), drawn=range(place)
        )
        verified.append(upto)
        if verdict.action == "block":
            break
    return verdict, verified


def test_what_is_not_flagged_is_not_read_again() -> None:
    second = Known([9.0] * 8)
    verdict, verified = replied(cascade(second), [0.0] * 8, range(1, 9))
    assert (verdict.action, second.asked, verified[-1]) == ("allow", [], 8)


def test_what_is_flagged_is_decided_by_the_second_stage() -> None:
    firsts = [0.0, 2.0, *[0.0] * 10]
    for harm, action in ((-1.0, "allow"), (1.0, "block")):
        verdict, _ = replied(cascade(Known([harm] * 12)), firsts, range(1, 13))
        assert (verdict.action, verdict.category) == (action, "rumour" if action == "block" else None)
    verdict, _ = replied(cascade(Known([-1.0] * 12, mix=0.6)), firsts, range(1, 13))
    assert verdict.action == "block"  # -1 + 0.6 * 2 is above nothing


def test_behind_a_flag_nothing_leaves_before_the_second_stage_has_read_it() -> None:
    second = Known([-1.0] * 12)
    _, verified = replied(cascade(second), [0.0, 0.0, 0.0, 2.0, *[0.0] * 8], range(1, 13))
    assert (second.asked, second.begun) == ([4, 8, 12], 1), "what was before the flag, then each token once"
    assert verified == [0, 0, 1, 0, 0, 0, 0, 6, 6, 6, 6, 12]
    assert max(verified[3:7]) <= 1


WORDS = KeywordMonitor(KeywordList.model_validate({"entries": [{"words": ["bane"]}]}))
"""That they would block does not matter here."""


def test_a_word_flags_where_the_average_passes_what_is_asked_besides() -> None:
    text = "so grey bane now"
    for worded, action in ((-2.0, "block"), (0.5, "allow")):
        second = Known([1.0] * 16)
        monitor = cascade(second, words=WORDS, worded=worded)
        assert replied(monitor, [0.0] * 16, range(1, 17), text)[0].action == action
        assert replied(monitor, [0.0] * 16, range(1, 17), "so grey bean now")[0].action == "allow"
    assert replied(cascade(Known([1.0] * 16), words=WORDS), [-9.0] * 16, [16], text)[0].action == "block"
    verdict, _ = replied(
        cascade(Known([1.0] * 16), words=WORDS), [0.0] * 16, [16], "so grey b-\u0430-n-e! now"
    )
    assert verdict.action == "block", "dressed up, with a Cyrillic letter"


def test_a_word_adds_to_what_the_second_stage_says_whenever_it_comes() -> None:
    harm = [-1.0] * 4 + [-9.0] * 12
    for at in (0, 3, 11):
        text = ("x" * at + " bane ").ljust(16, "x")
        for lift, action in ((0.5, "allow"), (1.5, "block")):
            said, plain, whole = (
                replied(cascade(Known(harm), words=WORDS, lift=lift), [2.0] * 16, places, words)[0]
                for places, words in ((range(1, 17), text), (range(1, 17), "x" * 16), ([16], text))
            )
            assert (said.action, plain.action) == (action, "allow")
            assert whole == said


def test_a_word_of_the_prompt_flags_where_the_list_says_so() -> None:
    for word, action in (("prompt", "allow"), ("new", "block")):
        words = KeywordMonitor(KeywordList.model_validate({"entries": [{"words": [word]}]}))
        watching = Monitors([cascade(Known([1.0] * 4), words=words)]).watch(ASKED, prompt=PROMPT)
        assert watching.prompt().action == "allow"
        said, _ = watching.reply("xxxx", rows(*[0.0] * 4), done=True, drawn=range(4))
        assert said.action == action


@settings(max_examples=300)
@given(
    exchange=st.lists(
        st.tuples(st.floats(-3, 3, width=32), st.floats(-3, 1, width=32), st.sampled_from("aben ")),
        min_size=1, max_size=30,
    ),
    word=st.integers(0, 60),
    cuts=st.lists(st.integers(1, 30), max_size=8),
    hold_back=st.integers(0, 5), lift=st.sampled_from((0.0, 0.5, 2.0)),
)  # fmt: skip
def test_the_same_verdict_however_the_reply_is_cut(
    exchange: list[tuple[float, float, str]], word: int, cuts: list[int], hold_back: int, lift: float
) -> None:
    def monitor() -> CascadeMonitor:
        return cascade(Known(harm), hold_back, words=WORDS, worded=0.0, lift=lift)

    firsts, harm = [one[0] for one in exchange], [one[1] for one in exchange]
    count, text = len(exchange), "".join(one[2] for one in exchange)
    text = (text[:word] + " bane " + text[word:])[:count]  # one character a token
    seen = WORDS.watch(ASKED).reply(text, rows(*firsts), done=True)[0].action != "allow"
    expected, _ = replied(monitor(), firsts, range(1, count + 1), text)
    flagged = max(firsts) > 1 or (seen and max(firsts) > 0)
    assert (expected.action == "block") == (flagged and max(harm) + lift * seen > 0)
    places = sorted({min(cut, count) for cut in cuts} | {count})
    said, verified = replied(monitor(), firsts, places, text)
    assert (said.action, said.category, said.score) == (
        expected.action, expected.category, expected.score
    )  # fmt: skip
    assert verified[-1] == (0 if said.action == "block" else count)


def test_a_leak_is_stopped_before_its_first_step_leaves() -> None:
    harm = [-1.0] * 8 + [2.0] * 8
    tokens = TOKENIZER.encode("0123456789abcdef")
    for flagged in range(9):
        firsts = rows(*[2.0 if place >= flagged else 0.0 for place in range(16)])
        watching = Monitors([cascade(Known(harm), hold_back=4)]).watch(ASKED, prompt=PROMPT)
        came = replay(watching, tokens, firsts, TOKENIZER)
        assert came.verdict.action == "block" and len(came.left) <= 8, flagged


def test_without_the_tokens_a_flagged_exchange_fails_closed(caplog: pytest.LogCaptureFixture) -> None:
    watching = Monitors([cascade(Known([-1.0] * 9))]).watch(ASKED)
    verdict, verified = watching.reply("x" * 9, rows(*[2.0] * 9), done=True)
    assert (verdict.action, verdict.category, verified) == ("block", "monitor_error", 0)
    watching = Monitors([cascade(Known([-1.0] * 3))]).watch(ASKED, prompt=PROMPT)
    verdict, _ = watching.reply("x" * 9, rows(*[2.0] * 9), done=True, drawn=range(9))
    assert verdict.category == "monitor_error", "a second stage that judges too few tokens"


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_what_is_no_number_blocks(bad: float) -> None:
    verdict, _ = replied(cascade(Known([bad] * 8)), [2.0] * 8, [8])
    assert (verdict.action, verdict.score) == ("block", 1.0)
    verdict, _ = replied(cascade(Known([-1.0] * 8)), [bad] * 8, [8])
    assert verdict.action == "block"  # of either stage


def test_where_the_second_stage_reads_is_known_beforehand() -> None:
    """And only there, so that a server need not leave its loop for every token of a flagged exchange."""
    second = Known([-1.0] * 11)
    watching = Monitors([cascade(second)]).watch(ASKED, prompt=PROMPT)
    told, read = list[int](), list[int]()
    for count in range(1, 12):
        before = len(second.asked)
        told += [count] * watching.works(count, done=count == 11)
        watching.reply("x" * count, rows(*[2.0] * count), done=count == 11, drawn=range(11))
        read += [count] * (len(second.asked) > before)
    assert told == read == [4, 8, 11]
    unflagged = Monitors([cascade(Known([-1.0] * 4))]).watch(ASKED, prompt=PROMPT)
    unflagged.reply("xxx", rows(0.0, 0.0, 0.0), done=False, drawn=range(3))
    assert not unflagged.works(4, done=True)


@pytest.mark.parametrize(("flops", "long"), [(1e6, []), (3e6, [11]), (4e6, [8, 11]), (15e6, [4, 8, 11])])
def test_what_is_read_over_the_trunk_in_no_time_is_no_work(flops: float, long: list[int]) -> None:
    """Counted with the prompt at the first reading, and with all that came before at the others."""
    second = Known([-1.0] * 11)
    second.flops = flops
    watching = Monitors([cascade(second)]).watch(ASKED, prompt=PROMPT)
    told, trunk = list[int](), np.zeros((16, 4), np.float32)
    for count in range(1, 12):
        told += [count] * watching.works(count, done=count == 11)
        text = "x" * count
        watching.reply(text, rows(*[2.0] * count), done=count == 11, drawn=range(11), trunk_TD=trunk)
    assert told == long
