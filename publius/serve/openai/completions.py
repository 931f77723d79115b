"""`POST /v1/completions`: text or token ids continued as they are, and scored.

lm-eval's `local-completions` reads from it what a model thinks of a text (`echo`, `logprobs`, `max_tokens` 1
or 0): the arrays have an entry for each token of the prompt and of the reply, null first, and a token's own
number is exactly the one it has among `top_logprobs`.
"""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import Any

from fastapi import Request
from starlette.responses import JSONResponse, Response

from publius.core.messages import Conversation
from publius.inference.scoring import Scored
from publius.serve.errors import ApiError, api_error
from publius.serve.exchange import Ask, Began, Drawn, Ended, Event, Idle, Pause, Piece, Usage
from publius.serve.guard import Caller
from publius.serve.http import read_json, request_id, sse
from publius.serve.hub import ServedModel
from publius.serve.openai.body import CompletionBody, invalid, parsed, refuse_given
from publius.serve.openai.chat import FINISHED, PING, frame
from publius.serve.openai.choices import at_once, merged, together, usage_of
from publius.serve.openai.errors import error_body
from publius.serve.openai.tokens import Seen, TextLog, Tokens
from publius.serve.replies import begun, unless_gone
from publius.serve.scoring import read_text
from publius.serve.server import Server

__all__ = ["Prompt", "completions", "prompts"]

MOST_PROMPTS = 1024
_CANNOT = {"suffix": "this model only continues texts, it does not fill gaps in them; leave suffix out"}


@dataclass(frozen=True)
class Prompt:
    """One text to continue.

    Args:
        ids: what the model reads.
        text: what `echo` repeats.
        added: how many ids at the beginning are ours (`<|bos|>` before a text), and are not shown.
    """

    ids: tuple[int, ...]
    text: str
    added: int = 0


def prompts(given: str | Sequence[Any], served: ServedModel, *, bos: bool) -> list[Prompt]:
    """A prompt in any of the four shapes: text, texts, ids, rows of ids.

    Args:
        bos: whether a text begins a document; ids are taken as they are.

    Raises:
        ApiError: for anything else, and for ids the model does not have.
    """
    if isinstance(given, str):
        return [_of_text(given, served, bos)]
    if not given:
        raise invalid("prompt", "is empty")
    if isinstance(given[0], int):
        return [_of_ids(given, served, "prompt")]
    if len(given) > MOST_PROMPTS:
        raise invalid("prompt", f"has {len(given)} prompts, more than {MOST_PROMPTS}")
    made: list[Prompt] = []
    for number, one in enumerate(given):
        if isinstance(one, str):
            made.append(_of_text(one, served, bos))
        else:
            made.append(_of_ids(one, served, f"prompt[{number}]"))
    return made


def _of_text(text: str, served: ServedModel, bos: bool) -> Prompt:
    head = (served.tokenizer.bos_id,) if bos else ()
    ids = (*head, *served.tokenizer.encode(text))
    if not ids:
        raise invalid("prompt", "is empty")
    return Prompt(ids, text, len(head))


def _of_ids(given: Any, served: ServedModel, where: str) -> Prompt:
    size = served.tokenizer.vocab_size
    if not isinstance(given, list) or not given:
        raise invalid(where, "must be text or a list of token ids, and not empty")
    for place, token in enumerate(given):
        if type(token) is not int or not 0 <= token < size:
            raise invalid(f"{where}[{place}]", f"{str(token)[:40]!r} is no token id below {size}")
    return Prompt(tuple(given), served.tokenizer.decode(given))


@dataclass
class _Choice:
    """One completion on its way: an event in, a text and its log-probabilities out."""

    index: int
    prompt: int
    log: TextLog | None
    """Of log-probabilities, where they were asked for."""
    parts: list[dict[str, Any]] = field(default_factory=list[dict[str, Any]])
    usage: Usage = Usage(0)  # noqa: RUF009 - a tuple
    ended: Ended | None = None

    def echo(self, prompt: Prompt, scored: Sequence[Seen]) -> dict[str, Any]:
        """The prompt, as the choice's first part."""
        logprobs = self.log and self.log.arrays(scored, named=not prompt.added)
        return self._part(prompt.text, logprobs)

    def take(self, event: Event) -> dict[str, Any] | None:
        """What the event adds, None for nothing."""
        match event:
            case Began():
                self.usage = event.usage
            case Piece():
                return self._part(event.text, self._logprobs(event.drawn))
            case Ended():
                self.ended, self.usage = event, event.usage
                finish = FINISHED[event.stop_reason]
                return self._part(
                    "", self._logprobs(event.drawn), "stop" if finish == "tool_calls" else finish
                )
            case _:
                pass
        return None

    def _logprobs(self, drawn: Sequence[Drawn]) -> dict[str, Any] | None:
        return self.log and self.log.arrays([Seen(*one) for one in drawn])

    def _part(self, text: str, logprobs: dict[str, Any] | None, finish: str | None = None) -> dict[str, Any]:
        part = {"index": self.index, "text": text, "logprobs": logprobs, "finish_reason": finish}
        self.parts.append(part)
        return part

    def whole(self) -> dict[str, Any]:
        """All parts as one."""
        assert self.ended is not None, "the reply is not over"
        logprobs: dict[str, list[Any]] | None = None
        if self.log is not None:
            arrays = [part["logprobs"] for part in self.parts]
            logprobs = {name: [value for one in arrays for value in one[name]] for name in arrays[0]}
        text = "".join(part["text"] for part in self.parts)
        return {**self.parts[-1], "text": text, "logprobs": logprobs}


@dataclass
class _Job:
    """One request: its prompts, their scores where the echo needs them, its choices and their streams."""

    prompts: list[Prompt]
    scored: list[list[Seen]]
    choices: list[_Choice]
    streams: list[AsyncGenerator[Event, None]]
    echo: bool
    at_once: int
    """Streams under way together."""

    def begin(self) -> list[dict[str, Any]]:
        """What is there before the first event: the echo of every choice."""
        if not self.echo:
            return []
        return [c.echo(self.prompts[c.prompt], self.scored[c.prompt]) for c in self.choices]

    def usage(self) -> dict[str, Any]:
        """Of a prompt that was scored nothing had been read before: what was reused is our own reading."""
        fresh = any(self.scored)
        return usage_of([(c.prompt, c.usage._replace(reused=0) if fresh else c.usage) for c in self.choices])


async def completions(server: Server, request: Request, caller: Caller) -> Response:
    """The response to a request whose key has been seen.

    Raises:
        ApiError, UserError: before anything of the reply has been sent.
    """
    body_json = await read_json(request, server.config.body_bytes)
    refuse_given(body_json, _CANNOT)
    body, number = parsed(CompletionBody, body_json), request_id(request)
    if body.best_of is not None and body.best_of != body.choices:
        raise invalid("best_of", "must be left out, or equal n")
    job = await _job(server, request, body, caller, number)
    events = merged(job.streams, job.at_once)
    head = {
        "id": f"cmpl-{number.removeprefix('req_')}",
        "object": "text_completion",
        "created": int(time.time()),
        "model": body.model,
        "system_fingerprint": None,
    }
    if body.stream:
        return sse(_frames(head, job, await begun(request, events), body.with_usage))
    job.begin()
    await unless_gone(request, _drained(job, events))
    return JSONResponse({**head, "choices": [choice.whole() for choice in job.choices], "usage": job.usage()})


async def _drained(job: _Job, events: AsyncGenerator[tuple[int, Event], None]) -> None:
    async with aclosing(events):
        async for index, event in events:
            job.choices[index].take(event)


def _shown(prompt: Prompt, tokens: Sequence[Scored]) -> list[Seen]:
    """Without what we added; the first follows nothing the client gave."""
    shown = [Seen(*token) for token in tokens[prompt.added :]]
    return [Seen(shown[0].id, None), *shown[1:]] if shown else []


async def _job(server: Server, request: Request, body: CompletionBody, caller: Caller, number: str) -> _Job:
    served = server.hub.get(body.model)
    given = prompts(body.prompt, served, bos=body.add_special_tokens)
    if len(given) * body.choices > MOST_PROMPTS:
        raise invalid("n", f"{len(given)} prompts with {body.choices} choices are more than {MOST_PROMPTS}")
    top, most = body.logprobs or 0, at_once(served.engine.max_batch)
    scored: list[list[Seen]] = [[] for _ in given]
    if body.echo and body.logprobs is not None:
        reads = [read_text(server, served, prompt.ids, alternatives=top) for prompt in given]
        found = await unless_gone(request, together(reads, most))
        scored = [_shown(prompt, tokens) for prompt, tokens in zip(given, found, strict=True)]
    sampling, tokens = body.sampling(top), Tokens(served.tokenizer)
    choices: list[_Choice] = []
    streams: list[AsyncGenerator[Event, None]] = []
    for place, prompt in enumerate(given):
        for stream in range(body.choices):
            log = None if body.logprobs is None else TextLog(tokens, top)
            choices.append(_Choice(len(choices), place, log))
            ask = Ask(
                model=body.model,
                conversation=Conversation(messages=()),
                max_tokens=16 if body.max_tokens is None else body.max_tokens,
                sampling=sampling,
                thinking=None,
                prompt=prompt.ids,
                stream=stream,
                tell_drawn=log is not None,
            )
            streams.append(server.exchange(ask, caller, number))
    return _Job(given, scored, choices, streams, bool(body.echo), most)


async def _frames(
    head: dict[str, Any],
    job: _Job,
    events: AsyncGenerator[tuple[int, Event], None],
    with_usage: bool,
) -> AsyncGenerator[bytes | None, None]:
    """The frames of a stream, the echo first; `usage` as in chat."""
    more = {"usage": None} if with_usage else {}
    async with aclosing(events):
        try:
            for part in job.begin():
                yield frame({**head, "choices": [part], **more})
            async for index, event in events:
                part = job.choices[index].take(event)
                if isinstance(event, Idle):
                    yield PING
                elif isinstance(event, Pause):
                    yield None
                if part is not None:
                    yield frame({**head, "choices": [part], **more})
        except Exception as error:
            yield frame(error_body(api_error(error)))
            if not isinstance(error, ApiError):
                raise
            return
    if with_usage:
        yield frame({**head, "choices": [], "usage": job.usage()})
    yield b"data: [DONE]\n\n"
