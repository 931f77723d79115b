"""The sandbox, attacked: every program here tries to get out, and prints ESCAPED when it has.

Long because most of it is the attacks themselves, one program each, told apart by name.
"""

from __future__ import annotations

import os
import platform
import subprocess
import sys
import sysconfig
import textwrap
import time
from pathlib import Path

import pytest

from publius.core.errors import UserError
from publius.core.sandbox import Job, Limits, check_sandbox, run, run_all, run_python
from tests.landlock import CONTAINED

ROOT = Path(__file__).parents[3]

pytestmark = CONTAINED


def go(program: str, *, stdin: str = "", **limits: float):
    return run_python(textwrap.dedent(program), stdin=stdin, limits=Limits.model_validate(limits))


def test_a_program_runs_reads_and_prints() -> None:
    found = go("import math\nprint(math.factorial(5), input())", stdin="héllo\n")
    assert found.finished and found.output == "120 héllo\n" and found.error == ""


def test_endings() -> None:
    assert go("print(1)\nimport sys\nsys.exit(0)").ending == "exited"
    assert go("import sys\nsys.exit(3)").ending == "raised"
    raised = go("def f():\n    return 1 / 0\nf()")
    assert raised.ending == "raised"
    assert raised.error.splitlines()[0].startswith("Traceback") and "main.py" in raised.error
    assert "ZeroDivisionError" in raised.error and "inside.py" not in raised.error
    assert go("def f(:").ending == "raised"
    assert go("\ud800").ending == "raised"  # no UTF-8
    assert go("import os\nos._exit(0)").ending == "crashed"
    crash = go("import ctypes\nctypes.string_at(0)")
    assert crash.ending == "crashed" and "SIGSEGV" in crash.error
    deep = "import sys\nsys.setrecursionlimit(10**9)\ndef f(): return f() + 1\nf()"
    assert go(deep, seconds=1).ending in ("raised", "crashed", "timeout")


def test_ordinary_programs_work() -> None:
    """The standard library, threads, files of its own."""
    found = go(
        """
        import bisect, collections, ctypes, dataclasses, datetime, decimal, functools, hashlib, heapq
        import itertools, json, math, random, re, sqlite3, statistics, string, tempfile, threading, typing
        import zlib
        done = []
        threads = [threading.Thread(target=done.append, args=(i,)) for i in range(4)]
        [t.start() for t in threads], [t.join() for t in threads]
        with open("note.txt", "w") as file:
            file.write("kept")
        with tempfile.TemporaryFile(dir=".") as file:
            file.write(b"x")
        import os
        os.rename("note.txt", "other.txt")
        print(sorted(done), open("other.txt").read(), os.listdir("."), zlib.crc32(b"a"))
        os.remove("other.txt")
        print(hashlib.sha256(b"").hexdigest()[:4], decimal.Decimal("0.1"), len(os.urandom(4)))
        """
    )
    assert found.error == "" and found.finished
    assert found.output == "[0, 1, 2, 3] kept ['main.py', 'other.txt'] 3904355907\ne3b0 0.1 4\n"


def test_the_same_each_time() -> None:
    program = "print({'a', 'b', 'c', 'd', 'e'}, hash('x'))"
    assert len({go(program).output for _ in range(3)}) == 1


OUT = {
    "tcp": "import socket\nsocket.create_connection(('127.0.0.1', 9), timeout=1)",
    "listen": "import socket\nsocket.socket().bind(('127.0.0.1', 0))",
    "udp": "import socket\nsocket.socket(type=socket.SOCK_DGRAM).sendto(b'x', ('127.0.0.1', 9))",
    "unix": "import socket\nsocket.socket(socket.AF_UNIX)",
    "pair": "import socket\nsocket.socketpair()",
    "url": "import urllib.request\nurllib.request.urlopen('http://127.0.0.1:9/')",
    "passwd": "print(open('/etc/passwd').read())",
    "hosts": "print(open('/etc/hosts').read())",
    "home": "import os\nprint(os.listdir({home!r}))",
    "root": "import os\nprint(os.listdir('/'))",
    "up": "import os\nprint(os.listdir('..'))",
    "secret": "print(open({secret!r}).read())",
    "source": "print(open({source!r}).read())",
    "installed": "import sys\nsys.path.append({packages!r})\nimport numpy",
    "installed beside Python": "import sys\nsys.path.append({beside_python!r})\nimport pip",
    "environ": "print(open('/proc/self/environ').read())",
    "parent's environ": "import os\nprint(open(f'/proc/{{os.getppid()}}/environ').read())",
    "parent's memory": "import os\nopen(f'/proc/{{os.getppid()}}/mem', 'rb')",
    "own memory": "open('/proc/self/mem', 'rb')",
    "through a link": "import os\nos.symlink({secret!r}, 'link')\nprint(open('link').read())",
    "hard link": "import os\nos.link({secret!r}, 'link')\nprint(open('link').read())",
    "write": "open({secret!r}, 'w').write('x')",
    "append": "open({secret!r}, 'a').write('x')",
    "write beside": "open({beside!r}, 'w').write('x')",
    "write up": "open('../up', 'w')",
    "shared memory": "open('/dev/shm/publius', 'w')",
    "truncate": "import os\nos.truncate({secret!r}, 0)",
    "read and truncate": "import os\nos.open({secret!r}, os.O_RDONLY | os.O_TRUNC)",
    "delete": "import os\nos.unlink({secret!r})",
    "move out": "import os\nopen('x', 'w').close()\nos.rename('x', {beside!r})",
    "move in": "import os\nos.rename({secret!r}, 'x')",
    "folder": "import os\nos.mkdir('deep')",
    "folder outside": "import os\nos.mkdir({beside!r})",
    "chmod": "import os\nos.chmod({secret!r}, 0o777)",
    "touch": "import os\nos.utime({secret!r}, (0, 0))",
    "change root": "import os\nos.chroot('/')",
    "where a link leads": "import os\nprint(os.readlink('/proc/self/exe'))",
    "leave": "import os\nos.chdir('/')",
    "fork": "import os\nif os.fork() == 0: os._exit(0)",
    "fork by ctypes": "import ctypes\nif ctypes.CDLL(None).fork() < 0: raise OSError\nimport os",
    "system": "import os\nif os.system('true') != 0: raise OSError",
    "exec": "import os, sys\nos.execv(sys.executable, [sys.executable, '-c', 'print(\"ESCAPED\")'])",
    "subprocess": "import subprocess, sys\nsubprocess.run([sys.executable, '-c', ''], check=True)",
    "spawn": "import os, sys\nos.posix_spawn(sys.executable, [sys.executable, '-c', ''], {{}})",
    "multiprocessing": "import multiprocessing as m\np = m.Process(target=print)\np.start()",
    "kill parent": "import os\nos.kill(os.getppid(), 9)",
    "kill all": "import os\nos.kill(-1, 9)",
    "kill group": "import os\nos.killpg(os.getpgid(os.getppid()), 9)",
    "pidfd": "import os, signal\nsignal.pidfd_send_signal(os.pidfd_open(os.getppid()), 9)",
    "signal by fcntl": "import fcntl, os\nfcntl.fcntl(0, fcntl.F_SETOWN, os.getppid())",
    "more memory": "import resource as r\nr.setrlimit(r.RLIMIT_AS, (r.RLIM_INFINITY,) * 2)",
    "more time": "import resource as r\nr.prlimit(0, r.RLIMIT_CPU, (r.RLIM_INFINITY,) * 2)",
    "nice": "import os\nos.setpriority(os.PRIO_PROCESS, os.getppid(), 19)",
    "terminal": "import fcntl\nfcntl.ioctl(0, 0x5412, b'x')",
}


@pytest.fixture
def given(tmp_path: Path) -> dict[str, str]:
    (tmp_path / "secret").write_text("the secret")
    import numpy

    return {
        "secret": str(tmp_path / "secret"),
        "beside": str(tmp_path / "beside"),
        "home": str(Path.home()),
        "source": str(ROOT / "publius/core/config.py"),
        "packages": str(Path(numpy.__file__).parents[1]),
        "beside_python": sysconfig.get_paths(vars={"base": sys.base_prefix})["purelib"],
    }


@pytest.mark.parametrize("name", OUT)
def test_there_is_no_way_out(name: str, given: dict[str, str]) -> None:
    found = go(OUT[name].format(**given) + "\nprint('ESCAPED')")
    assert "ESCAPED" not in found.output and found.ending == "raised", found
    assert "secret" not in found.output
    assert Path(given["secret"]).read_text() == "the secret"
    assert not Path(given["beside"]).exists()


SYSCALLS = {
    "socket": 41, "connect": 42, "execve": 59, "fork": 57, "vfork": 58, "kill": 62, "tgkill": 234,
    "ptrace": 101, "process_vm_readv": 310, "mount": 165, "unshare": 272, "setns": 308, "bpf": 321,
    "perf_event_open": 298, "io_uring_setup": 425, "memfd_create": 319, "userfaultfd": 323, "keyctl": 250,
    "shmget": 29, "openat2": 437, "open_by_handle_at": 304, "init_module": 175, "reboot": 169,
    "landlock_create_ruleset": 444, "seccomp": 317, "prctl": 157, "personality": 135, "setuid": 105,
    "pidfd_getfd": 438, "creat": 85, "mknod": 133, "name_to_handle_at": 303, "swapon": 167,
}  # fmt: skip


@pytest.mark.skipif(platform.machine() != "x86_64", reason="numbers of x86_64")
def test_no_call_of_the_kernel_that_could_lead_out() -> None:
    """Straight to the kernel by ctypes, past all of Python."""
    found = go(
        f"""
        import ctypes, errno
        libc = ctypes.CDLL(None, use_errno=True)
        for name, number in {SYSCALLS!r}.items():
            libc.syscall(number, 0, 0, 0, 0, 0, 0)
            if ctypes.get_errno() != errno.EPERM:
                print("ESCAPED", name, ctypes.get_errno())
        """
    )
    assert found.finished and found.output == ""


@pytest.mark.parametrize("version", [1, 2, 3, 4, 6])
@pytest.mark.parametrize(
    "name", ["passwd", "secret", "write", "truncate", "read and truncate", "delete", "move in", "move out"]
)
def test_old_landlocks_hold_too(
    version: int, name: str, given: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(run._Watch, "landlock", version)
    test_there_is_no_way_out(name, given)


def test_no_secret_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("API_TOKEN", "swordfish")
    found = go("import os, ctypes\nprint(dict(os.environ), ctypes.CDLL(None).getenv(b'API_TOKEN'))")
    assert found.finished and "swordfish" not in found.output and found.output.endswith("} 0\n")


def test_no_open_file_of_the_parent(tmp_path: Path) -> None:
    (tmp_path / "ours").write_text("swordfish")
    with (tmp_path / "ours").open("rb") as file:
        os.set_inheritable(file.fileno(), True)
        found = go(
            """
            import os
            for descriptor in range(64):
                try:
                    os.set_blocking(descriptor, False)
                    print(os.pread(descriptor, 100, 0))
                except OSError:
                    pass
            """
        )
    assert found.finished and "swordfish" not in found.output


BOMBS = {
    "loop": ("while True: pass", ("timeout",)),
    "sleep": ("import time\ntime.sleep(60)", ("timeout",)),
    "regex": ("import re\nre.match('(a+)+b', 'a' * 60)", ("timeout",)),
    "big number": ("print(len(str(9 ** 9 ** 9)))", ("timeout", "raised")),
    "memory": ("x = []\nwhile True: x.append(bytes(1 << 20))", ("raised",)),
    "one block": ("x = bytes(1 << 40)", ("raised",)),
    "memory by ctypes": (
        "import ctypes\nf = ctypes.CDLL(None).malloc\nf.restype = ctypes.c_void_p\n"
        "while f(1 << 20): pass\nraise MemoryError",
        ("raised", "crashed"),
    ),
    "forks": ("import os\nwhile True:\n    try: os.fork()\n    except OSError: raise", ("raised",)),
    "threads": (
        "import threading, time\nwhile True: threading.Thread(target=time.sleep, args=(60,)).start()",
        ("raised", "crashed", "timeout"),
    ),
    "output": ("while True: print('x' * 1000)", ("output",)),
    "error": ("import sys\nwhile True: sys.stderr.write('x' * 1000)", ("output",)),
    "a file": ("with open('f', 'w') as f:\n    while True: f.write('x' * 10000)", ("raised", "disk")),
    "a sparse file": ("open('f', 'w').truncate(1 << 40)", ("raised",)),
    "files": (
        "i = 0\nwhile True:\n    i += 1\n    with open(str(i), 'w') as f: f.write('x' * 60000)",
        ("disk",),
    ),
    "empty files": ("i = 0\nwhile True:\n    i += 1\n    open(str(i), 'w').close()", ("disk",)),
    "hiding": ("import os\nfor i in range(64):\n    try: os.close(i)\n    except OSError: pass\n"
               "while True: pass", ("crashed", "timeout")),
    "deaf": ("import signal\nfor s in range(1, 64):\n    try: signal.signal(s, signal.SIG_IGN)\n"
             "    except (OSError, ValueError): pass\nwhile True: pass", ("timeout",)),
    "exit later": ("import atexit, time\natexit.register(time.sleep, 60)", ("finished",)),
    "a thread that stays": (
        "import threading, time\nthreading.Thread(target=time.sleep, args=(60,)).start()", ("finished",)
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", BOMBS)
def test_bombs_are_defused(name: str) -> None:
    program, endings = BOMBS[name]
    began = time.monotonic()
    # the short limit is for those that nothing else stops
    seconds = 1 if "timeout" in endings else 10
    found = go(program, seconds=seconds, memory_mb=256, output_kb=8, disk_kb=256)
    assert found.ending in endings, found
    assert time.monotonic() - began < 30
    assert len(found.output) <= 8 << 10 and len(found.error) <= (8 << 10) + 100
    assert not [p for p in Path("/tmp").glob("publius-sandbox-*") if _ours(p)]


def test_what_floods_the_report_is_stopped() -> None:
    """Its descriptor is open in the program, too: what comes through it may not fill our memory."""
    program = """
        import os
        for descriptor in range(3, 64):
            try:
                while True: os.write(descriptor, bytes(1 << 16))
            except OSError:
                pass
        """
    began = int(Path("/proc/self/statm").read_text().split()[1])
    found = go(program, seconds=10)
    assert found.ending == "output" and found.seconds < 8, found
    grown = int(Path("/proc/self/statm").read_text().split()[1]) - began
    assert grown * os.sysconf("SC_PAGE_SIZE") < 64 << 20


DELETED = {
    "open": "held.append(f)",
    "mapped": "held.append(f and libc.mmap(None, 4096, 1, 2, f, 0)) or os.close(f)",
    "given": "held.append(f) or open('main.py', 'wb').write(bytes(60 << 10))",
}


@pytest.mark.parametrize("name", DELETED)
def test_deleted_files_that_it_holds_count(name: str) -> None:
    found = go(
        f"""
        import ctypes, os, time
        libc, held = ctypes.CDLL(None), []
        for i in range(3):
            f = os.open(str(i), os.O_CREAT | os.O_RDWR)
            os.unlink(str(i))
            os.write(f, bytes(30 << 10))
            {DELETED[name]}
        time.sleep(60)
        """,
        seconds=10,
        disk_kb=64,
    )
    assert found.ending == "disk" and found.seconds < 8, found


def test_deleted_files_that_it_let_go_do_not_count() -> None:
    found = go(
        """
        import mmap, os, tempfile, time
        for i in range(20):
            with tempfile.TemporaryFile(dir=".") as file:
                file.write(bytes(60 << 10))
                file.flush()
                with mmap.mmap(file.fileno(), 0) as held:
                    time.sleep(0.01)
                    assert len(held) == 60 << 10
        print("let go")
        """,
        stdin="x" * (80 << 10),  # what is handed in is not its own
        disk_kb=64,
    )
    assert found.finished and found.output == "let go\n", found


def test_what_it_leaves_counts_however_quick_it_was() -> None:
    program = "for i in range(3): open(str(i), 'wb').write(bytes(30 << 10))"
    assert go(program, disk_kb=64).ending == "disk"
    assert go(program, disk_kb=96).ending == "finished"


def _ours(place: Path) -> bool:
    try:
        return place.stat().st_uid == os.getuid() and any(place.glob("[0-9]*"))
    except FileNotFoundError:
        return False


def test_an_ending_cannot_be_forged_blindly() -> None:
    """Words on the way out count only with a mark that it cannot know before the end."""
    found = go(
        """
        import os
        for descriptor in range(3, 64):
            try:
                os.write(descriptor, b"finished\\n0123456789abcdef")
            except OSError:
                pass
        os._exit(0)
        """
    )
    assert found.ending == "crashed"


def test_the_program_dies_with_its_parent(tmp_path: Path) -> None:
    """Killed -9 in the middle, we leave nobody behind."""
    code = f"""
        from pathlib import Path
        from publius.core.sandbox import Limits, run_python
        program = "import os, time\\nprint(os.getpid(), flush=True)\\ntime.sleep(600)"
        import publius.core.sandbox.run as run
        real = run._Watch._start
        def start(self, report):
            process = real(self, report)
            Path({str(tmp_path / "pid")!r}).write_text(str(process.pid))
            return process
        run._Watch._start = start
        run_python(program, limits=Limits(seconds=600))
        """
    command = [sys.executable, "-c", textwrap.dedent(code)]
    with subprocess.Popen(command, env=os.environ | {"PYTHONPATH": str(ROOT)}) as parent:
        deadline = time.monotonic() + 60
        while not (tmp_path / "pid").exists() or not (text := (tmp_path / "pid").read_text()):
            assert parent.poll() is None and time.monotonic() < deadline
            time.sleep(0.02)
        child = int(text)
        while "python" not in Path(f"/proc/{child}/cmdline").read_text():
            time.sleep(0.02)
        time.sleep(0.5)  # it has locked itself in by now
        parent.kill()
    deadline = time.monotonic() + 10
    while Path(f"/proc/{child}").exists() and "Z" not in _state(child):
        assert time.monotonic() < deadline
        time.sleep(0.02)


def _state(process: int) -> str:
    try:
        return Path(f"/proc/{process}/stat").read_text().rsplit(")", 1)[1].split()[0]
    except FileNotFoundError:
        return "Z"


def test_many_at_once_in_order() -> None:
    found = run_all([Job(f"print({i} * int(input()))", str(i)) for i in range(6)], workers=3)
    assert [int(o.output) for o in found] == [i * i for i in range(6)]
    assert run_all([]) == []


# Where the walls cannot be had, nothing runs.

WITHOUT = """
import ctypes, struct, sys
denied, value = {denied!r}, {value!r}
code = [struct.pack("=HBBI", 0x20, 0, 0, 0)]
for number in denied:
    code.append(struct.pack("=HBBI", 0x15, 0, 1, number))
    if value is not None:  # only with this first argument
        code[-1] = struct.pack("=HBBI", 0x15, 0, 3, number)
        code += [struct.pack("=HBBI", 0x20, 0, 0, 16), struct.pack("=HBBI", 0x15, 0, 1, value)]
    code.append(struct.pack("=HBBI", 6, 0, 0, 0x00050026))
    code += [struct.pack("=HBBI", 0x20, 0, 0, 0)] if value is not None else []
code = b"".join([*code, struct.pack("=HBBI", 6, 0, 0, 0x7FFF0000)])
libc = ctypes.CDLL(None, use_errno=True)
buffer = ctypes.create_string_buffer(code, len(code))
assert libc.prctl(38, 1, 0, 0, 0) == 0
assert libc.prctl(22, 2, struct.pack("@HP", len(code) // 8, ctypes.addressof(buffer)), 0, 0) == 0
from publius.core.errors import UserError
from publius.core.sandbox import run_python
try:
    print(run_python("print('RAN')"))
except UserError as error:
    print(error)
"""


@pytest.mark.skipif(platform.machine() != "x86_64", reason="numbers of x86_64")
@pytest.mark.parametrize(
    ("denied", "value", "why"),
    [
        ([444], None, "Landlock: Function not implemented"),
        ([445], None, "Function not implemented"),
        ([446], None, "Landlock: Function not implemented"),
        ([157], 22, "seccomp: Function not implemented"),
        ([157], 1, "PR_SET_PDEATHSIG: Function not implemented"),
    ],
)
def test_it_refuses_on_a_kernel_without(denied: list[int], value: int | None, why: str) -> None:
    """A filter around us answers ENOSYS, as a kernel or a container without that wall does."""
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT.format(denied=denied, value=value)],
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert "no sandbox here, so the program was not run" in done.stdout, done
    assert why in done.stdout and "fix:" in done.stdout and "RAN" not in done.stdout


def test_it_refuses_on_an_unknown_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run.platform, "machine", lambda: "pdp11")
    with pytest.raises(UserError, match="not run: this is Linux on pdp11"):
        check_sandbox()


def test_it_refuses_when_a_wall_has_a_hole(monkeypatch: pytest.MonkeyPatch) -> None:
    """The walls are tried from inside before the program is read."""
    allow_all = b"\x06\x00\x00\x00\x00\x00\xff\x7f"
    monkeypatch.setattr(run, "seccomp_filter", lambda machine: allow_all)
    with pytest.raises(UserError, match="a socket was not refused"):
        run_python("print('RAN')")


def test_it_refuses_without_an_interpreter(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run.sys, "executable", "/nowhere/python")
    with pytest.raises(UserError, match="cannot start /nowhere/python"):
        run_python("")


UNPRIVILEGED = """
import ctypes
libc = ctypes.CDLL(None, use_errno=True)
for capability in range(64):
    libc.prctl(24, capability, 0, 0, 0)
import os, sys
os.execv(sys.executable, [sys.executable, "-c", '''
from publius.core.sandbox import run_python
held = [line for line in open("/proc/self/status") if line.startswith("CapEff")]
print(held[0].split()[1], run_python("print('fine')").output)
'''])
"""


def test_it_needs_no_privilege() -> None:
    done = subprocess.run(
        [sys.executable, "-c", UNPRIVILEGED],
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.stdout == "0000000000000000 fine\n\n", done
