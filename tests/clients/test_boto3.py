"""boto3 and the vendor's Bedrock client against a real server: every operation, credential and error.

Long because one server and its clients serve all of it, and starting them takes longer than the checks.
"""

from __future__ import annotations

import json
import ssl
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import anthropic
import boto3
import httpx2
import pytest
from anthropic import AnthropicBedrock
from botocore.config import Config
from botocore.exceptions import ClientError, EventStreamError

from publius.testing import served, write_tiny_checkpoint
from tests.serve.bedrock.running import ARN, AWS_KEYS, KEY, MODEL, Running, running

WORD = {"type": "string", "enum": ["mill"]}
HELLO = [{"role": "user", "content": [{"text": "hello"}]}]
TOOL = {
    "toolSpec": {
        "name": "turn",
        "description": "turns the wheel",
        "inputSchema": {
            "json": {
                "type": "object",
                "properties": {"way": {"type": "string", "enum": ["left", "right"]}},
                "required": ["way"],
                "additionalProperties": False,
            }
        },
    }
}
FORCED = {"tools": [TOOL], "toolChoice": {"tool": {"name": "turn"}}}
SAYS_MILL = {
    "textFormat": {
        "type": "json_schema",
        "structure": {"jsonSchema": {"schema": json.dumps(WORD), "name": "word"}},
    }
}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    with running(tmp_path_factory.mktemp("http"), aws_keys=AWS_KEYS) as server:
        yield server


@pytest.fixture(scope="module")
def secured(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    with running(tmp_path_factory.mktemp("tls"), tls=True, aws_keys=AWS_KEYS) as server:
        yield server


@pytest.fixture(scope="module")
def client(server: Running) -> Iterator[Any]:
    with closing(server.boto3()) as client:
        yield client


def user(text: str) -> list[dict[str, Any]]:
    return [{"role": "user", "content": [{"text": text}]}]


def body(**changes: Any) -> str:
    """A Messages body whose reply is the text `"mill"`."""
    return json.dumps(
        {
            "anthropic_version": "bedrock-2023-05-31",
            "max_tokens": 20,
            "messages": [{"role": "user", "content": "hello"}],
            "output_config": {"format": {"type": "json_schema", "schema": WORD}},
            **changes,
        }
    )


def events(stream: Any) -> list[dict[str, Any]]:
    """Of InvokeModelWithResponseStream."""
    return [json.loads(event["chunk"]["bytes"]) for event in stream]


# ---- InvokeModel ----


def test_invoke(client: Any) -> None:
    got = client.invoke_model(modelId=MODEL, body=body(anthropic_beta=["some-beta"]))
    message = json.loads(got["body"].read())
    assert message["content"][0]["text"] == '"mill"' and message["stop_reason"] == "end_turn"
    assert got["contentType"] == "application/json"
    headers = got["ResponseMetadata"]["HTTPHeaders"]
    usage = message["usage"]
    assert int(headers["x-amzn-bedrock-input-token-count"]) == usage["input_tokens"] > 0
    assert int(headers["x-amzn-bedrock-output-token-count"]) == usage["output_tokens"] > 6
    assert int(headers["x-amzn-bedrock-cache-read-input-token-count"]) == 0
    assert got["ResponseMetadata"]["RequestId"] == headers["x-amzn-requestid"] != ""


def test_invoke_says_what_the_cache_did(client: Any) -> None:
    long = "the mill by the river grinds grain when the water is high. " * 6
    marked = [{"type": "text", "text": long, "cache_control": {"type": "ephemeral"}}]
    counts = []
    for _ in range(2):
        got = client.invoke_model(modelId=MODEL, body=body(messages=[{"role": "user", "content": marked}]))
        headers = got["ResponseMetadata"]["HTTPHeaders"]
        counts.append(
            [int(headers[f"x-amzn-bedrock-cache-{way}-input-token-count"]) for way in ("write", "read")]
        )
    (written, none), (again, read) = counts
    assert written == read > 0 and none == again == 0


@pytest.mark.parametrize("version", ["bedrock-2023-05-31", "2026-10-21"])
@pytest.mark.parametrize("model", [MODEL, "alias", ARN, "us.anthropic.publius-haiku-v1:0"])
def test_invoke_stream(client: Any, model: str, version: str) -> None:
    got = client.invoke_model_with_response_stream(
        modelId=model, body=body(anthropic_version=version), contentType="application/json"
    )
    assert got["contentType"] == "application/json"
    stream = events(got["body"])
    assert [event["type"] for event in stream if event["type"] != "content_block_delta"] == [
        "message_start", "content_block_start", "content_block_stop", "message_delta", "message_stop"
    ]  # fmt: skip
    deltas = [event["delta"]["text"] for event in stream if event["type"] == "content_block_delta"]
    assert "".join(deltas) == '"mill"'  # in one piece or more: what is ready together leaves together
    metrics, usage = stream[-1]["amazon-bedrock-invocationMetrics"], stream[-2]["usage"]
    assert metrics["inputTokenCount"] == usage["input_tokens"]
    assert metrics["outputTokenCount"] == usage["output_tokens"]


def test_invoke_with_a_tool(client: Any) -> None:
    spec = TOOL["toolSpec"]
    tool = {"name": "turn", "description": "t", "input_schema": spec["inputSchema"]["json"]}  # pyright: ignore
    choice = {"type": "any"}
    asked = body(tools=[tool], tool_choice=choice, output_config=None, max_tokens=200)
    got = client.invoke_model(modelId=MODEL, body=asked)
    message = json.loads(got["body"].read())
    assert message["stop_reason"] == "tool_use" and message["content"][0]["input"]["way"] in ("left", "right")


# ---- Converse ----


def test_converse(client: Any) -> None:
    got = client.converse(
        modelId=MODEL,
        system=[{"text": "Be brief."}, {"cachePoint": {"type": "default"}}],
        messages=HELLO,
        inferenceConfig={"maxTokens": 20, "temperature": 0.5, "topP": 0.9},
        additionalModelRequestFields={"top_k": 5},
        outputConfig=SAYS_MILL,
    )
    assert got["output"]["message"] == {"role": "assistant", "content": [{"text": '"mill"'}]}
    assert got["stopReason"] == "end_turn" and got["metrics"]["latencyMs"] >= 0
    usage = got["usage"]
    prompt = usage["inputTokens"] + usage["cacheReadInputTokens"] + usage["cacheWriteInputTokens"]
    assert usage["totalTokens"] == prompt + usage["outputTokens"]


def test_count_tokens_is_what_is_used(client: Any) -> None:
    turns = [*HELLO, {"role": "assistant", "content": [{"text": "Hi."}]}, *user("and?")]
    settings: dict[str, Any] = {
        "system": [{"text": "Be brief."}],
        "messages": turns,
        "toolConfig": {"tools": [TOOL]},
    }
    counted = client.count_tokens(modelId=MODEL, input={"converse": settings})["inputTokens"]
    used = client.converse(modelId=MODEL, **settings, inferenceConfig={"maxTokens": 1})["usage"]
    assert counted == used["inputTokens"]
    invoked = json.loads(client.invoke_model(modelId=MODEL, body=body())["body"].read())["usage"]
    counted = client.count_tokens(modelId=MODEL, input={"invokeModel": {"body": body()}})["inputTokens"]
    assert counted == invoked["input_tokens"]


@pytest.mark.parametrize("model", [MODEL, ARN])
def test_converse_stream(client: Any, model: str) -> None:
    got = client.converse_stream(modelId=model, messages=HELLO, outputConfig=SAYS_MILL)
    stream = list(got["stream"])
    assert [next(iter(event)) for event in stream if "contentBlockDelta" not in event] == [
        "messageStart", "contentBlockStop", "messageStop", "metadata"
    ]  # fmt: skip
    deltas = [event["contentBlockDelta"]["delta"]["text"] for event in stream if "contentBlockDelta" in event]
    assert "".join(deltas) == '"mill"'  # in one piece or more: what is ready together leaves together
    assert stream[-1]["metadata"]["usage"]["outputTokens"] > 6


def test_a_stop_sequence_is_told_where_it_is_asked_for(client: Any) -> None:
    settings: dict[str, Any] = {
        "modelId": MODEL, "messages": HELLO, "outputConfig": SAYS_MILL,
        "inferenceConfig": {"stopSequences": ["ll"]}, "additionalModelResponseFieldPaths": ["/stop_sequence"],
    }  # fmt: skip
    got = client.converse(**settings)
    assert got["stopReason"] == "stop_sequence" and got["output"]["message"]["content"] == [{"text": '"mi'}]
    assert got["additionalModelResponseFields"] == {"stop_sequence": "ll"}
    *_, stopped, _ = client.converse_stream(**settings)["stream"]
    assert stopped["messageStop"] == {
        "stopReason": "stop_sequence",
        "additionalModelResponseFields": {"stop_sequence": "ll"},
    }


def test_a_forced_tool_and_its_result(client: Any) -> None:
    got = client.converse(modelId=MODEL, messages=HELLO, toolConfig=FORCED)
    (block,) = got["output"]["message"]["content"]
    call = block["toolUse"]
    assert (
        got["stopReason"] == "tool_use"
        and call["name"] == "turn"
        and call["input"]["way"] in ("left", "right")
    )
    result = {"toolUseId": call["toolUseId"], "content": [{"json": {"turned": True}}], "status": "success"}
    turns = [*HELLO, got["output"]["message"], {"role": "user", "content": [{"toolResult": result}]}]
    again = client.converse(
        modelId=MODEL, messages=turns, toolConfig={"tools": [TOOL]}, inferenceConfig={"maxTokens": 5}
    )
    assert again["output"]["message"]["role"] == "assistant"


def test_a_forced_tool_in_a_stream(client: Any) -> None:
    stream = list(client.converse_stream(modelId=MODEL, messages=HELLO, toolConfig=FORCED)["stream"])
    (start,) = [event["contentBlockStart"] for event in stream if "contentBlockStart" in event]
    assert start["start"]["toolUse"]["name"] == "turn"
    parts = [
        event["contentBlockDelta"]["delta"]["toolUse"] for event in stream if "contentBlockDelta" in event
    ]
    assert json.loads("".join(part["input"] for part in parts))["way"] in ("left", "right")
    assert stream[-2]["messageStop"]["stopReason"] == "tool_use"


def test_thinking_and_its_signature(client: Any) -> None:
    thinking = {"thinking": {"type": "enabled", "budget_tokens": 1024}}
    settings: dict[str, Any] = {"modelId": MODEL, "additionalModelRequestFields": thinking}
    stream = list(client.converse_stream(messages=HELLO, **settings)["stream"])
    deltas = [event["contentBlockDelta"] for event in stream if "contentBlockDelta" in event]
    thought = [delta["delta"]["reasoningContent"] for delta in deltas if delta["contentBlockIndex"] == 0]
    assert list(thought[-1]) == ["signature"] and all(list(part) == ["text"] for part in thought[:-1])
    text = "".join(part["text"] for part in thought[:-1])
    reasoning = {"reasoningText": {"text": text, "signature": thought[-1]["signature"]}}
    content: list[Any] = [{"reasoningContent": reasoning}, {"text": "So."}]
    turns = [*HELLO, {"role": "assistant", "content": content}, *user("and?")]
    client.converse(modelId=MODEL, messages=turns, inferenceConfig={"maxTokens": 2})
    reasoning["reasoningText"]["signature"] = "v1.forged"
    with pytest.raises(client.exceptions.ValidationException, match="Invalid `signature`"):
        client.converse(modelId=MODEL, messages=turns)


def test_a_refusal_is_content_filtered(client: Any) -> None:
    got = client.converse(modelId=MODEL, messages=user("closed?"))
    assert got["stopReason"] == "content_filtered"
    stream = list(client.converse_stream(modelId=MODEL, messages=user("closed?"))["stream"])
    assert stream[-2]["messageStop"]["stopReason"] == "content_filtered" and "metadata" in stream[-1]
    closed = body(messages=[{"role": "user", "content": "closed?"}])
    message = json.loads(client.invoke_model(modelId=MODEL, body=closed)["body"].read())
    assert message["stop_reason"] == "refusal" and message["stop_details"]["category"] == "mill"


def test_documents_are_read_and_images_refused(client: Any) -> None:
    document = {"document": {"name": "mill", "format": "txt", "source": {"bytes": b"It grinds grain."}}}
    turns = [{"role": "user", "content": [document, {"text": "what does it do?"}]}]
    with_it = client.count_tokens(modelId=MODEL, input={"converse": {"messages": turns}})["inputTokens"]
    without = client.count_tokens(modelId=MODEL, input={"converse": {"messages": user("what does it do?")}})
    assert with_it > without["inputTokens"]
    image = {"image": {"format": "png", "source": {"bytes": b"png"}}}
    with pytest.raises(client.exceptions.ValidationException, match=r"messages\.0\.content\.0: `image`"):
        client.converse(modelId=MODEL, messages=[{"role": "user", "content": [image]}])


# ---- errors ----


def test_errors_are_the_clients_own_classes(client: Any) -> None:
    wrong = client.exceptions
    with pytest.raises(wrong.ResourceNotFoundException, match="no-such-model"):
        client.converse(modelId="no-such-model", messages=HELLO)
    with pytest.raises(wrong.ValidationException, match="prompt is too long: "):
        client.converse(modelId=MODEL, messages=user("long " * 2000))
    with pytest.raises(wrong.ValidationException, match="anthropic_version: Field required"):
        client.invoke_model(modelId=MODEL, body=json.dumps({"max_tokens": 1, "messages": []}))
    with pytest.raises(wrong.ValidationException, match=r"toolConfig\.toolChoice\.name: tool 'x'"):
        client.converse(
            modelId=MODEL, messages=HELLO, toolConfig={"tools": [TOOL], "toolChoice": {"tool": {"name": "x"}}}
        )
    with pytest.raises(wrong.ValidationException, match="guardrailConfig"):
        guardrail = {"guardrailIdentifier": "g", "guardrailVersion": "1"}
        client.converse(modelId=MODEL, messages=HELLO, guardrailConfig=guardrail)
    with pytest.raises(wrong.ValidationException, match="guardrail"):
        client.invoke_model(modelId=MODEL, body=body(), guardrailIdentifier="g", guardrailVersion="1")
    with pytest.raises(wrong.ValidationException, match="empty"):
        client.invoke_model(modelId=MODEL, body=b"")


@pytest.mark.parametrize(
    ("kind", "exception"),
    [
        ("rate_limit_error", "ThrottlingException"),
        ("timeout_error", "ModelTimeoutException"),
        ("overloaded_error", "ServiceUnavailableException"),
        ("unforeseen", "InternalServerException"),
    ],
)
def test_failures_of_a_reply(client: Any, kind: str, exception: str) -> None:
    with pytest.raises(getattr(client.exceptions, exception)) as failed:
        client.converse(modelId=MODEL, messages=user(f"break: {kind}"), outputConfig=SAYS_MILL)
    assert "secret" not in str(failed.value)


@pytest.mark.parametrize(
    ("kind", "exception"),
    [
        ("rate_limit_error", "throttlingException"),
        ("timeout_error", "modelStreamErrorException"),
        ("overloaded_error", "serviceUnavailableException"),
        ("unforeseen", "internalServerException"),
    ],
)
def test_failures_in_a_stream_are_its_last_frame(client: Any, kind: str, exception: str) -> None:
    asked = f"break: {kind}"
    broken = body(messages=[{"role": "user", "content": asked}])
    invoked = client.invoke_model_with_response_stream(modelId=MODEL, body=broken)["body"]
    conversed = client.converse_stream(modelId=MODEL, messages=user(asked), outputConfig=SAYS_MILL)["stream"]
    for stream in (invoked, conversed):
        with closing(stream), pytest.raises(EventStreamError) as failed:
            list(stream)
        assert failed.value.response["Error"]["Code"] == exception and "secret" not in str(failed.value)
    assert client.converse(modelId=MODEL, messages=HELLO, outputConfig=SAYS_MILL)["stopReason"] == "end_turn"


# ---- credentials ----


@pytest.mark.parametrize(
    ("key_id", "secret", "code"),
    [
        ("AKIDPOCKET", "wrong", "InvalidSignatureException"),
        ("AKIDNOBODY", AWS_KEYS["AKIDPOCKET"], "UnrecognizedClientException"),
    ],
)
@pytest.mark.parametrize("model", [MODEL, ARN])
def test_wrong_signatures_are_refused(
    server: Running, model: str, key_id: str, secret: str, code: str
) -> None:
    with closing(server.boto3(key_id, secret)) as stranger, pytest.raises(ClientError) as refused:
        stranger.converse(modelId=model, messages=HELLO)
    assert refused.value.response["Error"]["Code"] == code
    assert refused.value.response["ResponseMetadata"]["HTTPStatusCode"] == 403


def test_ids_that_nobody_can_prove_pass_where_a_proxy_has_checked_them(tmp_path: Path) -> None:
    with running(tmp_path, aws_keys=AWS_KEYS, aws_unverified=True) as server:
        with closing(server.boto3("AKIDPROXY", "whatever")) as client:
            got = client.converse(modelId=MODEL, messages=HELLO, outputConfig=SAYS_MILL)
            assert got["stopReason"] == "end_turn"
        with (
            closing(server.boto3("AKIDPOCKET", "wrong")) as client,
            pytest.raises(ClientError, match="InvalidSignature"),
        ):
            client.converse(modelId=MODEL, messages=HELLO)


def test_a_server_without_keys_takes_any_credentials(tmp_path: Path) -> None:
    with running(tmp_path, key=None) as server, closing(server.boto3("any", "thing")) as client:
        got = client.converse(modelId=MODEL, messages=HELLO, outputConfig=SAYS_MILL)
        assert got["stopReason"] == "end_turn"


def test_signatures_over_tls(secured: Running) -> None:
    with closing(secured.boto3()) as client:
        got = client.invoke_model_with_response_stream(modelId=ARN, body=body())
        assert events(got["body"])[-1]["type"] == "message_stop"


def bearer(secured: Running, key: str, monkeypatch: pytest.MonkeyPatch) -> Any:
    """A client that takes its key from the environment."""
    monkeypatch.setenv("AWS_BEARER_TOKEN_BEDROCK", key)
    return boto3.client(
        "bedrock-runtime",
        endpoint_url=secured.url,
        region_name="eu-west-1",
        verify=str(secured.certificate),
        config=Config(retries={"total_max_attempts": 1}),
    )


def test_bearer_tokens_over_tls(secured: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    with closing(bearer(secured, KEY, monkeypatch)) as client:
        got = client.converse(modelId=MODEL, messages=HELLO, outputConfig=SAYS_MILL)
        assert got["stopReason"] == "end_turn"
        stream = client.converse_stream(modelId=ARN, messages=HELLO, outputConfig=SAYS_MILL)["stream"]
        assert "metadata" in list(stream)[-1]


def test_a_wrong_bearer_token_is_refused(secured: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    with (
        closing(bearer(secured, "wrong", monkeypatch)) as client,
        pytest.raises(client.exceptions.AccessDeniedException),
    ):
        client.converse(modelId=MODEL, messages=HELLO)


def test_a_server_process(tmp_path: Path) -> None:
    """What the command line starts, from its option for access keys to the end of a stream."""
    model = write_tiny_checkpoint(tmp_path / "tiny")
    pairs = [f"--aws-key={key_id}={secret}" for key_id, secret in AWS_KEYS.items()]
    with served(model, options=["--unreleased", *pairs], folder=tmp_path / "home") as process:
        clients = Running(process.url, None)
        with closing(clients.boto3()) as client:
            stream = client.converse_stream(modelId=MODEL, messages=HELLO, toolConfig=FORCED)["stream"]
            assert list(stream)[-2]["messageStop"]["stopReason"] == "tool_use"
            got = client.invoke_model(modelId=ARN, body=body())
            assert json.loads(got["body"].read())["content"][0]["text"] == '"mill"'
        with closing(clients.boto3(secret="wrong")) as client, pytest.raises(ClientError, match="Signature"):
            client.converse(modelId=MODEL, messages=HELLO)


# ---- the vendor's own client ----


@pytest.fixture(params=["signed", "bearer", "bearer over TLS"])
def vendor(request: pytest.FixtureRequest, server: Running, secured: Running) -> Iterator[AnthropicBedrock]:
    tls = request.param == "bearer over TLS"
    trusted = ssl.create_default_context(cafile=secured.certificate) if tls else True
    settings: dict[str, Any] = {"api_key": KEY}
    if request.param == "signed":
        settings = {"aws_access_key": "AKIDPOCKET", "aws_secret_key": AWS_KEYS["AKIDPOCKET"]}
    with (
        httpx2.Client(verify=trusted) as http,
        AnthropicBedrock(
            aws_region="eu-west-1",
            base_url=(secured if tls else server).url,
            http_client=http,
            max_retries=0,
            **settings,
        ) as client,
    ):
        yield client


@pytest.mark.parametrize("model", [MODEL, "us.anthropic.publius-haiku-v1:0", ARN])
def test_the_vendors_client(vendor: AnthropicBedrock, model: str) -> None:
    asked: dict[str, Any] = {
        "model": model, "max_tokens": 20, "messages": [{"role": "user", "content": "hello"}],
        "output_config": {"format": {"type": "json_schema", "schema": WORD}},
    }  # fmt: skip
    message = vendor.messages.create(**asked)
    assert message.content[0].type == "text" and message.content[0].text == '"mill"'
    with vendor.messages.stream(**asked) as stream:
        assert "".join(stream.text_stream) == '"mill"'
    final = stream.get_final_message()
    assert final.stop_reason == "end_turn" and final.usage.output_tokens == message.usage.output_tokens


def test_the_vendors_client_and_errors(vendor: AnthropicBedrock, server: Running) -> None:
    hello: Any = [{"role": "user", "content": "hello"}]
    with pytest.raises(anthropic.NotFoundError, match="no-such-model"):
        vendor.messages.create(model="no-such-model", max_tokens=1, messages=hello)
    with pytest.raises(anthropic.BadRequestError, match="max_tokens"):
        vendor.messages.create(model=MODEL, max_tokens=-1, messages=hello)
    broken: Any = [{"role": "user", "content": "break: overloaded_error"}]
    config: Any = {"format": {"type": "json_schema", "schema": WORD}}
    with (
        pytest.raises(anthropic.APIStatusError, match="the wheel broke"),
        vendor.messages.stream(model=MODEL, max_tokens=20, messages=broken, output_config=config) as stream,
    ):
        stream.until_done()
    stranger = AnthropicBedrock(api_key="wrong", aws_region="eu-west-1", base_url=server.url, max_retries=0)
    with stranger, pytest.raises(anthropic.PermissionDeniedError):
        stranger.messages.create(model=MODEL, max_tokens=1, messages=hello)
