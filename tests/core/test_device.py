"""Devices: what this machine has."""

import os
import subprocess
import sys

import pytest
import torch

from publius.core import device
from publius.core.errors import UserError


def test_pick_device(monkeypatch):
    assert device.pick_device("cpu") == torch.device("cpu")
    for present, kind in ((True, "cuda"), (False, "cpu")):
        monkeypatch.setattr(torch.cuda, "is_available", lambda present=present: present)
        monkeypatch.setattr(torch.cuda, "device_count", lambda present=present: 2 * present)
        assert device.pick_device().type == kind
        if present:
            assert device.pick_device("cuda:1") == torch.device("cuda", 1)
            with pytest.raises(UserError, match="there is no cuda:2 on this machine"):
                device.pick_device("cuda:2")
        else:
            with pytest.raises(UserError, match="there is no cuda on this machine"):
                device.pick_device("cuda")
    for name in ("gpu", "", "cuda:x", "cpu:0:0", "meta"):
        with pytest.raises(UserError, match="no device is called"):
            device.pick_device(name)


@pytest.mark.parametrize(
    ("flags", "dtype"),
    [({"avx2"}, torch.float32), ({"amx_bf16"}, torch.bfloat16), ({"avx512_bf16"}, torch.bfloat16)],
)
def test_compute_dtype_on_cpu(monkeypatch, flags, dtype):
    monkeypatch.setattr(device, "cpu_flags", lambda: flags)
    assert device.compute_dtype(torch.device("cpu")) == dtype
    assert device.compute_dtype(torch.device("cpu"), "float32") == torch.float32


@pytest.mark.parametrize(("able", "dtype"), [(True, torch.bfloat16), (False, torch.float32)])
def test_compute_dtype_on_cuda(monkeypatch, able, dtype):
    """`able` is in hardware: a T4 emulates it, which PyTorch by default counts as support."""
    monkeypatch.setattr(
        torch.cuda, "is_bf16_supported", lambda including_emulation=True: including_emulation or able
    )
    assert device.compute_dtype(torch.device("cuda")) == dtype


def testcpu_flags(monkeypatch):
    class Info:
        text: str | None = "processor : 0\nflags : fpu amx_bf16 avx2\n"

        def __init__(self, path: str) -> None:
            self.path = path

        def exists(self) -> bool:
            return self.text is not None

        def read_text(self) -> str:
            return self.text or ""

    monkeypatch.setattr(device, "Path", Info)
    assert device.cpu_flags() >= {"fpu", "amx_bf16", "avx2"}
    for none in ("processor : 0\n", None):
        monkeypatch.setattr(Info, "text", none)
        assert device.cpu_flags() == set()


def test_set_threads(monkeypatch):
    before = torch.get_num_threads()
    try:
        assert device.set_threads(1) == 1
        assert torch.get_num_threads() == 1
        monkeypatch.setenv("OMP_NUM_THREADS", "1")
        assert device.set_threads() == 1, "a worker's share is kept"
        monkeypatch.delenv("OMP_NUM_THREADS")
        assert 1 <= device.set_threads() <= len(device.usable_cores())
    finally:
        torch.set_num_threads(before)


def test_cores_where_the_system_tells_and_where_not(monkeypatch):
    child = subprocess.Popen(["sleep", "60"])
    try:
        one = device.usable_cores()[0]
        device.keep_to(child.pid, [one])
        assert os.sched_getaffinity(child.pid) == {one}
        device.keep_to(child.pid, [])
        assert os.sched_getaffinity(child.pid) == {one}
    finally:
        child.kill()
        child.wait()
    device.keep_to(child.pid, [one])  # gone: nothing to hold
    monkeypatch.delattr(os, "sched_getaffinity")
    monkeypatch.delattr(os, "sched_setaffinity")
    assert device.usable_cores() == list(range(os.cpu_count() or 1))
    device.keep_to(os.getpid(), [0])


def test_describe_hardware(monkeypatch):
    text = device.describe_hardware(torch.device("cpu"))
    assert "\n" not in text and f"torch {torch.__version__}" in text and "threads" in text
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda _: "NVIDIA H200")
    assert device.describe_hardware(torch.device("cuda")).startswith("NVIDIA H200, torch ")


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="mallopt is glibc's")
def test_kept_memory_is_not_faulted_in_again():
    """64 MB taken and given back 40 times: 16,384 pages each time, all mapped anew without `keep_memory`.

    With it some of the first takes still map: until small allocations have settled beside the kept piece,
    it is now and then too small. How many differs from run to run (none to twelve seen), so the test asks
    for what the trainer needs: most takes map nothing.
    """
    code = (
        "import resource, torch\n"
        "from publius.core.device import keep_memory\n"
        "if {keep}: assert keep_memory()\n"
        "before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt\n"
        "for _ in range(40): torch.empty(1 << 24).fill_(1)\n"
        "print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)\n"
    )

    def faults(keep: bool) -> int:
        command = [sys.executable, "-c", code.format(keep=keep)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
        return int(done.stdout)

    assert 2 * faults(keep=True) < faults(keep=False)
