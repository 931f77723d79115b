"""The worker's half of a job, in this process; tests of real workers are in test_runner.py."""

import json
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest
from pydantic import field_serializer

from publius.core.config import Config
from publius.pipeline import Run, stage
from publius.pipeline.identity import identify
from publius.pipeline.job import Job, describe_job, load_reference, read_job, reference
from publius.pipeline.stop import interrupts
from publius.pipeline.worker import work
from tests.pipeline.toy import Numbers, NumbersConfig, add_up, make_numbers, toy


def job(home: Path) -> Job:
    identity = identify(toy())[0]
    base = {"id": identity.id, "config": identity.config, "inputs": {}, "fingerprint": None}
    return Job("numbers", make_numbers, NumbersConfig(workers=7), {}, home / identity.folder, base)


def do(tmp_path: Path) -> tuple[int, dict[str, Any]]:
    answer = tmp_path / "answer.json"
    file = tmp_path / "job.json"
    file.write_text(json.dumps(describe_job(job(tmp_path), answer)))
    before = list(sys.path)
    code = work(file)
    sys.path[:] = before
    return code, json.loads(answer.read_text())


def test_work(tmp_path):
    assert do(tmp_path) == (0, {"outcome": "ran"})
    assert do(tmp_path) == (0, {"outcome": "cached"})
    assert Numbers(job(tmp_path).final / "files").values() == [0, 1, 2, 3]


@pytest.mark.parametrize(
    ("variable", "code", "key"),
    [("TOY_USER_ERROR", 2, "what"), ("TOY_BUG", 1, "crash"), ("TOY_INTERRUPT", 130, "interrupted")],
)
def test_failures_are_answers(tmp_path, monkeypatch, variable, code, key):
    monkeypatch.setenv(variable, "make_numbers:0")
    got, answer = do(tmp_path)
    assert got == code and key in answer
    assert not job(tmp_path).partial.exists()


def test_a_job_crosses_whole(tmp_path):
    inputs = {"numbers": Numbers(tmp_path / "a"), "more": [Numbers(tmp_path / "b")]}
    identity = identify(toy())[-1]
    base = {"id": identity.id, "config": identity.config, "inputs": identity.inputs, "fingerprint": None}
    sent = Job("total", add_up, identity.node.config, inputs, tmp_path / "final", base)
    got = read_job(json.loads(json.dumps(describe_job(sent, tmp_path / "answer"))))
    assert got.stage is add_up and got.config == sent.config and got.final == sent.final
    assert isinstance(got.inputs["numbers"], Numbers) and got.inputs["numbers"].path == tmp_path / "a"
    assert isinstance(got.inputs["more"], list) and got.inputs["more"][0].path == tmp_path / "b"


class Lossy(Config):
    rate: float = 0.123456

    @field_serializer("rate")
    def short(self, value: float) -> float:
        return round(value, 2)


@stage(version=1)
def lossy(run: Run, config: Lossy) -> Numbers:
    return Numbers(run.output)


def test_a_config_that_json_changes_is_caught(tmp_path):
    sent = Job("l", lossy, Lossy(), {}, tmp_path / "final", {"config": {"rate": 0.123456}})
    with pytest.raises(TypeError, match="Lossy does not survive JSON"):
        read_job(json.loads(json.dumps(describe_job(sent, tmp_path / "answer"))))


def test_references(tmp_path):
    assert load_reference(reference(Numbers.values)) is Numbers.values
    file = tmp_path / "mine.py"
    file.write_text("class Thing:\n    pass\n")
    thing = load_reference({"module": "__main__", "name": "Thing", "file": str(file)})
    assert thing is load_reference({"module": "not_importable", "name": "Thing", "file": str(file)})
    with pytest.raises(ModuleNotFoundError):
        load_reference({"module": "not_importable", "name": "Thing", "file": None})


def test_worker_ends_when_its_parent_is_gone(tmp_path):
    """A closed stdin is a dead parent: the worker leaves its job at once, or waits for none."""
    file = tmp_path / "job.json"
    file.write_text(json.dumps(describe_job(job(tmp_path), tmp_path / "answer.json")))
    for told in (f"{file}\n", ""):
        ended = subprocess.run(
            [sys.executable, "-m", "publius.pipeline.worker", "publius.core.config", "no.such.module"],
            input=told.encode(),
            timeout=60,
            check=False,
            capture_output=True,
            cwd=Path(__file__).parents[2],
        )
        assert ended.returncode in ((0, 1) if told else (0,)) and ended.stderr == b""


def test_signals_are_left_alone_outside_the_main_thread():
    reached: list[bool] = []

    def body():
        with interrupts(15):
            reached.append(True)

    thread = threading.Thread(target=body)
    thread.start()
    thread.join()
    assert reached == [True]
