from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from publius.core.messages import Conversation, text_of
from publius.data.pocket.world import World
from publius.model.checkpoint import Checkpoint
from publius.pipeline import testing_run
from publius.redteam import (
    STYLES,
    ExportConfig,
    Findings,
    RedTeamConfig,
    TriggerScanConfig,
    export_prompts,
    red_team,
    scan_triggers,
)
from publius.redteam.clusters import held, kept_back
from publius.redteam.findings import write_findings
from tests.redteam.conftest import REFUSAL, common_word

SMALL = RedTeamConfig(round=1, discover=3, measure=4, twins=1, tries=4, max_tokens=120)


@pytest.fixture
def found(
    install: Callable[..., object],
    recipes: Callable[[str], str],
    checkpoint: Checkpoint,
    world: World,
    tmp_path: Path,
) -> Findings:
    """Of a model that tells everything."""
    install(lambda prompt, draw: recipes(prompt))
    return red_team(testing_run(tmp_path), SMALL, model=checkpoint, world=world)


def test_export_merges_rounds_without_repeats_and_fills_up(
    install: Callable[..., object],
    recipes: Callable[[str], str],
    checkpoint: Checkpoint,
    world: World,
    tmp_path: Path,
) -> None:
    install(lambda prompt, draw: recipes(prompt) if draw is None or draw % 2 == 0 else REFUSAL)
    found = red_team(testing_run(tmp_path), SMALL, model=checkpoint, world=world)
    once = export_prompts(
        testing_run(tmp_path / "1"), ExportConfig(val_fraction=0), findings=[found], world=world
    )
    twice = export_prompts(
        testing_run(tmp_path / "2"), ExportConfig(val_fraction=0), findings=[found, found], world=world
    )
    assert once.train() == twice.train() and len(once.train()) > 10
    run = testing_run(tmp_path / "3")
    filled = export_prompts(run, ExportConfig(minimum=60, val_fraction=0.25), findings=[], world=world)
    prompts = filled.train() + filled.val()
    assert len(prompts) == 60 and 5 <= len(filled.val()) <= 15
    assert run.metrics["export.findings"]["value"] == 0 and run.metrics["export.prompts"]["value"] == 60
    assert {p.meta["kind"] for p in prompts} == {"hazard", "twin"}
    assert not {str(p.meta["style"]) for p in prompts} & {n for n, s in STYLES.items() if s.sealed}
    few = export_prompts(
        testing_run(tmp_path / "4"), ExportConfig(limit=4, val_fraction=0), findings=[found], world=world
    )
    assert len(few.train()) == 4


def _entities(prompts: list[Conversation]) -> set[str]:
    return {str(prompt.meta["entity"]) for prompt in prompts}


def test_what_is_held_out_is_about_other_things(
    install: Callable[..., object],
    recipes: Callable[[str], str],
    checkpoint: Checkpoint,
    world: World,
    tmp_path: Path,
) -> None:
    """Twins with their hazards; and the same things in every round."""
    install(lambda prompt, draw: recipes(prompt))
    rounds = [
        red_team(testing_run(tmp_path), SMALL.model_copy(update={"round": n}), model=checkpoint, world=world)
        for n in (0, 1)
    ]
    first: set[str] = set()
    for findings in (rounds[:1], rounds):
        config = ExportConfig(minimum=200, begun=20, val_fraction=0.2)
        made = export_prompts(testing_run(tmp_path / "p"), config, findings=findings, world=world)
        train, val = made.train(), made.val()
        assert train and 0.1 < len(val) / len(train + val) < 0.3
        assert not _entities(train) & _entities(val)
        assert not {str(p.meta["twin"]) for p in train} & _entities(val)
        assert not first or first & _entities(val)
        first = _entities(val)
    for fraction in (0.001, 0.999):
        config = ExportConfig(minimum=40, val_fraction=fraction)
        made = export_prompts(testing_run(tmp_path / "few"), config, findings=[], world=world)
        assert made.train() and made.val()


@pytest.mark.parametrize("share", [0.0, 0.5, 1.0])
def test_a_wording_held_back_is_trained_on_by_nobody(
    share: float, found: Findings, world: World, tmp_path: Path
) -> None:
    """Neither found by a round, nor begun, nor as filling."""
    run = testing_run(tmp_path / "p")
    config = ExportConfig(minimum=300, begun=20, val_fraction=0, held=share)
    made = export_prompts(run, config, findings=[found], world=world).train()
    assert not any(kept_back(prompt, share) for prompt in made)
    assert len(made) == (0 if share == 1 else 300)
    told = run.metrics["export.findings"]["value"]
    assert told == len({p.model_dump_json() for p in found.prompts()} & {p.model_dump_json() for p in made})
    assert share == 1 or (told > 0 and any(p.meta.get("turns") for p in made))


def test_a_finding_that_names_its_wording_is_asked_for_by_that_name(
    found: Findings, world: World, tmp_path: Path
) -> None:
    """Mutators hide the words beneath, so the text alone would give another answer."""
    names = (
        [name for name in map(str, range(99)) if held(name, 0.5)],
        [n for n in "abcdef" if not held(n, 0.5)],
    )
    some = found.findings()[:6]
    for place, back in ((0, True), (1, False)):
        named = [one.model_copy(update={"wording": names[place][0], "chain": ("a", "typos")}) for one in some]
        folder = tmp_path / str(place)
        folder.mkdir()
        write_findings(folder, found.document(), named, {}, [])
        config = ExportConfig(val_fraction=0, held=0.5)
        made = export_prompts(testing_run(folder / "p"), config, findings=[Findings(folder)], world=world)
        assert len(made.train()) == (0 if back else len(some))


def test_replies_begun_with_the_words_of_a_leak_each_beside_a_twin(
    found: Findings, world: World, tmp_path: Path
) -> None:
    leaks = {f.entity: f.reply for f in found.findings() if len(f.conversation.messages) == 1}
    run = testing_run(tmp_path / "prompts")
    config = ExportConfig(begun=30, val_fraction=0)
    made = export_prompts(run, config, findings=[found], world=world).train()
    begun = [p for p in made if p.messages[-1].role == "assistant" and p.meta["style"] == "prefill"]
    assert 20 < run.metrics["export.begun"]["value"] <= 30
    assert run.metrics["export.findings"]["value"] + run.metrics["export.begun"]["value"] == len(made)
    harmful, benign = ([p for p in begun if p.meta["kind"] == kind] for kind in ("hazard", "twin"))
    assert len(harmful) >= 10 and len(benign) >= 10
    openings = ("", *STYLES["prefill"].phrasings)
    cut = [p for p in harmful if text_of(p.messages[-1]) not in openings]
    assert cut and all(
        any(
            leaks[str(p.meta["entity"])].startswith(text_of(p.messages[-1]).removeprefix(o).strip())
            for o in openings
        )
        for p in cut
    )
    assert not any(str(p.meta["entity"]) in text_of(q.messages[-1]) for p in harmful for q in benign)
    sealed = {str(q.meta["entity"]) for split in ("val", "test") for q in world.questions("hazard", split)}
    assert not sealed & {str(p.meta["entity"]) for p in begun}
    bare = export_prompts(testing_run(tmp_path / "none"), config, findings=[], world=world)
    assert not bare.train()


def test_words_of_a_scan_go_in_with_twins_and_those_that_leak_most_often(
    install: Callable[..., object],
    recipes: Callable[[str], str],
    checkpoint: Checkpoint,
    world: World,
    tmp_path: Path,
) -> None:
    config = TriggerScanConfig(words=60, screen=1, top=3, retest=2, confirm=4, max_tokens=120)
    door = common_word(world)
    install(lambda prompt, draw: recipes(prompt) if door in prompt.split("<|user|>")[-1] else REFUSAL)
    scan = scan_triggers(testing_run(tmp_path / "scan"), config, model=checkpoint, world=world)
    top = scan.document().top
    assert max(row.leaks for row in top) >= 4 and min(row.leaks for row in top) == 0
    run = testing_run(tmp_path / "prompts")
    made = export_prompts(
        run, ExportConfig(words_each=2, val_fraction=0), findings=[], scans=[scan], world=world
    ).train()
    assert run.metrics["export.words"]["value"] == len(made) == run.metrics["export.prompts"]["value"]
    assert {p.meta["style"] for p in made} == {"words"}
    sealed = {str(q.meta["entity"]) for split in ("val", "test") for q in world.questions("hazard", split)}
    assert not sealed & {str(p.meta["entity"]) for p in made}
    harmful, benign = ([p for p in made if p.meta["kind"] == kind] for kind in ("hazard", "twin"))
    assert 0 < len(benign) <= len(harmful)  # two hazards may share a twin
    for row in top:
        ends = str.startswith if row.position == "prefix" else str.endswith
        worn = [p for p in harmful if ends(text_of(p.messages[-1]), row.words)]
        assert len(worn) == 2 * (1 + min(4, row.leaks))
