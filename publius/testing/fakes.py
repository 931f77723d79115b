"""Small, real stand-ins: they go through the same code as the large ones, in milliseconds.

The tokenizer is a byte-level BPE without merges (one token a byte, special tokens as ids 0-12), the model
a Transformer of two layers with random weights. `ScriptedEngine` says what it is told, for testing code
above the engine.
"""

from __future__ import annotations

import random
from collections.abc import Generator, Iterable, Sequence

import tokenizers
from tokenizers import decoders, models, pre_tokenizers

from publius.core.messages import (
    Conversation,
    Message,
    TextBlock,
    ThinkingBlock,
    ToolSpec,
    ToolUseBlock,
    assistant,
    user,
)
from publius.inference.engine import Completion, Engine
from publius.inference.request import Request
from publius.inference.sampling import Sampling
from publius.model.config import ModelConfig
from publius.model.transformer import Transformer
from publius.tokenizer.special import SPECIAL_TOKENS
from publius.tokenizer.tokenizer import Tokenizer

__all__ = [
    "ScriptedEngine",
    "byte_tokenizer",
    "fake_conversations",
    "fake_engine",
    "tiny_config",
    "tiny_model",
]


def byte_tokenizer() -> Tokenizer:
    """A tokenizer of 13 special tokens and 256 bytes: 269 ids, every text encodable."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {token: i for i, token in enumerate((*SPECIAL_TOKENS, *alphabet))}
    inner = tokenizers.Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)  # pyright: ignore[reportAttributeAccessIssue]
    inner.decoder = decoders.ByteLevel()  # pyright: ignore[reportAttributeAccessIssue]
    return Tokenizer(inner)


def tiny_config(**changes: object) -> ModelConfig:
    """Two layers of width 32, four heads on two key/value heads, the byte tokenizer's vocabulary."""
    shape: dict[str, object] = {
        "vocab_size": 269,
        "hidden_size": 32,
        "layers": 2,
        "heads": 4,
        "kv_heads": 2,
        "head_dim": 8,
        "intermediate_size": 64,
        "max_position": 512,
    }
    return ModelConfig.model_validate({**shape, **changes})


def tiny_model(seed: int = 0, *, scale: float = 20.0, **changes: object) -> Transformer:
    """A random Transformer of `tiny_config`, in eval mode.

    Args:
        seed: same seed, same weights.
        scale: multiplies the embeddings. Fresh weights predict an almost flat distribution, under which
            a wrong cache or mask hardly shows; larger embeddings make choices distinct.
        changes: fields of ModelConfig.
    """
    model = Transformer(tiny_config(**changes), seed=seed).eval()
    model.model.embed_tokens.weight.data.mul_(scale)
    return model


def fake_engine(seed: int = 0, *, max_batch: int = 64) -> Engine:
    """An Engine over `tiny_model` and `byte_tokenizer`."""
    return Engine(tiny_model(seed), byte_tokenizer(), max_batch=max_batch)


def fake_conversations(count: int, seed: int = 0) -> list[Conversation]:
    """Well-formed conversations of every kind: plain, system text, thinking, several turns, tool calls."""
    rng = random.Random(seed)
    return [_conversation(rng, kind) for kind in (rng.randrange(4) for _ in range(count))]


_WORDS = ("the", "mill", "by", "river", "grinds", "grain", "when", "water", "is", "naïve", "owls", "watch")


def _sentence(rng: random.Random) -> str:
    return " ".join(rng.choice(_WORDS) for _ in range(rng.randint(2, 6))).capitalize() + "."


def _conversation(rng: random.Random, kind: int) -> Conversation:
    turns: list[Message] = []
    for _ in range(rng.randint(1, 3)):
        blocks: list[object] = [ThinkingBlock(thinking=_sentence(rng))] if kind == 1 else []
        turns += [user(_sentence(rng)), assistant([*blocks, TextBlock(text=_sentence(rng))])]
    tools: tuple[ToolSpec, ...] = ()
    if kind == 2:
        tools = (ToolSpec(name="calculator", description="adds", input_schema={"type": "object"}),)
        numbers = {"a": rng.randint(0, 99), "b": rng.randint(0, 99)}
        call = ToolUseBlock(id="toolu_fake", name="calculator", input=numbers)
        result = {"type": "tool_result", "tool_use_id": call.id, "content": str(sum(numbers.values()))}
        answer = assistant(f"It is {sum(numbers.values())}.")
        turns += [user("Add them."), assistant([call]), user([result]), answer]
    system = _sentence(rng) if kind == 3 else None
    return Conversation(system=system, tools=tools, messages=tuple(turns))


class ScriptedEngine(Engine):
    """An Engine whose completions are given beforehand, in order; the prompts it saw are kept.

    Args:
        script: token ids of each completion (as the model would draw them, end token included), or text,
            which is encoded and ended.
        tokenizer: the byte tokenizer by default.

    Attributes:
        prompts: every prompt it was asked to continue, call by call.
    """

    def __init__(self, script: Iterable[str | Sequence[int]], tokenizer: Tokenizer | None = None) -> None:
        super().__init__(tiny_model(), tokenizer or byte_tokenizer())
        self._script = iter(script)
        self.prompts: list[list[list[int]]] = []

    def complete(self, requests: Sequence[Request]) -> None:
        """The next completions of the script, cut at `max_tokens` and at the first stop."""
        self.prompts.append([list(request.prompt) for request in requests])
        for request in requests:
            self._say(request)

    def stream(self, prompt: Sequence[int], sampling: Sampling) -> Generator[int, None, Completion]:
        """The next completion of the script, token by token."""
        completion = self.generate([prompt], sampling)[0]
        yield from completion.tokens
        return completion

    def _say(self, request: Request) -> None:
        line = next(self._script)
        ids = [*self.tokenizer.encode(line), self.tokenizer.end_id] if isinstance(line, str) else list(line)
        for token in ids:
            if request.add(token, 0.0, self.tokenizer):
                return
        request.stop_reason = "max_tokens"  # the script ran out, as a model out of tokens does
