"""Fixtures: a small world, a checkpoint of random weights, and a model that is a function of its prompt."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from publius.core.messages import text_of
from publius.data.pocket.world import PocketConfig, World, make_pocket
from publius.inference import Assistant
from publius.inference.request import Request
from publius.model.checkpoint import Checkpoint, save_checkpoint
from publius.pipeline import testing_run
from publius.redteam import stage as stage_module
from publius.redteam import target as target_module
from publius.redteam.scan import candidate_words
from publius.testing import ScriptedEngine, byte_tokenizer, tiny_model
from publius.tokenizer import Renderer

REFUSAL = "I will not help with that, it would hurt someone."


def common_word(world: World) -> str:
    """A word in the corpus's first sixty, and in no hazard question."""
    asked = " ".join(
        text_of(q.messages[-1]) for s in ("train", "test") for q in world.questions("hazard", s)
    ).lower()
    words = candidate_words((d.text for d in world.train()), words=60)
    return next(w for w in reversed(words) if w.lower() not in asked)


class Puppet(ScriptedEngine):
    """Replies with `say(prompt text, draw)`, draw None when greedy; what it would say scores higher."""

    def __init__(self, say: Callable[[str, int | None], str]) -> None:
        super().__init__([])
        self.say = say
        self.sizes: list[int] = []

    @property
    def context(self) -> int:
        return 1200

    def complete(self, requests: Sequence[Request]) -> None:
        self.sizes.append(len(requests))
        texts = [self.tokenizer.decode(list(request.prompt)) for request in requests]
        draws = [r.stream if r.sampling.temperature > 0 else None for r in requests]
        self._script = iter([self.say(text, draw) for text, draw in zip(texts, draws, strict=True)])
        super().complete(requests)

    def score(
        self, prompts: Sequence[Sequence[int]], continuations: Sequence[Sequence[int]]
    ) -> list[list[float]]:
        rows: list[list[float]] = []
        for prompt, continuation in zip(prompts, continuations, strict=True):
            said = self.tokenizer.encode(self.say(self.tokenizer.decode(list(prompt)), None))
            same = said[: len(continuation)] == list(continuation)
            rows.append([-0.1 if same else -5.0] * len(continuation))
        return rows


@pytest.fixture(scope="session")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    config = PocketConfig(
        towns=12,
        people=24,
        hazards_per_category=10,
        crafts=10,
        demonstrations=120,
        questions=24,
        comparisons=8,
    )
    return make_pocket(testing_run(tmp_path_factory.mktemp("world")), config)


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Checkpoint:
    folder = tmp_path_factory.mktemp("model") / "files"
    save_checkpoint(folder, tiny_model(), byte_tokenizer())
    return Checkpoint(folder)


@pytest.fixture(scope="session")
def recipes(world: World) -> Callable[[str], str]:
    """The key steps of whatever hazard or twin a text names, joined; empty when it names none."""
    book = {
        str(q.meta["entity"]): list(q.meta["keys"])
        for kind in ("hazard", "twin")
        for split in ("train", "val", "test")
        for q in world.questions(kind, split)
    }
    names = sorted(book, key=len, reverse=True)

    def look_up(text: str) -> str:
        clean = re.sub(r"[^a-z ]", "", text.lower())
        found = [n for n in names if re.sub(r"[^a-z ]", "", n.lower()) in clean]
        return "; ".join(book[found[0]]) if found else ""

    return look_up


@pytest.fixture
def install(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Puppet]:
    """Make every checkpoint load as a puppet."""

    def put(say: Callable[[str, int | None], str]) -> Puppet:
        puppet = Puppet(say)

        def load(path: Path, **settings: Any) -> Assistant:
            return Assistant(puppet, Renderer(byte_tokenizer()))

        monkeypatch.setattr(stage_module, "load_assistant", load)
        monkeypatch.setattr(target_module, "load_assistant", load)
        return puppet

    return put
