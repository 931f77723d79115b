"""A text's own scores: the model's log-softmax, with what is likeliest from the same numbers."""

from __future__ import annotations

import pytest
import torch

from publius.core.errors import UserError
from publius.inference.engine import Engine
from publius.inference.sampling import Sampling
from publius.inference.scoring import Reading
from publius.testing import byte_tokenizer, tiny_model

TOKENIZER = byte_tokenizer()
MODEL = tiny_model(0)
TEXTS = [
    [1, *TOKENIZER.encode(text)] for text in ("The mill by the river grinds.", "Owls", "Owls watch the mill")
]
BOTH = pytest.mark.parametrize("native", [True, False], ids=["native", "torch"])


def engine(native: bool, **changes: int) -> Engine:
    return Engine(MODEL, TOKENIZER, native=native, max_batch=4, **changes)


@BOTH
@pytest.mark.parametrize("step_tokens", [1024, 7], ids=["whole", "in-chunks"])
def test_scores_and_alternatives_are_the_models_log_softmax(native: bool, step_tokens: int) -> None:
    readings = [Reading(text, alternatives=count) for text, count in zip(TEXTS, (5, 1, 300), strict=True)]
    engine(native, step_tokens=step_tokens).complete([reading.request for reading in readings])
    for text, count, reading in zip(TEXTS, (5, 1, 269), readings, strict=True):
        with torch.inference_mode():
            logp_TV = MODEL(torch.tensor([text]))[0].float().log_softmax(-1)
        first, *rest = reading.found()
        assert (first.id, first.logprob, first.alternatives) == (text[0], None, ())
        assert [scored.id for scored in rest] == text[1:]
        for scored, logp_V in zip(rest, logp_TV, strict=False):
            assert scored.logprob == pytest.approx(logp_V[scored.id].item(), abs=1e-4)
            ids, values = zip(*scored.alternatives, strict=True)
            assert len(set(ids)) == count and list(values) == sorted(values, reverse=True)
            torch.testing.assert_close(torch.tensor(values), logp_V.topk(count).values, atol=1e-4, rtol=0)
            torch.testing.assert_close(torch.tensor(values), logp_V[list(ids)], atol=1e-4, rtol=0)


@BOTH
def test_a_likeliest_token_has_exactly_the_number_its_alternative_has(native: bool) -> None:
    runs = engine(native)
    greedy = runs.generate([TEXTS[0]], Sampling(max_tokens=16, temperature=0))[0]
    reading = Reading([*TEXTS[0], *greedy.tokens], alternatives=1)
    runs.complete([reading.request])
    continued = reading.found()[len(TEXTS[0]) :]
    assert [scored.alternatives[0] for scored in continued] == [(s.id, s.logprob) for s in continued]
    others = reading.found()[1 : len(TEXTS[0])]
    unlikely = [s for s in others if s.id != s.alternatives[0][0]]
    assert unlikely and all(s.logprob < s.alternatives[0][1] for s in unlikely if s.logprob is not None)


def test_alternatives_change_no_score_to_the_bit() -> None:
    runs = engine(True)
    reading = Reading(TEXTS[0], alternatives=3)
    runs.complete([reading.request])
    (plain,) = runs.score([TEXTS[0][:1]], [TEXTS[0][1:]])
    assert [scored.logprob for scored in reading.found()[1:]] == plain


def test_without_alternatives_and_of_one_token() -> None:
    runs = engine(True)
    plain, single = Reading(TEXTS[1]), Reading([1], alternatives=2)
    runs.complete([plain.request, single.request])
    assert all(scored.alternatives == () for scored in plain.found())
    assert [tuple(scored) for scored in single.found()] == [(1, None, ())]


def test_a_reading_runs_beside_requests_that_write() -> None:
    runs = engine(True)
    writing = runs.submit(TEXTS[2], Sampling(max_tokens=8, temperature=0))
    reading = Reading(TEXTS[0], alternatives=2)
    assert runs.enqueue(reading.request) is reading.request
    while runs.step():
        pass
    assert len(writing.completion().tokens) == 8
    assert all(len(scored.alternatives) == 2 for scored in reading.found()[1:])


@pytest.mark.parametrize(
    ("text", "told"), [([], "empty"), ([1, 999], "outside the vocabulary"), ([0.5], "row")]
)
def test_what_cannot_be_read_is_refused(text: list[int], told: str) -> None:
    runs = engine(True)
    with pytest.raises(UserError, match=told):
        runs.enqueue(Reading(text).request)
