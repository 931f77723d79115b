"""Remote models on the command line: what several verbs take of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from pydantic import ValidationError

from publius.core.errors import UserError
from publius.inference.remote import RemoteConfig
from publius.pipeline.names import did_you_mean
from publius.pipeline.recipe import parse_setting, refused

__all__ = ["remote_config"]


def remote_config(named: Mapping[str, Any], settings: Sequence[str], where: str) -> RemoteConfig:
    """The remote model of these fields, and of settings `KEY=VALUE`.

    Args:
        where: the verb, for errors.

    Raises:
        UserError: for a model without a name, an unknown setting, a value that does not fit.
    """
    if not named["model"]:
        raise UserError("a remote model needs a name", where=where, fix="give --model-name, or #NAME")
    fields, given = RemoteConfig.model_fields, dict(named)
    for setting in settings:
        key, equals, text = setting.partition("=")
        if not equals or key not in fields:
            fix = did_you_mean(key, fields) if equals else "write KEY=VALUE"
            raise UserError(f"{setting!r} is no setting of a remote model", where=f"{where} --set", fix=fix)
        given[key] = parse_setting(fields[key].annotation, text, f"{where} --set {setting}")
    try:
        return RemoteConfig.model_validate(given)
    except ValidationError as error:
        raise refused(error, where) from None
