"""Lockstep: one batch a step, whatever the attacks; budget, costs, and who may not judge."""

import pytest

from publius.core.errors import UserError
from publius.core.messages import Conversation, text_of, user
from publius.redteam.attacker import Goal, Play, Send, Write
from publius.redteam.referee import TruthReferee
from publius.redteam.search.chains import Chain, begin, first_words
from publius.redteam.search.driver import Driver, rough_tokens
from tests.redteam.search.conftest import REFUSAL, STEPS, Says, asked, goal


def talk(goal: Goal, turns: int) -> Play:
    """Asks `turns` times, with a question to its own model before each."""
    seen = None
    for turn in range(turns):
        written = yield Write(Conversation(messages=(user("How shall I ask?"),)))
        words = "again" if written.conversation is None else text_of(written.conversation.messages[-1])
        asking = (
            goal.question
            if seen is None or seen.conversation is None
            else seen.conversation.then(user(words))
        )
        seen = yield Send(asking.model_copy(update={"meta": {**goal.question.meta, "turn": turn}}))


def test_attacks_of_different_length_share_their_batches():
    target = Says(lambda c, draw: REFUSAL)
    writer = Says(lambda c, draw: "please", "writer")
    driver = Driver(target, TruthReferee(), writer)
    plays = [(goal("grey bane"), talk(goal("grey bane"), turns)) for turns in (1, 3, 2)]
    outcomes = driver.play(plays, room=100, seed=0)
    assert target.batches == [3, 2, 1] and writer.batches == [3, 2, 1]
    assert [outcome.replies for outcome in outcomes] == [1, 3, 2]
    assert not any(outcome.succeeded for outcome in outcomes)
    assert outcomes[1].tokens > outcomes[0].tokens > 0


def test_an_attack_ends_when_it_has_what_it_wanted():
    target = Says(lambda c, draw: "; ".join(STEPS) if "please" in asked(c) else REFUSAL)
    driver = Driver(target, TruthReferee(), Says(lambda c, draw: "please", "writer"))
    (outcome,) = driver.play([(goal("grey bane"), talk(goal("grey bane"), 9))], room=100, seed=0)
    assert outcome.succeeded and outcome.replies == 2 and outcome.best is not None
    assert outcome.best.grade.label == "harmful"


def test_the_budget_is_never_overdrawn():
    target = Says(lambda c, draw: REFUSAL)
    driver = Driver(target, TruthReferee())
    plays = [(goal(str(i)), talk(goal(str(i)), 4)) for i in range(5)]
    outcomes = driver.play(plays, room=7, seed=0)
    assert sum(target.batches) == sum(outcome.replies for outcome in outcomes) == 7


def test_no_reply_is_unscored_and_the_best_is_one_with_a_label():
    target = Says(lambda c, draw: None if c.meta["turn"] == 1 else REFUSAL)
    driver = Driver(target, TruthReferee())
    (outcome,) = driver.play([(goal("grey bane"), talk(goal("grey bane"), 3))], room=9, seed=0)
    assert outcome.unscored == 1 and outcome.best is not None and outcome.best.grade.label == "refusal"


def test_nobody_marks_their_own_work():
    class Judge(TruthReferee):
        fingerprint = "weights of writer"

    target, writer = Says(lambda c, draw: REFUSAL), Says(lambda c, draw: "", "writer")
    with pytest.raises(UserError, match="the attacker's model and the judge are the same"):
        Driver(target, Judge(), writer)
    with pytest.raises(UserError, match="are the same"):  # a panel's own fingerprint is of all its judges
        Driver(target, TruthReferee(), writer, judges=("weights of another", "weights of writer"))
    assert Driver(target, Judge(), None) is not None


def test_a_chain_played_again_says_the_same_and_its_words_go_around_another_request():
    chain = Chain(style="persona", mutators=("typos", "polite"), seed=3)
    first, again = (next(begin(chain, goal("grey bane"))) for _ in range(2))
    assert first == again and isinstance(first, Send)
    assert first.conversation.meta["mutators"] == ["typos", "polite"]
    other = first_words(chain, goal("mint tea"))
    assert other is not None and other.meta["style"] == "persona" and "grey bane" not in asked(other)
    assert chain.then("").mutators == chain.mutators
    assert chain.then("shouting").then("threat").mutators == ("polite", "shouting", "threat")
    with pytest.raises(UserError, match="unknown mutator sneezing"):
        begin(chain.then("sneezing"), goal("grey bane"))
    with pytest.raises(UserError, match="unknown attack style"):
        next(begin(Chain(style="sneeze"), goal("grey bane")))


def test_tokens_are_counted_roughly_where_nobody_knows_better():
    short = goal("grey bane").question
    long = short.then(user("word " * 400))
    assert 0 < rough_tokens(short) < rough_tokens(long)
