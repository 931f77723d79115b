"""The library is built once for a machine and a compiler; where it cannot be, the engine goes on without.

The compiler here is a script that notes what it is called with and hands out a library that was built before:
what the real one makes is what every other test runs.
"""

from __future__ import annotations

import shutil
import threading
from pathlib import Path

import pytest
import torch

from publius.core.errors import UserError
from publius.inference.engine import Engine, Sampling
from publius.inference.native import build
from publius.testing import byte_tokenizer, tiny_model

TOKENIZER = byte_tokenizer()
GREEDY = Sampling(max_tokens=6, temperature=0)
load = build._load.__wrapped__  # pyright: ignore[reportPrivateUsage, reportFunctionMemberAccess]
BUILT = build.library()
needs_library = pytest.mark.skipif(BUILT is None, reason=f"no native pass: {build.why_not()}")


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache folder, and nothing told about compilers."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.delenv("PUBLIUS_NATIVE", raising=False)
    monkeypatch.delenv("CXX", raising=False)
    return tmp_path / "cache" / "publius" / "native"


class Compiler:
    """A script that stands for one.

    Args:
        folder: where it is put, and its notes.
        does: shell that makes "$out".
        version: what it says of itself.
    """

    def __init__(self, folder: Path, does: str, version: str = "one") -> None:
        self._notes, self.path = folder / "notes", folder / "compiler"
        self.says(does, version)

    def says(self, does: str, version: str) -> None:
        text = f"""#!/bin/sh
        if [ "$1" = --version ]; then echo {version}; exit 0; fi
        echo "$@" >> {self._notes}
        for last; do out="$last"; done
        {does}
        """
        self.path.write_text(text)
        self.path.chmod(0o755)

    @property
    def calls(self) -> int:
        """How often it has compiled."""
        return len(self._notes.read_text().splitlines()) if self._notes.exists() else 0


@pytest.fixture
def compiler(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Compiler:
    """One that works."""
    assert BUILT is not None
    made = Compiler(tmp_path, f'cp {BUILT._name} "$out"')
    monkeypatch.setenv("CXX", str(made.path))
    return made


@needs_library
def test_it_is_built_once(compiler: Compiler, cache: Path) -> None:
    for _ in range(3):
        found, why = load()
        assert found is not None
        assert why == ""
    assert compiler.calls == 1
    [path] = cache.iterdir()  # and no scratch is left
    assert found._name == str(path)


@needs_library
def test_another_compiler_cpu_or_source_builds_anew(
    compiler: Compiler, cache: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    load()
    compiler.says(f'cp {BUILT and BUILT._name} "$out"', "two")
    load()
    assert compiler.calls == 2
    monkeypatch.setattr(build, "cpu_flags", lambda: {"wings"})
    load()
    assert compiler.calls == 3
    here = shutil.copytree(Path(build.__file__).parent, tmp_path / "native")
    monkeypatch.setattr(build, "__file__", str(here / "build.py"))
    load()
    assert compiler.calls == 3  # the same sources elsewhere
    for name in ("forward.cpp", "team.h"):
        with (here / name).open("a") as source:
            source.write("// another\n")
        load()
    assert compiler.calls == 5
    assert len(list(cache.iterdir())) == 5
    load()
    assert compiler.calls == 5


@needs_library
def test_builders_side_by_side_do_not_disturb_each_other(compiler: Compiler, cache: Path) -> None:
    compiler.says(f'sleep 0.2; cp {BUILT and BUILT._name} "$out"', "one")
    found: list[object] = []
    threads = [threading.Thread(target=lambda: found.append(load()[0])) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert None not in found
    assert len(found) == 4
    assert len(list(cache.iterdir())) == 1


def engine_without(outcome: tuple[object, str], monkeypatch: pytest.MonkeyPatch) -> str:
    """Why there is no library; an engine works without, and says what PyTorch says."""
    assert outcome[0] is None
    monkeypatch.setattr(build, "_load", lambda: outcome)
    assert build.library() is None
    model = tiny_model(3)
    engine = Engine(model, TOKENIZER)
    assert not engine.native
    prompts = [[20, 30, 40], list(range(50, 90))]
    done = engine.generate(prompts, GREEDY)
    for prompt, completion in zip(prompts, done, strict=True):
        with torch.no_grad():
            logits = model(torch.tensor([[*prompt, *completion.tokens]]))[0]
        assert logits[len(prompt) - 1 : -1].argmax(-1).tolist() == list(completion.tokens)
    assert engine.score(prompts, [[30], [40, 50]])
    with pytest.raises(UserError, match="int8"):
        Engine(model, TOKENIZER, dtype="int8")
    return build.why_not()


def test_it_can_be_switched_off(monkeypatch: pytest.MonkeyPatch, cache: Path) -> None:
    monkeypatch.setenv("PUBLIUS_NATIVE", "0")
    assert engine_without(load(), monkeypatch) == "PUBLIUS_NATIVE=0"
    assert not cache.exists()


def test_without_a_compiler(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setenv("CXX", "clang++-99")
    assert "no C++ compiler" in engine_without(load(), monkeypatch)


def test_a_compiler_that_fails(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, cache: Path) -> None:
    failing = Compiler(tmp_path, "echo 'fatal error: no such vector' >&2; exit 1")
    monkeypatch.setenv("CXX", str(failing.path))
    why = engine_without(load(), monkeypatch)
    assert str(failing.path) in why
    assert "no such vector" in why
    assert failing.calls == 1
    assert list(cache.iterdir()) == []


def test_a_compiler_that_does_not_start(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    broken = tmp_path / "compiler"
    broken.write_text("#!/no/such/shell\n")
    broken.chmod(0o755)
    monkeypatch.setenv("CXX", str(broken))
    assert f"{broken} could not build it" in engine_without(load(), monkeypatch)


def test_a_compiler_that_makes_nothing_of_use(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for does in ("true", 'echo junk > "$out"'):
        monkeypatch.setenv("CXX", str(Compiler(tmp_path, does, version=does[:4]).path))
        assert "could not build it" in engine_without(load(), monkeypatch)


@needs_library
def test_a_cache_folder_that_cannot_be_made(
    compiler: Compiler, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    assert str(tmp_path / "file") in engine_without(load(), monkeypatch)
    assert compiler.calls == 0


def test_without_a_home(monkeypatch: pytest.MonkeyPatch) -> None:
    def home() -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setattr(Path, "home", home)
    monkeypatch.delenv("XDG_CACHE_HOME")
    found, why = load()
    assert found is None
    assert "home" in why or "compiler" in why


@needs_library
def test_a_library_that_cannot_be_loaded_is_built_again(
    tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert BUILT is not None
    monkeypatch.setenv("CXX", str(Compiler(tmp_path, f'cp "{BUILT._name}" "$out"').path))
    assert load()[0] is not None
    [path] = cache.iterdir()
    path.unlink()
    path.write_text("half of it")  # a disk that was full
    assert load()[0] is not None
