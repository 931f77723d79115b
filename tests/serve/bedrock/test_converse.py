"""Converse's requests become the Messages bodies they mean, and replies become its responses."""

from __future__ import annotations

import base64
import json
from typing import Any

import botocore.session
import pytest
from botocore.validate import ParamValidator

from publius.core.messages import TextBlock, ThinkingBlock, ToolUseBlock
from publius.serve.bedrock.converse import in_converse_words, messages_body, picked, response
from publius.serve.bedrock.shapes import ConverseRequest
from publius.serve.errors import ApiError
from publius.serve.exchange import Ended, Refusal, Usage
from publius.serve.messages.conversation import validated
from publius.serve.messages.schema import parse_messages

SERVICE = botocore.session.Session().get_service_model("bedrock-runtime")
HELLO = {"role": "user", "content": [{"text": "hello"}]}
TOOL = {"toolSpec": {"name": "sum", "description": "adds", "inputSchema": {"json": {"type": "object"}}}}


def b64(data: bytes) -> str:
    return base64.b64encode(data).decode()


def translated(**request: Any) -> dict[str, Any]:
    body = {"messages": [HELLO], **request}
    return messages_body(validated(ConverseRequest, body), 100)


def content(*blocks: Any, role: str = "user") -> Any:
    return translated(messages=[{"role": role, "content": list(blocks)}])["messages"][0]["content"]


def refused(**request: Any) -> str:
    with pytest.raises(ApiError) as error:
        translated(**request)
    assert error.value.type == "invalid_request_error"
    return error.value.message


def test_the_least_request() -> None:
    hello = {"role": "user", "content": [{"type": "text", "text": "hello"}]}
    assert translated() == {"messages": [hello], "max_tokens": 100}


def test_settings() -> None:
    settings = {"maxTokens": 5, "temperature": 0.5, "topP": 1, "stopSequences": ["."]}
    body = translated(inferenceConfig=settings, additionalModelRequestFields={"top_k": 3})
    assert body.items() >= {
        "max_tokens": 5, "temperature": 0.5, "top_p": 1, "stop_sequences": [".",], "top_k": 3,
    }.items()  # fmt: skip
    thinking = {"type": "enabled", "budget_tokens": 1024}
    additional = {"thinking": thinking, "anthropic_version": "x", "anthropic_beta": ["y"]}
    body = translated(additionalModelRequestFields=additional)
    assert body["thinking"] == thinking and not {"anthropic_version", "anthropic_beta"} & set(body)


def test_system_texts_and_messages_keep_their_places() -> None:
    body = translated(
        system=[{"text": "be brief"}, {"guardContent": {"text": {"text": "and kind"}}}],
        messages=[HELLO, {"role": "system", "content": [{"text": "now in verse"}]}],
    )
    assert [block["text"] for block in body["system"]] == ["be brief", "and kind"]
    assert [message["role"] for message in body["messages"]] == ["user", "system"]


def test_cache_points_mark_what_stands_before_them() -> None:
    point, hour = {"cachePoint": {"type": "default"}}, {"cachePoint": {"type": "default", "ttl": "1h"}}
    body = translated(
        system=[{"text": "a"}, point],
        messages=[{"role": "user", "content": [{"text": "b"}, hour, {"text": "c"}]}],
        toolConfig={"tools": [TOOL, point]},
    )
    assert body["system"] == [{"type": "text", "text": "a", "cache_control": {"type": "ephemeral"}}]
    first, second = body["messages"][0]["content"]
    assert first["cache_control"] == {"type": "ephemeral", "ttl": "1h"} and "cache_control" not in second
    assert body["tools"][0]["cache_control"] == {"type": "ephemeral"} and len(body["tools"]) == 1
    assert refused(system=[point]).startswith("system.0.cachePoint: must follow")


@pytest.mark.parametrize(
    ("choice", "wanted"),
    [
        ({"auto": {}}, {"type": "auto"}),
        ({"any": {}}, {"type": "any"}),
        ({"tool": {"name": "sum"}}, {"type": "tool", "name": "sum"}),
    ],
)
def test_tools(choice: Any, wanted: Any) -> None:
    body = translated(toolConfig={"tools": [TOOL], "toolChoice": choice})
    assert body["tool_choice"] == wanted
    assert body["tools"] == [{"name": "sum", "description": "adds", "input_schema": {"type": "object"}}]
    assert "tool_choice" not in translated(toolConfig={"tools": [TOOL]})


def test_calls_and_results() -> None:
    call = {"toolUse": {"toolUseId": "tooluse_1", "name": "sum", "input": {"a": 1}}}
    assert content(call, role="assistant") == [
        {"type": "tool_use", "id": "tooluse_1", "name": "sum", "input": {"a": 1}}
    ]
    parts = [{"text": "t"}, {"json": {"b": [2]}}, {"json": None}]
    (result,) = content({"toolResult": {"toolUseId": "tooluse_1", "content": parts, "status": "error"}})
    assert result["tool_use_id"] == "tooluse_1" and result["is_error"] is True
    assert [part["text"] for part in result["content"]] == ["t", '{"b":[2]}', "null"]


def test_ids_that_messages_does_not_allow_are_changed_alike() -> None:
    calls = [{"toolUse": {"toolUseId": id, "name": "sum", "input": {}}} for id in ("a.b", "a:b")]
    results = [{"toolResult": {"toolUseId": id, "content": [{"text": "1"}]}} for id in ("a.b", "a:b")]
    turns = [HELLO, {"role": "assistant", "content": calls}, {"role": "user", "content": results}]
    body = translated(messages=turns, toolConfig={"tools": [TOOL]})
    ask = parse_messages(body | {"model": "m"})
    first, second = (
        block.id for block in ask.conversation.messages[1].content if isinstance(block, ToolUseBlock)
    )
    assert first != second


def test_thinking_goes_back_with_its_signature() -> None:
    text = {"reasoningContent": {"reasoningText": {"text": "hm", "signature": "v1.s"}}}
    hidden = {"reasoningContent": {"redactedContent": b64(b"x")}}
    assert content(text, hidden, role="assistant") == [
        {"type": "thinking", "thinking": "hm", "signature": "v1.s"},
        {"type": "redacted_thinking", "data": b64(b"x")},
    ]


@pytest.mark.parametrize(
    "source",
    [{"text": "héllo"}, {"bytes": b64("héllo".encode())}, {"content": [{"text": "héllo"}]}],
    ids=["text", "bytes", "content"],
)
def test_documents_of_text(source: Any) -> None:
    (block,) = content({"document": {"name": "d", "format": "md", "source": source, "context": "c"}})
    assert block["type"] == "document" and (block["title"], block["context"]) == ("d", "c")
    assert block["source"] == {"type": "text", "media_type": "text/plain", "data": "héllo"}
    result = {"toolUseId": "i", "content": [{"document": {"name": "d", "source": source}}]}
    assert content({"toolResult": result})[0]["content"][0]["source"]["data"] == "héllo"


def test_search_results_and_citations() -> None:
    found = {"source": "s", "title": "t", "content": [{"text": "x"}]}
    (block,) = content({"searchResult": found})
    assert block == {
        "type": "search_result",
        "source": "s",
        "title": "t",
        "content": [{"type": "text", "text": "x"}],
    }
    cited = {"citationsContent": {"content": [{"text": "a"}, {"text": "b"}], "citations": []}}
    assert content(cited, role="assistant") == [{"type": "text", "text": "ab"}]


def test_structured_output() -> None:
    schema = {"type": "object", "properties": {"a": {"type": "integer"}}}
    text_format = {
        "type": "json_schema",
        "structure": {"jsonSchema": {"schema": json.dumps(schema), "name": "n"}},
    }
    body = translated(outputConfig={"textFormat": text_format, "effort": "low"})
    assert body["output_config"] == {"effort": "low", "format": {"type": "json_schema", "schema": schema}}
    for wrong, words in (("{", "is not JSON"), ("[]", "not a JSON object")):
        text_format["structure"] = {"jsonSchema": {"schema": wrong}}
        assert words in refused(outputConfig={"textFormat": text_format})


def test_images_are_refused_where_messages_are_read() -> None:
    image = {"image": {"format": "png", "source": {"bytes": b64(b"png")}}}
    body = translated(messages=[{"role": "user", "content": [{"text": "look"}, image]}])
    with pytest.raises(ApiError, match=r"messages\.0\.content\.1: `image` blocks are not supported"):
        parse_messages(body | {"model": "m"})


@pytest.mark.parametrize(
    ("request_", "words"),
    [
        ({"messages": None}, "messages: "),
        ({"messages": [{"role": "tool", "content": []}]}, "messages.0.role: "),
        ({"messages": [{"role": "user", "content": "text"}]}, "messages.0.content: "),
        ({"messages": [{"role": "user", "content": [{}]}]}, "must have exactly one member, has 0"),
        ({"messages": [{"role": "user", "content": [{"text": "a", "image": {}}]}]}, "has 2"),
        (
            {"messages": [{"role": "user", "content": [{"video": {}}]}]},
            "messages.0.content.0: 'video' is not",
        ),
        ({"messages": [{"role": "user", "content": [{"text": 5}]}]}, "messages.0.content.0.text: "),
        (
            {"messages": [{"role": "user", "content": [{"toolUse": {"toolUseId": "é"}}]}]},
            "toolUse.toolUseId: ",
        ),
        ({"inferenceConfig": {"maxTokens": "5"}}, "inferenceConfig.maxTokens: "),
        ({"inferenceConfig": {"maxTokens": 0}}, "inferenceConfig.maxTokens: "),
        ({"toolConfig": {"tools": []}}, "toolConfig.tools: "),
        ({"toolConfig": {"tools": [{"systemTool": {"name": "x"}}]}}, "'systemTool' is not supported"),
        ({"toolConfig": {"tools": [TOOL], "toolChoice": {"tool": {}}}}, "toolConfig.toolChoice.tool.name: "),
        ({"guardrailConfig": {"guardrailIdentifier": "g"}}, "guardrailConfig is not supported"),
        ({"promptVariables": {"a": {"text": "b"}}}, "promptVariables is not supported"),
        ({"additionalModelRequestFields": {"messages": []}}, "additionalModelRequestFields.messages: "),
        ({"additionalModelRequestFields": {"model": "m"}}, "additionalModelRequestFields.model: "),
        ({"additionalModelResponseFieldPaths": ["/a"] * 11}, "additionalModelResponseFieldPaths: "),
    ],
)
def test_what_is_wrong_is_named(request_: dict[str, Any], words: str) -> None:
    assert words in refused(**request_)


@pytest.mark.parametrize(
    ("document", "words"),
    [
        ({"format": "pdf", "source": {"bytes": b64(b"%PDF")}}, "document.format: 'pdf' cannot be read"),
        ({"format": "txt", "source": {"bytes": "**"}}, "document.source.bytes: is not base64"),
        (
            {"format": "txt", "source": {"bytes": b64(b"\xff")}},
            "document.source.bytes: is not base64 of UTF-8",
        ),
        (
            {"source": {"s3Location": {"uri": "s3://pocket/x"}}},
            "document.source: 's3Location' is not supported",
        ),
    ],
)
def test_documents_that_cannot_be_read(document: Any, words: str) -> None:
    message = refused(messages=[{"role": "user", "content": [{"document": {"name": "d", **document}}]}])
    assert message.startswith(f"messages.0.content.0.{words}")


@pytest.mark.parametrize(
    ("message", "wanted"),
    [
        ("max_tokens: too small", "inferenceConfig.maxTokens: too small"),
        ("tools.0.custom.input_schema: no", "toolConfig.tools.0.custom.toolSpec.inputSchema.json: no"),
        ("tool_choice.name: no", "toolConfig.toolChoice.name: no"),
        ("output_config.format: no", "outputConfig.textFormat: no"),
        (
            "thinking.enabled.budget_tokens: no",
            "additionalModelRequestFields.thinking.enabled.budget_tokens: no",
        ),
        ("messages.0: no", "messages.0: no"),
        ("tools are many", "tools are many"),
    ],
)
def test_errors_name_converses_fields(message: str, wanted: str) -> None:
    request = validated(ConverseRequest, {"messages": [HELLO]})
    error = in_converse_words(ApiError("invalid_request_error", message, headers={"a": "b"}), request)
    assert error.message == wanted and error.headers == {"a": "b"}


@pytest.mark.parametrize(
    ("message", "wanted"),
    [
        ("messages.0.content.1: no", "messages.0.content.2: no"),
        ("messages.0.content.1.text: no", "messages.0.content.2.text: no"),
        ("messages.0.content.7: no", "messages.0.content.7: no"),
        ("messages.9.content.0: no", "messages.9.content.0: no"),
        ("system.1: no", "system.2: no"),
        ("tools.1.name: no", "toolConfig.tools.2.name: no"),
    ],
)
def test_errors_count_cache_points(message: str, wanted: str) -> None:
    point = {"cachePoint": {"type": "default"}}
    request = {
        "messages": [{"role": "user", "content": [{"text": "a"}, point, {"text": "b"}]}],
        "system": [{"text": "a"}, point, {"text": "b"}],
        "toolConfig": {"tools": [TOOL, point, TOOL]},
    }
    error = ApiError("invalid_request_error", message)
    assert in_converse_words(error, validated(ConverseRequest, request)).message == wanted


BLOCKS = (
    ThinkingBlock(thinking="hm", signature="v1.s"),
    TextBlock(text="so"),
    ToolUseBlock(id="toolu_1", name="sum", input={"a": [1]}),
)
USAGE = Usage(input=5, cache_write=16, cache_read=32, output=7, thinking=2)


def valid(body: dict[str, Any]) -> None:
    """The response is one that AWS's service model describes."""
    shape = SERVICE.operation_model("Converse").output_shape
    assert not ParamValidator().validate(body, shape).has_errors()


def test_a_response() -> None:
    body = response(BLOCKS, Ended("tool_use", USAGE), 12, {"stop_sequence": None})
    valid(body)
    assert body["output"]["message"] == {
        "role": "assistant",
        "content": [
            {"reasoningContent": {"reasoningText": {"text": "hm", "signature": "v1.s"}}},
            {"text": "so"},
            {"toolUse": {"toolUseId": "toolu_1", "name": "sum", "input": {"a": [1]}}},
        ],
    }
    assert body["stopReason"] == "tool_use" and body["metrics"] == {"latencyMs": 12}
    assert body["usage"] == {
        "inputTokens": 5,
        "outputTokens": 7,
        "totalTokens": 60,
        "cacheReadInputTokens": 32,
        "cacheWriteInputTokens": 16,
    }
    assert body["additionalModelResponseFields"] == {"stop_sequence": None}


def test_thinking_may_be_left_out() -> None:
    body = response(BLOCKS, Ended("tool_use", USAGE), 12, None, omit_thinking=True)
    valid(body)
    text = {"text": "", "signature": "v1.s"}
    assert body["output"]["message"]["content"][0] == {"reasoningContent": {"reasoningText": text}}


def test_refused_and_empty_replies() -> None:
    body = response((), Ended("refusal", USAGE, refusal=Refusal("c", "e")), 1, None)
    valid(body)
    assert body["stopReason"] == "content_filtered" and "additionalModelResponseFields" not in body
    assert body["output"]["message"]["content"] == [{"text": ""}]


def test_fields_are_picked_by_pointer() -> None:
    body = {"stop_sequence": ".", "usage": {"a/b": 1, "~": 2}, "content": [{"text": "x"}]}
    assert picked(body, ["/stop_sequence", "/usage/a~1b", "/usage/~0", "/none", "/usage/none"]) == {
        "stop_sequence": ".",
        "usage": {"a/b": 1, "~": 2},
    }
    assert picked(body, ["/content", "/content/0/text", "/content/7"]) == {"content": body["content"]}
    assert picked(body, ["/content/0/text"]) == {"content": {"0": {"text": "x"}}}
    with pytest.raises(ApiError, match="no JSON pointer"):
        picked(body, ["stop_sequence"])
