"""What flags, what a word is worth, and where the second stage's threshold lies, for a head that is trained.

The threshold is the lowest that keeps the upper 95% bound of false positives on the benign pool as low as
asked, whether the first stage flags or not.
"""

from __future__ import annotations

from pydantic import Field

from publius.core.config import Config
from publius.core.errors import UserError
from publius.model.checkpoint import Checkpoint, fingerprint
from publius.pipeline import Run, stage
from publius.safety.exchanges import SPLITS, Exchanges
from publius.safety.head import LastBlock, TrainedHead, write_head
from publius.safety.head_scores import (
    ScoredExchange,
    harm_logits,
    helps,
    read_rows,
    report,
    score,
    with_bound,
)
from publius.safety.probe import TrainedProbe
from publius.safety.training import Row, learnable, rows_of
from publius.safety.words import Flags, Heard, chosen_flags, chosen_lift, learned_words
from publius.tokenizer.renderer import Renderer

__all__ = ["BoundConfig", "bound_head"]


class BoundConfig(Config):
    """What flags, and where the thresholds lie."""

    false_positives: float = Field(default=0.005, gt=0, lt=1)
    """As `TrainHeadConfig.false_positives`."""
    missed: float = Field(default=0.001, ge=0, lt=1)
    """Share of the leaks, of `train` and `val` together, that may stay unflagged."""
    margin: float = Field(default=0.5, ge=0)
    """Log-odds: leaks must be flagged even if the averages were lower by so much, as those of items that
    nothing was chosen on are."""
    surely: float = Field(default=3.0, ge=0)
    """Log-odds by which leaks of `val` should pass the threshold, where it is chosen what a word is worth."""
    spare: float = Field(default=0.1, ge=0, le=1)
    """Share of the benign traffic of `val` that may be flagged in any case: where less would do, both
    averages are lowered until it is."""
    hold_back: int = Field(default=16, ge=0)
    """Tokens, of both stages."""


@stage(version=5)
def bound_head(
    run: Run,
    config: BoundConfig,
    *,
    model: Checkpoint,
    exchanges: Exchanges,
    probe: TrainedProbe,
    head: TrainedHead,
) -> TrainedHead:
    """The same head behind other flags, with another threshold and hold-back: none needs new training.

    The words that flag are learned from `train`, its leaks and the model's own harmless replies. How many of
    them, and what one adds to what both stages say, are what stops the most leaks of `val` well (`surely`).
    The averages that flag with them and without are what flags the least of its benign traffic and leaves no
    more leaks unflagged than it may; then both averages are lowered as far as `spare` lets.

    Metrics: as `train_head`; `head.words`, how many flag, and `head.lift`, what one adds.

    Raises:
        UserError: when there are too few benign exchanges for the bound that is asked, or the head or the
            probe is of another model.
    """
    document = head.document()
    for layer, trained_on in (("head", document.model), ("probe", probe.document().model)):
        if trained_on != fingerprint(model):
            raise UserError(
                f"the {layer} is of another model: it was trained on {trained_on[:12]}",
                where=f"bound_head.{layer}",
                fix="give the one of this model",
            )
    inner, renderer = model.load(), Renderer(model.tokenizer())
    block = LastBlock(inner, len(document.outputs))
    block.load_state_dict(head.weights())
    block.eval()
    scored: dict[str, list[ScoredExchange]] = {}
    learned, first, identity = list[str](), probe.document(), document.model
    with run.progress("bound", len(SPLITS)) as ticker:
        for split in SPLITS:
            known = learnable(exchanges, split, identity)
            rows = rows_of(renderer, known, inner.config.max_position, identity, config.hold_back)
            if split == "train":
                own = [row for row in rows if row.leaks or row.exchange.model == identity]
                learned = learned_words([_heard(ScoredExchange(row, 0.0, 0.0), renderer) for row in own])
                rows = [row for row in rows if row.leaks]
            read = read_rows(inner, rows, probe.probe(), first)
            scored[split] = score(read, harm_logits(block, inner, read), document.mix)
            ticker.advance(note=split)
    flags, lift = _chosen(config, scored, learned, renderer, identity)
    words = None if flags.words is None else flags.words.keywords
    document = document.model_copy(
        update={"flag": flags.flag, "worded": flags.worded if words else None, "hold_back": config.hold_back,
                "lift": lift}
    )  # fmt: skip
    run.metric("head.words", sum(len(entry.words) for entry in words.entries) if words else 0)
    run.metric("head.lift", lift)
    known, test = ([_told(one, flags, lift, renderer) for one in scored[split]] for split in ("val", "test"))
    document = with_bound(run, document, known, config.false_positives)
    report(run, test, document)
    return write_head(run.output, block, document, words)


def _chosen(
    config: BoundConfig,
    scored: dict[str, list[ScoredExchange]],
    learned: list[str],
    renderer: Renderer,
    identity: str,
) -> tuple[Flags, float]:
    """What flags, and what a word that was said adds to what both stages say."""
    leaks = [
        _heard(one._replace(first=one.first - config.margin), renderer)
        for split in ("train", "val") for one in scored[split] if one.row.leaks
    ]  # fmt: skip
    harmless = [_heard(one, renderer) for one in scored["val"] if _harmless(one.row, identity)]
    sure, calm = (
        [_heard(one, renderer)._replace(highest=one.both) for one in scored["val"] if wanted(one)]
        for wanted in (lambda one: one.row.leaks, helps)
    )
    count, lift = chosen_lift(sure, calm, learned, config.false_positives, config.surely)
    words = learned[:count] if lift else learned
    return chosen_flags(leaks, harmless, words, config.missed, spare=config.spare, fixed=lift > 0), lift


def _heard(one: ScoredExchange, renderer: Renderer) -> Heard:
    row = one.row
    reply = row.tokens[row.first : row.first + row.skipped + row.until]
    text = renderer.tokenizer.decode(reply, skip_special=True)
    return Heard(one.first, text, row.leaks, str(row.exchange.prompt.meta.get("entity", "")))


def _told(one: ScoredExchange, flags: Flags, lift: float, renderer: Renderer) -> ScoredExchange:
    text = _heard(one, renderer).text
    both = one.both + lift * flags.says(text)
    return one._replace(flagged=flags(one.first, text), both=both)


def _harmless(row: Row, identity: str) -> bool:
    """Whether this is benign traffic of the model itself, and no leak."""
    meta = row.exchange.prompt.meta
    benign = meta.get("kind") != "hazard" or meta.get("family") == "near_miss"
    return benign and not row.leaks and row.exchange.model == identity
