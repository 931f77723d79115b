from __future__ import annotations

import pytest
import torch

from publius.core.errors import UserError
from publius.evals.lm import EngineLM
from publius.evals.lm.packed import packs_of
from publius.evals.lm.scoring import Pair, pairs_of, score_pairs, windows
from publius.inference import Engine, Request, Sampling
from publius.testing import fake_engine
from tests.evals.lm.conftest import CONTEXT

QUESTION = "Question: Which river runs by the mill?\nAnswer:"
ASKED = [
    (QUESTION, " The Esk"),
    (QUESTION, " The Nidd and the market of Thorley"),
    (QUESTION, " a"),
    (QUESTION, " b"),
    ("The river of Elmford is ", "the Esk"),  # its space goes over
    ("The river of Elmford is \n ", "the Esk"),
    ("", "The river"),
    ("", "<|bos|>The river"),
    ("é川", " ñ\n"),
    (QUESTION * 4, " The Esk"),  # does not fit
    (QUESTION, " The Esk"),  # twice
]


def by_hand(peer, context: str, continuation: str) -> Pair:
    """The rules as lm-eval states them, with transformers' tokenizer."""
    encode = peer.tokenizer.encode
    if context == "":
        ids = encode(continuation, add_special_tokens=False)
        first = peer.tokenizer.bos_token_id
        return Pair([first], ids) if ids[0] != first else Pair(ids[:1], ids[1:])
    spaces = len(context) - len(context.rstrip())
    if spaces:
        context, continuation = context[:-spaces], context[-spaces:] + continuation
    before = encode(context)
    return Pair(before, encode(context + continuation)[len(before) :])


def test_texts_become_the_ids_that_lm_eval_makes_of_them(lm: EngineLM, peer) -> None:
    assert pairs_of(lm.words, ASKED) == [by_hand(peer, *pair) for pair in ASKED]


def test_likelihoods_are_those_of_a_direct_forward_pass(lm: EngineLM, peer) -> None:
    found = lm.loglikelihood(ASKED)
    for pair, one in zip(ASKED, found, strict=True):
        context, continuation = by_hand(peer, *pair)
        room = CONTEXT + 1 - len(continuation)
        logprob, greedy = peer.score(context[-room:], continuation)
        assert one.logprob == pytest.approx(logprob, abs=1e-4)
        assert one.greedy is greedy
    assert found[0] == found[-1]


def test_they_are_the_same_by_the_models_own_forward_pass(lm: EngineLM) -> None:
    engine = Engine(lm.engine.model, lm.engine.tokenizer, native=False, max_batch=3)
    other = EngineLM(engine, lm.words).loglikelihood(ASKED)
    for one, two in zip(lm.loglikelihood(ASKED), other, strict=True):
        assert one.logprob == pytest.approx(two.logprob, abs=1e-4) and one.greedy is two.greedy


def test_a_context_of_spaces_alone_is_no_context(lm: EngineLM) -> None:
    one, two = lm.loglikelihood([("   ", "The river"), ("", "   The river")])
    assert one == two


def test_what_greedy_decoding_would_say_is_told(lm: EngineLM, peer) -> None:
    context = peer.tokenizer.encode(QUESTION)
    said = peer.greedy(context, 4)
    other = [*said[:-1], said[-1] + 1]
    one, two = score_pairs(lm.engine, [Pair(context, said), Pair(context, other)])
    assert one.greedy and not two.greedy and one.logprob > two.logprob


def request(ids: list[int]) -> Request:
    return Request(ids, Sampling(max_tokens=1), targets={len(ids) - 1: [20]})


def test_short_texts_that_begin_alike_are_one_tree() -> None:
    prompt = list(range(20, 50))
    reads = [request([*prompt, *rest]) for rest in ([60, 61], [60, 62], [70])]
    [pack], left = packs_of([*reads, request([1] * 600)])
    assert len(pack.tokens) == 30 + 2 + 1 + 1 and [len(one.prompt) for one in left] == [600]
    for read, path in zip(pack.reads, pack.paths, strict=True):
        assert [pack.tokens[node] for node in path] == list(read.prompt)
        assert [pack.places[node] for node in path] == list(range(len(read.prompt)))


def test_many_with_a_long_beginning_in_common_are_left_to_the_engine() -> None:
    prompt = [20 + i % 7 for i in range(160)]
    engine = fake_engine()
    pairs = [Pair(prompt, [30 + i, *range(40, 100)]) for i in range(8)]
    found = score_pairs(engine, pairs)
    assert engine.stats.reused >= 7 * 144  # the beginning is read once
    for pair, one in zip(pairs, found, strict=True):
        assert one.logprob == pytest.approx(
            sum(fake_engine().score([prompt], [pair.continuation])[0]), abs=1e-3
        )


def test_choices_of_a_prompt_are_read_in_one_pass() -> None:
    engine, prompt = fake_engine(), [20 + i % 7 for i in range(100)]
    pairs = [Pair(prompt, [30 + i, 40, 50]) for i in range(8)]
    found = score_pairs(engine, pairs)
    assert engine.stats.steps == 0
    for pair, one in zip(pairs, found, strict=True):
        assert one.logprob == pytest.approx(sum(engine.score([prompt], [pair.continuation])[0]), abs=1e-4)


def test_what_is_no_number_is_told(lm: EngineLM) -> None:
    engine = fake_engine()
    with torch.no_grad():
        engine.model.model.norm.weight[0] = torch.nan
    with pytest.raises(UserError):
        score_pairs(engine, [Pair([20, 21], [22])])


def test_a_continuation_needs_a_token_and_must_fit(lm: EngineLM) -> None:
    with pytest.raises(UserError, match="nothing to score") as caught:
        lm.loglikelihood([("The river", " x"), ("The river", "")])
    assert caught.value.where == "request 1"
    with pytest.raises(UserError, match="exceeds the context"):
        score_pairs(lm.engine, [Pair([1], [20] * (CONTEXT + 1))])
    [longest] = score_pairs(lm.engine, [Pair([1, 2, 3], [20] * CONTEXT)])
    assert longest.logprob < 0


@pytest.mark.parametrize("count", [0, 1, 3, 4, 5, 8, 9, 11])
def test_windows_score_every_token_once_after_as_much_as_fits(count: int) -> None:
    tokens = list(range(100, 100 + count))
    found = [*windows(tokens, 7, 4)]
    assert [token for pair in found for token in pair.continuation] == tokens
    text = [7, *tokens]
    done = 0
    for pair in found:
        whole = pair.context + pair.continuation
        end = done + len(pair.continuation)
        assert whole == text[end + 1 - len(whole) : end + 1]
        assert len(whole) - 1 == min(end, 4)  # read: as many as fit, and all there are at first
        done = end
