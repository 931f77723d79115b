"""Guesses come from the text itself."""

from __future__ import annotations

import pytest

from publius.inference.engine import Engine
from publius.inference.request import Request
from publius.inference.sampling import Sampling
from publius.inference.speculate import prompt_lookup
from publius.testing import byte_tokenizer, tiny_model


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
    assert prompt_lookup([(request, 3)]) == [expected]


@pytest.mark.parametrize("native", [True, False], ids=["native", "torch"])
@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_a_model_guesses_and_changes_nothing(native: bool, temperature: float) -> None:
    model, other = tiny_model(3), tiny_model(4, layers=1)
    sampling = Sampling(max_tokens=20, temperature=temperature, seed=1)
    prompts = [[1, 30, 40], [1, *range(20, 60)], [7]]
    expected = [c.tokens for c in Engine(model, byte_tokenizer(), native=native).generate(prompts, sampling)]
    for draft, right in ((model, True), (other, False)):
        engine = Engine(model, byte_tokenizer(), speculate=4, draft=draft, native=native)
        assert [c.tokens for c in engine.generate(prompts, sampling)] == expected
        assert engine.stats.guessed > 0
        assert (engine.stats.accepted == engine.stats.guessed) == right
        assert not right or engine.stats.steps < 8  # five tokens a step


def test_a_smaller_context_guesses_for_as_long_as_it_can() -> None:
    model = tiny_model(3)
    engine = Engine(model, byte_tokenizer(), speculate=4, draft=tiny_model(3, max_position=16))
    done = engine.generate([[1, 30, 40]], Sampling(max_tokens=40, temperature=0))
    assert done == Engine(model, byte_tokenizer()).generate(
        [[1, 30, 40]], Sampling(max_tokens=40, temperature=0)
    )
    assert 0 < engine.stats.guessed < 16
