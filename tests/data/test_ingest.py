"""Splits by what an item is about; limits; counts; identity of the user's files."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import fsspec
import pytest
from pydantic import ValidationError

from publius.core.errors import UserError
from publius.core.messages import text_of
from publius.data import (
    Document,
    IngestConfig,
    IngestPreferencesConfig,
    IngestTextConfig,
    ingest_chats,
    ingest_preferences,
    ingest_prompts,
    ingest_text,
)
from publius.data.ingest import fingerprint, fraction_of
from publius.pipeline import testing_run

Write = Callable[..., str]


def _texts(documents: Any) -> set[str]:
    return {document.text for document in documents}


def test_a_text_never_crosses(jsonl: Write, tmp_path: Path) -> None:
    rows = [{"text": f"Document  {n % 150}\n", "id": str(n)} for n in range(300)]
    rows += [{"text": f"document {n}", "id": f"copy{n}"} for n in range(150)]
    run = testing_run(tmp_path / "run")
    corpus = ingest_text(run, IngestTextConfig(paths=(jsonl(rows),), val_fraction=0.2))
    train, val = (
        {text.lower().split()[1] for text in _texts(side)} for side in (corpus.train(), corpus.val())
    )
    assert not train & val and len(train) + len(val) == 150
    assert 15 <= len(val) <= 45
    expected = sum(len(d.text.encode()) for d in corpus.train())
    assert run.metrics["train_bytes"]["value"] == expected
    assert run.metrics["train_documents"]["value"] + run.metrics["val_documents"]["value"] == 450


def test_the_split_depends_on_text_and_seed_alone(jsonl: Write, tmp_path: Path) -> None:
    rows = [{"text": f"document {n}"} for n in range(100)]
    sides = []
    for number, (order, seed) in enumerate([(rows, 0), (rows[::-1], 0), (rows, 1)]):
        config = IngestTextConfig(paths=(jsonl(order, f"{number}.jsonl"),), val_fraction=0.3, seed=seed)
        sides.append(_texts(ingest_text(testing_run(tmp_path / str(number)), config).val()))
    assert sides[0] == sides[1] != sides[2]
    assert sides[0] == {row["text"] for row in rows if fraction_of(row["text"], 0) < 0.3}


def test_held_out_files_are_kept_out(jsonl: Write, tmp_path: Path) -> None:
    train = jsonl([{"text": t} for t in ("a", "b", "", " \n", "c", "A")], "train.jsonl")
    val = jsonl([{"text": t} for t in ("a", "d")], "val.jsonl")
    run = testing_run(tmp_path / "run")
    corpus = ingest_text(run, IngestTextConfig(paths=(train,), val_paths=(val,), val_fraction=0.9))
    assert [d.text for d in corpus.train()] == ["b", "c"]
    assert [d.text for d in corpus.val()] == ["a", "d"]
    metrics = {name: metric["value"] for name, metric in run.metrics.items()}
    assert metrics == {
        "train_documents": 2,
        "val_documents": 2,
        "train_bytes": 2,
        "dropped_empty": 2,
        "dropped_held_out": 2,
        "dropped_malformed": 0,
    }


def test_something_is_always_held_out(jsonl: Write, tmp_path: Path) -> None:
    rows = [{"text": t} for t in ("one", "two", "three", "ONE")]
    config = IngestTextConfig(paths=(jsonl(rows),), val_fraction=1e-9)
    run = testing_run(tmp_path / "run")
    corpus = ingest_text(run, config)
    nearest = min(("one", "two", "three"), key=lambda text: fraction_of(text, 0))
    assert {d.text.lower() for d in corpus.val()} == {nearest}
    assert len(list(corpus.train())) + len(list(corpus.val())) == 4
    assert run.metrics["train_documents"]["value"] == len(list(corpus.train()))
    none = ingest_text(testing_run(tmp_path / "none"), config.model_copy(update={"val_fraction": 0.0}))
    assert list(none.val()) == []
    single = IngestTextConfig(paths=(jsonl(rows[:1], "single.jsonl"),))
    alone = ingest_text(testing_run(tmp_path / "alone"), single)
    assert (_texts(alone.train()), _texts(alone.val())) == ({"one"}, set())


def test_limits_take_from_every_file(jsonl: Write, tmp_path: Path) -> None:
    big = jsonl([{"text": f"big {n:03}"} for n in range(100)], "a.jsonl")
    small = jsonl([{"text": f"small {n}"} for n in range(2)], "b.jsonl")
    config = IngestTextConfig(paths=(big, small), val_fraction=0.0, max_items=6)
    texts = [d.text for d in ingest_text(testing_run(tmp_path / "r1"), config).train()]
    assert texts == ["big 000", "small 0", "big 001", "small 1", "big 002", "big 003"]
    config = IngestTextConfig(paths=(big, small), val_fraction=0.0, max_bytes=22)
    corpus = ingest_text(testing_run(tmp_path / "r2"), config)
    assert [d.text for d in corpus.train()] == ["big 000", "small 0", "big 001", "small 1"]


def test_nothing_to_train_on(jsonl: Write, tmp_path: Path) -> None:
    config = IngestTextConfig(paths=(jsonl([{"text": " "}]),))
    with pytest.raises(UserError, match="nothing to train on"):
        ingest_text(testing_run(tmp_path / "run"), config)
    config = IngestConfig(paths=(jsonl([{"x": 1}, {"y": 1}]),), drop_malformed=True)
    with pytest.raises(UserError, match="unknown shape: a row with keys 'x'"):
        ingest_chats(testing_run(tmp_path / "run2"), config)
    with pytest.raises(ValidationError):
        IngestConfig(paths=())


def test_an_error_leaves_no_file(jsonl: Write, tmp_path: Path) -> None:
    path = Path(jsonl([{"text": "a"}]))
    path.write_text(path.read_text() + "{")
    run = testing_run(tmp_path / "run")
    with pytest.raises(UserError, match=r"rows\.jsonl:2"):
        ingest_text(run, IngestTextConfig(paths=(str(path),), drop_malformed=True))
    assert list(run.output.iterdir()) == []


def test_chats_need_a_reply(jsonl: Write, tmp_path: Path) -> None:
    ask, reply = {"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}
    rows = [{"messages": [ask, reply, ask]}, {"messages": [ask]}, {"messages": [reply]}]
    run = testing_run(tmp_path / "run")
    config = IngestConfig(paths=(jsonl(rows),), val_fraction=0.0, drop_malformed=True)
    chats = ingest_chats(run, config).train()
    assert [[m.role for m in chat.messages] for chat in chats] == [["user", "assistant"]]
    assert run.metrics["dropped_malformed"]["value"] == 1
    assert run.metrics["dropped_empty"]["value"] == 1


def test_empty_replies_and_held_out_documents_are_dropped_and_counted(jsonl: Write, tmp_path: Path) -> None:
    call = {"role": "assistant", "content": [{"type": "tool_use", "id": "t", "name": "n", "input": {}}]}
    rows: list[Any] = [{"instruction": f"q{n}", "output": text} for n, text in enumerate(("a", "", " \n"))]
    rows += [{"messages": [{"role": "user", "content": "b"}, call]}]
    run = testing_run(tmp_path / "chats")
    config = IngestConfig(paths=(jsonl(rows),), val_paths=(jsonl(rows[1:2], "val.jsonl"),), max_items=2)
    chats = ingest_chats(run, config)
    assert [text_of(chat.messages[0]) for chat in chats.train()] == ["q0", "b"] and chats.val() == []
    assert run.metrics["dropped_empty"]["value"] == 3
    documents = jsonl([{"text": ""}, {"text": "a", "id": None}], "documents.jsonl")
    run = testing_run(tmp_path / "text")
    held_out = IngestTextConfig(paths=(jsonl([{"text": "b"}], "t.jsonl"),), val_paths=(documents,))
    assert list(ingest_text(run, held_out).val()) == [Document("a", "documents.jsonl:2", "documents")]
    assert run.metrics["dropped_empty"]["value"] == 1


def test_pairs_of_one_prompt_stay_together(jsonl: Write, tmp_path: Path) -> None:
    rows = [{"prompt": f"q{n % 40}", "chosen": f"good{n}", "rejected": "bad"} for n in range(120)]
    config = IngestPreferencesConfig(paths=(jsonl(rows),), val_fraction=0.3)
    pairs = ingest_preferences(testing_run(tmp_path / "run"), config)
    train, val = ({text_of(p.prompt.messages[0]) for p in side} for side in (pairs.train(), pairs.val()))
    assert train and val and not train & val
    assert len(pairs.train()) + len(pairs.val()) == 120


def test_prompts(jsonl: Write, tmp_path: Path) -> None:
    rows = [{"prompt": f"q{n}", "category": "c"} for n in range(30)]
    run = testing_run(tmp_path / "run")
    prompts = ingest_prompts(run, IngestConfig(paths=(jsonl(rows),), val_fraction=0.2))
    assert run.metrics["train_prompts"]["value"] == len(prompts.train())
    assert prompts.train()[0].meta == {"category": "c"}


def test_the_fingerprint_follows_the_contents(jsonl: Write) -> None:
    path = jsonl([{"text": "a"}])
    before = fingerprint(IngestTextConfig(paths=(path,)))
    assert list(before) == [path]
    jsonl([{"text": "b"}])
    assert fingerprint(IngestTextConfig(paths=(path,))) != before
    memory = fsspec.filesystem("memory")
    memory.pipe("/fp.jsonl", b"{}")
    assert list(fingerprint(IngestTextConfig(paths=("memory://fp.jsonl",)))) == ["memory:///fp.jsonl"]
    memory.rm("/fp.jsonl")


def test_documents_keep_their_ids(jsonl: Write, tmp_path: Path) -> None:
    config = IngestTextConfig(paths=(jsonl([{"text": "a", "id": "x", "source": "s"}]),), val_fraction=0.0)
    assert list(ingest_text(testing_run(tmp_path / "run"), config).train()) == [Document("a", "x", "s")]


PAIRS = [
    {"prompt": "a", "chosen": "x", "rejected": "y"},
    {"prompt": "b", "chosen": "same", "rejected": "same"},
    {"prompt": "c", "chosen": "x"},
    {"prompt": "d", "response_1": "x", "response_2": "y", "better": "tie"},
    {"prompt": "e", "chosen": "x", "rejected": "y", "probability": 0.5},
    {"prompt": "f", "chosen": "x", "rejected": ""},
    {"prompt": "g", "chosen": "x", "rejected": "y", "probability": "high"},
]


@pytest.mark.parametrize(
    ("settings", "kept", "counts"),
    [
        ({"missing": "drop"}, "malformed", {}),
        ({"drop_malformed": True}, "a", {"ties": 3, "missing": 2, "malformed": 1}),
        ({"drop_malformed": True, "ties": "keep"}, "abde", {"ties": 0, "missing": 2, "malformed": 1}),
        ({"drop_malformed": True, "ties": "error"}, "is a tie", {}),
        ({}, "lacks a reply", {}),
    ],
)
def test_pairs_that_say_nothing(
    jsonl: Write, tmp_path: Path, settings: dict[str, Any], kept: str, counts: dict[str, int]
) -> None:
    config = IngestPreferencesConfig(paths=(jsonl(PAIRS),), val_fraction=0.0, **settings)
    run = testing_run(tmp_path / "run")
    if not counts:
        with pytest.raises(UserError, match=rf"{kept}[\s\S]*rows.jsonl:\d"):
            ingest_preferences(run, config)
        return
    pairs = ingest_preferences(run, config)
    assert "".join(text_of(p.prompt.messages[0]) for p in pairs.train()) == kept
    assert {why: run.metrics[f"dropped_{why}"]["value"] for why in counts} == counts
    assert [p.probability for p in pairs.train()] == [1.0, 0.5, 0.5, 0.5][: len(kept)]


def test_nothing_but_ties_is_said_so(jsonl: Write, tmp_path: Path) -> None:
    for name, held in (("a", ()), ("b", (jsonl(PAIRS[:1], "val.jsonl"),))):
        config = IngestPreferencesConfig(paths=(jsonl(PAIRS[1:2]),), val_paths=held)
        with pytest.raises(UserError, match="is a tie"):
            ingest_preferences(testing_run(tmp_path / name), config)


def test_a_source_for_all_pairs(jsonl: Write, tmp_path: Path) -> None:
    rows = [{**PAIRS[0], "source": "theirs"}, PAIRS[0] | {"prompt": "h"}]
    for name, source, found in (("a", None, {"theirs", ""}), ("b", "people", {"people"})):
        config = IngestPreferencesConfig(paths=(jsonl(rows),), val_fraction=0.0, source=source)
        pairs = ingest_preferences(testing_run(tmp_path / name), config)
        assert {p.source for p in pairs.train()} == found
