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


@pytest.mark.parametrize(
    "changes",
    [
        {"qk_norm": True},
        {"qkv_bias": True},
        {"qkv_bias": True, "o_bias": True, "mlp_bias": True},
        {"qkv_bias": True, "o_bias": True, "qk_norm": True},
    ],
)
def test_parameters_with_biases_and_norms(changes):
    config = tiny_config(**changes)
    assert config.parameters() == sum(p.numel() for p in meta_model(config).parameters())


def test_a_window_saves_attention():
    full = tiny_config(sliding_window=None).flops_per_token(100)
    one = tiny_config(sliding_window=25, window_layers=(1,)).flops_per_token(100)
    seen = sum(min(i, 25) for i in range(1, 101)) / 100  # keys a token looks at, on average
    assert full - one == pytest.approx(12 * 4 * 8 * (50.5 - seen), rel=0.02)


@pytest.mark.parametrize(
    ("changes", "family"),
    [
        ({}, "llama"),
        ({"qkv_bias": True, "o_bias": True}, "llama"),
        ({"sliding_window": 8}, "mistral"),
        ({"qkv_bias": True}, "qwen2"),
        ({"qkv_bias": True, "sliding_window": 8, "window_layers": (0,)}, "qwen2"),
        ({"qk_norm": True}, "qwen3"),
        ({"no_rope_layers": (1,)}, "smollm3"),
        ({"sliding_window": 8, "window_layers": (0,)}, "smollm3"),
        ({"family": "mistral"}, "mistral"),
    ],
)
def test_the_family_is_the_first_that_has_it_all(changes, family):
    assert tiny_config(**changes).written_family == family


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"qk_norm": True, "no_rope_layers": (0,)}, "no model family has all of this"),
        ({"qk_norm": True, "family": "llama"}, "family llama has no qk_norm"),
        ({"window_layers": (0,)}, "needs a sliding_window"),
        ({"sliding_window": 8, "window_layers": (0, 1)}, "leave it out"),
        ({"no_rope_layers": (2,)}, "rising numbers of layers"),
    ],
)
def test_what_no_family_has_is_refused(changes, message):
    with pytest.raises(ValidationError, match=message):
        tiny_config(**changes)
