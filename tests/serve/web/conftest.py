"""Fixtures: a browser, a server that follows a script, and the real one with a tiny model."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest
from playwright.sync_api import Browser, BrowserContext, Page, sync_playwright

from publius.model.checkpoint import save_checkpoint
from publius.serve.app import create_app
from publius.serve.config import ServeConfig
from publius.serve.guard import Guard
from publius.serve.hub import Hub, Target
from publius.serve.server import Server
from publius.serve.store import Store
from publius.testing import byte_tokenizer, tiny_model
from tests.serve.web.scripted import Scripted, serving

CHROMIUM = Path("/usr/bin/chromium")
QUIET = (
    "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync",
)  # fmt: skip
PROMPTS = [{"prompt": f"Say something about mill {i}."} for i in range(24)]


class Real(NamedTuple):
    """The real server, where it answers, and a key that may do everything ("" when it is open)."""

    server: Server
    url: str
    key: str


@pytest.fixture(scope="module")
def chromium() -> Iterator[Browser]:
    """One for each file: while it is open its event loop counts as running, and others' tests need theirs."""
    if not CHROMIUM.exists():
        pytest.skip(f"no browser at {CHROMIUM}")
    with sync_playwright() as play:
        browser = play.chromium.launch(executable_path=CHROMIUM, args=list(QUIET))
        yield browser
        browser.close()


@pytest.fixture
def context(chromium: Browser) -> Iterator[BrowserContext]:
    """A browser without history. What it asks of any other server than the tests' own fails the test."""
    context = chromium.new_context(viewport={"width": 1280, "height": 860}, reduced_motion="reduce")
    strangers: list[str] = []
    context.on(
        "request",
        lambda asked: (
            None
            if asked.url.startswith(("http://127.0.0.1:", "data:", "blob:"))
            else strangers.append(asked.url)
        ),
    )
    yield context
    context.close()
    assert strangers == []


@pytest.fixture
def page(context: BrowserContext) -> Iterator[Page]:
    """A page on which nothing may go wrong that nobody foresaw, the policy's complaints included."""
    page = context.new_page()
    page.set_default_timeout(20_000)
    wrong: list[str] = []
    page.on("pageerror", lambda error: wrong.append(str(error)))
    page.on(
        "console", lambda said: wrong.append(said.text) if "Content Security Policy" in said.text else None
    )
    yield page
    assert wrong == []


@pytest.fixture
def scripted() -> Scripted:
    return Scripted()


@pytest.fixture
def url(scripted: Scripted) -> Iterator[str]:
    with serving(scripted.app) as address:
        yield address


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Small embeddings: it draws almost evenly, so that no two replies are alike."""
    folder = tmp_path_factory.mktemp("tiny") / "model"
    save_checkpoint(folder, tiny_model(scale=1.0, max_position=8192), byte_tokenizer())
    return folder


def build(folder: Path, checkpoint: Path, key: str, prompts: Path | None = None) -> Server:
    """The real parts around a model of random weights."""
    config = ServeConfig(unreleased=True, compare_prompts=str(prompts or ""))
    store = Store.open(f"sqlite:///{folder / 'serve.sqlite'}")
    hub = Hub([Target("publius-haiku", str(checkpoint))], unreleased=True)
    return Server(config, hub, store, Guard(store, key=key or None, open=not key))


@pytest.fixture
def real(tmp_path: Path, checkpoint: Path) -> Iterator[Real]:
    """Open to this machine, with a queue of prompts."""
    prompts = tmp_path / "prompts.jsonl"
    prompts.write_text("".join(json.dumps(row) + "\n" for row in PROMPTS))
    server = build(tmp_path, checkpoint, "", prompts)
    with serving(create_app(server)) as address:
        yield Real(server, address, "")


@pytest.fixture
def locked(tmp_path: Path, checkpoint: Path) -> Iterator[Real]:
    """With a key."""
    server = build(tmp_path, checkpoint, "k-secret")
    with serving(create_app(server)) as address:
        yield Real(server, address, "k-secret")
