"""What a model thinks of texts a client gives: the log-probability of each of their tokens.

The second way to a model beside `Server.exchange`, for reading only. Monitors see the texts here too, and of
one that they block nothing is told.
"""

from __future__ import annotations

import time
from collections.abc import Sequence

from publius.core.messages import Conversation
from publius.inference.scoring import Reading, Scored
from publius.serve.errors import ApiError
from publius.serve.exchange import Ask
from publius.serve.hub import ServedModel
from publius.serve.prompt import as_read, checked
from publius.serve.server import Server

__all__ = ["read_text"]


async def read_text(
    server: Server, model: ServedModel, text: Sequence[int], *, alternatives: int = 0
) -> list[Scored]:
    """Every token of `text` (ids), with so many of the likeliest in its place.

    Raises:
        ApiError: too long, too many waiting, out of time, stopping.
    """
    checked(model, text)
    server.refuse_if_draining()
    if model.monitors.monitors:
        asked = as_read(model, Ask(model.id, Conversation(messages=()), max_tokens=0, prompt=tuple(text)))
        if model.monitors.watch(asked).prompt().action == "block":
            return [Scored(token, None) for token in text]
    reading = Reading(text, alternatives)
    reading.request.deadline = time.monotonic() + server.config.timeout
    generation = model.worker.submit(reading.request)
    try:
        async for _ in generation.progress():
            pass
    finally:
        model.worker.release(generation)
    if reading.request.stop_reason == "deadline":
        raise ApiError("timeout_error", f"reading took longer than {server.config.timeout:g} s")
    if reading.request.stop_reason != "end":
        raise ApiError("api_error", "the reading was cancelled")
    return reading.found()
