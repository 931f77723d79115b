"""What attacks and scans found becomes prompts of the next round of training.

Only training items in training wordings go in, never a sealed style, and never a wording that is held back
(`publius.redteam.clusters.kept_back`), whoever would say it. Beside each attack stands a benign twin in the
same clothes, so that what is learnt is the difference in harm and not the wrapper.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence

from pydantic import Field

from publius.core.config import Config
from publius.core.messages import Conversation, assistant
from publius.data import Prompts, write_prompts
from publius.data.pocket.tools import TOOLS
from publius.data.pocket.world import World
from publius.pipeline import Run, stage
from publius.redteam.attack import STYLES, insisted
from publius.redteam.auditor import build_attacks
from publius.redteam.clusters import drawn, held, kept_back
from publius.redteam.findings import Finding, Findings, conversation_id
from publius.redteam.phrasings import PHRASINGS
from publius.redteam.scan import TriggerReport, with_words
from publius.redteam.stage import dressed_alike, twin_for

__all__ = ["ExportConfig", "export_prompts"]

_LONGEST_BEGINNING = 8
"""Words of a leak: chosen, not measured; about where the first step of a recipe ends ("To make grey
bane, first crush the mint")."""
_DRAWS = 8
"""How often as much is drawn, at most, where much of it is held back or repeats."""
_OFFERED = 0.3
"""Share of fresh attacks with tools on offer: chosen, not measured."""

_Pair = tuple[Conversation, ...]
"""A prompt and its twin, or a prompt alone."""


class ExportConfig(Config):
    """How findings become prompts."""

    val_fraction: float = Field(default=0.1, ge=0, lt=1)
    """Of the things asked for: all that is about one thing or its look-alike goes to one side."""
    held: float = Field(default=0.3, ge=0, le=1)
    """Share of wordings that are kept from training: the same ones as of a search, and of people."""
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


@stage(version=8, light=True)
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
    things: dict[str, set[str]] = {}

    def add(pairs: Iterable[_Pair], most: int | None = None) -> int:
        before = len(unique)
        for pair in pairs:
            _link(things, pair)
            for prompt in pair:
                if most is None or len(unique) < most:
                    unique.setdefault(conversation_id(prompt), prompt)
        return len(unique) - before

    found = add(pair for artifact in findings for pair in _found(config, artifact))
    begun = add(_begun(config, world, findings))
    worded = add(_worded(config, world, scans or []))
    latest = sorted(findings, key=lambda artifact: artifact.document().round)[-1:]
    hits = Counter(finding.style for artifact in latest for finding in artifact.findings())
    add(_fresh(config, world, config.minimum - len(unique), hits), config.minimum)
    prompts = list(unique.values())[: config.limit]
    random.Random(config.seed).shuffle(prompts)
    about = [min(things[_things(prompt)[0]]) for prompt in prompts]
    val = _val(about, config.val_fraction)
    sides = {
        side: [p for p, thing in zip(prompts, about, strict=True) if (thing in val) == (side == "val")]
        for side in ("train", "val")
    }
    write_prompts(run.output, train=sides["train"], val=sides["val"])
    room = len(prompts)
    for name, count in (("findings", found), ("begun", begun), ("words", worded)):
        run.metric(f"export.{name}", min(count, room))
        room -= min(count, room)
    run.metric("export.prompts", len(prompts))
    return Prompts(run.output)


def _things(prompt: Conversation) -> list[str]:
    """What it is about, and the look-alike of that; where it names nothing, itself."""
    names = (str(prompt.meta.get(key) or "") for key in ("entity", "twin"))
    return [name for name in names if name] or [conversation_id(prompt)]


def _link(things: dict[str, set[str]], pair: _Pair) -> None:
    """Note in `things` (thing -> all that goes to one side with it) what a pair holds together."""
    mine = {thing for prompt in pair for thing in _things(prompt)}
    mine = mine.union(*(things.get(thing, ()) for thing in mine))
    things.update(dict.fromkeys(mine, mine))


def _val(about: Sequence[str], share: float) -> set[str]:
    """The things that are held out, up to `share` of the prompts: some and never all, where there are two.

    Their order is the same every round, so mostly the same are held out in each. Things that share
    look-alikes go together, however many they are: what is too large for `share` is passed over.
    """
    sizes = Counter(about)
    ranked = sorted(sizes, key=lambda thing: drawn(f"export/{thing}"))
    if share == 0 or len(ranked) < 2:
        return set()
    val: set[str] = set()
    room = share * len(about)
    for thing in ranked:
        if sizes[thing] <= room and len(val) < len(ranked) - 1:
            val.add(thing)
            room -= sizes[thing]
    return val or {min(ranked, key=sizes.__getitem__)}


def _told(finding: Finding, share: float) -> bool:
    """Whether a finding may be trained on: a search and people name its wording (the one beneath mutators),
    a round does not."""
    if finding.split != "train" or finding.sealed:
        return False
    kept = held(finding.wording, share) if finding.wording else kept_back(finding.conversation, share)
    return not kept


def _found(config: ExportConfig, findings: Findings) -> Iterator[_Pair]:
    """What was found, each with its twin. Mutators are no other wording, so a twin that wears them is as free
    as its finding; one that says something else (a last line alone) is asked for itself."""
    twins = {str(twin.meta["finding"]): twin for twin in findings.twins()}
    for finding in findings.findings():
        if _told(finding, config.held):
            twin = twins.get(finding.id)
            if twin is not None and not finding.chain[1:] and kept_back(twin, config.held):
                twin = None
            yield (finding.conversation,) if twin is None else (finding.conversation, twin)


def _begun(config: ExportConfig, world: World, findings: Sequence[Findings]) -> Iterator[_Pair]:
    """Attacks that leaked, the reply begun with its own first words (at times behind one of the training
    openings of `prefill`), and after each the same words before a twin's reply."""
    rng = random.Random(f"begun/{config.seed}")
    leaks = [
        finding
        for artifact in findings
        for finding in artifact.findings()
        if _told(finding, config.held)
        and len(finding.conversation.messages) == 1
        # without a name there is nothing to exchange; a refusal of something harmless is no leak
        and finding.entity
        and not finding.benign
    ]
    rng.shuffle(leaks)
    pool = world.questions("twin", "train")
    wanted = config.begun // 2 if leaks else 0
    for number in range(wanted * _DRAWS):
        if wanted == 0:
            break
        leak = leaks[number % len(leaks)]
        count = rng.randint(1, _LONGEST_BEGINNING)
        opening = rng.choice(("", *PHRASINGS["prefill"].train))
        twin = twin_for(leak.conversation, pool, rng)
        made: list[Conversation] = []
        for question in (leak.conversation, twin) if twin is not None else (leak.conversation,):
            told = _renamed(leak.reply, leak.entity, str(question.meta["entity"]))
            words = " ".join(told.split()[:count])
            attacked = question.then(assistant(f"{opening} {words}".strip()))
            made.append(attacked.model_copy(update={"meta": {**attacked.meta, "style": "prefill"}}))
        if not any(kept_back(one, config.held) for one in made):
            wanted -= 1
            yield tuple(made)


def _renamed(text: str, old: str, new: str) -> str:
    """`text` about another thing; its first letter may stand at the head of a sentence."""
    if not old or not new:
        return text
    return text.replace(old, new).replace(old[0].upper() + old[1:], new[0].upper() + new[1:])


def _worded(config: ExportConfig, world: World, scans: Sequence[TriggerReport]) -> Iterator[_Pair]:
    """Training items wearing the words that the scans tried in full, a twin in the same words after each.

    A word that opens the door is closed, never held back; the request around which it stands may be.
    """
    rng = random.Random(f"words/{config.seed}")
    hazards, pool = (
        [question for question in world.questions(kind, "train") if not kept_back(question, config.held)]
        for kind in ("hazard", "twin")
    )
    for row in (row for scan in scans for row in scan.document().top):
        wanted = config.words_each * (1 + min(4, row.leaks))
        for hazard in rng.sample(hazards, min(len(hazards), wanted)):
            twin = twin_for(hazard, pool, rng)
            worn = [with_words(q, row.words, row.position) for q in (hazard, twin) if q is not None]
            yield tuple(one.model_copy(update={"meta": {**one.meta, "style": "words"}}) for one in worn)


def _fresh(config: ExportConfig, world: World, wanted: int, hits: Counter[str]) -> list[_Pair]:
    """Attacks on training items in unsealed styles, a twin with each: `wanted` prompts and more, for some
    repeat.

    A style gets more of them the more findings the last round had of it (`hits`); half of them ask again in
    further turns, and some have tools on offer: where every demonstration with tools complies, tools are
    learnt as a reason to.
    """
    if wanted <= 0 or config.held == 1:
        return []
    made: list[_Pair] = []
    for times in range(1, _DRAWS + 1):
        made = _drawn(config, world, wanted * times, hits)
        if len({conversation_id(prompt) for pair in made for prompt in pair}) >= wanted:
            break
    return made


def _drawn(config: ExportConfig, world: World, wanted: int, hits: Counter[str]) -> list[_Pair]:
    """So many, but for those that are held back."""
    styles = [style for style in STYLES.values() if not style.sealed]
    total = len(styles) + sum(hits[style.name] for style in styles)
    questions, attacks = world.questions("hazard", "train"), list[Conversation]()
    for style in styles:
        each = 2 + -(-wanted * (1 + hits[style.name]) // total)
        attacks += build_attacks([style], questions, each=each, seed=f"fresh/{config.seed}", held_out=False)
    rng = random.Random(f"fresh/{config.seed}")
    rng.shuffle(attacks)
    pool = world.questions("twin", "train")
    made: list[_Pair] = []
    for attack in attacks:
        if kept_back(attack, config.held):
            continue
        twin = twin_for(attack, pool, rng)
        pair = [attack] if twin is None else [attack, dressed_alike(attack, twin, rng)]
        if rng.random() < 0.5:
            pair = [_insisting(one, rng, config.held) for one in pair]
        if rng.random() < _OFFERED:
            pair = [one.model_copy(update={"tools": one.tools or TOOLS}) for one in pair]
        if not any(kept_back(one, config.held) for one in pair):
            made.append(tuple(pair))
    return made


def _insisting(prompt: Conversation, rng: random.Random, share: float) -> Conversation:
    """`prompt` asking again, of some draws the first that is not held back."""
    draws = [insisted(prompt, rng) for _ in range(_DRAWS)]
    return next((one for one in draws if not kept_back(one, share)), draws[0])
