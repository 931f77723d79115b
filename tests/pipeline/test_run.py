"""What a stage holds: log, metrics, and a resume state that is whole or absent."""

import json
import math
import os
import signal

import pytest

from publius.core.errors import UserError
from publius.core.stats import Estimate, wilson
from publius.pipeline import Stopped, testing_run
from publius.pipeline.run import Run
from publius.pipeline.stop import interrupts


def lines(run):
    return [json.loads(line) for line in (run.folder / "metrics.jsonl").read_text().splitlines()]


def test_log_appends_json_lines_with_wall_time(tmp_path):
    run = testing_run(tmp_path)
    run.log(step=1, loss=0.5, note="warm")
    run.log(step=2, loss=math.nan)
    first, second = lines(run)
    assert first["step"] == 1 and first["loss"] == 0.5 and first["note"] == "warm" and first["wall"] >= 0
    assert second["loss"] is None
    assert second["wall"] >= first["wall"]


def test_a_word_is_no_metric(tmp_path):
    with pytest.raises(TypeError, match="a metric is a number, not 'good'"):
        testing_run(tmp_path).metric("how", "good")


def test_metric_shapes(tmp_path):
    run = testing_run(tmp_path)
    run.metric("plain", 3)
    run.metric("flag", True)
    run.metric("rate", Estimate(0.5, 4, 0.1, 0.9))
    run.metric("rounds", [Estimate(0.5, 4, 0.1, 0.9), 2.0])
    run.metric("none", wilson(0, 0))
    rate = {"value": 0.5, "n": 4, "low": 0.1, "high": 0.9}
    assert run.metrics == {
        "plain": {"value": 3},
        "flag": {"value": 1.0},
        "rate": rate,
        "rounds": [rate, {"value": 2.0}],
        "none": {"value": None, "n": 0, "low": 0.0, "high": 1.0},
    }
    json.dumps(run.metrics, allow_nan=False)


def test_save_and_restore_put_everything_back(tmp_path):
    run = testing_run(tmp_path)
    assert run.restore() is None
    run.count(tokens=10, flops=2.5)
    run.metric("m", 1.0)
    run.log(step=1)
    run.save(lambda folder: (folder / "w").write_text("one"))
    run.count(tokens=5)
    run.metric("late", 1.0)
    run.log(step=2)
    (run.output / "half").write_text("")

    again = Run(run.folder)
    saved = again.restore()
    assert saved is not None and (saved / "w").read_text() == "one"
    assert (again.tokens, again.flops, again.metrics) == (10, 2.5, {"m": {"value": 1.0}})
    assert [line["step"] for line in lines(again)] == [1]
    assert list(again.output.iterdir()) == []
    assert again.elapsed >= lines(again)[0]["wall"] - 0.001


def test_only_the_last_state_is_kept(tmp_path):
    run = testing_run(tmp_path)
    for number in range(12):
        run.save(lambda folder, number=number: (folder / "n").write_text(str(number)))
    saved = run.restore()
    assert saved is not None and (saved / "n").read_text() == "11"
    assert len(list((run.folder / "resume").iterdir())) == 1


def test_a_save_that_fails_leaves_the_one_before(tmp_path):
    run = testing_run(tmp_path)
    run.save(lambda folder: (folder / "n").write_text("good"))

    def fail(folder):
        (folder / "n").write_text("bad")
        raise OSError(28, "No space left on device")

    with pytest.raises(OSError, match="No space"):
        run.save(fail)
    saved = run.restore()
    assert saved is not None and (saved / "n").read_text() == "good"
    assert not (run.folder / "resume.tmp").exists()


def test_a_fresh_start_has_no_old_log(tmp_path):
    run = testing_run(tmp_path)
    run.log(step=1)
    assert not (Run(run.folder).folder / "metrics.jsonl").exists()


def test_testing_run_takes_a_new_folder_or_resumes(tmp_path):
    one, two = testing_run(tmp_path), testing_run(tmp_path)
    assert one.output != two.output
    two.save(lambda folder: None)
    assert testing_run(tmp_path).output == two.output


def test_a_damaged_state_is_named(tmp_path):
    run = testing_run(tmp_path)
    run.save(lambda folder: (folder / "w").write_text("good"))
    (damaged,) = run.folder.glob("resume/*/files/w")
    damaged.write_text("gool")
    with pytest.raises(UserError, match="checksum differs") as caught:
        Run(run.folder).restore()
    assert caught.value.where == str(damaged) and str(run.folder) in caught.value.fix
    damaged.unlink()
    with pytest.raises(UserError, match="checksum differs"):
        Run(run.folder).restore()


@pytest.mark.parametrize("saved", [True, False])
def test_what_a_kill_left_goes(tmp_path, saved):
    run = testing_run(tmp_path)
    run.log(step=1)
    if saved:
        run.save(lambda folder: (folder / "w").write_text("good"))
    (run.output / "half").write_text("")
    (run.folder / "record.json").write_text("{}")
    (run.folder / ".record.json.77").write_text("{")
    (run.folder / "resume.tmp/files").mkdir(parents=True)
    (run.folder / "lock").write_text("1")
    again = Run(run.folder)
    kept = {"files", "lock"} | ({"metrics.jsonl", "resume"} if saved else set())
    assert {p.name for p in run.folder.iterdir()} == kept
    assert list(again.output.iterdir()) == []


@pytest.mark.parametrize(("sent", "raised"), [(signal.SIGTERM, Stopped), (signal.SIGINT, KeyboardInterrupt)])
def test_a_signal_waits_for_the_state(tmp_path, sent, raised):
    run, steps = testing_run(tmp_path), []
    with pytest.raises(raised), interrupts(signal.SIGTERM, signal.SIGINT), run.stoppable():
        for step in range(5):
            if step == 2:
                os.kill(os.getpid(), sent)
            steps.append(step)
            run.stop_here(lambda folder, step=step: (folder / "n").write_text(str(step)))
    saved = run.restore()
    assert steps == [0, 1, 2] and saved is not None and (saved / "n").read_text() == "2"
    run.stop_here(lambda folder: pytest.fail("nobody asks any more"))


def test_signals_do_not_wait_outside_and_a_second_ctrl_c_waits_nowhere(tmp_path):
    with pytest.raises(Stopped), interrupts(signal.SIGTERM):
        os.kill(os.getpid(), signal.SIGTERM)
        pytest.fail("it went on")
    with pytest.raises(Stopped), interrupts(signal.SIGTERM), testing_run(tmp_path).stoppable():
        os.kill(os.getpid(), signal.SIGTERM)
        os.kill(os.getpid(), signal.SIGTERM)
    with pytest.raises(KeyboardInterrupt), interrupts(signal.SIGINT), testing_run(tmp_path).stoppable():
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGINT)
        pytest.fail("it went on")


def test_nothing_disturbs_the_tidying_up():
    tidied = []
    with pytest.raises(Stopped), interrupts(signal.SIGTERM, signal.SIGINT):
        try:
            os.kill(os.getpid(), signal.SIGTERM)
        finally:
            os.kill(os.getpid(), signal.SIGINT)
            os.kill(os.getpid(), signal.SIGTERM)
            tidied.append(True)
    assert tidied
