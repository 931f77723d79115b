"""RL with a program for a reward model: it learns, resumes, and says what it cannot work with."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from pydantic import ValidationError
from safetensors.torch import load_file

from publius.core.errors import UserError
from publius.core.messages import Conversation, ThinkingBlock, text_of, user
from publius.data.artifacts import Prompts, write_prompts
from publius.inference.engine import Engine
from publius.pipeline.run import testing_run
from publius.rl.rollout import rollout
from publius.rl.trainer import Trainer
from publius.rl.verified import VerifiedConfig, ppo_verified
from publius.tokenizer.renderer import Renderer
from tests.rl import tiny

T = tiny.tokenizer()
R = Renderer(T)
SMALL = VerifiedConfig(
    steps=3, batch=4, group=2, epochs=1, max_tokens=6, eval_prompts=4, save_every=1, learning_rate=1e-3,
    verifier="exact", dtype="float32", threads=1, device="cpu",
)  # fmt: skip


def prompts(folder: Path, truth: str | None = "a", thinking: bool | None = None) -> Prompts:
    meta: dict[str, object] = {} if truth is None else {"keys": [truth]}
    if thinking is not None:
        meta["thinking"] = thinking
    every = [Conversation(messages=(user(f"q{i}"),), meta=meta) for i in range(12)]
    write_prompts(folder, train=every[:8], val=every[8:])
    return Prompts(folder)


def test_it_learns_what_the_verifier_wants(tmp_path: Path) -> None:
    """`a` and nothing else: one reply in forty at the start."""
    config = SMALL.model_copy(
        update={"steps": 14, "batch": 8, "group": 8, "learning_rate": 1e-2, "beta": 0.0, "warmup": 0}
    )
    run = testing_run(tmp_path)
    ppo_verified(
        run, config, policy=tiny.talker_checkpoint(tmp_path / "p"), prompts=[prompts(tmp_path / "q")]
    )
    assert run.metrics["ppo.gain"]["value"] > 0.4
    assert run.metrics["ppo.ratio"]["value"] == pytest.approx(1, abs=1e-3)


@pytest.mark.parametrize("changes", [{}, {"estimator": "gae"}])
def test_resume_ends_like_an_unbroken_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, changes: dict
) -> None:
    config = SMALL.model_copy(update=changes)
    given = {"policy": tiny.talker_checkpoint(tmp_path / "p"), "prompts": [prompts(tmp_path / "q")]}
    whole_run = testing_run(tmp_path / "whole")
    whole = ppo_verified(whole_run, config, **given)
    step = Trainer.step

    def dies(self: Trainer, taken, number: int):
        if number == 2:
            raise KeyboardInterrupt
        return step(self, taken, number)

    monkeypatch.setattr(Trainer, "step", dies)
    with pytest.raises(KeyboardInterrupt):
        ppo_verified(testing_run(tmp_path / "broken"), config, **given)
    monkeypatch.undo()
    run = testing_run(tmp_path / "broken")
    resumed = ppo_verified(run, config, **given)
    one, two = load_file(whole.path / "model.safetensors"), load_file(resumed.path / "model.safetensors")
    assert all(torch.equal(one[name], two[name]) for name in one)
    assert run.metrics == whole_run.metrics


def test_bad_inputs(tmp_path: Path) -> None:
    policy = tiny.talker_checkpoint(tmp_path / "p")
    with pytest.raises(UserError, match="without an answer to verify by"):
        ppo_verified(
            testing_run(tmp_path), SMALL, policy=policy, prompts=[prompts(tmp_path / "q", truth=None)]
        )
    with pytest.raises(ValidationError, match="group must be 2 or more"):
        VerifiedConfig(group=1)
    with pytest.raises(ValidationError, match="no reward model"):
        VerifiedConfig(critic="reward")
    assert VerifiedConfig(estimator="gae", group=1).critic == "zero"


@pytest.mark.parametrize("thinking", [True, False])
def test_prompts_say_whether_there_is_thinking(tmp_path: Path, thinking: bool) -> None:
    asked = prompts(tmp_path / "q", thinking=thinking).val()
    episodes = rollout(Engine(tiny.talker(end=0.1), T), R, asked, max_tokens=20, seed=0)
    for prompt, episode in zip(asked, episodes, strict=True):
        given = R.prompt(prompt, thinking=thinking)
        assert list(episode.tokens[: len(given)]) == given
        assert not any(episode.actions[: len(given)]) and all(episode.actions[len(given) :])
        first = episode.conversation.messages[-1].content[0]
        assert isinstance(first, ThinkingBlock)
        # this talker never closes its thinking; what it thinks is not its answer
        assert (first.thinking == "") is not thinking
        assert (text_of(episode.conversation.messages[-1]) == "") is thinking
        if episode.ended and not thinking:
            rendered = R.render(episode.conversation)
            assert rendered.tokens == list(episode.tokens)
            assert [bool(weight) for weight in rendered.weights] == list(episode.actions)
