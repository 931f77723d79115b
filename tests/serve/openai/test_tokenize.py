"""The tokenizer's endpoints, which need no key: what lm-eval's remote tokenizer asks."""

from __future__ import annotations

import threading
from typing import Any

import httpx2
import pytest

from publius.core.messages import Conversation, user
from publius.serve.exchange import Ask
from publius.serve.server import Server
from publius.testing import byte_tokenizer
from publius.tokenizer.tokenizer import Tokenizer

TOKENIZER = byte_tokenizer()


def post(url: str, path: str, body: dict[str, Any]) -> dict[str, Any]:
    answer = httpx2.post(f"{url}{path}", json=body)
    assert answer.status_code == 200, answer.text
    return answer.json()


def test_text_to_ids_and_back(url: str) -> None:
    for text in ("the mill", "naïve \u20ac", "", "a<|end|>b"):
        ids = TOKENIZER.encode(text)
        assert post(url, "/tokenize", {"prompt": text, "add_special_tokens": False})["tokens"] == ids
        found = post(url, "/tokenize", {"prompt": text})
        assert found == {"tokens": [1, *ids], "count": len(ids) + 1, "max_model_len": 512}
        assert post(url, "/detokenize", {"tokens": ids}) == {"prompt": text}
    named = post(url, "/tokenize", {"prompt": "ab", "return_token_strs": True})
    assert named["token_strs"] == ["<|bos|>", "a", "b"]


def test_a_special_tokens_name_alone_is_that_token(url: str) -> None:
    info = httpx2.get(f"{url}/tokenizer_info").json()
    for name, token in (("bos_token", 1), ("eos_token", 2), ("pad_token", 0)):
        asked = {"prompt": info[name], "add_special_tokens": False}
        assert post(url, "/tokenize", asked)["tokens"] == [token]
        assert post(url, "/detokenize", {"tokens": [token]}) == {"prompt": info[name]}
    assert "<|assistant|>" in info["chat_template"] and info["model_max_length"] == 512


def test_a_chat_is_counted_as_it_is_read(url: str, server: Server) -> None:
    asked = post(url, "/tokenize", {"messages": [{"role": "user", "content": "Hello"}]})
    ask = Ask("tiny", Conversation(messages=(user("Hello"),)), max_tokens=1)
    assert asked["count"] == server.count(ask)


@pytest.mark.parametrize(
    ("path", "body", "param"),
    [
        ("/tokenize", {}, "prompt"),
        ("/tokenize", {"prompt": 3}, "prompt"),
        ("/tokenize", {"prompt": "a", "messages": []}, "prompt"),
        ("/tokenize", {"prompt": "a", "model": "absent"}, "model"),
        ("/detokenize", {}, "tokens"),
        ("/detokenize", {"tokens": [1, 269]}, "tokens[1]"),
        ("/detokenize", {"tokens": [-1]}, "tokens[0]"),
        ("/detokenize", {"tokens": [1.5]}, "tokens[0]"),
    ],
)
def test_what_is_wrong_is_named(url: str, path: str, body: dict[str, Any], param: str) -> None:
    answer = httpx2.post(f"{url}{path}", json=body)
    assert answer.status_code == (404 if param == "model" else 400)
    assert answer.json()["error"]["param"] == param


def test_little_is_taken_in_without_a_key(url: str) -> None:
    answer = httpx2.post(f"{url}/tokenize", json={"prompt": "a" * (4 << 20)})
    assert answer.status_code == 413 and answer.json()["error"]["code"] == "request_too_large"


def test_names_of_tokens_are_found_beside_the_event_loop(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    decode, found = Tokenizer.decode, list[str]()

    def noted(self: Tokenizer, ids: list[int]) -> str:
        found.append(threading.current_thread().name)
        return decode(self, ids)

    monkeypatch.setattr(Tokenizer, "decode", noted)
    answer = post(url, "/tokenize", {"prompt": "ab" * 20_000, "return_token_strs": True})
    assert answer["token_strs"][:3] == ["<|bos|>", "a", "b"] and answer["count"] == 40_001
    # Each name once, and in no thread that runs a loop: "Thread-1 (run)".
    assert len(found) == 3 and not any(name.startswith("Thread-") for name in found)
