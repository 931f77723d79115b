"""What waits until monitors have verified it."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from publius.core.messages import Conversation, user
from publius.safety.keywords import KeywordList, KeywordMonitor, Keywords
from publius.safety.monitor import ALLOW, Monitors, Verdict
from publius.serve.blocks import Kind, Opens, Part, Says, Shuts
from publius.serve.holdback import HoldBack

NONE = np.zeros((0, 0), np.float32)
ASKED = Conversation(messages=(user("hello"),))


class Word:
    """Blocks a word, and holds back as much as could be its beginning."""

    name, probe = "word", None

    def __init__(self, word: str) -> None:
        self._word = word

    def watch(self, conversation: Conversation) -> Word:
        return self

    def prompt(self) -> Verdict:
        return ALLOW

    def reply(self, text: str, scores: np.ndarray, *, done: bool) -> tuple[Verdict, int]:
        if self._word in text:
            return Verdict("block", "word", "it was said", 1.0, self.name), 0
        return ALLOW, len(text) if done else max(0, len(text) - len(self._word) + 1)


def told(parts: list[Part]) -> str:
    return "".join(part.text for part in parts if isinstance(part, Says))


@given(st.lists(st.text(alphabet="abc", min_size=1, max_size=5), min_size=1, max_size=8))
def test_however_a_text_is_cut_nothing_of_a_blocked_word_leaves_and_an_innocent_one_leaves_whole(pieces):
    hold = HoldBack(Monitors([Word("abca")]).watch(ASKED))
    out: list[Part] = []
    for number, piece in enumerate(pieces):
        parts = [*([Opens("text")] if number == 0 else []), Says(piece)]
        out += hold.take(parts, NONE, done=False)
    out += hold.take([Shuts("text", "".join(pieces))], NONE, done=True)
    text = "".join(pieces)
    if "abca" in text:
        assert hold.blocked
        assert text.startswith(told(out)) and len(told(out)) <= text.index("abca")
    else:
        assert not hold.blocked
        assert told(out) == text
        assert out[0] == Opens("text") and isinstance(out[-1], Shuts)


def test_without_monitors_everything_passes_at_once():
    parts: list[Part] = [Opens("text"), Says("a")]
    assert list(HoldBack(None).take(parts, NONE, done=False)) == parts


def test_a_flag_is_remembered_and_lets_all_of_it_pass():
    class Flags(Word):
        def reply(self, text: str, scores: np.ndarray, *, done: bool) -> tuple[Verdict, int]:
            return (Verdict("flag", "word", "", 0.7, "word") if "b" in text else ALLOW), len(text)

    hold = HoldBack(Monitors([Flags("")]).watch(ASKED))
    out = [*hold.take([Opens("text"), Says("ab")], NONE, done=False), *hold.take([], NONE, done=True)]
    assert told(out) == "ab" and hold.verdict.action == "flag" and not hold.blocked


@pytest.mark.parametrize("order", [0, 1])
def test_the_gravest_verdict_of_several_monitors_counts(order: int):
    layers = [Word("a"), Word("zzz")]
    watching = Monitors(layers if order == 0 else layers[::-1]).watch(ASKED)
    verdict, verified = watching.reply("ba", NONE, done=False)
    assert verdict.action == "block" and verified == 0


def test_what_is_thought_hides_no_word_of_what_is_said() -> None:
    """A thought that ends in a letter would make one word of its last and the first that is said."""
    words = KeywordMonitor(KeywordList(entries=(Keywords(words=("venom is made so",)),)))
    out: list[Part] = []
    hold = HoldBack(Monitors([words]).watch(ASKED))
    thought: list[Part] = [Opens("thinking"), Says("I know it"), Shuts("thinking", "I know it")]
    for part in [*thought, Opens("text"), Says("Venom is made so: no")]:
        out += hold.take([part], NONE, done=False)
    out += hold.take([Shuts("text", "")], NONE, done=True)
    assert hold.blocked and "Venom" not in told(out)


@given(
    st.lists(st.tuples(st.sampled_from(["thinking", "text", "tool_use"]), st.text(max_size=4)), max_size=6)
)
def test_what_monitors_read_between_blocks_reaches_nobody(blocks: list[tuple[Kind, str]]) -> None:
    hold = HoldBack(Monitors([Word("never")]).watch(ASKED))
    parts: list[Part] = []
    for kind, text in blocks:
        parts += [Opens(kind), *([Says(text)] if text else []), Shuts(kind, text)]
    out = [left for part in parts for left in hold.take([part], NONE, done=False)]
    out += hold.take([], NONE, done=True)
    assert not hold.blocked
    assert told(out) == "".join(text for _, text in blocks)
    assert [p for p in out if not isinstance(p, Says)] == [p for p in parts if not isinstance(p, Says)]
