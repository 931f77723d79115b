"""The pages as files: their policy, their tags, and that they ask nobody else."""

from __future__ import annotations

import re
from importlib import resources
from pathlib import Path

import pytest
from fastapi import FastAPI
from starlette.testclient import TestClient

from publius.serve.web.pages import POLICY, pages

FOLDER = Path(str(resources.files("publius.serve.web")))
FILES = sorted(p for p in FOLDER.iterdir() if p.suffix in (".html", ".css", ".js"))
PAGES = ("/", "/compare", "/redteam")
# names of things, which nobody fetches
NAMES = ("http://www.w3.org/2000/svg",)


@pytest.fixture(scope="module")
def client() -> TestClient:
    app = FastAPI()
    app.include_router(pages())
    return TestClient(app)


@pytest.mark.parametrize("path", [*PAGES, "/web/style.css", "/web/chat.js"])
def test_every_answer_carries_the_policy(client, path):
    answer = client.get(path)
    assert answer.status_code == 200
    assert answer.headers["content-security-policy"] == POLICY
    assert "unsafe" not in POLICY and POLICY.startswith("default-src 'none'")
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert answer.headers["referrer-policy"] == "no-referrer"
    assert answer.headers["content-type"].endswith("charset=utf-8")


def test_an_unchanged_file_is_not_sent_again(client):
    first = client.get("/web/style.css")
    again = client.get("/web/style.css", headers={"if-none-match": f'"other", W/{first.headers["etag"]}'})
    assert (again.status_code, again.content) == (304, b"")
    assert again.headers["etag"] == first.headers["etag"]
    assert client.get("/web/style.css", headers={"if-none-match": '"other"'}).content == first.content
    assert client.get("/web/chat.js").headers["etag"] != first.headers["etag"]


def test_a_head_request_has_the_headers_and_no_body(client):
    answer = client.head("/")
    assert (answer.status_code, answer.content) == (200, b"")
    assert answer.headers["etag"] == client.get("/").headers["etag"]


def test_nothing_else_in_the_folder_is_served(client):
    for name in ("pages.py", "__init__.py", "header.html", "chat.html", "../server.py", "%2e%2e/server.py"):
        assert client.get(f"/web/{name}").status_code == 404


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_no_file_names_another_server(path):
    text = path.read_text("utf-8")
    for name in NAMES:
        text = text.replace(name, "")
    assert re.findall(r"""(?:https?:)?//[\w-]+\.\w[^\s"'`]*""", text) == []


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_no_file_reads_text_as_markup_or_code(path):
    text = path.read_text("utf-8")
    assert (
        re.findall(r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|\beval\(|new Function", text)
        == []
    )
    assert re.findall(r"""\s(?:style|on\w+)=["']""", text) == []
    assert len(text.splitlines()) <= 400


@pytest.mark.parametrize("path", PAGES)
def test_every_file_a_page_needs_is_there(client, path):
    wanted, seen = set(re.findall(r'(?:src|href)="(/[^"#]*)"', client.get(path).text)), set()
    assert "/web/style.css" in wanted
    while wanted - seen:
        name = min(wanted - seen)
        seen.add(name)
        answer = client.get(name)
        assert answer.status_code == 200, name
        if name.endswith(".js"):
            wanted |= {f"/web/{one}" for one in re.findall(r'from "\./([^"]+)"', answer.text)}
    assert {f"/web/{p.name}" for p in FILES if p.suffix == ".css"} <= seen


def test_every_script_is_used_by_some_page(client):
    imported = set(re.findall(r'from "\./([^"]+)"', "".join(p.read_text("utf-8") for p in FILES)))
    loaded = set(re.findall(r'src="/web/([^"]+)"', "".join(client.get(path).text for path in PAGES)))
    assert {p.name for p in FILES if p.suffix == ".js"} == imported | loaded


@pytest.mark.parametrize("path", PAGES)
def test_a_page_marks_itself_in_the_header(client, path):
    html = client.get(path).text
    assert re.findall(r'<a href="([^"]+)" aria-current="page"', html) == [path]
    ids = re.findall(r'\sid="([^"]+)"', html)
    assert len(ids) == len(set(ids))
    assert set(re.findall(r'(?:for|aria-controls|aria-labelledby|aria-describedby)="([^"]+)"', html)) <= set(
        ids
    )


def test_every_element_a_script_names_is_on_its_page(client):
    names = {
        "/": "chat settings conversations page dom",
        "/compare": "compare page dom",
        "/redteam": "redteam page dom",
    }
    for path, scripts in names.items():
        html = client.get(path).text
        text = "".join((FOLDER / f"{name}.js").read_text("utf-8") for name in scripts.split())
        made = set(re.findall(r'\bid: "([^"]+)"', text))
        asked = set(re.findall(r'\$\("([^"]+)"\)', text)) - made
        assert asked - set(re.findall(r'\sid="([^"]+)"', html)) == set(), path
