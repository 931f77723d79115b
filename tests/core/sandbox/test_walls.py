"""The filter as a program: what it answers to each call, without installing it."""

from __future__ import annotations

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from publius.core.sandbox.walls import MACHINES, seccomp_filter

ALLOW, EPERM, ENOSYS, KILL = 0x7FFF0000, 0x00050001, 0x00050026, 0x80000000


def answer(machine: str, number: int, *arguments: int, audit: int | None = None) -> int:
    """Interpret the filter, as the kernel would, on one call."""
    code = seccomp_filter(MACHINES[machine])
    data = struct.pack(
        "=iIQ6Q",
        number,
        MACHINES[machine].audit if audit is None else audit,
        0,
        *(*arguments, *[0] * (6 - len(arguments))),
    )
    place = value = 0
    while True:
        op, yes, no, k = struct.unpack_from("=HBBI", code, 8 * place)
        place += 1
        if op == 0x20:
            (value,) = struct.unpack_from("=I", data, k)
        elif op == 0x54:
            value &= k
        elif op == 0x15:
            place += yes if value == k else no
        elif op == 0x45:
            place += yes if value & k else no
        else:
            assert op == 0x06
            return k


@pytest.mark.parametrize(
    ("call", "arguments", "wanted"),
    [
        (0, (), ALLOW),  # read
        (9, (), ALLOW),  # mmap
        (41, (), EPERM),  # socket
        (53, (), EPERM),  # socketpair
        (59, (), EPERM),  # execve
        (322, (), EPERM),  # execveat
        (57, (), EPERM),  # fork
        (58, (), EPERM),  # vfork
        (62, (), EPERM),  # kill
        (101, (), EPERM),  # ptrace
        (165, (), EPERM),  # mount
        (272, (), EPERM),  # unshare
        (425, (), EPERM),  # io_uring_setup
        (437, (), EPERM),  # openat2
        (76, (), EPERM),  # truncate
        (90, (), EPERM),  # chmod
        (160, (), EPERM),  # setrlimit
        (157, (), EPERM),  # prctl
        (83, (), EPERM),  # mkdir
        (88, (), EPERM),  # symlink
        (9999, (), EPERM),  # from a kernel to come
        (0x40000000, (), EPERM),  # read, of the x32 calls
        (435, (), ENOSYS),  # clone3
        (56, (0x003D0F00,), ALLOW),  # clone, a thread
        (56, (0x01200011,), EPERM),  # clone, a process
        (56, (0x403D0F00,), EPERM),  # clone, a thread in a network of its own
        (56, (0x003D0B00,), EPERM),  # clone, a thread with descriptors of its own
        (89, (), EPERM),  # readlink
        (257, (0, 0, 0o1101), ALLOW),  # openat: write, create, truncate
        (257, (0, 0, 0o1000), EPERM),  # openat: read only, and truncate
        (2, (0, 0o1000), EPERM),  # open
        (2, (0, 0o2000000), ALLOW),
        (72, (3, 8, 1), EPERM),  # fcntl F_SETOWN
        (72, (3, 1030, 1), ALLOW),
        (16, (0, 0x5401), ALLOW),  # ioctl TCGETS
        (16, (0, 0x5412), EPERM),  # ioctl TIOCSTI, which types into a terminal
        (302, (0, 9, 0, 1), ALLOW),  # prlimit, reading
        (302, (0, 9, 1 << 32, 0), EPERM),  # prlimit, setting, its pointer in the high half
        (302, (0, 9, 4096, 0), EPERM),
    ],
)
def test_answers(call: int, arguments: tuple[int, ...], wanted: int) -> None:
    assert answer("x86_64", call, *arguments) == wanted


def test_arm() -> None:
    assert answer("aarch64", 63) == ALLOW  # read
    assert answer("aarch64", 198) == EPERM  # socket
    assert answer("aarch64", 221) == EPERM  # execve
    assert answer("aarch64", 220, 0x003D0F00) == ALLOW  # clone
    assert answer("aarch64", 220, 17) == EPERM
    assert answer("aarch64", 56, 0, 0, 0o1000) == EPERM  # openat


@pytest.mark.parametrize("machine", MACHINES)
def test_calls_of_another_machine_kill(machine: str) -> None:
    assert answer(machine, 0, audit=0x40000003) == KILL  # i386, where numbers mean something else


@pytest.mark.parametrize("machine", MACHINES)
@given(number=st.integers(0, (1 << 31) - 1), arguments=st.lists(st.integers(0, (1 << 64) - 1), max_size=6))
def test_the_filter_always_answers_and_allows_only_what_is_listed(machine, number, arguments) -> None:
    m = MACHINES[machine]
    listed = {*m.allowed, *m.opens, m.fcntl, m.ioctl, m.prlimit, m.clone}
    found = answer(machine, number, *arguments)
    assert found in (ALLOW, EPERM, ENOSYS)
    assert found != ALLOW or number in listed
