"""The walls as data: which system calls a program in the sandbox may make, as a seccomp filter.

The list says what is allowed, never what is forbidden: a call that a later kernel adds is refused until
someone puts it here. Pure: bytes out, nothing is installed. Layouts and numbers are those of Linux's
`seccomp(2)`, `bpf(4)` and its tables of system calls.
"""

from __future__ import annotations

import struct
from typing import NamedTuple

__all__ = ["MACHINES", "Machine", "seccomp_filter"]

_COMMON = {  # name: (x86_64, aarch64)
    # files, through descriptors and paths; what a path may reach is Landlock's business
    "read": (0, 63), "write": (1, 64), "close": (3, 57), "fstat": (5, 80), "newfstatat": (262, 79),
    "statx": (332, 291), "lseek": (8, 62), "pread64": (17, 67), "pwrite64": (18, 68), "readv": (19, 65),
    "writev": (20, 66), "dup": (32, 23), "dup3": (292, 24), "fsync": (74, 82), "fdatasync": (75, 83),
    "ftruncate": (77, 46), "getdents64": (217, 61), "getcwd": (79, 17),
    "faccessat": (269, 48), "faccessat2": (439, 439), "unlinkat": (263, 35), "renameat": (264, 38),
    "renameat2": (316, 276), "ppoll": (271, 73), "pselect6": (270, 72),
    # memory, within RLIMIT_AS
    "mmap": (9, 222), "mprotect": (10, 226), "munmap": (11, 215), "brk": (12, 214), "mremap": (25, 216),
    "madvise": (28, 233), "mincore": (27, 232), "membarrier": (324, 283),
    # its own threads and signals; none of these reaches another process
    "rt_sigaction": (13, 134), "rt_sigprocmask": (14, 135), "rt_sigreturn": (15, 139),
    "sigaltstack": (131, 132), "futex": (202, 98), "set_robust_list": (273, 99), "rseq": (334, 293),
    "set_tid_address": (218, 96), "restart_syscall": (219, 128), "sched_yield": (24, 124),
    "sched_getaffinity": (204, 123), "exit": (60, 93), "exit_group": (231, 94),
    # who, when, how much
    "getpid": (39, 172), "getppid": (110, 173), "gettid": (186, 178), "getuid": (102, 174),
    "geteuid": (107, 175), "getgid": (104, 176), "getegid": (108, 177), "getrandom": (318, 278),
    "clock_gettime": (228, 113), "clock_getres": (229, 114), "clock_nanosleep": (230, 115),
    "nanosleep": (35, 101), "gettimeofday": (96, 169), "times": (100, 153), "getrusage": (98, 165),
    "getitimer": (36, 102), "setitimer": (38, 103), "sysinfo": (99, 179), "uname": (63, 160),
}  # fmt: skip

_OLD_X86 = {
    "stat": 4, "lstat": 6, "access": 21, "poll": 7, "select": 23, "dup2": 33, "unlink": 87, "rename": 82,
    "time": 201, "alarm": 37,
}  # fmt: skip
"""Calls that newer machines never had."""


class Machine(NamedTuple):
    """Numbers of one processor family: its audit name, calls allowed as they are, and those looked into."""

    audit: int
    allowed: tuple[int, ...]
    opens: dict[int, int]
    """Call -> which argument holds the flags."""
    fcntl: int
    ioctl: int
    prlimit: int
    clone: int


MACHINES = {
    "x86_64": Machine(
        0xC000003E,
        (*(numbers[0] for numbers in _COMMON.values()), *_OLD_X86.values()),
        {2: 1, 257: 2}, 72, 16, 302, 56,
    ),
    "aarch64": Machine(
        0xC00000B7, tuple(numbers[1] for numbers in _COMMON.values()), {56: 2}, 25, 29, 261, 220
    ),
}  # fmt: skip
"""By `platform.machine()`."""

_ALLOW, _REFUSE, _KILL = 0x7FFF0000, 0x00050001, 0x80000000  # ERRNO with EPERM: Python says PermissionError
_UNKNOWN = 0x00050026  # ENOSYS: glibc then tries the older call, whose arguments can be looked at
_CLONE3 = 435
_CLONE_THREAD, _CLONE_NAMESPACES = 0x10400, 0x7E020000
"""A thread that shares its descriptors (CLONE_THREAD, CLONE_FILES), so that all of them can be counted."""
_ACCESS, _TRUNCATE = 0o3, 0o1000
_FCNTL = (0, 1, 2, 3, 4, 1030)
"""F_DUPFD, F_GETFD, F_SETFD, F_GETFL, F_SETFL, F_DUPFD_CLOEXEC. F_SETOWN would aim signals at others."""
_IOCTL = (0x5401, 0x5450, 0x5451)
"""TCGETS, FIONCLEX, FIOCLEX."""

_LOAD, _AND, _EQUAL, _ANY, _RETURN = 0x20, 0x54, 0x15, 0x45, 0x06


def _do(code: int, k: int, yes: int = 0, no: int = 0) -> bytes:
    return struct.pack("=HBBI", code, yes, no, k)


def _low(argument: int) -> bytes:
    """Load the low half of an argument (both machines are little-endian)."""
    return _do(_LOAD, 16 + 8 * argument)


def _high(argument: int) -> bytes:
    return _do(_LOAD, 20 + 8 * argument)


def _when(number: int, *body: bytes) -> list[bytes]:
    """`body`, which must return, when the call is this one."""
    return [_do(_EQUAL, number, 0, len(body)), *body]


def _one_of(values: tuple[int, ...]) -> list[bytes]:
    """Allow when what is loaded is one of `values`, else refuse."""
    checks = [_do(_EQUAL, value, len(values) - i) for i, value in enumerate(values)]
    return [*checks, _do(_RETURN, _REFUSE), _do(_RETURN, _ALLOW)]


def seccomp_filter(machine: Machine) -> bytes:
    """The BPF program for one machine: allow what is listed, answer EPERM to everything else.

    Threads are allowed, processes and namespaces are not: `clone` must ask for a thread, with descriptors
    shared, and no more. No file is truncated through a read-only open, which old Landlocks do not see.
    Limits may be read, not set.
    """
    allow, refuse = _do(_RETURN, _ALLOW), _do(_RETURN, _REFUSE)
    parts = [
        _do(_LOAD, 4),
        _do(_EQUAL, machine.audit, 1),
        _do(_RETURN, _KILL),
        _do(_LOAD, 0),
    ]
    for number, argument in machine.opens.items():
        # O_TRUNC together with O_RDONLY
        masked = _do(_AND, _ACCESS | _TRUNCATE)
        parts += _when(number, _low(argument), masked, _do(_EQUAL, _TRUNCATE, 0, 1), refuse, allow)
    parts += _when(machine.fcntl, _low(1), *_one_of(_FCNTL))
    parts += _when(machine.ioctl, _low(1), *_one_of(_IOCTL))
    reads = (_low(2), _do(_EQUAL, 0, 0, 3), _high(2), _do(_EQUAL, 0, 0, 1), allow, refuse)
    parts += _when(machine.prlimit, *reads)
    masked = _do(_AND, _CLONE_THREAD)
    thread = (_do(_ANY, _CLONE_NAMESPACES, 3, 0), masked, _do(_EQUAL, _CLONE_THREAD, 0, 1), allow, refuse)
    parts += _when(machine.clone, _low(0), *thread)
    parts += _when(_CLONE3, _do(_RETURN, _UNKNOWN))
    for number in machine.allowed:
        parts += _when(number, allow)
    return b"".join([*parts, refuse])
