"""A real server with a small random model, and OpenAI's own client before it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import openai
import pytest
from numpy.typing import NDArray

from publius.core.messages import Conversation, text_of
from publius.model.checkpoint import save_checkpoint
from publius.safety.monitor import ALLOW, Monitors, Verdict, Watch
from publius.serve.app import create_app
from publius.serve.config import ServeConfig
from publius.serve.hub import Target
from publius.serve.run import build
from publius.serve.server import Server
from publius.testing import byte_tokenizer, tiny_model
from tests.serve.servers import running


class Forbids:
    """A monitor that reads prompts only, for one word."""

    name, probe = "forbids", None

    def watch(self, conversation: Conversation) -> Watch:
        return _Watch([text_of(message) for message in conversation.messages])


class _Watch:
    def __init__(self, texts: Sequence[str]) -> None:
        self._texts = texts

    def prompt(self) -> Verdict:
        if any("xyzzy" in text for text in self._texts):
            return Verdict("block", "magic", "That word is not said here.", monitor="forbids")
        return ALLOW

    def reply(self, text: str, scores: NDArray[np.float32], *, done: bool) -> tuple[Verdict, int]:
        return ALLOW, len(text)


@pytest.fixture(scope="package")
def server(tmp_path_factory: pytest.TempPathFactory) -> Server:
    folder: Path = tmp_path_factory.mktemp("served")
    save_checkpoint(folder / "tiny", tiny_model(0), byte_tokenizer())
    return build(
        ServeConfig(unreleased=True, rows=8),
        [Target("tiny", str(folder / "tiny"))],
        home=folder,
        aliases={"other": "tiny"},
        key="k",
        monitors=lambda _id, _fingerprint: Monitors([Forbids()]),
    )


@pytest.fixture(scope="package")
def url(server: Server) -> Iterator[str]:
    with running(create_app(server)) as address:
        yield address


@pytest.fixture
def client(url: str) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{url}/v1", api_key="k", max_retries=0, timeout=60) as made:
        yield made
