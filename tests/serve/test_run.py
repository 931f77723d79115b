"""What a server process may be started with."""

from __future__ import annotations

import asyncio
import json
import logging
import socket
from pathlib import Path

import pytest
import uvicorn
from starlette.types import Receive, Scope, Send

from publius.core.errors import UserError
from publius.serve.config import ServeConfig
from publius.serve.hub import Target
from publius.serve.run import QuietUvicorn, _Lines, build, serve


def test_what_others_could_reach_needs_a_key_and_a_decision(checkpoint: Path, tmp_path: Path):
    targets = [Target(None, str(checkpoint))]
    with pytest.raises(UserError, match=r"would be served on 0\.0\.0\.0"):
        build(ServeConfig(host="0.0.0.0", unreleased=True), targets, home=tmp_path, key="k")
    with pytest.raises(UserError, match="open to everyone"):
        build(ServeConfig(host="0.0.0.0"), targets, home=tmp_path)


def test_a_server_without_keys_is_open_to_this_machine_only_by_its_own_name(checkpoint: Path, tmp_path: Path):
    from tests.serve.serving import Spoken

    with Spoken(checkpoint, tmp_path, key=None) as spoken:
        assert spoken.ask().status_code == 200
        stranger = spoken.send("GET", "/v1/models", host="evil.example")
        assert stranger.status_code == 403 and stranger.json()["error"]["type"] == "permission_error"


def test_log_lines_are_json_with_what_was_given_beside_the_message():
    record = logging.makeLogRecord(
        {"msg": "exchange", "levelname": "INFO", "request_id": "req_1", "output": 3}
    )
    line = json.loads(_Lines().format(record))
    assert line["message"] == "exchange" and line["request_id"] == "req_1" and line["output"] == 3


def test_the_port_is_told_once_it_is_open():
    told: list[int] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        raise AssertionError("nobody asks")

    web = QuietUvicorn(
        uvicorn.Config(app, port=0, lifespan="off", log_level="critical"), lambda port: listening(port)
    )

    def listening(port: int) -> None:
        with socket.create_connection(("127.0.0.1", port), 10):
            told.append(port)
        asyncio.get_running_loop().call_soon(setattr, web, "should_exit", True)  # enough

    asyncio.run(web.serve())
    assert told != [0] and len(told) == 1


def test_a_certificate_that_is_none_is_named(checkpoint: Path, tmp_path: Path):
    (tmp_path / "bad.pem").write_text("no")
    files = (tmp_path / "bad.pem", tmp_path / "bad.pem")
    server = build(ServeConfig(unreleased=True, port=0), [Target(None, str(checkpoint))], home=tmp_path)
    with pytest.raises(UserError, match="certificate cannot be used") as error:
        serve(server, certificate=files)
    assert "bad.pem" in (error.value.where or "")
