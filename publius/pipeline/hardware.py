"""What machines are assumed to do, draw and cost: the table behind plans and energy estimates.

Sustained FLOP/s are what a tuned training step reaches, not the vendor's peak: for H100 and H200
40% of the 989e12 dense bf16 peak; for `cpu` what two cloud cores reached on our own pocket models.
Watts are the board's (or two cores' share of the socket's) rated power. Dollars per hour are
typical on-demand cloud prices. All are assumptions, and are printed wherever they are used.
"""

from __future__ import annotations

import functools
import os
import platform
import re
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path
from typing import NamedTuple

from publius.core.errors import UserError
from publius.pipeline.names import did_you_mean

__all__ = [
    "HARDWARE",
    "Cost",
    "Hardware",
    "cost",
    "energy_kwh",
    "hardware_named",
    "this_hardware",
    "versions",
]


class Hardware(NamedTuple):
    """Assumed numbers of one device."""

    name: str
    flops: float
    """Sustained FLOP/s."""
    watts: float
    dollars_per_hour: float


HARDWARE: Mapping[str, Hardware] = {
    "cpu": Hardware("cpu", 2e11, 30.0, 0.10),
    "h100": Hardware("h100", 4e14, 700.0, 3.00),
    "h200": Hardware("h200", 4e14, 700.0, 3.80),
}


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
        row = HARDWARE["h200" if "H200" in cards[0] else "h100"]
        return f"{len(cards)} x {cards[0]}", row
    names = (
        re.findall(r"^model name\s*:\s*(.+)$", cpuinfo.read_text(), re.MULTILINE) if cpuinfo.exists() else []
    )
    model = names[0] if names else platform.processor() or platform.machine()
    return f"{model}, {len(os.sched_getaffinity(0))} cores", HARDWARE["cpu"]


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
