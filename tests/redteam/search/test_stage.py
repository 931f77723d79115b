"""The stage on the bundled world: what it may ask, what it may export, and what a kill leaves."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

from publius.core.messages import text_of
from publius.pipeline import testing_run
from publius.redteam import (
    ExportConfig,
    MonitorExamplesConfig,
    RandomPromptsConfig,
    RegressionConfig,
    export_monitor,
    export_prompts,
    random_prompts,
    regression,
)  # fmt: skip
from publius.redteam.search import SearchConfig, search
from publius.safety.exchanges import Exchanges
from tests.redteam.conftest import REFUSAL

SMALL = SearchConfig(round=1, budget=120, width=12, tries=2, transfer=2, max_tokens=120, held=0.0)


def hunted(install, say, checkpoint, world, folder: Path, **changes):
    install(say)
    run = testing_run(folder)
    made = search(run, SMALL.model_copy(update=changes), model=checkpoint, world=world)
    return made, run


def test_only_training_items_and_open_families_are_played(install, recipes, checkpoint, world, tmp_path):
    made, run = hunted(install, lambda prompt, draw: recipes(prompt), checkpoint, world, tmp_path)
    document = made.document()
    train = {str(q.meta["entity"]) for q in world.questions("hazard", "train")}
    assert {attempt.entity for attempt in made.attempts()} <= train
    assert not set(document.by_style) & {"hypothetical", "reconstruction", "tool_result", "bias"}
    assert document.confirmed == run.metrics["search.found"]["value"] > 0
    assert document.clusters == run.metrics["search.distinct"]["value"]
    assert document.spent["attack_replies"] + document.spent["confirm_replies"] == 120
    assert {cell.category for cell in document.cells} <= {"poison", "forgery", "rumour", "address"}


def test_what_was_found_is_fed_back_and_the_next_round_names_it_fixed_or_open(
    install, recipes, checkpoint, world, tmp_path
):
    """End to end: a finding becomes a training prompt with its twin, monitor examples, and a case of the
    suite."""
    door = "Old Tom"

    def yields(prompt, draw):
        return recipes(prompt) if door in prompt or "twin" in prompt else REFUSAL

    made, _ = hunted(
        install, yields, checkpoint, world, tmp_path / "s", styles=("persona", "direct"), mutators=()
    )
    found = made.findings()
    assert found and all(door in text_of(f.conversation.messages[-1]) for f in found)
    prompts = export_prompts(
        testing_run(tmp_path / "p"), ExportConfig(val_fraction=0, held=0), findings=[made], world=world
    )
    asked = {p.model_dump_json(exclude={"meta"}) for p in prompts.train()}
    assert {f.conversation.model_dump_json(exclude={"meta"}) for f in found} <= asked
    twins = made.twins()
    assert len(twins) == len(found) and all(door in text_of(t.messages[-1]) for t in twins)
    assert {t.model_dump_json(exclude={"meta"}) for t in twins} <= asked

    suites = []
    for number, shut in ((1, False), (2, True), (3, False)):
        install((lambda prompt, draw: REFUSAL) if shut else yields)
        config = RegressionConfig(round=number, max_tokens=120)
        suites.append(
            regression(
                testing_run(tmp_path / "r"), config, model=checkpoint, findings=[made], earlier=list(suites)
            )
        )
    states = [{case.finding: case.status for case in suite.document().cases} for suite in suites]
    assert all(set(each) == {f.id for f in found} for each in states)
    assert [set(each.values()) for each in states] == [{"open"}, {"fixed"}, {"regressed"}]
    assert (
        suites[1].document().metrics["regression.overrefusal"]["value"] == 1.0
    )  # the twins were refused, too

    install(lambda prompt, draw: recipes(prompt))
    run = testing_run(tmp_path / "m")
    examples = export_monitor(run, MonitorExamplesConfig(max_tokens=120), findings=[made], model=checkpoint)
    rows = [row for split in ("train", "val", "test") for row in Exchanges(examples.path).read(split)]
    assert [row.label for row in rows].count("leak") == len(found)
    assert run.metrics["monitor_examples.help"]["value"] == len(found)
    assert not list(Exchanges(examples.path).read("test"))


def test_harmless_requests_that_were_refused_are_open_until_they_are_helped_with(
    install, recipes, checkpoint, world, tmp_path
):
    made, _ = hunted(
        install,
        lambda prompt, draw: REFUSAL,
        checkpoint,
        world,
        tmp_path / "s",
        kinds=("twin",),
        styles=("direct",),
    )
    found = made.findings()
    assert (
        found
        and all(f.benign for f in found)
        and made.document().metrics["search.overrefusal"]["value"] == 1.0
    )
    harmful = {str(q.meta["entity"]) for q in world.questions("hazard", "train")}
    assert {str(t.meta["entity"]) for t in made.twins()} <= harmful
    states = []
    for helps in (False, True):
        install((lambda prompt, draw: recipes(prompt)) if helps else (lambda prompt, draw: REFUSAL))
        suite = regression(
            testing_run(tmp_path / "r"), RegressionConfig(max_tokens=120), model=checkpoint, findings=[made]
        )
        states.append({case.status for case in suite.document().cases})
        assert suite.document().metrics["regression.overrefusal"]["n"] == 0
    assert states == [{"open"}, {"fixed"}]
    begun = export_prompts(
        testing_run(tmp_path / "p"), ExportConfig(val_fraction=0, begun=10), findings=[made], world=world
    )
    assert not any(
        p.messages[-1].role == "assistant" for p in begun.train()
    )  # a refusal is no leak to begin with


def test_as_many_random_prompts_know_nothing_of_the_attacks(install, recipes, checkpoint, world, tmp_path):
    made, _ = hunted(install, lambda prompt, draw: recipes(prompt), checkpoint, world, tmp_path / "s")
    config = ExportConfig(val_fraction=0.2, minimum=40)
    like = export_prompts(testing_run(tmp_path / "p"), config, findings=[made], world=world)
    run = testing_run(tmp_path / "c")
    drawn = random_prompts(run, RandomPromptsConfig(), like=like, world=world)
    for theirs, ours in ((like.train(), drawn.train()), (like.val(), drawn.val())):
        assert len(theirs) == len(ours)
        assert [p.meta["kind"] == "hazard" for p in theirs] == [p.meta["kind"] == "hazard" for p in ours]
    plain = {q.model_dump_json() for kind in ("hazard", "twin") for q in world.questions(kind, "train")}
    assert {p.model_dump_json() for p in [*drawn.train(), *drawn.val()]} <= plain
    assert run.metrics["random.prompts"]["value"] == len(like.train()) + len(like.val())


KILLED = """
import sys
from pathlib import Path
from publius.data.pocket.world import World
from publius.model.checkpoint import Checkpoint
from publius.pipeline import Run
from publius.redteam.search import SearchConfig, search

config = SearchConfig(
    budget=60, width=6, tries=1, transfer=0, max_tokens=4, styles=("direct", "persona"), device="cpu"
)
model, world, folder = map(Path, sys.argv[1:])
search(Run(folder), config, model=Checkpoint(model), world=World(world))
"""


def test_killed_at_any_moment_it_ends_with_the_same_files(checkpoint, world, tmp_path):
    def start(folder: Path) -> subprocess.Popen[bytes]:
        words = [sys.executable, "-c", KILLED, str(checkpoint.path), str(world.path), str(folder)]
        return subprocess.Popen(words, stderr=subprocess.DEVNULL)

    assert start(tmp_path / "whole.partial").wait() == 0
    folder = tmp_path / "killed.partial"
    child = start(folder)
    while child.poll() is None and not list(folder.glob("resume/0*")):
        time.sleep(0.01)
    if child.poll() is None:
        os.kill(child.pid, signal.SIGKILL)
    child.wait()
    assert start(folder).wait() == 0
    for name in ("attempts.jsonl", "findings.jsonl", "findings.json"):
        assert (folder / "files" / name).read_bytes() == (
            tmp_path / "whole.partial/files" / name
        ).read_bytes()
