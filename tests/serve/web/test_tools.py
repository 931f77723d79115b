"""What the server offers a page as tools, and the almanac it looks up for it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from starlette.testclient import TestClient

from publius.data.pocket.tools import TOOLS
from publius.data.pocket.world import PocketConfig, make_pocket
from publius.pipeline import testing_run
from publius.serve.app import create_app
from publius.serve.openapi import describe
from tests.serve.web.conftest import build


@pytest.fixture(scope="module")
def world(tmp_path_factory) -> Path:
    small = PocketConfig(
        towns=12,
        people=24,
        hazards_per_category=10,
        crafts=10,
        demonstrations=20,
        questions=24,
        comparisons=8,
    )
    return make_pocket(testing_run(tmp_path_factory.mktemp("world")), small).path


@pytest.fixture
def client(tmp_path, checkpoint):
    with TestClient(create_app(build(tmp_path, checkpoint, "")), base_url="http://localhost") as client:
        yield client


def grown_up(client: TestClient, world: Path) -> None:
    """Let the served model be one of a Pocket world."""
    hub = client.app.state.server.hub
    hub._served["publius-haiku"] = replace(hub.get("publius-haiku"), world=world)


def test_any_model_can_be_offered_a_calculator(client):
    [tool] = client.get("/web/tools").json()["tools"]
    assert (tool["name"], tool["runs"]) == ("calculator", "page")
    assert tool["input_schema"]["required"] == ["expression"]
    assert client.post("/tools/almanac", json={"model": "publius-haiku", "input": {}}).status_code == 404


def test_a_pocket_model_gets_its_tools_as_it_was_trained_with_them(client, world):
    grown_up(client, world)
    tools = client.get("/web/tools?model=publius-haiku").json()["tools"]
    assert [(t["name"], t["runs"]) for t in tools] == [("calculator", "page"), ("almanac", "server")]
    assert [{k: v for k, v in t.items() if k != "runs"} for t in tools] == [t.model_dump() for t in TOOLS]


def test_the_almanac_knows_birthdays_and_says_when_it_does_not(client, world):
    grown_up(client, world)
    person = next(
        line.split('"')[1] for line in (world / "almanac.json").read_text().splitlines() if '"' in line
    )

    def ask(said):
        body = {"model": "publius-haiku", "input": {"ask": said}}
        return client.post("/tools/almanac", json=body).json()

    found = ask(f"birthday of {person}")
    assert found["is_error"] is False and found["content"].endswith("month")
    assert ask("birthday of Nobody") == {"content": "the almanac does not know that name", "is_error": True}
    assert ask(7)["is_error"] is True


def test_unknown_models_and_bad_bodies_are_refused(client):
    assert client.get("/web/tools?model=nobody").status_code == 404
    assert client.post("/tools/almanac", json={"model": "publius-haiku"}).status_code == 400
    assert client.post("/tools/almanac", content=b"[]").status_code == 400


def test_the_endpoints_are_described(client):
    paths = describe(client.app)["paths"]
    assert {"/web/tools", "/tools/almanac", "/web/compare/say", "/web/redteam/found"} <= set(paths)
    assert "/" not in paths and "/web/chat.js" not in paths
