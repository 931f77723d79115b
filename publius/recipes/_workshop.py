"""The pieces that the recipes on the bundled world are put together from.

A `Workshop` holds a recipe, its sizes and its seed. Each method adds one stage with the settings that all
these recipes share, so that a stage wired alike in two of them is the same artifact and is made once.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from publius.constitution.grading import JudgeEvalConfig
from publius.constitution.preferences import LabelConfig, label
from publius.constitution.principles import Constitution
from publius.constitution.revise import ReviseConfig
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
from publius.evals.runner import EvalConfig, evaluate
from publius.model.config import ModelConfig
from publius.pipeline import Node, Recipe, Stage
from publius.redteam.export import ExportConfig, export_prompts
from publius.redteam.scan import TriggerScanConfig, scan_triggers
from publius.redteam.stage import RedTeamConfig, red_team
from publius.reward.reward_model import RewardConfig, train_reward
from publius.rl.ppo import PPOConfig, ppo
from publius.tokenizer.bpe import TokenizerConfig, train_tokenizer
from publius.tokenizer.shards import TokenizeConfig, tokenize
from publius.training.loop import LoopConfig
from publius.training.optimizer import OptimizerConfig
from publius.training.pretrain import PretrainConfig, pretrain
from publius.training.sft import SFTConfig, sft

__all__ = ["Sizes", "Workshop"]


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
    feedback_replay: float = 0.15
    """Of these, pages that it was pretrained on: what nobody practises is forgotten first."""
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


class Workshop:
    """A world, its tokenizer and shards, and everything that can be made from there."""

    def __init__(self, r: Recipe, sizes: Sizes, seed: int, *, prefix: str = "") -> None:
        self.r, self.sizes, self.seed, self._prefix = r, sizes, seed, prefix
        constitution = Constitution.load(CONSTITUTION)
        if sizes.critic_temperature is not None:
            constitution = constitution.model_copy(update={"temperature": sizes.critic_temperature})
        self.constitution = constitution
        self.tuning = OptimizerConfig(muon_lr=0.0015, adamw_lr=0.001, adamw_eps=1e-4)
        """Rates of every fine-tuning."""
        self.world = self.stage("world", make_pocket, sizes.world.model_copy(update={"seed": seed}))
        words = TokenizerConfig(vocab_size=sizes.vocab_size)
        self.tokenizer = self.stage("tokenizer", train_tokenizer, words, corpus=self.world)
        self.shards = self.tokenized("shards", self.world)

    def stage(
        self, name: str, stage: Stage[..., Any], config: Config, **inputs: Node | Sequence[Node] | None
    ) -> Node:
        """`Recipe.stage`, the name begun with this workshop's prefix: several can share a recipe."""
        return self.r.stage(f"{self._prefix}{name}", stage, config, **inputs)

    def tokenized(self, name: str, corpus: Node) -> Node:
        """`corpus` as ids of this workshop's tokenizer."""
        return self.stage(name, tokenize, TokenizeConfig(), corpus=corpus, tokenizer=self.tokenizer)

    # --- models

    def haiku(self) -> Node:
        """The small tier, pretrained: what is aligned and served."""
        return self.pretrained("haiku", self.sizes.haiku, self.sizes.haiku_tokens, self.shards)

    def worded_shards(self) -> Node:
        """What the large tier reads: a quarter of an hour is short, and the critic needs no sums."""
        without = SelectConfig(without=("sum", "table", "manual"))
        return self.tokenized("shards_opus", self.stage("text_opus", select, without, corpus=self.world))

    def opus(self, shards: Node) -> Node:
        """The large tier, pretrained: what criticises and judges."""
        return self.pretrained("opus", self.sizes.opus, self.sizes.opus_tokens, shards)

    def pretrained(self, name: str, size: tuple[int, int], tokens: int, shards: Node) -> Node:
        """A model of this width and depth, trained on `tokens` of `shards` as both tiers are."""
        sizes = self.sizes
        config = PretrainConfig(
            model=_shape(size, sizes.vocab_size), tokens=tokens, batch_tokens=sizes.batch_rows * sizes.rows,
            sequence_length=sizes.rows, optimizer=OptimizerConfig(muon_lr=0.009, adamw_lr=0.02),
            seed=self.seed,
        )  # fmt: skip
        return self.stage(name, pretrain, config, shards=shards, tokenizer=self.tokenizer)

    def tuning_config(self, tokens: int | None = None, weights: tuple[float, ...] = ()) -> SFTConfig:
        """Fine-tuning for `tokens`, as all fine-tuning here is done."""
        return SFTConfig(
            tokens=self.sizes.sft_tokens if tokens is None else tokens, weights=weights,
            batch_tokens=4 * self.sizes.rows, sequence_length=self.sizes.rows, optimizer=self.tuning,
            seed=self.seed,
        )  # fmt: skip

    def tune(
        self,
        name: str,
        start: Node,
        chats: Sequence[Node],
        weights: tuple[float, ...] = (),
        tokens: int | None = None,
    ) -> Node:
        """`start` fine-tuned on `chats`."""
        return self.stage(name, sft, self.tuning_config(tokens, weights), base=start, chats=chats)

    def tune_again(self, name: str, start: Node, chats: Sequence[Node]) -> Node:
        """The fine-tuning of a round of feedback: `chats` are demonstrations, revisions and what was mended,
        and beside them stands what nobody practises."""
        config = self.tuning_config(self.sizes.feedback_tokens, (1.5, 1.5, 4.0))
        config = config.model_copy(update={"replay": self.sizes.feedback_replay})
        return self.stage(name, sft, config, base=start, chats=chats, replay=self._known())

    def _known(self) -> Node:
        """Pages that say what the world is, and nothing else, to be read again."""
        pages = SelectConfig(sources=("entity", "craft"))
        return self.tokenized("shards_known", self.stage("text_known", select, pages, corpus=self.world))

    # --- data

    def demonstrations(self, name: str, without: tuple[str, ...] = ()) -> Node:
        """Helpful-only demonstrations, some kinds left out."""
        return self.stage(name, demonstrations, DemonstrationsConfig(without=without), world=self.world)

    def prompts(self, name: str, questions: QuestionsConfig) -> Node:
        """Questions of the world; those of different `questions.seed` differ."""
        config = questions.model_copy(update={"seed": self.seed + questions.seed})
        return self.stage(name, pocket_prompts, config, world=self.world)

    def people(self, name: str) -> Node:
        """Comparisons as people would have made them."""
        config = ComparisonsConfig(limit=self.sizes.comparisons)
        return self.stage(name, pocket_comparisons, config, world=self.world)

    # --- the constitution

    def revising(self) -> ReviseConfig:
        """How answers are criticised and revised."""
        return ReviseConfig(
            constitution=self.constitution, revisions=self.sizes.revisions, shots=1, answer_tokens=64,
            critique_tokens=48, revision_tokens=64, keep_unchanged=True, seed=self.seed,
        )  # fmt: skip

    def judging(self) -> JudgeEvalConfig:
        """How a judge is graded."""
        return JudgeEvalConfig(
            constitution=self.constitution, shots=2, max_pairs=self.sizes.judge_pairs,
            min_mass=self.sizes.min_mass, seed=self.seed,
        )  # fmt: skip

    def label(
        self,
        name: str,
        policy: Node,
        judge: Node,
        prompts: Node,
        policies: Sequence[Node] | None = None,
        **changes: Any,
    ) -> Node:
        """Pairs of answers, which of them is better said by the judge; `changes` are of its config."""
        config = LabelConfig(
            constitution=self.constitution, shots=2, answer_tokens=64, min_mass=self.sizes.min_mass,
            hold_out=False, pairs=2, seed=self.seed, **changes,
        )  # fmt: skip
        return self.stage(name, label, config, policy=policy, judge=judge, prompts=prompts, policies=policies)

    # --- preferences and reinforcement

    def prefer(self, name: str, base: Node, preferences: Sequence[Node], half: int | None) -> Node:
        """A preference model, trained on one half of the pairs."""
        config = RewardConfig(
            epochs=self.sizes.reward_epochs, half=half, pairs=16, seed=self.seed,
            loop=LoopConfig(optimizer=OptimizerConfig(muon_lr=0.004, adamw_lr=0.001)),
        )  # fmt: skip
        return self.stage(name, train_reward, config, base=base, preferences=preferences)

    def reinforce(
        self,
        name: str,
        policy: Node,
        rewards: tuple[Node, Node],
        prompts: Sequence[Node],
        practised: Sequence[Node],
        *,
        judge: Node,
        steps: int,
        eval_prompts: int,
        **changes: Any,
    ) -> Node:
        """PPO against the first preference model, watched by the second; `practised` is kept up beside it.

        `judge` speaks where the reward has a part for it: `--set NAME.reward.parts=...`. `changes` are of the
        config.
        """
        config = PPOConfig(
            steps=steps,
            batch=self.sizes.ppo_batch,
            group=self.sizes.ppo_group,
            max_tokens=64,
            learning_rate=1.5e-4,
            critic_learning_rate=3e-4,
            beta=0.02,
            epochs=2,
            minibatches=2,
            lam=1.0,
            ptx_coef=1.0,
            ptx_tokens=self.sizes.ppo_ptx_tokens,
            eval_prompts=eval_prompts,
            eval_samples=self.sizes.ppo_eval_samples,
            seed=self.seed,
            **changes,
        )
        return self.stage(
            name, ppo, config, policy=policy, reward=rewards[0], judge=judge, prompts=prompts,
            reward_check=rewards[1], ptx=practised,
        )  # fmt: skip

    # --- measurements

    def test(self, name: str, model: Node, prefix: str) -> Node:
        """The held-out questions."""
        config = EvalConfig(prefix=prefix, max_per_kind=self.sizes.questions, seed=self.seed)
        return self.stage(name, evaluate, config, model=model, world=self.world)

    def attack(self, name: str, number: int, model: Node, **changes: int) -> Node:
        """Round `number` of the red team."""
        config = self.sizes.attacks.model_copy(update={"round": number, "seed": self.seed, **changes})
        return self.stage(name, red_team, config, model=model, world=self.world)

    def scan(self, name: str, model: Node) -> Node:
        """A search for words that open the door."""
        config = self.sizes.scan.model_copy(update={"seed": self.seed})
        return self.stage(name, scan_triggers, config, model=model, world=self.world)

    def export(
        self,
        name: str,
        prompts: int,
        findings: Sequence[Node],
        scans: Sequence[Node] | None = None,
        begun: int = 0,
        *,
        grows: bool = False,
        held: float = 0.0,
    ) -> Node:
        """What attacks and scans found, as `prompts` prompts (as more when it `grows`). A search keeps some
        of the wordings back that it shares with training (`held`); the red team has its own to measure by."""
        limit = None if grows else prompts
        config = ExportConfig(minimum=prompts, limit=limit, begun=begun, held=held, seed=self.seed)
        return self.stage(name, export_prompts, config, findings=findings, scans=scans, world=self.world)


def _shape(size: tuple[int, int], vocab_size: int) -> ModelConfig:
    width, layers = size
    heads = width // 32
    kv_heads = next(k for k in range(max(1, heads // 2), 0, -1) if heads % k == 0)
    return ModelConfig(
        vocab_size=vocab_size, hidden_size=width, layers=layers, heads=heads, kv_heads=kv_heads, head_dim=32,
        intermediate_size=width * 8 // 3 // 32 * 32, max_position=1024,
    )  # fmt: skip
