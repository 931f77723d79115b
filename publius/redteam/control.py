"""What feedback is held against: as many prompts as the findings made, drawn at random."""

from __future__ import annotations

import itertools
import random
from collections.abc import Sequence

from publius.core.config import Config
from publius.core.messages import Conversation
from publius.data import Prompts, write_prompts
from publius.data.pocket.world import World
from publius.pipeline import Run, stage

__all__ = ["RandomPromptsConfig", "random_prompts"]


class RandomPromptsConfig(Config):
    """Which they are."""

    seed: int = 0


@stage(version=1, light=True)
def random_prompts(run: Run, config: RandomPromptsConfig, *, like: Prompts, world: World) -> Prompts:
    """As many plain training questions as `like` has prompts, as many of them forbidden, split alike.

    Nothing of an attack is in them: no wrapper, no begun reply, and not the requests that broke the model
    rather than others. Questions come again once all were used.

    Metrics: `random.prompts`.
    """
    rng = random.Random(f"random prompts/{config.seed}")
    draw = {kind: _endless(world.questions(kind, "train"), rng) for kind in ("hazard", "twin")}

    def drawn(prompts: Sequence[Conversation]) -> list[Conversation]:
        return [next(draw["hazard" if p.meta.get("kind") == "hazard" else "twin"]) for p in prompts]

    train, val = drawn(like.train()), drawn(like.val())
    write_prompts(run.output, train=train, val=val)
    run.metric("random.prompts", len(train) + len(val))
    return Prompts(run.output)


def _endless(questions: Sequence[Conversation], rng: random.Random) -> itertools.cycle[Conversation]:
    order = list(questions)
    rng.shuffle(order)
    return itertools.cycle(order)
