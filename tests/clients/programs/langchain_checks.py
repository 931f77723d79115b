"""`langchain-anthropic`: invoke, stream, usage, tools, structured output, batch, async, errors."""

from __future__ import annotations

import asyncio
from typing import Any, Literal

import anthropic
from langchain_anthropic import ChatAnthropic
from langchain_core.messages import AIMessage, HumanMessage, SystemMessage, ToolMessage
from langchain_core.tools import tool
from pydantic import BaseModel
from setting import Setting, piece_of, valid_weather


def model_of(setting: Setting, **more: Any) -> ChatAnthropic:
    """Greedy, and without another try."""
    given = {"max_tokens": 40, "temperature": 0.0, "max_retries": 0, **more}
    return ChatAnthropic(model=setting.model, base_url=setting.url, api_key=setting.key, **given)


def check_invoke(setting: Setting) -> None:
    reply = model_of(setting).invoke("Who lives at the mill?")
    assert isinstance(reply.content, str) and reply.content
    usage = reply.usage_metadata
    assert usage["input_tokens"] > 0 and usage["output_tokens"] > 0
    assert usage["total_tokens"] == usage["input_tokens"] + usage["output_tokens"]
    assert reply.response_metadata["stop_reason"] in ("end_turn", "max_tokens")


def check_stream(setting: Setting) -> None:
    whole = model_of(setting).invoke("Who lives at the mill?")
    pieces = list(model_of(setting).stream("Who lives at the mill?"))
    together = pieces[0]
    for piece in pieces[1:]:
        together += piece
    assert together.text == whole.text and len(pieces) > 1
    assert together.usage_metadata["input_tokens"] == whole.usage_metadata["input_tokens"]
    assert together.usage_metadata["output_tokens"] == whole.usage_metadata["output_tokens"]


def check_conversation_with_a_system_text(setting: Setting) -> None:
    said = [
        SystemMessage("Speak of owls."),
        HumanMessage("Hello."),
        AIMessage("Hello."),
        HumanMessage("Go on."),
    ]
    assert model_of(setting).invoke(said).usage_metadata["input_tokens"] > 40


def check_stop(setting: Setting) -> None:
    whole = model_of(setting).invoke("Who lives at the mill?").text
    stop = piece_of(whole)
    cut = model_of(setting).invoke("Who lives at the mill?", stop=[stop])
    assert cut.text == whole[: whole.index(stop)]
    assert cut.response_metadata["stop_sequence"] == stop


@tool
def weather(place: Literal["mill", "river"], days: Literal[1, 2, 3]) -> str:
    """The weather at a place."""
    return "rain"


def check_tools(setting: Setting) -> None:
    bound = model_of(setting, max_tokens=150).bind_tools([weather], tool_choice="weather")
    reply = bound.invoke("Who lives at the mill?")
    (call,) = reply.tool_calls
    valid_weather(call["args"])
    result = ToolMessage(weather.invoke(call["args"]), tool_call_id=call["id"])
    offered = model_of(setting).bind_tools([weather])
    assert offered.invoke([HumanMessage("Who lives at the mill?"), reply, result]).usage_metadata


def check_tools_stream(setting: Setting) -> None:
    bound = model_of(setting, max_tokens=150).bind_tools([weather], tool_choice="any")
    pieces = list(bound.stream("Who lives at the mill?"))
    together = pieces[0]
    for piece in pieces[1:]:
        together += piece
    valid_weather(together.tool_calls[0]["args"])


class Weather(BaseModel):
    """The weather at a place."""

    place: Literal["mill", "river"]
    days: Literal[1, 2, 3]


def check_structured_output(setting: Setting) -> None:
    for method in ("function_calling", "json_schema"):
        made = model_of(setting, max_tokens=150).with_structured_output(Weather, method=method)
        assert isinstance(made.invoke("Who lives at the mill?"), Weather)


def check_thinking(setting: Setting) -> None:
    thinking = {"type": "enabled", "budget_tokens": 1024}
    given = {"max_tokens": 1100, "temperature": None, "thinking": thinking}
    reply = model_of(setting, **given).invoke("Who lives at the mill?")
    assert reply.content[0]["type"] == "thinking" and reply.content[0]["signature"]
    turns = [HumanMessage("Who lives at the mill?"), reply, HumanMessage("And then?")]
    assert model_of(setting, **given).invoke(turns).content


def check_batch_and_async(setting: Setting) -> None:
    replies = model_of(setting).batch(["Who?"] * 4)
    assert len({reply.text for reply in replies}) == 1

    async def several() -> list[str]:
        model = model_of(setting)
        return ["".join([piece.text async for piece in model.astream("Who?")]) for _ in range(2)]

    assert set(asyncio.run(several())) == {replies[0].text}


def check_the_cache_is_counted(setting: Setting) -> None:
    text = {"type": "text", "text": "The river is slow. " * 280, "cache_control": {"type": "ephemeral"}}
    said = [SystemMessage([text]), HumanMessage("Hello.")]
    model_of(setting).invoke(said)
    usage = model_of(setting).invoke(said).usage_metadata
    assert usage["input_token_details"]["cache_read"] > 0
    assert usage["input_tokens"] > usage["input_token_details"]["cache_read"]


def check_count_tokens(setting: Setting) -> None:
    model = model_of(setting)
    said = [HumanMessage("Who lives at the mill?")]
    counted = model.get_num_tokens_from_messages(said)
    assert counted == model.invoke(said).usage_metadata["input_tokens"]


def check_errors(setting: Setting) -> None:
    wrong = ChatAnthropic(
        model="none-such", base_url=setting.url, api_key=setting.key, max_tokens=5, max_retries=0
    )
    try:
        wrong.invoke("Who?")
    except anthropic.NotFoundError as error:
        assert "none-such" in str(error)
    else:
        raise AssertionError
