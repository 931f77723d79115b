"""Where the server under test is, and what all programs ask of it. Needs nothing but Python."""

from __future__ import annotations

import http.client
import json
import os
import re
import urllib.parse
from typing import Any, NamedTuple


class Setting(NamedTuple):
    """What a check gets to know."""

    url: str
    key: str
    model: str
    context: int
    facts: str = ""
    """A folder with what only the test process knows (what the engine itself says of a text)."""


class Raw(NamedTuple):
    """An answer as it came."""

    status: int
    headers: dict[str, str]
    text: str

    def json(self) -> Any:
        return json.loads(self.text)


def raw(
    setting: Setting,
    method: str,
    path: str,
    body: Any = None,
    *,
    headers: dict[str, str] | None = None,
    version: str = "2023-06-01",
) -> Raw:
    """A request as no client makes it. With `headers`, only those are sent."""
    if headers is None:
        headers = {"x-api-key": setting.key, "anthropic-version": version}
    where = urllib.parse.urlsplit(setting.url)
    connection = http.client.HTTPConnection(where.hostname or "", where.port, timeout=120)
    sent = body if body is None or isinstance(body, bytes) else json.dumps(body).encode()
    try:
        connection.request(method, path, sent, {"content-type": "application/json", **headers})
        response = connection.getresponse()
        found = {name.lower(): value for name, value in response.getheaders()}
        return Raw(response.status, found, response.read().decode("utf-8"))
    finally:
        connection.close()


def events(text: str) -> list[dict[str, Any]]:
    """The events of a Messages stream; every frame says its type twice, and nothing else is there."""
    found: list[dict[str, Any]] = []
    assert text.endswith("\n\n")
    for frame in text[:-2].split("\n\n"):
        lines = [line for line in frame.split("\n") if not line.startswith(":")]
        if not lines:
            continue
        assert len(lines) == 2 and lines[0].startswith("event: ") and lines[1].startswith("data: "), frame
        event = json.loads(lines[1].removeprefix("data: "))
        assert lines[0].removeprefix("event: ") == event["type"], frame
        found.append(event)
    return found


USAGE = {"input_tokens", "cache_creation_input_tokens", "cache_read_input_tokens", "output_tokens"}


def sane_message(message: dict[str, Any], *, model: str) -> None:
    """A whole Message as JSON: no key missing."""
    wanted = {"id", "type", "role", "model", "content", "stop_reason", "stop_sequence", "usage"}
    assert wanted <= set(message), message
    assert re.fullmatch(r"msg_[A-Za-z0-9]+", message["id"])
    assert (message["type"], message["role"], message["model"]) == ("message", "assistant", model)
    assert all(type(message["usage"][name]) is int for name in USAGE), message["usage"]


def grammar(found: list[dict[str, Any]], *, model: str) -> list[dict[str, Any]]:
    """Check the grammar of a stream; the blocks it was made of, each as the whole reply would have it."""
    found = [event for event in found if event["type"] != "ping"]
    kinds = [event["type"] for event in found]
    assert kinds[0] == "message_start" and kinds[-2:] == ["message_delta", "message_stop"], kinds
    start = found[0]["message"]
    sane_message(start, model=model)
    assert start["content"] == [] and start["stop_reason"] is None and start["stop_sequence"] is None
    assert start["usage"]["output_tokens"] <= 1
    blocks: list[dict[str, Any]] = []
    open_block, partial, signed = False, "", 0
    for event in found[1:-2]:
        kind = event["type"]
        if kind == "content_block_start":
            assert not open_block and event["index"] == len(blocks), event
            open_block, partial, signed = True, "", 0
            blocks.append(dict(event["content_block"]))
            _empty(blocks[-1])
        elif kind == "content_block_delta":
            assert open_block and event["index"] == len(blocks) - 1 and not signed, event
            delta, block = event["delta"], blocks[-1]
            match delta["type"]:
                case "text_delta":
                    block["text"] += delta["text"]
                case "thinking_delta":
                    block["thinking"] += delta["thinking"]
                case "signature_delta":
                    signed, block["signature"] = 1, delta["signature"]
                    assert delta["signature"]
                case "input_json_delta":
                    partial += delta["partial_json"]
                case other:
                    raise AssertionError(other)
        else:
            assert kind == "content_block_stop" and open_block and event["index"] == len(blocks) - 1, event
            open_block = False
            if blocks[-1]["type"] == "tool_use":
                blocks[-1]["input"] = json.loads(partial or "{}")
            if blocks[-1]["type"] == "thinking":
                assert signed
    assert not open_block
    end = found[-2]
    assert set(end["delta"]) >= {"stop_reason", "stop_sequence"} and end["delta"]["stop_reason"]
    for name in USAGE - {"output_tokens"}:
        assert end["usage"][name] == start["usage"][name], name
    return blocks


def _empty(block: dict[str, Any]) -> None:
    """A block opens without its content, and with all its keys."""
    match block["type"]:
        case "text":
            assert block["text"] == ""
        case "thinking":
            assert block["thinking"] == "" and block["signature"] == ""
        case "tool_use":
            assert block["input"] == {} and re.fullmatch(r"toolu_[A-Za-z0-9_-]{1,58}", block["id"])
            assert block["name"]
        case other:
            raise AssertionError(other)


def piece_of(text: str) -> str:
    """Some letters from the middle of `text` that are not its beginning."""
    for length in (4, 3, 2):
        for i in range(len(text) // 3, len(text) - length):
            piece = text[i : i + length]
            if piece.isascii() and piece.isprintable() and piece.strip() == piece and text.find(piece) > 0:
                return piece
    raise AssertionError(f"nothing to stop at in {text!r}")


WEATHER = {
    "name": "weather",
    "description": "the weather at a place",
    "input_schema": {
        "type": "object",
        "properties": {"place": {"enum": ["mill", "river"]}, "days": {"type": "integer", "enum": [1, 2, 3]}},
        "required": ["place", "days"],
        "additionalProperties": False,
    },
}
CLOCK = {
    "name": "clock",
    "description": "what time it is",
    "input_schema": {"type": "object", "properties": {}, "additionalProperties": False},
}


def valid_weather(given: Any) -> None:
    """`given` is valid against the schema of WEATHER."""
    assert isinstance(given, dict) and set(given) == {"place", "days"}, given
    assert given["place"] in ("mill", "river") and given["days"] in (1, 2, 3), given


def ask(text: str = "Who lives at the mill?") -> list[dict[str, Any]]:
    """One user message."""
    return [{"role": "user", "content": text}]


def setting_of(text: str) -> Setting:
    """From JSON; and with nothing in the environment that clients might take in its place."""
    for name in list(os.environ):
        if name.startswith(("ANTHROPIC_", "OPENAI_", "AWS_")):
            del os.environ[name]
    return Setting(*json.loads(text))
