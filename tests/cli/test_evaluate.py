"""`publius eval hhh` through the real command line: our models, a preference model, and a real server."""

from __future__ import annotations

import json

import pytest

from publius.cli import main
from tests.evals.tasks.test_hhh import NINE, PUBLISHED, write
from tests.inference.remote.wire import Fault, Reply, wire
from tests.rl import tiny


@pytest.fixture
def call(tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))

    def run(*arguments: object) -> tuple[int, str, str]:
        with pytest.raises(SystemExit) as ended:
            main(["eval", "hhh", *map(str, arguments)])
        out, err = capsys.readouterr()
        return int(ended.value.code or 0), out, err

    return run


def remote(server, *more: str) -> list[str]:
    quick = ["--set", "backoff=0.01", "--set", "retries=1", "--set", "concurrency=1"]
    return ["--url", f"{server.url}/v1", "--model-name", "m", *quick, *more]


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


def test_a_remote_model_resumes_and_counts(call, tmp_path):
    file = write(tmp_path, PUBLISHED, NINE)
    with wire(lambda text: Reply("(B)" if "(B) [[[Good" in text else "Purple.")) as server:
        server.faults.extend([Fault(), Fault(status=500), Fault(status=500)])
        code, out, err = call(file, *remote(server))
        assert (code, out) == (2, "") and "no answer after 2 tries: status 500" in err
        code, out, err = call(file, *remote(server), "--json")
        shown = json.loads(out)
        assert code == 0 and shown["accuracy"]["value"] == 0.5 and shown["unscored"]["unread"] == 1
        assert (shown["remote"]["requests"], shown["remote"]["cached"]) == (1, 1)
        code, out, _ = call(file, *remote(server))
        assert (
            code == 0 and "unscored, unread (counted wrong)" in out and "remote: 0 requests, 2 cached" in out
        )
        assert (tmp_path / "cache/publius/remote.sqlite").is_file()


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
