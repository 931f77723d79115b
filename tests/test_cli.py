"""The command line: clean stdout, one message for a user's error, exit codes."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from publius import __version__
from publius.cli import base, main, runs
from publius.core.errors import UserError
from publius.model.checkpoint import load_model, save_checkpoint
from publius.pipeline import StageCrash, Stopped
from publius.testing.fakes import byte_tokenizer, tiny_model
from publius.training.calibrate import Calibration

LONG = "a" * 300
TOY = f"{Path(__file__).parent / 'pipeline/toy.py'}:toy"


@pytest.fixture
def call(tmp_path, capsys):
    """Run the command line under a home of its own: exit code, stdout, stderr."""

    def run(*arguments: str) -> tuple[int, str, str]:
        home = ["--home", str(tmp_path)] if arguments and not arguments[0].startswith("-") else []
        with pytest.raises(SystemExit) as ended:
            main([*arguments, *home])
        out, err = capsys.readouterr()
        assert isinstance(ended.value.code, int | None)
        return ended.value.code or 0, out, err

    return run


def test_run_then_show(call):
    code, out, err = call("run", TOY, "--name", "mine", "--set", "seed=1")
    assert (code, out) == (0, "")
    assert "[1/3] numbers: started" in err and "publius show mine" in err
    code, out, _ = call("show", "mine", "--json")
    shown = json.loads(out)
    assert code == 0
    assert shown["metrics"]["total"] == {
        "value": (1 + 2 + 3 + 4 + 100) * 6,
        "n": None,
        "low": None,
        "high": None,
    }
    assert shown["settings"] == {"seed": "1"}
    code, out, _ = call("show", "mine")
    assert code == 0 and "660" in out and "done" in out and "toy.rounds" not in out, "what is published"
    code, out, _ = call("show", "mine", "--all")
    assert code == 0 and "toy.rounds (2 of " in out and "660" in out
    assert call("show")[1] == "mine\n"
    assert json.loads(call("show", "--json")[1]) == {"runs": ["mine"]}


def test_run_json_is_alone_on_stdout(call):
    _, out, _ = call("run", TOY, "--json", "--until", "other", "--jobs", "1")
    assert [s["state"] for s in json.loads(out)["stages"]] == ["missing", "done", "missing"]


def test_plan(call):
    call("run", TOY)
    code, out, _ = call("plan", TOY, "--set", "numbers.count=50", "--hardware", "h100", "--json")
    shown = json.loads(out)
    assert code == 0
    assert [s["state"] for s in shown["stages"]] == ["run", "cached", "run"]
    assert shown["stages"][0]["changed"] == ["count: 4 -> 50"]
    assert shown["totals"]["hours"] == pytest.approx(7.2e14 / 4e14 / 3600)
    code, out, _ = call("plan", TOY, "--set", "numbers.count=50")
    assert "cached" in out and "assumed: 2e+11 FLOP/s, 30 W, $0.10/h" in out


def test_plan_of_a_model(call, tmp_path):
    arguments = ("--tier", "haiku", "--scale", "cluster", "--vocab", "128256", "--tokens", "15T")
    code, out, _ = call("plan", *arguments, "--cluster", "512xh100", "--mfu", "0.38", "--json")
    shown = json.loads(out)
    assert code == 0 and shown["parameters"] == pytest.approx(8.03e9, rel=0.01)
    assert shown["device_hours"] == pytest.approx(shown["flops"] / (0.38 * 989e12) / 3600)
    assert shown["layout"]["memory"]["total"] <= 80e9
    code, out, _ = call("plan", *arguments)
    assert code == 0 and "8xh100" in out and "activations" in out and "assumed" in out
    assert list(tmp_path.iterdir()) == [], "nothing is written"


def test_plan_calibrated(call, monkeypatch):
    found = Calibration(1, "float32", 2e11, 1e11, 5e10, 1000.0, 10)
    monkeypatch.setattr(runs, "calibrate", lambda config=None: found)
    shown = json.loads(call("plan", TOY, "--calibrate", "--json")[1])
    assert shown["totals"]["hours"] == pytest.approx(2 * 7.2e14 / 5e10 / 3600)
    pocket = ("--tier", "haiku", "--scale", "pocket", "--tokens", "4M", "--cluster", "cpu", "--calibrate")
    shown = json.loads(call("plan", *pocket, "--json")[1])
    assert shown["hours"] == pytest.approx(shown["flops"] / 5e10 / 3600)
    assert shown["mfu_source"] == "measured on this machine" and shown["mfu"] == 0.25
    code, out, _ = call("plan", "--calibrate")
    assert code == 0 and out.startswith("measured  5e+10 FLOP/s")


def test_clean(call):
    call("run", TOY)
    call("run", TOY, "--set", "seed=5")
    code, out, err = call("clean", "--dry-run")
    assert code == 0 and len(out.splitlines()) == 2 and "would free" in err
    assert len(call("clean")[1].splitlines()) == 2
    assert len(call("clean", "--run", "toy")[1].splitlines()) == 3
    assert "no runs yet" in call("show")[1]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("run", "quickstrat"), "unknown recipe 'quickstrat'"),
        (("run", TOY, "--set", "total.step=1"), "did you mean 'steps'?"),
        (("run", TOY, "--set", "total"), "is not a setting"),
        (("plan", TOY, "--hardware", "abacus"), "unknown hardware"),
        (("plan",), "nothing to plan"),
        (("plan", TOY, "--tier", "haiku"), "a recipe and a model"),
        (("plan", "--tier", "haiku", "--model", "x"), "a --tier and a --model"),
        (("plan", "--tier", "limerick"), "no preset for tier 'limerick'"),
        (("plan", "--tier", "opus", "--tokens", "lots"), "is not an amount"),
        (("plan", "--tier", "opus", "--tokens", "1e400"), "1e400 tokens are too many"),
        (("plan", TOY, "--name", "../x"), "'../x' cannot name a run"),
        (("run", TOY, "--name", LONG), "cannot name a run"),
        (("show", LONG), "there is no run"),
        (("report", LONG), "there is no run"),
        (("chat", LONG, "-m", "hi"), "File name too long"),
        (("gate", "show", LONG), "File name too long"),
        (("export", LONG, "--to", "x"), "File name too long"),
        (("clean", "--run", LONG), "cannot name a run"),
        (("clean", "--older-than", "nan"), "nan days cannot be"),
        (
            ("bench", "engine", "--tier", "haiku", "--scale", "pocket", "--device", "gpu"),
            "no device is called",
        ),
        (("plan", "--tier", "opus", "--cluster", "9xh100"), "do not fill nodes"),
        (("plan", "--tier", "opus", "--cluster", "8xh100"), "no layout fits"),
        (("plan", "--tier", "haiku", "--vocab", "0"), "a vocabulary of 0"),
        (("plan", "--model", "nowhere"), "no model config could be read"),
        (("show", "nothing"), "there is no run 'nothing'"),
        (("clean", "--run", "nothing"), "there is no run 'nothing'"),
    ],
)
def test_user_errors_exit_2_in_words(call, tmp_path, arguments, words):
    code, out, err = call(*arguments)
    assert (code, out) == (2, "")
    assert err.startswith("error: ") and words in err and "Traceback" not in err
    assert list(tmp_path.iterdir()) == []


def test_failing_stage_exits_2_naming_it(call, monkeypatch):
    monkeypatch.setenv("TOY_USER_ERROR", "add_up:1")
    code, _, err = call("run", TOY)
    assert code == 2 and "error: stage total: the numbers are odd" in err and "fix:   use even ones" in err


@pytest.mark.parametrize(
    ("raised", "code"),
    [
        (Stopped(), 0),
        (KeyboardInterrupt(), 130),
        (StageCrash("boom"), 1),
        (UserError("x"), 2),
        (OSError(5, "Input/output error"), 2),
        (TimeoutError(), 2),
        (FileNotFoundError(2, "No such file", "x"), 2),
    ],
)
def test_exit_codes(monkeypatch, capsys, raised, code):
    def fail(arguments):
        raise raised

    monkeypatch.setattr(base, "app", fail)
    with pytest.raises(SystemExit) as ended:
        main([])
    assert ended.value.code == code


@pytest.fixture
def alone(tmp_path):
    """A process of its own, and how it ended: its output is no test's."""

    def run(*arguments: str, out: int | Path, closed: bool = False) -> tuple[int, str]:
        command = [sys.executable, "-m", "publius", *arguments]
        environment = {k: v for k, v in os.environ.items() if k != "PYTHONUNBUFFERED"}
        environment |= {"PYTHONPATH": str(Path(__file__).parents[1]), "PUBLIUS_HOME": str(tmp_path)}
        with open(out, "w") as sink:  # noqa: PTH123
            process = subprocess.Popen(
                command, env=environment, stdout=sink, stderr=subprocess.PIPE, text=True,
                preexec_fn=(lambda: os.close(1)) if closed else None,
            )  # fmt: skip
        _, told = process.communicate(timeout=120)
        return process.returncode, told

    return run


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_a_full_standard_output_is_one_error(alone):
    code, told = alone("show", out=Path("/dev/full"))
    assert code == 2 and "Traceback" not in told and "Exception ignored" not in told
    assert told == (
        "error: the disk is full\n  where: publius show, or where its output goes\n"
        "  fix:   free space (try `publius clean`), run again\n"
    )


def test_an_output_that_nobody_reads_is_no_error_to_tell(alone, tmp_path):
    reader, writer = os.pipe()
    os.close(reader)
    assert alone("show", out=writer) == (1, "")
    assert alone("show", out=tmp_path / "out", closed=True) == (0, "")


def test_an_interrupt_while_it_is_imported(tmp_path):
    """Held in the middle of it by a module of its own that stands in another's place."""
    (tmp_path / "typer.py").write_text(
        "import time\nprint('here', flush=True)\ntry:\n    time.sleep(60)\nexcept BaseException:\n    pass\n"
    )
    command = [sys.executable, "-m", "publius", "show"]
    environment = os.environ | {"PYTHONPATH": f"{tmp_path}:{Path(__file__).parents[1]}"}
    with subprocess.Popen(
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # in the background it is ignored
    ) as process:  # fmt: skip
        assert process.stdout is not None and process.stdout.readline() == "here\n"
        process.send_signal(signal.SIGINT)
        _, told = process.communicate(timeout=60)
    assert (process.returncode, told) == (130, "stopped\n")


def test_version_and_help(call):
    assert call("--version")[1].strip() == __version__
    assert "Usage" in call("--help")[1]


def test_import_and_export(call, tmp_path, capsys):
    made = tmp_path / "made"
    save_checkpoint(made, tiny_model(qk_norm=True), byte_tokenizer())
    small = ["--max-shard-size", "20KB", "--dtype", "bfloat16"]
    code, out, _ = call("export", str(made), "--to", str(tmp_path / "out"), *small)
    assert code == 0 and "Qwen3ForCausalLM" in out and len(list((tmp_path / "out").glob("model-*"))) > 1
    assert call("export", str(made), "--to", str(tmp_path / "out"))[0] == 2

    def bring(*arguments: str) -> tuple[int | str | None, str]:
        with pytest.raises(SystemExit) as ended:
            main(["import", *arguments])
        return ended.value.code, capsys.readouterr().out

    code, out = bring(str(tmp_path / "out"))
    assert not code and "qwen3" in out and "nothing was written" in out
    code, out = bring(str(tmp_path / "out"), "--to", str(tmp_path / "in"), "--json")
    facts = json.loads(out)
    assert not code and facts["family"] == "qwen3" and facts["added"] == [] and facts["rows_added"] == 0
    assert load_model(tmp_path / "in").config.qk_norm
    assert bring(str(tmp_path / "nowhere"))[0] == 2
