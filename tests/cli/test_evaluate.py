"""`publius eval hhh` through the real command line: our models, a preference model, and a real server."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from publius.cli import main
from tests.evals.tasks.test_hhh import NINE, PUBLISHED, write
from tests.inference.remote.wire import Fault, Reply, wire
from tests.rl import tiny


@pytest.fixture
def hears_ctrl_c():
    """A shell starts what runs in the background with SIGINT ignored, and children inherit that."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.fixture
def call(capsys):
    def run(*arguments: object) -> tuple[int, str, str]:
        with pytest.raises(SystemExit) as ended:
            main(["eval", "hhh", *map(str, arguments)])
        out, err = capsys.readouterr()
        return int(ended.value.code or 0), out, err

    return run


def remote(server, folder: Path) -> list[str]:
    settings = {"backoff": 0.01, "retries": 1, "concurrency": 1, "cache": folder / "cache.sqlite"}
    quick = [part for key, value in settings.items() for part in ("--set", f"{key}={value}")]
    return ["--url", f"{server.url}/v1", "--model-name", "m", *quick]


def test_our_model(call, tmp_path):
    file = write(tmp_path, PUBLISHED, {"prompt": "Hi?", "chosen": "Good day!", "rejected": "Go."})
    model = tiny.checkpoint(tmp_path / "m", max_position=700)
    code, out, err = call(file, "--model", model.path)
    assert code == 0 and "accuracy" in out and "the longer wins" in out and "said against so" in out, err
    code, out, _ = call(file, "--model", model.path, "--json", "--style", "chat")
    shown = json.loads(out)
    assert code == 0 and shown["n"] == shown["longer"]["n"] == 2 and shown["longer"]["value"] == 1.0
    assert shown["accuracy"]["n"] == 2 and shown["bad_rows"] == 0 and shown["mass"]["n"] == 2
    code, out, _ = call(file, "--model", model.path, "--json", "--max", 1)
    assert json.loads(out)["inconsistency"]["value"] is None


def test_a_preference_model(call, tmp_path):
    reward = tiny.reward_checkpoint(tmp_path / "r")
    code, out, _ = call(write(tmp_path, PUBLISHED, NINE), "--model", reward.path, "--json")
    shown = json.loads(out)
    assert code == 0 and shown["n"] == 2 and shown["unscored"]["unfit"] == 1
    assert shown["mass"]["value"] is None
    # and by the name of its stage
    (tmp_path / "runs/r").mkdir(parents=True)
    (tmp_path / "made").mkdir()
    reward.path.rename(tmp_path / "made/files")
    (tmp_path / "runs/r/reward").symlink_to(tmp_path / "made")
    code, again, _ = call(tmp_path / "f.jsonl", "--model", "r/reward", "--home", tmp_path, "--json")
    assert code == 0 and json.loads(again)["accuracy"] == shown["accuracy"]


def test_a_remote_model_resumes_and_counts(call, tmp_path):
    file = write(tmp_path, PUBLISHED, NINE)
    with wire(lambda text: Reply("(B)" if "(B) [[[Good" in text else "Purple.")) as server:
        server.faults.extend([Fault(), Fault(status=500), Fault(status=500)])
        code, out, err = call(file, *remote(server, tmp_path))
        assert (code, out) == (2, "") and "no answer after 2 tries: status 500" in err
        code, out, err = call(file, *remote(server, tmp_path), "--json")
        shown = json.loads(out)
        assert code == 0 and shown["accuracy"]["value"] == 0.5 and shown["unscored"]["unread"] == 1
        assert (shown["remote"]["requests"], shown["remote"]["cached"]) == (1, 1)
        code, out, _ = call(file, *remote(server, tmp_path))
        assert (
            code == 0 and "unscored, unread (counted wrong)" in out and "remote: 0 requests, 2 cached" in out
        )


@pytest.mark.parametrize(("ended_by", "code"), [(signal.SIGKILL, -9), (signal.SIGINT, 130)])
def test_ended_it_goes_on_from_what_it_paid_for(call, hears_ctrl_c, tmp_path, ended_by, code):
    """In the middle of a request, in a process of its own; none waits for the server's answer."""
    rows = [{"prompt": f"Hi {i}?", "chosen": "Good day!", "rejected": "Go."} for i in range(3)]
    file = write(tmp_path, *rows)
    with wire(lambda text: Reply("(A)")) as server:
        server.faults.extend([Fault()] * 3 + [Fault(delay=30)])
        command = [sys.executable, "-m", "publius.cli", "eval", "hhh", file, *remote(server, tmp_path)]
        worker = subprocess.Popen(command, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
        deadline = time.monotonic() + 60
        while len(server.seen) < 4 and time.monotonic() < deadline and worker.poll() is None:
            time.sleep(0.02)
        worker.send_signal(ended_by)
        try:
            assert worker.wait(20) == code and len(server.seen) == 4
        finally:
            worker.kill()
        done, out, err = call(file, *remote(server, tmp_path), "--json")
        assert done == 0, err
        found = json.loads(out)["remote"]
        assert (found["cached"], found["requests"]) == (3, 3)


def test_bad_rows_stop_or_are_counted(call, tmp_path):
    file = write(tmp_path, PUBLISHED, {"prompt": "x", "chosen": "a", "rejected": "a"})
    model = tiny.checkpoint(tmp_path / "m", max_position=700).path
    code, out, err = call(file, "--model", model)
    assert (code, out) == (2, "") and "a tie" in err and f"{file}:2" in err
    code, out, err = call(file, "--model", model, "--skip-bad")
    assert code == 0 and "1 rows were no questions" in err
    assert json.loads(call(file, "--model", model, "--skip-bad", "--json")[1])["bad_rows"] == 1


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ((), "give --model or --url"),
        (("--model", "m", "--url", "http://h"), "give --model or --url"),
        (("--url", "http://h"), "a remote model needs a name"),
        (("--url", "h", "--model-name", "m"), "url must be like"),
        (("--url", "http://h", "--model-name", "m", "--set", "spendcap=1"), "did you mean"),
        (("--url", "http://h", "--model-name", "m", "--set", "spend_cap"), "KEY=VALUE"),
        (("--url", "http://h", "--model-name", "m", "--set", "retries=many"), "valid integer"),
        (("--url", "http://h", "--model-name", "m", "--set", "spend_cap=1"), "spend_cap needs"),
        (("--url", "http://h", "--model-name", "m", "--key-variable", "NO_SUCH"), "NO_SUCH is not set"),
        (("--model", "nowhere"), "nowhere"),
    ],
)
def test_user_errors(call, tmp_path, arguments, words):
    code, out, err = call(write(tmp_path, PUBLISHED), *arguments)
    assert (code, out) == (2, "") and err.startswith("error: ") and words in err and "Traceback" not in err


def test_a_file_that_is_not_there(call, tmp_path):
    code, _, err = call(tmp_path / "none.jsonl", "--model", "m")
    assert code == 2 and "no such file" in err
