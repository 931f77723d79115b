"""The compare page and its endpoints, on the real server with a tiny model and the real store."""

from __future__ import annotations

import json

import pytest
from playwright.sync_api import expect
from starlette.testclient import TestClient

from publius.core.errors import UserError
from publius.core.messages import Conversation, assistant, user
from publius.data.pair_shapes import preferences_of
from publius.serve.app import create_app
from publius.serve.store import Store
from publius.serve.web.compare import Queue
from tests.serve.web.conftest import build


@pytest.fixture
def asked(tmp_path, checkpoint):
    """Ask an endpoint of an open server with a queue of two prompts; gives (status, body)."""
    prompts = tmp_path / "prompts.jsonl"
    prompts.write_text('{"prompt": "one"}\n\n{"messages": [{"role": "user", "content": "two"}]}\n')
    with TestClient(
        create_app(build(tmp_path, checkpoint, "", prompts)), base_url="http://localhost"
    ) as client:

        def ask(name, **body):
            answer = client.post(f"/web/compare/{name}", json={"rater": "ann", "max_tokens": 16, **body})
            return answer.status_code, answer.json()

        ask.client = client
        yield ask


def test_a_pair_is_shown_blind_and_kept_with_what_was_said(asked):
    status, first = asked("next")
    assert status == 200
    pair = first["pair"]
    assert pair["messages"] == [{"role": "user", "content": [{"type": "text", "text": "one"}]}]
    assert pair["left"] != pair["right"] and "haiku" not in json.dumps(first)
    assert first["progress"] | {"mine": 0, "left": 2, "queue": 2} == first["progress"]
    said = {
        "pair": pair["id"],
        "better": "left",
        "harm_left": 0,
        "harm_right": 3,
        "tags": ["kind"],
        "seconds": 4.5,
    }
    assert asked("say", **said)[1]["progress"]["mine"] == 1
    [record] = [json.loads(line) for line in asked.client.get("/web/compare/export").text.splitlines()]
    [preference] = preferences_of(record, "here")
    assert [block.model_dump() for block in preference.chosen.content] == [
        {**block, "signature": ""} if block["type"] == "thinking" else block for block in pair["left"]
    ]
    assert preference.prompt.meta["harm"] == {"chosen": 0, "rejected": 3}


def test_the_same_pair_again_until_it_is_compared_then_the_next(asked):
    first, again = asked("next")[1]["pair"], asked("next")[1]["pair"]
    assert first == again
    asked("say", pair=first["id"], better="tie")
    assert asked("next")[1]["pair"]["messages"][0]["content"][0]["text"] == "two"


def test_another_rater_gets_the_pairs_there_are_and_agreement_is_told(asked):
    pair = asked("next")[1]["pair"]
    asked("say", pair=pair["id"], better="left")
    seen = asked("next", rater="ben")[1]["pair"]
    assert seen["id"] == pair["id"]
    same = seen["left"] == pair["left"]
    _, after = asked("say", rater="ben", pair=pair["id"], better="left" if same else "right")
    assert after["progress"]["raters"] == 2
    assert (after["agreement"]["units"], after["agreement"]["ratings"]) == (1, 2)


def test_undo_gives_the_pair_back_as_it_was_marked(asked):
    pair = asked("next")[1]["pair"]
    asked("say", pair=pair["id"], better="right", harm_left=4, harm_right=1, tags=["a", "b"])
    _, back = asked("undo")
    assert back["pair"] == pair and back["progress"]["mine"] == 0
    assert back["said"] == {"better": "right", "harm_left": 4, "harm_right": 1, "tags": ["a", "b"]}
    assert asked("undo")[1]["pair"] is None


def test_a_prompt_of_ones_own_is_answered_twice(asked):
    _, own = asked("write", text="of my own", system="Be odd.")
    assert (own["pair"]["system"], own["pair"]["messages"][0]["content"][0]["text"]) == (
        "Be odd.",
        "of my own",
    )


@pytest.mark.parametrize(
    ("name", "body", "status", "says"),
    [
        ("say", {"pair": "pair_none", "better": "left"}, 400, "no such pair"),
        ("say", {"pair": "pair_none", "better": "up"}, 400, "better"),
        ("say", {"better": "left"}, 400, "pair"),
        ("write", {"text": ""}, 400, "text"),
        ("write", {"text": "x", "models": ["nobody"]}, 404, "nobody"),
        ("next", {"models": ["a", "b", "c"]}, 400, "models"),
        ("next", {"rater": "two\nlines"}, 400, "name"),
        ("next", {"rater": 5}, 400, "rater"),
    ],
)
def test_what_is_wrong_is_said(asked, name, body, status, says):
    got, told = asked(name, **body)
    assert got == status and says in told["error"]["message"], told


def test_an_unknown_model_leaves_the_prompt_in_the_queue(asked):
    assert asked("next", models=["nobody"])[0] == 404
    assert asked("next")[1]["pair"]["messages"][0]["content"][0]["text"] == "one"


def test_the_queue_forgets_what_the_store_has_pairs_of(tmp_path):
    path = tmp_path / "prompts.jsonl"
    path.write_text('{"prompt": "one"}\n{"prompt": "two"}\n')
    store = Store.open(f"sqlite:///{tmp_path / 'serve.sqlite'}")
    first = Queue(str(path), store)
    prompt = first.take()
    assert prompt is not None and first.left == 1
    store.comparisons.add_pair(prompt, assistant("a"), assistant("b"))
    store.comparisons.add_pair(Conversation(messages=(user("own"),)), assistant("a"), assistant("b"))
    again = Queue(str(path), store)
    assert (again.total, again.left) == (2, 1)
    assert again.take() == first.take()
    assert Queue("", store).take() is None


@pytest.mark.parametrize("line", ["{", "[1]", '{"nothing": 1}'])
def test_a_bad_line_of_the_queue_is_named(tmp_path, line):
    path = tmp_path / "prompts.jsonl"
    path.write_text('{"prompt": "one"}\n' + line + "\n")
    with pytest.raises(UserError, match=r"prompts.jsonl:2"):
        Queue(str(path), Store.open(f"sqlite:///{tmp_path / 'serve.sqlite'}"))


def test_keys_are_asked_for_and_name_the_rater(locked):
    with TestClient(create_app(locked.server), base_url="http://localhost") as client:
        for path in ("compare/next", "compare/undo", "compare/say", "compare/write", "redteam/about"):
            assert client.post(f"/web/{path}", json={}).status_code == 401
            assert client.post(f"/web/{path}", json={}, headers={"x-api-key": "other"}).status_code == 401
        assert client.get("/web/compare/export").status_code == 401
        assert client.get("/web/tools").status_code == 401
        assert client.post("/tools/almanac", json={}).status_code == 401
        assert client.get("/compare").status_code == 200
        made = locked.server.store.keys.create("ann", scopes=["label"])
        for key, name in ((locked.key, "zed"), (made.secret, "ann")):
            told = client.post("/web/compare/undo", json={"rater": "zed"}, headers={"x-api-key": key}).json()
            assert (told["rater"], told["own_key"]) == (name, name == "ann")
        assert (
            client.post("/web/redteam/about", json={}, headers={"x-api-key": made.secret}).status_code == 403
        )


def test_twenty_pairs_by_keyboard_with_undo(page, real):
    page.goto(f"{real.url}/compare")
    page.click("#set summary")
    page.fill("#rater", "ann")
    page.fill("#length", "24")
    page.click("#set summary")
    expect(page.locator(".answer")).to_have_count(2)
    for i in range(20):
        if i == 7:  # marks by hand, then a change of mind
            page.locator(".answer").first.get_by_label("3 serious").check()
            page.get_by_label("kind", exact=True).check()
            page.locator("h1").click()
        page.keyboard.press("213"[i % 3])
        expect(page.locator("#facts")).to_contain_text(f"{i + 1} compared by ann")
        if i == 7:
            before = page.locator(".said").inner_text()
            page.keyboard.press("u")
            expect(page.locator("#facts")).to_contain_text("7 compared by ann")
            assert page.locator(".said").inner_text() != before
            expect(page.locator(".answer").first.locator("input:checked")).to_have_value("3")
            expect(page.locator("input[value=kind]")).to_be_checked()
            expect(page.locator(".choices [aria-pressed=true]")).to_contain_text(
                "Left" if "213"[7 % 3] == "1" else ""
            )
            page.keyboard.press("3")
            expect(page.locator("#facts")).to_contain_text("8 compared by ann")
    expect(page.locator("#facts")).to_contain_text("4 left")
    said = [one for _, all in real.server.store.comparisons.all() for one in all]
    assert len(said) == 20 and {one.rater for one in said} == {"ann"}
    eighth = said[7]
    left, right = (eighth.harm_one, eighth.harm_other)[:: -1 if eighth.swapped else 1]
    assert (left, right, eighth.tags) == (3, None, ("kind",))
    assert eighth.better == ("one" if eighth.swapped else "other")
    assert {one.swapped for one in said} == {True, False}


def test_ones_own_prompt_from_the_page(page, real):
    page.goto(f"{real.url}/compare")
    expect(page.locator(".answer")).to_have_count(2)
    page.click("#own summary")
    page.fill("#text", "What of <b>my</b> mill?")
    page.click("#write")
    expect(page.locator(".said")).to_have_text("What of <b>my</b> mill?")
    page.click("text=A tie")
    expect(page.locator("#facts")).to_contain_text("1 compared by anonymous")
