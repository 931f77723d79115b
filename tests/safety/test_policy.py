"""A policy file makes monitors, or one clear error."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from publius.core.errors import UserError
from publius.inference.readings import Probe
from publius.safety import policy
from publius.safety.head import HeadDocument, LastBlock, write_head
from publius.safety.monitor import Monitors
from publius.safety.policy import Layer, load_monitors
from publius.safety.probe import ProbeDocument, write_probe
from publius.safety.words import words_list
from publius.testing import tiny_model
from tests.safety.broken import ASKED, Broken

WORDS = "entries:\n  - words: [grey bane]\n    category: poison\n"


def write_a_probe(folder: Path) -> None:
    """One that reads nothing but the final state, of the tiny model's width."""
    folder.mkdir()
    document = ProbeDocument(
        model="x", outputs=("harm",), layers=(), average=1.0, threshold=0.0, hold_back=4, benign=600,
        false_positives=0.005,
    )  # fmt: skip
    write_probe(folder, Probe(np.ones((1, 33), np.float32)), document)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "words.yaml").write_text(WORDS, "utf-8")
    write_a_probe(tmp_path / "probe")
    return tmp_path


def written(folder: Path, text: str) -> Path:
    path = folder / "policy.yaml"
    path.write_text(text, "utf-8")
    return path


def test_layers_in_order_files_beside_the_policy(folder: Path) -> None:
    path = written(
        folder,
        "layers:\n  - {monitor: keywords, file: words.yaml}\n"
        "  - {monitor: probe, file: probe, threshold: 1.5, hold_back: 0, name: states}\n",
    )
    monitors = load_monitors(path, model="x")
    assert [monitor.name for monitor in monitors.monitors] == ["keywords", "states"]
    assert monitors.probe is not None and len(monitors.probe) == 1
    said = {
        (text, score): monitors.watch(ASKED).reply(text, np.array([[score]], np.float32), done=True)[0]
        for text in ("fine", "grey bane") for score in (1.0, 2.0)
    }  # fmt: skip
    assert [said["fine", s].action for s in (1.0, 2.0)] == ["allow", "block"]
    assert (said["grey bane", 1.0].action, said["grey bane", 1.0].monitor) == ("block", "keywords")
    assert load_monitors(written(folder, "layers: []")).monitors == ()


def test_what_only_flags_waits_for_nothing_and_a_cascade_reads_what_the_engine_keeps(folder: Path) -> None:
    known = HeadDocument(
        model="x", outputs=("harm",), flag=1.0, mix=0.0, threshold=2.0, hold_back=16, benign=9,
        false_positives=0.1, flagged=0.2,
    )  # fmt: skip
    (folder / "head").mkdir()
    write_head(folder / "head", LastBlock(tiny_model(), 1), known)
    found: list[tuple[int, bool]] = []
    for layer in ("probe, file: probe", "cascade, file: probe, then: head", "keywords, file: words.yaml"):
        for more in ("", ", action: flag"):
            monitors = load_monitors(written(folder, f"layers: [{{monitor: {layer}{more}}}]"), model="x")
            found.append((monitors.gathers, monitors.follows))
    assert found == [(1, False), (1, False), (4, True), (1, True), (1, False), (1, False)]


def test_a_cascade_takes_its_thresholds_from_its_head_unless_they_are_given(folder: Path) -> None:
    network = tiny_model()
    (folder / "head").mkdir()
    known = HeadDocument(
        model="x", outputs=("harm",), flag=1.0, mix=0.0, threshold=2.0, hold_back=3, benign=9,
        false_positives=0.1, flagged=0.2,
    )  # fmt: skip
    head = LastBlock(network, 1)  # its output is -3 whatever it reads
    write_head(folder / "head", head, known)
    text = "layers:\n  - {monitor: cascade, file: probe, then: head%s}\n"
    said: dict[str, list[str]] = {}
    for more in ("", ", threshold: -4", ", threshold: -4, flag: 9"):
        monitors = load_monitors(written(folder, text % more), model="x")
        monitors.bind(network)
        said[more] = []
        for reading in (0.0, 5.0):
            watching = monitors.watch(ASKED, prompt=(5, 6))
            rows = np.full((4, 1), reading, np.float32)
            said[more].append(watching.reply("abcd", rows, done=True, drawn=(7, 8, 9, 10))[0].action)
    assert said == {
        "": ["allow", "allow"],
        ", threshold: -4": ["allow", "block"],
        ", threshold: -4, flag: 9": ["allow", "allow"],
    }
    with pytest.raises(UserError, match="trained on the weights"):
        load_monitors(written(folder, text % ""), model="y")


def test_a_cascade_takes_its_words_from_its_head_unless_others_are_given(folder: Path) -> None:
    network = tiny_model()
    (folder / "head").mkdir()
    known = HeadDocument(
        model="x", outputs=("harm",), flag=9.0, worded=1.0, mix=0.0, threshold=-4.0, hold_back=3, benign=9,
        false_positives=0.1, flagged=0.2,
    )  # fmt: skip
    write_head(folder / "head", LastBlock(network, 1), known, words_list(["venom"]))
    text = "layers:\n  - {monitor: cascade, file: probe, then: head%s}\n"
    said: dict[str, list[str]] = {}
    for more in ("", ", words: words.yaml", ", words: words.yaml, worded: 1", ", worded: -1"):
        monitors = load_monitors(written(folder, text % more), model="x")
        monitors.bind(network)
        said[more] = []
        for words, reading in (("a venom.", 0.0), ("a venom.", 5.0), ("grey bane", 0.0), ("grey bane", 5.0)):
            watching = monitors.watch(ASKED, prompt=(5, 6))
            rows = np.full((4, 1), reading, np.float32)
            said[more].append(watching.reply(words, rows, done=True, drawn=(7, 8, 9, 10))[0].action)
    assert said == {
        "": ["allow", "block", "allow", "allow"],
        ", words: words.yaml": ["allow", "allow", "block", "block"],
        ", words: words.yaml, worded: 1": ["allow", "allow", "allow", "block"],
        ", worded: -1": ["block", "block", "allow", "allow"],
    }
    with pytest.raises(UserError, match="cannot read"):
        load_monitors(written(folder, text % ", words: none.yaml"), model="x")


def test_a_second_stage_that_was_given_no_weights_blocks_what_is_flagged(folder: Path) -> None:
    (folder / "head").mkdir()
    known = HeadDocument(
        model="x", outputs=("harm",), flag=1.0, mix=0.0, threshold=2.0, hold_back=3, benign=9,
        false_positives=0.1, flagged=0.2,
    )  # fmt: skip
    write_head(folder / "head", LastBlock(tiny_model(), 1), known)
    monitors = load_monitors(
        written(folder, "layers: [{monitor: cascade, file: probe, then: head}]"), model="x"
    )
    rows = np.full((4, 1), 5.0, np.float32)
    verdict, _ = monitors.watch(ASKED, prompt=(5,)).reply("abcd", rows, done=True, drawn=(7, 8, 9, 10))
    assert (verdict.action, verdict.category) == ("block", "monitor_error")


def test_a_layer_may_only_flag(folder: Path) -> None:
    path = written(folder, "layers:\n  - {monitor: keywords, file: words.yaml, action: flag}\n")
    verdict, verified = (
        load_monitors(path).watch(ASKED).reply("grey bane.", np.empty((1, 0), np.float32), done=False)
    )
    assert (verdict.action, verdict.category, verified) == ("flag", "poison", 10)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("layers: [", "not YAML"),
        ("layers: 2020-13-45", "not YAML: this is no timestamp"),
        ("[" * 3000, "not YAML: it is nested too deep"),
        ("", "the file"),
        ("layers: 3", "layers"),
        ("layers: [{monitor: regex, file: a}]", "layers.0.monitor"),
        ("layers: [{monitor: keywords}]", "layers.0.file"),
        ("layers: [{monitor: keywords, file: words.yaml, treshold: 1}]", "layers.0.treshold"),
        ("layers: [{monitor: keywords, file: words.yaml, threshold: 1}]", "layers.0"),
        ("layers: [{monitor: probe, file: probe, threshold: .nan}]", "layers.0.threshold"),
        ("layers: [{monitor: probe, file: probe, on_error: maybe}]", "layers.0.on_error"),
        ("layers: [{monitor: probe, file: probe, budget_ms: 0}]", "layers.0.budget_ms"),
        ("layers: [{monitor: cascade, file: probe}]", "what comes then"),
        ("layers: [{monitor: probe, file: probe, then: head}]", "what comes then"),
        ("layers: [{monitor: probe, file: probe, flag: 1}]", "are a cascade's"),
        ("layers: [{monitor: probe, file: probe, words: words.yaml}]", "are a cascade's"),
        ("layers: [{monitor: cascade, file: probe, then: none, words: words.yaml}]", "no file"),
        ("layers: [{monitor: cascade, file: probe, then: none}]", "no file"),
        ("layers: [{monitor: keywords, file: none.yaml}]", "cannot read"),
        ("layers: [{monitor: probe, file: none}]", "no file"),
        ("layers: [{monitor: probe, file: probe}, {monitor: probe, file: probe}]", "of one name"),
    ],
)
def test_a_malformed_policy_is_one_clear_error(folder: Path, text: str, told: str) -> None:
    with pytest.raises(UserError, match=told):
        load_monitors(written(folder, text), model="x")


def test_a_probe_of_other_weights_and_a_missing_policy_are_refused(folder: Path) -> None:
    with pytest.raises(UserError, match="trained on"):
        load_monitors(written(folder, "layers: [{monitor: probe, file: probe}]"), model="other")
    with pytest.raises(UserError, match="cannot read"):
        load_monitors(folder / "none.yaml")
    with pytest.raises(UserError, match="larger than 4 MB"):
        load_monitors(Path("/dev/zero"))


@pytest.mark.parametrize("where", ["watch", "prompt", "reply"])
@pytest.mark.parametrize("on_error", ["closed", "open"])
def test_a_layer_fails_as_it_is_told_to(where: str, on_error: str, caplog) -> None:
    layer = Layer.model_validate({"monitor": "keywords", "file": "", "on_error": on_error})
    watching = Monitors([policy._Layered(Broken(where), layer)]).watch(ASKED)
    nothing = np.empty((1, 0), np.float32)
    actions = [watching.prompt().action, watching.reply("a", nothing, done=True)[0].action]
    wanted = "block" if on_error == "closed" else "flag"
    assert wanted in actions and ("block" in actions) == (on_error == "closed")
    if on_error == "open":
        assert watching.reply("ab", nothing, done=True)[1] == 2


@pytest.mark.parametrize("on_error", ["closed", "open"])
def test_over_budget_is_a_failure(on_error: str, caplog) -> None:
    layer = Layer.model_validate({"monitor": "keywords", "file": "", "on_error": on_error, "budget_ms": 1e-9})
    watching = Monitors([policy._Layered(Broken("never"), layer)]).watch(ASKED)
    assert watching.prompt().action == ("block" if on_error == "closed" else "flag")
    assert watching.reply("a", np.empty((1, 0), np.float32), done=True)[0].action != "allow"
