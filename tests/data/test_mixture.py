"""Shares by bytes, repeats, and held-out texts."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from publius.core.errors import UserError
from publius.data import Corpus, Document, MixConfig, mix, write_corpus
from publius.data.mixture import SelectConfig, quotas, select
from publius.pipeline import testing_run


def _corpus(folder: Path, letter: str, count: int, val: tuple[str, ...] = ()) -> Corpus:
    documents = [Document(f"{letter}{n:09}", f"{letter}{n}", letter) for n in range(count)]
    write_corpus(folder, train=documents, val=[Document(text, text, letter) for text in val])
    return Corpus(folder)


def test_quotas_by_hand() -> None:
    assert quotas([100, 1000], [1, 1], max_bytes=None, repeats=1) == [100, 100]
    assert quotas([100, 1000], [1, 3], max_bytes=None, repeats=2) == [200, 600]
    assert quotas([100, 1000], [1, 3], max_bytes=80, repeats=2) == [20, 60]
    assert quotas([0, 1000], [0, 3], max_bytes=None, repeats=1) == [0, 1000]


@given(
    st.lists(st.tuples(st.integers(1, 10**6), st.floats(0.01, 10)), min_size=1, max_size=5),
    st.none() | st.integers(1, 10**6),
    st.floats(0.1, 5),
)
def test_quotas_keep_shares_and_limits(
    parts: list[tuple[int, float]], limit: int | None, repeats: float
) -> None:
    sizes, weights = zip(*parts, strict=True)
    wanted = quotas(sizes, weights, max_bytes=limit, repeats=repeats)
    assert all(amount <= size * repeats + 1 for amount, size in zip(wanted, sizes, strict=True))
    assert limit is None or sum(wanted) <= limit
    total = sum(wanted) + len(wanted)
    for amount, weight in zip(wanted, weights, strict=True):
        assert abs(amount - total * weight / sum(weights)) <= len(wanted) + 1


def test_the_mixture_has_the_shares_and_order(tmp_path: Path) -> None:
    corpora = [_corpus(tmp_path / "a", "a", 100, ("h",)), _corpus(tmp_path / "b", "b", 20, ("h", "i"))]
    run = testing_run(tmp_path / "run")
    mixed = mix(run, MixConfig(weights=(2, 1), max_bytes=300), corpora=corpora)
    letters = "".join(d.text[0] for d in mixed.train())
    assert letters.count("a") == 20 and letters.count("b") == 10
    assert all(abs(letters[:n].count("b") - n / 3) <= 1 for n in range(30))
    assert [d.text for d in mixed.val()] == ["h", "i"]
    assert [round(m["value"], 3) for m in run.metrics["share"]] == [0.667, 0.333]


def test_a_small_corpus_is_repeated_when_allowed(tmp_path: Path) -> None:
    corpora = [_corpus(tmp_path / "a", "a", 100), _corpus(tmp_path / "b", "b", 5)]
    config = MixConfig(weights=(1, 1), repeats=3)
    mixed = mix(testing_run(tmp_path / "run"), config, corpora=corpora)
    ids = [d.id for d in mixed.train()]
    assert sorted(i for i in ids if i[0] == "b") == sorted(["b0", "b1", "b2", "b3", "b4"] * 3)
    assert sum(i[0] == "a" for i in ids) == 15


def test_held_out_texts_of_any_corpus_are_left_out(tmp_path: Path) -> None:
    corpora = [_corpus(tmp_path / "a", "a", 3), _corpus(tmp_path / "b", "b", 3, ("a000000001",))]
    run = testing_run(tmp_path / "run")
    mixed = mix(run, MixConfig(weights=(1, 1)), corpora=corpora)
    assert sorted(d.text[0] + d.text[-1] for d in mixed.train()) == ["a0", "a2", "b0", "b1"]
    assert run.metrics["dropped_held_out"]["value"] == 1


def test_held_out_texts_take_nothing_from_a_share(tmp_path: Path) -> None:
    half = tuple(f"a{n:09}" for n in range(0, 40, 2))
    corpora = [_corpus(tmp_path / "a", "a", 40), _corpus(tmp_path / "b", "b", 40, half)]
    run = testing_run(tmp_path / "run")
    mixed = mix(run, MixConfig(weights=(1, 1)), corpora=corpora)
    letters = [d.text[0] for d in mixed.train()]
    assert (letters.count("a"), letters.count("b")) == (20, 20)
    assert run.metrics["dropped_held_out"]["value"] == 20
    assert [m["value"] for m in run.metrics["share"]] == [0.5, 0.5]


def test_trivial_copies_of_held_out_texts_are_left_out(tmp_path: Path) -> None:
    corpora = [_corpus(tmp_path / "a", "a", 2), _corpus(tmp_path / "b", "b", 2, (" A000000001\n", "h"))]
    mixed = mix(testing_run(tmp_path / "run"), MixConfig(weights=(1, 1)), corpora=corpora)
    assert {d.text for d in mixed.train() if d.text[0] == "a"} == {"a000000000"}


def test_a_corpus_without_a_weight_holds_out_and_takes_nothing(tmp_path: Path) -> None:
    corpora = [_corpus(tmp_path / "a", "a", 2, ("h",)), _corpus(tmp_path / "b", "b", 2, ("h", "i"))]
    mixed = mix(testing_run(tmp_path / "run"), MixConfig(weights=(0, 1)), corpora=corpora)
    assert [d.text for d in mixed.val()] == ["h", "i"]


def test_errors(tmp_path: Path) -> None:
    full, empty = _corpus(tmp_path / "a", "a", 1, ("a000000000",)), _corpus(tmp_path / "b", "b", 0)
    with pytest.raises(UserError, match="1 weights for 2 corpora"):
        mix(testing_run(tmp_path / "r1"), MixConfig(weights=(1,)), corpora=[full, empty])
    with pytest.raises(UserError, match="is empty"):
        mix(testing_run(tmp_path / "r2"), MixConfig(weights=(0, 1)), corpora=[full, empty])
    with pytest.raises(UserError, match="all of it is held out"):
        mix(testing_run(tmp_path / "r3"), MixConfig(weights=(1, 0)), corpora=[full, empty])
    for weights in ((0.0,), (-1.0, 2.0)):
        with pytest.raises(ValidationError):
            MixConfig(weights=weights)


def test_select_keeps_by_source(tmp_path: Path) -> None:
    documents = [Document(f"{source}{n}", f"{source}{n}", source) for n in range(3) for source in "abc"]
    write_corpus(tmp_path / "all", train=documents, val=[Document("v", "v", "a"), Document("w", "w", "b")])
    corpus = Corpus(tmp_path / "all")
    run = testing_run(tmp_path / "run")
    kept = select(run, SelectConfig(without=("b",)), corpus=corpus)
    assert [d.text for d in kept.train()] == ["a0", "c0", "a1", "c1", "a2", "c2"]
    assert [d.text for d in kept.val()] == ["v"]
    assert [run.metrics[name]["value"] for name in ("train_documents", "val_documents", "left_out")] == [
        6,
        1,
        4,
    ]
    only = select(testing_run(tmp_path / "only"), SelectConfig(sources=("b", "c")), corpus=corpus)
    assert [d.text for d in only.train()] == ["b0", "c0", "b1", "c1", "b2", "c2"]


def test_select_refuses_what_is_not_there_and_what_leaves_nothing(tmp_path: Path) -> None:
    corpus = _corpus(tmp_path / "a", "a", 3)
    with pytest.raises(UserError, match="no document comes from poems"):
        select(testing_run(tmp_path / "r"), SelectConfig(without=("poems",)), corpus=corpus)
    with pytest.raises(UserError, match="nothing is left"):
        select(testing_run(tmp_path / "s"), SelectConfig(without=("a",)), corpus=corpus)
    with pytest.raises(ValidationError, match="give sources or without"):
        SelectConfig()
