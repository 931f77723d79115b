"""The stage and its trainer on one small policy; long because every option is held to the same one."""

from __future__ import annotations

import json
import math
from contextlib import ExitStack
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from publius.core.errors import UserError
from publius.core.messages import Conversation, assistant, text_of, user
from publius.data.artifacts import Conversations, Prompts, write_conversations, write_prompts
from publius.model.checkpoint import RewardCheckpoint
from publius.pipeline.run import Run, testing_run
from publius.reward.reward_fn import Reward, Trajectory, VerifierReward
from publius.rl.ppo import PPOConfig, Trainer, _practice, _split, _trainer, ppo
from publius.rl.rollout import take
from publius.tokenizer.bpe import TokenizerConfig, train_bpe
from publius.tokenizer.renderer import Renderer
from publius.training.batches import PackedBatches
from publius.training.language import held_out_loss
from publius.training.sft import render_all
from tests.rl import tiny

SMALL = PPOConfig(
    steps=3,
    batch=4,
    epochs=2,
    minibatches=2,
    max_tokens=6,
    eval_prompts=4,
    save_every=1,
    critic_warmup=0,
    learning_rate=1e-3,
    dtype="float32",
    threads=1,
    device="cpu",
)


def log_lines(run: Run) -> list[dict]:
    return [json.loads(line) for line in (run.folder / "metrics.jsonl").read_text().splitlines()]


def test_the_stage_trains_logs_and_writes_a_checkpoint(tmp_path: Path) -> None:
    policy = tiny.talker_checkpoint(tmp_path / "p")
    run = testing_run(tmp_path)
    made = ppo(
        run,
        SMALL,
        policy=policy,
        reward=tiny.reward_checkpoint(tmp_path / "r"),
        prompts=[tiny.prompts(tmp_path / "q")],
        reward_check=tiny.reward_checkpoint(tmp_path / "c", seed=5),
    )
    before, after = policy.load().state_dict(), made.load().state_dict()
    assert any(not torch.equal(before[k], after[k]) for k in before)
    lines = log_lines(run)
    keys = {
        "step",
        "reward",
        "kl",
        "sqrt_kl",
        "ratio_first",
        "clip_fraction",
        "value_loss",
        "entropy",
        "length",
        "eos_rate",
        "check_reward",
    }
    assert len(lines) == 3 and keys <= set(lines[0])
    assert lines[0]["kl"] == pytest.approx(0, abs=1e-3)
    assert lines[2]["kl"] != pytest.approx(0, abs=1e-6)
    metrics = run.metrics
    assert metrics["ppo.ratio"]["value"] == pytest.approx(1, abs=1e-3)
    assert metrics["ppo.gain"]["n"] == metrics["ppo.kl"]["n"] == 4
    gain = metrics["ppo.reward.after"]["value"] - metrics["ppo.reward.before"]["value"]
    assert metrics["ppo.gain"]["value"] == pytest.approx(gain)
    assert run.tokens > 0 and run.flops > 0


class Killed(Exception):
    pass


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"group": 2, "batch": 2},
        {"estimator": "grpo", "group": 2, "batch": 2},
        {"critic": "zero"},
        {"ptx_coef": 0.5, "ptx_tokens": 64},
        {"trunk": "shared", "critic": "zero", "rank": 2},
        {"trunk": "shared", "critic": "zero", "rank": 2, "dtype": "bfloat16"},
        {"policy_dtype": "bfloat16", "ptx_coef": 0.5, "ptx_tokens": 64},
        {"share_prompts": True, "group": 3, "batch": 2},
    ],
)
def test_resume_ends_like_an_unbroken_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, changes: dict
) -> None:
    config = SMALL.model_copy(update=changes)
    given = {
        "policy": tiny.talker_checkpoint(tmp_path / "p"),
        "reward": tiny.reward_checkpoint(tmp_path / "r"),
        "prompts": [tiny.prompts(tmp_path / "q")],
        "ptx": [tiny.conversations(tmp_path / "x")] if config.ptx_coef else None,
    }
    whole_run = testing_run(tmp_path / "whole")
    whole = ppo(whole_run, config, **given)
    step = Trainer.step

    def dies(self: Trainer, prompts, number: int):
        if number == 2:
            raise Killed
        return step(self, prompts, number)

    monkeypatch.setattr(Trainer, "step", dies)
    with pytest.raises(Killed):
        ppo(testing_run(tmp_path / "broken"), config, **given)
    monkeypatch.undo()
    run = testing_run(tmp_path / "broken")
    resumed = ppo(run, config, **given)
    one, two = load_file(whole.path / "model.safetensors"), load_file(resumed.path / "model.safetensors")
    assert all(torch.equal(one[name], two[name]) for name in one)
    assert run.metrics == whole_run.metrics
    assert [line["step"] for line in log_lines(run)] == [0, 1, 2]


def short(trajectories: list[Trajectory]) -> list[Reward]:
    return [Reward(float(t.ended), {}) for t in trajectories]


def trainer(config: PPOConfig, score, **given) -> Trainer:
    return Trainer(config, tiny.talker(), None, tiny.talker(), Renderer(tiny.tokenizer()), score, **given)


def test_ppo_learns_an_easy_reward() -> None:
    """More of the letter `a`: the reward must rise well above its start, in a few steps without a critic."""
    config = SMALL.model_copy(
        update={
            "estimator": "grpo",
            "group": 4,
            "batch": 8,
            "learning_rate": 5e-3,
            "minibatches": 1,
            "beta": 0.0,
            "warmup": 0,
            "kl_budget": None,
        }
    )
    likes_a = VerifierReward(lambda meta, text: text.count("a") / max(1, len(text)))
    learner = trainer(config, likes_a)
    rewards = [learner.step(take(tiny.chats(16), i, 8, 0), i).reward for i in range(15)]
    assert sum(rewards[-3:]) / 3 > sum(rewards[:3]) / 3 + 0.2


def test_many_passes_over_one_batch_stay_clipped() -> None:
    """Thirty passes at a high rate: the clip binds, and the policy stays near where the batch was drawn."""
    changes = {"estimator": "rloo", "group": 4, "batch": 8, "epochs": 30, "learning_rate": 1e-2, "beta": 0.0}
    config = SMALL.model_copy(update=changes | {"minibatches": 1, "warmup": 0, "kl_budget": None})
    likes_a = VerifierReward(lambda meta, text: text.count("a") / max(1, len(text)))
    learner = trainer(config, likes_a)
    first = learner.step(take(tiny.chats(16), 0, 8, 0), 0)
    assert first.clip_fraction > 0.1
    assert abs(learner.step(take(tiny.chats(16), 1, 8, 0), 1).kl) < 1.0


def test_the_reference_stays_where_it_was() -> None:
    config = SMALL.model_copy(update={"estimator": "rloo", "group": 2, "warmup": 0, "kl_budget": None})
    learner = trainer(config, short)
    start = {name: value.clone() for name, value in learner.reference.state_dict().items()}
    reports = [learner.step(take(tiny.chats(16), i, 4, 0), i) for i in range(3)]
    assert reports[0].kl == pytest.approx(0, abs=1e-3) and abs(reports[2].kl) > 1e-3
    assert all(torch.equal(start[name], value) for name, value in learner.reference.state_dict().items())
    assert not any(p.requires_grad for p in learner.reference.parameters())
    assert any(not torch.equal(start[name], value) for name, value in learner.policy.state_dict().items())


@pytest.mark.parametrize("estimator", ["rloo", "grpo"])
def test_the_other_estimators_through_the_stage(tmp_path: Path, estimator: str) -> None:
    """No critic; the KL is inside the totals that are compared, and logged; all else is the same loop."""
    policy, run = tiny.talker_checkpoint(tmp_path / "p"), testing_run(tmp_path)
    update = {"estimator": estimator, "group": 3, "batch": 2, "critic_warmup": 2}
    made = ppo(
        run,
        SMALL.model_copy(update=update),
        policy=policy,
        reward=tiny.reward_checkpoint(tmp_path / "r"),
        prompts=[tiny.prompts(tmp_path / "q")],
    )
    before, after = policy.load().state_dict(), made.load().state_dict()
    assert any(not torch.equal(before[k], after[k]) for k in before), "there is no critic to warm up"
    lines = log_lines(run)
    assert len(lines) == 3 and all("value_loss" not in line for line in lines)
    assert lines[0]["kl"] == pytest.approx(0, abs=1e-3) and lines[2]["kl"] != pytest.approx(0, abs=1e-6)
    assert run.metrics["ppo.ratio"]["value"] == pytest.approx(1, abs=1e-3)
    assert run.metrics["ppo.gain"]["n"] == run.metrics["ppo.kl"]["n"] == 4


def test_an_estimator_by_comparison_needs_something_to_compare() -> None:
    with pytest.raises(ValueError, match="estimator grpo compares the replies to one prompt"):
        PPOConfig(estimator="grpo")
    with pytest.raises(ValueError, match="make group 2 or more"):
        PPOConfig(estimator="rloo", group=1)


def test_smaller_chunks_are_the_same_step() -> None:
    """To rounding: fewer rows a forward, the same sums."""
    moved: list[dict[str, torch.Tensor]] = []
    for tokens in (8192, 40):
        changes = {"estimator": "grpo", "group": 4, "batch": 8, "chunk_tokens": tokens, "epochs": 1}
        learner = trainer(SMALL.model_copy(update=changes | {"minibatches": 1, "warmup": 0}), short)
        learner.optimizers["policy"] = torch.optim.SGD(learner.policy.parameters(), lr=0.1)
        learner.step(tiny.chats(8), 0)
        moved.append({name: value.clone() for name, value in learner.policy.state_dict().items()})
    start = tiny.talker().state_dict()
    assert any(not torch.equal(start[name], value) for name, value in moved[0].items())
    assert all(torch.allclose(moved[0][name], value, atol=1e-6) for name, value in moved[1].items())


def test_practice_beside_it_is_learned(tmp_path: Path) -> None:
    """With a reward that is always the same, all there is to learn is what is practised."""
    said = tiny.conversations(tmp_path / "x")
    given = {
        "policy": tiny.talker_checkpoint(tmp_path / "p"),
        "reward": tiny.reward_checkpoint(tmp_path / "r"),
        "prompts": [tiny.prompts(tmp_path / "q")],
    }
    config = SMALL.model_copy(update={"ptx_coef": 1.0, "ptx_tokens": 128, "learning_rate": 3e-3})
    without = ppo(testing_run(tmp_path / "a"), config.model_copy(update={"ptx_coef": 0.0}), **given)
    practised = ppo(testing_run(tmp_path / "b"), config, ptx=[said], **given)
    examples = render_all(Renderer(tiny.tokenizer()), said.train(), 64).examples
    batches = PackedBatches(examples, sequence_length=64, rows=2, seed=0)
    losses = [held_out_loss(made.load(), batches.once()).nll for made in (without, practised)]
    assert losses[1] < 0.9 * losses[0]


def test_several_replies_to_a_prompt_are_measured_as_their_mean() -> None:
    counted: list[int] = []

    def letters(trajectories: list[Trajectory]) -> list[Reward]:
        counted.extend(t.length for t in trajectories)
        return [Reward(float(t.length), {}) for t in trajectories]

    config = SMALL.model_copy(update={"estimator": "rloo", "eval_samples": 3, "missing_end_penalty": 0.0})
    learner = trainer(config, letters)
    learner.reference = tiny.talker(end=0.1)
    found = learner.evaluate(tiny.chats(4))
    assert found.rewards == pytest.approx([sum(counted[i : i + 3]) / 3 for i in (0, 3, 6, 9)])
    assert len(found.kl) == 4
    # talkers that differ in how readily they end: the longer a prompt's replies, the more they differ
    order = sorted(range(4), key=lambda i: found.rewards[i])
    assert found.kl[order[0]] > found.kl[order[-1]]


def test_kl_budget_stops_before_the_update() -> None:
    learner = trainer(
        SMALL.model_copy(update={"kl_budget": 1e-9, "estimator": "rloo", "group": 2, "warmup": 0}), short
    )
    learner.reference = tiny.talker(end=0.02)
    weights = {k: v.clone() for k, v in learner.policy.state_dict().items()}
    report = learner.step(tiny.chats(16), 0)
    assert report.kl > 0
    assert "budget" in learner.stopped
    assert all(torch.equal(weights[k], v) for k, v in learner.policy.state_dict().items())


def test_the_second_model_stops_it() -> None:
    falling = iter([5.0, 5.0, 1.0, 0.0, -1.0, -2.0, -3.0, -4.0])

    def check(trajectories) -> list[Reward]:
        mean = next(falling)
        return [Reward(mean + (0.1 if i % 2 else -0.1), {}) for i in range(len(trajectories))]

    config = SMALL.model_copy(update={"estimator": "rloo", "group": 2, "check_patience": 2})
    learner = trainer(config, short, check=check)
    for i in range(8):
        report = learner.step(tiny.chats(4), i)
        if learner.stopped:
            break
    assert i == 3  # falls at steps 2 and 3
    assert report.check_reward == pytest.approx(0.0)
    assert "second reward model" in learner.stopped


def test_sampler_and_scorer_must_agree() -> None:
    learner = trainer(SMALL.model_copy(update={"estimator": "rloo", "group": 2}), short)
    learner.engine.load(tiny.talker(end=0.1, seed=3))
    with pytest.raises(RuntimeError, match="first-pass probability ratio"):
        learner.step(tiny.chats(4), 0)
    with pytest.raises(RuntimeError, match="first-pass probability ratio is nan"):
        learner._assert_ratio(math.nan, math.nan, 0)


def test_rates_rise_then_hold_then_fall() -> None:
    config = SMALL.model_copy(
        update={"steps": 8, "warmup": 2, "decay_fraction": 0.5, "epochs": 1, "estimator": "rloo", "group": 2}
    )
    learner = trainer(config, short)
    rates: list[float] = []
    for step in range(9):
        learner.step(take(tiny.chats(16), step, 4, 0), step)
        rates.append(learner.optimizers["policy"].param_groups[0]["lr"] / config.learning_rate)
    assert rates == pytest.approx([0.5, 1, 1, 1, 1, 0.75, 0.5, 0.25, 0])


def test_critic_warmup_leaves_the_policy_alone(tmp_path: Path) -> None:
    policy = tiny.talker_checkpoint(tmp_path / "p")
    made = ppo(
        testing_run(tmp_path),
        SMALL.model_copy(update={"critic_warmup": 99}),
        policy=policy,
        reward=tiny.reward_checkpoint(tmp_path / "r"),
        prompts=[tiny.prompts(tmp_path / "q", held_out=0)],
    )
    one, two = policy.load().state_dict(), made.load().state_dict()
    assert all(torch.equal(one[k], two[k]) for k in one)


@pytest.mark.parametrize("shortest", ["policy", "reward", "check"])
def test_what_the_shortest_context_cannot_hold_is_left_out(tmp_path: Path, shortest: str) -> None:
    """Prompts too long are dropped and counted, and no reply outgrows what has to read it."""
    longest = {name: 64 if name == shortest else 256 for name in ("policy", "reward", "check")}

    def scorer(name: str) -> RewardCheckpoint:
        return tiny.reward_checkpoint(tmp_path / name, max_position=longest[name])

    short, long = tiny.chats(12), Conversation(messages=(user("x" * 100),))
    write_prompts(tmp_path / "q", train=[*short[:9], long, long], val=[*short[9:], long])
    run = testing_run(tmp_path)
    ppo(
        run,
        SMALL.model_copy(update={"max_tokens": 100, "steps": 2}),
        policy=tiny.talker_checkpoint(tmp_path / "p", end=1e-4, max_position=longest["policy"]),
        reward=scorer("reward"),
        reward_check=scorer("check"),
        prompts=[Prompts(tmp_path / "q")],
    )
    dropped = run.metrics["ppo.dropped"]
    assert dropped["value"] == pytest.approx(3 / 15) and dropped["n"] == 15


def test_bad_inputs(tmp_path: Path) -> None:
    policy, reward = tiny.talker_checkpoint(tmp_path / "p"), tiny.reward_checkpoint(tmp_path / "r")
    few = tiny.prompts(tmp_path / "q", count=2, held_out=0)
    with pytest.raises(UserError, match="at least two held out"):
        ppo(testing_run(tmp_path), SMALL, policy=policy, reward=reward, prompts=[few])
    asked, said = tiny.prompts(tmp_path / "q1"), tiny.conversations(tmp_path / "x")
    with pytest.raises(UserError, match=r"ptx_coef is 0, with 1 ptx inputs"):
        ppo(testing_run(tmp_path), SMALL, policy=policy, reward=reward, prompts=[asked], ptx=[said])
    with pytest.raises(UserError, match=r"ptx_coef is 0\.5, with 0 ptx inputs"):
        ppo(
            testing_run(tmp_path),
            SMALL.model_copy(update={"ptx_coef": 0.5}),
            policy=policy,
            reward=reward,
            prompts=[asked],
        )
    train_bpe(["aaaa aaaa"], TokenizerConfig(vocab_size=270)).save(reward.path)
    with pytest.raises(UserError, match="different tokenizers"):
        ppo(
            testing_run(tmp_path),
            SMALL,
            policy=policy,
            reward=reward,
            prompts=[tiny.prompts(tmp_path / "q2")],
        )


def test_one_trunk_for_policy_critic_and_reference(tmp_path: Path) -> None:
    """A step begins as it does with models of their own, and what is written is an ordinary checkpoint."""
    policy, reward = tiny.talker_checkpoint(tmp_path / "p"), tiny.reward_checkpoint(tmp_path / "r")
    runs = {}
    for trunk in ("separate", "shared"):
        runs[trunk] = testing_run(tmp_path / trunk)
        changes = {"trunk": trunk, "critic": "zero", "rank": 4, "learning_rate": 1e-2, "warmup": 0}
        made = ppo(
            runs[trunk],
            SMALL.model_copy(update=changes),
            policy=policy,
            reward=reward,
            prompts=[tiny.prompts(tmp_path / f"q-{trunk}")],
        )
    first, second = (log_lines(runs[trunk])[0] for trunk in ("separate", "shared"))
    for name in ("reward", "kl", "ratio_first", "entropy", "length", "eos_rate"):
        assert first[name] == second[name], name
    lines = log_lines(runs["shared"])
    assert abs(lines[2]["kl"]) > 1e-3, "the adapters have moved the policy, and not its reference"
    assert runs["shared"].metrics["ppo.ratio"]["value"] == pytest.approx(1, abs=1e-3)
    before, after = policy.load().state_dict(), made.load().state_dict()
    assert before.keys() == after.keys()
    moved = {name for name in before if not torch.equal(before[name], after[name])}
    assert moved == {name for name in before if "proj" in name}, "matrices of blocks, and nothing else"


def test_one_trunk_keeps_one_model(tmp_path: Path) -> None:
    policy = tiny.talker_checkpoint(tmp_path / "p")
    reward = tiny.reward_checkpoint(tmp_path / "r")
    held = {}
    for trunk in ("separate", "shared"):
        config = SMALL.model_copy(update={"trunk": trunk, "critic": "zero", "rank": 2})
        learner = _trainer(config, policy, reward, None, None, [], 256, ExitStack())
        assert learner.critic is not None
        models = (learner.policy, learner.critic, learner.reference)
        held[trunk] = sum({p.data_ptr(): p.numel() for m in models for p in m.parameters()}.values())
        learns = sum(p.numel() for model in learner.models.values() for p in model.parameters())
        assert learns < 0.2 * held["separate"] or trunk == "separate"
    one = policy.config().parameters()
    assert held["separate"] == 3 * one + 33 and held["shared"] < 1.3 * one


def test_a_policy_that_computes_in_bf16() -> None:
    """Engine, scorer and reference round alike: ratio 1 and KL 0 to within bf16; fp32 weights learn."""
    changes = {"estimator": "grpo", "group": 4, "batch": 8, "learning_rate": 5e-3, "minibatches": 1}
    config = SMALL.model_copy(update=changes | {"policy_dtype": "bfloat16", "warmup": 0, "kl_budget": None})
    likes_a = VerifierReward(lambda meta, text: text.count("a") / max(1, len(text)))
    learner = trainer(config, likes_a)
    assert learner.engine.dtype == learner.reference.dtype == learner.learner.policy.dtype == torch.bfloat16
    reports = [learner.step(take(tiny.chats(16), i, 8, 0), i) for i in range(12)]
    assert all(r.ratio_first == pytest.approx(1, abs=1e-2) for r in reports)
    assert abs(reports[0].kl) < 2e-2
    assert sum(r.reward for r in reports[-3:]) / 3 > sum(r.reward for r in reports[:3]) / 3 + 0.1
    assert {p.dtype for p in learner.policy.parameters()} == {torch.float32}
    gone = [p.float() for p in learner.learner.policy.parameters()]
    assert all(
        torch.allclose(a, b, atol=2e-2) for a, b in zip(gone, learner.policy.parameters(), strict=True)
    )


def test_a_critic_on_the_trunk_is_not_the_reward_model() -> None:
    with pytest.raises(ValueError, match="set critic to zero"):
        PPOConfig(trunk="shared")
    with pytest.raises(ValueError, match="leave policy_dtype at float32"):
        PPOConfig(trunk="shared", critic="zero", policy_dtype="bfloat16")
    assert PPOConfig(trunk="shared", critic="zero").rank == 16
    assert PPOConfig(trunk="shared", estimator="rloo", group=2).trunk == "shared"


def test_held_out_prompts_are_not_trained_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: set[str] = set()
    measured: set[str] = set()
    step, evaluate = Trainer.step, Trainer.evaluate
    monkeypatch.setattr(
        Trainer, "step", lambda s, p, n: (seen.update(text_of(c.messages[0]) for c in p), step(s, p, n))[1]
    )
    monkeypatch.setattr(
        Trainer,
        "evaluate",
        lambda s, p: (measured.update(text_of(c.messages[0]) for c in p), evaluate(s, p))[1],
    )
    ppo(
        testing_run(tmp_path),
        SMALL.model_copy(update={"steps": 4}),
        policy=tiny.talker_checkpoint(tmp_path / "p"),
        reward=tiny.reward_checkpoint(tmp_path / "r"),
        prompts=[tiny.prompts(tmp_path / "q", 20, held_out=0)],
    )
    assert len(seen) == 16 and len(measured) == 4
    assert not seen & measured


def given_prompts(folder: Path, *asked: str) -> list[Prompts]:
    write_prompts(folder, train=[Conversation(messages=(user(text),)) for text in asked])
    return [Prompts(folder)]


def test_a_prompt_given_several_times_is_on_one_side(tmp_path: Path) -> None:
    prompts = given_prompts(tmp_path / "q", *(f"q{i % 10}" for i in range(40)))
    train, held_out, _ = _split(prompts, SMALL, Renderer(tiny.tokenizer()), 512)
    assert len(held_out) >= 2 and not {p.messages for p in train} & {p.messages for p in held_out}
    once = given_prompts(tmp_path / "o", *(f"q{i}" for i in range(40)))
    train, held_out, _ = _split(once, SMALL, Renderer(tiny.tokenizer()), 512)
    assert len(held_out) == 4 and len(train) == 36


def test_too_few_prompts_are_counted_as_they_are(tmp_path: Path) -> None:
    renderer = Renderer(tiny.tokenizer())
    with pytest.raises(UserError, match="has 3 and 0: of 3 given 0 leave no room for a reply in 512"):
        _split(given_prompts(tmp_path / "few", "a", "b", "c"), SMALL, renderer, 512)
    with pytest.raises(UserError, match="has 0 and 0: of 2 given 2 leave no room for a reply in 50"):
        _split(given_prompts(tmp_path / "long", "a" * 60, "b" * 60), SMALL, renderer, 50)


def test_practice_fits_the_policys_positions(tmp_path: Path) -> None:
    renderer = Renderer(tiny.tokenizer())
    said = [Conversation(messages=(user("q" * 20), assistant("abc" * 40)))] * 4
    write_conversations(tmp_path / "x", train=said)
    config = SMALL.model_copy(update={"ptx_coef": 0.5, "ptx_tokens": 256})
    found = _practice(config, renderer, [Conversations(tmp_path / "x")], 64)
    assert found is not None
    assert found.next().tokens_BT.shape == (4, 64)
    write_conversations(tmp_path / "y", train=[Conversation(messages=(user("q" * 99), assistant("a")))])
    with pytest.raises(UserError, match="none of 1 ptx conversations has a reply within its first 64 tokens"):
        _practice(config, renderer, [Conversations(tmp_path / "y")], 64)
