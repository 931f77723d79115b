"""What is remembered, or passed over, is what reading letter by letter would have found."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from publius.safety.monitor import Verdict
from publius.safety.plain import letters_of
from publius.safety.spelling import Reader, Word, Words

LETTERS = "abc\u0430"  # the last a Cyrillic a
WORD = st.tuples(
    st.text("abc", min_size=1, max_size=5),
    st.integers(1, 5),
    st.booleans(),
    st.sampled_from(["flag", "block"]),
    st.sampled_from([False, False, False, True]),
)


def word(letters: str, at: int, open: bool, action: str, inside: bool) -> Word:
    breaks = frozenset({at}) if at < len(letters) else frozenset[int]()
    return Word(letters, breaks, open, Verdict(action, letters), inside)  # type: ignore[arg-type]


def looking_everywhere(words: list[Word]) -> Words:
    """Without a memory, and with a look at every place."""
    found = Words(words)
    found.starts, found.known = None, found.after  # type: ignore[assignment]
    return found


@settings(max_examples=400)
@given(
    words=st.lists(WORD, min_size=1, max_size=4),
    text=st.text(LETTERS + "aab  -\x00\x1f.xyA", max_size=90),
    cuts=st.lists(st.integers(1, 60), max_size=12),
)
def test_it_finds_and_holds_back_what_a_look_at_every_letter_does(
    words: list[tuple[str, int, bool, str, bool]], text: str, cuts: list[int]
) -> None:
    wanted = [word(*one) for one in words]
    quick = Words(wanted)
    for _ in range(2):  # the second time from memory
        ours, slow = Reader(quick), Reader(looking_everywhere(wanted))
        for place in sorted({min(cut, len(text)) for cut in cuts} | {len(text)}):
            for reader in (ours, slow):
                reader.read(text[:place], done=False)
            assert ours.begun == slow.begun
            assert (ours.verdict, ours.from_, ours.held(place)) == (
                slow.verdict, slow.from_, slow.held(place)
            )  # fmt: skip
        for reader in (ours, slow):
            reader.read(text, done=True)
        assert (ours.verdict, ours.from_) == (slow.verdict, slow.from_)


def test_ascii_is_a_byte_for_a_byte() -> None:
    assert all(len(letters_of(chr(code))) < 2 and letters_of(chr(code)).isascii() for code in range(128))


def test_what_is_remembered_is_bounded_and_short() -> None:
    words = Words([word("bane", 9, False, "block", False)])
    reader, text = Reader(words), "The bane " + "of it all and more " * 9
    reader.read(text, done=False)
    assert words.known.cache_info().currsize == 0, "only pieces of a few characters"
    reader.read(text + "so", done=True)
    assert words.known.cache_info().currsize == 1 and words.known.cache_info().maxsize
    assert reader.verdict.action == "block" and reader.from_ == 4
