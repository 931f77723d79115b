"""Poor and near-duplicate documents go, with the reason counted; the rest stay as they were."""

import random
from pathlib import Path

import pytest

from publius.core.errors import UserError
from publius.data import Corpus, Document, write_corpus
from publius.data.refine import RefineConfig, refine
from publius.pipeline import Run, testing_run

WORDS = [w + e for w in ("miller", "baker", "river", "stone", "market", "orchard") for e in ("", "s", "ed")]


def _prose(seed: int, words: int = 120) -> str:
    rng = random.Random(seed)
    sentences = [
        f"The {rng.choice(WORDS)} of {rng.choice(WORDS)} and {rng.choice(WORDS)} {rng.choice(WORDS)} {n} that"
        f" {rng.choice(WORDS)}{rng.randrange(100)} have {rng.choice(WORDS)} with {rng.choice(WORDS)}."
        for n in range(words // 12)
    ]
    return " ".join(sentences)


def _run(
    tmp_path: Path, train: list[str], config: RefineConfig, val: tuple[str, ...] = ()
) -> tuple[Corpus, Run]:
    write_corpus(
        tmp_path / "in",
        train=[Document(text, f"id{n}", "src") for n, text in enumerate(train)],
        val=[Document(text, "v", "src") for text in val],
    )
    run = testing_run(tmp_path / "run")
    return refine(run, config, corpus=Corpus(tmp_path / "in")), run


def test_poor_documents_go_and_are_counted(tmp_path: Path) -> None:
    good = [_prose(n) for n in range(4)]
    bad = [
        "Too short.",
        "the and " + "word# " * 40,
        "to the and 12345 67890 " * 12,
        "same line of the text and more\n" * 30,
    ]
    corpus, run = _run(tmp_path, [good[0], *bad, *good[1:]], RefineConfig(dedup=False), (good[0], "short"))
    assert [(d.text, d.id, d.source) for d in corpus.train()] == [
        (text, f"id{n}", "src") for text, n in zip(good, (0, 5, 6, 7), strict=True)
    ]
    assert [d.text for d in corpus.val()] == [good[0]]
    metrics = {name: m["value"] for name, m in run.metrics.items()}
    assert metrics["documents_in"] == 8 and metrics["documents_kept"] == 4
    assert metrics["dropped_short_doc"] == 1 and metrics["dropped_too_many_hashes"] == 1
    assert metrics["dropped_below_alpha_threshold"] == 1
    assert sum(v for name, v in metrics.items() if name.startswith("dropped_")) == 4


def test_near_duplicates_go_and_one_stays(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    texts = [_prose(n, 300) for n in range(6)]
    near = texts[2] + " The end of it."
    corpus, run = _run(tmp_path, [*texts, near, texts[4]], RefineConfig(repetition=False))
    kept = [d.text for d in corpus.train()]
    assert len(kept) == 6
    assert sum(text in kept for text in (texts[2], near)) == 1
    assert kept.count(texts[4]) == 1
    assert {texts[0], texts[1], texts[3], texts[5]} <= set(kept)
    assert run.metrics["dropped_duplicate"]["value"] == 2
    assert [p.name for p in run.output.parent.iterdir() if p.name.startswith("refine-")] == []
    assert capfd.readouterr().err == ""


def test_nothing_near_a_held_out_document_is_trained_on(tmp_path: Path) -> None:
    texts = [_prose(n, 300) for n in range(8)]
    copies = [text + " The end of it." for text in texts]
    held_out = (*texts[:4], texts[3] + " So it was.")
    corpus, run = _run(tmp_path, [*copies, *texts[4:]], RefineConfig(repetition=False), held_out)
    assert [d.text for d in corpus.val()] == texts[:4]
    assert not {d.text for d in corpus.train()} & set(copies[:4])
    assert len(list(corpus.train())) == 4
    metrics = {name: m["value"] for name, m in run.metrics.items()}
    assert (metrics["documents_in"], metrics["documents_kept"], metrics["dropped_duplicate"]) == (12, 4, 8)
    assert metrics["held_out_kept"] == 4


def test_the_held_out_one_stays_whatever_else_is_near(tmp_path: Path) -> None:
    """Copies in training that are nearer to each other than to it do not outvote a held-out document."""
    held_out = tuple(_prose(n, 300) for n in range(8))
    copies: list[str] = []
    for number, text in enumerate(held_out):
        words = text.split()
        words[10 * number % len(words)] = words[-20] = "changed"
        copies += [" ".join(words) + end for end in (".", "!", " .")]
    corpus, run = _run(tmp_path, [*copies, _prose(99, 300)], RefineConfig(repetition=False), held_out)
    assert [d.text for d in corpus.val()] == list(held_out)
    assert [d.text for d in corpus.train()] == [_prose(99, 300)]
    assert run.metrics["dropped_duplicate"]["value"] == 24


def test_own_thresholds(tmp_path: Path) -> None:
    config = RefineConfig(min_words=2, min_stop_words=None, repetition=False, dedup=False)
    corpus, _ = _run(tmp_path, ["Two words", "One"], config)
    assert [d.text for d in corpus.train()] == ["Two words"]


def test_nothing_left_says_why(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"no document is left after refining \(1 short_doc\)"):
        _run(tmp_path, ["Too short."], RefineConfig())
    with pytest.raises(UserError, match="the corpus was empty"):
        _run(tmp_path, [], RefineConfig(dedup=False))
