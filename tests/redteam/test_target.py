"""Targets: the engine in this process, and both dialects against a real server on the loopback."""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path

import pytest

from publius.core.errors import UserError
from publius.core.messages import Conversation, ImageBlock, assistant, text_of, user
from publius.inference import Engine
from publius.inference.remote import RemoteConfig
from publius.model.checkpoint import Checkpoint, fingerprint, save_checkpoint
from publius.redteam import STYLES, Auditor
from publius.redteam.attackers import ATTACKERS
from publius.redteam.target import EngineTarget, RemoteTarget
from publius.testing import (
    ScriptedEngine,
    byte_tokenizer,
    fake_engine,
    served,
    tiny_model,
    write_tiny_checkpoint,
)
from publius.tokenizer import Renderer
from tests.inference.remote.wire import Fault, Reply, Wire, wire
from tests.redteam.attackers.driving import HAZARD, drive


def ask(text: str) -> Conversation:
    return Conversation(messages=(user(text),), meta={"kind": "hazard", "stopped": "refusal"})


def engine_target(max_tokens: int = 12) -> EngineTarget:
    return EngineTarget(fake_engine(), Renderer(byte_tokenizer()), fingerprint="f", max_tokens=max_tokens)


def replied(played: Conversation | None) -> str:
    assert played is not None
    return text_of(played.messages[-1])


def test_replies_come_in_order_and_in_one_batch() -> None:
    engine = ScriptedEngine(["one", "two", "three"])
    target = EngineTarget(engine, Renderer(byte_tokenizer()), fingerprint="f", name="puppet")
    talks = [ask(text) for text in "abc"]
    played = target.replies(talks)
    assert [replied(one) for one in played] == ["one", "two", "three"] and len(engine.prompts) == 1
    for talk, one in zip(talks, played, strict=True):
        assert one is not None and one.messages[:-1] == talk.messages
        assert one.meta == {"kind": "hazard"}  # what an earlier reply was stopped for is no longer so
    assert (target.name, target.fingerprint) == ("puppet", "f")
    assert target.replies([]) == [] and len(engine.prompts) == 1


def test_without_a_seed_it_is_greedy_and_with_one_it_can_be_had_again() -> None:
    engine = Engine(tiny_model(scale=1.0), byte_tokenizer())  # a flat distribution: draws differ
    target = EngineTarget(engine, Renderer(byte_tokenizer()), fingerprint="f", max_tokens=12)
    talks = [ask("hello")] * 6
    cold = target.replies(talks)
    assert all(one == cold[0] for one in cold)
    warm = target.replies(talks, seed=3)
    assert warm == target.replies(talks, seed=3) and len({repr(one) for one in warm}) > 1
    assert warm != target.replies(talks, seed=4)


def test_it_replies_as_the_auditor_plays() -> None:
    engine, renderer = fake_engine(), Renderer(byte_tokenizer())
    attacks = [
        STYLES[n](HAZARD.question, random.Random(0)) for n in ("direct", "persona", "prefill", "tool_result")
    ]
    for seed in (None, 5):
        played = Auditor(engine, renderer, max_tokens=12).play(attacks, seed=seed)
        target = EngineTarget(engine, renderer, fingerprint="f", max_tokens=12)
        assert target.replies(attacks, seed=seed) == played


def test_what_does_not_fit_has_no_reply() -> None:
    picture = Conversation(messages=(user([ImageBlock(source={"type": "base64"})]),))
    played = engine_target().replies([ask("x" * 600), ask("y"), picture])
    assert [one is None for one in played] == [True, False, True]
    edge = 512 - 12 - len(Renderer(byte_tokenizer()).prompt(ask("")))
    played = engine_target().replies([ask("x" * edge), ask("x" * (edge + 1))])
    assert [one is None for one in played] == [False, True]


def test_a_begun_reply_is_gone_on_with() -> None:
    target = EngineTarget(ScriptedEngine([" and so on"]), Renderer(byte_tokenizer()), fingerprint="f")
    (played,) = target.replies([ask("a").then(assistant("Sure"))])
    assert played is not None and len(played.messages) == 2 and replied(played) == "Sure and so on"


def test_the_target_of_a_checkpoint(tmp_path: Path) -> None:
    save_checkpoint(tmp_path / "sft" / "files", tiny_model(), byte_tokenizer())
    checkpoint = Checkpoint(tmp_path / "sft" / "files")
    with EngineTarget.of(checkpoint, max_tokens=4, device="cpu") as target:
        assert target.name == "sft" and target.fingerprint == fingerprint(checkpoint)
        assert target.replies([ask("hello")])[0] is not None
    with pytest.raises(UserError):
        EngineTarget.of(Checkpoint(tmp_path), device="cpu")


@pytest.fixture
def server() -> Iterator[Wire]:
    with wire() as made:
        yield made


def remote(server: Wire, tmp_path: Path, dialect: str = "anthropic", **changes: object) -> RemoteTarget:
    settings = {"temperature": 0.0, "retries": 0, **changes}
    return RemoteTarget(server.config(dialect, tmp_path, **settings), max_tokens=9)


@pytest.mark.parametrize("dialect", ["anthropic", "openai"])
def test_a_remote_model_replies_in_order(server: Wire, tmp_path: Path, dialect: str) -> None:
    talks = [ask(f"q{i}") for i in range(5)]
    with remote(server, tmp_path, dialect) as target:
        played = target.replies(talks)
    assert [replied(one) for one in played] == [f"you said q{i}" for i in range(5)]
    assert all(one is not None and one.meta == {"kind": "hazard"} for one in played)
    assert target.name.startswith("m at 127.0.0.1:") and len(target.fingerprint) == 64
    assert {(s.body["temperature"], s.body["max_tokens"]) for s in server.seen} == {(0.0, 9)}


def test_fingerprints_tell_addresses_and_models_apart(server: Wire, tmp_path: Path) -> None:
    prints: set[str] = set()
    for dialect, model in (("anthropic", "m"), ("openai", "m"), ("openai", "n")):
        with remote(server, tmp_path, dialect, model=model) as target:
            prints.add(target.fingerprint)
    with remote(server, tmp_path, "openai", timeout=3.0) as again:
        assert len(prints) == 3 and again.fingerprint in prints


def test_seeds_draw_anew_and_equal_conversations_have_replies_of_their_own(tmp_path: Path) -> None:
    drawn = iter(range(100))
    with wire(lambda text: Reply(f"draw {next(drawn)}")) as server, remote(server, tmp_path) as target:
        talks = [ask("a"), ask("a"), ask("b")]
        cold = [replied(one) for one in target.replies(talks)]
        assert cold[0] == cold[1] and len(server.seen) == 2
        warm = [replied(one) for one in target.replies(talks, seed=1)]
        assert len({*cold, *warm}) == 5
        assert [replied(one) for one in target.replies(talks, seed=1)] == warm and len(server.seen) == 5
        assert not {replied(one) for one in target.replies(talks, seed=2)} & {*cold, *warm}
        assert {s.body["temperature"] for s in server.seen[2:]} == {1.0}


def test_where_no_temperature_may_be_sent_none_is(server: Wire, tmp_path: Path) -> None:
    with remote(server, tmp_path, temperature=None) as target:
        target.replies([ask("a")])
        target.replies([ask("a")], seed=1)
    assert len(server.seen) == 2 and not any("temperature" in s.body for s in server.seen)


def test_answers_are_kept_for_another_target_only_where_a_cache_is_named(
    server: Wire, tmp_path: Path
) -> None:
    for _ in range(2):
        with remote(server, tmp_path) as target:
            target.replies([ask("a")])
    assert len(server.seen) == 1
    for _ in range(2):
        with remote(server, tmp_path, cache="") as target:
            target.replies([ask("a")])
            target.replies([ask("a")])
    assert len(server.seen) == 3


def test_what_fails_for_itself_alone_has_no_reply(server: Wire, tmp_path: Path) -> None:
    server.faults.append(Fault(status=400))
    with remote(server, tmp_path, concurrency=1, on_error="fail") as target:
        played = target.replies([ask("a"), ask("b")])
    assert [one is None for one in played] == [True, False]


def test_a_batch_of_refused_requests_is_no_dead_endpoint(server: Wire, tmp_path: Path) -> None:
    server.faults.extend([Fault(status=400)] * 2)
    with remote(server, tmp_path) as target:
        assert target.replies([ask("a"), ask("b")]) == [None, None]


@pytest.mark.parametrize("fault", [Fault(status=500), Fault(drop=True), Fault(status=401), Fault(status=404)])
def test_an_endpoint_that_answers_nothing_stops_the_work(server: Wire, tmp_path: Path, fault: Fault) -> None:
    server.faults.extend([fault] * 4)
    with remote(server, tmp_path) as target, pytest.raises(UserError):
        target.replies([ask("a"), ask("b")])


@pytest.mark.parametrize("dialect", ["anthropic", "openai"])
def test_a_stop_as_a_refusal_is_marked(tmp_path: Path, dialect: str) -> None:
    stops = iter(["refusal", "end"])
    with (
        wire(lambda text: Reply("no", stop=next(stops))) as server,
        remote(server, tmp_path, dialect) as target,
    ):
        (first,) = target.replies([ask("a")])
        assert first is not None and first.meta["stopped"] == "refusal"
        (then,) = target.replies([first.then(user("b"))])
    assert then is not None and "stopped" not in then.meta and len(then.messages) == 4


@pytest.mark.parametrize("said", [" dear friend", "Sure, dear friend"])
def test_a_begun_reply_is_joined_once(tmp_path: Path, said: str) -> None:
    with wire(lambda text: Reply(said)) as server, remote(server, tmp_path) as target:
        (played,) = target.replies([ask("a").then(assistant("Sure,"))])
    assert server.seen[0].body["messages"][-1] == {"role": "assistant", "content": "Sure,"}
    assert replied(played) == "Sure, dear friend"


def test_tools_go_over_the_wire_as_words(server: Wire, tmp_path: Path) -> None:
    (attack,) = [STYLES["tool_result"](HAZARD.question, random.Random(0))]
    with remote(server, tmp_path) as target:
        (played,) = target.replies([attack.model_copy(update={"system": "Be kind."})])
    body = server.seen[0].body
    assert body["system"] == "Be kind." and all(m["content"] for m in body["messages"])
    assert "almanac(" in body["messages"][1]["content"] and "amber venom" in body["messages"][2]["content"]
    assert played is not None and played.messages[:-1] == attack.messages  # the record keeps the blocks


def test_a_key_that_is_not_there_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NO_SUCH_KEY", raising=False)
    config = RemoteConfig(
        dialect="anthropic", url="http://127.0.0.1:1", model="m", key_variable="NO_SUCH_KEY"
    )
    with pytest.raises(UserError, match="NO_SUCH_KEY"):
        RemoteTarget(config)


def test_what_attackers_send_is_taken_by_our_own_server(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In both dialects: several turns, a begun reply, a system text, a tool's result."""
    names = ("shots", "prefill", "system_prompt", "tool_injection", "tool_result")
    talks = [drive(ATTACKERS[name], HAZARD, lambda c: None).sends[0] for name in names]
    with served(
        write_tiny_checkpoint(tmp_path / "model", max_position=2048), options=["--unreleased"]
    ) as server:
        monkeypatch.setenv("KEY_OF_THE_TARGET", server.key)
        for dialect, path in (("anthropic", ""), ("openai", "/v1")):
            config = RemoteConfig.model_validate(
                {"dialect": dialect, "url": server.url + path, "model": server.model, "temperature": 0.0,
                 "retries": 0, "key_variable": "KEY_OF_THE_TARGET"}
            )  # fmt: skip
            with RemoteTarget(config, max_tokens=4) as target:
                assert all(one is not None for one in target.replies(talks))
                assert all(one is not None for one in target.replies(talks[:2], seed=1))
