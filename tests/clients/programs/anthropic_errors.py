"""What goes wrong, by the classes of the `anthropic` package, any version of it."""

from __future__ import annotations

import json
import re
from typing import Any

import anthropic
from anthropic_text import VERSIONS, client_of
from setting import Raw, Setting, ask, raw

PIXEL = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="


def caught(setting: Setting, kind: type[anthropic.APIStatusError], **more: Any) -> str:
    """The message of the error that is expected, its body checked."""
    key = more.pop("key", setting.key)
    given = {"model": setting.model, "max_tokens": 5, "messages": ask(), **more}
    try:
        client_of(setting, key).messages.create(**given)
    except kind as error:
        body: Any = error.body
        assert body["type"] == "error" and set(body["error"]) >= {"type", "message"}, body
        assert body["request_id"] == error.response.headers["request-id"] == error.request_id
        return body["error"]["message"]
    raise AssertionError(f"no {kind.__name__}")


def whole(answer: Raw, status: int, kind: str) -> str:
    """The message of an error that came raw."""
    assert answer.status == status, (answer.status, answer.text)
    body = answer.json()
    assert body["type"] == "error" and body["error"]["type"] == kind, body
    assert body["request_id"] == answer.headers["request-id"]
    return body["error"]["message"]


def check_a_wrong_key(setting: Setting) -> None:
    caught(setting, anthropic.AuthenticationError, key="wrong")
    headers = {"anthropic-version": "2023-06-01"}
    body = {"model": setting.model, "max_tokens": 5, "messages": ask()}
    whole(raw(setting, "POST", "/v1/messages", body, headers=headers), 401, "authentication_error")


def check_an_unknown_model(setting: Setting) -> None:
    assert "none-such" in caught(setting, anthropic.NotFoundError, model="none-such")


def check_a_long_prompt(setting: Setting) -> None:
    said = caught(setting, anthropic.BadRequestError, messages=ask("a" * (setting.context + 10)))
    match = re.fullmatch(r"prompt is too long: (\d+) tokens > (\d+) maximum", said)
    assert match is not None, said
    assert int(match[1]) > int(match[2]) and int(match[1]) > setting.context


def check_missing_and_odd_fields(setting: Setting) -> None:
    good: dict[str, Any] = {"model": setting.model, "max_tokens": 5, "messages": ask()}
    for name in good:
        answer = raw(setting, "POST", "/v1/messages", {k: v for k, v in good.items() if k != name})
        assert whole(answer, 400, "invalid_request_error").startswith(name)
    odd: list[tuple[str, dict[str, Any]]] = [
        ("max_tokens", {"max_tokens": "many"}),
        ("max_tokens", {"max_tokens": -1}),
        ("messages", {"messages": []}),
        ("messages", {"messages": "hello"}),
        ("messages.0", {"messages": [{"role": "owl", "content": "x"}]}),
        ("messages.0", {"messages": [{"role": "user", "content": [{"type": "song"}]}]}),
        ("temperature", {"temperature": 3}),
        ("stop_sequences", {"stop_sequences": [" "]}),
        ("tools", {"tools": [{"name": "bare"}]}),
        ("thinking", {"thinking": {"type": "deep"}}),
        ("system", {"system": 3}),
    ]
    for begins, change in odd:
        said = whole(raw(setting, "POST", "/v1/messages", {**good, **change}), 400, "invalid_request_error")
        assert said.startswith(begins), (said, begins)


def check_the_version_must_be_known(setting: Setting) -> None:
    body = {"model": setting.model, "max_tokens": 5, "messages": ask()}
    for given in ({}, {"anthropic-version": "2020-01-01"}):
        answer = raw(setting, "POST", "/v1/messages", body, headers={"x-api-key": setting.key, **given})
        assert "anthropic-version" in whole(answer, 400, "invalid_request_error")


def check_bodies_that_are_none(setting: Setting) -> None:
    deep = b'{"a":' * 5000 + b"1" + b"}" * 5000
    bodies = [
        b"",
        b"[]",
        b"null",
        b"{",
        b'"x"',
        b"\xff\xfe",
        b"{}",
        deep,
        b'{"max_tokens": 1e999}',
        b'{"a": NaN}',
    ]
    for body in bodies:
        for path in ("/v1/messages", "/v1/messages/count_tokens"):
            answer = raw(setting, "POST", path, body)
            whole(answer, 400, "invalid_request_error")
    lone = json.dumps({"model": setting.model, "max_tokens": 5, "messages": ask("\ud800")}).encode()
    whole(raw(setting, "POST", "/v1/messages", lone), 400, "invalid_request_error")
    huge = {"model": setting.model, "max_tokens": 10**400, "messages": ask()}
    whole(raw(setting, "POST", "/v1/messages", huge), 400, "invalid_request_error")


def check_images_are_refused(setting: Setting) -> None:
    for source in (
        {"type": "base64", "media_type": "image/png", "data": PIXEL},
        {"type": "url", "url": "https://example.org/owl.png"},
    ):
        content = [{"type": "image", "source": source}, {"type": "text", "text": "What is this?"}]
        said = caught(setting, anthropic.BadRequestError, messages=[{"role": "user", "content": content}])
        assert "image" in said


def check_unknown_paths(setting: Setting) -> None:
    answer = raw(setting, "GET", "/v1/none_such")
    whole(answer, 404, "not_found_error")
    assert raw(setting, "GET", "/v1/messages").status in (400, 404, 405)
    assert raw(setting, "GET", "/v1/messages").json()["type"] == "error"


def check_errors_come_before_streams(setting: Setting) -> None:
    body = {"model": "none-such", "max_tokens": 5, "messages": ask(), "stream": True}
    for version in VERSIONS:
        whole(raw(setting, "POST", "/v1/messages", body, version=version), 404, "not_found_error")


def check_a_large_body(setting: Setting) -> None:
    body = json.dumps({"model": setting.model, "max_tokens": 5, "messages": ask("a" * (33 << 20))}).encode()
    try:
        answer = raw(setting, "POST", "/v1/messages", body)
    except (BrokenPipeError, ConnectionResetError):
        return  # refused before it was read to its end
    whole(answer, 413, "request_too_large")


def check_what_is_not_served_is_said(setting: Setting) -> None:
    for tool in (
        {"type": "web_search_20250305", "name": "web_search"},
        {"type": "computer_20250124", "name": "c"},
    ):
        body = {"model": setting.model, "max_tokens": 5, "messages": ask(), "tools": [tool]}
        said = whole(raw(setting, "POST", "/v1/messages", body), 400, "invalid_request_error")
        assert tool["type"].split("_2")[0] in said or "tools.0" in said
