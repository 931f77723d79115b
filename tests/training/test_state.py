"""Saved states of one process read what several wrote; those are held to it in `tests/laws`."""

import json

import pytest
import torch
from safetensors.torch import load_file, save_file

from publius.core.errors import UserError
from publius.testing.fakes import tiny_model
from publius.training.optimizer import OptimizerConfig, build_optimizers
from publius.training.state import load_state, random_state, save_state, write_words


def as_several_write(folder, model):
    """The state of `model` as one part, of what learns alone."""
    learns = {name for name, p in model.named_parameters() if p.requires_grad}
    assert not any("qkv" in name or "gate_up" in name for name in learns)
    state = {f"model.{name}": p.detach().clone() for name, p in model.named_parameters() if name in learns}
    state |= {f"optimizer.{n}": v.clone() for n, v in build_optimizers(model, AdamW).tensors().items()}
    offsets = {name: {"saved_offsets": [0] * value.ndim} for name, value in (state | random_state()).items()}
    save_file(state | random_state(), folder / "part.safetensors", {"DCP_SHARDING_INFO": json.dumps(offsets)})
    write_words(folder, {"a": 1})


AdamW = OptimizerConfig(matrices=False)


def only_norms_learn(model):
    for name, parameter in model.named_parameters():
        parameter.requires_grad_("norm" in name)
    return model


def test_several_ranks_write_what_learns_and_one_takes_it_up(tmp_path):
    written, other = only_norms_learn(tiny_model()), only_norms_learn(tiny_model())
    with torch.no_grad():
        for name, parameter in written.named_parameters():
            if "norm" in name:
                parameter.add_(1)
    as_several_write(tmp_path, written)
    frozen = other.model.embed_tokens.weight.clone()
    assert load_state(tmp_path, other, build_optimizers(other, AdamW)) == {"a": 1}
    assert torch.equal(other.model.norm.weight, written.model.norm.weight)
    assert torch.equal(other.model.embed_tokens.weight, frozen)
    with pytest.raises(UserError, match=r"has no model\.model\.embed_tokens"):
        learning = tiny_model()
        load_state(tmp_path, learning, build_optimizers(learning, AdamW))


def test_one_process_writes_and_reads_frozen_weights_too(tmp_path):
    model = only_norms_learn(tiny_model())
    save_state(tmp_path, model, build_optimizers(model, AdamW), {})
    assert "model.model.embed_tokens.weight" in load_file(tmp_path / "state.safetensors")
    other = only_norms_learn(tiny_model(seed=1))
    load_state(tmp_path, other, build_optimizers(other, AdamW))
    assert torch.equal(other.model.embed_tokens.weight, model.model.embed_tokens.weight)
