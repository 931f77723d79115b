"""Every family, as transformers computes it: random small models, both ways."""

import pytest
import torch
from safetensors.torch import load_file
from transformers import (
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    LlamaConfig,
    MistralConfig,
    Qwen2Config,
    Qwen3Config,
    SmolLM3Config,
)

from publius.model.checkpoint import load_model, load_reward_model, save_checkpoint, save_reward_checkpoint
from publius.model.heads import RewardModel
from publius.testing.fakes import byte_tokenizer

SHAPE = {
    "vocab_size": 269, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 4,
    "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 64, "pad_token_id": 0,
    "initializer_range": 0.3,
}  # fmt: skip
LINEAR = {"rope_type": "linear", "factor": 3.0, "rope_theta": 1e4}
DYNAMIC = {"rope_type": "dynamic", "factor": 2.0, "rope_theta": 1e4}
YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 16, "rope_theta": 1e4}
LLAMA3 = {
    "rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
    "original_max_position_embeddings": 32, "rope_theta": 5e5,
}  # fmt: skip
CASES = {
    "llama": LlamaConfig(**SHAPE, tie_word_embeddings=True),
    "llama-mha": LlamaConfig(**SHAPE | {"num_key_value_heads": 4}, attention_bias=True),
    "llama-mqa": LlamaConfig(**SHAPE | {"num_key_value_heads": 1}, mlp_bias=True, head_dim=16),
    "llama-linear": LlamaConfig(**SHAPE, rope_parameters=LINEAR),
    "llama-llama3": LlamaConfig(**SHAPE, rope_parameters=LLAMA3, attention_bias=True, mlp_bias=True),
    "llama-dynamic": LlamaConfig(**SHAPE | {"max_position_embeddings": 24}, rope_parameters=DYNAMIC),
    "mistral": MistralConfig(**SHAPE, sliding_window=None, head_dim=16),
    "mistral-window": MistralConfig(**SHAPE, sliding_window=7),
    "mistral-yarn": MistralConfig(**SHAPE, sliding_window=40, rope_parameters=YARN),
    "qwen2": Qwen2Config(**SHAPE, tie_word_embeddings=True),
    "qwen2-window": Qwen2Config(**SHAPE, use_sliding_window=True, sliding_window=5, max_window_layers=2),
    "qwen2-yarn": Qwen2Config(
        **SHAPE, rope_parameters=YARN | {"beta_fast": 8.0, "beta_slow": 2.0, "truncate": False}
    ),
    "qwen3": Qwen3Config(**SHAPE, head_dim=16),
    "qwen3-bias": Qwen3Config(**SHAPE, head_dim=8, attention_bias=True, tie_word_embeddings=True),
    "qwen3-layers": Qwen3Config(
        **SHAPE, head_dim=8, use_sliding_window=True, sliding_window=6,
        layer_types=["sliding_attention", "full_attention", "sliding_attention", "full_attention"],
        rope_parameters=YARN | {"mscale": 0.7, "mscale_all_dim": 1.3},
    ),
    "smollm3": SmolLM3Config(**SHAPE),
    "smollm3-window": SmolLM3Config(
        **SHAPE, use_sliding_window=True, sliding_window=6, no_rope_layers=[1, 0, 0, 1], attention_bias=True,
        mlp_bias=True, tie_word_embeddings=False, rope_parameters=YARN | {"attention_factor": 1.7},
    ),
    "smollm3-near-and-far": SmolLM3Config(  # the recipe longcontext
        **SHAPE, use_sliding_window=True, sliding_window=6, no_rope_layers=[1, 0, 1, 0], attention_bias=True,
        layer_types=["sliding_attention", "full_attention", "sliding_attention", "full_attention"],
    ),
}  # fmt: skip
TOKENS = torch.randint(13, 269, (2, 40), generator=torch.Generator().manual_seed(0))


def random_model(config, auto=AutoModelForCausalLM):
    """A model with every number random: norms and biases too, which a fresh one leaves at 1 and 0."""
    torch.manual_seed(0)
    model = auto.from_config(config, dtype=torch.float32).eval()
    with torch.no_grad():
        for value in model.parameters():
            if value.ndim == 1:
                value.add_(torch.randn_like(value) * 0.3)
    return model


@pytest.mark.parametrize("name", CASES)
def test_ours_is_theirs(name, tmp_path):
    theirs = random_model(CASES[name])
    theirs.save_pretrained(tmp_path / "theirs")
    ours = load_model(tmp_path / "theirs")
    with torch.no_grad():
        expected = theirs(TOKENS).logits
        assert (ours(TOKENS) - expected).abs().max() <= 1e-4
        positions = torch.arange(40)[None]
        assert (ours(TOKENS, positions_BT=positions) - expected).abs().max() <= 1e-4
    assert expected.std() > 0.5  # or nothing was compared

    save_checkpoint(tmp_path / "ours", ours, byte_tokenizer(), shard_bytes=20_000)
    assert len(list((tmp_path / "ours").glob("model-*.safetensors"))) > 1
    again = AutoModelForCausalLM.from_pretrained(tmp_path / "ours", dtype=torch.float32).eval()
    assert type(again) is type(theirs)
    for key, value in theirs.state_dict().items():
        assert torch.equal(again.state_dict()[key], value), key
    with torch.no_grad():
        torch.testing.assert_close(again(TOKENS).logits, expected, rtol=0, atol=1e-5)

    again.save_pretrained(tmp_path / "third")
    third = load_model(tmp_path / "third")
    assert third.config == ours.config
    for key, value in ours.state_dict().items():
        assert torch.equal(third.state_dict()[key], value), key


@pytest.mark.parametrize("name", ["llama", "mistral-window", "qwen2", "qwen3", "smollm3"])
def test_rewards_keep_the_family(name, tmp_path):
    random_model(CASES[name]).save_pretrained(tmp_path / "base")
    reward = RewardModel(load_model(tmp_path / "base"), seed=0)
    save_reward_checkpoint(tmp_path / "reward", reward, byte_tokenizer())
    theirs = AutoModelForSequenceClassification.from_pretrained(
        tmp_path / "reward", dtype=torch.float32
    ).eval()
    last = torch.tensor([39, 39])
    with torch.no_grad():
        expected = theirs(TOKENS).logits[:, 0]
        torch.testing.assert_close(reward(TOKENS, last), expected, rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(
            load_reward_model(tmp_path / "reward")(TOKENS, last), expected, rtol=1e-4, atol=1e-4
        )


def test_bf16_goes_out_and_comes_back_bit_identical(tmp_path):
    theirs = random_model(CASES["qwen3"]).to(torch.bfloat16)
    theirs.save_pretrained(tmp_path / "theirs", max_shard_size="20KB")
    ours = load_model(tmp_path / "theirs")
    save_checkpoint(tmp_path / "ours", ours, byte_tokenizer(), dtype=torch.bfloat16)
    stored = load_file(tmp_path / "ours" / "model.safetensors")
    for key, value in theirs.state_dict().items():
        assert torch.equal(stored[key], value), key


def test_dynamic_scaling_follows_the_length_of_the_row(tmp_path):
    theirs = random_model(CASES["llama-dynamic"])
    theirs.save_pretrained(tmp_path)
    ours = load_model(tmp_path)
    with torch.no_grad():
        for length in (24, 25, 48):
            tokens = TOKENS[:, :1].expand(2, length) + torch.arange(length)
            assert (ours(tokens) - theirs(tokens).logits).abs().max() <= 1e-4, length
    with pytest.raises(ValueError, match="48"):
        ours(torch.zeros(1, 49, dtype=torch.long))
