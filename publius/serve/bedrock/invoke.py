"""InvokeModel: a Messages body without `model`, answered as Messages answers, whole or in chunks."""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator, AsyncIterator
from typing import Any

from publius.serve.bedrock import eventstream
from publius.serve.bedrock.errors import invalid
from publius.serve.exchange import Ask, Ended, Event, Usage
from publius.serve.messages.conversation import NEWEST, OLDEST
from publius.serve.messages.encode import event_bodies

__all__ = ["Clock", "chunks", "token_headers", "unwrapped"]

_VERSIONS = {"bedrock-2023-05-31": OLDEST, NEWEST: NEWEST}


class Clock:
    """Milliseconds since a request came, and until its first byte left."""

    def __init__(self) -> None:
        self._began = time.monotonic()
        self.first = 0

    def elapsed(self) -> int:
        """So far."""
        return int((time.monotonic() - self._began) * 1000)


def unwrapped(body: dict[str, Any], model: str) -> tuple[dict[str, Any], str]:
    """The Messages body within an InvokeModel body, and its API version.

    Args:
        body: of the request.
        model: what the path named, resolved. A `model` or `stream` in the body counts for nothing.

    Raises:
        ApiError: a ValidationException for a version that is missing or unknown.
    """
    version = body.get("anthropic_version")
    if version is None:
        raise invalid("anthropic_version: Field required")
    if not isinstance(version, str) or version not in _VERSIONS:
        raise invalid(
            f"anthropic_version: {str(version)[:40]!r} is not known; give one of {', '.join(_VERSIONS)}"
        )
    betas = body.get("anthropic_beta") or []
    if not isinstance(betas, list) or not all(isinstance(beta, str) for beta in betas):
        raise invalid("anthropic_beta: must be a list of texts")
    without = ("anthropic_version", "anthropic_beta", "stream")
    return {name: value for name, value in body.items() if name not in without} | {"model": model}, _VERSIONS[
        version
    ]


def token_headers(usage: Usage, clock: Clock) -> dict[str, str]:
    """What an invocation took, where clients of InvokeModel look for it."""
    counts = {
        "invocation-latency": clock.elapsed(),
        "input-token-count": usage.input,
        "output-token-count": usage.output,
        "cache-read-input-token-count": usage.cache_read,
        "cache-write-input-token-count": usage.cache_write,
    }
    return {f"x-amzn-bedrock-{name}": str(count) for name, count in counts.items()}


async def chunks(
    events: AsyncIterator[Event], ask: Ask, id: str, clock: Clock, *, omit_thinking: bool = False
) -> AsyncGenerator[bytes | None, None]:
    """The frames of InvokeModelWithResponseStream: Messages events, the last with the invocation's metrics.

    Args:
        events: of the exchange; what it raises comes out of here.
        ask, id, omit_thinking: as `event_bodies`.
        clock: started when the request came.
    """
    ended: list[Ended] = []

    async def noted() -> AsyncGenerator[Event, None]:
        async for event in events:
            if isinstance(event, Ended):
                ended.append(event)
            yield event

    async for body in event_bodies(noted(), ask, id, omit_thinking=omit_thinking):
        if body is None:
            yield None
            continue
        clock.first = clock.first or clock.elapsed()
        match body["type"]:
            case "ping":
                continue
            case "message_stop":
                yield eventstream.chunk(
                    {**body, "amazon-bedrock-invocationMetrics": _metrics(ended[0].usage, clock)}
                )
            case _:
                yield eventstream.chunk(body)


def _metrics(usage: Usage, clock: Clock) -> dict[str, int]:
    return {
        "inputTokenCount": usage.input,
        "outputTokenCount": usage.output,
        "invocationLatency": clock.elapsed(),
        "firstByteLatency": clock.first,
        "cacheReadInputTokenCount": usage.cache_read,
        "cacheWriteInputTokenCount": usage.cache_write,
    }
