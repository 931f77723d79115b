"""What the engine refuses before any compute, naming the request."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from publius.core.errors import UserError
from publius.inference.request import Request
from publius.model.config import ModelConfig

__all__ = ["Room", "check_ids", "check_new", "check_request"]


class Room(NamedTuple):
    """What an engine holds."""

    config: ModelConfig
    cache: int
    """Most tokens whose keys and values are kept."""


def check_request(index: int, request: Request, room: Room, prompt: Sequence[int] | None = None) -> None:
    """Refuse a prompt that is empty, out of the vocabulary, or too long with what is to follow; a probe made
    for another model; and a request that has run.

    Args:
        index: of the request, for the message.
        prompt: of a request that is scored: the part that is no continuation.

    Raises:
        UserError: saying which.
    """
    check_new(index, request)
    prompt = request.prompt if prompt is None else prompt
    where = f"request {index}"
    new = request.sampling.max_tokens if request.targets is None else len(request.prompt) - len(prompt)
    if not prompt:
        raise UserError("the prompt is empty", where=where, fix="give at least one token (<|bos|>)")
    told = f"prompt of {len(prompt)} tokens and {new} new ones exceed"
    context = room.config.max_position
    if len(prompt) + new > context:
        most = max(0, context - len(prompt))
        fix = f"shorten the prompt or ask for at most {most} new tokens"
        raise UserError(f"{told} the context of {context}", where=where, fix=fix)
    check_ids(index, prompt, "prompt", room.config.vocab_size)
    if request.most > room.cache:
        fix = "shorten the prompt, ask for fewer new tokens, or make the engine with more cache_tokens"
        raise UserError(f"{told} the cache of {room.cache} tokens", where=where, fix=fix)
    if request.probe is not None:
        request.probe.check(room.config, where)


def check_new(index: int, request: Request) -> None:
    """Refuse a request that an engine has had: it holds what came of it, and would be drawn on past its end.

    Raises:
        UserError: saying which.
    """
    if request.number >= 0 or request.stop_reason is not None:
        told = "runs already" if request.stop_reason is None else "has ended"
        fix = "make a new Request of its prompt and sampling: each is run once"
        raise UserError(f"the request {told}", where=f"request {index}", fix=fix)


def check_ids(index: int, tokens: Sequence[int], name: str, vocabulary: int) -> None:
    """Refuse ids that the model does not have.

    Raises:
        UserError: naming the first.
    """
    if tokens and not (min(tokens) >= 0 and max(tokens) < vocabulary):
        wrong = next(token for token in tokens if not 0 <= token < vocabulary)
        raise UserError(
            f"the {name} holds id {wrong}, outside the vocabulary of {vocabulary}",
            where=f"request {index}",
            fix="encode with the tokenizer the model was trained with",
        )
