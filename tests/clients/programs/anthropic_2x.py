"""What only the 2.x line of the `anthropic` package does: threads, the tool runner on them, parse."""

from __future__ import annotations

from typing import Literal

import anthropic
import pydantic
from anthropic import beta_tool
from anthropic_text import client_of
from setting import WEATHER, Setting, ask, raw

THREADS = "message-threads-2026-08-12"


def check_it_is_a_2x(setting: Setting) -> None:
    assert int(anthropic.__version__.split(".")[0]) >= 2


def check_threads_are_implemented_or_refused_by_code(setting: Setting) -> None:
    body = {"model": setting.model, "max_tokens": 5, "messages": ask(), "thread": {"type": "create"}}
    answer = raw(setting, "POST", "/v1/messages?beta=true", body, version="2026-10-21")
    if answer.status != 200:
        assert answer.status == 400
        assert answer.json()["error"]["details"]["error_code"] == "thread_unsupported_request"
        try:
            client_of(setting).beta.messages.create(
                model=setting.model, max_tokens=5, messages=ask(), thread={"type": "create"}, betas=[THREADS]
            )
        except anthropic.APIStatusError as error:
            assert type(error).__name__ == "ThreadUnsupportedRequestError"
        else:
            raise AssertionError


def check_a_thread_that_is_lost(setting: Setting) -> None:
    lost = {"type": "continue", "previous_message_id": "msg_0000000000"}
    body = {"model": setting.model, "max_tokens": 5, "messages": ask(), "thread": lost}
    answer = raw(setting, "POST", "/v1/messages?beta=true", body, version="2026-10-21")
    code = answer.json()["error"]["details"]["error_code"]
    assert (answer.status, code) in ((404, "thread_not_found"), (400, "thread_unsupported_request"))


@beta_tool
def weather(place: Literal["mill", "river"], days: Literal[1, 2, 3]) -> str:
    """The weather at a place."""
    assert place in ("mill", "river") and days in (1, 2, 3)
    return "rain"


def check_the_tool_runner(setting: Setting) -> None:
    runner = client_of(setting).beta.messages.tool_runner(
        model=setting.model, max_tokens=150, messages=ask(), tools=[weather], tool_choice={"type": "any"},
        max_iterations=3,
    )  # fmt: skip
    said = list(runner)
    assert len(said) == 3 and all(message.stop_reason == "tool_use" for message in said)
    assert said[1].usage.input_tokens > said[0].usage.input_tokens, "the history was lost on the way"


def check_the_tool_runner_streams(setting: Setting) -> None:
    runner = client_of(setting).beta.messages.tool_runner(
        model=setting.model, max_tokens=150, messages=ask(), tools=[weather], tool_choice={"type": "any"},
        max_iterations=2, stream=True,
    )  # fmt: skip
    finals = []
    for stream in runner:
        for _ in stream:
            pass
        finals.append(stream.get_final_message())
    assert len(finals) == 2 and finals[1].usage.input_tokens > finals[0].usage.input_tokens


class Weather(pydantic.BaseModel):
    place: Literal["mill", "river"]
    days: Literal[1, 2, 3]


def check_parse(setting: Setting) -> None:
    message = client_of(setting).messages.parse(
        model=setting.model, max_tokens=150, messages=ask(), output_format=Weather
    )
    assert isinstance(message.parsed_output, Weather)
    with client_of(setting).messages.stream(
        model=setting.model, max_tokens=150, messages=ask(), output_format=Weather
    ) as stream:
        assert isinstance(stream.get_final_message().parsed_output, Weather)


def check_the_key_goes_as_bearer(setting: Setting) -> None:
    seen: dict[str, str] = {}
    hooks = {"request": [lambda request: seen.update(request.headers)]}
    http = anthropic.DefaultHttpxClient(event_hooks=hooks)
    with anthropic.Anthropic(base_url=setting.url, api_key=setting.key, http_client=http) as client:
        client.messages.create(model=setting.model, max_tokens=2, messages=ask())
    assert seen["authorization"] == f"Bearer {setting.key}" and seen["anthropic-version"] == "2026-10-21"


def check_tools_of_the_beta_namespace(setting: Setting) -> None:
    message = client_of(setting).beta.messages.create(
        model=setting.model, max_tokens=120, messages=ask(), tools=[WEATHER], tool_choice={"type": "any"},
        betas=["context-management-2025-06-27"], context_management={"edits": []},
    )  # fmt: skip
    assert message.stop_reason == "tool_use"
