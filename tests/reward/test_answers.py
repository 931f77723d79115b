from __future__ import annotations

from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from publius.reward.answers import any_of, find_answer, last_number, read_number, same_answer


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("So \\boxed{42}.", "42"),
        ("\\boxed{1} no, \\boxed{\\frac{3}{4}}", "\\frac{3}{4}"),
        ("\\boxed{7", None),
        ("5 + 7 = 12\n#### 12", "12"),
        ("#### 1,234\n", "1,234"),
        ("The answer is 12.", "12"),
        ("the answer is: **12** apples, I think", "12** apples"),
        ("The final answer is 3.5. It took a while.", "3.5"),
        ("Answer: -7", "-7"),
        ("The answer was 3. No, the answer is 4!", "4"),
        ("The answer is not 5", None),
        ("The answer isn't 5", None),
        ("The answer is definitely not 5.", None),
        ("The answer is (3, 4).", "(3, 4)"),
        ("#### (3, 4)", "(3, 4)"),
        ("The answer is 5 (say), more or less", "5 (say)"),
        ("\\boxed{4}, that is \\boxed{", "4"),
        ("\\boxed{}", None),
        ("The answer is ", None),
        ("I have 12 apples.", None),
        ("", None),
    ],
)
def test_find_answer(text: str, found: str | None) -> None:
    assert find_answer(text) == found


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("12", 12),
        ("1,234,567", 1234567),
        ("1,23", 1),
        ("$1,200.50", Fraction(240100, 200)),
        ("-$5", -5),
        ("$-5", -5),
        ("- 5", -5),
        ("\u22125", -5),
        ("minus 5", -5),
        ("3/4", Fraction(3, 4)),
        ("-3/4", Fraction(-3, 4)),
        ("1 1/2", Fraction(3, 2)),
        ("\\frac{3}{4}", Fraction(3, 4)),
        ("-\\dfrac{3}{4}", Fraction(-3, 4)),
        ("\\frac34", Fraction(3, 4)),
        (".5", Fraction(1, 2)),
        ("1.5e3", 1500),
        ("1.5 \\times 10^{3}", 1500),
        ("2 * 10^-2", Fraction(1, 50)),
        ("12 apples", 12),
        ("5km", 5),
        ("12 \\text{ cm}", 12),
        ("3 + 4 = 7", 7),
        ("x = 7", 7),
        ("50\\%", 50),
        ("1/0", None),
        ("1e999999999", None),
        ("3x", None),
        ("10^3", 1000),
        ("3 thousand", 3000),
        ("x2", None),
        ("apples", None),
        ("", None),
    ],
)
def test_read_number(text: str, value: object) -> None:
    found = read_number(text)
    assert (found and found[0]) == value


@pytest.mark.parametrize(
    ("given", "wanted", "same"),
    [
        ("12", "12", True),
        ("12.0", "12", True),
        ("012", "12", True),
        ("12 apples", "12", True),
        ("13", "12", False),
        ("-12", "12", False),
        ("0.5", "1/2", True),
        ("0.33", "1/3", False),
        ("50%", "50", True),
        ("50%", "0.5", True),
        ("50", "50%", True),
        ("0.5", "50%", True),
        ("5", "50%", False),
        ("50%", "50%", True),
        ("0.5%", "50%", False),
        ("1,234", "1234", True),
        ("no idea", "12", False),
        ("3x", "3", False),
        ("x+1", "x + 1", True),
        ("x+2", "x + 1", False),
        ("(B)", "(b)", True),
        ("Paris.", "paris", True),
        ("London", "paris", False),
        ("(3, 4)", "(3,4)", True),
        ("3", "(3,4)", False),
        ("1, 2, 3", "3", False),
        ("\\sqrt{2}", "2", False),
        ("3!", "3", False),
        ("\\frac{1}{2}\\pi", "1/2", False),
        ("2\u03c0", "2", False),
        ("2+2", "2", False),
        ("2 + 2", "2", False),
        ("2 * 3", "2", False),
        ("7-5", "7", False),
        ("12:30", "12", False),
        ("3 hours and 20 minutes", "3", False),
        ("1.5 million", "1.5", False),
        ("1.5 million", "1500000", True),
        ("2 dozen eggs", "24", True),
        ("5 or 6", "5", False),
        ("2+2 = 4", "4", True),
        ("10^3", "1000", True),
        ("2^{10}", "1024", True),
        ("2^10 + 1", "2", False),
        ("5^\\circ", "5", True),
        ("5^{\\circ}", "5", True),
        ("12 m/s", "12", True),
        ("12 cm^2", "12", True),
        ("12 m2", "12", True),
        ("that they have 12 apples left", "12", True),
        ("$12 (twelve dollars)", "12", True),
        ("\\(-5\\)", "-5", True),
        ("\\[ x = 5 \\]", "5", True),
        ("sqrt(16)", "16", False),
        ("ln(5)", "5", False),
        ("sin 30", "30", False),
        ("half of 10", "10", False),
        ("-(5)", "5", False),
        ("equal to - 5", "5", False),
        ("about -\\frac{1}{2}", "-1/2", True),
        ("about -\\frac{1}{2}", "1/2", False),
        ("-\\frac{-1}{2}", "-1/2", False),
        ("about -\\$5", "-5", True),
        ("five (5)", "5", True),
        ("", "", False),
        ("anything", "", False),
    ],
)
def test_same_answer(given: str, wanted: str, same: bool) -> None:
    assert same_answer(given, wanted) is same


def test_tolerance_is_relative() -> None:
    assert same_answer("3.14", "3.14159", 0.001)
    assert not same_answer("3.1", "3.14159", 0.001)
    assert not same_answer("314", "3.14159", 0.001)


def test_last_number() -> None:
    assert last_number("ones 3+4=7. tens 1+2+0=3. so 37") == "37"
    assert last_number("from 1,200 to -3.5 degrees") == "-3.5"
    assert last_number("a range of 3-7") == "7"
    assert last_number("none") is None
    assert last_number("It is 3. **5**") == "5"


@pytest.mark.parametrize(
    ("text", "last"),
    [
        ("The area is 12 cm^2.", "12"),
        ("It costs 2 million dollars.", "2 million"),
        ("That is 10^3.", "10^3"),
        ("It is 2+2", "2+2"),
        ("It is 2 * 3.", "2 * 3"),
        ("so it is \\sqrt{16}", "\\sqrt{16"),
        ("so x is 3x", "3x"),
        ("It weighs 5g", "5g"),
        ("so x = -\\frac{3}{4}.", "-3/4"),
    ],
)
def test_the_last_number_comes_with_what_changes_it(text: str, last: str) -> None:
    assert last_number(text) == last


def test_any_of() -> None:
    assert list(any_of("a")) == ["a"]
    assert list(any_of(3)) == ["3"]
    assert list(any_of(["1/2", 0.5])) == ["1/2", "0.5"]
    assert list(any_of(None)) == [] and list(any_of([None, 2])) == ["2"]


NUMBERS = st.fractions(min_value=-(10**6), max_value=10**6, max_denominator=1000)


@given(NUMBERS, NUMBERS)
def test_numbers_are_the_same_exactly_when_they_are(a: Fraction, b: Fraction) -> None:
    assert same_answer(str(a), str(b)) == (a == b)
    assert same_answer(f"The answer is {a}", str(a))


@given(st.integers(-(10**9), 10**9))
def test_however_it_is_dressed(n: int) -> None:
    for form in (
        f"{n:,}",
        f"${n}",
        f"\\boxed{{{n}}}",
        f"**{n}**",
        f"{n}.",
        f"{n} eggs",
        f"{n}.00",
        f"x = {n}",
    ):
        text = f"So the answer is {form}"
        assert same_answer(find_answer(text) or "", str(n)), form
        assert not same_answer(find_answer(text) or "", str(n + 1)), form


@given(st.text(max_size=300), st.text(max_size=20))
def test_whatever_is_written_is_read_without_failing(text: str, wanted: str) -> None:
    found = find_answer(text)
    assert isinstance(same_answer(found or text, wanted), bool)
    last_number(text)
