"""What machines are assumed to do, draw and cost: the table behind plans and energy estimates.

Sustained FLOP/s (`flops`) are what a tuned training step reaches, not the vendor's peak (`peak_flops`,
dense bf16, without sparsity). Their ratio is the model FLOPs utilisation (MFU) a plan assumes:

- h100, h200: 400 TFLOP/s, 40%: what Llama 3 405B reached on 16,384 H100 (Llama Team 2024, arXiv
  2407.21783, table 4; 38-43% over its stages). OLMo-core reports 47-48% for 7B, torchtitan 33-39% for 8B.
- a100: 140 TFLOP/s, 45%; TinyLlama (arXiv 2401.02385) reached 52% on 1.1B weights.
- b200, gb200: 40%, carried over. OLMo-core's 22,500 tokens/s of a 7B on a B200 are 44%.
- cpu: two cloud cores with AVX512-BF16, on our own pocket models (`publius plan --calibrate` measures
  this machine instead). No rated peak is known, so peak is what was measured.

Memory, links and rated board power are the vendor's data sheets'; links are bytes a second in one
direction per device: inside a node (NVLink) and out of it (one 400 Gbit/s port a device; 200 for a100).
Dollars per hour are typical on-demand cloud prices. All are assumptions, and are printed where used.
"""

from __future__ import annotations

import functools
import platform
import re
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path
from typing import NamedTuple

from publius.core.device import usable_cores
from publius.core.errors import UserError
from publius.pipeline.names import did_you_mean

__all__ = [
    "HARDWARE",
    "PUE",
    "Cluster",
    "Cost",
    "Hardware",
    "cluster_named",
    "cost",
    "energy_kwh",
    "hardware_named",
    "this_hardware",
    "versions",
]

PUE = 1.2
"""Power of the building over power of the boards, for plans of models (assumed: a large, modern
one). Hosts, switches and idle hours are not in it."""


class Hardware(NamedTuple):
    """Assumed numbers of one device (for `cpu`: of two cores)."""

    name: str
    flops: float
    """Sustained FLOP/s."""
    watts: float
    dollars_per_hour: float
    peak_flops: float
    """FLOP/s on the data sheet: dense bf16."""
    memory_bytes: float
    node: int
    """Devices joined by the fast link."""
    link_bytes: float
    """Bytes/s a device sends inside its node."""
    network_bytes: float
    """Bytes/s a device sends out of its node."""

    @property
    def mfu(self) -> float:
        """The share of peak that `flops` assumes."""
        return self.flops / self.peak_flops


_TABLE = (
    #        name     sustained  W       $/h    peak     memory  node link    network
    Hardware("cpu", 2e11, 30.0, 0.10, 2e11, 8e9, 1, 1e10, 1.25e9),
    Hardware("a100", 1.4e14, 400.0, 1.80, 312e12, 80e9, 8, 300e9, 25e9),
    Hardware("h100", 4e14, 700.0, 3.00, 989e12, 80e9, 8, 450e9, 50e9),
    Hardware("h200", 4e14, 700.0, 3.80, 989e12, 141e9, 8, 450e9, 50e9),
    Hardware("b200", 9e14, 1000.0, 5.50, 2.25e15, 180e9, 8, 900e9, 50e9),
    Hardware("gb200", 1e15, 1200.0, 7.00, 2.5e15, 186e9, 72, 900e9, 50e9),
)
HARDWARE: Mapping[str, Hardware] = {row.name: row for row in _TABLE}


class Cluster(NamedTuple):
    """Devices of one kind, in nodes."""

    devices: int
    hardware: Hardware

    @property
    def name(self) -> str:
        """As given on the command line: `16384xh100`."""
        return f"{self.devices}x{self.hardware.name}"


class Cost(NamedTuple):
    """What some FLOPs take on some hardware."""

    hours: float
    kwh: float
    dollars: float


def hardware_named(name: str) -> Hardware:
    """The table's row for `name`; `UserError` for an unknown one."""
    if name not in HARDWARE:
        raise UserError(f"unknown hardware {name!r}", where="--hardware", fix=did_you_mean(name, HARDWARE))
    return HARDWARE[name]


def cluster_named(text: str) -> Cluster:
    """`16384xh100`, or `h100` for one device.

    Raises:
        UserError: for text of another form, unknown hardware, or nodes that are not full.
    """
    match = re.fullmatch(r"(?:(\d+)x)?([a-z]\w*)", text.strip().lower())
    if match is None or (match[1] is not None and int(match[1]) == 0):
        raise UserError(
            f"{text!r} is not a cluster", where="--cluster", fix="give devices and hardware: 64xh100, or h200"
        )
    if match[2] not in HARDWARE:
        fix = did_you_mean(match[2], HARDWARE)
        raise UserError(f"unknown hardware {match[2]!r}", where="--cluster", fix=fix)
    devices, row = int(match[1] or 1), HARDWARE[match[2]]
    if devices > row.node and devices % row.node:
        raise UserError(
            f"{devices} devices do not fill nodes of {row.node} {row.name}",
            where="--cluster",
            fix=f"use a multiple of {row.node}: {devices // row.node * row.node}x{row.name}",
        )
    return Cluster(devices, row)


def cost(flops: float, hardware: Hardware) -> Cost:
    """Hours, kWh and dollars for `flops` on `hardware`."""
    hours = flops / hardware.flops / 3600
    return Cost(hours, hours * hardware.watts / 1000, hours * hardware.dollars_per_hour)


def _gpus(root: Path) -> list[str]:
    names: list[str] = []
    for information in sorted(root.glob("*/information")):
        names.extend(re.findall(r"^Model:\s*(.+)$", information.read_text(errors="replace"), re.MULTILINE))
    return names


@functools.cache
def this_hardware(
    gpus: Path = Path("/proc/driver/nvidia/gpus"), cpuinfo: Path = Path("/proc/cpuinfo")
) -> tuple[str, Hardware]:
    """One line on this machine, and the table's row its energy is estimated with. No ML library needed."""
    cards = _gpus(gpus)
    if cards:
        known = next((n for n in ("gb200", "b200", "h200", "a100") if n.upper() in cards[0]), "h100")
        return f"{len(cards)} x {cards[0]}", HARDWARE[known]
    names = (
        re.findall(r"^model name\s*:\s*(.+)$", cpuinfo.read_text(), re.MULTILINE) if cpuinfo.exists() else []
    )
    model = names[0] if names else platform.processor() or platform.machine()
    return f"{model}, {len(usable_cores())} cores", HARDWARE["cpu"]


def energy_kwh(seconds: float) -> float:
    """The estimate that records carry: wall time at the assumed power of this machine."""
    return seconds / 3600 * this_hardware()[1].watts / 1000


def versions() -> dict[str, str]:
    """Versions that can change a result, from package metadata (nothing is imported)."""
    found = {"python": platform.python_version()}
    for package in ("publius", "torch", "tokenizers", "numpy"):
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            found[package] = "not installed"
    return found
