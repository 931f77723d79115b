"""The remote judge over a real server: both dialects, both orders, and every way of giving no judgement."""

from __future__ import annotations

import re
from typing import Any

import pytest

from publius.constitution.judges import (
    Abstention,
    JudgeConfig,
    Judgement,
    Panel,
    ParseFailure,
    RemoteJudge,
    RemoteJudgeConfig,
    Skipped,
    seated,
)
from publius.constitution.judges.judgement import logit, sigmoid
from publius.constitution.principles import Constitution
from publius.core.errors import UserError
from publius.core.messages import Conversation, assistant, user
from publius.inference.remote import RemoteModel
from tests.inference.remote.wire import Fault, Reply, Wire, wire

C = Constitution.load()
P = C.principles[0]
TALK = Conversation(system="Be kind.", messages=(user("hello"),))


def options(text: str) -> tuple[str, str]:
    """The two answers, in the order they are shown."""
    found = re.search(r"\(A\) (.*?)\n\(B\) (.*?)\n", text, re.DOTALL)
    assert found is not None, text
    return found[1], found[2]


def prefers_good(text: str) -> Reply:
    return Reply("(A)" if options(text)[0] == "good" else "(B)")


def settings(server: Wire, tmp: Any, dialect: str, own: dict[str, Any], **changes: Any) -> JudgeConfig:
    remote = RemoteJudgeConfig.model_validate(server.settings(dialect, tmp) | own)
    return JudgeConfig.model_validate({"remote": (remote,), "shots": 1} | changes)


def judge(config: JudgeConfig, *pairs):
    with seated(config, []) as bench:
        made = [(TALK, assistant(a), assistant(b)) for a, b in pairs or [("good", "bad")]]
        return bench.judge.judge(made, [P] * len(made)), bench.stats()


@pytest.mark.parametrize("dialect", ["anthropic", "openai"])
def test_words_in_both_orders(tmp_path, dialect):
    with wire(prefers_good) as server:
        config = settings(server, tmp_path, dialect, {}, samples=2)
        [one, turned], stats = judge(config, ("good", "bad"), ("bad", "good"))
        # two votes for one side: (2 + 1/2) / (2 + 1)
        assert one == Judgement(pytest.approx(5 / 6), True, pytest.approx(5 / 6), pytest.approx(5 / 6), P.id)
        assert turned.probability == pytest.approx(1 - one.probability)
        # the two pairs ask the same two questions, two samples of each
        assert stats is not None and stats.requests == len(server.seen) == 4
        text = server.seen[0].text
        assert P.comparison_question in text and "Be kind." in text and "Human: hello" in text
        assert text.endswith("Answer with (A) or (B) and nothing else.")
        shot = server.seen[0].body["messages"][:2]
        assert [m["role"] for m in shot] == ["user", "assistant"] and shot[1]["content"] in ("(A)", "(B)")
        assert server.seen[0].body["max_tokens"] == 16


def test_log_probabilities_of_both_orders(tmp_path):
    def say(text: str) -> Reply:
        first = 0.8 if options(text)[0] == "good" else 0.4
        return Reply("(A)" if first > 0.5 else "(B)", chances={"A": first * 0.9, "B": 0.9 - first * 0.9})

    with wire(say) as server:
        [one], _ = judge(settings(server, tmp_path, "openai", {}))
        assert isinstance(one, Judgement)
        assert (one.forward, one.backward) == (pytest.approx(0.8), pytest.approx(0.6))
        assert one.probability == pytest.approx(sigmoid((logit(0.8) + logit(0.6)) / 2))
        assert server.seen[0].body["top_logprobs"] == 20
        [one], _ = judge(settings(server, tmp_path, "openai", {"logprobs": False}))
        assert isinstance(one, Judgement) and one.forward == 0.75
        assert "logprobs" not in server.seen[-1].body
        [one], _ = judge(settings(server, tmp_path, "openai", {}, min_mass=0.95))
        assert isinstance(one, ParseFailure) and one.mass == pytest.approx(0.9)


def test_chain_of_thought(tmp_path):
    def say(text: str) -> Reply:
        best = "(A)" if options(text)[0] == "good" else "(B)"
        return Reply(f"(A) and (B) differ in warmth.\n\nThe answer is {best}.")

    with wire(say) as server:
        config = settings(server, tmp_path, "anthropic", {}, chain_of_thought=True, samples=3, shots=2)
        [one], stats = judge(config)
        assert isinstance(one, Judgement)
        assert one.probability == pytest.approx(3.5 / 4), "the label is clamped, not the judge"
        assert one.reason.startswith("(A) and (B) differ") and stats is not None and stats.requests == 6
        body = server.seen[0].body
        assert body["max_tokens"] == 128 + 16 and len(body["messages"]) == 5
        assert re.search(r"The answer is \([AB]\)\.$", body["messages"][1]["content"])
        assert "{" not in body["messages"][1]["content"] and "step by step" in server.seen[0].text


@pytest.mark.parametrize("dialect", ["anthropic", "openai"])
def test_refusals_are_abstentions_and_nonsense_is_a_failure(tmp_path, dialect):
    says = {
        "refusal": Reply("I will not.", "refusal"),
        "sorry": Reply("I'm sorry, I can't."),
        "odd": Reply("Blue."),
    }

    def say(text: str) -> Reply:
        return next((reply for word, reply in says.items() if word in options(text)), prefers_good(text))

    with wire(say) as server:
        pairs = [("good", "bad"), ("refusal", "bad"), ("good", "sorry"), ("odd", "bad")]
        verdicts, _ = judge(settings(server, tmp_path, dialect, {}), *pairs)
    assert [type(v) for v in verdicts] == [Judgement, Abstention, Abstention, ParseFailure]
    assert verdicts[1] == Abstention("I will not.", P.id)
    assert "Blue" in verdicts[3].problem


def test_an_endpoint_that_fails_stops_or_is_counted_as_the_config_says(tmp_path):
    with wire(prefers_good) as server:
        server.faults.extend([Fault(status=500)] * 2)
        once = {"retries": 1, "concurrency": 1}
        with pytest.raises(UserError, match="no answer after 2 tries"):
            judge(settings(server, tmp_path, "openai", once))
        server.faults.extend([Fault(status=500)] * 2)
        config = settings(server, tmp_path, "openai", once | {"on_error": "skip"})
        verdicts, stats = judge(config, ("good", "bad"), ("good", "worse"))
        assert isinstance(verdicts[0], Skipped) and "status 500" in verdicts[0].problem
        assert isinstance(verdicts[1], Judgement) and stats is not None and stats.unanswered == 1
        # what was skipped is asked when the work is done again, and nothing else
        before = len(server.seen)
        verdicts, _ = judge(config, ("good", "bad"), ("good", "worse"))
        assert all(isinstance(v, Judgement) for v in verdicts) and len(server.seen) == before + 1


def test_several_remote_judges_are_a_panel(tmp_path):
    with wire(prefers_good) as server, wire(lambda text: Reply("(A)")) as other:
        remotes = tuple(
            RemoteJudgeConfig.model_validate(s.settings("anthropic", tmp_path)) for s in (server, other)
        )
        config = JudgeConfig(remote=remotes, shots=0)
        with seated(config, []) as bench:
            assert isinstance(bench.judge, Panel)
            [joined] = bench.judge.judge([(TALK, assistant("good"), assistant("bad"))], [P])
            stats = bench.stats()
        assert isinstance(joined, Judgement) and joined.votes == (0.75, 0.5)
        assert stats is not None and stats.requests == 4
        with seated(config.model_copy(update={"remote": remotes[:1]}), []) as bench:
            assert isinstance(bench.judge, RemoteJudge)


def test_there_must_be_a_judge():
    with pytest.raises(UserError, match="no judge"), seated(JudgeConfig(), []):
        pass


def test_pairs_and_principles_go_together(tmp_path):
    with wire() as server:
        config = settings(server, tmp_path, "openai", {})
        with RemoteModel(config.remote[0]) as model, pytest.raises(ValueError, match="principles"):
            RemoteJudge(model, config, config.remote[0]).judge([], [P])
