"""What the records say of the machine."""

import pytest

from publius.core.errors import UserError
from publius.pipeline.hardware import HARDWARE, energy_kwh, hardware_named, this_hardware, versions


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
