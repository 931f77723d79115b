"""PPO against a composed reward, with a KL to the policy it started from (Schulman et al. 2017, 1707.06347).

Values follow Bai et al. (2022), Huang et al. (2024, "N implementation details") and DESIGN section 8.
The step itself is in `trainer`; here are its inputs, its fixed held-out prompts and what is reported.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager

import torch

from publius.core.device import compute_dtype, pick_device, set_threads
from publius.core.errors import UserError
from publius.core.messages import Conversation
from publius.core.stats import Estimate, clustered, mean_estimate, wilson
from publius.data.artifacts import Conversations, Prompts
from publius.data.splits import by_prompt, things
from publius.inference.engine import Engine
from publius.model.adapters import adapted, merged
from publius.model.checkpoint import Checkpoint, RewardCheckpoint, save_checkpoint
from publius.model.heads import ValueModel
from publius.model.transformer import Transformer
from publius.pipeline.run import Run
from publius.pipeline.stage import stage
from publius.reward.comparison_reward import StartReplies
from publius.reward.compose import Sources, check_sources, compose
from publius.reward.guard import RewardError
from publius.reward.reward_fn import ModelReward, RewardFn, reward_facts
from publius.rl.config import PPOConfig
from publius.rl.evaluation import Evaluation, known
from publius.rl.rollout import fits, take
from publius.rl.trainer import StepReport, Trainer
from publius.tokenizer.renderer import Renderer
from publius.training.batches import PackedBatches
from publius.training.sft import render_all

__all__ = ["PPOConfig", "Trainer", "load_models", "ppo"]

_PTX_ROW = 256
"""Places in a row of practice."""


@stage(version=7, wide=True)
def ppo(
    run: Run,
    config: PPOConfig,
    *,
    policy: Checkpoint,
    prompts: list[Prompts],
    reward: RewardCheckpoint | None = None,
    judge: Checkpoint | None = None,
    reward_check: RewardCheckpoint | None = None,
    ptx: list[Conversations] | None = None,
) -> Checkpoint:
    """Train `policy` to please its reward without leaving its start; `reward_check` watches for overfitting.

    The reward is what `config.reward` composes: of `reward` (its part `model`, by default all there is), of
    `judge` (its parts `judge` and `comparison`, unused without), and of verifiers. `ptx` are conversations to
    keep practising beside (training splits, once each), by `config.ptx_coef`.

    Metrics: ppo.gain (paired, in reward units, on fixed held-out prompts), ppo.reward.before/.after,
    ppo.kl (nats per reply, same prompts), ppo.ratio (mean first-pass ratio over all steps),
    ppo.ratio_deviation (largest |ratio - 1| seen there), ppo.steps, ppo.stopped_early; ppo.skipped (share of
    the episodes in training that had no reward), ppo.unscored (share of the held-out prompts, before or
    after), ppo.dropped (share of all prompts that leave no room for a reply in the shortest context of the
    models); of a composed reward ppo.part.<name>.before/.after, unweighted.

    Raises:
        UserError: reward model and policy of different tokenizers, no prompts, a part of the reward without
            its input, one of `ptx` and `ptx_coef` without the other, or three steps in a row that lost every
            update, for gradients that are not finite (of a step that lost some the log has `lost_updates`).
        RewardError: a reward that cannot be trained on, as `config.reward.on_nan` says; the steps done so far
            are kept.
        RuntimeError: first-pass ratio out of tolerance.
    """
    set_threads(config.threads)
    context = _context(policy, reward, reward_check)
    train, held_out, dropped = _split(prompts, config, Renderer(policy.tokenizer()), context)
    run.metric("ppo.dropped", dropped)
    _same_tokenizer(policy, reward, reward_check)
    check_sources(config.reward, model=reward is not None, judge=judge is not None)
    with ExitStack() as stack:
        trainer = _trainer(config, policy, reward, judge, reward_check, ptx or [], context, stack)
        start = trainer.resume(run.restore())
        stack.enter_context(_keeping(run, trainer))
        _play(run, config, trainer, train, held_out, start)
    run.count(tokens=trainer.tokens, flops=trainer.flops)
    plain = merged(trainer.policy) if config.trunk == "shared" else trainer.policy
    save_checkpoint(run.output, plain, policy.tokenizer())
    return Checkpoint(run.output)


def _play(
    run: Run,
    config: PPOConfig,
    trainer: Trainer,
    train: list[Conversation],
    held_out: list[Conversation],
    start: int,
) -> None:
    """Measure, train from step `start` to the end or a stop, measure again."""
    if start == 0:
        trainer.before = trainer.evaluate(held_out)
    with run.progress("ppo", config.steps) as bar, run.stoppable():
        bar.advance(start)
        for step in range(start, start if trainer.stopped else config.steps):
            report = trainer.step(take(train, step, config.batch, config.seed), step)
            _log(run, step, report)
            bar.advance(note=f"reward {report.reward:.3f} kl {report.kl:.2f}")
            if trainer.stopped:
                break
            run.stop_here(lambda folder, done=step + 1: trainer.save(folder, done))
            if (step + 1) % config.save_every == 0 and step + 1 < config.steps:
                run.save(lambda folder, done=step + 1: trainer.save(folder, done))
    _finish(run, trainer, held_out, trainer.evaluate(held_out))


@contextmanager
def _keeping(run: Run, trainer: Trainer) -> Iterator[None]:
    """When a reward cannot be trained on, keep the steps done until then.

    Nothing of the step that failed is in the trainer: rewards are checked before anything is learnt.
    """
    try:
        yield
    except RewardError:
        run.save(lambda folder: trainer.save(folder, trainer.steps))
        run.settle()
        raise


def _trainer(
    config: PPOConfig,
    policy: Checkpoint,
    reward: RewardCheckpoint | None,
    judge: Checkpoint | None,
    reward_check: RewardCheckpoint | None,
    ptx: Sequence[Conversations],
    context: int,
    stack: ExitStack,
) -> Trainer:
    device = pick_device(config.device)
    dtype = compute_dtype(device, config.dtype)
    renderer = Renderer(policy.tokenizer())
    speaker, critic, reference = load_models(config, policy, reward, device)
    score = _reward(config, renderer, reward, judge, reference, dtype, stack)
    check = None
    if reward_check is not None:
        check = ModelReward.from_checkpoint(reward_check, device=device, dtype=dtype, name="check")
    return Trainer(
        config, speaker, critic, reference, renderer, score, check, dtype,
        _practice(config, renderer, ptx, policy.config().max_position), context,
    )  # fmt: skip


def _reward(
    config: PPOConfig,
    renderer: Renderer,
    reward: RewardCheckpoint | None,
    judge: Checkpoint | None,
    reference: Transformer,
    dtype: torch.dtype,
    stack: ExitStack,
) -> RewardFn:
    model = engine = rival = None
    device, wants = reference.device, config.reward.wants
    if reward is not None and wants("model"):
        model = ModelReward.from_checkpoint(reward, device=device, dtype=dtype)
    if judge is not None and (wants("judge") or wants("comparison")):
        # in the weights' own precision, as when it labels: bf16 rounds two close answers to a tie
        engine = Engine(judge.load(device=device), judge.tokenizer(), max_batch=config.max_batch)
    if wants("comparison"):
        start = Engine(reference, renderer.tokenizer, max_batch=config.max_batch)
        rival = StartReplies(start, renderer, max_tokens=config.max_tokens, seed=config.seed)
    return compose(config.reward, Sources(renderer.tokenizer, model, engine, rival), stack)


def load_models(
    config: PPOConfig, policy: Checkpoint, reward: RewardCheckpoint | None, device: torch.device
) -> tuple[Transformer, ValueModel | None, Transformer]:
    """Policy, critic (None for an estimator without) and reference: models of their own, or adapters on the
    last, by `config.trunk`."""
    reference, learns_values = policy.load(device=device), config.estimator == "gae"
    if config.trunk == "shared":
        reference.requires_grad_(False)
        speaker = adapted(reference, config.rank, seed=config.seed)
        critic = adapted(reference, config.rank, seed=config.seed + 1) if learns_values else None
        return speaker, None if critic is None else ValueModel(critic), reference
    critic = _critic(config, policy, reward, device) if learns_values else None
    return policy.load(device=device), critic, reference


def _critic(
    config: PPOConfig, policy: Checkpoint, reward: RewardCheckpoint | None, device: torch.device
) -> ValueModel:
    """A critic; one made from the reward model starts on the scale of the rewards it will see."""
    if config.critic == "reward":
        if reward is None:
            raise UserError(
                "the critic is to start from the reward model, and there is none",
                where="ppo.critic",
                fix='set critic to "zero", or the estimator to one without a critic',
            )
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


def _context(policy: Checkpoint, *scorers: RewardCheckpoint | None) -> int:
    """Tokens of an episode at most: every model can read them, and the end that a scorer may add."""
    read = [scorer.config().max_position - 1 for scorer in scorers if scorer is not None]
    return min([policy.config().max_position, *read])


def _split(
    prompts: list[Prompts], config: PPOConfig, renderer: Renderer, context: int
) -> tuple[list[Conversation], list[Conversation], Estimate]:
    """Training prompts, and the fixed held-out ones (of a shuffle when there is no validation split), those
    left out that cannot be played; and the share of all prompts that were. A shuffle keeps prompts that begin
    alike on one side."""
    given = ([p for part in prompts for p in part.train()], [p for part in prompts for p in part.val()])
    train, held_out = ([p for p in part if fits(p, renderer, context)] for part in given)
    count = sum(map(len, given))
    fitting = len(train) + len(held_out)
    dropped = wilson(count - fitting, count)
    order = torch.Generator().manual_seed(config.seed)
    if not held_out:
        groups = by_prompt(train, lambda prompt: prompt)
        rest = len(groups) - min(config.eval_prompts, len(groups) // 5)
        shuffled = [groups[i] for i in torch.randperm(len(groups), generator=order).tolist()]
        train, held_out = (
            [p for group in part for p in group] for part in (shuffled[:rest], shuffled[rest:])
        )
    if not train or len(held_out) < 2:
        raise UserError(
            f"PPO needs prompts to train on and at least two held out, and has {len(train)} and "
            f"{len(held_out)}: of {count} given {count - fitting} leave no room for a reply in "
            f"{context} tokens, and without a validation split a fifth of the different ones is held out",
            where="ppo: prompts",
            fix="give more prompts, or shorter ones",
        )
    picked = torch.randperm(len(held_out), generator=order).tolist()[: config.eval_prompts]
    return train, [held_out[i] for i in picked], dropped


def _practice(
    config: PPOConfig, renderer: Renderer, chats: Sequence[Conversations], positions: int
) -> PackedBatches | None:
    """Batches of `chats`, in rows no longer than the policy's `positions`."""
    if bool(chats) != bool(config.ptx_coef):
        raise UserError(
            f"ptx_coef is {config.ptx_coef:g}, with {len(chats)} ptx inputs",
            where="ppo.ptx_coef",
            fix="give both conversations and a weight above 0, or neither",
        )
    if not chats:
        return None
    length = min(_PTX_ROW, config.ptx_tokens, positions)
    rendered = render_all(renderer, [chat for part in chats for chat in part.train()], length)
    if not rendered.examples:
        raise UserError(
            f"none of {rendered.dropped} ptx conversations has a reply within its first {length} tokens",
            where="ppo: ptx",
            fix=f"give shorter ones, or raise ptx_tokens (rows have at most {_PTX_ROW})",
        )
    return PackedBatches(
        rendered.examples, sequence_length=length, rows=config.ptx_tokens // length, seed=config.seed
    )


def _log(run: Run, step: int, report: StepReport) -> None:
    numbers = {name: value for name, value in report._asdict().items() if value is not None}
    parts = numbers.pop("parts")
    if set(parts) != {"model"}:
        numbers |= {f"part.{name}": value for name, value in parts.items()}
    for counted in ("skipped", "lost_updates"):
        if not numbers[counted]:
            numbers.pop(counted)
    run.log(step=step, sqrt_kl=max(report.kl, 0.0) ** 0.5, **numbers)


def _finish(run: Run, trainer: Trainer, held_out: list[Conversation], after: Evaluation) -> None:
    before = trainer.before
    pairs = list(zip(before.rewards, after.rewards, strict=True))
    gains = [b - a for a, b in pairs if a is not None and b is not None]
    asked = [p for p, (a, b) in zip(held_out, pairs, strict=True) if a is not None and b is not None]
    run.metric("ppo.gain", clustered(gains, things(asked)))
    run.metric("ppo.reward.before", mean_estimate(known(before.rewards)))
    run.metric("ppo.reward.after", mean_estimate(known(after.rewards)))
    run.metric("ppo.kl", mean_estimate(known(after.kl)))
    run.metric("ppo.unscored", wilson(len(pairs) - len(gains), len(pairs)))
    run.metric("ppo.skipped", wilson(trainer.scoring.skipped, trainer.scoring.episodes))
    if not trainer.config.reward.is_model_only:
        for when, found in (("before", before), ("after", after)):
            for name, value in found.parts.items():
                run.metric(f"ppo.part.{name}.{when}", value)
    run.metric("ppo.ratio", _spread(trainer.ratios))
    run.metric("ppo.ratio_deviation", trainer.deviation)
    run.metric("ppo.steps", trainer.steps)
    run.metric("ppo.stopped_early", bool(trainer.stopped))
    if trainer.stopped:
        run.log(step=trainer.steps, stopped=trainer.stopped)


def _spread(ratios: list[float]) -> Estimate:
    """The mean ratio; its "interval" is the smallest and largest step, since none may be off."""
    return Estimate(sum(ratios) / len(ratios), len(ratios), min(ratios), max(ratios))
