"""What Bedrock's clients call a model, and the model that is served."""

from __future__ import annotations

import re
from collections.abc import Iterator

from publius.serve.errors import ApiError
from publius.serve.hub import Hub

__all__ = ["candidates", "resolve"]

_REGION = re.compile(r"(?:us|us-gov|eu|apac|ap|jp|au|ca|sa|me|af|global)\.")
_VENDOR = re.compile(r"(?:anthropic|publius)\.")
_VERSION = re.compile(r"(?:-v\d+)?(?::\d+k?)+\Z|-v\d+\Z")


def candidates(model_id: str) -> Iterator[str]:
    """Names a model id may stand for, the plainest reading first.

    `arn:aws:bedrock:eu-west-1:1:inference-profile/eu.anthropic.publius-haiku-v1:0` ends in `publius-haiku`.
    """
    seen: set[str] = set()
    names = [model_id]
    if model_id.startswith("arn:"):
        names.append(model_id.rsplit("/", 1)[-1])
    for prefix in (_REGION, _VENDOR):
        names.append(prefix.sub("", names[-1], count=1) if prefix.match(names[-1]) else names[-1])
    for name in (*names, *(_VERSION.sub("", name) for name in names)):
        if name and name not in seen:
            seen.add(name)
            yield name


def resolve(model_id: str, hub: Hub) -> str:
    """The served id or alias that `model_id` stands for.

    Raises:
        ApiError: not found, naming the id as it was given.
    """
    for name in candidates(model_id):
        try:
            hub.get(name)
        except ApiError:
            continue
        return name
    raise ApiError("not_found_error", f"The provided model identifier is not served here: {model_id[:256]}")
