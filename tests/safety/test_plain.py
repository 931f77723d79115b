"""What looks like a letter is read as that letter."""

from __future__ import annotations

import random
import string

import pytest

from publius.core.messages import Conversation, text_of, user
from publius.redteam.mutators import MUTATORS
from publius.safety.plain import HARD, SOFT, letters_of


def read(text: str) -> str:
    return "".join(letters_of(character) for character in text)


def test_the_red_teams_own_disguise_of_letters_is_undone() -> None:
    """Of every letter that it exchanges, the commonest of all among them."""
    said = "acidic sauce for poxy people"
    asked = Conversation(messages=(user(said),))
    for seed in range(9):
        talk = MUTATORS["homoglyphs"].mutate(asked, random.Random(seed))
        assert not text_of(talk.messages[-1]).isascii()
        assert read(text_of(talk.messages[-1])) == read(said)


@pytest.mark.parametrize(
    ("shown", "meant"),
    [
        ("\u0441\u0430\u0441\u0442\u0443\u0455", "cactys"),
        ("\u03f2at", "cat"),  # its compatibility form is another letter
        ("\u03f9AT", "cat"),
        ("\u0570\u0585\u057d\u0578\u0581", "houng"),
        ("\ua4d0\ua4ee\ua4e0\ua4f0", "bane"),
        ("\u13a0\u13ac", "de"),
        ("\u0192og", "fog"),
        ("\U0001f171\U0001f150\U0001f1f3e", "bane"),
    ],
)
def test_letters_of_other_scripts(shown: str, meant: str) -> None:
    assert read(shown) == meant


def test_letters_that_are_shown_as_marks_only_separate() -> None:
    assert {letters_of(mark) for mark in "\u02bc\u02d0\u0640\ua78c\u01c3"} == {SOFT}
    assert letters_of("\u02b0") == "h", "a small letter above is a letter"
    assert letters_of("\u2009") == HARD


def test_no_plain_letter_is_taken_for_another() -> None:
    assert read(string.ascii_lowercase) == string.ascii_lowercase == read(string.ascii_uppercase)
    assert read(string.digits) == string.digits
