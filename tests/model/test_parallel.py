"""Layouts: the stated rules, and a refusal that says what would fit."""

import pytest

from publius.core.errors import UserError
from publius.model import ModelConfig, preset
from publius.model.parallel import choose_layout, communication, meta_model
from publius.pipeline import cluster_named

OPUS = preset("opus", "cluster", 131_072)
HAIKU = preset("haiku", "cluster", 131_072)


def layout(config: ModelConfig, cluster: str, batch: int = 2**24, length: int = 8192):
    return choose_layout(config, cluster_named(cluster), batch_tokens=batch, sequence_length=length, mfu=0.4)


@pytest.mark.parametrize(
    ("config", "cluster"),
    [(OPUS, "16384xh100"), (OPUS, "1024xb200"), (HAIKU, "8xh100"), (HAIKU, "24xh200"), (HAIKU, "1xb200")],
)
def test_a_layout_uses_every_device_and_fits(config, cluster):
    machine, found = cluster_named(cluster), layout(config, cluster)
    assert found.shards * found.replicas * found.tensor == machine.devices
    assert found.ranks * found.context * found.tensor == machine.devices
    assert found.memory.total <= machine.hardware.memory_bytes
    assert found.tensor in (1, 2, 4, 8) and found.tensor <= machine.hardware.node
    assert found.batch_tokens == found.ranks * found.rows * found.accumulation * 8192
    assert 2 / 3 <= found.batch_tokens / 2**24 <= 1.5


def test_the_largest_model_is_what_the_meta_device_constructs():
    assert sum(p.numel() for p in meta_model(OPUS).parameters()) == OPUS.parameters()
    assert 100e9 < OPUS.parameters() < 400e9


def test_more_devices_than_rows_share_rows():
    assert layout(HAIKU, "1024xh100").tensor == 1
    assert layout(HAIKU, "16384xh100").tensor == 8, "2,048 rows for 16,384 devices"


def test_context_parallel_only_when_a_row_does_not_fit():
    assert layout(HAIKU, "64xh100").context == 1
    long = layout(HAIKU, "64xh100", batch=2**24, length=2**21)
    assert long.context > 1 and long.tensor * long.context * long.ranks == 64


def test_recomputed_only_when_it_must_or_pays():
    assert not layout(HAIKU, "64xh100").recompute
    assert layout(HAIKU, "64xh100", length=131_072, batch=2**24).recompute


def test_refusals_say_what_would_fit():
    with pytest.raises(UserError, match="no layout fits") as caught:
        layout(OPUS, "8xh100")
    devices = int(caught.value.fix.split("at least ")[1].split("x")[0])
    assert layout(OPUS, f"{devices}xh100").memory.total <= 80e9
    assert devices > 8
    with pytest.raises(UserError):
        layout(OPUS, f"{devices // 2}xh100")
    with pytest.raises(UserError, match="too few rows") as caught:
        layout(HAIKU, "16384xh100", batch=2**16)
    most = caught.value.fix.split("at most ")[1].split(",")[0]
    assert layout(HAIKU, most, batch=2**16).ranks >= 1
    with pytest.raises(UserError, match="no number of cpu"):
        layout(HAIKU, "1xcpu", batch=2**24, length=2**24)


def test_a_refusal_for_want_of_rows_does_not_speak_of_memory():
    small = preset("haiku", "laptop", 131_072)
    with pytest.raises(UserError, match="too few rows of 4,096") as caught:
        layout(small, "7xh200", batch=8192, length=4096)
    for words in ("at most 4xh200", "8xh200 (several to a row)"):
        assert words in caught.value.fix
    for cluster in ("4xh200", "8xh200"):
        assert layout(small, cluster, batch=8192, length=4096).memory.total <= 141e9
    with pytest.raises(UserError, match="4,096 tokens is less than one row of 8,192"):
        layout(small, "1xh100", batch=4096, length=8192)


def test_messages_by_hand():
    machine, found = cluster_named("16xh100"), layout(HAIKU, "16xh100")
    found = found._replace(shards=16, replicas=1, tensor=1, context=1, accumulation=3, recompute=False)
    said = communication(HAIKU, found, machine, 8192)
    assert said.state_bytes == pytest.approx(3 * 8 * HAIKU.parameters() * 15 / 16)
    assert said.hidden_seconds == pytest.approx(said.state_bytes / (8 * 50e9)), "eight ports a node"
    assert said.tensor_bytes == said.context_bytes == said.exposed_seconds == 0
    split = communication(HAIKU, found._replace(shards=2, tensor=8, rows=1), machine, 8192)
    whole_row = 2 * 8192 * HAIKU.hidden_size * 3
    assert split.tensor_bytes == pytest.approx(HAIKU.layers * 8 * whole_row * 7 / 8)
    assert split.exposed_seconds == pytest.approx(split.tensor_bytes / 450e9)
    assert split.hidden_seconds == pytest.approx(split.state_bytes / 50e9), "one port a device"
    alone = communication(HAIKU, found._replace(shards=1), cluster_named("1xh200"), 8192)
    assert alone.state_bytes == alone.hidden_seconds == 0
    twice = communication(HAIKU, found._replace(shards=8, replicas=2), machine, 8192)
    inside, summed = 24 * HAIKU.parameters() * 7 / 8, 8 * HAIKU.parameters() / 8 / 2
    assert twice.hidden_seconds == pytest.approx(inside / 450e9 + summed / 50e9)
