from __future__ import annotations

import importlib
import json
import math
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file

from publius.core.errors import UserError
from publius.core.messages import Conversation, assistant, user
from publius.data.artifacts import Preferences, write_preferences
from publius.data.types import Preference
from publius.inference.engine import Engine
from publius.pipeline.run import Run, testing_run
from publius.rl.dpo import DPOConfig, dpo, dpo_loss, reply_logprobs, smoothed
from publius.tokenizer.renderer import Renderer
from publius.training.loop import LoopConfig
from publius.training.optimizer import OptimizerConfig
from tests.rl import tiny

module = importlib.import_module("publius.rl.dpo")  # the name is the stage's, too
T = tiny.tokenizer()
R = Renderer(T)
LOOP = LoopConfig(
    optimizer=OptimizerConfig(matrices=False, adamw_lr=2e-3, adamw_eps=1e-8, weight_decay=0.0, warmup=0),
    dtype="float32",
    device="cpu",
    threads=1,
    save_every=1,
)
SMALL = DPOConfig(pairs=4, epochs=2.0, eval_prompts=4, max_tokens=6, loop=LOOP)
NUMBERS = st.lists(st.floats(-50, 50), min_size=4, max_size=4)


def pair(i: int, good: str = "aaab", bad: str = "hhhg", probability: float = 1.0) -> Preference:
    prompt = Conversation(messages=(user(f"q{i}"),))
    return Preference(
        prompt=prompt, chosen=assistant(good), rejected=assistant(bad), probability=probability, source="x"
    )


def preferences(folder: Path, train: int = 16, held_out: int = 8, probability: float = 1.0) -> Preferences:
    every = [pair(i, probability=probability) for i in range(train + held_out)]
    write_preferences(folder, train=every[:train], val=every[train:])
    return Preferences(folder)


def log_lines(run: Run) -> list[dict]:
    return [json.loads(line) for line in (run.folder / "metrics.jsonl").read_text().splitlines()]


@settings(max_examples=60)
@given(NUMBERS, NUMBERS, st.lists(st.floats(0, 1), min_size=2, max_size=2), st.floats(0.01, 2))
def test_the_loss_is_the_paper_pair_by_pair(
    policy: list[float], reference: list[float], targets: list[float], beta: float
) -> None:
    """Equation 7, written out for each pair, and its mirror image with the rest of the probability."""

    def softplus(x: float) -> float:  # -log sigmoid(-x)
        return max(x, 0.0) + math.log1p(math.exp(-abs(x)))

    naive = 0.0
    for i, p in enumerate(targets):
        margin = beta * ((policy[i] - reference[i]) - (policy[i + 2] - reference[i + 2]))
        naive += p * softplus(-margin) + (1 - p) * softplus(margin)
    found = dpo_loss(torch.tensor(policy), torch.tensor(reference), torch.tensor(targets), beta=beta)
    assert float(found) == pytest.approx(naive, rel=1e-4, abs=1e-4)


def test_a_smoothed_label_pulls_back_once_it_is_exceeded() -> None:
    assert smoothed(1.0, 0.1) == pytest.approx(0.9)
    assert smoothed(0.0, 0.1) == pytest.approx(0.1)
    assert smoothed(0.5, 0.3) == 0.5
    sure = math.log(0.9 / 0.1)
    for margin, sign in ((sure - 0.5, -1), (sure + 0.5, 1)):
        logprobs = torch.tensor([margin, 0.0], requires_grad=True)
        dpo_loss(logprobs, torch.zeros(2), torch.tensor([smoothed(1.0, 0.1)]), beta=1.0).backward()
        assert logprobs.grad is not None and math.copysign(1, float(logprobs.grad[0])) == sign


def test_log_probabilities_are_the_engine_s() -> None:
    """Of the last reply only, whatever was said before; its end token counts."""
    model = tiny.talker(seed=3)
    before = Conversation(messages=(user("hi"), assistant("abc"), user("and?")))
    items = [(before, assistant("bad cab")), (tiny.chats(1)[0], assistant("a")), (before, assistant("hhh"))]
    sides = [module._side(R, prompt, reply) for prompt, reply in items]
    assert [sum(s.chosen) for s in sides] == [8, 2, 4]
    prompts = [R.prompt(prompt) for prompt, _ in items]
    replies = [side.tokens[len(p) :] for side, p in zip(sides, prompts, strict=True)]
    assert all(
        side.tokens[: len(p)] == p and reply[-1] == T.end_id
        for side, p, reply in zip(sides, prompts, replies, strict=True)
    )
    scored = [sum(row) for row in Engine(model, T).score(prompts, replies)]
    for batch in (1, 2, 64):
        found = reply_logprobs(model, sides, pad_id=T.pad_id, batch=batch)
        assert found == pytest.approx(scored, abs=1e-4)


def test_a_batch_s_loss_and_gradient_are_those_of_its_pairs_alone() -> None:
    """Padding, batching and masks change nothing: a naive loop over pairs, each side by itself."""
    policy, reference = tiny.talker(seed=0), tiny.talker(end=0.1, seed=1)
    items = [pair(0), pair(1, "abcabcabc", "h", 0.7), pair(2, "g", "feed a cab", 0.2)]
    pairs = [
        module._Pair((module._side(R, i.prompt, i.chosen), module._side(R, i.prompt, i.rejected)), i)
        for i in items
    ]
    pairs = module._referred(pairs, module._both(reference, pairs, T.pad_id, 2))
    found = module._loss(policy, module._batch(pairs, T.pad_id, 0.05), beta=0.3)
    found.total.backward()
    gradient = policy.model.layers[0].mlp.down_proj.weight.grad.clone()
    policy.zero_grad()
    total = torch.zeros(())
    for item in items:
        margin = torch.zeros(())
        for reply, sign in ((item.chosen, 1), (item.rejected, -1)):
            start, tokens = (
                len(R.prompt(item.prompt)),
                torch.tensor([R.render(item.prompt.then(reply)).tokens]),
            )
            for model, direction in ((policy, sign), (reference, -sign)):
                logp = model(tokens)[0, start - 1 : -1].log_softmax(-1)
                margin = margin + direction * logp.gather(1, tokens[0, start:, None]).sum()
        p = item.probability * 0.9 + 0.05
        sure = torch.nn.functional.logsigmoid
        total = total - p * sure(0.3 * margin) - (1 - p) * sure(-0.3 * margin)
    total.backward()
    assert float(found.total.detach()) == pytest.approx(float(total.detach()), abs=1e-4)
    assert float(found.denominator) == 3
    plain = policy.model.layers[0].mlp.down_proj.weight.grad
    assert torch.allclose(gradient, plain, atol=1e-5)


def test_the_stage_learns_held_out_pairs(tmp_path: Path) -> None:
    policy, run = tiny.talker_checkpoint(tmp_path / "p"), testing_run(tmp_path)
    made = dpo(run, SMALL, policy=policy, preferences=[preferences(tmp_path / "d")])
    before, after = policy.load().state_dict(), made.load().state_dict()
    assert any(not torch.equal(before[k], after[k]) for k in before)
    lines = log_lines(run)
    assert [line["step"] for line in lines] == list(range(1, 9))
    assert lines[0]["loss"] == pytest.approx(math.log(2), abs=1e-4), "policy and reference are one at first"
    metrics = run.metrics
    assert metrics["dpo.accuracy"]["value"] == 1.0 and metrics["dpo.accuracy"]["n"] == 8
    assert metrics["dpo.margin"]["value"] > 0.1
    gap = metrics["dpo.better"]["value"] - metrics["dpo.worse"]["value"]
    assert metrics["dpo.margin"]["value"] == pytest.approx(gap, abs=1e-6)
    assert metrics["dpo.loss"]["value"] < math.log(2)
    assert metrics["dpo.kl"]["n"] == 4 and metrics["dpo.kl"]["value"] > 0
    assert metrics["dpo.pairs"]["value"] == 16 and metrics["dpo.dropped"]["value"] == 0
    assert run.tokens > 0 and run.flops > 0


def test_labels_below_one_half_turn_it_round(tmp_path: Path) -> None:
    run = testing_run(tmp_path)
    given = preferences(tmp_path / "d", probability=0.0)
    dpo(run, SMALL, policy=tiny.talker_checkpoint(tmp_path / "p"), preferences=[given])
    assert run.metrics["dpo.accuracy"]["value"] == 1.0, "the second reply is the better one"
    assert run.metrics["dpo.margin"]["value"] > 0.1


def test_labels_of_one_half_teach_nothing_and_are_not_graded(tmp_path: Path) -> None:
    run, policy = testing_run(tmp_path), tiny.talker_checkpoint(tmp_path / "p")
    given = preferences(tmp_path / "d", probability=0.5)
    config = SMALL.model_copy(update={"epochs": 0.25})
    dpo(run, config, policy=policy, preferences=[given])
    assert log_lines(run)[0]["grad_norm"] == pytest.approx(0, abs=1e-5)
    assert run.metrics["dpo.accuracy"]["n"] == 0


def test_numbers_while_it_trains(tmp_path: Path) -> None:
    run = testing_run(tmp_path)
    config = SMALL.model_copy(update={"loop": LOOP.model_copy(update={"eval_every": 4})})
    dpo(run, config, policy=tiny.talker_checkpoint(tmp_path / "p"), preferences=[preferences(tmp_path / "d")])
    watched = [line for line in log_lines(run) if "val_loss" in line]
    assert [line["step"] for line in watched] == [4, 8]
    assert watched[-1]["val_loss"] == pytest.approx(run.metrics["dpo.loss"]["value"], abs=1e-6)
    assert watched[-1]["val_margin"] > watched[0]["val_margin"] > 0


class Killed(Exception):
    pass


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_resume_ends_like_an_unbroken_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, dtype: str
) -> None:
    config = SMALL.model_copy(update={"loop": LOOP.model_copy(update={"dtype": dtype})})
    given = {
        "policy": tiny.talker_checkpoint(tmp_path / "p"),
        "preferences": [preferences(tmp_path / "d")],
    }
    whole_run = testing_run(tmp_path / "whole")
    whole = dpo(whole_run, config, **given)
    loss, calls = module._loss, []

    def dies(*arguments, **words):
        calls.append(1)
        if len(calls) == 6:
            raise Killed
        return loss(*arguments, **words)

    monkeypatch.setattr(module, "_loss", dies)
    with pytest.raises(Killed):
        dpo(testing_run(tmp_path / "broken"), config, **given)
    monkeypatch.setattr(module, "_loss", loss)
    asked: list[int] = []
    scored = module.reply_logprobs
    monkeypatch.setattr(
        module, "reply_logprobs", lambda m, sides, **w: (asked.append(len(sides)), scored(m, sides, **w))[1]
    )
    run = testing_run(tmp_path / "broken")
    resumed = dpo(run, config, **given)
    one, two = load_file(whole.path / "model.safetensors"), load_file(resumed.path / "model.safetensors")
    assert all(torch.equal(one[name], two[name]) for name in one)
    assert run.metrics == whole_run.metrics
    assert asked == [16], "the reference came from the state: only the end's held-out pairs were scored"


def test_pairs_that_do_not_fit_are_left_out_and_counted(tmp_path: Path) -> None:
    long = pair(99, good="a" * 300)
    write_preferences(tmp_path / "d", train=[pair(i) for i in range(19)] + [long])
    run = testing_run(tmp_path)
    config = SMALL.model_copy(update={"epochs": 0.2, "sequence_length": 64})
    dpo(run, config, policy=tiny.talker_checkpoint(tmp_path / "p"), preferences=[Preferences(tmp_path / "d")])
    assert run.metrics["dpo.dropped"]["value"] == pytest.approx(1 / 20)
    assert run.metrics["dpo.pairs"]["value"] == 17 and run.metrics["dpo.accuracy"]["n"] == 2


def test_too_few_pairs(tmp_path: Path) -> None:
    few = preferences(tmp_path / "d", train=2, held_out=0)
    with pytest.raises(UserError, match="too few preference pairs"):
        dpo(testing_run(tmp_path), SMALL, policy=tiny.talker_checkpoint(tmp_path / "p"), preferences=[few])
