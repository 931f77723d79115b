from __future__ import annotations

import math

import pytest

from publius.constitution.judges.choice import NoChoice
from publius.core.errors import UserError
from publius.core.messages import Conversation, assistant, user
from publius.evals.choice_report import score_choices
from publius.evals.choices import (
    ChoiceItem,
    Chosen,
    EngineChoices,
    MultipleChoice,
    RemoteChoices,
    RewardChoices,
)
from publius.inference.engine import Engine
from publius.inference.remote import RemoteModel
from publius.reward import RewardJudge
from publius.testing import ScriptedEngine, byte_tokenizer, fake_engine, tiny_model
from tests.inference.remote.wire import Fault, Reply, wire
from tests.rl import tiny

AB = (" (A)", " (B)")
PROMPT = "Which is right?\n (A) [[[yes]]]\n (B) [[[no]]]\n\nThe answer is:"
ONE = ChoiceItem("one", (MultipleChoice(PROMPT, AB),), (0,))


def test_our_engine_reads_the_options_after_the_prompt() -> None:
    engine, tokenizer = fake_engine(), byte_tokenizer()
    nine = MultipleChoice("Pick.\nThe answer is:", tuple(f" ({c})" for c in "ABCDEFGHI"))
    many = ChoiceItem("many", (nine,), (3,))
    one, other, unfit = EngineChoices(engine, tokenizer).score(
        [ONE, many, ONE._replace(orders=(MultipleChoice("x" * 600, AB),))]
    )
    prompt = [tokenizer.bos_id, *tokenizer.encode(PROMPT)]
    a, b = (math.exp(sum(s)) for s in engine.score([prompt] * 2, [tokenizer.encode(o) for o in AB]))
    assert isinstance(one, Chosen)
    assert one.probabilities == pytest.approx((a / (a + b), b / (a + b)), rel=1e-4)
    assert one.mass == pytest.approx(a + b, rel=1e-4)
    assert isinstance(other, Chosen) and len(other.probabilities) == 9
    assert sum(other.probabilities) == pytest.approx(1)
    assert isinstance(unfit, NoChoice) and unfit.kind == "unfit"


def test_a_chat_model_is_asked_in_a_turn_and_goes_on_from_the_cue() -> None:
    tokenizer = byte_tokenizer()
    seen: list[str] = []

    class Watched(Engine):
        def score(self, prompts, continuations):
            seen.extend(tokenizer.decode(p) for p in prompts)
            return super().score(prompts, continuations)

    engine = Watched(tiny_model(), tokenizer)
    assert isinstance(EngineChoices(engine, tokenizer, "chat").score([ONE])[0], Chosen)
    assert seen[0].endswith("The answer is:") and "<|user|>Which is right?" in seen[0]


def test_a_model_of_ours_thinks_first() -> None:
    tokenizer = byte_tokenizer()
    engine = ScriptedEngine([" it is so\n\nHuman: more", " no"] * 3, tokenizer)
    seen: list[list[int]] = []
    plain = engine.score

    def score(prompts, continuations):
        seen.extend(prompts)
        return plain(prompts, continuations)

    engine.score = score  # pyright: ignore[reportAttributeAccessIssue]
    long = ONE._replace(orders=(MultipleChoice("x" * 460 + "\nThe answer is:", AB),))
    one, unfit = EngineChoices(engine, tokenizer, thought_tokens=30, samples=2).score([ONE, long])
    assert isinstance(unfit, NoChoice) and unfit.kind == "unfit", "it fits, but leaves no room for a thought"
    body = PROMPT.removesuffix("\n\nThe answer is:")
    first, second = tokenizer.decode(seen[0]), tokenizer.decode(seen[2])
    assert first.endswith(f"{body}\n\nLet's think step by step: it is so\n\nSo the answer is:")
    assert second.endswith("step by step: no\n\nSo the answer is:") and len(engine.prompts[0]) == 2
    read = [plain([ids] * 2, [tokenizer.encode(o) for o in AB]) for ids in (seen[0], seen[2])]
    shares = [math.exp(sum(a)) / (math.exp(sum(a)) + math.exp(sum(b))) for a, b in read]
    assert isinstance(one, Chosen)
    assert one.probabilities == pytest.approx((sum(shares) / 2, 1 - sum(shares) / 2), rel=1e-4)
    chat = EngineChoices(ScriptedEngine([" yes"], tokenizer), tokenizer, "chat", thought_tokens=8)
    assert isinstance(chat.score([ONE])[0], Chosen)


def pair(a: str, b: str) -> ChoiceItem:
    orders = tuple(
        MultipleChoice(f"Which?\n(A) {x}\n(B) {y}\nThe answer is:", AB) for x, y in ((a, b), (b, a))
    )
    talk = (Conversation(messages=(user("q"),)), assistant(a), assistant(b))
    return ChoiceItem("pair", orders, (0,), (len(a), len(b)), talk)


def test_pairs_are_asked_in_both_orders_and_averaged() -> None:
    engine, tokenizer = fake_engine(), byte_tokenizer()
    one, turned = EngineChoices(engine, tokenizer).score([pair("yes", "no"), pair("no", "yes")])
    assert isinstance(one, Chosen) and isinstance(turned, Chosen)
    assert one.probabilities == pytest.approx(turned.probabilities[::-1], abs=1e-6)
    assert one.consistent == turned.consistent


@pytest.mark.parametrize("dialect", ["anthropic", "openai"])
def test_a_remote_model(tmp_path, dialect) -> None:
    def say(text: str) -> Reply:
        assert text.endswith("Answer with (A) or (B) and nothing else.") and "The answer is" not in text
        first = "(A) yes" in text or "[[[yes]]]" in text
        return Reply(
            "(A)" if first else "(B)", chances={"A": 0.9, "B": 0.1} if first else {"A": 0.3, "B": 0.7}
        )

    with wire(say) as server, RemoteModel(server.config(dialect, tmp_path)) as model:
        published, both = RemoteChoices(model).score([ONE, pair("yes", "no")])
        assert isinstance(published, Chosen) and isinstance(both, Chosen)
        if dialect == "openai":
            assert published.probabilities == pytest.approx((0.9, 0.1))
            between = (math.log(0.9 / 0.1) + math.log(0.7 / 0.3)) / 2
            assert both.probabilities[0] == pytest.approx(1 / (1 + math.exp(-between)))
        else:
            assert published.probabilities == (0.75, 0.25)
        assert both.consistent and published.consistent is None
        server.say = lambda text: Reply("I will not.", "refusal")
        [declined] = RemoteChoices(model, samples=2).score([ONE._replace(orders=(MultipleChoice("x", AB),))])
        assert declined == NoChoice("declined", "I will not.")


def test_a_remote_model_that_thinks(tmp_path) -> None:
    options = tuple(f" ({c})" for c in "ABC")
    item = ChoiceItem("c", (MultipleChoice("Pick.\nThe answer is:", options),), (2,))
    with wire(lambda text: Reply("Not (A), not (B).\nThe answer is (C).")) as server:
        with RemoteModel(server.config("openai", tmp_path)) as model:
            [chosen] = RemoteChoices(model, thought_tokens=40, samples=3).score([item])
        assert "step by step" in server.seen[0].text and "(A), (B) or (C)" in server.seen[0].text
        assert server.seen[0].body["max_tokens"] == 56 and len(server.seen) == 3
    assert isinstance(chosen, Chosen) and chosen.probabilities == pytest.approx(
        (0.5 / 4.5, 0.5 / 4.5, 3.5 / 4.5)
    )


def test_unreached_questions_are_counted(tmp_path) -> None:
    with wire(lambda text: Reply("(A)")) as server:
        server.faults.append(Fault(status=400))
        settings = server.config("openai", tmp_path, on_error="skip", concurrency=1)
        with RemoteModel(settings) as model:
            report = score_choices([ONE, pair("yes", "no")], RemoteChoices(model))
    assert report.unscored["unreached"] == 1 and report.n == 2


def test_a_preference_model(tmp_path) -> None:
    judge = RewardJudge.from_checkpoint(tiny.reward_checkpoint(tmp_path))
    one, turned, without = RewardChoices(judge).score([pair("yes", "no"), pair("no", "yes"), ONE])
    assert isinstance(one, Chosen) and isinstance(turned, Chosen)
    assert one.probabilities == pytest.approx(turned.probabilities[::-1])
    assert isinstance(without, NoChoice)
    with pytest.raises(UserError, match="needs the replies"):
        RewardChoices(judge).score([ONE])


def test_options_too_unlikely_for_a_float_still_differ() -> None:
    class Unlikely:
        context = 10_000

        def score(self, prompts: list[list[int]], given: list[list[int]]) -> list[list[float]]:
            return [[-8.0] * len(ids) for ids in given]

    asked = MultipleChoice("Which?", (" " + "x" * 100, " " + "y" * 101))
    [found] = EngineChoices(Unlikely(), byte_tokenizer()).score([ChoiceItem("long", (asked,), (0,))])
    assert isinstance(found, Chosen) and found.mass < 1e-250
    p = 1 / (1 + math.exp(-8.0))
    assert found.probabilities == pytest.approx((p, 1 - p))
