"""What goes wrong stays with the request that it goes wrong for, and nothing is left damaged."""

from __future__ import annotations

import contextlib
import math
import os
import subprocess
import sys
import threading
import time
from dataclasses import replace

import numpy as np
import pytest
import torch

from publius.core.errors import UserError
from publius.inference import host as host_module
from publius.inference.engine import Completion, Engine, Sampling
from publius.inference.native import library as native_library
from publius.inference.request import Request
from publius.model.rope import DynamicRope
from publius.model.transformer import Transformer
from publius.testing import byte_tokenizer, tiny_model

TOKENIZER = byte_tokenizer()
BOTH = pytest.mark.parametrize("native", [True, False], ids=["native", "torch"])
needs_native = pytest.mark.skipif(native_library() is None, reason="no native pass")
PROMPT = [1, *range(20, 60)]  # two full pages, and more
GREEDY = Sampling(max_tokens=8, temperature=0)
FATAL = 268


def broken_model() -> Transformer:
    """All is well until token FATAL is read."""
    model = tiny_model(tie_embeddings=False)
    with torch.no_grad():
        model.model.embed_tokens.weight[FATAL] = math.nan
    return model


def alone(model: Transformer, prompt: list[int], sampling: Sampling, native: bool) -> Completion:
    return Engine(model, TOKENIZER, native=native).generate([prompt], sampling)[0]


def assert_same(one: Completion, other: Completion) -> None:
    assert one.tokens == other.tokens
    assert one.logprobs == pytest.approx(other.logprobs, abs=1e-4)


# ---- a request whose numbers are not numbers ----


@BOTH
def test_a_request_that_fails_takes_no_other_down(native: bool) -> None:
    engine = Engine(broken_model(), TOKENIZER, native=native)
    good, bad = engine.submit(PROMPT, GREEDY), engine.submit([*PROMPT, FATAL], GREEDY)
    while engine.step():
        pass
    assert bad.stop_reason == "error"
    with pytest.raises(UserError, match="NaN"):
        bad.completion()
    assert_same(good.completion(), alone(engine.model, PROMPT, GREEDY, native))
    assert engine.stats.pages == 0


@BOTH
def test_a_failure_spoils_neither_what_it_shares_nor_who_comes_later(native: bool) -> None:
    model, greedy = broken_model(), replace(GREEDY, max_tokens=20)
    engine = Engine(model, TOKENIZER, native=native)
    running = engine.submit(PROMPT, greedy)
    engine.step()
    for bad, sampling in (([*PROMPT, FATAL], GREEDY), (PROMPT, Sampling(temperature=1e-40, seed=0))):
        with pytest.raises(UserError, match="NaN"):
            engine.generate([bad], sampling)
    while engine.step():
        pass
    for done in (running.completion(), engine.generate([PROMPT], greedy)[0]):
        assert_same(done, alone(model, PROMPT, greedy, native))


OVERFLOWS = {
    "temperature": Sampling(seed=0, temperature=1e-40),
    "repetition": Sampling(seed=0, repetition_penalty=1e-300),
    "presence": Sampling(seed=0, presence_penalty=-1e308, max_tokens=3),
    "bias": Sampling(seed=0, logit_bias={30: 1e308}),
    "all forbidden": Sampling(seed=0, logit_bias=dict.fromkeys(range(269), -math.inf)),
}


@BOTH
@pytest.mark.parametrize("kind", OVERFLOWS)
def test_anybody_can_bring_it_about(kind: str, native: bool) -> None:
    """By a sampling that overflows: a text or an error; but the next request is as before."""
    engine = Engine(tiny_model(), TOKENIZER, native=native)
    before = engine.generate([PROMPT], GREEDY)[0]
    with contextlib.suppress(UserError):
        engine.generate([PROMPT], OVERFLOWS[kind])
    assert_same(engine.generate([PROMPT], GREEDY)[0], before)


@BOTH
def test_the_tokens_before_the_one_that_fails_are_not_kept_with_its_numbers(native: bool) -> None:
    """Nothing times NaN is NaN: in one pass of PyTorch's, tokens before it get NaN in the second layer. Their
    page is full, and nothing is drawn yet."""
    engine = Engine(broken_model(), TOKENIZER, native=native, step_tokens=20)
    prompt = PROMPT[:16]
    bad = engine.submit([*prompt, FATAL, *range(100, 140)], GREEDY)
    engine.step()
    engine.cancel(bad)
    assert_same(
        engine.generate([[*prompt, 30]], GREEDY)[0], alone(engine.model, [*prompt, 30], GREEDY, native)
    )


@BOTH
def test_scores_that_are_not_numbers_are_an_error_and_do_not_spoil_pages(native: bool) -> None:
    model = broken_model()
    engine = Engine(model, TOKENIZER, native=native, cache_tokens=64)
    with pytest.raises(UserError, match="NaN"):
        engine.score([[*PROMPT, FATAL, 30]], [[31]])
    for length in (1, 20, 40):
        prompt = [200 - i for i in range(length)]
        assert_same(engine.generate([prompt], GREEDY)[0], alone(model, prompt, GREEDY, native))


# ---- what goes wrong in the smaller model ----


@BOTH
def test_a_draft_that_fails_is_only_no_guess(native: bool) -> None:
    model = tiny_model()
    engine = Engine(model, TOKENIZER, draft=broken_model(), speculate=4, native=native)
    done = engine.generate([PROMPT, [*PROMPT, FATAL]], GREEDY)
    assert_same(done[0], alone(model, PROMPT, GREEDY, native))
    assert_same(done[1], alone(model, [*PROMPT, FATAL], GREEDY, native))


@BOTH
def test_a_draft_with_more_ids_guesses_none_that_the_model_lacks(native: bool) -> None:
    """Padded vocabularies differ among the sizes of a family. Or it is refused."""
    model = tiny_model()
    engine = Engine(model, TOKENIZER, draft=tiny_model(5, vocab_size=3000), speculate=4, native=native)
    assert_same(engine.generate([PROMPT], GREEDY)[0], alone(model, PROMPT, GREEDY, native))


@BOTH
def test_a_draft_without_room_does_not_guess(native: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(host_module, "free_memory", lambda device: 400_000)
    model, draft = tiny_model(), tiny_model(5, heads=16, kv_heads=16)
    engine = Engine(model, TOKENIZER, draft=draft, speculate=4, cache_tokens=4096, native=native)
    assert len(engine.generate([PROMPT * 5], GREEDY)[0].tokens) == 8


# ---- weights of another dtype ----


@BOTH
@pytest.mark.parametrize("how", ["load", "in place"])
def test_weights_of_another_dtype(how: str, native: bool) -> None:
    model = tiny_model()
    engine = Engine(model, TOKENIZER, native=native)
    engine.generate([PROMPT], GREEDY)
    if how == "load":
        model = tiny_model(4).to(torch.bfloat16)
        engine.load(model)
    else:
        model.to(torch.bfloat16)
    done = engine.generate([PROMPT], GREEDY)[0]
    assert engine.dtype == torch.bfloat16
    assert done == alone(model, PROMPT, GREEDY, native)


# ---- an engine first used in inference mode ----


@BOTH
@pytest.mark.parametrize("dtype", [None, torch.bfloat16], ids=str)
def test_first_used_in_inference_mode(dtype: torch.dtype | None, native: bool) -> None:
    model = broken_model()
    with torch.inference_mode():
        engine = Engine(model, TOKENIZER, native=native, dtype=dtype)
        engine.generate([PROMPT], GREEDY)
    with torch.no_grad():
        model.head_weight.mul_(1.1)
    engine.generate([PROMPT], GREEDY)
    with pytest.raises(UserError, match="NaN"):
        engine.generate([[*PROMPT, FATAL]], GREEDY)


# ---- what a request finds when it comes to it ----


@BOTH
def test_a_stream_that_no_longer_fits_is_refused(native: bool) -> None:
    engine = Engine(tiny_model(), TOKENIZER, native=native)
    stream = engine.stream([20] * 300, GREEDY)
    engine.load(tiny_model(max_position=32))
    with pytest.raises(UserError, match="context of 32"):
        list(stream)


@BOTH
def test_a_prompt_is_as_it_was_asked(native: bool) -> None:
    engine = Engine(tiny_model(), TOKENIZER, native=native)
    prompt = list(PROMPT)
    request = engine.submit(prompt, GREEDY)
    prompt[5:] = [268] * 3
    while engine.step():
        pass
    assert_same(request.completion(), alone(engine.model, PROMPT, GREEDY, native))


def test_a_prompt_is_any_row_of_whole_numbers() -> None:
    engine = Engine(tiny_model(), TOKENIZER)
    expected = engine.generate([PROMPT], GREEDY)
    for prompt in (np.array(PROMPT), torch.tensor(PROMPT), tuple(PROMPT)):
        assert engine.generate([prompt], GREEDY) == expected  # pyright: ignore[reportArgumentType]
        assert engine.score([prompt], [prompt[:2]])[0]  # pyright: ignore[reportArgumentType]
    for prompt in ([1.5], ["a"], "text", [[1, 2]], torch.zeros(2, 2), [1 << 80], None):
        with pytest.raises(UserError, match="not a row of token ids"):
            engine.generate([prompt], GREEDY)  # pyright: ignore[reportArgumentType]


def test_threads_may_cancel_while_a_step_runs() -> None:
    engine = Engine(tiny_model(), TOKENIZER)
    requests = [engine.submit(PROMPT[: i % 20 + 1], Sampling(max_tokens=200, seed=i)) for i in range(60)]

    def cancel() -> None:
        for request in requests[::2]:
            engine.cancel(request)
            time.sleep(0.001)

    other = threading.Thread(target=cancel)
    other.start()
    while engine.step():
        pass
    other.join()
    assert all(request.stop_reason is not None for request in requests)
    assert engine.stats.pages == 0
    for i in range(1, 60, 2):
        expected = engine.generate([PROMPT[: i % 20 + 1]], Sampling(max_tokens=200, seed=i))[0]
        assert requests[i].completion() == expected


# ---- where it runs ----


def test_autocast_does_not_reach_it() -> None:
    engine = Engine(tiny_model(), TOKENIZER, native=False)
    with torch.autocast("cpu", torch.bfloat16):
        done = engine.generate([PROMPT], GREEDY)[0]
    assert_same(done, alone(engine.model, PROMPT, GREEDY, native=False))


@BOTH
@pytest.mark.parametrize("dtype", [torch.float16, torch.float64], ids=str)
def test_dtypes_that_the_native_pass_does_not_know_run_with_pytorch(dtype: torch.dtype, native: bool) -> None:
    model = tiny_model()
    expected = alone(model, PROMPT, GREEDY, native=False)
    engine = Engine(model.to(dtype), TOKENIZER, native=native)
    assert not engine.native
    assert engine.generate([PROMPT], GREEDY)[0].tokens == expected.tokens
    if native and native_library() is not None:
        packed = Engine(model, TOKENIZER, dtype=torch.float32)
        assert packed.native
        assert packed.generate([PROMPT], GREEDY)[0].tokens == expected.tokens


@needs_native
def test_a_model_that_is_refused_is_not_half_loaded() -> None:
    model = tiny_model()
    engine = Engine(model, TOKENIZER, dtype="int8")
    before = engine.generate([PROMPT], GREEDY)
    with pytest.raises(UserError, match="int8"):
        engine.load(tiny_model(rope=DynamicRope(factor=2)))
    assert engine.model is model
    assert engine.generate([PROMPT], GREEDY) == before


def test_counts_are_since_the_engine_was_made() -> None:
    engine = Engine(tiny_model(), TOKENIZER)
    engine.generate([PROMPT], GREEDY)
    engine.generate([PROMPT], GREEDY)
    reused = engine.stats.reused
    assert reused > 0
    engine.load(tiny_model(layers=1))
    assert engine.stats.reused == reused


@needs_native
def test_scores_are_the_same_to_the_bit_in_large_vocabularies() -> None:
    """logsumexp of a single row is summed by several threads, of more rows it is not."""
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        engine = Engine(tiny_model(vocab_size=151_936), TOKENIZER)
        prompts = [[20 + i, 30, 40] for i in range(60)]
        together = engine.score(prompts, [[50]] * 60)
        assert together == [engine.score([prompt], [[50]])[0] for prompt in prompts]
    finally:
        torch.set_num_threads(before)


@BOTH
def test_the_first_alternative_is_the_token_in_ties(native: bool) -> None:
    model = tiny_model(tie_embeddings=False)
    with torch.no_grad():
        model.head_weight[100:200] = model.head_weight[100]
    sampling = replace(GREEDY, alternatives=3, logit_bias=dict.fromkeys(range(100, 200), 50.0))
    done = alone(model, PROMPT, sampling, native)
    assert done.tokens == (100,) * 8
    assert [[token for token, _ in found] for found in done.alternatives] == [[100, 101, 102]] * 8


@needs_native
@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork")
def test_the_child_of_a_fork_has_threads_too() -> None:
    code = """
import os, signal, time, torch
from publius.inference.engine import Engine, Sampling
from publius.testing import byte_tokenizer, tiny_model
torch.set_num_threads(2)
engine, sampling = Engine(tiny_model(), byte_tokenizer()), Sampling(max_tokens=20, seed=0)
expected = engine.generate([[1, 2, 3]], sampling)
child = os.fork()
if not child:
    os._exit(int(any(engine.generate([[1, 2, 3]], sampling) != expected for _ in range(60))))
for _ in range(300):
    time.sleep(0.1)
    done, status = os.waitpid(child, os.WNOHANG)
    if done:
        raise SystemExit(status)
os.kill(child, signal.SIGKILL)
raise SystemExit("it hangs")
"""
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr


@BOTH
def test_weights_that_were_assigned(native: bool) -> None:
    model, other = tiny_model(), tiny_model(9)
    engine = Engine(model, TOKENIZER, native=native)
    engine.generate([PROMPT], GREEDY)
    model.load_state_dict(other.state_dict(), assign=True)
    assert_same(engine.generate([PROMPT], GREEDY)[0], alone(other, PROMPT, GREEDY, native))


@BOTH
def test_the_more_urgent_gets_pages_too(native: bool) -> None:
    engine = Engine(tiny_model(), TOKENIZER, native=native, cache_tokens=64, max_batch=4)
    low = engine.submit(list(range(20, 60)), replace(GREEDY, max_tokens=20))
    engine.step()
    high = engine.submit(list(range(100, 140)), replace(GREEDY, max_tokens=2), priority=9)
    while high.stop_reason is None:
        engine.step()
    assert low.stop_reason is None
    while engine.step():
        pass
    assert_same(low.completion(), alone(engine.model, list(range(20, 60)), low.sampling, native))


@BOTH
def test_an_id_that_only_the_model_has_is_no_text(native: bool) -> None:
    """Checkpoints are padded: such an id can be drawn, and says nothing."""
    model = tiny_model(vocab_size=TOKENIZER.vocab_size + 40)
    engine = Engine(model, TOKENIZER, native=native)
    spare = TOKENIZER.vocab_size + 3
    odd = replace(GREEDY, logit_bias={spare: 100.0}, stop=("x",))
    alone = engine.generate([PROMPT], GREEDY)[0]
    drawn, beside = engine.generate([PROMPT, PROMPT], [odd, GREEDY])
    assert drawn.tokens == (spare,) * 8 and beside.tokens == alone.tokens
    assert TOKENIZER.id_bytes(spare) == b""


def test_a_fault_in_taking_one_token_ends_one_request(monkeypatch: pytest.MonkeyPatch) -> None:
    engine = Engine(tiny_model(), TOKENIZER)
    alone = engine.generate([PROMPT], GREEDY)[0]
    taken = Request.add

    def broken(request: Request, *given: object) -> bool:
        if request.stream == 7:
            raise RuntimeError("broken")
        return taken(request, *given)  # type: ignore[arg-type]

    monkeypatch.setattr(Request, "add", broken)
    bad, good = Request(PROMPT, GREEDY, stream=7), Request(PROMPT, GREEDY)
    with pytest.raises(UserError, match="could not be taken: RuntimeError: broken"):
        engine.complete([bad, good])
        bad.completion()
    assert tuple(good.tokens) == alone.tokens
    assert engine.stats.pages == 0
