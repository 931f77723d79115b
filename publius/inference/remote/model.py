"""A remote model: many questions at once, each asked until it is answered, failed or paid out.

Workers are threads: a request waits on the network, not on the interpreter. What they learn is in the
cache before anyone is told, so whatever ends the job, an answer is never paid for twice.
"""

from __future__ import annotations

import itertools
import json
import os
import queue
import random
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import Any, NamedTuple, Self

import httpx2

from publius.core.console import progress
from publius.core.errors import UserError
from publius.inference.remote.cache import AnswerCache, default_cache, request_key
from publius.inference.remote.config import RemoteConfig
from publius.inference.remote.dialect import Answer, Question, dialect_of
from publius.inference.remote.limits import Budget, Pace

__all__ = ["RemoteModel", "RemoteStats", "Unanswered"]

_TEMPLATE_TOKENS = 64
"""What a server's chat template may add to a prompt, for the spend cap."""
_LARGEST = 1 << 25
"""Bytes of a response; no answer is longer."""
_UNREADABLE = (ValueError, KeyError, TypeError, IndexError, AttributeError, RecursionError)


class Unanswered(NamedTuple):
    """A question whose request failed for good, where the config says to pass over it."""

    problem: str


class RemoteStats(NamedTuple):
    """What asking took.

    Attributes:
        requests: sent, retries included.
        cached: questions answered without a request.
        dollars: of answers from the cache, too, each once.
    """

    requests: int = 0
    cached: int = 0
    retries: int = 0
    unanswered: int = 0
    input_tokens: int = 0
    output_tokens: int = 0
    dollars: float = 0.0


class _Call(NamedTuple):
    key: str
    body: bytes
    most: float  # dollars it can cost


class _Failure(NamedTuple):
    """One try that brought no answer.

    Attributes:
        again: another try may fare better.
        final: no other request will: the work ends here.
        after: seconds the server asks to wait.
        billed: the server may have done, and charged, the work all the same.
    """

    problem: str
    again: bool = False
    final: bool = False
    after: float | None = None
    billed: bool = False
    fix: str = "see that the server is up and well; what was answered is kept: run again to go on"


class _Response(NamedTuple):
    status: int
    headers: Mapping[str, str]
    body: bytes


class RemoteModel:
    """Asks the model that `config` names. Close it, or use it in a `with` block.

    Raises:
        UserError: when the key's environment variable is not set, or the cache cannot be used.
    """

    def __init__(self, config: RemoteConfig) -> None:
        self.config = config
        self._dialect = dialect_of(config)
        self._endpoint = self._dialect.endpoint(config.url)
        self._key = _read_key(config.key_variable)
        self._cache = AnswerCache(Path(config.cache).expanduser() if config.cache else default_cache())
        self._pace = Pace(config.requests_per_minute)
        self._budget = Budget(config.input_price, config.output_price, config.spend_cap)
        self._paid: set[str] = set()
        """Keys of answers whose cost is counted: what is asked again costs nothing again."""
        self._counts: dict[str, int] = dict.fromkeys(RemoteStats._fields[:-1], 0)
        self._counting = threading.Lock()
        self._client = httpx2.Client(
            headers={"content-type": "application/json"} | self._dialect.headers(self._key),
            timeout=config.timeout,
            limits=httpx2.Limits(max_connections=config.concurrency),
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def close(self) -> None:
        """Close connections and cache."""
        self._client.close()
        self._cache.close()

    def stats(self) -> RemoteStats:
        """What asking took so far."""
        with self._counting:
            return RemoteStats(**self._counts, dollars=self._budget.spent)

    def ask(self, questions: Sequence[Question], label: str = "asking") -> list[Answer | Unanswered]:
        """One answer for each question, in order; equal questions (sample and all) are asked once.

        Raises:
            UserError: when a request failed for good and the config says `fail`, when nothing gets
                through, when the key, the model or the account is refused, or at the spend cap. Answers
                that came before are in the cache.
        """
        calls = [self._call(question) for question in questions]
        found: dict[str, Answer | Unanswered] = {}
        for call in {call.key: call for call in calls}.values():
            if (known := self._known(call)) is not None:
                found[call.key] = known
        missing = list({call.key: call for call in calls if call.key not in found}.values())
        if missing:
            self._ask_all(missing, found, label)
        return [found[call.key] for call in calls]

    def _call(self, question: Question) -> _Call:
        body = self._dialect.body(self.config, question)
        raw = json.dumps(body, ensure_ascii=False).encode()
        most = self._budget.price(len(raw) + _TEMPLATE_TOKENS, question.max_tokens)
        return _Call(request_key(self._endpoint, body, question.sample), raw, most)

    def _known(self, call: _Call) -> Answer | None:
        stored = self._cache.get(call.key)
        if stored is None:
            return None
        try:
            answer = self._dialect.read(json.loads(stored))
        except _UNREADABLE:
            return None  # stored by a version that read it otherwise: ask again
        self._count(answer, cached=1)
        if call.key not in self._paid:
            self._paid.add(call.key)
            self._budget.spend(self._cost(call, answer))
        return answer

    def _cost(self, call: _Call, answer: Answer) -> float:
        if answer.input_tokens is None or answer.output_tokens is None:
            return call.most
        return self._budget.price(answer.input_tokens, answer.output_tokens)

    def _count(self, answer: Answer | None = None, **amounts: int) -> None:
        if answer is not None:
            amounts |= {"input_tokens": answer.input_tokens or 0, "output_tokens": answer.output_tokens or 0}
        with self._counting:
            for name, amount in amounts.items():
                self._counts[name] += amount

    def _ask_all(self, calls: Sequence[_Call], found: dict[str, Answer | Unanswered], label: str) -> None:
        stop = threading.Event()
        done: queue.SimpleQueue[tuple[_Call, Answer | Unanswered | Exception]] = queue.SimpleQueue()
        todo, taking = iter(calls), threading.Lock()
        # daemons: Ctrl-C need not wait for a slow server
        workers = [
            threading.Thread(target=self._work, args=(todo, taking, done, stop), daemon=True)
            for _ in range(min(self.config.concurrency, len(calls)))
        ]
        for worker in workers:
            worker.start()
        failed_in_a_row = 0
        try:
            with progress(label, len(calls)) as ticker:
                for _ in calls:
                    call, result = done.get()
                    if isinstance(result, Exception):
                        raise result
                    failed_in_a_row = failed_in_a_row + 1 if isinstance(result, Unanswered) else 0
                    if isinstance(result, Unanswered) and failed_in_a_row >= self.config.give_up:
                        failure = _Failure(f"{failed_in_a_row} requests in a row failed: {result.problem}")
                        raise self._error(failure)
                    found[call.key] = result
                    ticker.advance()
        except UserError:
            stop.set()
            for worker in workers:  # what is under way is paid for: let it reach the cache
                worker.join(self.config.timeout)
            raise
        finally:
            stop.set()

    def _work(
        self,
        todo: Iterator[_Call],
        taking: threading.Lock,
        done: queue.SimpleQueue[tuple[_Call, Answer | Unanswered | Exception]],
        stop: threading.Event,
    ) -> None:
        while not stop.is_set():
            with taking:
                call = next(todo, None)
            if call is None:
                return
            try:
                done.put((call, self._answer(call, stop)))
            except Exception as error:  # whatever it is, the main thread must hear of it
                done.put((call, error))
                stop.set()

    def _answer(self, call: _Call, stop: threading.Event) -> Answer | Unanswered:
        for tries in itertools.count(1):
            self._pace.wait(stop)
            if stop.is_set():
                return Unanswered("the work was stopped")
            outcome = self._try(call)
            if isinstance(outcome, Answer):
                return outcome
            too_long = outcome.after is not None and outcome.after > self.config.max_wait
            if outcome.final or not outcome.again or too_long or tries > self.config.retries:
                return self._give_up(outcome, tries)
            self._count(retries=1)
            if outcome.after is not None:
                self._pace.hold(outcome.after)  # the others would be turned away as well
            else:
                wait = min(self.config.backoff * 2 ** (tries - 1), self.config.max_wait)
                stop.wait(wait * random.uniform(0.5, 1.0))
        raise AssertionError("unreachable")

    def _give_up(self, failure: _Failure, tries: int) -> Unanswered:
        if failure.final:
            raise self._error(failure)
        counted = "1 try" if tries == 1 else f"{tries} tries"
        problem = f"no answer after {counted}: {failure.problem}"
        if self.config.on_error == "fail":
            raise self._error(failure._replace(problem=problem))
        self._count(unanswered=1)
        return Unanswered(problem)

    def _error(self, failure: _Failure) -> UserError:
        return UserError(f"{self.config.model}: {failure.problem}", where=self._endpoint, fix=failure.fix)

    def _try(self, call: _Call) -> Answer | _Failure:
        """One request. An answer is in the cache when this returns."""
        self._budget.promise(call.most)
        cost = 0.0
        try:
            outcome, raw = self._send(call)
            if isinstance(outcome, Answer):
                cost = self._cost(call, outcome)
                self._cache.put(call.key, raw)
                self._paid.add(call.key)
                self._count(outcome)
            elif outcome.billed:
                cost = call.most
            return outcome
        finally:
            self._budget.settle(call.most, cost)

    def _send(self, call: _Call) -> tuple[Answer | _Failure, str]:
        self._count(requests=1)
        try:
            response = self._post(call.body)
        except httpx2.TimeoutException as error:
            waited = f"no whole answer came in {self.config.timeout:g} s ({type(error).__name__})"
            sent = not isinstance(error, httpx2.ConnectTimeout | httpx2.PoolTimeout)
            return _Failure(waited, again=True, billed=sent), ""
        except httpx2.RequestError as error:
            reason = self._hide(f"{type(error).__name__}: {error}")
            sent = not isinstance(error, httpx2.ConnectError)
            return _Failure(f"the connection failed ({reason})", again=True, billed=sent), ""
        if response.status != 200:
            return self._refusal(response), ""
        try:
            return self._dialect.read(json.loads(response.body)), response.body.decode()
        except _UNREADABLE as error:
            reason = f"{type(error).__name__}: {error}"[:100]
            told = f"the response is no {self.config.dialect} answer ({self._hide(reason)})"
            return _Failure(told, again=True, billed=True), ""

    def _post(self, body: bytes) -> _Response:
        """The whole response, however slowly it drips, within the timeout.

        Raises:
            httpx2.RequestError: as httpx2, and for one that is too slow or too long.
        """
        deadline = time.monotonic() + self.config.timeout
        with self._client.stream("POST", self._endpoint, content=body) as response:
            came = bytearray()
            for chunk in response.iter_bytes():
                came += chunk
                if time.monotonic() > deadline:
                    raise httpx2.ReadTimeout("too slow")
                if len(came) > _LARGEST:
                    raise httpx2.ReadError(f"more than {_LARGEST:,} bytes came")
            return _Response(response.status_code, response.headers, bytes(came))

    def _refusal(self, response: _Response) -> _Failure:
        status = response.status
        message, code = _message(response)
        told = self._hide(f"status {status}" + (f": {message}" if message else ""))
        if status in (401, 403):
            key = self.config.key_variable or "key_variable"
            return _Failure(f"access was refused ({told})", final=True, fix=f"put a valid key into {key}")
        if status == 402 or code == "insufficient_quota":
            return _Failure(f"the account is exhausted ({told})", final=True, fix="see to the account")
        if status == 404 or 300 <= status < 400:
            fix = "mend url, dialect or model"
            return _Failure(f"no such address or model ({told})", final=True, fix=fix)
        wanted = response.headers.get("x-should-retry")
        again = status in (408, 409, 429) or status >= 500 if wanted is None else wanted == "true"
        fix = _Failure("").fix if again else "mend the request it names, or pass over it with on_error=skip"
        return _Failure(told, again=again, after=_retry_after(response.headers), fix=fix)

    def _hide(self, text: str) -> str:
        """Servers like to quote the key they refuse."""
        return text.replace(self._key, "(key)") if self._key else text


def _read_key(variable: str) -> str:
    if not variable:
        return ""
    key = os.environ.get(variable, "").strip()
    if not key:
        raise UserError(
            f"the environment variable {variable} is not set",
            where="key_variable",
            fix=f"put the key into it: export {variable}=...",
        )
    if not (key.isascii() and key.isprintable()):
        raise UserError(
            f"the key in {variable} has characters that no header can carry",
            where="key_variable",
            fix="put the key alone into it, on one line",
        )
    return key


def _message(response: _Response) -> tuple[str, str]:
    """What an error response says, in one line, and its code."""
    with suppress(*_UNREADABLE):
        error: Any = json.loads(response.body)["error"]
        if isinstance(error, dict):
            text = " ".join(str(error["message"]).split())
            return text[:200], str(error.get("code") or error.get("type") or "")
    return "", ""


def _retry_after(headers: Mapping[str, str]) -> float | None:
    """Seconds, from `retry-after-ms` or `retry-after` (seconds or a date); None where neither says."""
    with suppress(ValueError):
        if "retry-after-ms" in headers:
            return max(0.0, float(headers["retry-after-ms"]) / 1000)
    value = headers.get("retry-after", "")
    with suppress(ValueError):
        return max(0.0, float(value))
    with suppress(ValueError, TypeError):
        return max(0.0, (parsedate_to_datetime(value) - datetime.now(UTC)).total_seconds())
    return None
