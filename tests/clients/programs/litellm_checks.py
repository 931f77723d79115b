"""LiteLLM's SDK: the Messages, the OpenAI and the Bedrock side of one server."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import litellm
from setting import WEATHER, Setting, ask, piece_of, valid_weather

SIDES = ("anthropic", "openai")
TOOL = {
    "type": "function",
    "function": {
        "name": "weather", "description": "the weather at a place", "parameters": WEATHER["input_schema"]
    },
}  # fmt: skip


def completion(setting: Setting, side: str, **more: Any) -> Any:
    """A greedy reply by one side."""
    base = setting.url if side == "anthropic" else f"{setting.url}/v1"
    given = {"max_tokens": 40, "temperature": 0, "messages": ask(), "num_retries": 0, **more}
    name = given.pop("model", setting.model)
    return litellm.completion(model=f"{side}/{name}", api_base=base, api_key=setting.key, **given)


def check_completion(setting: Setting) -> None:
    said = set()
    for side in SIDES:
        reply = completion(setting, side)
        said.add(reply.choices[0].message.content)
        assert reply.choices[0].finish_reason in ("stop", "length")
        usage = reply.usage
        assert usage.prompt_tokens > 0 and usage.total_tokens == usage.prompt_tokens + usage.completion_tokens
    assert len(said) == 1, said


def check_stream(setting: Setting) -> None:
    for side in SIDES:
        whole = completion(setting, side).choices[0].message.content
        pieces = list(completion(setting, side, stream=True, stream_options={"include_usage": True}))
        said = "".join(piece.choices[0].delta.content or "" for piece in pieces if piece.choices)
        assert said == whole, side
        assert any(getattr(piece, "usage", None) for piece in pieces), side


def check_system_and_turns(setting: Setting) -> None:
    turns = [
        {"role": "system", "content": "Speak of owls."}, *ask(),
        {"role": "assistant", "content": "Mara."}, {"role": "user", "content": "And then?"},
    ]  # fmt: skip
    counts = {completion(setting, side, messages=turns).usage.prompt_tokens for side in SIDES}
    assert len(counts) == 1, counts


def check_stop(setting: Setting) -> None:
    for side in SIDES:
        whole = completion(setting, side).choices[0].message.content
        stop = piece_of(whole)
        cut = completion(setting, side, stop=[stop]).choices[0]
        assert cut.message.content == whole[: whole.index(stop)] and cut.finish_reason == "stop"


def check_tools(setting: Setting) -> None:
    named = {"type": "function", "function": {"name": "weather"}}
    for side in SIDES:
        for choice in ("required", named):
            reply = completion(setting, side, tools=[TOOL], tool_choice=choice, max_tokens=150)
            (call,) = reply.choices[0].message.tool_calls
            assert call.function.name == "weather"
            valid_weather(json.loads(call.function.arguments))
        turns = [
            *ask(), reply.choices[0].message.model_dump(exclude_none=True),
            {"role": "tool", "tool_call_id": call.id, "content": "rain"},
        ]  # fmt: skip
        assert completion(setting, side, messages=turns, tools=[TOOL]).choices


def check_tools_stream(setting: Setting) -> None:
    for side in SIDES:
        pieces = completion(setting, side, tools=[TOOL], tool_choice="required", max_tokens=150, stream=True)
        whole = litellm.stream_chunk_builder(list(pieces), messages=ask())
        valid_weather(json.loads(whole.choices[0].message.tool_calls[0].function.arguments))


def check_structured_output(setting: Setting) -> None:
    wanted = {
        "type": "json_schema",
        "json_schema": {"name": "weather", "strict": True, "schema": WEATHER["input_schema"]},
    }
    for side in SIDES:
        reply = completion(setting, side, response_format=wanted, max_tokens=150)
        valid_weather(json.loads(reply.choices[0].message.content))


def check_thinking(setting: Setting) -> None:
    thinking = {"type": "enabled", "budget_tokens": 1024}
    more = {
        "max_tokens": 1100,
        "temperature": 1,
        "allowed_openai_params": ["thinking"],
    }  # a name it knows not
    reply = completion(setting, "anthropic", thinking=thinking, **more)
    message = reply.choices[0].message
    assert message.reasoning_content and message.thinking_blocks[0]["signature"]


def check_messages_of_its_own(setting: Setting) -> None:
    reply = asyncio.run(
        litellm.anthropic.messages.acreate(
            model=f"anthropic/{setting.model}", api_base=setting.url, api_key=setting.key, messages=ask(),
            max_tokens=10,
        )
    )  # fmt: skip
    assert reply["type"] == "message" and reply["usage"]["output_tokens"] <= 10


def check_text_completion(setting: Setting) -> None:
    reply = litellm.text_completion(
        model=f"text-completion-openai/{setting.model}", api_base=f"{setting.url}/v1", api_key=setting.key,
        prompt="The mill", max_tokens=10, temperature=0,
    )  # fmt: skip
    assert reply.choices[0].text


def check_errors(setting: Setting) -> None:
    for side in SIDES:
        try:
            completion(setting, side, model="none-such")
        except litellm.NotFoundError as error:
            assert "none-such" in str(error)
        else:
            raise AssertionError(side)


def check_bedrock(setting: Setting) -> None:
    """Over the Converse and the Invoke route, with a bearer key."""
    for route in ("converse/", "invoke/"):
        reply = litellm.completion(
            model=f"bedrock/{route}anthropic.{setting.model}", messages=ask(), max_tokens=10,
            api_base=setting.url, aws_bedrock_runtime_endpoint=setting.url, aws_region_name="us-east-1",
            api_key=setting.key, num_retries=0,
        )  # fmt: skip
        assert reply.usage.completion_tokens <= 10 and reply.usage.prompt_tokens > 0
