"""Shapes, presets and their arithmetic."""

import pytest
from pydantic import ValidationError

from publius.core.errors import UserError
from publius.model.config import ModelConfig, preset
from publius.model.parallel import meta_model
from publius.testing.fakes import tiny_config


@pytest.mark.parametrize("tied", [True, False])
def test_parameters_are_those_of_the_module(tied):
    config = tiny_config(tie_embeddings=tied)
    assert config.parameters() == sum(p.numel() for p in meta_model(config).parameters())


def test_flops_by_hand():
    config = ModelConfig(
        vocab_size=10, hidden_size=4, layers=1, heads=2, kv_heads=1, head_dim=2, intermediate_size=8
    )
    matrices = 4 * 4 + 4 * 2 + 4 * 2 + 4 * 4 + 3 * 4 * 8 + 10 * 4
    assert config.flops_per_token(16) == 6 * matrices + 6 * 2 * 2 * 16


def test_bad_shapes_are_refused():
    with pytest.raises(ValidationError, match="multiple of kv_heads"):
        tiny_config(heads=4, kv_heads=3)
    with pytest.raises(ValidationError, match="even"):
        tiny_config(head_dim=7)


@pytest.mark.parametrize("scale", ["pocket", "laptop", "one_gpu", "cluster"])
def test_tiers_grow(scale):
    sizes = [preset(tier, scale, 2048).parameters() for tier in ("haiku", "sonnet", "opus")]
    assert sizes == sorted(sizes) and sizes[0] < sizes[1] < sizes[2]


def test_pocket_is_small_and_cluster_opus_is_huge():
    assert preset("haiku", "pocket", 2048).parameters() < 3e6
    assert 4e6 < preset("opus", "pocket", 2048).parameters() < 8e6
    assert 100e9 <= preset("opus", "cluster", 131_072).parameters() <= 400e9


def test_unknown_preset():
    with pytest.raises(UserError, match="tiers: haiku"):
        preset("sonata", "pocket", 10)  # pyright: ignore


def test_hf_round_trip():
    config = tiny_config(tie_embeddings=False, rope_theta=5e5)
    assert ModelConfig.from_hf(config.to_hf()) == config


def test_from_hf_fills_what_older_files_leave_out():
    raw = tiny_config().to_hf()
    for name in ("num_key_value_heads", "head_dim", "rope_theta"):
        del raw[name]
    raw["rope_parameters"] = {"rope_type": "default", "rope_theta": 123.0}
    config = ModelConfig.from_hf(raw)
    assert (config.kv_heads, config.head_dim, config.rope_theta) == (4, 8, 123.0)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"model_type": "gpt2"}, "gpt2"),
        ({"rope_scaling": {"rope_type": "yarn", "factor": 2}}, "yarn"),
        ({"attention_bias": True}, "attention_bias"),
        ({"hidden_act": "gelu"}, "gelu"),
    ],
)
def test_from_hf_refuses_what_it_does_not_have(change, message):
    with pytest.raises(UserError, match=message):
        ModelConfig.from_hf(tiny_config().to_hf() | change)


def test_from_hf_names_a_missing_field():
    raw = tiny_config().to_hf()
    del raw["hidden_size"]
    with pytest.raises(UserError, match="hidden_size"):
        ModelConfig.from_hf(raw)
