from __future__ import annotations

import pytest
from pydantic import ValidationError

from publius.core.config import canonical
from publius.inference.remote import RemoteConfig

BASE = {"dialect": "openai", "url": "https://h/v1/", "model": "m"}


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"url": "h/v1"}, "url must be like"),
        ({"url": "ftp://h"}, "url must be like"),
        ({"url": "https://me:secret@h/v1"}, "must not hold a name"),
        ({"url": "https://h/v1?key=1"}, "must not hold a name"),
        ({"spend_cap": 1.0}, "spend_cap needs"),
        ({"timeout": float("inf")}, "finite"),
        ({"retries": -1}, "greater than or equal"),
        ({"key": "sk"}, "Extra inputs"),
    ],
)
def test_refusals(changes, words):
    with pytest.raises(ValidationError, match=words):
        RemoteConfig.model_validate(BASE | changes)


def test_identity_is_what_decides_the_answers():
    config = RemoteConfig.model_validate(
        BASE | {"key_variable": "K", "cache": "/somewhere", "spend_cap": 1, "input_price": 2}
    )
    assert canonical(config) == {
        "dialect": "openai",
        "url": "https://h/v1",
        "model": "m",
        "temperature": None,
        "max_tokens_field": "max_tokens",
        "on_error": "fail",
    }
