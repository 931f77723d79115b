"""One small engine whose replies are kept to grammars, and how its tests ask it and read it."""

from __future__ import annotations

from typing import Any

import pytest

from publius.core.messages import Conversation
from publius.inference.assistant import Assistant, Event, Reply
from publius.inference.engine import Engine
from publius.inference.grammar import Grammar
from publius.inference.request import Completion
from publius.inference.sampling import Sampling
from publius.testing import byte_tokenizer, tiny_model
from publius.tokenizer.renderer import Renderer

TOKENIZER = byte_tokenizer()
RENDERER = Renderer(TOKENIZER)
SPECIAL = TOKENIZER.special
END, THINK, THOUGHT = TOKENIZER.end_id, SPECIAL["<|think|>"], SPECIAL["<|/think|>"]
USE, USED = SPECIAL["<|tool_use|>"], SPECIAL["<|/tool_use|>"]
ENGINE = Engine(tiny_model(0, max_position=2048), TOKENIZER)
BOTH = pytest.mark.parametrize("native", [True, False], ids=["native", "torch"])
PROMPT = [1, *TOKENIZER.encode("Hello")]
WORD = Grammar.regex("[a-c]{2,4}")


def one(grammar: Grammar | None = None, prompt: list[int] = PROMPT, **sampling: Any) -> Completion:
    return ENGINE.generate(
        [prompt], Sampling(**{"max_tokens": 200, "seed": 1, "grammar": grammar, **sampling})
    )[0]


def text_of(done: Completion) -> str:
    """What was written before the end token."""
    assert done.stop_reason == "end"
    assert done.tokens[-1] == END
    return TOKENIZER.decode(done.tokens[:-1])


def stream_of(assistant: Assistant, ask: Conversation, **options: Any) -> tuple[list[Event], Reply]:
    events: list[Event] = []
    stream = assistant.stream(ask, **options)
    while True:
        try:
            events.append(next(stream))
        except StopIteration as stop:
            return events, stop.value
