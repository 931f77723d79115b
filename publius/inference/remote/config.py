"""Where a remote model is, how it is spoken to, and what asking it may cost."""

from __future__ import annotations

import math
from typing import Literal, Self
from urllib.parse import urlsplit

from pydantic import Field, field_validator, model_validator

from publius.core.config import Config, execution

__all__ = ["RemoteConfig"]


class RemoteConfig(Config):
    """One remote model.

    Only what decides the answers is identity: dialect, address, model, sampling, and what becomes of a
    request that failed. A key is never part of a config: `key_variable` names the environment variable
    that holds it.

    Attributes:
        dialect: `anthropic` (Messages) or `openai` (chat completions).
        url: base address, as the official clients take it: `https://host` for Messages (`/v1/messages` is
            added), `https://host/v1` for chat completions (`/chat/completions` is added).
        temperature: None sends none (some models refuse it); both dialects then sample at 1.
        max_tokens_field: the name the OpenAI dialect gives the limit of new tokens.
        on_error: a request that failed after its retries stops the work (`fail`), or is passed over and
            counted (`skip`). A refused key, an unknown model and an exhausted account always stop it.
        key_variable: environment variable that holds the key; empty sends no key.
        concurrency: requests under way at once.
        timeout: seconds after which a request whose answer has not come whole has failed.
        retries: further tries of a request that timed out, was cut off, was rate-limited (429) or met a
            fault of the server (408, 409, 5xx).
        backoff: seconds before the first retry; doubled for each further one, with jitter.
        max_wait: longest wait between two tries, in seconds. A `retry-after` beyond it fails the request.
        give_up: with `skip`, so many failures in a row stop the work: the endpoint is down.
        requests_per_minute: most requests started in a minute.
        input_price, output_price: dollars for a million tokens.
        spend_cap: most dollars. Answers that come from the cache count with what they cost, so the cap
            bounds a job however often it is resumed.
        cache: SQLite file of all answers; empty is `remote.sqlite` in the user's cache folder.
    """

    dialect: Literal["anthropic", "openai"]
    url: str
    model: str = Field(min_length=1)
    temperature: float | None = Field(default=None, ge=0)
    max_tokens_field: Literal["max_tokens", "max_completion_tokens"] = "max_tokens"
    on_error: Literal["fail", "skip"] = "fail"
    key_variable: str = execution("")
    concurrency: int = execution(8, ge=1)
    timeout: float = execution(120.0, gt=0)
    retries: int = execution(5, ge=0)
    backoff: float = execution(1.0, ge=0)
    max_wait: float = execution(120.0, ge=0)
    give_up: int = execution(10, ge=1)
    requests_per_minute: float | None = execution(None, gt=0)
    input_price: float = execution(0.0, ge=0)
    output_price: float = execution(0.0, ge=0)
    spend_cap: float | None = execution(None, gt=0)
    cache: str = execution("")

    @field_validator("url")
    @classmethod
    def _is_an_address(cls, value: str) -> str:
        parts = urlsplit(value)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ValueError("url must be like https://host or http://127.0.0.1:8000/v1")
        if parts.username or parts.password or parts.query or parts.fragment:
            raise ValueError("url must not hold a name, a password or a query: keys come by key_variable")
        return value.rstrip("/")

    @model_validator(mode="after")
    def _a_cap_needs_prices(self) -> Self:
        if self.spend_cap is not None and not (self.input_price or self.output_price):
            raise ValueError("spend_cap needs input_price and output_price (dollars for a million tokens)")
        if not all(map(math.isfinite, (self.timeout, self.backoff, self.max_wait))):
            raise ValueError("timeout, backoff and max_wait must be finite")
        return self
