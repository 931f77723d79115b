"""Human comparisons: blind, undone, counted, and read by the stages that train on them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from publius.core.errors import UserError
from publius.core.messages import Conversation, Message, assistant, text_of, user
from publius.data import IngestPreferencesConfig, ingest_preferences
from publius.pipeline import testing_run
from publius.serve.store import Comparison, Pair, Shown, Store


def put(store: Store, text: str = "How do I make felt?", meta: dict | None = None) -> Pair:
    prompt = Conversation(system="Be brief.", messages=(user(text),), meta=meta or {})
    return store.comparisons.add_pair(
        prompt, assistant("Press wet wool."), assistant("Ask the guard."), models=("old", "new")
    )


def side_of(shown: Shown, answer: Message) -> str:
    return "left" if shown.left == answer else "right"


def say(store: Store, pair: Pair, rater: str, answer: Message | None, harm: tuple = (None, None)) -> None:
    """Call `answer` of the pair better (None: neither); `harm` is that of `one` and of `other`."""
    shown = store.comparisons.show(pair.id, rater)
    one_left = shown.left == pair.one
    left, right = harm if one_left else harm[::-1]
    store.comparisons.add(
        Comparison(
            pair.id,
            rater,
            "tie" if answer is None else side_of(shown, answer),
            left,
            right,  # pyright: ignore[reportArgumentType]
        )
    )


def test_a_pair_is_shown_blind_and_always_alike_to_one_rater(store: Store) -> None:
    pair = put(store, meta={"secret": "grader's"})
    shown = store.comparisons.show(pair.id, "ann")
    assert shown == store.comparisons.next("ann") == store.comparisons.show(pair.id, " ann ")
    assert {text_of(shown.left), text_of(shown.right)} == {"Press wet wool.", "Ask the guard."}
    assert "old" not in repr(shown) and "new" not in repr(shown) and "grader" not in repr(shown)
    sides = [side_of(store.comparisons.show(pair.id, f"rater {n}"), pair.one) for n in range(200)]
    assert 60 < sides.count("left") < 140  # by chance outside of this once in 10^8 stores


def test_what_is_said_is_kept_in_the_pair_s_own_terms(store: Store) -> None:
    pair = put(store)
    for rater in (f"rater {n}" for n in range(12)):
        shown = store.comparisons.show(pair.id, rater)
        said = store.comparisons.add(
            Comparison(pair.id, rater, "left", 0, 4, ("curt", " curt", "kind"), 1.5), now=7.25
        )
        assert said.swapped == (shown.left == pair.other)
        assert said.better == ("other" if said.swapped else "one")
        assert (said.harm_one, said.harm_other) == ((4, 0) if said.swapped else (0, 4))
        assert said[6:] == (("curt", "kind"), 1.5, 7.25)
    ((kept, all_said),) = store.comparisons.all()
    assert kept == pair and len(all_said) == 12 and len({said.swapped for said in all_said}) == 2


def test_the_next_pair_is_the_one_compared_least(store: Store) -> None:
    first, second = put(store, "one"), put(store, "two")
    assert getattr(store.comparisons.next("ann"), "pair", None) == first.id
    say(store, first, "ann", None)
    assert getattr(store.comparisons.next("ann"), "pair", None) == second.id
    assert getattr(store.comparisons.next("bob"), "pair", None) == second.id
    say(store, second, "ann", None)
    assert store.comparisons.next("ann") is None
    assert getattr(store.comparisons.next("bob"), "pair", None) == first.id


def test_undo_takes_back_ones_own_latest(store: Store) -> None:
    first, second = put(store, "one"), put(store, "two")
    for pair in (second, first):
        say(store, pair, "ann", pair.one)
    say(store, first, "bob", None)
    undone = store.comparisons.undo("ann")
    assert undone is not None and (undone.pair, undone.better) == (first.id, "one")
    assert store.comparisons.progress() == (2, 2, 2, {"ann": 1, "bob": 1})
    assert getattr(store.comparisons.next("ann"), "pair", None) == first.id
    assert getattr(store.comparisons.undo("ann"), "pair", None) == second.id
    assert store.comparisons.undo("ann") is None and store.comparisons.progress() == (2, 1, 1, {"bob": 1})


def test_agreement_is_of_answers_not_of_sides(store: Store) -> None:
    pairs = [put(store, f"question {n}") for n in range(6)]
    for rater in ("ann", "bob", "cy"):
        for number, pair in enumerate(pairs):
            say(store, pair, rater, pair.one if number % 2 else pair.other)
    assert store.comparisons.agreement() == (1.0, 6, 18)
    say(store, put(store, "one more"), "ann", None)  # of one rater: says nothing of agreement
    assert store.comparisons.agreement() == (1.0, 6, 18)


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        ({"pair": "pair_unknown"}, "no such pair"),
        ({"pair": "\0"}, "no such pair"),
        ({"rater": "\0"}, "the rater's name"),
        ({"better": "one"}, "better is 'one'"),
        ({"harm_left": 5}, "a harm rating is 5"),
        ({"harm_right": True}, "a harm rating is True"),
        ({"tags": ("a\nb",)}, "a tag"),
        ({"seconds": float("nan")}, "seconds is nan"),
    ],
)
def test_what_makes_no_sense_is_refused(store: Store, wrong: dict, says: str) -> None:
    pair = put(store)
    with pytest.raises(UserError, match=says):
        store.comparisons.add(Comparison(**{"pair": pair.id, "rater": "ann", "better": "tie", **wrong}))
    assert store.comparisons.progress().comparisons == 0


def test_a_pair_is_compared_once_by_each_rater(store: Store) -> None:
    pair = put(store)
    say(store, pair, "ann", None)
    with pytest.raises(UserError, match="ann has compared this pair already"):
        say(store, pair, "ann", pair.one)
    with pytest.raises(UserError, match="message 1 has role 'user'"):
        store.comparisons.add_pair(pair.prompt, assistant("a"), user("b"))


def test_the_training_stages_read_the_export_unchanged(store: Store, tmp_path: Path) -> None:
    liked, hated, torn, _unseen = (put(store, f"question {n}", {"id": n}) for n in range(4))
    for rater, better in (("ann", liked.one), ("bob", liked.one), ("cy", liked.other), ("dee", None)):
        say(store, liked, rater, better, harm=(0, 3))
    say(store, hated, "ann", hated.other, harm=(None, 1))
    say(store, torn, "ann", torn.one)
    say(store, torn, "bob", torn.other)
    path = tmp_path / "human.jsonl"
    assert store.export_comparisons(path) == 3
    assert [json.loads(line)["probability"] for line in path.read_text().splitlines()] == [0.625, 1.0, 0.5]
    run = testing_run(tmp_path / "run")
    config = IngestPreferencesConfig(paths=(str(path),), val_fraction=0.0)
    found = ingest_preferences(run, config).train()
    assert run.metrics["dropped_ties"]["value"] == 1
    assert [text_of(each.chosen) for each in found] == ["Press wet wool.", "Ask the guard."]
    first = found[0]
    assert (first.probability, first.source, first.prompt.system) == (0.625, "human", "Be brief.")
    assert first.prompt.messages == liked.prompt.messages
    assert first.prompt.meta == {
        "id": liked.id,
        "harm": {"chosen": 0, "rejected": 3},
        "models": {"chosen": "old", "rejected": "new"},
        "tags": [],
        "raters": 4,
    }
    assert found[1].prompt.meta["harm"] == {"chosen": 1, "rejected": None}
