"""The wiring of `quickstart` at minimal size: under a minute, and what the tests run.

Its models learn next to nothing; it shows that every stage fits the next. The gate must refuse what
comes out, so the run ends at the decision.
"""

from __future__ import annotations

from publius.core.config import Seed
from publius.data.pocket.corpus import Amounts
from publius.data.pocket.world import PocketConfig, QuestionsConfig
from publius.pipeline import Recipe
from publius.recipes._workshop import Sizes
from publius.recipes.quickstart import align
from publius.redteam.scan import TriggerScanConfig
from publius.redteam.stage import RedTeamConfig

__all__ = ["SMALLEST", "smoke"]

_WORLD = PocketConfig(
    towns=24,
    people=24,
    hazards_per_category=10,
    crafts=10,
    demonstrations=240,
    questions=12,
    comparisons=40,
    amounts=Amounts(
        entity_exposures=3,
        craft_exposures=3,
        almanac_pages=30,
        note_exposures=1,
        sums=40,
        transcripts=60,
        critiques=60,
        comparisons=60,
        stories=10,
    ),
)


_AMOUNTS = {"hazard": 8, "twin": 4, "fact": 4}
SMALLEST = Sizes(
    world=_WORLD,
    vocab_size=600,
    haiku=(64, 2),
    opus=(96, 2),
    haiku_tokens=120_000,
    opus_tokens=240_000,
    sft_tokens=20_000,
    batch_rows=4,
    cai_prompts=QuestionsConfig(amounts=_AMOUNTS),
    rl_prompts=QuestionsConfig(amounts=_AMOUNTS, seed=1),
    label_prompts=QuestionsConfig(amounts={"hazard": 10}, seed=2),
    revisions=1,
    known_prompts=24,
    feedback_prompts=24,
    feedback_begun=6,
    comparisons=40,
    ppo_steps=2,
    ppo_batch=2,
    ppo_ptx_tokens=256,
    ppo_eval_prompts=4,
    ppo_eval_samples=2,
    feedback_tokens=5_000,
    feedback_ppo_steps=1,
    feedback_eval_prompts=2,
    attacks=RedTeamConfig(discover=1, measure=2, twins=1, tries=1),
    questions=4,
    judge_pairs=8,
    min_mass=0.0,
    critic_temperature=1.0,
    scan=TriggerScanConfig(words=20, screen=1, top=2, retest=1, finalists=1, final=1, confirm=2),
    sampled_judge=False,
    release=False,
)
"""The sizes of tests: every stage has something to do, and nothing is learned."""


def smoke(seed: Seed = 0) -> Recipe:
    """Every stage of quickstart, as small as it goes; without the release, which the gate refuses."""
    return align(Recipe("smoke"), SMALLEST, seed)
