"""`publius eval NAME...` through the real command line, on models of ours and a real server."""

from __future__ import annotations

import importlib.util
import json

import pytest

from publius.cli import main
from publius.evals.suites.compare import Comparison
from tests.evals.suites.asking import ARC, bbq, write
from tests.evals.suites.test_behaviour import ATTACK, OPEN
from tests.inference.remote.wire import Reply, wire
from tests.rl import tiny


@pytest.fixture
def call(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.delenv("PUBLIUS_EVAL_DATA", raising=False)

    def run(*arguments: object) -> tuple[int, str, str]:
        with pytest.raises(SystemExit) as ended:
            main(["eval", *map(str, arguments)])
        out, err = capsys.readouterr()
        return int(ended.value.code or 0), out, err

    return run


@pytest.fixture
def data(tmp_path):
    folder = tmp_path / "data"
    folder.mkdir()
    write(folder, "arc_easy_test.jsonl", [{**ARC, "id": f"a{i}"} for i in range(6)])
    rows = [bbq(i, "ambig", "neg", answer=2, template=i) for i in range(4)]
    write(folder, "bbq_folk.jsonl", rows)
    write(folder, "prompt_injection.jsonl", [ATTACK, {**ATTACK, "id": "i2"}, OPEN])
    return folder


@pytest.fixture
def models(tmp_path):
    return [tiny.checkpoint(tmp_path / name, max_position=700).path for name in ("one", "two")]


def test_two_models_side_by_side(call, data, models, tmp_path):
    out = tmp_path / "all.json"
    page = tmp_path / "all.html"
    arguments = ["bbq", "arc_easy", "--data", data, "--model", models[0], "--model", models[1]]
    code, shown, err = call(*arguments, "--out", out, "--page", page, "--limit", 5)
    assert code == 0, err
    assert "bbq.acc" in shown and "arc_easy.acc_norm" in shown and "chance" in shown
    found = Comparison.model_validate_json(out.read_text())
    bias, arc = found.results
    assert (bias.suite, bias.n, arc.n) == ("bbq", 4, 5) and arc.chance == {"acc": 0.5}
    assert [d.metric for d in arc.differences] == ["acc", "acc_norm"]
    assert arc.differences[0].measure.value == 0.0, "the two models are the same"
    assert arc.reports[0].model == arc.reports[1].model and len(arc.reports[0].model or "") == 64
    rows = [json.loads(line) for line in (tmp_path / "all.samples.jsonl").read_text().splitlines()]
    assert len(rows) == 2 * (4 + 5) and {row["model"] for row in rows} == {str(m) for m in models}
    assert page.read_text().startswith("<!doctype html>") and "<svg" in page.read_text()
    code, shown, _ = call("run", *arguments, "--json")
    again = Comparison.model_validate_json(shown)
    assert code == 0 and again.results[1].n == 6


def test_training_text_is_searched_once_for_all(call, data, models, tmp_path):
    text = tmp_path / "text.txt"
    text.write_text(
        "Once more: which animal lives in the river ESK? Template 1: a hill man and a river man met at dusk."
    )
    code, out, err = call(
        "arc_easy", "bbq", "--data", data, "--model", models[0], "--against", text, "--words", 12, "--json"
    )
    assert code == 0, err
    arc, bias = Comparison.model_validate_json(out).results
    assert arc.contamination is not None and bias.contamination is not None
    assert (arc.contamination.dirty, arc.contamination.short, bias.contamination.dirty) == (0, 6, 1)
    assert bias.contamination.items == {"bbq-1": "Template 1: a hill man and a river man met at dusk"}
    groups = bias.reports[0].by_category
    assert groups["contamination.clean"]["acc"].n == 3 and groups["contamination.dirty"]["acc"].n == 1
    code, out, _ = call("contamination", "arc_easy", "bbq", "--data", data, "--against", text, "--words", 7)
    assert code == 0 and out.count("100.00%") == 2, "of seven words in a row there is more"
    code, out, _ = call("contamination", "bbq", "--data", data, "--against", text, "--json")
    assert json.loads(out)["bbq"]["words"] == 13 and json.loads(out)["bbq"]["dirty"] == 1


def test_a_remote_model_and_a_judge(call, data, tmp_path):
    def say(text: str) -> Reply:
        if "Is the response in rhyme?" in text:
            return Reply("(A)" if "(A) No" in text else "(B)")
        return Reply("The Esk it is.")

    with wire(say) as server:
        settings = [f"cache={tmp_path / 'cache.sqlite'}", "concurrency=1", "retries=0"]
        quick = [part for setting in settings for part in ("--set", setting)]
        far = f"openai+{server.url}/v1#muse"
        code, out, err = call("injection", "--data", data, "--model", far, *quick)
        assert code == 0, err
        assert "1 questions only a judge can mark were not asked" in out
        code, out, err = call("injection", "--data", data, "--model", far, "--judge", far, *quick, "--json")
    assert code == 0, err
    [found] = Comparison.model_validate_json(out).results
    metrics = found.reports[0].metrics
    assert found.n == 3 and found.left_out == 0 and found.reports[0].config["model"] == "muse"
    assert metrics["injection.success"].value == pytest.approx(2 / 3)
    assert metrics["injection.success.program"].value == 1.0


def test_a_model_that_cannot_be_asked_is_passed_over_and_named(call, data, models, tmp_path):
    reward = tiny.reward_checkpoint(tmp_path / "r").path
    both = ["--model", models[0], "--model", reward, "--max-tokens", 4]
    code, out, err = call("injection", "arc_easy", "--data", data, *both)
    assert code == 0 and "injection: not asked of" in out, err
    code, _, err = call("injection", "--data", data, "--model", reward)
    assert code == 2 and "none of these suites can be asked of these models" in err


def test_what_there_is(call, data):
    code, out, _ = call("list", "--data", data)
    assert code == 0 and "truthfulqa" in out and "bbq_folk.jsonl" in out and "humaneval" in out
    code, out, _ = call("list", "--json")
    rows = {row["name"]: row for row in json.loads(out)}
    assert rows["bbq"]["files"] == [] and rows["overrefusal"]["models"] == ["language", "remote"]


@pytest.mark.skipif(importlib.util.find_spec("lm_eval") is not None, reason="lm-eval is installed here")
def test_tasks_of_lm_eval_name_the_extra(call, data, models):
    code, _, err = call("lm:arc_easy", "--data", data, "--model", models[0])
    assert code == 2 and "needs lm-eval" in err and "pip install 'publius[eval]'" in err


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("bbk", "--model", "m"), "did you mean"),
        (("bbq",), "no model to evaluate"),
        (("bbq", "--model", "m"), "--file bbq=PATH"),
        (("bbq", "--model", "m", "--file", "age.jsonl"), "NAME=PATH"),
        (("bbq", "--model", "m", "--file", "bbq=none.jsonl"), "m"),
        (("bbq", "--model", "DATA", "--model", "DATA"), "stands twice"),
        (
            ("arc_easy", "--data", "DATA", "--model", "m", "--out", "no/such/all.json"),
            "no such folder to write",
        ),
        (("arc_easy", "--data", "DATA", "--model", "nowhere"), "no run and no checkpoint"),
        (("arc_easy", "--data", "DATA", "--model", "http://host#m"), "does not say what it speaks"),
        (("arc_easy", "--data", "DATA", "--model", "openai+http://host/v1"), "a remote model needs a name"),
        (("contamination", "humaneval", "--against", "x"), "cannot be searched for"),
        (("contamination", "arc_easy", "--data", "DATA", "--against", "nothing-here"), "no such file"),
    ],
)
def test_user_errors(call, data, arguments, words):
    code, out, err = call(*(str(data) if a == "DATA" else a for a in arguments))
    assert (code, out) == (2, "") and err.startswith("error: ") and words in err and "Traceback" not in err


def test_a_file_that_holds_no_such_questions(call, data, models):
    code, _, err = call("bbq", "--file", f"bbq={data}/arc_easy_test.jsonl", "--model", models[0])
    assert code == 2 and "no question of bbq" in err and "arc_easy_test.jsonl:1" in err
