"""The memory model, against tensors that autograd and the optimizers really keep."""

import pytest
import torch

from publius.model import Transformer, likelihood, memory, preset
from publius.model.memory import activation_bytes, training_memory
from publius.testing.fakes import tiny_config
from publius.training.optimizer import OptimizerConfig, build_optimizers


def kept_bytes(model, tokens_BT) -> int:
    """Bytes of the distinct storages that one forward keeps for backward, weights not counted."""
    weights = {p.untyped_storage().data_ptr() for p in model.parameters()}
    storages: dict[int, int] = {}
    alive = []

    def pack(tensor):
        alive.append(tensor)
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            storages[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        out = model.hidden(tokens_BT)
    assert out.requires_grad
    return sum(storages.values())


def test_activations_are_what_autograd_keeps():
    config = tiny_config(hidden_size=256, layers=3, heads=4, kv_heads=2, head_dim=64, intermediate_size=704,
                         max_position=1200)  # fmt: skip
    tokens = 1100  # so many that a CPU, too, takes fused attention, which keeps no scores
    measured = kept_bytes(Transformer(config, seed=0), torch.zeros(1, tokens, dtype=torch.long))
    planned = 2 * activation_bytes(config, tokens, recompute=False)  # planned in bf16, measured in fp32
    assert planned == pytest.approx(measured, rel=0.03)


def test_recomputing_keeps_a_row_of_hidden_states_a_layer():
    config = preset("haiku", "cluster", 128_256)
    kept, again = (activation_bytes(config, 8192, recompute=flag) for flag in (False, True))
    inputs = 2 * 8192 * 4096 * config.layers
    assert inputs < again < 2 * inputs < kept / 4


@pytest.mark.parametrize("tied", [True, False])
def test_state_is_what_the_trainer_holds(tied):
    config = tiny_config(tie_embeddings=tied)
    model = Transformer(config, seed=0)
    optimizers = build_optimizers(model, OptimizerConfig())
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    optimizers.step(1.0)
    state = {name: value.nbytes for name, value in optimizers.tensors().items()}
    planned = training_memory(config, sequence_length=32)
    assert planned.masters == sum(p.nbytes for p in model.parameters())
    assert planned.muon == sum(size for name, size in state.items() if name.startswith("muon."))
    assert planned.adamw == sum(size for name, size in state.items() if ".exp_avg" in name)
    assert planned.weights == planned.masters / 2


def test_sharding_divides_the_state_and_the_peak_is_of_two_moments():
    config = preset("sonnet", "cluster", 128_256)
    one, many = (training_memory(config, sequence_length=8192, shards=n) for n in (1, 64))
    for part in ("masters", "muon", "adamw"):
        assert getattr(many, part) == getattr(one, part) / 64
    assert many.weights < one.weights / 8 and many.activations == one.activations
    split = training_memory(config, sequence_length=8192, shards=64, tensor=8, context=2)
    assert split.activations == pytest.approx(one.activations / 16)
    state = many.masters + many.weights + many.gradients + many.muon + many.adamw + many.overhead
    assert many.total == state + max(many.activations + many.logits, many.optimizer)


def test_the_logits_chunk_is_the_losses():
    assert memory.LOGITS_ROWS == likelihood._LOSS_ROWS
