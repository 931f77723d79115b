from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from publius.constitution.judges.choice import Choice, NoChoice, read_choice, said_option
from publius.inference.remote import Answer, Token, Unanswered

AB = ("(A)", "(B)")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("(A)", 0), (" (B)\n", 1), ("A", 0), ("B.", 1), ("**(A)**", 0), ("“B”", 1), ("[A]", None),
        ("(B) is the better answer.", 1), ("The answer is (A).", 0), ("I would choose (B), clearly", 1),
        ("A good answer is the second", None), ("(A) or (B)", None), ("(C)", None), ("", None), ("b", None),
        ("Both are fine", None), ("I can't help with that.", None), ("(a)", None), ("(AB)", None),
    ],
)  # fmt: skip
def test_words_are_read_strictly(text: str, said: int | None) -> None:
    assert said_option(text, AB, final=False) == said


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("(A) is curt, (B) is kind.\nThe answer is: (B)", 1),
        ("The answer (A) gives is curt.\n\nSo the answer is (B).", 1),
        ("(A) is curt.\n(B)", 1),
        ("The answer is (A)? No. (B) is better", None),
        ("The first answer is curt, the second answer kind", None),
        ("Therefore, the answer is: **A**", 0),
        ("The answer is (A), since the other answer (B) is worse.", None),
        ("The answer is (A).\n\nNote that answer (B) was close.", 0),
        ("The answer is (B). I am sure of this answer.", 1),
        ("(B) leaves it unanswered. **Answer:** (A)", 0),
        ("", None),
    ],
)
def test_after_a_thought_the_end_counts(text: str, said: int | None) -> None:
    assert said_option(text, AB, final=True) == said


def test_options_that_are_words() -> None:
    assert said_option("Yes, surely", ("Yes", "No"), final=False) == 0
    assert said_option("Nobody knows", ("Yes", "No"), final=False) is None
    assert said_option("(I)", tuple(f"({c})" for c in "ABCDEFGHI"), final=False) == 8


def answers(*texts: str) -> list[Answer]:
    return [Answer(text, "end") for text in texts]


def test_votes() -> None:
    one = read_choice(answers("(A)"), AB, final=False)
    assert one == Choice((0.75, 0.25), 1.0, "(A)")
    three = read_choice(answers("(A)", "B", "(A)", "(A)"), AB, final=False)
    assert three == Choice((0.7, 0.3), 1.0, "(A)")
    assert read_choice(answers("(A)", "hm"), AB, final=False) == Choice((0.75, 0.25), 0.5, "(A)")


@given(st.lists(st.sampled_from(["(A)", "(B)"]), min_size=1, max_size=9))
def test_votes_are_symmetric(texts: list[str]) -> None:
    swapped = ["(B)" if text == "(A)" else "(A)" for text in texts]
    one, two = (read_choice(answers(*said), AB, final=False) for said in (texts, swapped))
    assert isinstance(one, Choice) and isinstance(two, Choice)
    assert one.probabilities == pytest.approx(two.probabilities[::-1])
    assert sum(one.probabilities) == pytest.approx(1)


def token(text: str, **chances: float) -> Token:
    return Token(text, tuple((name.replace("_", " "), math.log(p)) for name, p in chances.items()))


def test_log_probabilities() -> None:
    # variants of one option are added up; the bracket before it says nothing
    said = Answer("(A)", "end", (token("(", A=0.5), token("A", A=0.6, _A=0.1, B=0.2, C=0.1), token(")")))
    choice = read_choice([said], AB, final=False)
    assert isinstance(choice, Choice)
    assert choice.probabilities == pytest.approx((0.7 / 0.9, 0.2 / 0.9)) and choice.mass == pytest.approx(0.9)


def test_an_option_that_is_not_listed_is_as_likely_as_it_can_be() -> None:
    said = Answer("A", "end", (token("A", A=0.9, C=0.04, D=0.03),))
    choice = read_choice([said], AB, final=False)
    assert isinstance(choice, Choice)
    assert choice.probabilities == pytest.approx((0.9 / 0.93, 0.03 / 0.93))
    sure = read_choice([Answer("A", "end", (token("A", A=1.0),))], AB, final=False)
    assert isinstance(sure, Choice) and 0.999 < sure.probabilities[0] < 1


def test_after_a_thought_the_last_place_counts_and_samples_are_averaged() -> None:
    def thought(p: float) -> Answer:
        places = (token("A", A=1), token("B", B=1), token("A", A=p, B=1 - p))
        return Answer("A or B? The answer is A", "end", places)

    choice = read_choice([thought(0.9), thought(0.7)], AB, final=True)
    assert isinstance(choice, Choice)
    assert choice.probabilities == pytest.approx((0.8, 0.2))


def test_no_choice_has_a_kind() -> None:
    refusal, nonsense, lost = Answer("", "refusal"), Answer("purple", "end"), Unanswered("no answer")
    sorry = Answer("I\u2019m sorry, but I can\u2019t compare these.", "end")
    assert read_choice([refusal], AB, final=False) == NoChoice("declined", "")
    assert read_choice([sorry], AB, final=False) == NoChoice("declined", sorry.text)
    assert read_choice([nonsense], AB, final=False) == NoChoice("unread", "purple")
    assert read_choice([lost], AB, final=False) == NoChoice("unreached", "no answer")
    cut = Answer("The answer (A) gives", "length")
    assert read_choice([cut], AB, final=True) == NoChoice("unread", cut.text)
    assert isinstance(read_choice([Answer("(A) is", "length")], AB, final=False), Choice)
    mixed = [*answers("(A)"), refusal, refusal, nonsense]
    assert read_choice(mixed, AB, final=False) == NoChoice("declined", ""), "one of four is too few"
    assert isinstance(read_choice(mixed, AB, final=False, min_read=0.25), Choice)
    # an answer that is given counts, however it begins
    unsure = Answer("I cannot be sure, but (A).", "end")
    assert isinstance(read_choice([unsure], AB, final=False), Choice)


@pytest.mark.parametrize(
    ("words", "final"),
    [
        (("A", " close call: ", "(", "A", ")"), False),
        (("It is close.\nThe answer is ", "(", "A", "). ", "A", " good one."), True),
    ],
)
def test_the_probability_is_read_where_the_option_stands(words: tuple[str, ...], final: bool) -> None:
    place = words.index("(") + 1
    tokens = [Token(word, ((word, math.log(0.9)), ("B", math.log(0.001)))) for word in words]
    tokens[place] = Token("A", (("A", math.log(0.55)), ("B", math.log(0.45))))
    found = read_choice([Answer("".join(words), "end", tuple(tokens))], AB, final=final)
    assert isinstance(found, Choice) and found.probabilities == pytest.approx((0.55, 0.45))
