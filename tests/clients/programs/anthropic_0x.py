"""What the 0.x line of the `anthropic` package does otherwise: older version, `x-api-key`, temperature."""

from __future__ import annotations

import anthropic
import httpx
from anthropic_text import client_of, greedy, text_of
from anthropic_tools import TOOLS, calls_of
from setting import Setting, ask, valid_weather


def check_it_is_a_0x(setting: Setting) -> None:
    assert anthropic.__version__.startswith("0.")


def check_the_key_and_the_version_it_sends(setting: Setting) -> None:
    seen: dict[str, str] = {}
    http = httpx.Client(event_hooks={"request": [lambda request: seen.update(request.headers)]})
    with anthropic.Anthropic(base_url=setting.url, api_key=setting.key, http_client=http) as client:
        client.messages.create(model=setting.model, max_tokens=2, messages=ask())
    assert seen["x-api-key"] == setting.key and seen["anthropic-version"] == "2023-06-01"


def check_temperature(setting: Setting) -> None:
    message = client_of(setting).messages.create(
        model=setting.model, max_tokens=40, messages=ask(), temperature=0, top_k=1
    )
    assert text_of(message) == text_of(greedy(setting))


def check_the_tool_runner(setting: Setting) -> None:
    if not hasattr(anthropic, "beta_tool"):
        return

    @anthropic.beta_tool
    def clock() -> str:
        """What time it is."""
        return "noon"

    runner = client_of(setting).beta.messages.tool_runner(
        model=setting.model, max_tokens=100, messages=ask(), tools=[clock], tool_choice={"type": "any"},
        max_iterations=2,
    )  # fmt: skip
    said = list(runner)
    assert len(said) == 2 and said[1].usage.input_tokens > said[0].usage.input_tokens


def check_beta(setting: Setting) -> None:
    message = client_of(setting).beta.messages.create(
        model=setting.model, max_tokens=120, messages=ask(), tools=TOOLS,
        tool_choice={"type": "tool", "name": "weather"}, betas=["not-known-2030-01-01"],
    )  # fmt: skip
    valid_weather(calls_of(message)[0].input)
