"""What this machine has: device, compute dtype, threads, and a line of text for records."""

from __future__ import annotations

import ctypes
import os
import platform
import re
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

import torch

from publius.core.errors import UserError

__all__ = [
    "compute_dtype",
    "cpu_flags",
    "describe_hardware",
    "free_memory",
    "keep_memory",
    "keep_to",
    "pick_device",
    "set_threads",
    "usable_cores",
]


def pick_device(name: str = "auto") -> torch.device:
    """`auto` is CUDA when present, else CPU.

    Raises:
        UserError: for a name that is none, and for CUDA where there is none.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if not re.fullmatch(r"cpu|cuda(:\d{1,3})?", name):
        raise UserError(f"no device is called {name!r}", where="device", fix="choose from: auto, cpu, cuda")
    device = torch.device(name)
    if name != "cpu" and not (torch.cuda.is_available() and (device.index or 0) < torch.cuda.device_count()):
        raise UserError(f"there is no {name} on this machine", where="device", fix="use cpu, or auto")
    return device


def cpu_flags() -> set[str]:
    """What the CPU can do, as /proc/cpuinfo names it; empty where there is none."""
    info = Path("/proc/cpuinfo")
    if not info.exists():
        return set()
    for line in info.read_text().splitlines():
        if line.startswith("flags"):
            return set(line.split())
    return set()


def compute_dtype(device: torch.device, name: str = "auto") -> torch.dtype:
    """bf16 where the hardware multiplies in it (most CUDA; CPUs with AMX or AVX512-BF16), else fp32."""
    if name != "auto":
        return {"float32": torch.float32, "bfloat16": torch.bfloat16}[name]
    if device.type == "cuda":
        # older GPUs (V100, T4) take bf16 and compute in fp32, slower than if they had been given that
        real = torch.cuda.is_bf16_supported(including_emulation=False)
        return torch.bfloat16 if real else torch.float32
    return torch.bfloat16 if cpu_flags() & {"amx_bf16", "avx512_bf16"} else torch.float32


def usable_cores() -> list[int]:
    """The cores this process may run on, by number."""
    if hasattr(os, "sched_getaffinity"):
        return sorted(os.sched_getaffinity(0))
    return list(range(os.cpu_count() or 1))  # macOS and Windows do not tell


def keep_to(process: int, cores: Sequence[int]) -> None:
    """Let `process` run on `cores` only, where the system can (Linux); its threads to come keep to them too.

    Two trainings side by side on two cores run some 10% faster when neither wanders to the other's core.
    """
    if cores and hasattr(os, "sched_setaffinity"):
        with suppress(OSError):  # it has ended, or may not: then it runs where it likes
            os.sched_setaffinity(process, cores)


def set_threads(threads: int | None = None) -> int:
    """Use `threads` cores: those given, else OMP_NUM_THREADS, else all this process may run on.

    Stray threads cost up to 5x on small models, so a worker beside others is told its share.
    """
    told = os.environ.get("OMP_NUM_THREADS", "")
    count = threads or (int(told) if told.isdigit() else 0) or len(usable_cores())
    torch.set_num_threads(count)
    return count


_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3


def keep_memory() -> bool:
    """Let glibc keep freed memory for the next tensor of that size; whether it could (other libcs cannot).

    By default every large tensor is mapped fresh from the kernel, zeroed page by page, and unmapped at its
    end. Measured in docs/decisions.md. The process keeps its peak of memory until it ends: for a run,
    whose steps are alike, not for a server.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError, TypeError):
        return False
    return bool(mallopt(_M_MMAP_THRESHOLD, 1 << 30) and mallopt(_M_TRIM_THRESHOLD, (1 << 31) - 1))


def describe_hardware(device: torch.device) -> str:
    """One line for records and reports."""
    if device.type == "cuda":
        return f"{torch.cuda.get_device_name(device)}, torch {torch.__version__}"
    model = platform.processor() or platform.machine()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        names = [
            line.split(":", 1)[1].strip()
            for line in cpuinfo.read_text().splitlines()
            if line.startswith("model name")
        ]
        model = names[0] if names else model
    return f"{model}, {torch.get_num_threads()} threads, torch {torch.__version__}"


def free_memory(device: torch.device) -> int:
    """Bytes that can still be taken on `device`; of the whole machine where the system does not say."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    info = Path("/proc/meminfo")
    if info.exists():
        for line in info.read_text().splitlines():
            if line.startswith("MemAvailable"):
                return int(line.split()[1]) * 1024
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") if hasattr(os, "sysconf") else 4 << 30
