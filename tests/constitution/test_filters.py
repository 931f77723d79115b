from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from publius.constitution.filters import copied, drifted, evident_language, refuses, strange_letters

ENGLISH = "The reply is not true, and it has no reason for what it says to the person who is asking."
GERMAN = "Die Antwort ist nicht wahr, und sie hat auch keinen Grund für das, was sie der Person sagt."
FRENCH = "La réponse est fausse, et elle ne dit pas ce que la personne veut dans cette lettre pour vous."
SPANISH = "La respuesta es muy falsa y no dice lo que la persona quiere para su carta con el jefe."
RUSSIAN = "Ответ неверен, и он ничего не объясняет человеку."


@pytest.mark.parametrize(
    "text",
    [
        "I cannot help with that.",
        "I'm sorry, but I can't assist with this request.",
        "I\u2019m sorry, I won\u2019t discuss it.",
        '"Sorry. As an AI language model, I am unable to provide a critique."',
        "Unfortunately, I am not able to review that answer.",
        "I apologize, but I must decline to comment.",
        "  I CAN NOT DO THAT",
        "Sorry \u2014 I can\u2019t help with that.",
    ],
)
def test_refusals(text: str) -> None:
    assert refuses(text)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "I cannot find anything wrong with the answer. There is nothing to fix.",
        "I can't see how this could hurt anyone.",
        'The assistant says "I cannot help with that", which leaves the person alone.',
        "I'm sorry, I should not have given those steps; they could hurt someone.",
        "As an AI, the assistant should not claim to be tired.",
        "I will not mince words: the answer is wrong.",
        "I cannot helpfully improve it.",
    ],
)
def test_critiques_are_no_refusals(text: str) -> None:
    assert not refuses(text)


def test_phrases_are_the_users() -> None:
    assert refuses("Je ne peux pas critiquer cela.", ["je ne peux pas"])
    assert not refuses("I cannot help with that.", ["je ne peux pas"])
    assert not refuses("I cannot help with that.", [])


def test_copies() -> None:
    text = "Trim the stems and stand the bunch in a glass of water."
    assert copied(text, [text.upper().replace(".", "!")]) == 1.0
    assert copied(text, ["Put the bunch in a vase.", f"First: {text} Then wait."]) == 1.0
    assert copied(f"{text} Keep it out of the sun and change the water daily.", [text]) == pytest.approx(
        12 / 23
    )
    assert copied(text, ["Cut the ends, then put all of it in water."]) == 0.0
    assert copied(text, []) == copied("", ["", "x"]) == 0.0


def test_short_texts_are_copies_only_when_equal() -> None:
    assert copied("Yes, it is.", ["yes it is"]) == 1.0
    assert copied("Yes, it is.", ["yes it is so, and more"]) == 0.0


@given(st.text(max_size=80), st.lists(st.text(max_size=80), max_size=3))
def test_a_share_is_a_share(text: str, others: list[str]) -> None:
    assert 0.0 <= copied(text, others) <= 1.0
    assert 0.0 <= strange_letters(text, " ".join(others)) <= 1.0
    assert not drifted(text, [text], 0.0) and isinstance(refuses(text), bool)


def test_languages() -> None:
    texts = (ENGLISH, GERMAN, FRENCH, SPANISH, RUSSIAN)
    assert [evident_language(text) for text in texts] == ["en", "de", "fr", "es", None]
    assert evident_language("Tulips, roses, box and yew.") is None


def test_other_scripts() -> None:
    assert strange_letters(RUSSIAN, ENGLISH) == 1.0
    assert strange_letters(f"{ENGLISH} 你好", ENGLISH) == pytest.approx(2 / 71, abs=0.01)
    assert strange_letters(RUSSIAN, f"{ENGLISH} {RUSSIAN}") == 0.0
    assert strange_letters("123", ENGLISH) == strange_letters(RUSSIAN, "42?") == 0.0


def test_drift() -> None:
    assert drifted(RUSSIAN, [ENGLISH], 0.3)
    assert drifted(GERMAN, [ENGLISH], 0.3)
    assert not drifted(GERMAN, ["Say it in German, please, for the people that are here.", GERMAN], 0.3)
    assert not drifted(GERMAN, ["Hallo!"], 0.3), "two words are no evidence"
    assert not drifted(ENGLISH, [ENGLISH, "Yes."], 0.0)
    assert not drifted("Ja, gerne.", [ENGLISH], 0.3), "nor are these"
