"""The choke-point: what every endpoint's exchange goes through."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from publius.core.messages import Conversation, text_of
from publius.inference.readings import Probe
from publius.safety.monitor import ALLOW, Monitors, Verdict
from publius.testing import byte_tokenizer
from tests.serve.serving import KEY, Spoken, events_of, said

TOKENIZER = byte_tokenizer()


class Words:
    """Blocks prompts and replies that hold a word; holds back what may be its beginning."""

    name = "words"
    probe: Probe | None = None

    def __init__(self, in_prompt: str = "", in_reply: str = "") -> None:
        self.in_prompt, self.in_reply = in_prompt, in_reply
        self.rows: list[tuple[int, int]] = []

    def watch(self, conversation: Conversation) -> Words:
        self.asked = "".join(text_of(message) for message in conversation.messages)
        return self

    def prompt(self) -> Verdict:
        if self.in_prompt and self.in_prompt in self.asked:
            return Verdict("block", "words", "that word is not spoken here", 1.0, self.name)
        return ALLOW

    def reply(self, text: str, scores: np.ndarray, *, done: bool) -> tuple[Verdict, int]:
        self.rows.append(scores.shape)
        if self.in_reply and self.in_reply in text:
            return Verdict("block", "words", "it said the word", 1.0, self.name), 0
        return ALLOW, len(text) if done else max(0, len(text) - max(0, len(self.in_reply) - 1))


ASK: dict[str, Any] = {"max_tokens": 40, "temperature": 0}


@pytest.mark.parametrize("stream", [False, True])
def test_a_prompt_that_is_blocked_never_reaches_the_model(checkpoint: Path, tmp_path: Path, stream: bool):
    with Spoken(checkpoint, tmp_path, monitors=Monitors([Words(in_prompt="hi")])) as spoken:
        answer = spoken.ask(**ASK, stream=stream)
        if stream:
            events = events_of(answer.text)
            end, usage = events[-2][1]["delta"], events[-2][1]["usage"]
        else:
            end, usage = answer.json(), answer.json()["usage"]
        assert answer.status_code == 200 and end["stop_reason"] == "refusal"
        assert end["stop_details"] == {
            "type": "refusal", "category": "words", "explanation": "that word is not spoken here"
        }  # fmt: skip
        assert usage["output_tokens"] == 0
        assert spoken.server.hub.get("publius-haiku").engine.stats.steps == 0


@pytest.mark.parametrize("stream", [False, True])
def test_nothing_of_what_a_monitor_blocks_leaves_and_its_pages_are_free(
    checkpoint: Path, tmp_path: Path, stream: bool
):
    with Spoken(checkpoint, tmp_path / "a") as open_one:
        text = open_one.ask(**ASK).json()["content"][0]["text"]
    word = text[10:14]
    with Spoken(checkpoint, tmp_path / "b", monitors=Monitors([Words(in_reply=word)])) as spoken:
        answer = spoken.ask(**ASK, stream=stream)
        content = said(events_of(answer.text)) if stream else answer.json()["content"]
        shown = "".join(block["text"] for block in content)
        assert word not in shown and len(shown) <= text.index(word)
        assert text.startswith(shown)
        reason = events_of(answer.text)[-2][1]["delta"] if stream else answer.json()
        assert reason["stop_reason"] == "refusal" and reason["stop_details"]["category"] == "words"
        assert spoken.pages() == 0
        assert b'publius_monitor_interventions_total{action="block",monitor="words"} 1.0' in (
            spoken.server.metrics.text()
        )


def test_log_probabilities_tell_nothing_that_a_monitor_held_back(checkpoint: Path, tmp_path: Path):
    """Whether tokens come one by one or, with many at once, several together."""
    letters = set(TOKENIZER.encode("abcdefghijklmnopqrstuvwxyz "))
    body = {
        "model": "publius-haiku", "temperature": 0, "max_tokens": 40, "logprobs": True, "top_logprobs": 2,
        "messages": [{"role": "user", "content": "hi"}],
        "logit_bias": {str(id): -100 for id in range(269) if id not in letters},
    }  # fmt: skip

    def asked(spoken: Spoken) -> dict[str, Any]:
        sent = spoken.send("POST", "/v1/chat/completions", body, authorization=f"Bearer {KEY}")
        return sent.json()["choices"][0]

    with Spoken(checkpoint, tmp_path / "a") as open_one:
        text = asked(open_one)["message"]["content"]
    word = text[10:14]
    with Spoken(checkpoint, tmp_path / "b", monitors=Monitors([Words(in_reply=word)])) as spoken:
        with ThreadPoolExecutor(12) as pool:
            answers = list(pool.map(asked, [spoken] * 24))
        for answer in answers:
            assert answer["finish_reason"] == "content_filter"
            shown = answer["message"]["content"] or ""
            told = "".join(entry["token"] for entry in (answer["logprobs"] or {}).get("content") or ())
            assert told == shown and text.startswith(shown) and len(shown) <= text.index(word)


@pytest.mark.parametrize("stream", [False, True])
def test_monitors_that_allow_change_nothing_and_read_their_probe_on_every_token(
    checkpoint: Path, tmp_path: Path, stream: bool
):
    layer = Words(in_reply="no such word")
    layer.probe = Probe(np.ones((3, 33), np.float32))
    with Spoken(checkpoint, tmp_path / "a") as open_one:
        plain = open_one.ask(**ASK).json()["content"]
    with Spoken(checkpoint, tmp_path / "b", monitors=Monitors([layer])) as spoken:
        answer = spoken.ask(**ASK, stream=stream)
        content = said(events_of(answer.text)) if stream else answer.json()["content"]
        assert content == plain
        assert layer.rows[-1] == (40, 3)


def test_a_monitor_that_fails_lets_nothing_through(checkpoint: Path, tmp_path: Path):
    class Broken(Words):
        def reply(self, text: str, scores: np.ndarray, *, done: bool) -> tuple[Verdict, int]:
            raise RuntimeError("broken")

    with Spoken(checkpoint, tmp_path, monitors=Monitors([Broken()])) as spoken:
        body = spoken.ask(**ASK).json()
        assert body["stop_reason"] == "refusal"
        assert body["content"] == [{"type": "text", "text": "", "citations": None}]


def test_a_server_that_is_stopping_takes_nothing_new_and_says_so(spoken: Spoken):
    spoken.server.draining = True
    answer = spoken.ask()
    assert answer.status_code == 529 and answer.json()["error"]["type"] == "overloaded_error"
    assert answer.headers["retry-after"]
    health = spoken.send("GET", "/health")
    assert health.status_code == 503 and health.json()["status"] == "stopping"


def test_when_the_time_to_end_in_is_over_a_stream_ends_with_an_error_event(spoken: Spoken):
    async def expire() -> None:
        import asyncio

        while not spoken.server.live:
            await asyncio.sleep(0.001)
        spoken.server.expire()

    import asyncio

    ending = asyncio.run_coroutine_threadsafe(expire(), spoken._loop)
    answer = spoken.ask(max_tokens=3000, stream=True, stop_sequences=["no such text"])
    ending.result(10)
    if answer.status_code == 200:
        name, data = events_of(answer.text)[-1]
        assert name == "error" and data["error"]["type"] == "overloaded_error"
        assert data["request_id"] == answer.headers["request-id"]
    else:
        assert answer.status_code == 529
    assert spoken.pages() == 0


def test_as_many_may_wait_as_were_allowed_and_more_are_told_to_come_back(checkpoint: Path, tmp_path: Path):
    import asyncio

    with Spoken(checkpoint, tmp_path, rows=1, most_waiting=1) as spoken:

        async def three() -> list[int]:
            body = {
                "model": "publius-haiku",
                "max_tokens": 300,
                "messages": [{"role": "user", "content": "x"}],
            }
            headers = {"x-api-key": "sk-test-key", "anthropic-version": "2023-06-01"}
            answers = await asyncio.gather(
                *(spoken._client.post("/v1/messages", json=body, headers=headers) for _ in range(4))
            )
            return sorted(answer.status_code for answer in answers)

        assert spoken.run(three()) == [200, 200, 529, 529]


def test_time_runs_out_with_the_protocol_s_own_error(checkpoint: Path, tmp_path: Path):
    with Spoken(checkpoint, tmp_path, timeout=0.0) as spoken:
        answer = spoken.ask(max_tokens=2000)
        assert answer.status_code == 504 and answer.json()["error"]["type"] == "timeout_error"
        assert spoken.pages() == 0
