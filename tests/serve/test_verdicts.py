"""One exchange, one verdict: whatever endpoint asks for it, streamed or not, from a warm cache or a cold one,
several replies at once, guessed ahead or drawn one by one."""

from __future__ import annotations

import base64
import copy
import json
import time
import zlib
from collections.abc import Sequence
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
from publius.safety.replay import Replayed, replay
from publius.safety.third_stage import JudgedMonitor, Opinion
from publius.serve.bedrock.eventstream import decode
from publius.tokenizer.renderer import Renderer
from tests.serve.serving import KEY, Spoken

ASKED = ("oats", "a rope", "mint tea", "two bells", "clay", "hares run", "wool, please", "salt?")
LENGTH = 40


def drawn(checkpoint: Path, probe: Probe, *, raw: bool = False) -> list[Request]:
    """A greedy reply to every question; `raw`: the question as a text that goes on (completions)."""
    found = Checkpoint(checkpoint)
    tokenizer = found.tokenizer()
    engine, renderer = Engine(found.load(), tokenizer), Renderer(tokenizer)
    sampling = Sampling(max_tokens=LENGTH, temperature=0.0, stop_ids=() if raw else tuple(renderer.stop_ids))
    asked = [Conversation(messages=(user(text),)) for text in ASKED]
    if raw:
        prompts = [[tokenizer.bos_id, *tokenizer.encode(text)] for text in ASKED]
    else:
        prompts = [renderer.prompt(one) for one in asked]
    requests = [Request(prompt, sampling, probe=probe) for prompt in prompts]
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
        model="x", outputs=("harm",), layers=(), average=1.0, hold_back=9, benign=9, false_positives=0.1,
        threshold=float(np.median([one.readings.max() for one in requests])),
    )  # fmt: skip
    torch.manual_seed(0)
    head = LastBlock(network, 2)
    torch.nn.init.normal_(head.out.weight)
    known = HeadDocument(
        model="x", outputs=("harm", "poison"), flag=document.threshold, mix=0.0, threshold=0.0, hold_back=9,
        benign=9, false_positives=0.1, flagged=0.5,
    )  # fmt: skip
    stage = HeadStage(known, head.state_dict())
    stage.bind(network)
    flagged = [one for one in requests if one.readings.max() > document.threshold]
    highest = sorted(float(stage.begin(one.prompt).more(one.tokens)[:, 0].max()) for one in flagged)
    middle = (highest[len(highest) // 2 - 1] + highest[len(highest) // 2]) / 2
    stage = HeadStage(known.model_copy(update={"threshold": middle}), head.state_dict())
    return Monitors([CascadeMonitor(ProbeMonitor(probe, document), stage)])


def expected(checkpoint: Path, monitors: Monitors, *, raw: bool = False) -> list[Replayed]:
    """What becomes of each reply when it is replayed token by token."""
    found = Checkpoint(checkpoint)
    monitors.bind(found.load())
    assert monitors.probe is not None
    came: list[Replayed] = []
    for text, request in zip(ASKED, drawn(checkpoint, monitors.probe, raw=raw), strict=True):
        watching = monitors.watch(Conversation(messages=(user(text),)), prompt=request.prompt)
        came.append(replay(watching, request.tokens, request.readings, found.tokenizer()))
    return came


def blocks(told: Sequence[Replayed]) -> list[bool]:
    """Which are blocked: some and not all, for else the layers tell nothing."""
    found = [one.verdict.action == "block" for one in told]
    assert set(found) == {True, False}, "the layers must tell some from others"
    return found


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


def invoke(spoken: Spoken, text: str, stream: bool) -> list[bool]:
    body = {
        "anthropic_version": "bedrock-2023-05-31", "messages": [{"role": "user", "content": text}],
        "max_tokens": LENGTH, "temperature": 0,
    }  # fmt: skip
    path = f"/model/publius-haiku/invoke{'-with-response-stream' if stream else ''}"
    answer = spoken.send("POST", path, body, authorization=f"Bearer {KEY}")
    if not stream:
        return [answer.json()["stop_reason"] == "refusal"]
    frames, rest = decode(answer.content)
    assert not rest
    events = [json.loads(base64.b64decode(json.loads(frame.payload)["bytes"])) for frame in frames]
    return [
        event["delta"]["stop_reason"] == "refusal" for event in events if event["type"] == "message_delta"
    ]


def complete(
    spoken: Spoken, prompt: str | list[int] | list[str], stream: bool, **more: Any
) -> list[tuple[bool, str]]:
    """Whether each choice is blocked, and its text."""
    body = {
        "model": "publius-haiku", "prompt": prompt, "max_tokens": LENGTH, "temperature": 0, "stream": stream,
        **more,
    }  # fmt: skip
    answer = spoken.send("POST", "/v1/completions", body)
    assert answer.status_code == 200, answer.text
    if stream:
        frames = [line.removeprefix("data: ") for line in answer.text.splitlines()]
        parts = [one for each in frames if each.startswith("{") for one in json.loads(each)["choices"]]
    else:
        parts = answer.json()["choices"]
    said: dict[int, str] = {}
    ended: dict[int, bool] = {}
    for part in parts:
        said[part["index"]] = said.get(part["index"], "") + part["text"]
        if part["finish_reason"]:
            ended[part["index"]] = part["finish_reason"] == "content_filter"
    assert sorted(said) == sorted(ended), "a choice without an end"
    return [(ended[index], said[index]) for index in sorted(ended)]


def batched(spoken: Spoken) -> list[bool]:
    """All questions as one batch: the verdict of each item."""
    path = "/v1/messages/batches"
    requests = [
        {
            "custom_id": f"r{number}",
            "params": {
                "model": "publius-haiku", "messages": [{"role": "user", "content": text}],
                "max_tokens": LENGTH, "temperature": 0,
            },
        }
        for number, text in enumerate(ASKED)
    ]  # fmt: skip
    batch = spoken.send("POST", path, {"requests": requests}).json()
    for _ in range(1200):
        if spoken.send("GET", f"{path}/{batch['id']}").json()["processing_status"] == "ended":
            break
        time.sleep(0.05)
    lines = spoken.send("GET", f"{path}/{batch['id']}/results").text.splitlines()
    found = {line["custom_id"]: line["result"] for line in map(json.loads, lines)}
    assert len(found) == len(ASKED) and {one["type"] for one in found.values()} == {"succeeded"}
    return [found[f"r{n}"]["message"]["stop_reason"] == "refusal" for n in range(len(ASKED))]


@pytest.mark.parametrize("speculate", [0, 4])
def test_an_exchange_has_one_verdict_however_it_is_asked_for(
    checkpoint: Path, tmp_path: Path, speculate: int
) -> None:
    monitors = layers(checkpoint)
    wanted = expected(checkpoint, monitors)
    blocked = blocks(wanted)
    with Spoken(checkpoint, tmp_path, monitors=monitors) as spoken:
        spoken.server.hub.get("publius-haiku").engine._speculate = speculate
        assert batched(spoken) == blocked, "from a cold cache"
        for _ in range(2):  # the second time from the prefix cache
            for text, told, stopped in zip(ASKED, wanted, blocked, strict=True):
                for ask in (messages, chat, converse, invoke):
                    for stream in (False, True):
                        said = ask(spoken, text, stream)
                        assert said and set(said) == {stopped}, (text, ask.__name__, stream)
                shown = spoken.ask(
                    messages=[{"role": "user", "content": text}], max_tokens=LENGTH, temperature=0
                ).json()["content"]
                words = "".join(block["text"] for block in shown)
                assert words == told.left if not stopped else told.left.startswith(words), (
                    "more left than was verified"
                )
        assert batched(spoken) == blocked, "from a warm one"


def test_a_text_that_goes_on_has_one_verdict_however_it_is_asked_for(
    checkpoint: Path, tmp_path: Path
) -> None:
    monitors = layers(checkpoint)
    tokenizer = Checkpoint(checkpoint).tokenizer()
    wanted = expected(checkpoint, monitors, raw=True)
    blocked = blocks(wanted)
    with Spoken(checkpoint, tmp_path, monitors=monitors) as spoken:
        for stream in (False, True):
            spoken.server.hub.get("publius-haiku").engine._speculate = 4 * stream
            assert [stopped for stopped, _ in complete(spoken, list(ASKED), stream)] == blocked
            for text, told, stopped in zip(ASKED, wanted, blocked, strict=True):
                ids = [tokenizer.bos_id, *tokenizer.encode(text)]
                ways = [
                    complete(spoken, text, stream),
                    complete(spoken, ids, stream),
                    complete(spoken, text, stream, n=3),
                    complete(spoken, text, stream, logprobs=2),
                ]
                echoed = complete(spoken, text, stream, echo=True, logprobs=1)
                assert all(said.startswith(text) for _, said in echoed)
                ways.append([(one, said.removeprefix(text)) for one, said in echoed])
                for number, way in enumerate(ways):
                    assert {one for one, _ in way} == {stopped}, (text, stream, number)
                    for _, said in way:  # how much left before a block may differ, never beyond what was seen
                        assert told.left.startswith(said) if stopped else said == told.left, number


def test_a_chat_written_out_as_tokens_has_the_verdict_of_the_chat(checkpoint: Path, tmp_path: Path) -> None:
    monitors = layers(checkpoint)
    assert monitors.probe is not None
    wanted = blocks(expected(checkpoint, monitors))
    requests = drawn(checkpoint, monitors.probe)
    with Spoken(checkpoint, tmp_path, monitors=monitors) as spoken:
        for request, stopped in zip(requests, wanted, strict=True):
            for stream in (False, True):
                told = complete(spoken, list(request.prompt), stream, max_tokens=len(request.tokens))
                assert [one for one, _ in told] == [stopped]


class ByText:
    """A third stage whose word depends on the reply alone."""

    def judge(self, conversation: Conversation, reply: str) -> Opinion:
        return Opinion(zlib.crc32(reply.encode()) % 2 == 0, 0.5)


def test_what_a_judge_decides_has_one_verdict_too(checkpoint: Path, tmp_path: Path) -> None:
    (unsure,) = layers(checkpoint).monitors
    assert isinstance(unsure, CascadeMonitor)
    unsure.threshold -= 100.0  # whatever is flagged is in doubt
    sure = copy.copy(unsure)
    sure.threshold += 200.0
    monitors = Monitors([JudgedMonitor(unsure, sure, ByText())])
    wanted = expected(checkpoint, monitors)
    blocked = blocks(wanted)
    assert {one.verdict.action for one in wanted} == {"allow", "flag", "block"}
    with Spoken(checkpoint, tmp_path, monitors=monitors) as spoken:
        assert batched(spoken) == blocked
        for text, stopped in zip(ASKED, blocked, strict=True):
            for ask, stream in ((messages, True), (chat, False), (invoke, True)):
                assert set(ask(spoken, text, stream)) == {stopped}, (text, ask.__name__)
