"""One exchange, one verdict: whatever endpoint asks for it, streamed or not, from a warm cache or a cold one,
several replies at once, guessed ahead or drawn one by one."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from publius.core.messages import Conversation, user
from publius.inference import Engine, Request, Sampling
from publius.inference.readings import Probe
from publius.model.checkpoint import Checkpoint
from publius.safety.cascade import CascadeMonitor
from publius.safety.head import HeadDocument, HeadStage, LastBlock
from publius.safety.monitor import Monitors
from publius.safety.probe import ProbeDocument, ProbeMonitor
from publius.safety.replay import replay
from publius.tokenizer.renderer import Renderer
from tests.serve.serving import KEY, Spoken

ASKED = ("oats", "a rope", "mint tea", "two bells", "clay", "hares run", "wool, please", "salt?")
LENGTH = 40


def drawn(checkpoint: Path, probe: Probe) -> list[Request]:
    """A greedy reply to every question."""
    found = Checkpoint(checkpoint)
    engine, renderer = Engine(found.load(), found.tokenizer()), Renderer(found.tokenizer())
    sampling = Sampling(max_tokens=LENGTH, temperature=0.0, stop_ids=tuple(renderer.stop_ids))
    asked = [Conversation(messages=(user(text),)) for text in ASKED]
    requests = [Request(renderer.prompt(one), sampling, probe=probe) for one in asked]
    engine.complete(requests)
    return requests


def layers(checkpoint: Path) -> Monitors:
    """A probe that flags some, and a head that stops some of these; both of random weights."""
    network = Checkpoint(checkpoint).load()
    probe = Probe(
        np.random.default_rng(3).normal(size=(1, network.config.hidden_size + 1)).astype(np.float32)
    )
    requests = drawn(checkpoint, probe)
    document = ProbeDocument(
        model="x", outputs=("harm",), layers=(), average=1.0, hold_back=3, benign=9, false_positives=0.1,
        threshold=float(np.median([one.readings.max() for one in requests])),
    )  # fmt: skip
    torch.manual_seed(0)
    head = LastBlock(network, 2)
    torch.nn.init.normal_(head.out.weight)
    known = HeadDocument(
        model="x", outputs=("harm", "poison"), flag=document.threshold, mix=0.0, threshold=0.0, hold_back=3,
        benign=9, false_positives=0.1, flagged=0.5,
    )  # fmt: skip
    stage = HeadStage(known, head.state_dict())
    stage.bind(network)
    flagged = [one for one in requests if one.readings.max() > document.threshold]
    highest = sorted(float(stage.scores(one.prompt, one.tokens)[:, 0].max()) for one in flagged)
    middle = (highest[len(highest) // 2 - 1] + highest[len(highest) // 2]) / 2
    stage = HeadStage(known.model_copy(update={"threshold": middle}), head.state_dict())
    return Monitors([CascadeMonitor(ProbeMonitor(probe, document), stage)])


def expected(checkpoint: Path, monitors: Monitors) -> list[tuple[bool, str]]:
    """Whether each reply is blocked, and what may leave of it, by replaying it token by token."""
    found = Checkpoint(checkpoint)
    monitors.bind(found.load())
    assert monitors.probe is not None
    came: list[tuple[bool, str]] = []
    for text, request in zip(ASKED, drawn(checkpoint, monitors.probe), strict=True):
        watching = monitors.watch(Conversation(messages=(user(text),)), prompt=request.prompt)
        told = replay(watching, request.tokens, request.readings, found.tokenizer())
        came.append((told.verdict.action == "block", told.left))
    return came


def messages(spoken: Spoken, text: str, stream: bool) -> list[bool]:
    answer = spoken.ask(
        messages=[{"role": "user", "content": text}], max_tokens=LENGTH, temperature=0, stream=stream
    )
    return ['"stop_reason":"refusal"' in answer.text.replace(" ", "")]


def chat(spoken: Spoken, text: str, stream: bool) -> list[bool]:
    body: dict[str, Any] = {
        "model": "publius-haiku", "messages": [{"role": "user", "content": text}], "max_tokens": LENGTH,
        "temperature": 0, "n": 1 if stream else 3, "stream": stream,
    }  # fmt: skip
    answer = spoken.send("POST", "/v1/chat/completions", body)
    if stream:
        frames = [
            line.removeprefix("data: ") for line in answer.text.splitlines() if line.startswith("data: {")
        ]
        choices = [choice for frame in frames for choice in json.loads(frame)["choices"]]
    else:
        choices = answer.json()["choices"]
    return [choice["finish_reason"] == "content_filter" for choice in choices if choice["finish_reason"]]


def converse(spoken: Spoken, text: str, stream: bool) -> list[bool]:
    body = {
        "messages": [{"role": "user", "content": [{"text": text}]}],
        "inferenceConfig": {"maxTokens": LENGTH, "temperature": 0},
    }
    path = f"/model/publius-haiku/converse{'-stream' if stream else ''}"
    answer = spoken.send("POST", path, body, authorization=f"Bearer {KEY}")
    assert b'"stopReason"' in answer.content
    return [b'"content_filtered"' in answer.content]


@pytest.mark.parametrize("speculate", [0, 4])
def test_an_exchange_has_one_verdict_however_it_is_asked_for(
    checkpoint: Path, tmp_path: Path, speculate: int
) -> None:
    monitors = layers(checkpoint)
    wanted = expected(checkpoint, monitors)
    assert {blocked for blocked, _ in wanted} == {True, False}, "the layers must tell some from others"
    with Spoken(checkpoint, tmp_path, monitors=monitors) as spoken:
        spoken.server.hub.get("publius-haiku").engine._speculate = speculate
        for _ in range(2):  # the second time from the prefix cache
            for text, (blocked, left) in zip(ASKED, wanted, strict=True):
                for ask in (messages, chat, converse):
                    for stream in (False, True):
                        said = ask(spoken, text, stream)
                        assert said and set(said) == {blocked}, (text, ask.__name__, stream)
                shown = spoken.ask(
                    messages=[{"role": "user", "content": text}], max_tokens=LENGTH, temperature=0
                ).json()["content"]
                words = "".join(block["text"] for block in shown)
                assert words == left if not blocked else left.startswith(words), "more left than was verified"
