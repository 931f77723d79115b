"""What runs inside: it locks itself in, proves that the locks hold, then runs `main.py` of its folder.

Started by `run` as a script in a bare interpreter, so it imports the standard library only. Its order comes
as one line of JSON on descriptor 0; what became of it goes out on descriptor `report`. Nothing of the
program is read before every wall stands: when one cannot be had, it says so and ends.
"""

# Paths as the kernel takes them, and no more imports than needed:
# ruff: noqa: PTH108, PTH109, PTH112, PTH123, PTH208

from __future__ import annotations

import ctypes
import json
import os
import re
import resource
import runpy
import signal
import socket
import struct
import sys
import traceback
from collections.abc import Iterator
from typing import Any, NoReturn

__all__ = ["main"]

_ADD_RULE, _CREATE, _RESTRICT = 445, 444, 446
"""Landlock's system calls, the same on every machine."""
_WRITE_FILE, _READ_FILE, _READ_DIR, _REMOVE_FILE, _MAKE_REG, _TRUNCATE = 2, 4, 8, 32, 256, 16384
_RIGHTS = {1: (1 << 13) - 1, 2: (1 << 14) - 1, 3: (1 << 15) - 1, 4: (1 << 15) - 1, 5: (1 << 16) - 1}
"""Everything each version of Landlock can forbid in the file system (version 5 and all later)."""
_PR_SET_PDEATHSIG, _PR_SET_SECCOMP, _PR_SET_NO_NEW_PRIVS = 1, 22, 38
_FOREIGN = ("site-packages", "dist-packages")
_MARK = 16

_libc = ctypes.CDLL(None, use_errno=True)


class _Refused(Exception):
    """A wall that cannot be had."""


def main() -> NoReturn:
    """Read the order, lock, run, report. Never returns."""
    order = json.loads(_line(0))
    report = int(order["report"])
    try:
        _bound(order["limits"])
        _stay_with(order["parent"])
        control = os.dup(0)
        _take_input()
        _landlock(order["landlock"])
        _seccomp(bytes.fromhex(order["filter"]))
        _prove()
    except (_Refused, OSError, ValueError) as error:
        os.write(report, f"refused {error}\n".encode())
        os._exit(3)
    os.write(report, b"locked\n")
    _run(report, control)


def _line(descriptor: int) -> bytes:
    """One line, byte by byte: what follows it stays in the pipe."""
    found = bytearray()
    while not found.endswith(b"\n"):
        byte = os.read(descriptor, 1)
        if not byte:
            raise EOFError("no order")
        found += byte
    return bytes(found)


def _bound(limits: dict[str, int]) -> None:
    for name, value in {**limits, "RLIMIT_CORE": 0}.items():
        resource.setrlimit(getattr(resource, name), (value, value))


def _stay_with(parent: int) -> None:
    """Die when the process that asked dies."""
    _checked(_libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0), "PR_SET_PDEATHSIG")
    if os.getppid() != parent:
        raise _Refused("the process that asked is gone")


def _take_input() -> None:
    given = os.open("stdin", os.O_RDONLY)
    os.unlink("stdin")
    os.dup2(given, 0)
    os.close(given)


def _checked(value: int, what: str) -> int:
    if value < 0:
        raise _Refused(f"{what}: {os.strerror(ctypes.get_errno())}")
    return value


def _landlock(most: int | None) -> None:
    """No file but those of the standard library and the system's libraries (to read) and its own folder."""
    version = _checked(_libc.syscall(_CREATE, None, ctypes.c_size_t(0), 1), "Landlock")
    version = min(version, most or version)
    handled = _RIGHTS[min(version, 5)]
    size = 8 if version < 4 else 16 if version < 6 else 24
    # connecting and binding TCP; signals and abstract sockets to processes outside
    attributes = struct.pack("=QQQ", handled, 3, 3)[:size]
    rules = _checked(_libc.syscall(_CREATE, attributes, ctypes.c_size_t(size), 0), "Landlock")
    own = _READ_FILE | _WRITE_FILE | _READ_DIR | _REMOVE_FILE | _MAKE_REG | _TRUNCATE
    for path, rights in [(os.getcwd(), own), ("/dev/null", _READ_FILE | _WRITE_FILE), *_readable()]:
        _allow(rules, path, rights & handled)
    _checked(_libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0), "PR_SET_NO_NEW_PRIVS")
    _checked(_libc.syscall(_RESTRICT, rules, 0), "Landlock")
    os.close(rules)


def _readable() -> Iterator[tuple[str, int]]:
    """The standard library without what is installed beside it, and where the loaded libraries lie."""
    standard = list(filter(os.path.exists, dict.fromkeys(map(os.path.realpath, sys.path))))
    for place in standard:
        if not os.path.isdir(place):
            yield place, _READ_FILE
            continue
        yield place, _READ_DIR
        for entry in os.scandir(place):
            if entry.name not in _FOREIGN:
                yield entry.path, _READ_FILE
    with open("/proc/self/maps", encoding="utf-8") as file:
        libraries = re.findall(r"(/\S+)/[^/\s]+\.so\b", file.read())
    for place in dict.fromkeys(libraries):
        if any(foreign in place for foreign in _FOREIGN):
            continue
        if not any(known.startswith(place + "/") for known in standard):
            yield place, _READ_FILE | _READ_DIR
            continue
        for entry in os.scandir(place):  # Python's own lib/: under it lie the packages installed beside it
            if ".so" in entry.name and entry.is_file():
                yield entry.path, _READ_FILE
    yield "/etc/ld.so.cache", _READ_FILE


def _allow(rules: int, path: str, rights: int) -> None:
    try:
        place = os.open(path, os.O_PATH | os.O_CLOEXEC)
    except FileNotFoundError:
        return
    try:
        rule = struct.pack("=Qi", rights, place)
        _checked(_libc.syscall(_ADD_RULE, rules, 1, rule, 0), f"Landlock, {path}")
    finally:
        os.close(place)


def _seccomp(code: bytes) -> None:
    buffer = ctypes.create_string_buffer(code, len(code))
    program = struct.pack("@HP", len(code) // 8, ctypes.addressof(buffer))
    _checked(_libc.prctl(_PR_SET_SECCOMP, 2, program, 0, 0), "seccomp")


def _prove() -> None:
    """What must be refused is refused: asked of the kernel, not assumed."""
    attempts = {
        "a socket": lambda: socket.socket(socket.AF_INET),
        "a file outside": lambda: os.open("/proc/self/environ", os.O_RDONLY),
        "a folder outside": lambda: os.listdir("/"),
        "a new process": os.fork,
        "a signal to its parent": lambda: os.kill(os.getppid(), 0),
    }
    for what, attempt in attempts.items():
        try:
            attempt()
        except PermissionError:
            continue
        raise _Refused(f"{what} was not refused")


def _run(report: int, control: int) -> NoReturn:
    """Run the program; then prove with the mark, unread until now, that it came to an end by itself."""
    write, read, leave, flush = os.write, os.read, os._exit, (sys.stdout.flush, sys.stderr.flush)
    try:
        runpy.run_path("main.py", run_name="__main__")
        ending = "finished"
    except SystemExit as stop:
        ending = "exited" if stop.code in (None, 0) else "raised"
    except BaseException as error:
        ending = "raised"
        _explain(error)
    for push in flush:
        try:
            push()
        except BaseException:
            ending = "raised"
    write(report, f"{ending}\n".encode() + read(control, _MARK))
    leave(0)


def _explain(error: BaseException) -> None:
    """The traceback from the program on, on its standard error."""
    found: Any = error.__traceback__
    while found is not None and found.tb_frame.f_code.co_filename != "main.py":
        found = found.tb_next
    try:
        traceback.print_exception(type(error), error, found or error.__traceback__)
    except BaseException:  # memory or recursion is spent: its name is all there is
        os.write(2, f"{type(error).__name__}\n".encode())


if __name__ == "__main__":
    main()
