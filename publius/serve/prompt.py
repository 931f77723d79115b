"""From what is asked to what a model reads, and how it may go on."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

from publius.core.messages import Conversation, TextBlock, ThinkingBlock, ToolResultBlock, user
from publius.inference.assistant import reply_stops
from publius.inference.engine import Sampling
from publius.inference.pages import PAGE
from publius.inference.tool_choice import choosing
from publius.serve.errors import ApiError
from publius.serve.exchange import Ask
from publius.serve.hub import ServedModel
from publius.tokenizer.special import THINK, TOOL_USE_END

__all__ = ["as_read", "checked", "marked", "prompt_ids", "sampling_of", "takes_long"]

_MANY, _LONG = 100, 20_000
"""Messages and tools, and characters, from which on a prompt is made in a thread: some milliseconds."""


def prompt_ids(model: ServedModel, ask: Ask) -> list[int]:
    """The prompt's token ids.

    Raises:
        UserError: for a conversation that cannot be rendered.
    """
    if ask.prompt is not None:
        return list(ask.prompt)
    # Thinking is forbidden by its token's bias alone: a closed block before the reply is a sight that not
    # every model was trained for.
    return model.renderer.prompt(ask.conversation, thinking=ask.thinking or None)


def takes_long(conversation: Conversation) -> bool:
    """Whether to render it takes so long that an event loop must not wait for it. Told from its outside: many
    messages or tools, or long texts."""
    if len(conversation.messages) + len(conversation.tools) > _MANY:
        return True
    blocks = [block for message in conversation.messages for block in message.content]
    length = len(conversation.system or "") + sum(len(tool.description) for tool in conversation.tools)
    return length + sum(_length(block) for block in blocks) > _LONG


def _length(block: object) -> int:
    match block:
        case TextBlock(text=text) | ThinkingBlock(thinking=text) | ToolResultBlock(content=text):
            return len(text)
        case _:
            return 0


def checked(model: ServedModel, ids: Sequence[int]) -> None:
    """Refuse a prompt that leaves no room for a reply, in the words agents look for.

    Raises:
        ApiError: also for no token at all, or one the model lacks.
    """
    if not ids:
        raise ApiError("invalid_request_error", "prompt: it has no tokens")
    if min(ids) < 0 or max(ids) >= model.engine.model.config.vocab_size:
        raise ApiError("invalid_request_error", "prompt: a token id is outside of the vocabulary")
    most = model.context - 1
    if len(ids) > most:
        raise ApiError("invalid_request_error", f"prompt is too long: {len(ids)} tokens > {most} maximum")


def marked(model: ServedModel, ask: Ask, ids: Sequence[int]) -> int:
    """Tokens up to the last place the client marked for the cache, in whole pages of it."""
    if not ask.breakpoints:
        return 0
    same = 0
    for ours, theirs in zip(ids, model.renderer.render(ask.breakpoints[-1]).tokens, strict=False):
        if ours != theirs:
            break
        same += 1
    return same // PAGE * PAGE


def sampling_of(model: ServedModel, ask: Ask, ids: Sequence[int]) -> Sampling:
    """How the engine is to go on after `ids`.

    Raises:
        UserError: for tools whose schemas cannot be kept.
    """
    special, conversation = model.tokenizer.special, ask.conversation
    sampling = replace(
        ask.sampling,
        max_tokens=max(1, min(ask.max_tokens, model.context - len(ids))),
        thinking_budget=ask.thinking_budget,
        grammar=ask.grammar,
    )
    if ask.prompt is not None:
        return sampling
    stops = {*sampling.stop_ids, *reply_stops(model.renderer)}
    if ask.one_call:
        stops.add(special[TOOL_USE_END])
    bias = dict(sampling.logit_bias)
    if ask.thinking is False or ask.grammar is not None:
        bias[special[THINK]] = -math.inf
    sampling = replace(sampling, stop_ids=tuple(sorted(stops)), logit_bias=bias)
    choice = "none" if not conversation.tools or ask.grammar is not None else ask.tool_choice
    return choosing(sampling, conversation.tools, choice, ids, model.tokenizer)


def as_read(model: ServedModel, ask: Ask) -> Conversation:
    """What monitors read of a prompt; token ids as the text they are."""
    if ask.prompt is None:
        return ask.conversation
    return Conversation(messages=(user(model.tokenizer.decode(list(ask.prompt))),))
