"""Fused matrices: the same weights, under the same names, moved as if they were apart."""

import pytest
import torch
from torch import nn

from publius.model.fused import fuse_weights, fused_parts, split_weights
from publius.model.heads import RewardModel
from publius.model.parallel import meta_model
from publius.model.transformer import Transformer
from publius.testing.fakes import tiny_config, tiny_model
from publius.training.optimizer import OptimizerConfig, build_optimizers

BIASED = {"qkv_bias": True, "o_bias": True, "mlp_bias": True}


def test_names_and_shapes_are_those_of_a_llama_checkpoint():
    split = split_weights(meta_model(tiny_config(**BIASED)))
    layer = {
        name.removeprefix("model.layers.1."): tuple(value.shape)
        for name, value in split.items()
        if ".1." in name and "norm" not in name
    }
    assert layer == {
        "self_attn.q_proj.weight": (32, 32), "self_attn.q_proj.bias": (32,),
        "self_attn.k_proj.weight": (16, 32), "self_attn.k_proj.bias": (16,),
        "self_attn.v_proj.weight": (16, 32), "self_attn.v_proj.bias": (16,),
        "self_attn.o_proj.weight": (32, 32), "self_attn.o_proj.bias": (32,),
        "mlp.gate_proj.weight": (64, 32), "mlp.gate_proj.bias": (64,),
        "mlp.up_proj.weight": (64, 32), "mlp.up_proj.bias": (64,),
        "mlp.down_proj.weight": (32, 64), "mlp.down_proj.bias": (32,),
    }  # fmt: skip


@pytest.mark.parametrize("model", [tiny_model(**BIASED), RewardModel(tiny_model(), seed=0)])
def test_fuse_undoes_split(model):
    weights = {name: value.clone() for name, value in split_weights(model).items()}
    fused = fuse_weights(model, weights)
    assert fused.keys() == model.state_dict().keys()
    for name, value in model.state_dict().items():
        assert torch.equal(fused[name], value), name


def test_first_weights_are_drawn_matrix_by_matrix():
    """The order and the scale of the draws are those of separate matrices."""
    g = torch.Generator().manual_seed(3)
    split = split_weights(Transformer(tiny_config(layers=1), seed=3))
    torch.testing.assert_close(
        split["model.embed_tokens.weight"], torch.empty(269, 32).normal_(0, 0.02, generator=g)
    )
    for name, rows, columns, std in (
        ("self_attn.q_proj", 32, 32, 32**-0.5),
        ("self_attn.k_proj", 16, 32, 32**-0.5),
        ("self_attn.v_proj", 16, 32, 32**-0.5),
        ("self_attn.o_proj", 32, 32, 64**-0.5),
        ("mlp.gate_proj", 64, 32, 32**-0.5),
        ("mlp.up_proj", 64, 32, 32**-0.5),
        ("mlp.down_proj", 32, 64, 128**-0.5),
    ):
        expected = torch.empty(rows, columns).normal_(0, std, generator=g)
        assert torch.equal(split[f"model.layers.0.{name}.weight"], expected), name


def test_muon_moves_each_part_as_it_would_alone():
    model = tiny_model(1)
    parts = fused_parts(model)
    split = {name: value for name, value in split_weights(model).items() if "_proj" in name}
    apart = nn.ModuleDict({"layers": nn.ParameterList(nn.Parameter(v.clone()) for v in split.values())})
    names = list(split)
    together, alone = build_optimizers(model, OptimizerConfig()), build_optimizers(apart, OptimizerConfig())
    g = torch.Generator().manual_seed(0)
    for _ in range(2):
        for name, parameter in model.named_parameters():
            parameter.grad = torch.randn(parameter.shape, generator=g)
            for part in parts.get(name, ()):
                apart["layers"][names.index(part.name)].grad = parameter.grad[part.start : part.stop].clone()
            if name in names:
                apart["layers"][names.index(name)].grad = parameter.grad.clone()
        together.step(1.0)
        alone.step(1.0)
    moved = split_weights(model)
    for name, expected in zip(names, apart["layers"], strict=True):
        torch.testing.assert_close(moved[name], expected.detach(), rtol=1e-5, atol=1e-6)
