from __future__ import annotations

import math
import sys
from contextlib import contextmanager
from pathlib import Path

import pytest

from publius.constitution.judges import Bench, RemoteJudgeConfig
from publius.constitution.preferences import LabelConfig, label
from publius.constitution.principles import Constitution
from publius.core.errors import UserError
from publius.core.messages import Conversation, assistant, text_of, user
from publius.data.artifacts import Prompts, write_prompts
from publius.pipeline.run import testing_run
from publius.testing import ScriptedEngine
from tests.constitution.judges.by_length import LengthJudge
from tests.constitution.judges.test_remote import options
from tests.inference.remote.wire import Fault, Reply, wire
from tests.rl import tiny

T = tiny.tokenizer()
MODULE = sys.modules["publius.constitution.preferences"]
CONFIG = {"threads": 1, "device": "cpu"}


@contextmanager
def seat(config, checkpoints):
    """In place of a judge that takes a model: one that prefers the longer answer."""
    yield Bench(LengthJudge())


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch):
    def install(*scripts) -> None:
        order = iter([ScriptedEngine(script, T) for script in scripts])
        monkeypatch.setattr(MODULE, "Engine", lambda *a, **k: next(order))
        monkeypatch.setattr(MODULE, "seated", seat)

    return install


def test_labels_are_soft_and_drops_are_counted(tmp_path: Path, fake) -> None:
    model = tiny.checkpoint(tmp_path / "m")
    cut = T.encode("never ends") * 60
    # first answers of the five prompts, then second answers
    fake(["aaaa", "same", "tie1", "odd?", cut, "v", "b", "same", "tie2", "x", "y", "vvv"])
    prompts = [*tiny.chats(4), Conversation(messages=(user("q4"), assistant("pre ")))]
    write_prompts(tmp_path / "p", train=prompts, val=tiny.chats(6)[5:])
    run = testing_run(tmp_path)
    made = label(run, LabelConfig(**CONFIG), policy=model, judge=model, prompts=Prompts(tmp_path / "p"))
    [one] = made.train()
    assert (text_of(one.chosen), text_of(one.rejected)) == ("aaaa", "b")
    assert one.probability == pytest.approx(1 / (1 + math.exp(-3)))
    assert one.source == "ai"
    assert one.prompt.meta["principle"] in {p.id for p in Constitution.load().principles}
    [held_out] = made.val()
    assert held_out.probability == pytest.approx(1 / (1 + math.exp(2)))
    m = {name: metric["value"] for name, metric in run.metrics.items()}
    assert m["label.dropped"] == pytest.approx(1 / 6)
    assert m["label.identical"] == pytest.approx(1 / 6)
    assert m["label.failures"] == pytest.approx(1 / 4)
    assert m["label.ties"] == pytest.approx(1 / 3)
    assert m["label.pairs"] == 3
    p, q = 1 / (1 + math.exp(-3)), 1 / (1 + math.exp(-2))
    entropy = [-x * math.log(x) - (1 - x) * math.log(1 - x) for x in (p, q, 0.5)]
    assert m["label.entropy"] == pytest.approx(sum(entropy) / 3)


def test_a_prefill_is_part_of_the_answer_not_of_the_prompt(tmp_path: Path, fake) -> None:
    model = tiny.checkpoint(tmp_path / "m")
    fake(["one", "three"])
    write_prompts(tmp_path / "p", train=[Conversation(messages=(user("q"), assistant("pre ")))])
    made = label(
        testing_run(tmp_path),
        LabelConfig(**CONFIG),
        policy=model,
        judge=model,
        prompts=Prompts(tmp_path / "p"),
    )
    [pair] = made.train()
    assert [m.role for m in pair.prompt.messages] == ["user"]
    assert (text_of(pair.chosen), text_of(pair.rejected)) == ("pre one", "pre three")


def test_second_answers_come_from_all_policies(tmp_path: Path, fake) -> None:
    model = tiny.checkpoint(tmp_path / "m")
    fake([f"first {i}" for i in range(40)], [f"other policy {i}" for i in range(40)])
    write_prompts(tmp_path / "p", train=tiny.chats(20))
    made = label(
        testing_run(tmp_path),
        LabelConfig(**CONFIG, max_prompts=12, source="mixed"),
        policy=model,
        judge=model,
        prompts=Prompts(tmp_path / "p"),
        policies=[model],
    )
    second = [text_of(p.rejected) for p in made.train()]
    assert all(text_of(p.chosen).startswith("first") for p in made.train())
    assert 0 < sum(text.startswith("other") for text in second) < len(second)


def test_no_label_at_all_is_a_user_error(tmp_path: Path, fake) -> None:
    model = tiny.checkpoint(tmp_path / "m")
    fake(["a?", "b"])
    write_prompts(tmp_path / "p", train=tiny.chats(1))
    with pytest.raises(UserError, match="labelled no pair"):
        label(
            testing_run(tmp_path),
            LabelConfig(**CONFIG),
            policy=model,
            judge=model,
            prompts=Prompts(tmp_path / "p"),
        )


ARMS = {
    "hard": {"labels": "hard"},
    "soft": {},
    "cot": {"chain_of_thought": True, "clamp": "none"},
    "cot-20-80": {"chain_of_thought": True, "clamp": (0.2, 0.8)},
    "cot-40-60": {"chain_of_thought": True},
}


@pytest.mark.parametrize(
    ("arm", "probability"),
    [("hard", 1.0), ("soft", 0.9), ("cot", 0.9), ("cot-20-80", 0.8), ("cot-40-60", 0.6)],
)
def test_the_arms_of_the_paper_are_settings(tmp_path: Path, monkeypatch, arm, probability) -> None:
    def say(text: str) -> Reply:
        first = 0.9 if options(text)[0] == "aaaa" else 0.1
        said = "(A)" if first > 0.5 else "(B)"
        return Reply(
            f"The answer is {said}" if "step" in text else said, chances={"A": first, "B": 1 - first}
        )

    model = tiny.checkpoint(tmp_path / "m")
    monkeypatch.setattr(MODULE, "Engine", lambda *a, **k: ScriptedEngine(["aaaa", "b"], T))
    write_prompts(tmp_path / "p", train=tiny.chats(1))
    with wire(say) as server:
        remote = RemoteJudgeConfig.model_validate(server.settings("openai", tmp_path))
        config = LabelConfig.model_validate(CONFIG | ARMS[arm] | {"remote": (remote,), "shots": 0})
        made = label(testing_run(tmp_path), config, policy=model, prompts=Prompts(tmp_path / "p"))
    assert [p.probability for p in made.train()] == [pytest.approx(probability)]


def test_a_failed_labelling_goes_on_where_it_was(tmp_path: Path, monkeypatch) -> None:
    """Neither are answers sampled again nor is the judge asked again; a killed one leaves the same behind."""
    model = tiny.checkpoint(tmp_path / "m")
    sampled: list[ScriptedEngine] = []

    def engine(*args, **kwargs) -> ScriptedEngine:
        sampled.append(ScriptedEngine(["aaaa", "bb", "c", "d"], T))
        return sampled[-1]

    monkeypatch.setattr(MODULE, "Engine", engine)
    write_prompts(tmp_path / "p", train=tiny.chats(1), val=tiny.chats(2)[1:])
    with wire(lambda text: Reply("(A)" if len(options(text)[0]) > 1 else "(B)")) as server:
        own = {"retries": 0, "concurrency": 1}
        remote = RemoteJudgeConfig.model_validate(server.settings("anthropic", tmp_path) | own)
        config = LabelConfig.model_validate(CONFIG | {"remote": (remote,), "shots": 0})
        inputs = {"policy": model, "prompts": Prompts(tmp_path / "p")}
        server.faults.extend([Fault()] * 2 + [Fault(status=500)])
        with pytest.raises(UserError, match="status 500"):
            label(testing_run(tmp_path), config, **inputs)
        assert len(server.seen) == 3 and len(sampled) == 1
        run = testing_run(tmp_path)
        made = label(run, config, **inputs)
        assert len(server.seen) == 5 and len(sampled) == 1
    assert [text_of(p.chosen) for p in (*made.train(), *made.val())] == ["aaaa", "bb"]
    m = {name: metric["value"] for name, metric in run.metrics.items()}
    assert (m["remote.requests"], m["remote.cached"], m["label.dropped"]) == (2, 2, 0)
    assert (m["label.skipped"], m["label.abstentions"]) == (0, 0)


def test_silent_pairs_are_counted_by_kind_and_all_silent_is_an_error(tmp_path: Path, monkeypatch) -> None:
    model = tiny.checkpoint(tmp_path / "m")
    script = ["no", "odd", "good", "x", "y", "bad"]
    monkeypatch.setattr(MODULE, "Engine", lambda *a, **k: ScriptedEngine(script, T))
    write_prompts(tmp_path / "p", train=tiny.chats(3))

    def say(text: str) -> Reply:
        shown = options(text)
        if "no" in shown:
            return Reply("I will not.", "refusal")
        return Reply("?") if "odd" in shown else Reply("(A)" if shown[0] == "good" else "(B)")

    with wire(say) as server:
        remote = RemoteJudgeConfig.model_validate(server.settings("openai", tmp_path))
        config = LabelConfig.model_validate(CONFIG | {"remote": (remote,), "shots": 0})
        run = testing_run(tmp_path)
        made = label(run, config, policy=model, prompts=Prompts(tmp_path / "p"))
        assert len(made.train()) == 1
        m = {name: metric["value"] for name, metric in run.metrics.items()}
        assert m["label.abstentions"] == m["label.failures"] == pytest.approx(1 / 3)
        server.say = lambda text: Reply("I will not.", "refusal")
        again = config.model_copy(update={"remote": (remote.model_copy(update={"model": "other"}),)})
        with pytest.raises(UserError, match="labelled no pair") as raised:
            label(testing_run(tmp_path / "2"), again, policy=model, prompts=Prompts(tmp_path / "p"))
        assert "3 Abstention" in raised.value.where


def test_what_is_wrong_with_a_judge_is_told_before_anything_is_sampled(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(MODULE, "Engine", lambda *a, **k: pytest.fail("sampled"))
    monkeypatch.delenv("NO_SUCH_KEY", raising=False)
    write_prompts(tmp_path / "p", train=tiny.chats(1))
    inputs = {"policy": tiny.checkpoint(tmp_path / "m"), "prompts": Prompts(tmp_path / "p")}
    with pytest.raises(UserError, match="no judge"):
        label(testing_run(tmp_path), LabelConfig(**CONFIG), **inputs)
    remote = {"dialect": "openai", "url": "http://h/v1", "model": "m", "key_variable": "NO_SUCH_KEY"}
    config = LabelConfig.model_validate(CONFIG | {"remote": (remote | {"cache": str(tmp_path / "c")},)})
    with pytest.raises(UserError, match="NO_SUCH_KEY is not set"):
        label(testing_run(tmp_path), config, **inputs)


def test_the_whole_way_with_real_engines(tmp_path: Path) -> None:
    """A panel of two models of our own; the talker's answers are labelled."""
    model = tiny.talker_checkpoint(tmp_path / "m", max_position=4000)
    other = tiny.talker_checkpoint(tmp_path / "o", seed=1, max_position=4000)
    run = testing_run(tmp_path)
    made = label(
        run,
        LabelConfig(**CONFIG, shots=1, answer_tokens=30, min_mass=0.0),
        policy=model,
        judge=model,
        panel=[other],
        prompts=tiny.prompts(tmp_path / "p", 8),
    )
    assert made.train() and all(0 < p.probability < 1 for p in made.train())
    assert "judge.disagreement" in run.metrics
