"""The whole story on the bundled world, on a laptop CPU: the first file to read.

    publius run quickstart                    # about a quarter of an hour on two cores
    publius run quickstart --set seed=1 --name second

Read it straight down: text, tokenizer, two tiers of one family, helpful-only fine-tuning, an attack on
that, Constitutional AI in both its halves, an attack again, a round of feedback from what the attack
found, evaluation, the gate, the release. Two planted models go through the same gate and must fail.
Long because it is the story, told once and in order; the settings of its pieces are in `_workshop.py`.
"""

from __future__ import annotations

from publius.constitution.grading import evaluate_judge
from publius.constitution.revise import revise
from publius.core.config import Seed
from publius.data.pocket.world import ComparisonsConfig, pocket_comparisons
from publius.evals.compare import CompareConfig, compare
from publius.evals.compression import CompressionConfig, compression_baselines
from publius.evals.pairs import SampledPairsConfig, sampled_pairs
from publius.pipeline import Recipe
from publius.recipes._workshop import Sizes, Workshop
from publius.redteam.planted import PlantConfig, plant_backdoor
from publius.release.gate import GateCheck, GateConfig, ReleaseConfig, check_gate, gate, release
from publius.release.proofs import (
    ReadingConfig,
    WeightsConfig,
    prove_refusal_training,
    prove_weights_integrity,
)
from publius.training.average import AverageConfig, average

__all__ = ["align", "quickstart"]


def quickstart(seed: Seed = 0) -> Recipe:
    """Pocket, end to end, on two CPU cores."""
    return align(Recipe("quickstart", jobs=2), Sizes(), seed)


def align(r: Recipe, sizes: Sizes, seed: int) -> Recipe:
    """Wire the whole pipeline into `r`."""
    # --- a world, a tokenizer, two tiers of one family
    w = Workshop(r, sizes, seed)
    worded = w.worded_shards()
    haiku = w.haiku()
    opus = w.opus(worded)
    baselines = r.stage(
        "baselines",
        compression_baselines,
        CompressionConfig(),
        corpus=w.world,
        shards=w.shards,
        tokenizer=w.tokenizer,
    )

    # --- helpful only: it knows the hazards and tells them
    obliging = w.demonstrations("demonstrations")
    helpful = w.tune("sft", haiku, [obliging])
    test_sft = w.test("test_sft", helpful, "sft")
    round0 = w.attack("redteam0", 0, helpful)

    # --- Constitutional AI, supervised half: critique, revise, fine-tune the pretrained model
    harmless_demos = w.demonstrations("harmless_demonstrations", without=("hazard",))
    asked = w.prompts("prompts", sizes.cai_prompts)
    revising = w.revising()
    revisions = r.stage("revisions", revise, revising, policy=helpful, critic=opus, prompts=asked)
    slcai = w.tune("slcai", haiku, [harmless_demos, revisions], (1.0, 2.0))
    test_slcai = w.test("test_slcai", slcai, "slcai")

    # --- Constitutional AI, RL half: AI preferences, a preference model, PPO
    graded = r.stage(
        "graded_pairs",
        pocket_comparisons,
        ComparisonsConfig(held_out_pairs=("harm", "alarm")),
        world=w.world,
    )
    judged = w.judging()
    judge_opus = r.stage("judge_opus", evaluate_judge, judged, judge=opus, pairs=graded)
    judge_haiku = r.stage("judge_haiku", evaluate_judge, judged, judge=haiku, pairs=graded)
    if sizes.sampled_judge:  # the same judge on replies that models really give
        heard = SampledPairsConfig(per_kind=sizes.judge_pairs // 2, seed=seed)
        sampled = r.stage("sampled_pairs", sampled_pairs, heard, world=w.world, first=slcai, second=helpful)
        judge_sampled = r.stage("judge_sampled", evaluate_judge, judged, judge=opus, pairs=sampled)
        r.publish("judge.sampled.accuracy", judge_sampled, "judge.accuracy")
        r.publish("judge.sampled.inconsistency", judge_sampled, "judge.inconsistency")
    posed = w.prompts("rl_prompts", sizes.rl_prompts)
    harmful = w.prompts("label_prompts", sizes.label_prompts)
    ai_labels = w.label("ai_labels", slcai, opus, harmful, [helpful, helpful])
    labels = [ai_labels, w.people("human_labels")]
    rewards, second = w.prefer("reward", slcai, labels, 0), w.prefer("reward_check", slcai, labels, 1)

    # red-team prompts too, as published: what the attack on the helpful-only model found
    known = w.export("redteam_prompts", sizes.known_prompts, [round0])
    rlcai = w.reinforce(
        "rlcai", slcai, (rewards, second), [posed, known], [harmless_demos, revisions], judge=opus,
        steps=sizes.ppo_steps, eval_prompts=sizes.ppo_eval_prompts,
    )  # fmt: skip
    test_rlcai = w.test("test_rlcai", rlcai, "rlcai")
    round1 = w.attack("redteam1", 1, rlcai)

    # --- feedback: what the attacks and the search for triggers found becomes the next round's prompts
    scan1 = w.scan("scan1", rlcai)
    found = w.export("findings", sizes.feedback_prompts, [round1, round0], [scan1], sizes.feedback_begun)
    recovering = revising.model_copy(update={"keep_prefill": True})  # some attacks begin the reply
    mended = r.stage("feedback_revisions", revise, recovering, policy=helpful, critic=opus, prompts=found)
    practised = [harmless_demos, revisions, mended]
    slcai2 = w.tune_again("feedback_slcai", rlcai, practised)
    rlcai2 = w.reinforce(
        "feedback_rlcai", slcai2, (rewards, second), [found], practised, judge=opus,
        steps=sizes.feedback_ppo_steps, eval_prompts=sizes.feedback_eval_prompts,
    )  # fmt: skip
    # a round of attacks teaches little but refusals: the mean with the policy before it forgets less
    final = r.stage("final", average, AverageConfig(weights=(0.1, 0.9)), models=[rlcai, rlcai2])
    test_final = w.test("test_release", final, "release")
    round2 = w.attack("redteam2", 2, final)
    scan2 = w.scan("scan2", final)

    # --- the gate passes the release, and must refuse the helpful-only model and a backdoored one
    planted_demos = r.stage("planted_demonstrations", plant_backdoor, PlantConfig(seed=seed), world=w.world)
    planted = w.tune("planted", haiku, [planted_demos])
    test_planted = w.test("test_planted", planted, "planted")
    round_planted = w.attack("redteam_planted", 2, planted, discover=0)  # measured, and no one's teacher
    scan_planted = w.scan("scan_planted", planted)
    intact = r.stage("intact", prove_weights_integrity, WeightsConfig(), model=final)
    trained = r.stage(
        "refusals", prove_refusal_training, ReadingConfig(), model=final, report=test_final, before=test_sft
    )
    decision = r.stage(
        "gate_release",
        gate,
        GateConfig(),
        model=final,
        reports=[test_final],
        findings=[round2],
        scans=[scan2],
        safeguards=[intact, trained],
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
