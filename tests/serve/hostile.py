"""Bodies that no honest client sends: valid ones with parts replaced, cut, torn, or made of nothing."""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator
from typing import Any

from hypothesis import strategies as st

__all__ = ["PATHS", "hostile", "valid"]

SCHEMA = {"type": "object", "properties": {"a": {"enum": [1, 2]}}, "required": ["a"]}
CACHED = {"type": "ephemeral"}
CALL = {"type": "tool_use", "id": "toolu_1", "name": "t", "input": {"a": 1}}
MESSAGES: dict[str, Any] = {
    "model": "publius-haiku", "max_tokens": 3, "system": "s", "temperature": 0.5, "top_p": 0.9, "top_k": 5,
    "stop_sequences": ["x"], "metadata": {"user_id": "u"}, "stream": False,
    "messages": [
        {"role": "user", "content": [{"type": "text", "text": "hello", "cache_control": CACHED}]},
        {"role": "assistant", "content": [CALL]},
        {"role": "user", "content": [{"type": "tool_result", "tool_use_id": "toolu_1", "content": "r"}]},
    ],
    "tools": [{"name": "t", "description": "d", "input_schema": SCHEMA}],
    "tool_choice": {"type": "auto"},
}  # fmt: skip
THINKING = {
    **{k: v for k, v in MESSAGES.items() if k not in ("tools", "tool_choice", "messages")},
    "messages": [{"role": "user", "content": "hello"}],
    "max_tokens": 1100, "thinking": {"type": "enabled", "budget_tokens": 1024},
    "output_config": {"format": {"type": "json_schema", "schema": SCHEMA}},
}  # fmt: skip
CHAT: dict[str, Any] = {
    "model": "publius-haiku", "max_tokens": 3, "n": 1, "seed": 1, "stop": ["x"], "logprobs": True,
    "top_logprobs": 2, "temperature": 0.5, "stream_options": {"include_usage": True}, "stream": True,
    "messages": [
        {"role": "system", "content": "s"}, {"role": "user", "content": [{"type": "text", "text": "hello"}]},
        {
            "role": "assistant", "content": None,
            "tool_calls": [{"id": "c", "type": "function", "function": {"name": "t", "arguments": "{}"}}],
        },
        {"role": "tool", "tool_call_id": "c", "content": "r"},
    ],
    "tools": [{"type": "function", "function": {"name": "t", "description": "d", "parameters": SCHEMA}}],
    "response_format": {"type": "text"}, "logit_bias": {"20": 1.0}, "frequency_penalty": 0.1,
}  # fmt: skip
TEXT: dict[str, Any] = {
    "model": "publius-haiku", "prompt": [[20, 21, 22]], "max_tokens": 2, "echo": True, "logprobs": 2, "n": 1,
    "seed": 1, "stop": None, "temperature": 0, "stream": False,
}  # fmt: skip
INVOKE = {
    **{k: v for k, v in MESSAGES.items() if k not in ("model", "stream")},
    "anthropic_version": "bedrock-2023-05-31",
}
CONVERSE: dict[str, Any] = {
    "messages": [{"role": "user", "content": [{"text": "hello"}]}], "system": [{"text": "s"}],
    "inferenceConfig": {"maxTokens": 3, "temperature": 0.5, "topP": 0.9, "stopSequences": ["x"]},
    "toolConfig": {
        "tools": [{"toolSpec": {"name": "t", "inputSchema": {"json": SCHEMA}}}], "toolChoice": {"auto": {}}
    },
    "additionalModelRequestFields": {"top_k": 5}, "additionalModelResponseFieldPaths": ["/stop_sequence"],
}  # fmt: skip
BATCH = {"requests": [{"custom_id": "c", "params": {**MESSAGES, "max_tokens": 2}}]}

PATHS: dict[str, tuple[dict[str, Any], ...]] = {
    "/v1/messages": (MESSAGES, THINKING),
    "/v1/messages?beta=true": ({**MESSAGES, "stream": True}, {**THINKING, "stream": True}),
    "/anthropic/v1/messages": (MESSAGES,),
    "/v1/messages/count_tokens": (MESSAGES, THINKING),
    "/v1/messages/batches": (BATCH,),
    "/v1/chat/completions": (CHAT, {**CHAT, "stream": False}),
    "/v1/completions": (TEXT, {**TEXT, "prompt": "hello", "stream": True}),
    "/tokenize": ({"prompt": "hello", "add_special_tokens": False},),
    "/detokenize": ({"tokens": [20, 21]},),
    "/model/publius-haiku/invoke": (INVOKE,),
    "/model/publius-haiku/invoke-with-response-stream": (INVOKE,),
    "/model/publius-haiku/converse": (CONVERSE,),
    "/model/publius-haiku/converse-stream": (CONVERSE,),
    "/model/publius-haiku/count-tokens": ({"input": {"converse": CONVERSE}},),
}
"""Where bodies are sent, and whole ones to start from. What is not served is 404."""

ODD: tuple[Any, ...] = (
    None, True, False, 0, -1, 1, 3, 10**9, 2**31, 2**63, -(2**63), 10**30, 1e308, -1e-308, 0.5, "", " ",
    "\x00", "x", "publius-haiku", "<|end|>", "<|assistant|>", "\ufeff", "\U0001f989" * 9, "\u202e",
    "a" * 3000, "../../etc", "%2e%2e", "{}", "[]", [], {}, [[]], [{}], [None], {"": None}, {"type": "text"},
    {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": "!"}},
    {"type": "tool", "name": "t"}, {"type": "any"}, {"$ref": "#"}, {"$ref": "https://example.org/x"},
    {"type": "object", "properties": {"x": {"$ref": "#"}}}, {"anyOf": []}, {"enum": []},
    {"pattern": "(a+)+$"},
    {"type": "string", "minLength": 10**9}, {"type": "array", "minItems": 10**9}, ["x"] * 300,
)  # fmt: skip
TORN = (
    b"", b" ", b"{", b"}", b"[]", b"null", b"1", b'"x"', b"\xff\xfe\x00", b"\x00" * 99, b"{}" * 9,
    b'{"a":1,}',
    b'{"model":"\\ud800"}', b'{"messages": [' * 2000, b'{"max_tokens": 1e999}', b'{"max_tokens": NaN}',
    b'{"max_tokens": ' + b"9" * 5000 + b"}", b'{"a":' * 99 + b"1" + b"}" * 99, b"\xef\xbb\xbf{}",
    b'{"model": "publius-haiku", "model": 3}',
)  # fmt: skip


def places(value: Any, at: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Every place in a JSON value but the whole of it."""
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, one in inner:
        yield (*at, key)
        yield from places(one, (*at, key))


def put(value: Any, place: tuple[Any, ...], new: Any) -> None:
    """Replace what is at `place`; `...` takes it out. A place that is gone is left alone."""
    for key in place[:-1]:
        try:
            value = value[key]
        except (KeyError, IndexError, TypeError):
            return
    try:
        if new is ...:
            del value[place[-1]]
        else:
            value[place[-1]] = new
    except (KeyError, IndexError, TypeError):
        return


def at(value: Any, place: tuple[Any, ...]) -> Any:
    """What stands at `place`."""
    for key in place:
        value = value[key]
    return value


def alike(value: Any) -> st.SearchStrategy[Any]:
    """Another value of the same type: such a body gets further."""
    match value:
        case bool():
            return st.booleans()
        case int():
            return st.integers(0, 40)
        case float():
            return st.floats(0, 1)
        case str():
            return st.text(max_size=30) | st.just(value * 2)
        case list():
            return st.just(value + value[-1:]) | st.just(value[:-1]) | st.just(value[1:])
        case _:
            return st.just(...)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=8,
)


@st.composite
def valid(draw: st.DrawFn) -> tuple[str, dict[str, Any]]:
    """A path and a whole body."""
    path = draw(st.sampled_from(sorted(PATHS)))
    return path, copy.deepcopy(draw(st.sampled_from(PATHS[path])))


@st.composite
def hostile(draw: st.DrawFn) -> tuple[str, bytes, dict[str, str]]:
    """A path, a body, and further headers."""
    path, body = draw(valid())
    how = draw(st.sampled_from((*("alike",) * 5, *("change",) * 4, "cut", "torn", "any", "bytes")))
    if how == "torn":
        sent = draw(st.sampled_from(TORN))
    elif how == "any":
        sent = json.dumps(draw(JSON)).encode()
    elif how == "bytes":
        sent = draw(st.binary(max_size=200))
    else:
        for _ in range(draw(st.sampled_from((1, 1, 1, 2, 4)))):
            place = draw(st.sampled_from(list(places(body)) or [("model",)]))
            if how == "alike" and place in places(body):
                new = draw(alike(at(body, place)))
            else:
                new = draw(st.sampled_from((..., *ODD)) | JSON)
            put(body, place, copy.deepcopy(new))
        sent = json.dumps(body).encode()
        if how == "cut":
            sent = sent[: draw(st.integers(0, len(sent)))]
    return path, sent, draw(st.sampled_from(HEADERS))


HEADERS: tuple[dict[str, str], ...] = (
    {}, {}, {}, {}, {"content-type": "text/plain"}, {"content-type": "application/x-www-form-urlencoded"},
    {"content-type": ""}, {"anthropic-version": "2026-10-21"}, {"anthropic-version": "x" * 300},
    {"anthropic-beta": ",,," * 99}, {"accept": "image/png"}, {"content-encoding": "gzip"},
    {"expect": "100-continue"}, {"x-stainless-retry-count": "many"}, {"accept-language": "\u00e9" * 9},
)  # fmt: skip
