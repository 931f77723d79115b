"""A recipe of tiny real stages: every way of learning from preferences, for the report to show."""

from __future__ import annotations

from publius.core.config import Config
from publius.core.messages import Conversation, assistant, user
from publius.data.artifacts import Preferences, Prompts, write_preferences
from publius.data.types import Preference
from publius.model.checkpoint import Checkpoint, RewardCheckpoint
from publius.pipeline import Recipe, Run, stage
from publius.rl import DPOConfig, PPOConfig, dpo, ppo
from publius.training.loop import LoopConfig
from tests.rl import tiny


class Nothing(Config):
    """No choices."""


@stage(light=True)
def speaker(run: Run, config: Nothing) -> Checkpoint:
    return tiny.talker_checkpoint(run.output)


@stage(light=True)
def taste(run: Run, config: Nothing) -> RewardCheckpoint:
    return tiny.reward_checkpoint(run.output)


@stage(light=True)
def asked(run: Run, config: Nothing) -> Prompts:
    return tiny.prompts(run.output)


@stage(light=True)
def liked(run: Run, config: Nothing) -> Preferences:
    pairs = [
        Preference(
            prompt=Conversation(messages=(user(f"q{i}"),)), chosen=assistant("ab"), rejected=assistant("gh")
        )
        for i in range(12)
    ]
    write_preferences(run.output, train=pairs[:8], val=pairs[8:])
    return Preferences(run.output)


def preference_recipe() -> Recipe:
    """PPO, GRPO and DPO from one policy."""
    r = Recipe("preferences")
    policy, reward = r.stage("speaker", speaker, Nothing()), r.stage("taste", taste, Nothing())
    prompts, pairs = r.stage("asked", asked, Nothing()), r.stage("liked", liked, Nothing())
    words = {"steps": 2, "batch": 2, "group": 2, "max_tokens": 4, "eval_prompts": 2, "device": "cpu"}
    small = PPOConfig.model_validate(words | {"dtype": "float32", "critic_warmup": 0, "threads": 1})
    for name in ("gae", "grpo"):
        config = small.model_copy(update={"estimator": name})
        r.stage(name, ppo, config, policy=policy, reward=reward, prompts=[prompts])
    loop = LoopConfig(dtype="float32", device="cpu", threads=1)
    fit = DPOConfig(pairs=4, eval_prompts=2, max_tokens=4, loop=loop)
    r.stage("dpo", dpo, fit, policy=policy, preferences=[pairs])
    return r
