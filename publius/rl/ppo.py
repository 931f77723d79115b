"""PPO against a reward model, with a KL to the policy it started from (Schulman et al. 2017, 1707.06347).

Values follow Bai et al. (2022), Huang et al. (2024, "N implementation details") and DESIGN section 8.
The step itself is in `trainer`; here are its inputs, its fixed held-out prompts and what is reported.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from publius.core.device import compute_dtype, pick_device, set_threads
from publius.core.errors import UserError
from publius.core.messages import Conversation
from publius.core.stats import Estimate, mean_estimate
from publius.data.artifacts import Conversations, Prompts
from publius.model.checkpoint import Checkpoint, RewardCheckpoint, save_checkpoint
from publius.model.heads import ValueModel
from publius.pipeline.run import Run
from publius.pipeline.stage import stage
from publius.reward.reward_fn import ModelReward, reward_facts
from publius.rl.rollout import take
from publius.rl.trainer import Evaluation, PPOConfig, StepReport, Trainer
from publius.tokenizer.renderer import Renderer
from publius.training.batches import PackedBatches
from publius.training.sft import render_all

__all__ = ["PPOConfig", "Trainer", "improve", "ppo", "practice", "split_prompts"]

_PTX_ROW = 256
"""Places in a row of practice."""


@stage(version=4, wide=True)
def ppo(
    run: Run,
    config: PPOConfig,
    *,
    policy: Checkpoint,
    reward: RewardCheckpoint,
    prompts: list[Prompts],
    reward_check: RewardCheckpoint | None = None,
    ptx: list[Conversations] | None = None,
) -> Checkpoint:
    """Train `policy` to please `reward` without leaving its start; `reward_check` watches for overfitting.

    `ptx` are conversations to keep practising beside (training splits, once each), by `config.ptx_coef`.

    Metrics: ppo.gain (paired, in reward units, on fixed held-out prompts), ppo.reward.before/.after,
    ppo.kl (nats per reply, same prompts), ppo.ratio (mean first-pass ratio over all steps),
    ppo.ratio_deviation (largest |ratio - 1| seen there), ppo.steps, ppo.stopped_early.

    Raises:
        UserError: reward model and policy of different tokenizers, no prompts, or one of `ptx` and `ptx_coef`
            without the other.
        RuntimeError: first-pass ratio out of tolerance.
    """
    set_threads(config.threads)
    train, held_out = split_prompts(prompts, config)
    _same_tokenizer(policy, reward, reward_check)
    trainer = _trainer(config, policy, reward, reward_check, ptx or [])
    improve(run, config, trainer, train, held_out)
    save_checkpoint(run.output, trainer.policy, policy.tokenizer())
    return Checkpoint(run.output)


def improve(
    run: Run,
    config: PPOConfig,
    trainer: Trainer,
    train: Sequence[Conversation],
    held_out: list[Conversation],
) -> None:
    """All steps from the run's saved state on, or from the start; `held_out` is measured before and after."""
    start = trainer.resume(run.restore())
    if start == 0:
        trainer.before = trainer.evaluate(held_out)
    with run.progress("ppo", config.steps) as bar, run.stoppable():
        bar.advance(start)
        for step in range(start, config.steps):
            report = trainer.step(take(train, step, config.batch, config.seed), step)
            _log(run, step, report)
            bar.advance(note=f"reward {report.reward:.3f} kl {report.kl:.2f}")
            if trainer.stopped:
                break
            run.stop_here(lambda folder, done=step + 1: trainer.save(folder, done))
            if (step + 1) % config.save_every == 0 and step + 1 < config.steps:
                run.save(lambda folder, done=step + 1: trainer.save(folder, done))
    _finish(run, trainer, trainer.evaluate(held_out))
    run.count(tokens=trainer.tokens, flops=trainer.flops)


def _trainer(
    config: PPOConfig,
    policy: Checkpoint,
    reward: RewardCheckpoint,
    reward_check: RewardCheckpoint | None,
    ptx: Sequence[Conversations],
) -> Trainer:
    device = pick_device(config.device)
    dtype = compute_dtype(device, config.dtype)
    score = ModelReward.from_checkpoint(reward, device=device, dtype=dtype)
    check = None
    if reward_check is not None:
        check = ModelReward.from_checkpoint(reward_check, device=device, dtype=dtype, name="check")
    critic = None
    if config.estimator == "gae":
        critic = _critic(config, policy, reward, device)
    renderer = Renderer(policy.tokenizer())
    return Trainer(
        config,
        policy.load(device=device),
        critic,
        policy.load(device=device),
        renderer,
        score,
        check,
        dtype,
        practice(config, renderer, ptx),
    )


def _critic(
    config: PPOConfig, policy: Checkpoint, reward: RewardCheckpoint, device: torch.device
) -> ValueModel:
    """A critic; one made from the reward model starts on the scale of the rewards it will see."""
    if config.critic == "reward":
        critic = ValueModel.from_reward(reward.load(device=device))
        facts = reward_facts(reward)
        spread = facts.std if config.scale_rewards else 1.0
        with torch.no_grad():
            critic.score.weight /= spread
            critic.score.bias.fill_(-facts.bias / spread)
        return critic
    return ValueModel(policy.load(device=device))


def _same_tokenizer(policy: Checkpoint, *others: RewardCheckpoint | None) -> None:
    mine = policy.file("tokenizer.json").read_bytes()
    for other in others:
        if other is not None and other.file("tokenizer.json").read_bytes() != mine:
            raise UserError(
                "the reward model and the policy have different tokenizers",
                where=f"ppo: {other.path}",
                fix="train both from checkpoints of one family",
            )


def split_prompts(prompts: list[Prompts], config: PPOConfig) -> tuple[list[Conversation], list[Conversation]]:
    """Training prompts, and the fixed held-out ones (of a shuffle when there is no validation split).

    Raises:
        UserError: for no prompt to train on, or fewer than two held out.
    """
    train = [p for part in prompts for p in part.train()]
    held_out = [p for part in prompts for p in part.val()]
    order = torch.Generator().manual_seed(config.seed)
    if not held_out:
        count = min(config.eval_prompts, len(train) // 5)
        shuffled = [train[i] for i in torch.randperm(len(train), generator=order).tolist()]
        train, held_out = shuffled[: len(train) - count], shuffled[len(train) - count :]
    if not train or len(held_out) < 2:
        raise UserError(
            "PPO needs prompts to train on and at least two held out",
            where="ppo: prompts",
            fix="give more prompts",
        )
    picked = torch.randperm(len(held_out), generator=order).tolist()[: config.eval_prompts]
    return train, [held_out[i] for i in picked]


def practice(config: PPOConfig, renderer: Renderer, chats: Sequence[Conversations]) -> PackedBatches | None:
    """Batches of the `ptx` conversations; None without any.

    Raises:
        UserError: for conversations without a weight, and a weight without conversations.
    """
    if bool(chats) != bool(config.ptx_coef):
        raise UserError(
            f"ptx_coef is {config.ptx_coef:g}, with {len(chats)} ptx inputs",
            where="ppo.ptx_coef",
            fix="give both conversations and a weight above 0, or neither",
        )
    if not chats:
        return None
    length = min(_PTX_ROW, config.ptx_tokens)
    rendered = render_all(renderer, [chat for part in chats for chat in part.train()], length)
    return PackedBatches(
        rendered.examples, sequence_length=length, rows=config.ptx_tokens // length, seed=config.seed
    )


def _log(run: Run, step: int, report: StepReport) -> None:
    numbers = report._asdict()
    if report.check_reward is None:
        numbers.pop("check_reward")
    run.log(step=step, sqrt_kl=max(report.kl, 0.0) ** 0.5, **numbers)


def _finish(run: Run, trainer: Trainer, after: Evaluation) -> None:
    before = trainer.before
    run.metric("ppo.gain", mean_estimate([a - b for a, b in zip(after.rewards, before.rewards, strict=True)]))
    run.metric("ppo.reward.before", mean_estimate(before.rewards))
    run.metric("ppo.reward.after", mean_estimate(after.rewards))
    run.metric("ppo.kl", mean_estimate(after.kl))
    run.metric("ppo.ratio", _spread(trainer.ratios))
    run.metric("ppo.ratio_deviation", trainer.deviation)
    run.metric("ppo.steps", trainer.steps)
    run.metric("ppo.stopped_early", bool(trainer.stopped))
    if trainer.stopped:
        run.log(step=trainer.steps, stopped=trainer.stopped)


def _spread(ratios: list[float]) -> Estimate:
    """The mean ratio; its "interval" is the smallest and largest step, since none may be off."""
    return Estimate(sum(ratios) / len(ratios), len(ratios), min(ratios), max(ratios))
