from __future__ import annotations

import pytest

from publius.core.errors import UserError
from publius.reward.verify import VERIFIERS, exact, last_number


@pytest.mark.parametrize(
    ("text", "right"),
    [
        ("The answer is 42.", 1), ("42", 1), ("First 17, then 42", 1), ("42, no, 43", 0), ("", 0),
        ("The answer is 042.", 1), ("minus -42", 0), ("forty-two", 0), ("42.", 1),
    ],
)  # fmt: skip
def test_the_last_number_is_the_answer(text: str, right: int) -> None:
    assert last_number({"keys": ["42"]}, text) == right


def test_exact_forgives_spaces_only() -> None:
    assert exact({"keys": ["the mill"]}, " the  mill\n") == 1
    assert exact({"keys": ["the mill"]}, "The mill") == 0


def test_a_prompt_without_truth_is_an_error() -> None:
    for verify in VERIFIERS.values():
        with pytest.raises(UserError, match="no answer to verify by"):
            verify({}, "42")
