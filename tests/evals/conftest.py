"""Fixtures: a small world, a checkpoint of random weights, an assistant that says what a function says."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import pytest

from publius.data.pocket.world import PocketConfig, World, make_pocket
from publius.inference import Assistant, Sampling
from publius.inference.request import Request
from publius.model.checkpoint import Checkpoint, save_checkpoint
from publius.pipeline import testing_run
from publius.testing import ScriptedEngine, byte_tokenizer, tiny_model
from publius.tokenizer import Renderer


class Puppet(ScriptedEngine):
    """Replies with `say(prompt text)`."""

    def __init__(self, say: Callable[[str], str]) -> None:
        super().__init__([])
        self.say = say

    def complete(self, requests: Sequence[Request]) -> None:
        self._script = iter([self.say(self.tokenizer.decode(list(request.prompt))) for request in requests])
        super().complete(requests)


@pytest.fixture(scope="session")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    config = PocketConfig(
        towns=10,
        people=20,
        hazards_per_category=10,
        crafts=10,
        demonstrations=80,
        questions=20,
        comparisons=8,
    )
    return make_pocket(testing_run(tmp_path_factory.mktemp("world")), config)


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Checkpoint:
    folder = tmp_path_factory.mktemp("model") / "files"
    save_checkpoint(folder, tiny_model(), byte_tokenizer())
    return Checkpoint(folder)


@pytest.fixture
def puppet() -> Callable[..., Assistant]:
    def make(say: Callable[[str], str], max_tokens: int = 128) -> Assistant:
        return Assistant(
            Puppet(say), Renderer(byte_tokenizer()), Sampling(max_tokens=max_tokens, temperature=0.0)
        )

    return make
