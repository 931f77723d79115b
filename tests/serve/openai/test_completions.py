"""Text completions: prompts in four shapes, echo with log-probabilities as lm-eval reads them."""

from __future__ import annotations

from typing import Any

import httpx2
import openai
import pytest
import torch

from publius.serve.server import Server
from publius.testing import byte_tokenizer, tiny_model

TOKENIZER = byte_tokenizer()
LETTERS = frozenset(TOKENIZER.encode("abcdefghijklmnopqrstuvwxyz "))
GREEDY: dict[str, Any] = {
    "model": "tiny",
    "temperature": 0,
    "max_tokens": 6,
    "logit_bias": {str(token): -100 for token in range(269) if token not in LETTERS},
}
ROWS = [
    [1, *TOKENIZER.encode("the mill")],
    [1, *TOKENIZER.encode("owls")],
    [*TOKENIZER.encode("grain\u00fc")],
]
EVAL: dict[str, Any] = {
    "model": "tiny", "prompt": ROWS, "temperature": 0, "max_tokens": 1, "logprobs": 1, "echo": True,
    "seed": 1234,
}  # fmt: skip
"""What lm-eval sends."""


def post(url: str, body: dict[str, Any]) -> dict[str, Any]:
    answer = httpx2.post(
        f"{url}/v1/completions", json=body, headers={"authorization": "Bearer k"}, timeout=60
    )
    assert answer.status_code == 200, answer.text
    return answer.json()


def test_the_four_shapes_of_a_prompt(client: openai.OpenAI) -> None:
    text = "the mill"
    ids = TOKENIZER.encode(text)

    def said(prompt: Any, **more: Any) -> list[str]:
        done = client.completions.create(**GREEDY, prompt=prompt, **more)
        assert [choice.index for choice in done.choices] == list(range(len(done.choices)))
        return [choice.text for choice in done.choices]

    (one,) = said(text)
    assert len(one) == 6 and said([text, "owls"])[0] == one
    assert said([1, *ids]) == said([[1, *ids]]) == [one]
    assert said(ids) == said(text, extra_body={"add_special_tokens": False})
    done = client.completions.create(**GREEDY, prompt=[text, "owls"], n=2)
    assert [choice.text for choice in done.choices] == [one, one, *said(["owls", "owls"])]
    assert done.usage is not None and done.usage.prompt_tokens == 9 + 5
    assert done.usage.completion_tokens == 24


def test_what_lm_eval_reads_is_what_the_model_says(url: str) -> None:
    choices = post(url, EVAL)["choices"]
    model = tiny_model(0)
    for row, choice in zip(ROWS, choices, strict=True):
        found = choice["logprobs"]
        assert all(len(array) == len(row) + 1 for array in found.values())
        assert found["token_logprobs"][0] is None and found["top_logprobs"][0] is None
        with torch.inference_mode():
            logp_TV = model(torch.tensor([row]))[0].float().log_softmax(-1)
        for place, token in enumerate(row[1:], 1):
            value, top = found["token_logprobs"][place], found["top_logprobs"][place]
            assert value == pytest.approx(logp_TV[place - 1, token].item(), abs=1e-4)
            greedy = bool(logp_TV[place - 1].argmax() == token)
            assert (value == max(top.values())) is greedy  # exactly equal, as lm-eval asks
            assert max(top.values()) == pytest.approx(logp_TV[place - 1].max().item(), abs=1e-4)
        assert found["token_logprobs"][-1] == max(found["top_logprobs"][-1].values())  # drawn greedily


def test_a_greedy_continuation_is_seen_as_greedy(url: str) -> None:
    said = post(url, {**EVAL, "prompt": ROWS[:1], "max_tokens": 12})["choices"][0]["logprobs"]
    assert len(said["tokens"]) > len(ROWS[0])
    shown = post(url, {**EVAL, "prompt": "mill", "max_tokens": 8, "logprobs": 3})["choices"][0]["logprobs"]
    assert all(len(top) in (3, 4) for top in shown["top_logprobs"][1:])
    greedy = post(url, {"model": "tiny", "prompt": ROWS[0], "temperature": 0, "max_tokens": 8, "logprobs": 1})
    names = greedy["choices"][0]["logprobs"]["tokens"]
    ids = [next(i for i in range(269) if _name(i) == name) for name in names]
    again = post(url, {**EVAL, "prompt": [ROWS[0] + ids]})["choices"][0]["logprobs"]
    start = len(ROWS[0])
    for value, top in zip(again["token_logprobs"][start:-1], again["top_logprobs"][start:-1], strict=True):
        assert value == max(top.values())


def _name(token: int) -> str:
    special = {i: name for name, i in TOKENIZER.special.items()}
    raw = TOKENIZER.id_bytes(token)
    try:
        return special.get(token) or raw.decode()
    except UnicodeDecodeError:
        return "bytes:" + "".join(f"\\x{byte:02x}" for byte in raw)


def test_halves_of_characters_have_names_of_their_own(url: str) -> None:
    found = post(url, {**EVAL, "prompt": [ROWS[2]], "logprobs": 20})["choices"][0]["logprobs"]
    assert found["tokens"][5:7] == ["bytes:\\xc3", "bytes:\\xbc"]
    for top in found["top_logprobs"][1:]:
        assert len(top) in (20, 21)  # no two tokens under one name


def test_nothing_new_is_asked_for(url: str) -> None:
    for body in ({**EVAL, "max_tokens": 0}, {**EVAL, "max_tokens": 0, "logprobs": 0}):
        for row, choice in zip(ROWS, post(url, body)["choices"], strict=True):
            assert choice["text"] == TOKENIZER.decode(row) and choice["finish_reason"] == "length"
            assert len(choice["logprobs"]["token_logprobs"]) == len(row)
    plain = post(url, {"model": "tiny", "prompt": "x", "max_tokens": 0})["choices"][0]
    assert plain["text"] == "" and plain["logprobs"] is None


def test_a_text_is_a_document_and_its_echo_the_text(url: str) -> None:
    asked = {**EVAL, "prompt": "the mill", "max_tokens": 2}
    body = post(url, asked)
    assert body["usage"]["prompt_tokens_details"]["cached_tokens"] == 0  # all of it was read, to be scored
    (choice,) = body["choices"]
    assert choice["text"].startswith("the mill") and body["usage"]["prompt_tokens"] == 9
    shown, by_ids = choice["logprobs"], post(url, {**asked, "prompt": ROWS[:1]})["choices"][0]["logprobs"]
    assert shown["tokens"] == by_ids["tokens"][1:] and shown["token_logprobs"][0] is None
    assert shown["token_logprobs"][1:] == by_ids["token_logprobs"][2:]
    assert shown["text_offset"][:8] == list(range(8))
    assert by_ids["text_offset"][:3] == [0, len("<|bos|>"), len("<|bos|>") + 1]


def test_a_stream_is_the_whole_in_pieces(client: openai.OpenAI, url: str) -> None:
    asked: dict[str, Any] = {**GREEDY, "prompt": ["the mill", "owls"], "echo": True, "logprobs": 2}
    whole = post(url, asked)
    texts, values = ["", ""], [list[Any](), list[Any]()]
    offsets: list[list[int]] = [[], []]
    finish: list[Any] = [None, None]
    *said, last = client.completions.create(**asked, stream=True, stream_options={"include_usage": True})
    for chunk in said:
        assert chunk.usage is None
        (part,) = chunk.choices
        texts[part.index] += part.text
        finish[part.index] = part.finish_reason or finish[part.index]
        if part.logprobs is not None:
            values[part.index] += part.logprobs.token_logprobs or []
            offsets[part.index] += part.logprobs.text_offset or []
    assert last.choices == [] and last.usage is not None
    assert last.usage.model_dump(exclude_none=True)["completion_tokens"] == 12
    for index, choice in enumerate(whole["choices"]):
        assert texts[index] == choice["text"] and finish[index] == choice["finish_reason"] == "length"
        assert values[index] == choice["logprobs"]["token_logprobs"]
        assert offsets[index] == choice["logprobs"]["text_offset"]


def test_a_stop_text_ends_it(client: openai.OpenAI) -> None:
    whole = client.completions.create(**GREEDY, prompt="owls").choices[0].text
    done = client.completions.create(**GREEDY, prompt="owls", stop=whole[3]).choices[0]
    assert done.text == whole[: whole.index(whole[3])] and done.finish_reason == "stop"


def test_what_a_monitor_blocks_is_not_scored(url: str) -> None:
    (choice,) = post(url, {**EVAL, "prompt": "xyzzy"})["choices"]
    assert choice["finish_reason"] == "content_filter" and choice["text"] == "xyzzy"
    assert choice["logprobs"]["token_logprobs"] == [None] * 5


@pytest.mark.parametrize(
    ("change", "param"),
    [
        ({"prompt": []}, "prompt"),
        ({"prompt": [[]]}, "prompt[0]"),
        ({"prompt": [1, 2000]}, "prompt[1]"),
        ({"prompt": [[1], [1, "a"]]}, "prompt[1][1]"),
        ({"prompt": [1, True]}, "prompt[1]"),
        ({"prompt": [{}]}, "prompt[0]"),
        ({"prompt": 5}, "prompt"),
        ({"prompt": ["a"] * 1025}, "prompt"),
        ({"prompt": ["a"] * 600, "n": 2}, "n"),
        ({"prompt": "a", "suffix": "b"}, "suffix"),
        ({"prompt": "a", "best_of": 3}, "best_of"),
        ({"prompt": "a", "logprobs": 21}, "logprobs"),
    ],
)
def test_what_is_wrong_is_named(client: openai.OpenAI, change: Any, param: str) -> None:
    with pytest.raises(openai.BadRequestError) as told:
        client.completions.create(**{**GREEDY, **change})
    assert told.value.param == param


def test_too_long_is_said_once_whether_scored_or_not(client: openai.OpenAI, server: Server) -> None:
    for echo in (False, True):
        with pytest.raises(openai.BadRequestError, match="600 tokens > 511 maximum") as told:
            client.completions.create(**GREEDY, prompt=[20] * 600, echo=echo, logprobs=1)
        assert told.value.code == "context_length_exceeded"
    longest = client.completions.create(
        **{**GREEDY, "max_tokens": 1}, prompt=[20] * 511, echo=True, logprobs=1
    )
    logprobs = longest.choices[0].logprobs
    assert logprobs is not None and len(logprobs.tokens or ()) == 512
