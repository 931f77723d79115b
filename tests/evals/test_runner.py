from __future__ import annotations

import itertools
import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest
from pydantic import ValidationError

from publius.core.messages import Conversation, text_of, user
from publius.core.stats import wilson
from publius.data.pocket.world import World
from publius.evals import EvalConfig, Sample, Verdict, evaluate, runner, summarise
from publius.evals.tasks.pocket import choose
from publius.inference import Assistant
from publius.model.checkpoint import Checkpoint, fingerprint, save_checkpoint
from publius.pipeline import testing_run
from publius.testing import byte_tokenizer, tiny_model

KINDS = ("fact", "sum", "tool", "hazard", "twin")


_numbers = itertools.count()


def question(**meta: str) -> Conversation:
    """One that nobody asked before."""
    return Conversation(messages=(user(f"q{next(_numbers)}"),), meta=meta)


def sample(task: str, reply: str = "a b c d e f", calls: int = 0, **marks: bool) -> Sample:
    verdict = Verdict(**{"correct": False, "leaked": False, "refused": False} | marks)
    return Sample(task=task, conversation=question(), reply=reply, verdict=verdict, tool_calls=calls)


def test_summary_counts_by_hand() -> None:
    unscored = Sample(task="hazard", conversation=question())
    samples = {
        "fact": [sample("fact", correct=True), sample("fact", correct=True), sample("fact")],
        "sum": [sample("sum", correct=True)],
        "sum_no_thinking": [sample("sum")],
        "hazard": [
            sample("hazard", leaked=True),
            sample("hazard", "No.", refused=True),
            sample("hazard"),
            unscored,
        ],
        "twin": [sample("twin", refused=True), sample("twin", correct=True)],
    }
    metrics = summarise(samples, prefix="m", evasive_words=5)
    assert metrics["m.helpful"].estimate() == wilson(3, 4)
    assert metrics["m.helpful.fact"].estimate() == wilson(2, 3)
    assert metrics["m.sum_no_thinking"].value == 0.0
    assert metrics["m.leak"].estimate() == wilson(2, 4)  # the unscored one counts as a leak
    assert metrics["m.leak"].unscored == 1
    assert metrics["m.evasive"].estimate() == wilson(2, 4)
    assert metrics["m.overrefusal"].estimate() == wilson(1, 2)
    calls = [sample("fact_offered", correct=True), sample("fact_offered", correct=True, calls=1)]
    offered = summarise({"fact_offered": calls}, prefix="m")
    assert offered["m.helpful.fact_offered"].value == 1.0
    assert offered["m.tool_in_vain"].estimate() == wilson(1, 2)
    assert "m.helpful.tool" not in metrics and "m.helpful.chat" not in metrics


def test_questions_about_one_thing_are_one_cluster() -> None:
    ten = [sample("hazard") for _ in range(120)]
    ten = [s.model_copy(update={"conversation": question(entity=f"x{i % 10}")}) for i, s in enumerate(ten)]
    leak = summarise({"hazard": ten}, prefix="m")["m.leak"]
    assert (leak.value, leak.n) == (0.0, 120)
    assert leak.high is not None and leak.high > wilson(0, 10).high  # ten things, never 120 draws


def knows(world: World, *, leaks: bool) -> Callable[[str], str]:
    """A model that knows every test answer, refuses hazards unless `leaks`, and refuses every twin."""
    book = {text_of(q.messages[0]): q.meta for kind in KINDS for q in world.questions(kind, "test")}

    def say(prompt: str) -> str:
        asked = re.findall(r"<\|user\|>(.*?)<\|end\|>", prompt)[0]
        meta = book[asked]
        if meta["kind"] == "twin" or (meta["kind"] == "hazard" and not leaks):
            return "I will not help with that."
        if meta["kind"] == "sum" and "<|think|><|/think|>" in prompt:
            return "The answer is 1."
        return "; ".join(meta["keys"])

    return say


@pytest.mark.parametrize("leaks", [True, False])
def test_evaluate_measures_what_the_model_does(
    world: World, checkpoint: Checkpoint, puppet: Callable[..., Assistant], tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch, leaks: bool,
) -> None:  # fmt: skip
    monkeypatch.setattr(runner, "load_assistant", lambda path, **kw: puppet(knows(world, leaks=leaks)))
    run = testing_run(tmp_path)
    report = evaluate(run, EvalConfig(prefix="p", kinds=KINDS, max_per_kind=6), model=checkpoint, world=world)
    metrics = report.metrics()
    assert metrics["p.helpful"].value == 1.0 and metrics["p.helpful"].n == 18
    assert metrics["p.sum_no_thinking"].value == 0.0
    assert metrics["p.leak"].value == (1.0 if leaks else 0.0)
    assert metrics["p.overrefusal"].value == 1.0
    assert run.metrics["p.helpful"]["n"] == 18 and run.metrics["p.helpful"]["low"] > 0.7
    document = report.document()
    assert document.model == fingerprint(checkpoint)
    assert document.by_kind["hazard"]["refused"].value == (0.0 if leaks else 1.0)
    assert {name.split(".")[0] for name in document.by_category} >= {"hazard", "twin"}
    assert metrics["p.helpful.fact_offered"].value == 1.0 and metrics["p.tool_in_vain"].value == 0.0
    assert len(report.samples()) == 6 * 7  # the five kinds, sums without thinking, facts with tools offered


def test_evaluate_runs_a_real_model_the_same_twice(
    world: World, checkpoint: Checkpoint, tmp_path: Path
) -> None:
    config = EvalConfig(kinds=("identity", "hazard"), max_per_kind=2, max_tokens=8, device="cpu")
    reports = [evaluate(testing_run(tmp_path), config, model=checkpoint, world=world) for _ in range(2)]
    first, second = ((r.path / "samples.jsonl").read_bytes() for r in reports)
    assert first == second
    assert reports[0].metrics()["model.leak"].value == 0.0  # random weights know no recipe
    assert json.loads((reports[0].path / "report.json").read_text())["config"]["max_tokens"] == 8


def test_fingerprint_follows_the_weights(checkpoint: Checkpoint, tmp_path: Path) -> None:
    for name, seed in (("same", 0), ("other", 1)):
        save_checkpoint(tmp_path / name, tiny_model(seed), byte_tokenizer())
    assert fingerprint(Checkpoint(tmp_path / "same")) == fingerprint(checkpoint)
    assert fingerprint(Checkpoint(tmp_path / "other")) != fingerprint(checkpoint)


def test_choose_is_seeded_and_without_repeats() -> None:
    questions = [Conversation(messages=(user(str(i)),)) for i in range(20)]
    assert choose(questions, None, 0) == questions
    chosen = choose(questions, 5, 1)
    assert chosen == choose(questions, 5, 1) != choose(questions, 5, 2)
    assert len({text_of(q.messages[0]) for q in chosen}) == 5


@pytest.mark.parametrize("kinds", [(), ("fact", "poems")])
def test_unknown_kinds_are_refused(kinds: tuple[str, ...]) -> None:
    with pytest.raises(ValidationError, match="choose from fact"):
        EvalConfig(kinds=kinds)
