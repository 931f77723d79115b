"""The engine's stops, refusals, dtypes and sharing. That it computes the right thing: tests/laws."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from publius.core.errors import UserError
from publius.inference import host as host_module
from publius.inference.engine import Completion, Engine
from publius.inference.host import Dtype
from publius.inference.native import library as native_library
from publius.inference.request import Request
from publius.inference.sampling import Sampling
from publius.testing import byte_tokenizer, fake_engine, tiny_model

TOKENIZER = byte_tokenizer()
BOTH = pytest.mark.parametrize("native", [True, False], ids=["native", "torch"])
needs_native = pytest.mark.skipif(native_library() is None, reason="no native pass")
ENGINE = fake_engine(0, max_batch=4)
PROMPT = [1, *TOKENIZER.encode("Hello")]
GREEDY = Sampling(max_tokens=12, temperature=0)


def test_order_lengths_and_no_prompts() -> None:
    prompts = [PROMPT[: n + 1] for n in (3, 0, 5, 1, 2, 4)]
    samplings = [replace(GREEDY, max_tokens=n + 1) for n in range(6)]
    done = ENGINE.generate(prompts, samplings)
    assert [len(c.tokens) for c in done] == [1, 2, 3, 4, 5, 6]
    assert all(len(c.logprobs) == len(c.tokens) and c.stop_reason == "max_tokens" for c in done)
    assert ENGINE.generate([], GREEDY) == []
    assert ENGINE.score([], []) == []


def test_stops_at_stop_ids_and_keeps_the_stop() -> None:
    whole = ENGINE.generate([PROMPT], GREEDY)[0].tokens
    at = next(i for i, token in enumerate(whole) if token not in whole[:i] and i >= 2)
    done = ENGINE.generate([PROMPT], replace(GREEDY, stop_ids=(whole[at],)))[0]
    assert done.tokens == whole[: at + 1]
    assert done.stop_reason == "end"
    assert done.stop_sequence is None


def test_the_end_token_always_stops() -> None:
    model = tiny_model(0)
    whole = ENGINE.generate([PROMPT], GREEDY)[0].tokens
    with torch.no_grad():  # make <|end|> behave like the second greedy token
        weight = model.model.embed_tokens.weight
        weight[TOKENIZER.end_id] = weight[whole[1]] * 1.5
    done = Engine(model, TOKENIZER).generate([PROMPT], GREEDY)[0]
    assert done.tokens[-1] == TOKENIZER.end_id
    assert done.stop_reason == "end"
    assert len(done.tokens) < 12


def request(text: str, *stop: str) -> Request:
    made = Request(PROMPT, Sampling(max_tokens=100, stop=stop))
    for token in TOKENIZER.encode(text):
        if made.add(token, -1.0, TOKENIZER):
            break
    return made


def test_stop_strings_cross_tokens_and_characters() -> None:
    done = request("say naïve things", "ïv").completion()
    assert done.stop_sequence == "ïv"
    assert done.stop_reason == "stop_sequence"
    assert TOKENIZER.decode(done.tokens) == "say naïv"
    assert request("aab", "ab").stop_sequence == "ab"
    assert request("abc", "bc", "abc").stop_sequence == "abc"  # the one that begins first
    assert request("abc", "bd").stop_reason is None


def test_a_special_token_parts_the_text() -> None:
    made = Request(PROMPT, Sampling(stop=("ab",)))
    for token in (*TOKENIZER.encode("a"), TOKENIZER.special["<|think|>"], *TOKENIZER.encode("b")):
        assert not made.add(token, 0.0, TOKENIZER)


def test_stop_string_in_generation() -> None:
    whole = ENGINE.generate([PROMPT], GREEDY)[0].tokens
    text = [TOKENIZER.id_bytes(token) for token in whole]
    pair = next(
        (text[i] + text[i + 1]).decode("ascii")
        for i in range(len(text) - 1)
        if (text[i] + text[i + 1]).isascii() and text[i] and text[i + 1]
    )
    done = ENGINE.generate([PROMPT], replace(GREEDY, stop=(pair,)))[0]
    assert done.stop_sequence == pair
    assert b"".join(text[: len(done.tokens)]).endswith(pair.encode())
    assert b"".join(text[: len(done.tokens) - 1]).find(pair.encode()) < 0


@pytest.mark.parametrize(
    ("prompts", "match"),
    [
        ([PROMPT, []], "empty(.|\n)*request 1"),
        ([PROMPT, PROMPT, [1, 269]], "id 269(.|\n)*request 2"),
        ([[1, -1]], "id -1(.|\n)*request 0"),
        ([PROMPT, [1] * 501], "501 tokens and 12 new ones exceed the context of 512(.|\n)*request 1"),
    ],
)
def test_bad_requests_are_refused_before_compute(
    prompts: list[list[int]], match: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ENGINE, "step", None)
    with pytest.raises(UserError, match=match):
        ENGINE.generate(prompts, GREEDY)
    with pytest.raises(UserError, match=match):
        ENGINE.score(prompts, [[20] * 13] * len(prompts))
    with pytest.raises(UserError, match="request 0"):
        ENGINE.stream(prompts[-1], GREEDY)


def test_mismatched_lists_and_bad_engines() -> None:
    with pytest.raises(UserError, match="1 prompts but 2 samplings"):
        ENGINE.generate([PROMPT], [GREEDY, GREEDY])
    with pytest.raises(UserError, match="1 prompts but 0 continuations"):
        ENGINE.score([PROMPT], [])
    with pytest.raises(UserError, match="the continuation holds id 999"):
        ENGINE.score([PROMPT], [[999]])
    with pytest.raises(UserError, match="max_batch"):
        Engine(tiny_model(), TOKENIZER, max_batch=0)
    with pytest.raises(UserError, match="the tokenizer has 269 ids, the model 100"):
        Engine(tiny_model(vocab_size=100), TOKENIZER)


def test_the_whole_context_can_be_used() -> None:
    done = ENGINE.generate([[1] * 500], GREEDY)[0]
    assert len(done.tokens) == 12


def test_a_model_gone_bad_is_named() -> None:
    model = tiny_model()
    torch.nn.init.constant_(model.model.norm.weight, float("nan"))
    for sampling in (GREEDY, Sampling()):
        with pytest.raises(UserError, match="NaN"):
            Engine(model, TOKENIZER).generate([PROMPT], sampling)


@needs_native
@pytest.mark.parametrize("dtype", [None, torch.bfloat16, "int8"])
@pytest.mark.parametrize("length", [5, 31, 32, 33])
def test_samples_that_read_their_prompt_once_are_what_each_alone_is(length: int, dtype: Dtype) -> None:
    """To the bit, though the page their prompt ends in is a copy; with as many rows as samples or fewer."""
    prompt = [5, *range(20, 19 + length)]
    sampling = Sampling(max_tokens=40, seed=3)

    def said(engine: Engine, streams: range) -> list[Completion]:
        requests = [Request(prompt, sampling, stream=stream) for stream in streams]
        engine.complete(requests)
        return [request.completion() for request in requests]

    alone = [said(Engine(tiny_model(), TOKENIZER, dtype=dtype), range(i, i + 1))[0] for i in range(5)]
    for rows in (2, 8):
        engine = Engine(tiny_model(), TOKENIZER, dtype=dtype, max_batch=rows)
        assert said(engine, range(5)) == alone
        assert engine.stats.reused == 4 * (length - 1)


@BOTH
def test_shared_prefix_is_read_once(native: bool) -> None:
    engine = Engine(tiny_model(), TOKENIZER, native=native)
    prompts = [
        [1, *range(20, 120), *[200 + i] * 2] for i in range(10)
    ]  # 103 tokens, 96 of them in whole pages
    engine.score(prompts, [[30]] * 10)
    assert engine.stats.read == 103 + 9 * 7
    assert engine.stats.reused == 9 * 96
    engine.generate(prompts, Sampling(max_tokens=1))  # all but the last token, from a copy
    assert engine.stats.read == 103 + 9 * 7 + 10
    assert engine.stats.reused == 9 * 96 + 10 * 102
    before = engine.stats.read
    engine.score([prompts[0]] * 4, [[30], [31], [32], [33, 34]])  # the single-token answers share a read
    assert engine.stats.read - before == 1 + 2
    assert engine.stats.pages == 0


@BOTH
def test_weights_are_shared_and_training_still_works(native: bool) -> None:
    model = tiny_model()
    engine = Engine(model, TOKENIZER, native=native)
    assert engine.model is model
    before = engine.generate([PROMPT], GREEDY)[0].tokens
    loss = model(torch.tensor([PROMPT])).float().logsumexp(-1).mean()
    loss.backward()  # nothing the engine cached may be an inference tensor
    torch.optim.AdamW(model.parameters(), lr=0.3).step()
    after = engine.generate([PROMPT], GREEDY)[0].tokens
    assert after != before
    assert after == Engine(model, TOKENIZER, native=native).generate([PROMPT], GREEDY)[0].tokens


@BOTH
def test_new_weights_in_the_middle_of_a_reply(native: bool) -> None:
    """What runs goes on with the new weights, over keys and values of the new weights."""
    model, other = tiny_model(0), tiny_model(9)
    engine = Engine(model, TOKENIZER, native=native)
    prompt = [1, *range(20, 60)]
    request = engine.submit(prompt, GREEDY)
    for _ in range(5):
        engine.step()
    begun = list(request.tokens)
    model.load_state_dict(other.state_dict())
    while engine.step():
        pass
    expected = Engine(other, TOKENIZER, native=native).generate(
        [[*prompt, *begun]], replace(GREEDY, max_tokens=12 - len(begun))
    )[0]
    assert request.tokens == [*begun, *expected.tokens]
    again, fresh = (
        e.generate([prompt], GREEDY)[0] for e in (engine, Engine(other, TOKENIZER, native=native))
    )
    assert again.tokens == fresh.tokens
    assert again.logprobs == pytest.approx(fresh.logprobs, abs=1e-5)


@BOTH
def test_another_dtype_follows_load(native: bool) -> None:
    model, other = tiny_model(0), tiny_model(9)
    engine = Engine(model, TOKENIZER, dtype=torch.bfloat16, native=native)
    assert engine.dtype == torch.bfloat16
    assert model.dtype == torch.float32
    engine.generate([PROMPT], GREEDY)
    engine.load(other)
    expected = Engine(other, TOKENIZER, dtype=torch.bfloat16, native=native).generate([PROMPT], GREEDY)
    assert engine.generate([PROMPT], GREEDY) == expected
    engine.load(tiny_model(0, layers=1))
    assert engine.model.config.layers == 1
    assert len(engine.generate([PROMPT], GREEDY)[0].tokens) == 12


def test_another_shape_is_refused_while_requests_run() -> None:
    engine = Engine(tiny_model(), TOKENIZER)
    request = engine.submit(PROMPT, GREEDY)
    with pytest.raises(UserError, match="while requests run"):
        engine.load(tiny_model(0, layers=1))
    engine.cancel(request)
    engine.load(tiny_model(0, layers=1))


def test_auto_dtype(monkeypatch: pytest.MonkeyPatch) -> None:
    """The native pass gains from bf16 at any size; PyTorch on CPU with rows."""
    monkeypatch.setattr(host_module, "compute_dtype", lambda device: torch.bfloat16)
    assert Engine(tiny_model(), TOKENIZER, dtype="auto", max_batch=64, native=False).dtype == torch.bfloat16
    assert Engine(tiny_model(), TOKENIZER, dtype="auto", max_batch=8, native=False).dtype == torch.float32
    if native_library() is not None:
        assert Engine(tiny_model(), TOKENIZER, dtype="auto", max_batch=1).dtype == torch.bfloat16
    monkeypatch.setattr(host_module, "compute_dtype", lambda device: torch.float32)
    assert Engine(tiny_model(), TOKENIZER, dtype="auto", max_batch=64).dtype == torch.float32


def test_int8_is_near_and_needs_the_native_pass() -> None:
    model = tiny_model(scale=1.0)
    with pytest.raises(UserError, match="int8"):
        Engine(model, TOKENIZER, dtype="int8", native=False)
    if native_library() is None:
        pytest.skip("no C++ compiler")
    engine = Engine(model, TOKENIZER, dtype="int8")
    assert engine.dtype == torch.int8
    exact = Engine(model, TOKENIZER).score([PROMPT], [[30, 40, 50]])[0]
    assert engine.score([PROMPT], [[30, 40, 50]])[0] == pytest.approx(exact, abs=0.05)


def test_an_int8_cache_is_near_and_needs_the_native_pass() -> None:
    if native_library() is None:
        with pytest.raises(UserError, match="int8 needs the native pass"):
            Engine(tiny_model(), TOKENIZER, cache_dtype="int8")
        return
    model = tiny_model()
    exact = Engine(model, TOKENIZER).score([PROMPT * 8], [[30, 40, 50]])[0]
    engine = Engine(model, TOKENIZER, cache_dtype="int8")
    assert engine.score([PROMPT * 8], [[30, 40, 50]])[0] == pytest.approx(exact, abs=0.1)
    assert engine.generate([PROMPT], GREEDY) == engine.generate([PROMPT], GREEDY)
    with pytest.raises(UserError, match="cache_dtype"):
        Engine(model, TOKENIZER, cache_dtype="int8", native=False)


@BOTH
def test_another_shape_gets_another_cache_though_nothing_has_run(native: bool) -> None:
    engine, other = Engine(tiny_model(), TOKENIZER, native=native), tiny_model(layers=6, head_dim=32)
    engine.cancel(engine.submit(PROMPT, GREEDY))
    engine.load(other)
    expected = Engine(other, TOKENIZER, native=native).generate([PROMPT], GREEDY)[0]
    assert engine.generate([PROMPT], GREEDY)[0].tokens == expected.tokens


def test_logits_are_fp32_whatever_the_default_dtype_is() -> None:
    model = tiny_model()
    engine = Engine(model, TOKENIZER)
    expected = engine.generate([PROMPT], GREEDY)
    for dtype in (torch.bfloat16, torch.float64):
        torch.set_default_dtype(dtype)
        try:
            assert engine.generate([PROMPT], GREEDY) == expected
        finally:
            torch.set_default_dtype(torch.float32)


def test_what_would_fail_at_every_step_is_refused_or_bounded() -> None:
    with pytest.raises(UserError, match=r"Sampling\.stop"):
        Sampling(stop=("\ud800",))
    huge, all_of_them = (Sampling(max_tokens=4, seed=1, top_k=k) for k in (10**30, 269))
    assert ENGINE.generate([PROMPT], huge) == ENGINE.generate([PROMPT], all_of_them)


def test_cancelled_requests_leave_nothing_behind() -> None:
    engine = Engine(tiny_model(), TOKENIZER, max_batch=1)
    running, waiting = engine.submit(PROMPT, GREEDY), engine.submit(PROMPT, GREEDY)
    engine.step()
    engine.step()
    engine.cancel(waiting)
    engine.cancel(running)
    assert not engine.step()
    assert (len(running.tokens), running.stop_reason) == (2, "cancelled")
    assert waiting.completion().tokens == ()
    assert engine.stats.pages == 0
    stream = engine.stream(PROMPT, GREEDY)
    next(stream)
    stream.close()
    assert engine.stats.pages == 0


def test_a_deadline_ends_a_request_with_what_it_has() -> None:
    engine = Engine(tiny_model(), TOKENIZER)
    late, other = engine.submit(PROMPT, GREEDY, seconds=0.0), engine.submit(PROMPT, GREEDY, seconds=100.0)
    while engine.step():
        pass
    assert late.stop_reason == "deadline"
    assert other.stop_reason == "max_tokens"


def test_what_cannot_fit_the_cache_is_refused_at_once() -> None:
    engine = Engine(tiny_model(), TOKENIZER, cache_tokens=64)
    with pytest.raises(UserError, match=r"exceed the cache of 64 tokens(.|\n)*request 1"):
        engine.generate([PROMPT, [1] * 60], GREEDY)
    assert engine.generate([[1] * 53], GREEDY)[0].stop_reason == "max_tokens"
    with pytest.raises(UserError, match="cache_tokens"):
        Engine(tiny_model(), TOKENIZER, cache_tokens=0)


def test_samples_are_many_and_the_likeliest_first() -> None:
    sampling = Sampling(max_tokens=6, seed=3)
    [five] = ENGINE.samples([PROMPT], sampling, 5)
    assert len({c.tokens for c in five}) == 5
    [best] = ENGINE.samples([PROMPT], sampling, 2, draws=5)
    means = sorted((sum(c.logprobs) / len(c.logprobs) for c in five), reverse=True)
    assert [sum(c.logprobs) / len(c.logprobs) for c in best] == means[:2]
    with pytest.raises(UserError, match=r"Engine\.samples"):
        ENGINE.samples([PROMPT], sampling, 3, draws=2)


def test_alternatives_come_with_every_token() -> None:
    [done] = ENGINE.generate([PROMPT], replace(GREEDY, alternatives=3))
    assert [len(a) for a in done.alternatives] == [3] * 12
    assert [a[0] for a in done.alternatives] == list(zip(done.tokens, done.logprobs, strict=True))
    assert all(a[0][1] >= a[1][1] >= a[2][1] for a in done.alternatives)


def test_biases_and_penalties_change_what_is_said() -> None:
    first = ENGINE.generate([PROMPT], GREEDY)[0].tokens
    assert len(set(first)) < 12
    banned = ENGINE.generate([PROMPT], replace(GREEDY, logit_bias={first[0]: float("-inf")}))[0].tokens
    assert first[0] not in banned
    fresh = ENGINE.generate([PROMPT], replace(GREEDY, presence_penalty=1000.0))[0].tokens
    assert len(set(fresh)) == 12


def test_blocks_compiled_by_the_trainer_run_eagerly() -> None:
    model = tiny_model()
    expected = Engine(model, TOKENIZER).generate([PROMPT], GREEDY)[0].tokens
    compiled: list[object] = []

    def backend(graph: object, inputs: object) -> object:
        compiled.append(graph)
        return graph

    for block in model.model.layers:
        block.compile(backend=backend)
    assert Engine(model, TOKENIZER, native=False).generate([PROMPT], GREEDY)[0].tokens == expected
    assert not compiled


def test_streams_do_not_disturb_each_other() -> None:
    sampling = Sampling(max_tokens=8, seed=1)
    expected = ENGINE.generate([PROMPT], sampling)[0]
    first, second = ENGINE.stream(PROMPT, sampling), ENGINE.stream(PROMPT, sampling)
    pairs = list(zip(first, second, strict=True))
    assert [a for a, _ in pairs] == [b for _, b in pairs] == list(expected.tokens)


def test_stream_returns_the_completion() -> None:
    sampling = Sampling(max_tokens=3, seed=1)
    stream = ENGINE.stream(PROMPT, sampling)
    with pytest.raises(StopIteration) as stop:
        while True:
            next(stream)
    assert stop.value.value == ENGINE.generate([PROMPT], sampling)[0]
