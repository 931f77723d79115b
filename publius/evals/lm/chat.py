"""A conversation as the string of a checkpoint's own chat template, as `transformers` renders it."""

from __future__ import annotations

import datetime
import json
from collections.abc import Mapping, Sequence
from typing import Any

from jinja2 import TemplateError
from jinja2.sandbox import ImmutableSandboxedEnvironment

from publius.core.errors import UserError

__all__ = ["ChatTemplate"]

_MARK = "CONTINUE_FINAL_MESSAGE_TAG "
"""Put after a reply that goes on, to find where to cut. Its last letter shows whether spaces were trimmed."""


class ChatTemplate:
    """A checkpoint's `chat_template.jinja`.

    Args:
        source: of the template; it runs in Jinja's sandbox.
        names: what it may use beside the messages: `bos_token` and the like.
        where: its file, for errors.
    """

    def __init__(self, source: str, names: Mapping[str, str], where: str) -> None:
        environment = ImmutableSandboxedEnvironment(
            trim_blocks=True, lstrip_blocks=True, extensions=["jinja2.ext.loopcontrols"]
        )
        environment.filters["tojson"] = _tojson
        environment.globals["raise_exception"] = _raise
        environment.globals["strftime_now"] = _now
        self.source, self._names, self._where = source, dict(names), where
        try:
            self._template = environment.from_string(source)
        except TemplateError as error:
            raise self._refused(error) from error

    def render(self, messages: Sequence[Mapping[str, str]], *, reply: bool = True) -> str:
        """The prompt of `messages`, each with a `role` and a `content`.

        Args:
            reply: True opens the assistant's reply; False leaves the last message open, to go on with.

        Raises:
            UserError: when the template refuses them, even without the system's message.
        """
        said = [dict(message) for message in messages]
        if not reply:
            said[-1]["content"] += _MARK
        try:
            text = self._render(said, reply)
        except TemplateError:
            try:
                text = self._render([message for message in said if message["role"] != "system"], reply)
            except TemplateError as error:
                raise self._refused(error) from error
        if reply:
            return text
        at = text.rfind(_MARK.strip())
        if at < 0:
            raise self._refused("the last message is not in its text, so no reply can go on from it")
        return text[:at] if text.startswith(_MARK, at) else text[:at].rstrip()

    def _render(self, messages: list[dict[str, str]], reply: bool) -> str:
        return self._template.render(
            messages=messages, tools=None, documents=None, add_generation_prompt=reply, **self._names
        )

    def _refused(self, why: object) -> UserError:
        return UserError(
            f"the chat template refuses: {why}", where=self._where, fix="evaluate without a chat template"
        )


def _tojson(
    value: Any,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    return json.dumps(
        value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys
    )


def _raise(message: str) -> None:
    raise TemplateError(message)


def _now(form: str) -> str:
    return datetime.datetime.now().strftime(form)
