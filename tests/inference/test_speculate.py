"""Guesses come from the text itself."""

from __future__ import annotations

import pytest

from publius.inference.request import Request
from publius.inference.sampling import Sampling
from publius.inference.speculate import prompt_lookup


@pytest.mark.parametrize(
    ("prompt", "said", "expected"),
    [
        ([1, 2, 3, 4, 5, 6], [1, 2], [3, 4, 5]),
        ([1, 2, 9, 1, 2, 8], [1, 2], [8, 1, 2]),  # the latest
        ([5, 1, 2, 9, 6, 1, 2, 8], [5, 1, 2], [9, 6, 1]),  # the longest
        ([1, 2, 3], [4, 5], []),
        ([3, 1], [3], []),  # one token is no match
        ([1], [], []),
        ([4, 4, 4], [], [4]),
    ],
)
def test_what_followed_before(prompt: list[int], said: list[int], expected: list[int]) -> None:
    request = Request(prompt, Sampling())
    request.tokens = said
    assert prompt_lookup(request, 3) == expected
