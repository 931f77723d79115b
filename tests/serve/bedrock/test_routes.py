"""What a plain HTTP client sees: paths as they were sent, errors in Bedrock's words, nothing but answers."""

from __future__ import annotations

import http.client
import json
import re
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import quote, urlsplit

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from publius.serve.bedrock.eventstream import decode
from publius.serve.store import Limits, Store
from tests.serve.bedrock.running import ARN, AWS_KEYS, KEY, MODEL, Running, running

BEARER = {"authorization": f"Bearer {KEY}"}
CONVERSE = {"messages": [{"role": "user", "content": [{"text": "hi"}]}], "inferenceConfig": {"maxTokens": 2}}
SCHEMA = {"jsonSchema": {"schema": json.dumps({"type": "string", "enum": ["mill"]})}}
WORD = {"outputConfig": {"textFormat": {"type": "json_schema", "structure": SCHEMA}}}
INVOKE = {
    "anthropic_version": "bedrock-2023-05-31",
    "max_tokens": 2,
    "messages": [{"role": "user", "content": "hi"}],
}


class Answer(NamedTuple):
    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def error(self) -> tuple[int, str, str]:
        """Status, exception, message."""
        return self.status, self.headers["x-amzn-errortype"], json.loads(self.body)["message"]


def ask(
    server: Running,
    path: str,
    body: Any = CONVERSE,
    headers: dict[str, str] | None = None,
    method: str = "POST",
) -> Answer:
    """One request as given: the path is not encoded again, and no header is added."""
    connection = http.client.HTTPConnection(urlsplit(server.url).netloc, timeout=60)
    try:
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        connection.request(method, path, data, BEARER if headers is None else headers)
        response = connection.getresponse()
        return Answer(response.status, {k.lower(): v for k, v in response.getheaders()}, response.read())
    finally:
        connection.close()


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    with running(tmp_path_factory.mktemp("routes"), aws_keys=AWS_KEYS, body_bytes=200_000) as server:
        yield server


@pytest.mark.parametrize(
    "model",
    [MODEL, ARN, quote(ARN, safe=""), quote(ARN, safe=":;"), f"{MODEL}%3A0", f"{MODEL}:0", "%70ublius-haiku"],
)
@pytest.mark.parametrize(("operation", "body"), [("converse", CONVERSE), ("invoke", INVOKE)])
def test_ids_in_paths(server: Running, model: str, operation: str, body: Any) -> None:
    answer = ask(server, f"/model/{model}/{operation}", body)
    assert answer.status == 200 and answer.headers["x-amzn-requestid"]


@pytest.mark.parametrize("query", ["", "?beta=true"])
def test_streams_say_what_they_are(server: Running, query: str) -> None:
    for operation, body in (("converse-stream", CONVERSE), ("invoke-with-response-stream", INVOKE)):
        answer = ask(server, f"/model/{MODEL}/{operation}{query}", body)
        assert answer.headers["content-type"] == "application/vnd.amazon.eventstream"
        assert answer.headers["x-amzn-bedrock-content-type"] == "application/json"
        frames, rest = decode(answer.body)
        assert frames and not rest


@pytest.mark.parametrize("operation", ["converse", "converse-stream"])
def test_thinking_left_out_is_in_no_additional_field(server: Running, operation: str) -> None:
    thinking = {"type": "enabled", "budget_tokens": 1024, "display": "omitted"}
    body = {
        **CONVERSE,
        "inferenceConfig": {"maxTokens": 1025},
        "additionalModelRequestFields": {"thinking": thinking},
        "additionalModelResponseFieldPaths": ["/content"],
    }
    answer = ask(server, f"/model/{MODEL}/{operation}", body)
    if operation == "converse":
        told = json.loads(answer.body)
    else:
        told = json.loads(decode(answer.body)[0][-2].payload)
    block = told["additionalModelResponseFields"]["content"][0]
    assert block["type"] == "thinking" and block["thinking"] == "" and block["signature"]


@pytest.mark.parametrize("model", ["nobody", "", "a%2Fb", "%FF", "..", quote("né/ü")])
def test_models_that_are_not_served(server: Running, model: str) -> None:
    status, exception, _ = ask(server, f"/model/{model}/converse").error
    assert (status, exception) == (404, "ResourceNotFoundException")


def test_what_is_no_operation(server: Running) -> None:
    assert ask(server, f"/model/{MODEL}/dance").error[:2] == (404, "ResourceNotFoundException")
    assert ask(server, f"/model/{MODEL}/converse", method="GET").error[:2] == (400, "ValidationException")


@pytest.mark.parametrize(
    ("headers", "exception"),
    [
        ({}, "MissingAuthenticationTokenException"),
        ({"authorization": "Basic eDp5"}, "MissingAuthenticationTokenException"),
        ({"authorization": "Bearer wrong"}, "AccessDeniedException"),
        ({"x-api-key": "wrong"}, "AccessDeniedException"),
        ({"authorization": "AWS4-HMAC-SHA256 Credential=x"}, "IncompleteSignatureException"),
    ],
)
@pytest.mark.parametrize(
    "operation", ["invoke", "invoke-with-response-stream", "converse", "converse-stream", "count-tokens"]
)
def test_every_operation_wants_credentials(
    server: Running, headers: dict[str, str], exception: str, operation: str
) -> None:
    for model in (MODEL, "nobody"):
        assert ask(server, f"/model/{model}/{operation}", headers=headers).error[:2] == (403, exception)


def test_an_access_key_may_be_a_key_of_the_store(tmp_path: Path) -> None:
    """It then has that key's limits, and ends with it."""
    store = Store.open(f"sqlite:///{tmp_path / 'keys.sqlite'}")
    made, _ = store.keys.create("miller", limits=Limits(requests_per_minute=2))
    with (
        running(tmp_path, store=f"sqlite:///{tmp_path / 'keys.sqlite'}", aws_keys={made.id: "s"}) as server,
        closing(server.boto3(made.id, "s")) as client,
    ):
        converse = partial(client.converse, modelId=MODEL, **CONVERSE)
        converse()
        converse()
        with pytest.raises(client.exceptions.ThrottlingException, match="2 requests a minute"):
            converse()
        store.keys.revoke("miller")
        time.sleep(0.3)  # a server looks five times a second
        with pytest.raises(client.exceptions.AccessDeniedException, match="revoked"):
            converse()


def test_a_key_in_the_other_header(server: Running) -> None:
    assert ask(server, f"/model/{MODEL}/converse", headers={"x-api-key": KEY}).status == 200


@pytest.mark.parametrize(
    ("body", "words"),
    [
        (b"", "empty"),
        (b"{", "not valid JSON"),
        (b"[]", "must be a JSON object"),
        (b"\xff\xfe", "UTF-8"),
        (b'{"messages": ' + b"[" * 200 + b"]" * 200 + b"}", "nested"),
        (b'{"messages": [{"role": "user", "content": [{"text": "\\ud800"}]}]}', "surrogate"),
        (b'{"x": "' + b"x" * 200_000 + b'"}', "maximum size"),
    ],
)
def test_bodies_that_cannot_be_read(server: Running, body: bytes, words: str) -> None:
    for operation in ("converse", "invoke", "count-tokens"):
        status, exception, message = ask(server, f"/model/{MODEL}/{operation}", body).error
        assert (status, exception) == (400, "ValidationException") and words in message


def test_count_tokens_reads_the_body_within(server: Running) -> None:
    wrong = (("**", "not base64"), ("W10=", "must be a JSON object"), ("e30=", "anthropic_version"))
    for inner, words in wrong:
        body = {"input": {"invokeModel": {"body": inner}}}
        status, exception, message = ask(server, f"/model/{MODEL}/count-tokens", body).error
        assert (status, exception) == (400, "ValidationException") and words in message


NAMES = [
    "messages",
    "role",
    "user",
    "content",
    "text",
    "system",
    "toolConfig",
    "tools",
    "toolSpec",
    "name",
    "type",
    "inputSchema",
    "json",
    "max_tokens",
    "anthropic_version",
    "bedrock-2023-05-31",
    "thinking",
    "toolUse",
    "additionalModelRequestFields",
    "inferenceConfig",
    "maxTokens",
    "cachePoint",
    "toolResult",
    "input",
    "converse",
    "invokeModel",
    "body",
    "outputConfig",
    "textFormat",
    "structure",
    "jsonSchema",
    "schema",
    "document",
    "source",
    "bytes",
    "display",
    "output_config",
    "toolUseId",
]
LEAVES = (
    st.none()
    | st.booleans()
    | st.integers(-5, 5)
    | st.sampled_from(NAMES)
    | st.text(max_size=5)
    | st.floats()
)
HOSTILE = st.recursive(
    LEAVES,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(NAMES), inner, max_size=4),
    max_leaves=12,
)


def grafted(base: Any, data: st.DataObject) -> Any:
    """`base` with something else in one place of it."""
    if isinstance(base, dict) and base and data.draw(st.booleans()):
        key = data.draw(st.sampled_from(sorted(base)))
        return {**base, key: grafted(base[key], data)}
    if isinstance(base, list) and base and data.draw(st.booleans()):
        return [grafted(base[0], data), *base[1:]]
    hostile = data.draw(HOSTILE)
    return {**base, **hostile} if isinstance(base, dict) and isinstance(hostile, dict) else hostile


@settings(max_examples=150)
@given(data=st.data())
def test_no_body_breaks_it(server: Running, data: st.DataObject) -> None:
    operation = data.draw(st.sampled_from(["invoke", "converse", "converse-stream", "count-tokens"]))
    base: Any = {"invoke": INVOKE, "count-tokens": {"input": {"converse": CONVERSE}}}.get(operation, CONVERSE)
    answer = ask(server, f"/model/{MODEL}/{operation}", grafted(base, data))
    assert answer.status in (200, 400) and b"internalServerException" not in answer.body
    if answer.status == 400:
        assert answer.headers["x-amzn-errortype"] == "ValidationException"


def metric(server: Running, name: str) -> float:
    """The sum of all lines of a metric that begin with `name`."""
    lines = ask(server, "/metrics", method="GET").body.decode().splitlines()
    return sum(float(line.rsplit(" ", 1)[1]) for line in lines if line.startswith(name))


def wait_until(true: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline and not true():
        time.sleep(0.05)


@pytest.mark.parametrize("operation", ["converse", "converse-stream"])
def test_a_client_that_leaves_ends_its_reply(server: Running, operation: str) -> None:
    cancelled = 'publius_replies_total{model="publius-haiku",stop_reason="cancelled"}'
    before = metric(server, cancelled)
    body = json.dumps({"messages": [{"role": "user", "content": [{"text": "wait"}]}], **WORD})
    with closing(http.client.HTTPConnection(urlsplit(server.url).netloc, timeout=60)) as connection:
        connection.request("POST", f"/model/{MODEL}/{operation}", body, BEARER)
        wait_until(lambda: metric(server, "publius_replies_in_flight") == 1)
    wait_until(lambda: metric(server, cancelled) > before)
    assert metric(server, cancelled) == before + 1 and metric(server, "publius_replies_in_flight") == 0


def test_openapi_has_the_operations(server: Running) -> None:
    document = json.loads(ask(server, "/openapi.json", method="GET").body)
    for operation in ("invoke", "invoke-with-response-stream", "converse", "converse-stream", "count-tokens"):
        post = document["paths"][f"/model/{{model_id}}/{operation}"]["post"]
        assert [parameter["name"] for parameter in post["parameters"]] == ["model_id"]
        schema = post["requestBody"]["content"]["application/json"]["schema"]
        assert schema["required"] and "model" not in schema["properties"]
    references = re.findall(r'"\$ref": "#/components/schemas/([^"]+)"', json.dumps(document))
    assert set(references) <= set(document["components"]["schemas"])


def test_a_failure_nobody_foresaw_leaves_its_connection_open(server: Running) -> None:
    broken = json.dumps(
        {**CONVERSE, "messages": [{"role": "user", "content": [{"text": "break: unforeseen"}]}], **WORD}
    )
    connection = http.client.HTTPConnection(urlsplit(server.url).netloc, timeout=60)
    connection.auto_open = 0  # closed by the server is an error
    connection.connect()
    try:
        for _ in range(3):
            connection.request("POST", f"/model/{MODEL}/converse", broken, BEARER)
            response = connection.getresponse()
            assert response.status == 500 and b"secret" not in response.read()
            assert not response.will_close
    finally:
        connection.close()
