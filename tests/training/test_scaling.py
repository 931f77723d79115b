"""The dial: anchors, exponents, and configs that a stage accepts."""

import pytest

from publius.core.errors import UserError
from publius.model import preset
from publius.training.scaling import derive, derived_optimizer, pretrain_config, read_amount

HAIKU, OPUS = preset("haiku", "pocket", 2048), preset("opus", "cluster", 131_072)


def test_batches_meet_their_anchors():
    assert derive(OPUS, 8.76e9).batch_tokens == 2**20, "nanochat's d24"
    assert derive(OPUS, 15.6e12).batch_tokens == 2**24, "Llama 3 405B"
    small = derive(HAIKU, 4.1e6)
    assert small.batch_tokens == 2048 and small.steps == pytest.approx(2000, abs=10)
    assert derive(HAIKU, 4.1e6).batch_tokens == derive(OPUS, 4.1e6, sequence_length=256).batch_tokens


def test_rates_by_width_and_batch():
    wide = preset("opus", "laptop", 2048)  # 4 x haiku's 192
    narrow, same = derive(HAIKU, 1e9), derive(wide, 1e9)
    assert narrow.muon_lr == same.muon_lr
    assert narrow.adamw_lr == same.adamw_lr, "beside Muon"
    assert derive(HAIKU, 4e5).adamw_lr == derive(HAIKU, 1e5).adamw_lr == pytest.approx(0.034)
    assert derive(HAIKU, 4e6).adamw_lr == pytest.approx(0.02)
    assert derive(HAIKU, 8.76e9).adamw_lr == pytest.approx(0.0034, rel=0.01)
    assert derive(HAIKU, 1e9, matrices=False).adamw_lr / derive(
        wide, 1e9, matrices=False
    ).adamw_lr == pytest.approx(4)
    assert derive(HAIKU, 2e6).muon_lr == pytest.approx(0.006)
    assert derive(HAIKU, 1e10).muon_lr == derive(HAIKU, 1e13).muon_lr == pytest.approx(0.02)


@pytest.mark.parametrize("tokens", [1e5, 4.1e6, 1e9, 1e12])
def test_steps_times_batch_are_the_tokens(tokens):
    found = derive(HAIKU, tokens)
    assert found.steps * found.batch_tokens == pytest.approx(tokens, rel=0.02)
    assert found.batch_tokens % found.sequence_length == 0
    assert 20 <= found.warmup <= 2000 and found.sequence_length <= HAIKU.max_position


def test_twenty_tokens_a_weight():
    assert derive(HAIKU).tokens == 20 * HAIKU.parameters()


@pytest.mark.parametrize("tokens", [0.0, 1.0, 5.0])
def test_too_few_tokens(tokens):
    with pytest.raises(UserError, match="tokens"):
        derive(HAIKU, tokens)


def test_a_whole_config():
    config = pretrain_config("haiku", "laptop", 1e9, 16_384)
    found = derive(preset("haiku", "laptop", 16_384), 1e9)
    assert config.batch_tokens * config.accumulation == found.batch_tokens
    assert config.batch_tokens <= 16_384 and config.sequence_length == found.sequence_length
    assert config.planned_tokens() == 10**9
    assert config.optimizer == derived_optimizer(found)
    assert (config.optimizer.muon_lr, config.optimizer.warmup) == (found.muon_lr, found.warmup)


@pytest.mark.parametrize("micro", [1000, 3000, 20_000])
def test_micro_batches_leave_no_token_over(micro):
    config = pretrain_config("haiku", "pocket", 5e9, 2048, micro_tokens=micro)
    asked = derive(preset("haiku", "pocket", 2048), 5e9).batch_tokens
    assert config.rows * config.sequence_length * config.accumulation == asked
    assert config.batch_tokens <= max(micro, config.sequence_length)


@pytest.mark.parametrize(
    ("text", "number"), [("15T", 15e12), ("4.1m", 4.1e6), ("1e9", 1e9), ("2_048", 2048), ("600B", 6e11)]
)
def test_amounts(text, number):
    assert read_amount(text) == number


@pytest.mark.parametrize("text", ["", "many", "-1", "1X", "nan", "1e"])
def test_bad_amounts(text):
    with pytest.raises(UserError, match="not an amount"):
        read_amount(text)
