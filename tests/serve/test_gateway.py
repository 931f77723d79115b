"""The gateway before two real servers: affinity, failover, a dead backend, streams, clients that leave.

Long because the same two servers stand behind all of it.
"""

from __future__ import annotations

import asyncio
import json
import threading
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import anthropic
import httpx2
import openai
import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from publius.core.errors import UserError
from publius.serve.app import create_app
from publius.serve.bedrock import eventstream
from publius.serve.config import ServeConfig
from publius.serve.gateway import Gateway, GatewayConfig
from publius.serve.gateway.affinity import Key, key_of, ordered, share
from publius.serve.gateway.replies import broken_frame, whole_frames
from publius.serve.hub import Target
from publius.serve.run import build
from tests.serve.servers import free_port, running

CHAT = "/v1/chat/completions"
CERTAIN = 10.0
"""Seconds after which what should have happened has not; nothing waits that long when all is well."""


@dataclass
class Small:
    """A small server that says who it is, and does as it is told in the first message."""

    name: str
    models: tuple[str, ...] = ("m",)
    seen: list[dict[str, Any]] = field(default_factory=list[dict[str, Any]])
    raw: list[tuple[bytes, dict[str, str]]] = field(default_factory=list[tuple[bytes, dict[str, str]]])
    go: threading.Event = field(default_factory=threading.Event)
    closed: threading.Event = field(default_factory=threading.Event)

    def app(self) -> Starlette:
        async def health(_: Request) -> Response:
            return Response("ok")

        async def models(request: Request) -> Response:
            listed = self.models[: int(request.query_params.get("limit", "20"))]
            page = [{"id": name, "object": "model", "owned_by": self.name} for name in listed]
            return JSONResponse({"object": "list", "data": page})

        async def batch(request: Request) -> Response:
            mine = request.path_params["id"] == self.name
            return JSONResponse({"id": self.name}, 200 if mine else 404)

        async def anything(request: Request) -> Response:
            self.raw.append((request.scope["raw_path"], dict(request.headers)))
            return JSONResponse({"who": self.name}, headers={"request-id": "req_kept", "x-own": "1"})

        return Starlette(
            routes=[
                Route("/health", health),
                Route("/v1/models", models),
                Route("/v1/messages/batches/{id}", batch),
                Route(CHAT, self.chat, methods=["POST"]),
                Route("/v1/messages", self.chat, methods=["POST"]),
                Route("/{rest:path}", anything, methods=["GET", "POST"]),
            ]
        )

    async def chat(self, request: Request) -> Response:
        body = await request.json()
        self.seen.append(body)
        told = body["messages"][0]["content"]
        if told.startswith(f"{self.name} is busy"):
            return JSONResponse({"error": "busy"}, 529)
        if told == "refuse":
            return JSONResponse({"error": "no"}, 429, headers={"retry-after": "7"})
        if told.startswith("stream"):
            return StreamingResponse(self.stream(told), media_type="text/event-stream")
        if told == "wait":
            while not self.go.is_set():
                await asyncio.sleep(0.01)
        return JSONResponse({"who": self.name})

    async def stream(self, told: str) -> AsyncIterator[bytes]:
        try:
            yield b"data: one\n\n"
            if told == "stream cut":
                yield b'data: {"ha'
                raise ConnectionResetError("as if the machine had gone")
            while told != "stream" and not self.go.is_set():
                await asyncio.sleep(0.01)
            yield b"data: two\n\n"
        finally:
            self.closed.set()


@contextmanager
def fronted(
    *smalls: Small, dead: int = 0, **config: Any
) -> Iterator[tuple[httpx2.Client, Gateway, list[str]]]:
    """A client of a gateway in front of `smalls`, and of `dead` addresses where nobody listens."""
    with ExitStack() as stack:
        urls = [stack.enter_context(running(small.app())) for small in smalls]
        urls += [f"http://127.0.0.1:{free_port()}" for _ in range(dead)]
        gateway = Gateway(GatewayConfig(tuple(urls), **{"interval": 0.1, **config}))
        address = stack.enter_context(running(gateway))
        yield stack.enter_context(httpx2.Client(base_url=address, timeout=CERTAIN)), gateway, urls


def said(text: str, *more: str, model: str = "m") -> dict[str, Any]:
    turns = [
        {"role": "user" if i % 2 == 0 else "assistant", "content": t} for i, t in enumerate((text, *more))
    ]
    return {"model": model, "messages": turns}


def within(true: Any) -> None:
    """Wait until it is true."""
    end = time.monotonic() + CERTAIN
    while not true():
        assert time.monotonic() < end
        time.sleep(0.01)


def metric(client: httpx2.Client, name: str) -> float:
    lines = client.get("/metrics").text.splitlines()
    return sum(float(line.split()[-1]) for line in lines if line.startswith(f"publius_gateway_{name}"))


def test_a_conversation_stays_where_it_began_and_conversations_spread() -> None:
    a, b = Small("a"), Small("b")
    with fronted(a, b) as (client, _, _):
        for number in range(24):
            grows = [f"question {number}"]
            owners = set()
            for turn in range(3):
                owners.add(client.post(CHAT, json=said(*grows)).json()["who"])
                grows += [f"answer {turn}", f"and {turn}?"]
            assert len(owners) == 1
    assert len(a.seen) + len(b.seen) == 72 and min(len(a.seen), len(b.seen)) >= 12


def test_a_dead_backend_is_gone_around_and_comes_back() -> None:
    a, b = Small("a"), Small("b")
    port = free_port()
    with running(a.app()) as alive, ExitStack() as later:
        gateway = Gateway(GatewayConfig((alive, f"http://127.0.0.1:{port}"), interval=0.1))
        with running(gateway) as address, httpx2.Client(base_url=address, timeout=CERTAIN) as client:
            assert {client.post(CHAT, json=said(str(i))).json()["who"] for i in range(8)} == {"a"}
            assert client.get("/health").json() == {"status": "ok", "up": 1, "backends": 2}
            later.enter_context(running(b.app(), port))
            within(lambda: client.get("/health").json()["up"] == 2)
            assert {client.post(CHAT, json=said(str(i))).json()["who"] for i in range(16)} == {"a", "b"}


def test_one_that_dies_between_two_looks_costs_no_request() -> None:
    a, b = Small("a"), Small("b")
    with running(a.app()) as first, ExitStack() as dying:
        second = dying.enter_context(running(b.app()))
        gateway = Gateway(GatewayConfig((first, second), interval=3600))
        with running(gateway) as address, httpx2.Client(base_url=address, timeout=CERTAIN) as client:
            bodies = [said(str(i)) for i in range(16)]
            assert {client.post(CHAT, json=body).json()["who"] for body in bodies} == {"a", "b"}
            dying.close()
            assert [client.post(CHAT, json=body).status_code for body in bodies] == [200] * 16
            assert metric(client, "retries_total") >= 1


def test_none_up_is_said_in_the_words_of_the_api() -> None:
    with fronted(dead=1) as (client, _, _):
        assert client.get("/health").status_code == 503
        messages = client.post("/v1/messages", json=said("x"))
        assert messages.status_code == 529 and messages.headers["retry-after"] == "2"
        assert messages.json()["error"]["type"] == "overloaded_error"
        assert messages.json()["request_id"] == messages.headers["request-id"]
        openai = client.post(CHAT, json=said("x"))
        assert openai.status_code == 503 and openai.json()["error"]["code"] == "overloaded"
        bedrock = client.post("/model/m/converse", json={"messages": []})
        assert bedrock.headers["x-amzn-errortype"] == "ServiceUnavailableException"


def test_a_busy_backend_is_left_for_another_and_the_last_answer_is_given() -> None:
    a, b = Small("a"), Small("b")
    with fronted(a, b) as (client, _, _):
        for busy, other in (("a", "b"), ("b", "a")):
            answers = [client.post(CHAT, json=said(f"{busy} is busy {i}")) for i in range(6)]
            assert {answer.json()["who"] for answer in answers} == {other}
        refused = client.post(CHAT, json=said("refuse"))
        assert refused.status_code == 429 and refused.headers["retry-after"] == "7"
        assert (
            sum(body == said("refuse") for body in a.seen + b.seen) == 1
        )  # the key's limit, not the server's
    with fronted(alone := Small("a")) as (client, _, _):
        assert client.post(CHAT, json=said("a is busy")).status_code == 529
        assert len(alone.seen) == 1


def test_a_full_backend_passes_to_the_next() -> None:
    a, b = Small("a"), Small("b")
    with fronted(a, b, spare=2, bound=1.0) as (client, gateway, _):
        waiting = [
            threading.Thread(target=client.post, args=(CHAT,), kwargs={"json": said("wait")})
            for _ in range(6)
        ]
        for thread in waiting:
            thread.start()
        within(lambda: len(a.seen) + len(b.seen) == 6)
        loads = sorted(backend.in_flight for backend in gateway.pool.backends)
        assert loads == [3, 3] and metric(client, "moved_total") >= 2
        a.go.set(), b.go.set()
        for thread in waiting:
            thread.join(CERTAIN)
        within(lambda: [backend.in_flight for backend in gateway.pool.backends] == [0, 0])


def test_a_stream_comes_as_it_is_said() -> None:
    small = Small("a")
    with fronted(small) as (client, _, _), client.stream("POST", CHAT, json=said("stream held")) as answer:
        pieces = answer.iter_raw()
        assert next(pieces) == b"data: one\n\n"  # the second has not been said yet
        assert answer.headers["content-type"].startswith("text/event-stream")
        small.go.set()
        assert next(pieces) == b"data: two\n\n"
        assert list(pieces) == []


def test_a_client_that_leaves_stops_the_backend() -> None:
    small = Small("a")
    with fronted(small) as (client, gateway, _):
        with client.stream("POST", CHAT, json=said("stream held")) as answer:
            assert next(answer.iter_raw()) == b"data: one\n\n"
        assert small.closed.wait(CERTAIN)
        within(lambda: gateway.pool.backends[0].in_flight == 0)
        within(lambda: metric(client, "gone_total") == 1)


@pytest.mark.parametrize("path", [CHAT, "/v1/messages"])
def test_a_stream_that_breaks_is_ended_by_protocol(path: str) -> None:
    with fronted(Small("a")) as (client, _, _):
        text = client.post(path, json=said("stream cut")).text
        first, last = text.removesuffix("\n\n").split("\n\n")
        assert first == "data: one"
        error = json.loads(last.split("data: ")[1])
        if path == CHAT:
            assert error["error"]["type"] == "server_error"
        else:
            assert last.startswith("event: error\n") and error["error"]["type"] == "api_error"
        assert metric(client, "broken_total") == 1


def test_models_decide_who_is_asked_and_are_listed_together() -> None:
    a, b = Small("a", ("m", "left")), Small("b", ("m", "right"))
    with fronted(a, b) as (client, _, _):
        page = client.get("/v1/models").json()
        assert [model["id"] for model in page["data"]] == ["m", "left", "right"]
        assert page["object"] == "list" and page["first_id"] == "m" and page["last_id"] == "right"
        for model, owner in (("left", "a"), ("right", "b")):
            answers = {client.post(CHAT, json=said(str(i), model=model)).json()["who"] for i in range(6)}
            assert answers == {owner}
        answers = {client.post(CHAT, json=said(str(i), model="unheard")).status_code for i in range(4)}
        assert answers == {200}  # a backend says itself what it does not know


def test_models_of_all_backends_come_in_pages_of_the_size_asked_for() -> None:
    ids = [f"m{number:02}" for number in range(45)]
    with fronted(Small("a", tuple(ids[:25])), Small("b", tuple(ids[20:]))) as (client, _, _):
        found, query = list[str](), "limit=10"
        for more in (True, True, True, True, False):
            answer = client.get(f"/v1/models?{query}")
            page, found = answer.json(), [*found, *(model["id"] for model in answer.json()["data"])]
            assert page["has_more"] is more and page["last_id"] == found[-1] and len(page["data"]) <= 10
            assert answer.headers["request-id"].startswith("req_")
            query = f"limit=10&after_id={page['last_id']}"
        assert found == ids
        assert len(client.get("/v1/models").json()["data"]) == 20
        back = client.get("/v1/models?limit=3&before_id=m30").json()
        assert [model["id"] for model in back["data"]] == ["m27", "m28", "m29"] and back["has_more"]
        assert not client.get("/v1/models?limit=3&before_id=m03").json()["has_more"]
        refused = client.get("/v1/models?limit=0")
        assert refused.status_code == 400 and refused.json()["error"]["message"].startswith("limit: ")
        assert refused.json()["request_id"] == refused.headers["request-id"]


def test_path_query_headers_and_request_id_are_kept_as_they_are() -> None:
    small = Small("a")
    with fronted(small) as (client, _, _):
        path = "/model/arn%3Aaws%3Abedrock%2Fm:0/converse?beta=true&x=%20"
        headers = {
            "authorization": "Bearer k",
            "x-api-key": "k",
            "host": "models.example",
            "x-request-id": "mine",
        }
        answer = client.post(path, json={"messages": []}, headers=headers)
    assert answer.headers["request-id"] == "req_kept" and answer.headers["x-own"] == "1"
    raw, got = small.raw[0]
    assert raw == b"/model/arn%3Aaws%3Abedrock%2Fm:0/converse"
    assert headers.items() <= got.items() and got["content-length"] == str(len(b'{"messages":[]}'))


def test_a_batch_is_found_wherever_it_is() -> None:
    with fronted(Small("a"), Small("b")) as (client, _, _):
        for name in ("a", "b"):
            assert client.get(f"/v1/messages/batches/{name}").json() == {"id": name}
        assert client.get("/v1/messages/batches/c").status_code == 404


def test_publius_itself_behind_it(checkpoint: Path, tmp_path: Path) -> None:
    with ExitStack() as stack:
        urls: list[str] = []
        for name in ("a", "b"):
            config = ServeConfig(unreleased=True, rows=8, store=f"sqlite:///{tmp_path / name}.db")
            server = build(config, [Target("tiny", str(checkpoint))], home=tmp_path, key="k")
            stack.callback(server.store.close)
            urls.append(stack.enter_context(running(create_app(server))))
        address = stack.enter_context(running(Gateway(GatewayConfig(tuple(urls), key="k", interval=0.1))))
        client = stack.enter_context(openai.OpenAI(base_url=f"{address}/v1", api_key="k", max_retries=0))
        native = stack.enter_context(anthropic.Anthropic(base_url=address, api_key="k", max_retries=0))
        assert [model.id for model in client.models.list()] == ["tiny"]
        for number in range(6):
            talk: list[Any] = [{"role": "user", "content": f"{number}: the mill by the river, and the owls"}]
            for turn in range(3):
                chunks = client.chat.completions.create(
                    model="tiny",
                    messages=talk,
                    max_tokens=4,
                    stream=True,
                    stream_options={"include_usage": True},
                )
                *_, last = chunks
                assert last.usage is not None and last.usage.prompt_tokens_details is not None
                assert turn == 0 or (last.usage.prompt_tokens_details.cached_tokens or 0) >= 32
                talk += [{"role": "assistant", "content": "so?"}, {"role": "user", "content": "go on"}]
        message = native.messages.create(model="tiny", max_tokens=4, messages=talk[:1])
        assert message.usage.output_tokens >= 1 and message._request_id is not None
        with pytest.raises(anthropic.NotFoundError):
            native.messages.create(model="absent", max_tokens=4, messages=talk[:1])
        with pytest.raises(openai.AuthenticationError):
            client.with_options(api_key="wrong").models.list()
        with pytest.raises(anthropic.AuthenticationError) as caught:
            native.with_options(api_key="wrong").models.list()
        assert caught.value.request_id == caught.value.response.json()["request_id"]


def test_too_large_is_refused() -> None:
    with fronted(Small("a")) as (client, _, _):
        answer = client.post("/v1/messages", content=b"x" * ((32 << 20) + 1))
        assert answer.status_code == 413 and answer.json()["error"]["type"] == "request_too_large"


def test_keys_are_what_stays_as_a_conversation_grows() -> None:
    def key(path: str, **body: Any) -> Key:
        return key_of(path, json.dumps({"model": "m", **body}).encode())

    turns = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]
    assert key(CHAT, messages=turns) == key(CHAT, messages=turns[:1], temperature=1)
    assert key(CHAT, messages=turns).digest != key(CHAT, messages=turns[1:]).digest
    system = [{"role": "system", "content": "s"}]
    assert key(CHAT, messages=system + turns) == key(CHAT, messages=system + turns[:1])
    assert key(CHAT, messages=system + turns) != key(CHAT, messages=system + turns[1:])
    assert key("/v1/messages", messages=turns, system="s") != key("/v1/messages", messages=turns, system="t")
    assert key("/v1/messages", messages=turns, tools=[{"name": "x"}]) != key("/v1/messages", messages=turns)
    assert key("/v1/completions", prompt="z" * 600) == key("/v1/completions", prompt="z" * 700)
    assert key("/v1/completions", prompt=[[1, 2]]) == key("/v1/completions", prompt=[1, 2])
    assert key_of("/model/a%3Ab/converse", b'{"messages":[]}').model == "a:b"
    batch = {"requests": [{"custom_id": "1", "params": {"model": "n", "messages": turns}}]}
    assert key_of("/v1/messages/batches", json.dumps(batch).encode()).model == "n"
    for odd in (b"", b"[]", b"\xff", b"[" * 100_000, b'{"messages":3,"model":[]}', b'{"prompt":{}}'):
        assert key_of(CHAT, odd).model is None


def test_one_backend_less_moves_only_what_was_its_own() -> None:
    keys = [Key(None, bytes([i, j])) for i in range(20) for j in range(20)]
    three = {key: ordered(key, ["a", "b", "c"]) for key in keys}
    for key, order in three.items():
        assert ordered(key, ["c", "a"]) == [name for name in order if name != "b"]
    firsts = [order[0] for order in three.values()]
    assert min(map(firsts.count, "abc")) > 80


def test_shares() -> None:
    assert share(0, 2, bound=1.25, spare=8) == 8
    assert share(99, 2, bound=1.25, spare=8) == 63
    assert share(5, 2, bound=1.0, spare=0) == 3


@pytest.mark.parametrize(
    "config",
    [
        {"backends": ()},
        {"backends": ("ftp://a",)},
        {"backends": ("http://k@a",)},
        {"backends": ("http://a", "http://a/")},
        {"backends": ("http://a",), "bound": 0.5},
        {"backends": ("http://a",), "interval": float("nan")},
    ],
)
def test_a_config_that_cannot_be_is_refused(config: dict[str, Any]) -> None:
    with pytest.raises(UserError):
        GatewayConfig(**config)


def test_a_model_is_asked_after_where_it_is_served_and_bedrock_may_call_it_as_it_does() -> None:
    a, b = Small("a", ("left",)), Small("b", ("right",))
    with fronted(a, b) as (client, _, _):
        for model, owner in (("left", "a"), ("right", "b")):
            assert client.get(f"/v1/models/{model}").json() == {"who": owner}
            for number in range(6):
                body = {"messages": [{"role": "user", "content": [{"text": str(number)}]}]}
                for name in (f"eu.anthropic.{model}-v1%3A0", f"arn%3Aaws%3Abedrock%3Aeu%3A1%3Ap%2F{model}"):
                    assert client.post(f"/model/{name}/converse", json=body).json() == {"who": owner}


def test_a_batch_a_proxy_may_have_passed_on_is_not_sent_twice() -> None:
    asked = list[str]()

    def answering(name: str, status: int) -> Starlette:
        async def batches(_: Request) -> Response:
            asked.append(name)
            return JSONResponse({"who": name}, status)

        async def health(_: Request) -> Response:
            return Response("ok")

        routes = [Route("/v1/messages/batches", batches, methods=["POST"]), Route("/health", health)]
        return Starlette(routes=routes)

    for status, tries in ((502, 1), (504, 1), (503, 2), (529, 2)):
        asked.clear()
        with (
            running(answering("a", status)) as a,
            running(answering("b", status)) as b,
            running(Gateway(GatewayConfig((a, b)))) as url,
        ):
            answer = httpx2.post(f"{url}/v1/messages/batches", json={"requests": []})
        assert (answer.status_code, len(asked)) == (status, tries)


def test_frames_pass_whole_and_a_bedrock_stream_that_breaks_ends_with_an_exception() -> None:
    one, two = eventstream.event("messageStart", {"role": "assistant"}), eventstream.event("metadata", {})
    kind = eventstream.MEDIA_TYPE
    for end in range(len(one + two) + 1):
        whole = len(one + two) if end == len(one + two) else len(one) if end >= len(one) else 0
        assert whole_frames(kind, (one + two)[:end]) == whole
    assert whole_frames(kind, b"\0\0\0\1 no frames") == whole_frames("text/plain", b"no frames yet!") == 14
    assert whole_frames("text/event-stream", b"data: a\n\ndata") == 9
    (frame,), rest = eventstream.decode(broken_frame("/model/m/converse-stream", kind) or b"")
    assert frame.headers[":exception-type"] == "internalServerException" and not rest


def test_a_compressed_stream_that_breaks_is_cut_off() -> None:
    async def cut(_: Request) -> Response:
        async def said() -> AsyncIterator[bytes]:
            yield b"\x1f\x8b"
            raise ConnectionResetError("as if the machine had gone")

        headers = {"content-encoding": "gzip", "content-type": "text/event-stream"}
        return StreamingResponse(said(), headers=headers)

    async def health(_: Request) -> Response:
        return Response("ok")

    app = Starlette(routes=[Route(CHAT, cut, methods=["POST"]), Route("/health", health)])
    with (
        running(app) as a,
        running(Gateway(GatewayConfig((a,)))) as url,
        pytest.raises(httpx2.RemoteProtocolError),
        httpx2.stream("POST", url + CHAT, json={}) as answer,
    ):
        list(answer.iter_raw())
