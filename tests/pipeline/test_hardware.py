"""What the records say of the machine."""

import pytest

from publius.core.errors import UserError
from publius.pipeline.hardware import (
    HARDWARE,
    cluster_named,
    energy_kwh,
    hardware_named,
    this_hardware,
    versions,
)


def test_cpu_and_gpu_are_told_apart(tmp_path):
    cpuinfo = tmp_path / "cpuinfo"
    cpuinfo.write_text("processor : 0\nmodel name\t: Fast CPU 9000\n")
    text, row = this_hardware(tmp_path / "none", cpuinfo)
    assert text.startswith("Fast CPU 9000, ") and row == HARDWARE["cpu"]
    card = tmp_path / "gpus" / "0000:01"
    card.mkdir(parents=True)
    (card / "information").write_text("Model: \t\t NVIDIA H200\nIRQ: 3\n")
    assert this_hardware(tmp_path / "gpus", cpuinfo) == ("1 x NVIDIA H200", HARDWARE["h200"])
    assert this_hardware(tmp_path / "nothing", tmp_path / "nothing")[1] == HARDWARE["cpu"]


def test_energy_is_time_times_power():
    assert energy_kwh(3600) == pytest.approx(this_hardware()[1].watts / 1000)


def test_unknown_hardware():
    with pytest.raises(UserError, match="unknown hardware 'h10'") as caught:
        hardware_named("h10")
    assert "h100" in caught.value.fix


def test_versions_name_what_can_change_a_result():
    assert set(versions()) == {"python", "publius", "torch", "tokenizers", "numpy"}


@pytest.mark.parametrize(
    ("text", "devices", "name"), [("16384xh100", 16384, "h100"), ("h200", 1, "h200"), ("4xA100", 4, "a100")]
)
def test_clusters(text, devices, name):
    cluster = cluster_named(text)
    assert (cluster.devices, cluster.hardware) == (devices, HARDWARE[name])
    assert cluster.name == f"{devices}x{name}"


@pytest.mark.parametrize(
    ("text", "words"),
    [("", "not a cluster"), ("0xh100", "not a cluster"), ("8h100", "not a cluster"), ("-8xh100", "not a"),
     ("8xh10", "unknown hardware 'h10'"), ("12xh100", "do not fill nodes of 8")],
)  # fmt: skip
def test_bad_clusters(text, words):
    with pytest.raises(UserError, match=words):
        cluster_named(text)


def test_the_table_is_possible():
    for row in HARDWARE.values():
        assert 0.3 <= row.mfu <= 1 and row.link_bytes >= row.network_bytes


def test_cards_by_name(tmp_path):
    for number, (card, name) in enumerate(
        [("NVIDIA GB200", "gb200"), ("NVIDIA B200", "b200"), ("NVIDIA A100-SXM4", "a100"), ("RTX", "h100")]
    ):
        folder = tmp_path / str(number) / "0000:01"
        folder.mkdir(parents=True)
        (folder / "information").write_text(f"Model: {card}\n")
        assert this_hardware(folder.parent, tmp_path / "none")[1].name == name
