"""Plans against runs that others published, and against our own records."""

import json
from pathlib import Path

import pytest

from publius.core.errors import UserError
from publius.model import ModelConfig, preset
from publius.model.hf_config import config_to_hf
from publius.pipeline import HARDWARE, cluster_named, hardware_named
from publius.pipeline.hardware import PUE, cost
from publius.training.calibrate import Calibration, calibrate, rate
from publius.training.plan import plan_training, read_model, tier_shape

RECORD = Path(__file__).parents[2] / "docs/results/2026-11-22-quickstart-seed0.json"


def shape(
    hidden: int, layers: int, heads: int, kv: int, feed_forward: int, vocab: int, seq: int
) -> ModelConfig:
    return ModelConfig(
        vocab_size=vocab, hidden_size=hidden, layers=layers, heads=heads, kv_heads=kv, head_dim=128,
        intermediate_size=feed_forward, max_position=seq, tie_embeddings=False,
    )  # fmt: skip


LLAMA_8B = shape(4096, 32, 32, 8, 14336, 128_256, 8192)
LLAMA_70B = shape(8192, 80, 64, 8, 28672, 128_256, 8192)
LLAMA_405B = shape(16384, 126, 128, 8, 53248, 128_256, 8192)
OLMO2_7B = shape(4096, 32, 32, 32, 11008, 100_352, 4096)
NANOCHAT_D24 = shape(1536, 24, 12, 12, 4096, 32_768, 2048)  # its 2 matrices of 4 x width are our 3 of 8/3


def device_hours(config: ModelConfig, tokens: float, cluster: str, mfu: float) -> float:
    return plan_training(config, tokens, cluster_named(cluster), mfu=mfu).device_hours


def test_llama_405b_at_its_published_utilisation():
    """30.84M H100-hours (model card), 15.6T tokens, 41% on 16,384 devices (2407.21783, table 4)."""
    assert device_hours(LLAMA_405B, 15.6e12, "16384xh100", 0.41) == pytest.approx(30.84e6, rel=0.2)
    assert LLAMA_405B.parameters() == pytest.approx(405e9, rel=0.01)


def test_nanochat_d24_at_its_published_utilisation():
    """10,949 s on 8 H100 for 4.33e19 FLOPs by its own count; 100K tokens/s a device."""
    plan = plan_training(NANOCHAT_D24, 100_000 * 8 * 10_949, cluster_named("8xh100"), mfu=0.5)
    assert plan.flops == pytest.approx(4.33e19, rel=0.05)
    assert plan.hours * 3600 == pytest.approx(10_949, rel=0.2)


def test_olmo2_7b_at_its_published_utilisation():
    """9,700-10,000 tokens/s a H100 at 47-48% (OLMo-core)."""
    hours = device_hours(OLMO2_7B, 4e12, "1024xh100", 0.475)
    assert 4e12 / hours / 3600 == pytest.approx(9_850, rel=0.2)


def test_llama_8b_in_torchtitan_at_its_published_utilisation():
    """6,667 tokens/s a H100, compiled bf16, 39% by its own count of attention (both halves)."""
    hours = device_hours(LLAMA_8B, 1e12, "8xh100", 0.39)
    assert 1e12 / hours / 3600 == pytest.approx(6_667, rel=0.2)


def test_rows_without_a_published_utilisation_are_misses():
    """Llama 3.1 8B and 70B: the documented misses (docs/training.md). If they ever fit, the page is wrong."""
    assert device_hours(LLAMA_8B, 15e12, "1024xh100", 0.41) / 1.46e6 == pytest.approx(0.36, abs=0.02)
    assert device_hours(LLAMA_70B, 15e12, "8192xh100", 0.41) / 7.0e6 == pytest.approx(0.66, abs=0.02)


def stages() -> dict[str, dict]:
    return {stage["name"]: stage for stage in json.loads(RECORD.read_text())["stages"]}


def test_our_own_runs_on_two_cores():
    """By the table's row for cpu: a stage that had both cores, and two side by side on one core each."""
    recorded, cpu = stages(), hardware_named("cpu")
    alone = recorded["feedback_slcai"]
    assert cost(alone["flops"], cpu).hours * 3600 == pytest.approx(alone["wall_seconds"], rel=0.15)
    pair = [recorded["haiku"], recorded["opus"]]
    both = cost(sum(stage["flops"] for stage in pair), cpu).hours * 3600
    assert both == pytest.approx(max(stage["wall_seconds"] for stage in pair), rel=0.15)


def test_our_own_runs_by_calibration_on_one_of_them():
    """One core, calibrated with haiku's tokens/s, predicts the other stages that had one core."""
    recorded = stages()
    metrics = json.loads(RECORD.read_text())["metrics"]
    a_token = recorded["haiku"]["flops"] / recorded["haiku"]["tokens"]
    step = metrics["haiku.tokens_per_second"]["value"] * a_token
    row = Calibration(1, "bfloat16", 0.0, 0.0, step, 0.0, 0).hardware()
    for name in ("opus", "sft", "slcai", "planted"):
        predicted = cost(recorded[name]["flops"], row).hours * 3600
        assert predicted == pytest.approx(recorded[name]["wall_seconds"], rel=0.15), name


def test_energy_and_money_are_of_device_hours():
    plan = plan_training(LLAMA_8B, 1e12, cluster_named("64xh200"))
    assert plan.device_hours == pytest.approx(plan.flops / 4e14 / 3600)
    assert plan.hours == pytest.approx(plan.device_hours / 64)
    assert plan.kwh == pytest.approx(plan.device_hours * 0.7 * PUE)
    assert plan.dollars == pytest.approx(plan.device_hours * HARDWARE["h200"].dollars_per_hour)


def test_text_says_what_was_assumed():
    plan = plan_training(tier_shape("opus", "cluster"), 15e12, cluster_named("16384xh100"))
    text = plan.text()
    for words in ("Muon's moments", "activations", "were activations", "tensor parallel 8", "no pipeline",
                  "counted once", "40.4% of 9.89e+14", "the table's, for h100", "700 W", "x 1.2",
                  "$3.00"):  # fmt: skip
        assert words in text, words
    assert "communication bound" in text, "one row of 8,192 for eight devices and 224B weights"
    assert not plan_training(LLAMA_8B, 1e12, cluster_named("64xh100")).warnings
    cpu = plan_training(tier_shape("haiku", "pocket"), 4.1e6, cluster_named("cpu")).text()
    assert "2e+11 FLOP/s sustained" in cpu and "%" not in cpu.split("assumed")[1]


@pytest.mark.parametrize(
    ("change", "words"),
    [({"mfu": 1.5}, "MFU"), ({"mfu": 0.0}, "MFU"), ({"sequence_length": 16_384}, "rows of 16,384")],
)
def test_bad_arguments(change, words):
    with pytest.raises(UserError, match=words):
        plan_training(LLAMA_8B, 1e12, cluster_named("64xh100"), **change)


def test_read_model(tmp_path):
    config = preset("haiku", "one_gpu", 1000)
    file = tmp_path / "config.json"
    file.write_text(json.dumps(config_to_hf(config)))
    assert read_model(tmp_path) == read_model(file)
    assert read_model(file).parameters() == config.parameters()
    for text, words in (("{", "no model config"), ("[]", "not a JSON object"), ("{}", "vocab_size")):
        file.write_text(text)
        with pytest.raises(UserError, match=words):
            read_model(file)
    with pytest.raises(UserError, match="no model config"):
        read_model(tmp_path / "nothing")


def test_rate_counts_calls_by_the_clock():
    now = [0.0]

    def work():
        now[0] += 0.4

    assert rate(work, 10.0, seconds=1.0, clock=lambda: now[0]) == pytest.approx(25.0)
    assert now[0] == pytest.approx(1.6), "one call unmeasured, three to pass a second"


def test_calibration_counts_flops_as_plans_do():
    config = preset("haiku", "pocket", 300)
    found = calibrate(config, steps=2, seconds=0.01)
    assert found.step == pytest.approx(found.tokens_per_second * config.flops_per_token(256))
    assert found.matmul_float32 > 0 < found.matmul_bfloat16
    assert 0 < found.share <= 1
    assert "only 20%" in found._replace(share=0.2).text()
    assert "warning" not in found._replace(share=0.9).text()
    row = found.hardware()
    assert row.flops == found.step <= row.peak_flops and row.watts == HARDWARE["cpu"].watts
    assert calibrate(LLAMA_8B.model_copy(update={"layers": 8}), steps=1, seconds=0.01).parameters < 1e7
