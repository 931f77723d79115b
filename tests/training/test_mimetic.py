"""A mimetic start: heads look where it says, and what they read they write."""

import pytest
import torch

from publius.core.errors import UserError
from publius.model.attention import rotate
from publius.model.transformer import Transformer
from publius.pipeline import testing_run
from publius.testing.fakes import tiny_config
from publius.training.mimetic import mimetic
from publius.training.pretrain import pretrain
from tests.training.test_pretrain import config, inputs

SHAPE = {"qkv_bias": True, "head_dim": 32, "heads": 4, "kv_heads": 2, "hidden_size": 64}


def started(**changes):
    model = Transformer(tiny_config(**SHAPE | changes), seed=0)
    mimetic(model)
    return model


@pytest.mark.parametrize("theta", [10_000.0, 500_000.0])
@pytest.mark.parametrize("length", [12, 400])
def test_heads_of_the_first_layer_look_one_and_two_places_back(theta, length):
    model = started(rope_theta=theta)
    tokens = torch.randint(269, (1, length), generator=torch.Generator().manual_seed(0))
    attention = model.model.layers[0].self_attn
    with torch.no_grad():
        x = model.model.layers[0].input_layernorm(model.model.embed_tokens(tokens))
        qk = attention.qkv_proj(x).view(1, length, 8, 32)[:, :, :6]
        q, k = rotate(qk, *model.rotary.at(tokens, None, x.dtype)).split((4, 2), dim=2)
    for head in range(4):
        scores = q[0, :, head] @ k[0, :, head // 2].T / 32**0.5
        weights = scores.masked_fill(~torch.ones(length, length, dtype=torch.bool).tril(), -1e9).softmax(-1)
        back = 1 + head // 2
        seen = weights.diagonal(-back)[2:]
        assert seen.mean() > 0.6, f"head {head}"


def test_above_heads_write_what_they_read():
    model = started(layers=3)
    for block in model.model.layers[1:]:
        attention = block.self_attn
        values = attention.qkv_proj.weight[6 * 32 :].unflatten(0, (2, 32))
        for head in range(4):
            both = attention.o_proj.weight[:, head * 32 : (head + 1) * 32] @ values[head // 2]
            torch.testing.assert_close(both, both.T)
            assert torch.linalg.eigvalsh(both.detach())[-32:].min() > 0.01
    plain = Transformer(tiny_config(**SHAPE, layers=3), seed=0)
    assert torch.equal(
        plain.model.layers[0].self_attn.o_proj.weight, model.model.layers[0].self_attn.o_proj.weight
    )


@pytest.mark.parametrize("shape", [{"qkv_bias": False}, {"qkv_bias": False, "qk_norm": True}])
def test_a_model_that_cannot_have_it_is_refused(shape):
    with pytest.raises(UserError, match="qkv_bias"):
        started(**shape)


def test_pretraining_starts_with_it_and_not_over_other_weights(tmp_path):
    given = inputs(tmp_path)
    asked = config(steps=1, mimetic=True, model=tiny_config(**SHAPE))
    made = pretrain(testing_run(tmp_path / "run"), asked, **given)
    biases = made.load().model.layers[0].self_attn.qkv_proj.bias
    assert (biases[:192] - started().model.layers[0].self_attn.qkv_proj.bias[:192]).abs().max() < 0.01
    with pytest.raises(UserError, match="there is an init"):
        pretrain(testing_run(tmp_path / "more"), asked, **given, init=made)
