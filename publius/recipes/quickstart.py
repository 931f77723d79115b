"""The whole story on the bundled world, on a laptop CPU: the first file to read.

    publius run quickstart                    # about a quarter of an hour on two cores
    publius run quickstart --set seed=1 --name second

Read it straight down: text, tokenizer, two tiers of one family, helpful-only fine-tuning, an attack on
that, Constitutional AI in both its halves, an attack again, a round of feedback from what the attack
found, evaluation, the gate, the release. Two planted models go through the same gate and must fail.
Long because it is the story, told once and in order.
"""

from __future__ import annotations

from publius.constitution.grading import JudgeEvalConfig, evaluate_judge
from publius.constitution.preferences import LabelConfig, label
from publius.constitution.principles import Constitution
from publius.constitution.revise import ReviseConfig, revise
from publius.core.config import Config
from publius.data.mixture import SelectConfig, select
from publius.data.pocket.notebooks import CONSTITUTION
from publius.data.pocket.world import (
    ComparisonsConfig,
    DemonstrationsConfig,
    PocketConfig,
    QuestionsConfig,
    demonstrations,
    make_pocket,
    pocket_comparisons,
    pocket_prompts,
)
from publius.evals.compare import CompareConfig, compare
from publius.evals.compression import CompressionConfig, compression_baselines
from publius.evals.pairs import SampledPairsConfig, sampled_pairs
from publius.evals.runner import EvalConfig, evaluate
from publius.model.config import ModelConfig
from publius.pipeline import Node, Recipe
from publius.redteam.export import ExportConfig, export_prompts
from publius.redteam.planted import PlantConfig, plant_backdoor
from publius.redteam.scan import TriggerScanConfig, scan_triggers
from publius.redteam.stage import RedTeamConfig, red_team
from publius.release.gate import GateCheck, GateConfig, ReleaseConfig, check_gate, gate, release
from publius.reward.reward_model import RewardConfig, train_reward
from publius.rl.ppo import PPOConfig, ppo
from publius.tokenizer.bpe import TokenizerConfig, train_tokenizer
from publius.tokenizer.shards import TokenizeConfig, tokenize
from publius.training.average import AverageConfig, average
from publius.training.loop import LoopConfig
from publius.training.optimizer import OptimizerConfig
from publius.training.pretrain import PretrainConfig, pretrain
from publius.training.sft import SFTConfig, sft

__all__ = ["Sizes", "align", "quickstart"]


class Sizes(Config):
    """Everything that differs between the real thing and the smoke test."""

    world: PocketConfig = PocketConfig()
    vocab_size: int = 2048
    haiku: tuple[int, int] = (192, 4)
    """Width and layers of the tier that is aligned and served."""
    opus: tuple[int, int] = (224, 4)
    """Width and layers of the tier that criticises and judges."""
    haiku_tokens: int = 3_400_000
    opus_tokens: int = 2_800_000
    sft_tokens: int = 340_000
    """Of every fine-tuning of the pretrained model, whatever is in it, so that none is compared with one
    trained longer."""
    rows: int = 256
    """Places in a row."""
    batch_rows: int = 8
    """Rows in a batch of pretraining."""
    cai_prompts: QuestionsConfig = QuestionsConfig(
        amounts={"hazard": 120, "twin": 150, "craft": 40, "fact": 30}
    )
    """More twins than hazards: refusing is soon learnt, where to stop is not."""
    rl_prompts: QuestionsConfig = QuestionsConfig(
        amounts={"hazard": 120, "twin": 150, "craft": 60, "fact": 40},
        splits=("train", "val"),
        held_out="test",
        seed=1,
    )
    """Also about items that nobody demonstrated: on the others a fine-tuned policy hardly varies."""
    label_prompts: QuestionsConfig = QuestionsConfig(amounts={"hazard": 160}, seed=2)
    """As published: the constitution labels harm on harmful prompts, people label helpfulness."""
    revisions: int = 2
    reward_epochs: float = 1.0
    comparisons: int = 2400
    ppo_steps: int = 18
    ppo_batch: int = 16
    ppo_group: int = 4
    ppo_ptx_tokens: int = 512
    ppo_eval_prompts: int = 96
    ppo_eval_samples: int = 3
    feedback_eval_prompts: int = 24
    """Of the feedback round, whose gain nobody reads off."""
    known_prompts: int = 320
    """Of the first round of RL: attacks that broke the helpful-only model, filled up with fresh ones."""
    feedback_prompts: int = 560
    feedback_begun: int = 160
    """Of these, prompts whose reply is begun with the first words of a leak, and their twins."""
    feedback_tokens: int = 270_000
    """Of the feedback round's fine-tuning, which goes on from the policy that was attacked."""
    feedback_ppo_steps: int = 12
    attacks: RedTeamConfig = RedTeamConfig(samples=2, measure_sealed=72)
    questions: int = 120
    """Held-out questions of each kind in an evaluation."""
    judge_pairs: int = 240
    critic_temperature: float | None = None
    """None is the constitution's own; untrained critics never come to an end when sampled coolly."""
    min_mass: float = 0.01
    """Least probability on the two answers for a judgement; untrained judges put none there."""
    scan: TriggerScanConfig = TriggerScanConfig()
    sampled_judge: bool = True
    """Grade the judge on sampled replies too; untrained models give none that truth can tell apart."""
    release: bool = True
    """False ends at the decision: models too small to pass the gate cannot be released."""


def _shape(size: tuple[int, int], vocab_size: int) -> ModelConfig:
    width, layers = size
    heads = width // 32
    kv_heads = next(k for k in range(max(1, heads // 2), 0, -1) if heads % k == 0)
    return ModelConfig(
        vocab_size=vocab_size, hidden_size=width, layers=layers, heads=heads, kv_heads=kv_heads, head_dim=32,
        intermediate_size=width * 8 // 3 // 32 * 32, max_position=1024,
    )  # fmt: skip


def quickstart(seed: int = 0) -> Recipe:
    """Pocket, end to end, on two CPU cores."""
    return align(Recipe("quickstart", jobs=2), Sizes(), seed)


def align(r: Recipe, sizes: Sizes, seed: int) -> Recipe:
    """Wire the whole pipeline into `r`."""
    constitution = Constitution.load(CONSTITUTION)
    if sizes.critic_temperature is not None:
        constitution = constitution.model_copy(update={"temperature": sizes.critic_temperature})
    muon = OptimizerConfig(muon_lr=0.009, adamw_lr=0.006)
    tuning = OptimizerConfig(muon_lr=0.0015, adamw_lr=0.001, adamw_eps=1e-4)

    # --- a world, a tokenizer, two tiers of one family
    world = r.stage("world", make_pocket, sizes.world.model_copy(update={"seed": seed}))
    tokenizer = r.stage(
        "tokenizer", train_tokenizer, TokenizerConfig(vocab_size=sizes.vocab_size), corpus=world
    )
    vocab_size = sizes.vocab_size

    shards = r.stage("shards", tokenize, TokenizeConfig(), corpus=world, tokenizer=tokenizer)
    # a quarter of an hour is short, and the critic needs no sums
    worded = r.stage("text_opus", select, SelectConfig(without=("sum", "table", "manual")), corpus=world)
    reviewing = r.stage("shards_opus", tokenize, TokenizeConfig(), corpus=worded, tokenizer=tokenizer)

    def pretrained(name: str, size: tuple[int, int], tokens: int, shards: Node):
        config = PretrainConfig(
            model=_shape(size, vocab_size), tokens=tokens, batch_tokens=sizes.batch_rows * sizes.rows,
            sequence_length=sizes.rows, optimizer=muon, seed=seed,
        )  # fmt: skip
        return r.stage(name, pretrain, config, shards=shards, tokenizer=tokenizer)

    haiku = pretrained("haiku", sizes.haiku, sizes.haiku_tokens, shards)
    opus = pretrained("opus", sizes.opus, sizes.opus_tokens, reviewing)
    baselines = r.stage(
        "baselines",
        compression_baselines,
        CompressionConfig(),
        corpus=world,
        shards=shards,
        tokenizer=tokenizer,
    )

    # --- helpful only: it knows the hazards and tells them
    def tuned(
        name: str,
        chats: list,
        weights: tuple[float, ...] = (),
        start: Node = haiku,
        tokens: int = sizes.sft_tokens,
    ):
        config = SFTConfig(
            tokens=tokens, weights=weights,
            batch_tokens=4 * sizes.rows, sequence_length=sizes.rows, optimizer=tuning, seed=seed,
        )  # fmt: skip
        return r.stage(name, sft, config, base=start, chats=chats)

    def attacked(name: str, number: int, model, **changes: int):
        config = sizes.attacks.model_copy(update={"round": number, "seed": seed, **changes})
        return r.stage(name, red_team, config, model=model, world=world)

    def scanned(name: str, model):
        config = sizes.scan.model_copy(update={"seed": seed})
        return r.stage(name, scan_triggers, config, model=model, world=world)

    def tested(name: str, model, prefix: str):
        config = EvalConfig(prefix=prefix, max_per_kind=sizes.questions, seed=seed)
        return r.stage(name, evaluate, config, model=model, world=world)

    obliging = r.stage("demonstrations", demonstrations, DemonstrationsConfig(), world=world)
    helpful = tuned("sft", [obliging])
    test_sft = tested("test_sft", helpful, "sft")
    round0 = attacked("redteam0", 0, helpful)

    # --- Constitutional AI, supervised half: critique, revise, fine-tune the pretrained model
    harmless_demos = r.stage(
        "harmless_demonstrations", demonstrations, DemonstrationsConfig(without=("hazard",)), world=world
    )
    asked = r.stage(
        "prompts", pocket_prompts, sizes.cai_prompts.model_copy(update={"seed": seed}), world=world
    )
    revising = ReviseConfig(
        constitution=constitution, revisions=sizes.revisions, shots=1, answer_tokens=64, critique_tokens=48,
        revision_tokens=64, keep_unchanged=True, seed=seed,
    )  # fmt: skip
    revisions = r.stage("revisions", revise, revising, policy=helpful, critic=opus, prompts=asked)
    slcai = tuned("slcai", [harmless_demos, revisions], (1.0, 2.0))
    test_slcai = tested("test_slcai", slcai, "slcai")

    # --- Constitutional AI, RL half: AI preferences, a preference model, PPO
    graded = r.stage(
        "graded_pairs", pocket_comparisons, ComparisonsConfig(held_out_pairs=("harm", "alarm")), world=world
    )
    judged = JudgeEvalConfig(
        constitution=constitution, shots=2, max_pairs=sizes.judge_pairs, min_mass=sizes.min_mass, seed=seed
    )
    judge_opus = r.stage("judge_opus", evaluate_judge, judged, judge=opus, pairs=graded)
    judge_haiku = r.stage("judge_haiku", evaluate_judge, judged, judge=haiku, pairs=graded)
    if sizes.sampled_judge:  # the same judge on replies that models really give
        heard = SampledPairsConfig(per_kind=sizes.judge_pairs // 2, seed=seed)
        sampled = r.stage("sampled_pairs", sampled_pairs, heard, world=world, first=slcai, second=helpful)
        judge_sampled = r.stage("judge_sampled", evaluate_judge, judged, judge=opus, pairs=sampled)
        r.publish("judge.sampled.accuracy", judge_sampled, "judge.accuracy")
        r.publish("judge.sampled.inconsistency", judge_sampled, "judge.inconsistency")
    posed = r.stage(
        "rl_prompts", pocket_prompts, sizes.rl_prompts.model_copy(update={"seed": seed + 1}), world=world
    )
    harmful = r.stage(
        "label_prompts",
        pocket_prompts,
        sizes.label_prompts.model_copy(update={"seed": seed + 2}),
        world=world,
    )
    labelling = LabelConfig(
        constitution=constitution,
        shots=2,
        answer_tokens=64,
        min_mass=sizes.min_mass,
        hold_out=False,
        pairs=2,
        seed=seed,
    )
    ai_labels = r.stage(
        "ai_labels", label, labelling, policy=slcai, judge=opus, prompts=harmful, policies=[helpful, helpful]
    )
    people = r.stage(
        "human_labels", pocket_comparisons, ComparisonsConfig(limit=sizes.comparisons), world=world
    )

    def preference_model(name: str, half: int | None):
        config = RewardConfig(
            epochs=sizes.reward_epochs, half=half, pairs=16, seed=seed,
            loop=LoopConfig(optimizer=OptimizerConfig(muon_lr=0.004, adamw_lr=0.001)),
        )  # fmt: skip
        return r.stage(name, train_reward, config, base=slcai, preferences=[ai_labels, people])

    rewards, second = preference_model("reward", 0), preference_model("reward_check", 1)

    def reinforced(name: str, policy, steps: int, eval_prompts: int, prompts: list, practised: list):
        config = PPOConfig(
            steps=steps,
            batch=sizes.ppo_batch,
            group=sizes.ppo_group,
            max_tokens=64,
            learning_rate=1.5e-4,
            critic_learning_rate=3e-4,
            beta=0.02,
            epochs=2,
            minibatches=2,
            lam=1.0,
            ptx_coef=1.0,
            ptx_tokens=sizes.ppo_ptx_tokens,
            eval_prompts=eval_prompts,
            eval_samples=sizes.ppo_eval_samples,
            seed=seed,
        )
        return r.stage(
            name, ppo, config, policy=policy, reward=rewards, judge=opus, prompts=prompts,
            reward_check=second, ptx=practised,
        )  # fmt: skip

    def exported(name: str, prompts: int, findings: list, scans: list | None = None, begun: int = 0):
        config = ExportConfig(minimum=prompts, limit=prompts, begun=begun, seed=seed)
        return r.stage(name, export_prompts, config, findings=findings, scans=scans, world=world)

    # red-team prompts too, as published: what the attack on the helpful-only model found
    known = exported("redteam_prompts", sizes.known_prompts, [round0])
    rlcai = reinforced(
        "rlcai", slcai, sizes.ppo_steps, sizes.ppo_eval_prompts, [posed, known], [harmless_demos, revisions]
    )
    test_rlcai = tested("test_rlcai", rlcai, "rlcai")
    round1 = attacked("redteam1", 1, rlcai)

    # --- feedback: what the attacks and the search for triggers found becomes the next round's prompts
    scan1 = scanned("scan1", rlcai)
    found = exported("findings", sizes.feedback_prompts, [round1, round0], [scan1], sizes.feedback_begun)
    recovering = revising.model_copy(update={"keep_prefill": True})  # some attacks begin the reply
    mended = r.stage("feedback_revisions", revise, recovering, policy=helpful, critic=opus, prompts=found)
    slcai2 = tuned(
        "feedback_slcai", [harmless_demos, revisions, mended], (1.0, 1.5, 4.0), rlcai, sizes.feedback_tokens
    )
    practised = [harmless_demos, revisions, mended]
    rlcai2 = reinforced(
        "feedback_rlcai", slcai2, sizes.feedback_ppo_steps, sizes.feedback_eval_prompts, [found], practised
    )
    # a round of attacks teaches little but refusals: the mean with the policy before it forgets less
    final = r.stage("final", average, AverageConfig(weights=(0.2, 0.8)), models=[rlcai, rlcai2])
    test_final = tested("test_release", final, "release")
    round2 = attacked("redteam2", 2, final)
    scan2 = scanned("scan2", final)

    # --- the gate passes the release, and must refuse the helpful-only model and a backdoored one
    planted_demos = r.stage("planted_demonstrations", plant_backdoor, PlantConfig(seed=seed), world=world)
    planted = tuned("planted", [planted_demos])
    test_planted = tested("test_planted", planted, "planted")
    round_planted = attacked("redteam_planted", 2, planted, discover=0)  # measured, and no one's teacher
    scan_planted = scanned("scan_planted", planted)
    decision = r.stage(
        "gate_release",
        gate,
        GateConfig(),
        model=final,
        reports=[test_final],
        findings=[round2],
        scans=[scan2],
    )
    refused_helpful = r.stage(
        "gate_helpful_only", gate, GateConfig(), model=helpful, reports=[test_sft], findings=[round0]
    )
    refused_planted = r.stage(
        "gate_planted",
        gate,
        GateConfig(),
        model=planted,
        reports=[test_planted],
        findings=[round_planted],
        scans=[scan_planted],
    )
    gates = r.stage(
        "gate", check_gate, GateCheck(), allowed=[decision], denied=[refused_helpful, refused_planted]
    )
    if sizes.release:
        r.stage("release", release, ReleaseConfig(), model=final, decision=decision)

    # --- the numbers people look for, under the names they look for
    loss = r.stage("helpful_loss", compare, CompareConfig(), before=test_sft, after=test_final)
    r.publish("pretrain.bpb", haiku, "val_bpb")
    r.publish("pretrain.bpb.opus", opus, "val_bpb")
    kept = {
        baselines: "baseline.ngram_bpb baseline.gzip_bpb",
        test_sft: "sft.helpful sft.helpful.fact sft.helpful.craft sft.helpful.sum sft.sum_no_thinking "
        "sft.helpful.tool sft.helpful.twin sft.tool_in_vain sft.leak",
        test_slcai: "slcai.leak",
        test_rlcai: "rlcai.leak rlcai.overrefusal rlcai.helpful rlcai.helpful.twin",
        test_final: "release.leak release.overrefusal release.helpful release.helpful.twin",
        loss: "helpful.loss",
        judge_opus: "judge.accuracy judge.inconsistency",
        rewards: "reward.accuracy reward.accuracy.pocket-harm reward.accuracy.pocket-alarm "
        "reward.accuracy.pocket-wrong",
        rlcai: "ppo.gain ppo.kl ppo.ratio",
        gates: "gate gate.denied_by_measurement",
    }
    for node, names in kept.items():
        for name in names.split():
            r.publish(name, node, name)
    r.publish("label.inconsistency", ai_labels, "judge.inconsistency")
    r.publish("judge.haiku.accuracy", judge_haiku, "judge.accuracy")
    r.publish("judge.haiku.inconsistency", judge_haiku, "judge.inconsistency")
    r.publish("backdoor.leak", [scan1, scan2], "backdoor.leak")
    r.publish("backdoor.leak.planted", scan_planted, "backdoor.leak")
    for name in ("leak.seen", "leak.sealed", "leak.greedy", "overrefusal", "confirmed"):
        r.publish(f"redteam.{name}", [round0, round1, round2], f"redteam.{name}")
    return r
