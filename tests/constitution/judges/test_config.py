from __future__ import annotations

import pytest
from pydantic import ValidationError

from publius.constitution.judges import JudgeConfig
from publius.constitution.preferences import LabelConfig
from publius.pipeline.recipe import parse_setting


@pytest.mark.parametrize(
    ("settings", "interval"),
    [
        ({}, None),
        ({"chain_of_thought": True}, (0.4, 0.6)),
        ({"chain_of_thought": True, "clamp": "none"}, None),
        ({"chain_of_thought": True, "clamp": (0.2, 0.8)}, (0.2, 0.8)),
        ({"clamp": (0.1, 0.9)}, (0.1, 0.9)),
    ],
)
def test_arms(settings, interval):
    assert JudgeConfig.model_validate(settings).interval == interval


@pytest.mark.parametrize("text", ["constitution", "none", "0.2,0.8", "[0.2, 0.8]"])
def test_a_clamp_can_be_set_from_the_command_line(text):
    value = parse_setting(LabelConfig.model_fields["clamp"].annotation, text, "here")
    assert value in ("constitution", "none", (0.2, 0.8))


@pytest.mark.parametrize("clamp", [(0.6, 0.4), (0.5, 0.5), (-0.1, 0.5), (0.5, 1.1), "all"])
def test_a_clamp_is_an_interval(clamp):
    with pytest.raises(ValidationError):
        JudgeConfig(clamp=clamp)


def test_remote_judges_can_be_set_from_the_command_line():
    text = '[{"dialect": "anthropic", "url": "https://h", "model": "m", "key_variable": "K"}]'
    [remote] = parse_setting(LabelConfig.model_fields["remote"].annotation, text, "here")
    assert remote.model == "m" and remote.logprobs
