"""Bad input of every kind, through the real command line and the real stages.

Each must end with exit code 2 and one message that says what is wrong, where, and what to do, and must
leave nothing half-made behind: no unfinished artifact, no alias that points nowhere, no stray file.

Long because every kind of bad input stands here once, beside its error.
"""

from __future__ import annotations

import gzip
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import pytest

from publius.cli import main
from publius.model.checkpoint import save_checkpoint
from publius.testing import byte_tokenizer, tiny_model
from tests.inference.remote.wire import Fault, Reply, wire

ROOT = Path(__file__).parents[1]
RUN_FILES = ("recipe.json", "run.json", "report.html")

RECIPE = Path(__file__).with_name("user_recipe.py").read_text("utf-8")


class Result(NamedTuple):
    """What the command line said, and the home it worked in."""

    code: int
    out: str
    err: str

    @property
    def message(self) -> str:
        """The one error message."""
        (start,) = re.finditer(r"^error: ", self.err, re.MULTILINE)
        return self.err[start.start() :]


class Desk:
    """A user's folder with a recipe, some data, and a home; the working directory of a test."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.home = folder, folder / "home"
        (folder / "my_recipe.py").write_text(RECIPE)
        text = [{"text": f"the cat {i} sat on the mat and ate {i * i} fish"} for i in range(40)]
        self.rows("text.jsonl", text)
        reply = {"role": "assistant", "content": "It sat."}
        chats = [{"messages": [{"role": "user", "content": f"cat {i}?"}, reply]} for i in range(8)]
        self.rows("chats.jsonl", chats)

    def rows(self, name: str, rows: Sequence[object]) -> None:
        (self.folder / name).write_text("".join(json.dumps(row) + "\n" for row in rows))

    def run(self, *arguments: object) -> Result:
        raise AssertionError("set by the fixture")

    def folders(self) -> list[str]:
        """What lies under `artifacts/`."""
        return sorted(p.name for p in (self.home / "artifacts").glob("*"))

    def the(self, stage: str) -> Path:
        """The one artifact of a stage."""
        (found,) = (self.home / "artifacts").glob(f"{stage}-*")
        return found

    def clean(self, state: bool = False) -> None:
        """Nothing half-made lies here, but a resume state when `state` allows it."""
        for folder in (self.home / "artifacts").glob("*"):
            kept = {p.name for p in folder.iterdir()}
            if state and "resume" in kept:
                assert folder.suffix == ".partial" and kept <= {"lock", "metrics.jsonl", "resume"}, kept
                continue
            assert not folder.name.endswith(".partial") and not folder.name.startswith("."), folder
            assert (folder / "record.json").is_file(), folder
            assert kept <= {"files", "record.json", "metrics.jsonl"}, kept
        for path in (self.home / "runs").glob("*/*"):
            assert path.exists(), f"{path} points nowhere"
            assert path.is_symlink() or path.name in RUN_FILES, path

    def refused(
        self, *arguments: object, says: str, where: str, fix: str = "", state: bool = False
    ) -> Result:
        """The command ends with one error that says so, and with nothing left behind."""
        done = self.run(*arguments)
        assert done.code == 2, done.err
        assert done.out == "" and "Traceback" not in done.err
        what, place, advice = re.fullmatch(
            r"error: (.*)\n  where: (.*)\n  fix:   (.*)\n", done.message, re.DOTALL
        ).groups()  # pyright: ignore[reportOptionalMemberAccess]
        assert re.search(says, what), what
        assert where in place, place
        assert advice.strip() and fix in advice, advice
        self.clean(state)
        return done


@pytest.fixture
def desk(tmp_path, monkeypatch, capsys) -> Desk:
    made = Desk(tmp_path)
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("PUBLIUS_HOME", raising=False)

    def run(*arguments: object) -> Result:
        capsys.readouterr()
        with pytest.raises(SystemExit) as ended:
            main([str(a) for a in arguments] + ["--home", str(made.home)])
        out, err = capsys.readouterr()
        return Result(int(ended.value.code or 0), out, err)

    made.run = run
    return made


# Names and wiring: refused before anything is written.


@pytest.mark.parametrize(
    ("arguments", "says", "where", "fix"),
    [
        (["quickstrat"], "unknown recipe 'quickstrat'", "publius.recipes", "did you mean 'quickstart'?"),
        (["my_recipe.py:mien"], "there is no recipe 'mien'", "my_recipe.py:mien", "did you mean 'mine'?"),
        (["my_recpie.py:mine"], "no such Python file", "my_recpie.py", "my_recipe.py:my_recipe"),
        (["my_recipe.py:mine", "--set", "txt=a"], "no setting 'txt'", "--set txt=a", "did you mean 'text'?"),
        (
            ["my_recipe.py:mine", "--set", "bsae.steps=3"],
            "unknown stage 'bsae'",
            "--set bsae.steps=3",
            "did you mean 'base'?",
        ),
        (
            ["my_recipe.py:mine", "--set", "base.step=3"],
            "PretrainConfig has no field 'step'",
            "--set base.step=3",
            "did you mean 'steps'?",
        ),
        (
            ["my_recipe.py:mine", "--set", "base.optimizer.muon=3"],
            "OptimizerConfig has no field 'muon'",
            "--set base.optimizer.muon=3",
            "did you mean 'muon_lr'?",
        ),
        (["my_recipe.py:mine", "--set", "base.steps=two"], "valid integer", "--set base.steps=two", "value"),
        (
            ["my_recipe.py:mine", "--until", "stf"],
            "unknown stage 'stf'",
            "recipe mine",
            "did you mean 'sft'?",
        ),
        (
            ["my_recipe.py:misspelt"],
            "IngestTextConfig has no field 'max_byte'",
            "my_recipe.py:{max_byte}",
            "did you mean 'max_bytes'?",
        ),
        (
            ["my_recipe.py:miswired"],
            "input 'corpus' takes Corpus, but stage 'chats' gives Conversations",
            "recipe miswired, stage tokenizer",
            "right type",
        ),
        (
            ["my_recipe.py:unwired"],
            r"input 'tokenizer' \(TokenizerArtifact\) is missing",
            "recipe unwired, stage shards",
            "pass tokenizer=",
        ),
        (
            ["my_recipe.py:words", "--set", "text=tetx.jsonl"],
            "no such file or folder",
            "tetx.jsonl",
            "check the spelling",
        ),
    ],
)
def test_wrong_names_and_wiring(desk, arguments, says, where, fix):
    line = next(i for i, text in enumerate(RECIPE.splitlines(), 1) if "max_byte=" in text)
    desk.refused("run", *arguments, says=says, where=where.format(max_byte=line), fix=fix)
    assert not desk.home.exists()


def test_a_recipe_file_that_is_no_python(desk):
    (desk.folder / "torn.py").write_text("from publius.pipeline import Recipe\n\ndef torn(:\n")
    desk.refused("run", "torn.py:torn", says="not valid Python: invalid syntax", where="torn.py:3")
    (desk.folder / "fails.py").write_text("import json\n\njson.loads('no')\n")
    says = "the file cannot be imported: json.decoder.JSONDecodeError: Expecting value"
    desk.refused("run", "fails.py:fails", says=says, where="fails.py:3")
    assert not desk.home.exists()


# Data.


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ("", "nothing to train on"),
        ("\n\n", "nothing to train on"),
        ('{"text": ""}\n{"text": "  "}\n', "nothing to train on"),
    ],
)
def test_empty_corpus(desk, content, says):
    (desk.folder / "text.jsonl").write_text(content)
    desk.refused("run", "my_recipe.py:words", says=f"stage text: {says}", where="text.jsonl", fix="text")
    assert desk.folders() == []


def test_empty_folder(desk):
    (desk.folder / "nothing").mkdir()
    arguments = ("run", "my_recipe.py:words", "--set", "text=nothing")
    desk.refused(*arguments, says="no data file here", where="nothing", fix="jsonl")
    assert not desk.home.exists()


def test_truncated_gzip(desk):
    packed = gzip.compress((desk.folder / "text.jsonl").read_bytes() * 50)
    (desk.folder / "cut.jsonl.gz").write_bytes(packed[: len(packed) // 2])
    arguments = ("run", "my_recipe.py:words", "--set", "text=cut.jsonl.gz")
    desk.refused(
        *arguments, says="stage text: this gz is damaged or cut off", where="cut.jsonl.gz", fix="again"
    )
    assert desk.folders() == []


def spoil(desk: Desk, name: str, number: int, line: bytes) -> None:
    """Replace line `number` (from 1) of a file."""
    path = desk.folder / name
    lines = path.read_bytes().splitlines(keepends=True)
    lines[number - 1] = line + b"\n"
    path.write_bytes(b"".join(lines))


def test_malformed_jsonl(desk):
    spoil(desk, "text.jsonl", 17, b'{"text": "half of a li')
    desk.refused(
        "run", "my_recipe.py:words", says="stage text: not valid JSON", where="text.jsonl:17", fix="JSON"
    )
    assert desk.folders() == []


def test_bytes_that_are_not_utf8(desk):
    spoil(desk, "text.jsonl", 9, '{"text": "café"}'.encode("latin-1"))
    desk.refused(
        "run",
        "my_recipe.py:words",
        says="byte 0xe9 at column 14 is not UTF-8",
        where="text.jsonl:9",
        fix="iconv",
    )
    assert desk.folders() == []


@pytest.mark.parametrize(
    ("roles", "says"),
    [
        (("assistant", "user"), "message 0 has role 'assistant', expected 'user'"),
        (("user", "assistant", "assistant"), "message 2 has role 'assistant', expected 'user'"),
        (("user", "wizard"), "wizard"),
    ],
)
def test_wrong_role_order(desk, roles, says):
    row = {"messages": [{"role": role, "content": "hello"} for role in roles]}
    spoil(desk, "chats.jsonl", 3, json.dumps(row).encode())
    desk.refused("run", "my_recipe.py:chats", says=says, where="chats.jsonl:3")
    assert desk.folders() == []


# Pairs, and those who judge them.

PAIRS = [{"prompt": f"cat {i}?", "chosen": "It sat.", "rejected": "No."} for i in range(6)]
ONE_SIDED = {"prompt": "cat?", "chosen": "It sat.", "rejected": ""}
ALIKE = {"rejected": "It sat."}
TIE = {"prompt": "cat?", "response_1": "It sat.", "response_2": "It stood.", "better": 0}


def test_pairs_with_a_tie_or_a_missing_side(desk):
    run = ("run", "my_recipe.py:judged", "--until", "pairs", "--set", "pairs.ties=error")
    for row, says in ((ONE_SIDED, "`rejected` is empty"), (TIE, "a tie"), (PAIRS[0] | ALIKE, "a tie")):
        desk.rows("pairs.jsonl", [*PAIRS, row])
        desk.refused(*run, says=f"stage pairs: .*{says}", where="pairs.jsonl:7", fix="drop")
    desk.rows("pairs.jsonl", [*PAIRS, ONE_SIDED, TIE])
    done = desk.run("run", "my_recipe.py:judged", "--until", "pairs", "--set", "pairs.missing=drop")
    assert done.code == 0, done.err
    metrics = json.loads((desk.the("ingest_preferences") / "record.json").read_text())["metrics"]
    assert metrics["dropped_missing"]["value"] == metrics["dropped_ties"]["value"] == 1


@pytest.mark.parametrize(
    ("row", "says"),
    [
        ({"prompt": "a", "chosen": "b"}, "a pair lacks a reply: no `rejected`"),
        ({"prompt": "a", "chosen": None, "rejected": "b"}, "a pair lacks a reply: no `chosen`"),
        ({"prompt": "a", "response_1": "b", "response_2": "c", "better": 3}, "`better` is 3"),
    ],
)
def test_pairs_that_cannot_be_read(desk, row, says):
    desk.rows("pairs.jsonl", [PAIRS[0], row])
    desk.refused("run", "my_recipe.py:judged", "--until", "pairs", says=says, where="pairs.jsonl:2")
    assert desk.folders() == []


def test_a_judge_that_is_down_or_talks_nonsense(desk):
    desk.rows("pairs.jsonl", PAIRS)
    run = ("run", "my_recipe.py:judged", "--set")
    desk.refused(*run, "judge.remote=[]", says="stage judge: there is no judge", where="judge", fix="remote")
    with wire(lambda text: Reply("(A)" if "(A) It sat." in text else "(B)")) as server:
        quick = {"retries": 1, "concurrency": 1}
        remote = "judge.remote=" + json.dumps([server.settings("anthropic", desk.folder) | quick])
        server.faults.extend([Fault(), Fault(), Fault(body=b"<html>"), Fault(drop=True)])
        desk.refused(
            *run, remote, says="stage judge: m: no answer after 2 tries", where=server.url, fix="again"
        )
        before = len(server.seen)
        done = desk.run(*run, remote, "--json")
        assert done.code == 0, done.err
        metrics = json.loads((desk.the("evaluate_judge") / "record.json").read_text())["metrics"]
        assert metrics["remote.cached"]["value"] == 2, "what was answered is asked no more"
        assert len(server.seen) - before == metrics["remote.requests"]["value"]
        assert metrics["judge.accuracy"]["value"] == 1.0
    desk.refused(
        *run, remote.replace('"m"', '"n"'), says="the connection failed", where=server.url, fix="up and well"
    )


def test_two_workers_and_still_one_message(desk):
    """A stage in a worker process fails as one in this process does; its sibling is stopped and tidied."""
    spoil(desk, "chats.jsonl", 5, b"[]")
    arguments = ("run", "my_recipe.py:mine", "--jobs", 2)
    desk.refused(*arguments, says="stage chats: a row is not a JSON object", where="chats.jsonl:5")


_PRINCIPLE = """\
- id: kind
  text: Be kind.
  source: me
  category: harm
  critique_request: Say what is unkind.
  revision_request: Rewrite it kindly.
"""
_ASKS = "  comparison_question: Which is kinder?\n"


@pytest.mark.parametrize(
    ("principles", "says", "where"),
    [
        (
            _PRINCIPLE,
            r"the field `principles\[0\].comparison_question` is missing",
            "principles[0].comparison_question",
        ),
        ((_PRINCIPLE + _ASKS) * 2, "duplicate principle id 'kind'", "principles"),
        (_PRINCIPLE + _ASKS * 2, "the key 'comparison_question' stands twice", "line 13"),
    ],
)
def test_constitution_that_is_wrong(desk, principles, says, where):
    head = "id: mine\nversion: 1\ntitle: Mine\ncategories: {harm: Harm}\nprinciples:\n"
    (desk.folder / "mine.yaml").write_text(head + principles)
    desk.refused(
        *("run", "my_recipe.py:revised", "--set", "constitution=mine.yaml"),
        says=says,
        where=f"mine.yaml{',' if 'line' in where else ':'} {where}",
    )
    assert not desk.home.exists()


def test_rewards_that_are_no_numbers(desk):
    """The stage ends before anything is learnt; told to leave such replies out, it says that none is left."""
    reply = {"role": "assistant", "content": "It sat."}
    chats = [{"messages": [{"role": "user", "content": f"cat {i}?"}, reply]} for i in range(20)]
    desk.rows("chats.jsonl", chats)
    desk.refused(
        *("run", "my_recipe.py:rewarded"),
        says=r"stage rl: the reward of a reply to prompt 0 is nan",
        where="the held-out prompts, part model",
        fix="on_nan=skip",
        state=True,
    )
    desk.refused(
        *("run", "my_recipe.py:rewarded", "--set", "rl.reward.on_nan=skip"),
        says=r"stage rl: none of 2 replies has a reward: none is finite",
        where="the held-out prompts",
        state=True,
    )


@pytest.mark.parametrize(
    ("parts", "says", "fix"),
    [
        ('[{"kind": "judge"}]', "a part 'judge' and there is no judge", "input 'judge'"),
        ('[{"kind": "math"}]', r"prompt 0 has no meta\['answer'\]", "optional=true"),
        ('[{"kind": "lenght"}]', "does not match any of the expected tags", ""),
        ('[{"kind": "length", "soft": 9, "hard": 3}]', "must be below hard", ""),
    ],
)
def test_rewards_that_cannot_be_composed(desk, parts, says, fix):
    reply = {"role": "assistant", "content": "It sat."}
    chats = [{"messages": [{"role": "user", "content": f"cat {i}?"}, reply]} for i in range(20)]
    desk.rows("chats.jsonl", chats)
    arguments = ("run", "my_recipe.py:rewarded", "--set", f"rl.reward.parts={parts}")
    desk.refused(*arguments, "--set", "rl.critic=zero", says=says, where="", fix=fix, state=True)


# Damage: found by checksum, by the stage that would have read it.


def flip(path: Path, place: float = 0.5) -> None:
    """Turn one bit over, as a bad disk does; nothing else of the file changes."""
    data = bytearray(path.read_bytes())
    data[int(len(data) * place)] ^= 4
    path.write_bytes(data)


def test_corrupted_artifacts(desk):
    """Each is found by the next stage that reads it, and the advice given mends it."""
    assert desk.run("run", "my_recipe.py:mine").code == 0
    desk.clean()
    whole = (desk.the("sft") / "files/model.safetensors").read_bytes()
    for stage, name, reader, says in (
        ("ingest_text", "train.jsonl.zst", "train_tokenizer", "zst is damaged"),
        ("tokenize", "train-00000.tokens", "pretrain", "shard is damaged: its checksum does not match"),
        ("tokenize", "train-00000.offsets", "pretrain", "shard is damaged: its checksum does not match"),
        ("pretrain", "model.safetensors", "sft", "model.safetensors is damaged: its checksum differs"),
    ):
        damaged = desk.the(stage) / "files" / name
        flip(damaged)
        shutil.rmtree(desk.the(reader))  # as after a change of its config
        for link in (desk.home / "runs/mine").iterdir():
            if not link.exists():
                link.unlink()
        desk.refused("run", "my_recipe.py:mine", says=says, where=str(damaged), fix="")
        assert not list((desk.home / "artifacts").glob(f"{reader}-*"))
        shutil.rmtree(desk.the(stage))
        assert desk.run("run", "my_recipe.py:mine").code == 0
        desk.clean()
    assert (desk.the("sft") / "files/model.safetensors").read_bytes() == whole


def test_truncated_shard(desk):
    assert desk.run("run", "my_recipe.py:mine", "--until", "shards").code == 0
    damaged = desk.the("tokenize") / "files/train-00000.tokens"
    os.truncate(damaged, damaged.stat().st_size - 2)
    desk.refused(
        "run", "my_recipe.py:mine", says="damaged: it has", where=str(damaged), fix="run its stage again"
    )


def test_corrupted_record(desk):
    assert desk.run("run", "my_recipe.py:words").code == 0
    record = desk.the("ingest_text") / "record.json"
    record.write_text(record.read_text()[:-40])
    desk.refused("run", "my_recipe.py:words", says="a record is damaged", where=str(record), fix="delete")


# The disk.


def mount(*arguments: str) -> None:
    done = subprocess.run(["mount", *arguments], capture_output=True, text=True)
    if done.returncode:
        pytest.skip(f"mounting is not permitted here: {done.stderr.strip()}")


@pytest.fixture
def small_disk(desk) -> Iterator[Callable[[str], None]]:
    """Make the home a disk of its own, with these options of tmpfs."""
    if shutil.which("mount") is None:
        pytest.skip("no mount command here")
    desk.home.mkdir()

    def make(options: str) -> None:
        mount("-t", "tmpfs", "-o", options, "publius-test", str(desk.home))

    yield make
    subprocess.run(["umount", "-l", str(desk.home)], capture_output=True)


SIZES = [f"size={size}k" for size in (4, 12, 24, 40, 64, 128, 200)]
INODES = [f"nr_inodes={count}" for count in (4, 7, 8, 12)]


@pytest.mark.parametrize("options", SIZES + INODES)
def test_disk_full(desk, small_disk, options):
    """In whatever stage, it says so and keeps at most a resume state; given space, it goes on to the end."""
    small_disk(options)
    says = "the disk is full|No space left on device"
    done = desk.refused("run", "my_recipe.py:mine", says=says, where="", fix="free ", state=True)
    assert re.search(r"where: (stage \w+ \(|run mine, in |\S+/artifacts/)", done.message)
    mount("-o", "remount,size=4000k,nr_inodes=4000", str(desk.home))
    assert desk.run("run", "my_recipe.py:mine").code == 0
    desk.clean()


@pytest.mark.parametrize("below", ["", "runs", "runs/mine", "artifacts"])
def test_read_only_folder(desk, small_disk, below):
    small_disk("size=4000k")
    assert desk.run("run", "my_recipe.py:mine", "--until", "text").code == 0
    before = {p: p.lstat().st_size for p in desk.home.rglob("*") if p.name != "run.json"}
    place = desk.home / below
    if below:
        mount("--bind", str(place), str(place))
    try:
        mount("-o", "remount,bind,ro" if below else "remount,ro", str(place))
        says = rf"^cannot use {place}.*: Read-only file system$"
        desk.refused(
            "run", "my_recipe.py:mine", says=says, where="mine" if below != "artifacts" else "stage chats"
        )
    finally:
        if below:
            subprocess.run(["umount", "-l", str(place)], capture_output=True)
    after = {p: p.lstat().st_size for p in desk.home.rglob("*") if p.name != "run.json"}
    assert before.keys() == after.keys()


@pytest.mark.parametrize("home", ["file", "file/home", "/proc", "/dev/null"])
def test_a_home_that_can_be_none(desk, home):
    (desk.folder / "file").touch()
    desk.home = Path(home)
    words = "Not a directory|File exists|No such file or directory"
    desk.refused("run", "my_recipe.py:words", says=f"^cannot use {home}\\S*: ({words})$", where="run")
    assert (desk.folder / "file").read_bytes() == b""


def test_a_file_where_the_artifacts_should_lie(desk):
    desk.home.mkdir()
    (desk.home / "artifacts").touch()
    desk.refused("run", "my_recipe.py:words", says="cannot use .*artifacts: File exists", where="run words")
    assert [p.name for p in desk.home.iterdir()] == ["artifacts"]


def test_a_model_that_cannot_be_written_where_it_should(desk, small_disk):
    save_checkpoint(desk.folder / "model", tiny_model(), byte_tokenizer())
    (desk.folder / "file").touch()
    desk.refused(
        "export", "model", "--to", "file/x", says="cannot use file/x.*: Not a directory", where="file/x"
    )
    small_disk("size=24k")
    to = desk.home / "x"
    desk.refused("export", "model", "--to", to, says="the disk is full", where=str(to), fix="free space")
    assert list(desk.home.iterdir()) == []


def test_configs_that_are_none(desk):
    save_checkpoint(desk.folder / "odd", tiny_model(), byte_tokenizer())
    (desk.folder / "odd/config.json").write_bytes(b"\xff\xfe\x00")
    (desk.folder / "folder/config.json").mkdir(parents=True)
    for name in ("odd", "folder"):
        says = f"no run and no checkpoint folder is called '{name}'"
        desk.refused("chat", name, "-m", "hi", says=says, where="runs", fix="train one")
    (desk.folder / "odd/config.json").write_bytes(b'{"architectures": ["LlamaForCausalLM"], "x": "\xff"}')
    desk.refused("chat", "odd", "-m", "hi", says="config.json is damaged", where="odd")


def test_records_of_a_run_that_are_damaged(desk):
    assert desk.run("run", "my_recipe.py:words").code == 0
    journal = desk.home / "runs/words/run.json"
    for text in ("{}", "[]"):
        journal.write_text(text)
        for verb in (["show", "words"], ["report", "words"], ["gate", "show", "words"]):
            desk.refused(*verb, says=r"run.json is damaged at ", where=str(journal), fix="delete it")
    journal.unlink()
    assert desk.run("show", "words").code == 0


# Two at once, and what a killed one left.


@contextmanager
def holding(desk: Desk) -> Iterator[subprocess.Popen[str]]:
    """Another process in the middle of stage `hold`."""
    code = "from publius.cli import main; main()"
    command = [sys.executable, "-c", code, "run", "my_recipe.py:held", "--home", str(desk.home)]
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True)
    try:
        deadline = time.monotonic() + 60
        while not (desk.folder / "here").exists():
            assert process.poll() is None and time.monotonic() < deadline, "it never began"
            time.sleep(0.02)
        yield process
    finally:
        process.kill()
        process.communicate()


def test_two_runs_at_once(desk):
    """The second is told who works on it, harms nothing and leaves nothing; the first goes on undisturbed."""
    with holding(desk) as first:
        before = desk.folders()
        for arguments in ([], ["--name", "second"], ["--jobs", "2"]):
            done = desk.run("run", "my_recipe.py:held", *arguments)
            assert done.code == 2 and "Traceback" not in done.err
            assert f"stage hold: another runner (process {first.pid}) is making hold-" in done.message
            assert f"  where: {desk.home / 'artifacts'}" in done.message and "  fix:   wait" in done.message
        assert desk.folders() == before and [name[:4] for name in before] == ["hold", "inge"]
        assert not (desk.home / "runs/second/hold").is_symlink()
        (desk.folder / "go").touch()
        first.communicate(timeout=60)
        assert first.returncode == 0
    desk.clean()
    assert "hold: cached" in desk.run("run", "my_recipe.py:held").err


def test_corrupted_resume_state(desk):
    """Damage to the state a killed run left is found before it is built on, and the advice given mends it."""
    with holding(desk) as first:
        first.send_signal(signal.SIGKILL)
        first.wait()
    (damaged,) = desk.home.glob("artifacts/hold-*.partial/resume/*/files/state")
    flip(damaged)
    says = "stage hold: a saved state is damaged: its checksum differs"
    done = desk.refused("run", "my_recipe.py:held", says=says, where=str(damaged), fix="delete ", state=True)
    (folder,) = re.findall(r"delete (\S+) and run again", done.message)
    shutil.rmtree(folder)
    (desk.folder / "go").touch()
    assert desk.run("run", "my_recipe.py:held").code == 0
    desk.clean()
