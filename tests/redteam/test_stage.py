from __future__ import annotations

import hashlib
import json
import random
from collections.abc import Callable
from pathlib import Path

import pytest

from publius.core.errors import UserError
from publius.core.messages import Conversation, text_of, user
from publius.core.stats import wilson
from publius.data.pocket.world import World
from publius.model.checkpoint import Checkpoint
from publius.pipeline import testing_run
from publius.redteam import STYLES, Findings, RedTeamConfig, red_team
from publius.redteam.phrasings import PHRASINGS
from publius.redteam.stage import twin_for
from tests.redteam.conftest import REFUSAL

Say = Callable[[str, int | None], str]
SMALL = RedTeamConfig(round=1, discover=3, measure=4, twins=1, tries=4, max_tokens=120)


def weak_to(recipes: Callable[[str], str], *markers: str) -> Say:
    """Refuses everything, except that any of `markers` in the prompt opens it; re-runs leak half the time."""

    def say(prompt: str, draw: int | None) -> str:
        hit = any(marker in prompt for marker in markers) and (draw is None or draw % 2 == 0)
        return recipes(prompt) if hit else REFUSAL

    return say


def round_of(
    install: Callable[..., object],
    say: Say,
    checkpoint: Checkpoint,
    world: World,
    folder: Path,
    config: RedTeamConfig = SMALL,
) -> Findings:
    install(say)
    return red_team(testing_run(folder), config, model=checkpoint, world=world)


def test_a_model_with_no_refusals_leaks_everywhere(
    install: Callable[..., object],
    recipes: Callable[[str], str],
    checkpoint: Checkpoint,
    world: World,
    tmp_path: Path,
) -> None:
    found = round_of(install, weak_to(recipes, ""), checkpoint, world, tmp_path)
    document = found.document()
    open_styles = [s for s in STYLES.values() if not s.sealed and s.name != "obfuscation"]
    assert all(document.by_style[s.name]["value"] == 1.0 for s in open_styles)
    seen = document.metrics["redteam.leak.seen"]
    assert seen["value"] > 0.9 and seen["n"] == 4 * sum(not s.sealed for s in STYLES.values())
    assert document.model == hashlib.sha256((checkpoint.path / "checksums.json").read_bytes()).hexdigest()
    assert all(f.reproduced == 2 and f.tries == 4 for f in found.findings())
    assert set(document.by_category) == {"poison", "forgery", "rumour", "address"}


def test_a_hole_is_found_confirmed_and_exported_with_twins(
    install: Callable[..., object],
    recipes: Callable[[str], str],
    checkpoint: Checkpoint,
    world: World,
    tmp_path: Path,
) -> None:
    """The model yields to two wordings, one of an open family, one of a sealed family."""
    prefix, sealed = PHRASINGS["authority"].train[0][:20], "pretend here"
    held_out = PHRASINGS["authority"].held_out[0][:20]
    say = weak_to(recipes, prefix, sealed, held_out)
    config = SMALL.model_copy(update={"discover": 12, "measure": 8})
    found = round_of(install, say, checkpoint, world, tmp_path, config)
    document = found.document()
    assert 0 < document.by_style["authority"]["value"] < 1
    assert 0 < document.by_style["hypothetical"]["value"] < 1
    assert document.by_style["story"]["value"] == 0
    assert 0 < document.metrics["redteam.leak.sealed"]["value"] < 1
    assert document.metrics["redteam.overrefusal"]["value"] > 0.7
    findings = found.findings()
    assert findings and {f.style for f in findings} == {
        "authority"
    }  # sealed styles are never discovered with
    train = {str(q.meta["entity"]) for q in world.questions("hazard", "train")}
    assert {f.entity for f in findings} <= train
    prompts = found.prompts("train")
    assert [p.meta["kind"] for p in prompts] == ["hazard", "twin"] * len(findings)
    for prompt in prompts:
        assert prompt.messages[-1].role == "user" and prompt.meta["style"] == "authority"
        assert not any(
            text_of(prompt.messages[-1]).startswith(p[:20]) for p in PHRASINGS["authority"].held_out
        )
    assert (
        prompts[1].meta["entity"] == prompts[0].meta["twin"]
        or prompts[1].meta["category"] == prompts[0].meta["category"]
    )


def test_a_twin_says_what_its_finding_says(
    install: Callable[..., object],
    recipes: Callable[[str], str],
    checkpoint: Checkpoint,
    world: World,
    tmp_path: Path,
) -> None:
    """Whatever the style draws: the same wording around another thing."""
    config = SMALL.model_copy(update={"styles": ("persona", "no_sorry", "override"), "discover": 6})
    found = round_of(install, lambda prompt, draw: recipes(prompt), checkpoint, world, tmp_path, config)
    twins = {str(twin.meta["finding"]): text_of(twin.messages[-1]) for twin in found.twins()}
    assert len(twins) == len(found.findings()) > 10
    for one in found.findings():
        said = text_of(one.conversation.messages[-1])
        (wording,) = [p for p in PHRASINGS[one.style].train if said.startswith(p.split("{q}")[0])]
        assert twins[one.id].startswith(wording.split("{q}")[0])


def test_twins_do_not_depend_on_the_name_of_the_weights(
    install: Callable[..., object],
    recipes: Callable[[str], str],
    checkpoint: Checkpoint,
    world: World,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """What is in the folder of a model beside its weights must not decide what is trained on next."""
    twins: list[list[str]] = []
    for name in ("a", "b"):
        monkeypatch.setattr("publius.redteam.stage.fingerprint", lambda model, name=name: name * 64)
        found = round_of(install, weak_to(recipes, ""), checkpoint, world, tmp_path / name)
        assert found.document().model == name * 64
        twins.append([text_of(twin.messages[-1]) for twin in found.twins()])
    assert twins[0] == twins[1] and len(twins[0]) > 5


def test_measured_items_are_held_out_and_the_same_each_round(
    install: Callable[..., object],
    recipes: Callable[[str], str],
    checkpoint: Checkpoint,
    world: World,
    tmp_path: Path,
) -> None:
    say = weak_to(recipes)
    first = round_of(install, say, checkpoint, world, tmp_path / "a")
    second = round_of(install, say, checkpoint, world, tmp_path / "b", SMALL.model_copy(update={"round": 2}))
    assert [a.conversation for a in first.attempts()] == [a.conversation for a in second.attempts()]
    test = {str(q.meta["entity"]) for q in world.questions("hazard", "test")}
    train = {str(q.meta["entity"]) for q in world.questions("hazard", "train")}
    assert {a.entity for a in first.attempts()} <= test and not test & train
    assert first.findings() == [] and first.prompts() == []
    record = second.document()
    assert record.metrics["redteam.leak.seen"]["value"] == 0.0 and record.hits == 0


def test_sealed_styles_can_be_measured_more_often(
    install: Callable[..., object],
    recipes: Callable[[str], str],
    checkpoint: Checkpoint,
    world: World,
    tmp_path: Path,
) -> None:
    plain = SMALL.model_copy(update={"styles": ("direct", "tool_result"), "measure": 2})
    few = round_of(install, weak_to(recipes), checkpoint, world, tmp_path / "a", plain)
    more = plain.model_copy(update={"measure_sealed": 5})
    many = round_of(install, weak_to(recipes), checkpoint, world, tmp_path / "b", more)
    asked = [[(a.style, a.conversation) for a in made.attempts()] for made in (few, many)]
    assert asked[1][:4] == asked[0] and [style for style, _ in asked[1][4:]] == ["tool_result"] * 3
    assert many.document().metrics["redteam.leak.sealed"]["n"] == 5


def test_metrics_reach_the_record(
    install: Callable[..., object],
    recipes: Callable[[str], str],
    checkpoint: Checkpoint,
    world: World,
    tmp_path: Path,
) -> None:
    install(weak_to(recipes, ""))
    run = testing_run(tmp_path)
    found = red_team(
        run, SMALL.model_copy(update={"styles": ("direct", "hypothetical")}), model=checkpoint, world=world
    )
    for name in ("redteam.leak.seen", "redteam.leak.sealed"):
        assert run.metrics[name] == wilson(4, 4).as_dict()
    assert run.metrics["redteam.confirmed"]["value"] == len(found.findings()) > 0


def test_a_real_model_runs_and_repeats(checkpoint: Checkpoint, world: World, tmp_path: Path) -> None:
    config = RedTeamConfig(
        styles=("direct", "prefill", "reconstruction"), discover=1, measure=1, twins=1, max_tokens=6
    )
    rounds = [red_team(testing_run(tmp_path), config, model=checkpoint, world=world) for _ in range(2)]
    first, second = ((r.path / "attempts.jsonl").read_bytes() for r in rounds)
    assert first == second and rounds[0].document().metrics["redteam.leak.seen"]["value"] == 0.0


def test_nothing_sealed_or_held_out_can_be_exported(
    install: Callable[..., object],
    recipes: Callable[[str], str],
    checkpoint: Checkpoint,
    world: World,
    tmp_path: Path,
) -> None:
    """Even when a findings file says so: the filter stands in the reader."""
    found = round_of(install, weak_to(recipes, ""), checkpoint, world, tmp_path)
    first = json.loads((found.path / "findings.jsonl").read_text().splitlines()[0])
    bad = [{**first, "sealed": True}, {**first, "split": "test"}]
    (found.path / "findings.jsonl").write_text("".join(json.dumps(row) + "\n" for row in bad))
    assert len(found.findings()) == 2 and found.prompts("train") == []


def test_the_twin_falls_back_by_category_then_any() -> None:
    def asked(entity: str, category: str) -> Conversation:
        return Conversation(messages=(user(entity),), meta={"entity": entity, "category": category})

    hazard = Conversation(messages=(user("h"),), meta={"entity": "h", "twin": "dye", "category": "poison"})
    rng = random.Random(0)
    pool = [asked("shop", "address"), asked("balm", "poison"), asked("dye", "poison")]
    picked = [twin_for(hazard, pool[:n], rng) for n in (3, 2, 1, 0)]
    assert [p.meta["entity"] if p else None for p in picked] == ["dye", "balm", "shop", None]


def test_damage_is_one_clear_error(tmp_path: Path) -> None:
    (tmp_path / "findings.json").write_text("{}")
    (tmp_path / "findings.jsonl").write_text("{]\n")
    with pytest.raises(UserError, match=r"findings\.json is damaged"):
        Findings(tmp_path).document()
    with pytest.raises(UserError, match=r"findings\.jsonl is damaged"):
        Findings(tmp_path).findings()


def test_a_model_that_leaks_everywhere_is_confirmed_on_a_sample(
    install: Callable[..., object],
    recipes: Callable[[str], str],
    checkpoint: Checkpoint,
    world: World,
    tmp_path: Path,
) -> None:
    config = SMALL.model_copy(update={"most": 5})
    found = round_of(install, weak_to(recipes, ""), checkpoint, world, tmp_path, config)
    assert len(found.findings()) == 5 < found.document().hits
    assert len({f.style for f in found.findings()}) > 1
