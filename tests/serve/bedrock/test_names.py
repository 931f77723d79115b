"""What clients call a model leads to the one that is served, the plainest reading first."""

from __future__ import annotations

from typing import cast

import pytest

from publius.serve.bedrock.names import candidates, resolve
from publius.serve.errors import ApiError
from publius.serve.hub import Hub


class Served:
    """A hub of names."""

    def __init__(self, *names: str) -> None:
        self.names = names

    def get(self, model: str) -> str:
        if model not in self.names:
            raise ApiError("not_found_error", f"model: {model}")
        return model


def resolved(model_id: str, *names: str) -> str:
    return resolve(model_id, cast(Hub, Served(*names)))


@pytest.mark.parametrize(
    "model_id",
    [
        "publius-haiku",
        "publius-haiku:0",
        "publius-haiku-v1:0",
        "publius-haiku-v2:1:200k",
        "anthropic.publius-haiku",
        "anthropic.publius-haiku-v1:0",
        "us.anthropic.publius-haiku-v1:0",
        "eu.publius-haiku",
        "global.anthropic.publius-haiku",
        "arn:aws:bedrock:us-east-1::foundation-model/anthropic.publius-haiku-v1:0",
        "arn:aws:bedrock:eu-west-1:123456789012:inference-profile/eu.anthropic.publius-haiku-v1:0",
        "arn:aws-us-gov:bedrock:us-gov-west-1:123456789012:inference-profile/us-gov.publius-haiku",
    ],
)
def test_every_way_to_say_it(model_id: str) -> None:
    assert resolved(model_id, "publius-haiku") == "publius-haiku"


def test_the_plainest_reading_wins() -> None:
    name = "us.anthropic.claude-v1:0"
    served = ["claude", "claude-v1:0", "anthropic.claude-v1:0", name]
    for _ in range(4):
        assert resolved(name, *served) == served.pop()
    assert next(candidates(name)) == name


@pytest.mark.parametrize(
    "model_id",
    ["other", "meta.publius-haiku", "publius-haiku-v1x", "xx.anthropic.publius-haiku", "arn:", ":0", ""],
)
def test_what_is_not_served_is_named(model_id: str) -> None:
    with pytest.raises(ApiError) as refused:
        resolved(model_id, "publius-haiku")
    assert refused.value.type == "not_found_error" and refused.value.message.endswith(f": {model_id}")
