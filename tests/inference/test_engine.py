"""The engine's stops, refusals, dtypes and sharing. That it computes the right thing: tests/laws."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from publius.core.errors import UserError
from publius.inference import engine as engine_module
from publius.inference.batch import Request
from publius.inference.engine import Engine
from publius.inference.sampler import Sampling
from publius.testing import byte_tokenizer, fake_engine, tiny_model

TOKENIZER = byte_tokenizer()
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
    monkeypatch.setattr(ENGINE.model, "hidden", None)
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


def test_shared_prefix_is_read_once(monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny_model()
    read: list[int] = []
    original = model.hidden

    def counted(tokens: torch.Tensor, **kw: object) -> torch.Tensor:
        read.append(tokens.numel())
        return original(tokens, **kw)  # pyright: ignore[reportArgumentType]

    monkeypatch.setattr(model, "hidden", counted)
    engine = Engine(model, TOKENIZER)
    prompts = [[1, *range(20, 120), 200 + i] for i in range(10)]
    engine.score(prompts, [[30]] * 10)
    assert sum(read) == 101 + 10
    read.clear()
    engine.generate(prompts, Sampling(max_tokens=1))
    assert sum(read) == 101 + 10
    read.clear()
    engine.score([prompts[0]] * 4, [[30], [31], [32], [33, 34]])  # the single-token answers share a read
    assert sum(read) == 101 + 2 * 2


def test_weights_are_shared_and_training_still_works() -> None:
    model = tiny_model()
    engine = Engine(model, TOKENIZER)
    assert engine.model is model
    before = engine.generate([PROMPT], GREEDY)[0].tokens
    loss = model(torch.tensor([PROMPT])).float().logsumexp(-1).mean()
    loss.backward()  # nothing the engine cached may be an inference tensor
    with torch.no_grad():
        model.model.embed_tokens.weight.copy_(tiny_model(9).model.embed_tokens.weight)
    assert engine.generate([PROMPT], GREEDY)[0].tokens != before


def test_a_cast_copy_is_refreshed_by_load() -> None:
    model, other = tiny_model(0), tiny_model(9)
    engine = Engine(model, TOKENIZER, dtype=torch.bfloat16)
    held = engine.model
    assert held is not model
    assert held.dtype == torch.bfloat16
    assert model.dtype == torch.float32
    engine.load(other)
    assert engine.model is held  # the same memory, new numbers
    expected = Engine(other, TOKENIZER, dtype=torch.bfloat16).generate([PROMPT], GREEDY)
    assert engine.generate([PROMPT], GREEDY) == expected
    engine.load(tiny_model(0, layers=1))
    assert engine.model.config.layers == 1


def test_auto_dtype_goes_by_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine_module, "compute_dtype", lambda device: torch.bfloat16)
    assert Engine(tiny_model(), TOKENIZER, dtype="auto", max_batch=64).model.dtype == torch.bfloat16
    assert Engine(tiny_model(), TOKENIZER, dtype="auto", max_batch=8).model.dtype == torch.float32


def test_blocks_compiled_by_the_trainer_run_eagerly() -> None:
    model = tiny_model()
    expected = Engine(model, TOKENIZER).generate([PROMPT], GREEDY)[0].tokens
    compiled: list[object] = []

    def backend(graph: object, inputs: object) -> object:
        compiled.append(graph)
        return graph

    for block in model.model.layers:
        block.compile(backend=backend)
    assert Engine(model, TOKENIZER).generate([PROMPT], GREEDY)[0].tokens == expected
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
