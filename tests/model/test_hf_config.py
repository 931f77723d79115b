"""`config.json` in other people's words."""

import pytest
from transformers import AutoConfig

from publius.core.errors import UserError
from publius.model.hf_config import config_from_hf, config_to_hf
from publius.model.rope import DynamicRope, LinearRope, Llama3Rope, YarnRope
from publius.testing.fakes import tiny_config

SHAPES = [
    {},
    {"tie_embeddings": False, "rope_theta": 5e5, "norm_eps": 1e-6},
    {"qkv_bias": True, "o_bias": True, "mlp_bias": True},
    {"sliding_window": 8},
    {"family": "mistral"},
    {"qkv_bias": True, "sliding_window": 8, "window_layers": (1,)},
    {"qk_norm": True, "head_dim": 16, "qkv_bias": True, "o_bias": True},
    {"no_rope_layers": (1,), "sliding_window": 8, "window_layers": (1,)},
    {"rope": LinearRope(factor=2)},
    {"rope": DynamicRope(factor=2)},
    {"rope": YarnRope(factor=4, original_max_position=128, mscale=0.7, mscale_all_dim=1.0, truncate=False)},
    {"rope": YarnRope(factor=4, original_max_position=128, attention_factor=1.5, beta_fast=16, beta_slow=2)},
    {"rope": Llama3Rope(factor=8, original_max_position=64)},
]


@pytest.mark.parametrize("changes", SHAPES)
def test_round_trip(changes):
    config = tiny_config(**changes)
    assert config_from_hf(config_to_hf(config)) == config


@pytest.mark.parametrize("changes", SHAPES)
def test_what_transformers_makes_of_it_reads_the_same(changes, tmp_path):
    """Ours -> their config class -> saved in their spelling (rope_parameters) -> ours."""
    raw = config_to_hf(tiny_config(**changes))
    theirs = AutoConfig.for_model(**{key: value for key, value in raw.items() if key != "architectures"})
    theirs.save_pretrained(tmp_path)
    again = theirs.to_dict()
    assert "rope_scaling" not in again and again["rope_parameters"]
    assert config_from_hf(again) == tiny_config(**changes)


def raw(**changes):
    return config_to_hf(tiny_config()) | changes


def test_absent_keys_mean_what_transformers_takes_them_for():
    plain = raw()
    for name in ("num_key_value_heads", "head_dim", "rope_theta", "tie_word_embeddings", "rms_norm_eps"):
        del plain[name]
    for kind in ("llama", "mistral", "qwen2", "qwen3", "smollm3"):
        theirs = AutoConfig.for_model(kind, **{k: v for k, v in plain.items() if k != "model_type"})
        wanted = theirs.to_dict()
        if kind == "mistral":
            plain |= {"num_attention_heads": 8}
            wanted["num_attention_heads"] = 8
        if kind in ("qwen2", "qwen3"):
            plain |= {"num_attention_heads": 32}
            wanted["num_attention_heads"] = 32
        if kind == "qwen2":
            wanted["head_dim"] = 1
            plain |= {"hidden_size": 64}
            wanted |= {"hidden_size": 64, "head_dim": 2}
        if "head_dim" not in wanted or wanted["head_dim"] is None or kind in ("llama", "mistral"):
            wanted["head_dim"] = plain["hidden_size"] // plain["num_attention_heads"]
        assert config_from_hf(plain | {"model_type": kind}) == config_from_hf(wanted)


def test_a_base_in_rope_parameters_wins_over_the_old_place():
    assert config_from_hf(raw(rope_parameters={"rope_theta": 123.0})).rope_theta == 123.0


ORIGINAL = {"original_max_position_embeddings": 128}


@pytest.mark.parametrize(
    ("spelled", "rope"),
    [
        ({"type": "linear", "factor": 4.0}, LinearRope(factor=4)),
        ({"type": "yarn", "factor": None, **ORIGINAL}, YarnRope(factor=4, original_max_position=128)),
        ({"type": "yarn", "factor": 4.0}, YarnRope(factor=4, original_max_position=512)),
        ({"rope_type": "dynamic", "factor": 2.0, "rope_theta": 5e4}, DynamicRope(factor=2)),
    ],
)
def test_spellings_of_rotary_scaling(spelled, rope):
    for key in ("rope_scaling", "rope_parameters"):
        assert config_from_hf(raw(**{key: spelled})).rope == rope


def test_smollm3_without_a_list_has_no_rope_in_every_fourth_layer():
    config = config_from_hf(
        raw(model_type="smollm3", num_hidden_layers=9, use_sliding_window=True, sliding_window=4)
    )
    assert config.no_rope_layers == config.window_layers == (3, 7)


def test_qwen_windows_start_at_max_window_layers():
    change = {"model_type": "qwen3", "sliding_window": 4, "num_hidden_layers": 4, "max_window_layers": 3}
    assert config_from_hf(raw(**change)).sliding_window is None
    assert config_from_hf(raw(**change, use_sliding_window=True)).window_layers == (3,)
    listed = ["sliding_attention"] * 2 + ["full_attention"] * 2
    assert config_from_hf(raw(**change, use_sliding_window=True, layer_types=listed)).window_layers == (0, 1)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"model_type": "gpt2"}, "gpt2"),
        ({"hidden_act": "gelu"}, "hidden_act"),
        ({"attention_dropout": 0.1}, "attention_dropout"),
        ({"num_experts": 8}, "num_experts"),
        ({"quantization_config": {"bits": 4}}, "quantization_config"),
        ({"auto_map": {"AutoModel": "x.Y"}}, "auto_map"),
        ({"sliding_window": 8}, "sliding_window=8 is not supported in a llama model"),
        ({"model_type": "qwen2", "attention_bias": True}, "attention_bias"),
        ({"model_type": "mistral", "mlp_bias": True}, "mlp_bias"),
        ({"partial_rotary_factor": 0.5}, "partial_rotary_factor"),
        ({"rope_scaling": {"rope_type": "longrope", "factor": 2.0}}, "longrope"),
        ({"rope_scaling": {"rope_type": "linear", "factor": 2.0, "mscale": 1.0}}, "mscale"),
        ({"rope_scaling": {"rope_type": "linear"}}, "factor"),
        ({"layer_types": ["sliding_attention"] * 2}, "layer_types"),
        ({"layer_types": ["linear_attention"] * 2}, "layer_types"),
        ({"model_type": "smollm3", "no_rope_layers": [1]}, "no_rope_layers"),
        ({"num_key_value_heads": 3}, "multiple of kv_heads"),
        ({"model_type": "qwen2", "use_mrope": True}, "use_mrope"),
        ({"model_type": "qwen2", "use_sliding_window": "false", "sliding_window": 4}, "neither true nor"),
    ],
)  # fmt: skip
def test_what_cannot_be_honoured_is_refused_by_name(change, message):
    with pytest.raises(UserError, match=message):
        config_from_hf(raw(**change))


@pytest.mark.parametrize(
    "change",
    [
        {"initializer_range": 0.04, "use_cache": True, "pretraining_tp": 2, "_name_or_path": "x"},
        {"rope_interleaved": False, "is_llama_config": True, "transformers.js_config": {"dtype": "q4"}},
        {"sliding_window": None, "use_sliding_window": False, "max_window_layers": 28},
        {"eos_token_id": [1, 2], "dtype": "bfloat16", "rope_scaling": None},
        {"use_mrope": False},  # Qwen2.5 as published
    ],
)
def test_what_changes_nothing_is_passed_over(change):
    assert config_from_hf(raw(**change)) == tiny_config()


def test_a_missing_field_is_named():
    plain = raw()
    del plain["hidden_size"]
    with pytest.raises(UserError, match="hidden_size"):
        config_from_hf(plain)


@pytest.mark.parametrize(
    "change",
    [
        {"rope_scaling": "linear"},
        {"rope_scaling": [2.0]},
        {"rope_scaling": {"type": ["linear"]}},
        {"rope_scaling": {"type": "yarn", "factor": 2.0}, "max_position_embeddings": None},
        {"num_attention_heads": None},
        {"num_hidden_layers": "two"},
        {"model_type": ["llama"]},
        {"model_type": "smollm3", "no_rope_layers": 4},
        {"model_type": "smollm3", "no_rope_layer_interval": 0},
        {"layer_types": 2},
        {"model_type": "qwen2", "use_sliding_window": True, "sliding_window": 4, "max_window_layers": None},
    ],
)
def test_a_value_of_the_wrong_kind_is_the_users_error(change):
    with pytest.raises(UserError) as refused:
        config_from_hf(raw(**change), where="here/config.json")
    assert refused.value.where == "here/config.json"
