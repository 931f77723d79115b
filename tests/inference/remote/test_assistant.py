"""An assistant behind an address, spoken to over a real socket."""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager

import pytest
from rich.console import Console

from publius.core.errors import UserError
from publius.core.messages import Conversation, ThinkingBlock, ToolSpec, ToolUseBlock, text_of, user
from publius.inference.remote import RemoteAssistant, RemoteConfig
from publius.inference.remote.assistant import _frames, _Reading
from publius.inference.terminal import Chat, converse
from publius.testing.server import RunningServer, served, write_tiny_checkpoint
from tests.inference.remote.wire import Fault, wire

ASKED = Conversation(messages=(user("hello"),))


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    checkpoint = write_tiny_checkpoint(tmp_path_factory.mktemp("served") / "haiku", max_position=2048)
    with served(checkpoint, options=["--unreleased"]) as running:
        yield running


Speakers = Callable[..., RemoteAssistant]


@pytest.fixture
def speaker(server: RunningServer) -> Iterator[Speakers]:
    """Makes assistants of the server, and closes them."""
    with ExitStack() as stack:

        def made(key: str | None = None, **changes: object) -> RemoteAssistant:
            config = {"dialect": "anthropic", "url": server.url, "model": "publius-haiku", "temperature": 0.0}
            chosen = RemoteConfig.model_validate({**config, **changes})
            return stack.enter_context(RemoteAssistant(chosen, key or server.key, max_tokens=24))

        yield made


def test_pieces_join_to_the_reply(speaker: Speakers):
    events = speaker().stream(ASKED, thinking=False)
    told = ""
    while True:
        try:
            event = next(events)
        except StopIteration as stop:
            reply = stop.value
            break
        assert event.kind == "text"
        told += event.text
    assert text_of(reply.message) == told and reply.tokens >= 1
    assert reply.stop_reason in ("end_turn", "max_tokens") and not reply.problems


def test_thinking_keeps_its_signature_so_that_it_can_go_back(speaker: Speakers):
    talk = ASKED.model_copy(update={"tools": (ToolSpec(name="sum", input_schema={"type": "object"}),)})
    events = speaker().stream(talk)
    while True:
        try:
            next(events)
        except StopIteration as stop:
            reply = stop.value
            break
    for block in reply.message.content:
        assert not isinstance(block, ThinkingBlock) or block.signature
        assert not isinstance(block, ToolUseBlock) or isinstance(block.input, dict)


def test_a_chat_in_the_terminal_goes_on_over_several_turns(speaker: Speakers):
    out = io.StringIO()
    session = Chat(speaker(), thinking=False, out=Console(file=out, highlight=False, width=200))
    said = converse(session, stdin=io.StringIO("hello\nagain\n/quit\n"))
    assert [message.role for message in said.messages] == ["user", "assistant"] * 2
    assert text_of(said.messages[1]) in out.getvalue()


@pytest.mark.parametrize(
    ("changes", "key", "told"),
    [({"model": "nobody"}, None, "not_found_error: model: nobody"), ({}, "wrong", "authentication_error")],
)
def test_what_the_server_answers_instead_is_told(speaker: Speakers, changes, key, told):
    with pytest.raises(UserError, match=told):
        next(speaker(key, **changes).stream(ASKED))


def test_nobody_there_is_one_clear_error(speaker: Speakers):
    with pytest.raises(UserError, match="does not answer"):
        next(speaker(url="http://127.0.0.1:9").stream(ASKED))


def test_half_a_call_is_text():
    """As the hosted API streams one that `max_tokens` cut."""
    reading = _Reading()
    call = {"type": "tool_use", "id": "t", "name": "look", "input": {}}
    delta = {"type": "input_json_delta", "partial_json": '{"wh'}
    events = [
        {"type": "content_block_start", "content_block": call},
        {"type": "content_block_delta", "delta": delta},
        {"type": "content_block_stop"},
        {"type": "message_delta", "delta": {"stop_reason": "max_tokens"}},
    ]
    assert not [event for data in events for event in reading.take(data)]
    reply = reading.reply("there")
    assert text_of(reply.message) == '{"wh' and reply.stop_reason == "max_tokens"
    assert reply.problems == ("a tool call is not a valid call: it was cut off",)


def test_an_event_that_is_no_json_is_one_clear_error():
    assert list(_frames(iter(["event: x", 'data: {"a": 1}']), "there")) == [{"a": 1}]
    with pytest.raises(UserError, match="is not JSON"):
        list(_frames(iter(["data: {"]), "there"))


TEXT = {"type": "content_block_start", "content_block": {"type": "text", "text": ""}}
CALL = {"type": "tool_use", "id": "t", "name": "look", "input": {}}
OVER = [{"type": "content_block_stop"}, {"type": "message_delta", "delta": {"stop_reason": "end_turn"}}]


@contextmanager
def saying(*events: object) -> Iterator[RemoteAssistant]:
    """An assistant of a server that says these."""
    with wire() as server:
        said = "".join(f"data: {json.dumps(event)}\n\n" for event in events)
        server.faults.append(Fault(body=said.encode()))
        chosen = RemoteConfig(dialect="anthropic", url=server.url, model="m")
        with RemoteAssistant(chosen) as assistant:
            yield assistant


@pytest.mark.parametrize(
    "events",
    [
        (1,),
        ([1],),
        ({"type": "content_block_delta"},),
        ({"type": "content_block_start"},),
        (TEXT, {"type": "content_block_delta", "delta": {"type": "text_delta", "text": 5}}),
        ({"type": "content_block_start", "content_block": {**CALL, "input": [1]}}, *OVER),
        ({"type": "content_block_start", "content_block": {"type": "tool_use"}}, *OVER),
        ({"type": "message_delta", "delta": {}, "usage": {"output_tokens": "many"}},),
        ({"type": "message_delta", "delta": [1]},),
    ],
)
def test_events_of_another_shape_are_one_clear_error(events: tuple[object, ...]):
    with saying(*events) as assistant, pytest.raises(UserError, match="event of the stream") as error:
        list(assistant.stream(ASKED))
    assert "/v1/messages" in error.value.where


def test_a_character_in_two_halves_comes_whole():
    halves = [{"type": "text_delta", "text": text} for text in ("a\ud83d", "\ude00b", "c\ud83d")]
    deltas = [{"type": "content_block_delta", "delta": delta} for delta in halves]
    reading = _Reading()
    events = [event.text for data in (TEXT, *deltas, *OVER) for event in reading.take(data)]
    assert events == ["a", "\U0001f600b", "c", "\ufffd"]
    assert text_of(reading.reply("there").message) == "a\U0001f600bc\ufffd"


def test_an_input_that_comes_with_its_call_is_kept():
    """As servers that do not stream it say it."""
    reading = _Reading()
    whole = {"type": "content_block_start", "content_block": {**CALL, "input": {"at": 3}}}
    events = [event.text for data in (whole, *OVER) for event in reading.take(data)]
    assert events == ['{"name":"look","input":{"at":3}}']
    [call] = reading.reply("there").message.content
    assert isinstance(call, ToolUseBlock) and call.input == {"at": 3}
