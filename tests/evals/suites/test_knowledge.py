from __future__ import annotations

import math

import pytest

from publius.core.errors import UserError
from publius.core.messages import assistant
from publius.evals.registry import SUITES
from publius.evals.report import Measure
from publius.evals.suites.base import draw
from publius.evals.suites.measures import measures
from publius.evals.task import run_task
from tests.evals.suites.asking import ARC, BOOLQ, MMLU, TRUE, WINO, answered, write


def one(tmp_path, name, *rows):
    return SUITES[name].questions([write(tmp_path, f"{name}.jsonl", rows)])


def scored(suite, questions, *scores):
    """Samples of a model whose options scored so."""

    def solve(asked):
        return [
            q.then(assistant(q.meta["options"][max(range(len(s)), key=s.__getitem__)])).model_copy(
                update={"meta": {**q.meta, "scores": list(s)}}
            )
            for q, s in zip(asked, scores, strict=True)
        ]

    return run_task(suite.task(questions, solve))


def test_prompts_are_the_published_ones(tmp_path):
    [arc] = one(tmp_path, "arc_easy", ARC)
    assert arc.meta["likelihood"] == [
        ["Question: Which animal lives in the river Esk?\nAnswer:", " an otter"],
        ["Question: Which animal lives in the river Esk?\nAnswer:", " a hen"],
    ]
    [mmlu] = one(tmp_path, "mmlu", MMLU)
    [[prompt, letters]] = mmlu.meta["orders"]
    assert prompt == (
        "The following are multiple choice questions (with answers) about river lore.\n\n"
        "Where is Elmford?\nA. On the Esk\nB. On the Nidd\nC. At sea\nD. Nowhere\nAnswer:"
    )
    assert letters == [" A", " B", " C", " D"] and mmlu.meta["cluster"] == "river_lore"
    first, second = one(tmp_path, "winogrande", *WINO)
    assert first.meta["likelihood"][1] == ["Anna gave Mia the lamp because Mia", " had it."]
    assert first.meta["cluster"] == second.meta["cluster"], "twins go together"
    [boolq] = one(tmp_path, "boolq", BOOLQ)
    assert [c for _, c in boolq.meta["likelihood"]] == [" no", " yes"] and boolq.meta["right"] == [1]
    [with_passage] = one(tmp_path, "boolq", {**BOOLQ, "passage": "Elmford lies on the Esk."})
    assert with_passage.meta["likelihood"][0][0].startswith("Elmford lies on the Esk.\nQuestion:")


def test_truth_by_the_likeliest_and_by_the_mass(tmp_path):
    suite = SUITES["truthfulqa"]
    [question] = one(tmp_path, "truthfulqa", TRUE)
    assert question.meta["likelihood"][0][0].endswith("Barcelona, Spain.\n\nQ: Do otters sing?\nA:")
    names = question.meta["options"]
    logs = {"No.": -3.0, "They do not.": -2.0, "Yes, at night.": -4.0, "In spring.": -5.0}
    found = measures(suite, scored(suite, [question], [logs[n] for n in names]), "language")
    true, false = math.exp(-3) + math.exp(-2), math.exp(-4) + math.exp(-5)
    assert found["truthfulqa.mc2"].value == pytest.approx(true / (true + false))
    far = measures(suite, scored(suite, [question], [logs[n] - 2000 for n in names]), "language")
    assert far["truthfulqa.mc2"].value == pytest.approx(true / (true + false)), "no underflow"
    assert set(question.meta["shown"]) == set(TRUE["mc1_choices"])


def test_likelihood_a_character(tmp_path):
    suite = SUITES["arc_easy"]
    questions = one(tmp_path, "arc_easy", ARC)
    found = measures(suite, scored(suite, questions, [-10.0, -9.0]), "language")
    assert found["arc_easy.acc"].value == 0.0 and found["arc_easy.acc_norm"].value == 1.0
    assert "arc_easy.acc_norm" not in measures(suite, scored(suite, questions, [-10.0, -9.0]), "remote")


def test_rows_that_are_no_questions_are_named(tmp_path):
    for bad in ({**ARC, "answer": 2}, {"id": "x"}, {**ARC, "choices": ["one"]}, {**ARC, "question": ""}):
        with pytest.raises(UserError, match="no question of arc_easy") as error:
            one(tmp_path, "arc_easy", ARC, bad)
        assert error.value.where.endswith("arc_easy.jsonl:2")
    with pytest.raises(UserError, match="no question of winogrande"):
        one(tmp_path, "winogrande", ARC)
    with pytest.raises(UserError, match="there are no questions"):
        one(tmp_path, "arc_easy")


def width(measure: Measure) -> float:
    assert measure.low is not None and measure.high is not None
    return measure.high - measure.low


def test_clusters_widen_the_interval(tmp_path):
    rows = [{**MMLU, "id": f"m{i}", "subject": f"s{i // 20}"} for i in range(100)]
    questions = one(tmp_path, "mmlu", *rows)
    apart = [q.model_copy(update={"meta": {**q.meta, "cluster": q.meta["id"]}}) for q in questions]
    suite, picks = SUITES["mmlu"], [0 if i // 20 < 2 else 1 for i in range(100)]
    wide = measures(suite, answered(suite, questions, picks), "language")["mmlu.acc"]
    narrow = measures(suite, answered(suite, apart, picks), "language")["mmlu.acc"]
    assert wide.value == narrow.value == 0.4
    assert width(wide) > 2 * width(narrow)


def test_the_same_questions_are_drawn_whatever_their_order(tmp_path):
    rows = [{**ARC, "id": f"a{i}"} for i in range(50)]
    forth, back = one(tmp_path, "arc_easy", *rows), one(tmp_path, "arc_easy", *rows[::-1])
    names = [q.meta["id"] for q in draw(forth, 10)]
    assert sorted(names) == sorted(q.meta["id"] for q in draw(back, 10)) and len(names) == 10
    assert names == sorted(names, key=lambda n: int(n[1:])), "in the file's order"
    twice = one(tmp_path, "arc_easy", ARC, ARC)
    assert [q.meta["id"] for q in twice] == ["a0", "a0#2"]


def test_the_same_file_gives_the_same_draw_in_any_folder(tmp_path):
    made = []
    for name in ("here", "there"):
        (tmp_path / name).mkdir()
        made.append(one(tmp_path / name, "boolq", *[{**BOOLQ, "question": f"is {i} odd"} for i in range(40)]))
    assert [q.meta["id"] for q in draw(made[0], 8)] == [q.meta["id"] for q in draw(made[1], 8)]
    assert str(tmp_path) not in made[0][0].meta["id"]
