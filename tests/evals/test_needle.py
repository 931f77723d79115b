"""Needles in haystacks: where they are put, what counts as found, and what is refused."""

import json

import numpy as np
import pytest
from pydantic import ValidationError

from publius.core.errors import UserError
from publius.core.stats import wilson
from publius.evals import NeedleConfig, needle
from publius.evals.needle import NeedleReport, build_question
from publius.inference import Completion, Engine
from publius.model.checkpoint import Checkpoint, save_checkpoint
from publius.pipeline import testing_run
from publius.testing import byte_tokenizer, tiny_model
from publius.training.needles import TEST_WORDINGS, Needle
from tests.training.test_extend import write_shards

WORDS = byte_tokenizer()
FIRST = Needle("grey otter", "river lamp", TEST_WORDINGS[0])
OTHER = Needle("old mill", "bread song", TEST_WORDINGS[0])


def hay(count):
    return np.array(WORDS.encode("x" * count))


@pytest.mark.parametrize("depth", [0.0, 0.3, 1.0])
def test_the_needle_stands_at_its_depth_and_the_length_is_exact(depth):
    question = build_question(WORDS, hay(400), [FIRST], [depth], 400)
    assert len(question.prompt) + question.room == 400
    assert question.prompt[0] == WORDS.bos_id
    text = WORDS.decode(question.prompt[1:])
    line = "\nThe secret of grey otter is river lamp.\n"
    assert text.count(line) == 1 and text.endswith("\nThe secret of grey otter is")
    total = text.count("x")
    assert text.index(line) == pytest.approx(depth * total, abs=1)
    assert question.room == len(" river lamp.") + 2


def test_other_needles_stand_where_they_should():
    text = WORDS.decode(build_question(WORDS, hay(500), [FIRST, OTHER], [0.8, 0.1], 500).prompt[1:])
    assert text.index(OTHER.statement) < text.index(FIRST.statement)
    assert text.endswith(FIRST.question)
    with pytest.raises(UserError, match="no room for text"):
        build_question(WORDS, hay(500), [FIRST, OTHER], [0.8, 0.1], 120)


@pytest.fixture
def given(tmp_path):
    save_checkpoint(tmp_path / "model", tiny_model(), WORDS)
    return {"model": Checkpoint(tmp_path / "model"), "shards": write_shards(tmp_path / "shards")}


def _near_sighted(engine, prompts, samplings):
    """Finds what stands in the last half of the prompt, and pads its answer with talk."""
    completions = []
    for prompt, sampling in zip(prompts, samplings, strict=True):
        assert sampling.temperature == 0
        text = WORDS.decode(list(prompt[1:]))
        question = text.rsplit("\n", 1)[1]
        phrase = question.removeprefix("Which name was it? ").lower().removeprefix("the ")
        seen = text[len(text) // 2 :].lower()
        found = seen.find(f"the {phrase} ")
        answer = " no idea." if found < 0 else seen[found + len(phrase) + 4 :].split("\n")[0]
        completions.append(Completion(tuple(WORDS.encode(answer)), (0.0,), "end"))
    return completions


def test_cells_tell_what_was_found_where(tmp_path, given, monkeypatch):
    monkeypatch.setattr(Engine, "generate", _near_sighted)
    run = testing_run(tmp_path / "run")
    config = NeedleConfig(lengths=(300, 500), depths=(0.0, 1.0), n=5, others=1, prefix="far")
    report = needle(run, config, **given)
    grid = NeedleReport(report.path).grid()
    assert [[cell.value for cell in row] for row in grid.cells] == [[0, 1], [0, 1]]
    assert grid.cells[0][1].low == wilson(5, 5).low and grid.cells[0][1].n == 5
    metrics = report.metrics()
    assert metrics["far.accuracy"].value == 0.5 and metrics["far.accuracy"].n == 20
    assert metrics["far.worst"].value == 0 and metrics["far.worst.500"].n == 5
    assert metrics["far.depth.0"].value == 0 and metrics["far.depth.100"].value == 1
    assert metrics["far.300"].value == 0.5
    assert set(run.metrics) == set(metrics) and run.tokens > 20 * 250
    sample = report.samples()[-1]
    assert sample.conversation.meta["length"] == 500
    assert sample.reply.strip(" .") in sample.conversation.meta["statement"]
    assert report.document().model is not None


def test_the_same_seed_asks_the_same_and_a_random_model_finds_nothing(tmp_path, given):
    config = NeedleConfig(lengths=(300,), depths=(0.5,), n=3)
    first = needle(testing_run(tmp_path / "a"), config, **given)
    again = needle(testing_run(tmp_path / "b"), config, **given)
    other = needle(testing_run(tmp_path / "c"), config.model_copy(update={"seed": 1}), **given)
    assert (first.path / "samples.jsonl").read_bytes() == (again.path / "samples.jsonl").read_bytes()
    assert (first.path / "samples.jsonl").read_bytes() != (other.path / "samples.jsonl").read_bytes()
    assert first.metrics()["needle.accuracy"].value == 0


def test_refusals(tmp_path, given):
    with pytest.raises(UserError, match="over the model's context of 512") as caught:
        needle(testing_run(tmp_path / "run"), NeedleConfig(lengths=(256, 513)), **given)
    assert "extend" in str(caught.value)
    for wrong in ({"lengths": ()}, {"lengths": (512, 256)}, {"depths": (0.0, 1.5)}, {"depths": (0.5, 0.5)}):
        with pytest.raises(ValidationError):
            NeedleConfig(**wrong)
    empty = write_shards(tmp_path / "empty", val=0)
    with pytest.raises(UserError, match="no held-out text"):
        needle(
            testing_run(tmp_path / "run"), NeedleConfig(lengths=(300,)), model=given["model"], shards=empty
        )
    (tmp_path / "needle.json").write_text(json.dumps({"lengths": [1]}))
    with pytest.raises(UserError, match=r"needle\.json is damaged"):
        NeedleReport(tmp_path).grid()
