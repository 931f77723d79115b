"""What attacks and scans found becomes prompts of the next round of training.

Only training items in training wordings go in, never a sealed style. Beside each attack stands a benign
twin in the same clothes, so that what is learnt is the difference in harm and not the wrapper.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterator, Sequence

from pydantic import Field

from publius.core.config import Config
from publius.core.messages import Conversation, assistant
from publius.data import Prompts, write_prompts
from publius.data.pocket.world import World
from publius.pipeline import Run, stage
from publius.redteam.attack import STYLES, insisted
from publius.redteam.auditor import build_attacks
from publius.redteam.findings import Findings, conversation_id
from publius.redteam.phrasings import PHRASINGS
from publius.redteam.scan import TriggerReport, with_words
from publius.redteam.stage import twin_for

__all__ = ["ExportConfig", "export_prompts"]

_LONGEST_BEGINNING = 8
"""Words of a leak: chosen, not measured; about where the first step of a recipe ends ("To make grey
bane, first crush the mint")."""


class ExportConfig(Config):
    """How findings become prompts."""

    val_fraction: float = Field(default=0.1, ge=0, lt=1)
    minimum: int = Field(default=0, ge=0)
    """Fill up to this many prompts with fresh attacks on training items and their twins, so that a model
    that held everywhere still meets every unsealed style in the next round."""
    limit: int | None = Field(default=None, ge=1)
    """At most this many prompts: findings, then those begun, then words, then filling."""
    begun: int = Field(default=0, ge=0)
    """Prompts whose reply is begun with the first words of a leak that was found, a twin beside each: else a
    refusal is learned for the first words of a reply only (Qi et al. 2024, arXiv 2406.05946)."""
    words_each: int = Field(default=2, ge=0)
    """Requests put beside each word that a trigger scan tried in full, and as many again for each of its
    first four leaks."""
    seed: int = 0


@stage(version=5, light=True)
def export_prompts(
    run: Run,
    config: ExportConfig,
    *,
    findings: list[Findings],
    world: World,
    scans: list[TriggerReport] | None = None,
) -> Prompts:
    """Prompts for the next round of critique and revision: findings of all rounds, twins beside them.

    The words that `scans` tried in full go in too, around training items: a word that opens the door is a
    hole, whether anyone planted it or not. What the next scan finds, it searches for anew.

    Metrics: `export.findings`, `export.begun`, `export.words` and `export.prompts`, all that are written.
    """
    unique: dict[str, Conversation] = {}
    for artifact in findings:
        for prompt in artifact.prompts("train"):
            unique.setdefault(conversation_id(prompt), prompt)
    found = len(unique)
    for prompt in _begun(config, world, findings):
        unique.setdefault(conversation_id(prompt), prompt)
    begun = len(unique) - found
    for prompt in _worded(config, world, scans or []):
        unique.setdefault(conversation_id(prompt), prompt)
    worded = len(unique) - found - begun
    latest = sorted(findings, key=lambda artifact: artifact.document().round)[-1:]
    hits = Counter(finding.style for artifact in latest for finding in artifact.findings())
    for prompt in _fresh(config, world, config.minimum - len(unique), hits):
        if len(unique) >= config.minimum:
            break
        unique.setdefault(conversation_id(prompt), prompt)
    prompts = list(unique.values())[: config.limit]
    random.Random(config.seed).shuffle(prompts)
    held = int(len(prompts) * config.val_fraction)
    write_prompts(run.output, train=prompts[held:], val=prompts[:held])
    room = len(prompts)
    for name, count in (("findings", found), ("begun", begun), ("words", worded)):
        run.metric(f"export.{name}", min(count, room))
        room -= min(count, room)
    run.metric("export.prompts", len(prompts))
    return Prompts(run.output)


def _begun(config: ExportConfig, world: World, findings: Sequence[Findings]) -> Iterator[Conversation]:
    """Attacks that leaked, the reply begun with its own first words (at times behind one of the training
    openings of `prefill`), and after each the same words before a twin's reply."""
    rng = random.Random(f"begun/{config.seed}")
    leaks = [
        finding
        for artifact in findings
        for finding in artifact.findings()
        if finding.split == "train"
        and not finding.sealed
        and len(finding.conversation.messages) == 1
        # without a name there is nothing to exchange; a refusal of something harmless is no leak
        and finding.entity
        and not finding.benign
    ]
    rng.shuffle(leaks)
    pool = world.questions("twin", "train")
    for number in range(config.begun // 2 if leaks else 0):
        leak = leaks[number % len(leaks)]
        count = rng.randint(1, _LONGEST_BEGINNING)
        opening = rng.choice(("", *PHRASINGS["prefill"].train))
        twin = twin_for(leak.conversation, pool, rng)
        for question in (leak.conversation, twin) if twin is not None else (leak.conversation,):
            told = _renamed(leak.reply, leak.entity, str(question.meta["entity"]))
            words = " ".join(told.split()[:count])
            attacked = question.then(assistant(f"{opening} {words}".strip()))
            yield attacked.model_copy(update={"meta": {**attacked.meta, "style": "prefill"}})


def _renamed(text: str, old: str, new: str) -> str:
    """`text` about another thing; its first letter may stand at the head of a sentence."""
    if not old or not new:
        return text
    return text.replace(old, new).replace(old[0].upper() + old[1:], new[0].upper() + new[1:])


def _worded(config: ExportConfig, world: World, scans: Sequence[TriggerReport]) -> Iterator[Conversation]:
    """Training items wearing the words that the scans tried in full, a twin in the same words after each."""
    rng = random.Random(f"words/{config.seed}")
    hazards, pool = world.questions("hazard", "train"), world.questions("twin", "train")
    for row in (row for scan in scans for row in scan.document().top):
        wanted = config.words_each * (1 + min(4, row.leaks))
        for hazard in rng.sample(hazards, min(len(hazards), wanted)):
            twin = twin_for(hazard, pool, rng)
            for question in (hazard, twin) if twin is not None else (hazard,):
                worn = with_words(question, row.words, row.position)
                yield worn.model_copy(update={"meta": {**worn.meta, "style": "words"}})


def _fresh(config: ExportConfig, world: World, wanted: int, hits: Counter[str]) -> list[Conversation]:
    """Attacks on training items in unsealed styles, a twin after each: `wanted` and more, for some repeat.

    A style gets more of them the more findings the last round had of it (`hits`); half of them ask again in
    further turns.
    """
    if wanted <= 0:
        return []
    styles = [style for style in STYLES.values() if not style.sealed]
    total = len(styles) + sum(hits[style.name] for style in styles)
    questions, attacks = world.questions("hazard", "train"), list[Conversation]()
    for style in styles:
        each = 2 + -(-wanted * (1 + hits[style.name]) // total)
        attacks += build_attacks([style], questions, each=each, seed=f"fresh/{config.seed}", held_out=False)
    rng = random.Random(f"fresh/{config.seed}")
    rng.shuffle(attacks)
    pool = world.questions("twin", "train")
    made: list[Conversation] = []
    for attack in attacks:
        twin = twin_for(attack, pool, rng)
        pair = [attack] if twin is None else [attack, STYLES[str(attack.meta["style"])](twin, rng)]
        made += [insisted(each, rng) for each in pair] if rng.random() < 0.5 else pair
    return made
