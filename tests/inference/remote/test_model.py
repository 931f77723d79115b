"""A remote model against a real server that is down, slow, rate-limited, cut off, or talks nonsense."""

from __future__ import annotations

import signal
import socket
import sqlite3
import threading
import time
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from pathlib import Path
from typing import Any

import pytest

from publius.core.errors import UserError
from publius.core.messages import Conversation, user
from publius.inference.remote import Answer, Question, RemoteConfig, RemoteModel, Unanswered
from publius.inference.remote import model as model_module
from tests.inference.remote.wire import Fault, Reply, Wire, wire


@pytest.fixture
def server():
    with wire() as made:
        yield made


def questions(*texts: str, tokens: int = 8) -> list[Question]:
    return [Question(Conversation(messages=(user(text),)), tokens) for text in texts]


def ask(config: RemoteConfig, *texts: str) -> tuple[list[Answer | Unanswered], Any]:
    with RemoteModel(config) as model:
        return model.ask(questions(*texts)), model.stats()


def config(server: Wire, tmp: Path, dialect: str = "openai", **changes: Any) -> RemoteConfig:
    return server.config(dialect, tmp, **changes)


@pytest.mark.parametrize("dialect", ["anthropic", "openai"])
def test_answers_come_in_order_and_equal_questions_are_asked_once(server, tmp_path, dialect):
    texts = [f"q{i}" for i in range(9)]
    answers, stats = ask(config(server, tmp_path, dialect), *texts, "q0")
    assert [a.text for a in answers] == [f"you said {t}" for t in [*texts, "q0"]]
    assert len(server.seen) == stats.requests == 9 and server.busiest <= 2
    assert (stats.input_tokens, stats.output_tokens) == (900, 90) and stats.cached == 0


def test_what_was_answered_is_asked_no_more(server, tmp_path):
    ask(config(server, tmp_path), "a", "b")
    answers, stats = ask(config(server, tmp_path), "b", "c", "a")
    assert [a.text for a in answers] == ["you said b", "you said c", "you said a"]
    assert len(server.seen) == 3 and (stats.requests, stats.cached) == (1, 2)
    # another model, another sample and another limit are other questions
    ask(config(server, tmp_path, model="other"), "a")
    with RemoteModel(config(server, tmp_path)) as model:
        model.ask([questions("a")[0]._replace(sample=1), questions("a", tokens=9)[0]])
    assert len(server.seen) == 6


@pytest.mark.parametrize(
    "fault",
    [
        Fault(status=500),
        Fault(status=503),
        Fault(status=529),
        Fault(status=408),
        Fault(status=429),
        Fault(drop=True),
        Fault(body=b'{"choices": [{"mess'),
        Fault(body=b'{"choices": [{"mess', claim=40),
        Fault(body=b"<html>the proxy is unwell</html>"),
        Fault(body=b"{}"),
        Fault(body=b'{"choices": [{"message": {"content": 7}}]}'),
    ],
)
@pytest.mark.parametrize("dialect", ["anthropic", "openai"])
def test_a_passing_fault_is_tried_again(server, tmp_path, dialect, fault):
    server.faults.extend([fault, fault])
    answers, stats = ask(config(server, tmp_path, dialect), "a")
    assert answers == [Answer("you said a", "end", (), 100, 10)]
    assert (stats.requests, stats.retries, len(server.seen)) == (3, 2, 3)


def test_a_lasting_fault_fails_once_and_keeps_what_came(server, tmp_path):
    ask(config(server, tmp_path), "a")
    server.faults.extend([Fault(status=500)] * 3)
    with pytest.raises(UserError, match="no answer after 3 tries: status 500: told to fail") as raised:
        ask(config(server, tmp_path, retries=2, concurrency=1), "a", "b", "c")
    assert server.url in raised.value.where and "run again" in raised.value.fix
    assert len(server.seen) == 4, "c was never asked"
    answers, stats = ask(config(server, tmp_path), "a", "b", "c")
    assert stats.cached == 1 and len(answers) == 3


def test_skipped_failures_are_counted(server, tmp_path):
    server.faults.extend([Fault(status=400), Fault()])
    answers, stats = ask(config(server, tmp_path, on_error="skip", concurrency=1), "a", "b")
    assert answers[0] == Unanswered("no answer after 1 try: status 400: told to fail")
    assert isinstance(answers[1], Answer) and stats.unanswered == 1 and len(server.seen) == 2
    with pytest.raises(UserError, match="status 400"):
        server.faults.append(Fault(status=400))
        ask(config(server, tmp_path), "a")


def test_an_endpoint_that_is_down_ends_the_work_even_when_failures_are_skipped(tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    down = RemoteConfig(
        dialect="openai", url=f"http://127.0.0.1:{port}/v1", model="m", retries=1, backoff=0.001,
        cache=str(tmp_path / "c.sqlite"), on_error="skip", give_up=3, concurrency=1,
    )  # fmt: skip
    with pytest.raises(UserError, match=r"3 requests in a row failed: .*the connection failed"):
        ask(down, *"abcdefgh")
    with pytest.raises(UserError, match="no answer after 2 tries: the connection failed"):
        ask(down.model_copy(update={"on_error": "fail"}), "a")


def test_a_slow_server_times_out_and_is_tried_again(server, tmp_path):
    server.faults.append(Fault(delay=1.0))
    answers, stats = ask(config(server, tmp_path, timeout=0.2), "a")
    assert isinstance(answers[0], Answer) and stats.retries == 1
    server.faults.append(Fault(delay=1.0))
    with pytest.raises(UserError, match=r"no whole answer came in 0\.2 s"):
        ask(config(server, tmp_path, timeout=0.2, retries=0), "b")
    server.faults.append(Fault(drip=0.1))  # there is always a next byte
    begun = time.monotonic()
    with pytest.raises(UserError, match=r"no whole answer came in 0\.4 s"):
        ask(config(server, tmp_path, timeout=0.4, retries=0), "c")
    assert time.monotonic() - begun < 3


def test_a_response_without_end_is_given_up(server, tmp_path, monkeypatch):
    monkeypatch.setattr(model_module, "_LARGEST", 1000)
    server.faults.append(Fault(body=b" " * 100_000))
    answers, stats = ask(config(server, tmp_path), "a")
    assert isinstance(answers[0], Answer) and stats.retries == 1


@pytest.mark.parametrize(
    "headers",
    [
        {"retry-after": "0.3"},
        {"retry-after-ms": "300"},
        {"retry-after": "0.3", "retry-after-ms": "nonsense"},
    ],
)
def test_retry_after_is_honoured_by_everyone(server, tmp_path, headers):
    server.faults.append(Fault(status=429, headers=headers))
    _, stats = ask(config(server, tmp_path, concurrency=1), "a", "b")
    first, second, third = (seen.at for seen in server.seen)
    assert second - first >= 0.29 and third >= second and stats.retries == 1


def test_retry_after_may_be_a_date_and_may_be_too_long(server, tmp_path):
    soon = format_datetime(datetime.now(UTC) + timedelta(seconds=2), usegmt=True)
    server.faults.append(Fault(status=503, headers={"retry-after": soon}))
    ask(config(server, tmp_path), "a")
    assert 0.5 <= server.seen[1].at - server.seen[0].at <= 2.5
    server.faults.append(Fault(status=429, headers={"retry-after": "3600"}))
    begun = time.monotonic()
    with pytest.raises(UserError, match="no answer after 1 try: status 429"):
        ask(config(server, tmp_path, max_wait=10), "b")
    assert time.monotonic() - begun < 5


def test_the_server_may_say_whether_to_try_again(server, tmp_path):
    server.faults.append(Fault(status=500, headers={"x-should-retry": "false"}))
    with pytest.raises(UserError, match="no answer after 1 try"):
        ask(config(server, tmp_path), "a")
    server.faults.append(Fault(status=400, headers={"x-should-retry": "true"}))
    assert ask(config(server, tmp_path), "a")[1].retries == 1


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        (Fault(status=401), "access was refused"),
        (Fault(status=403), "access was refused"),
        (Fault(status=404), "no such address or model"),
        (Fault(status=307, headers={"location": "http://127.0.0.1:1/"}), "no such address"),
        (Fault(status=402), "the account is exhausted"),
        (Fault(status=429, body=b'{"error": {"message": "no", "code": "insufficient_quota"}}'), "exhausted"),
    ],
)
def test_what_no_retry_can_mend_ends_the_work_at_once(server, tmp_path, fault, words):
    server.faults.append(fault)
    with pytest.raises(UserError, match=words):
        ask(config(server, tmp_path, on_error="skip", concurrency=1), "a", "b", "c")
    assert len(server.seen) == 1


def test_the_key_comes_from_the_environment_and_is_told_to_nobody(server, tmp_path, monkeypatch):
    monkeypatch.setenv("JUDGE_KEY", "sk-very-secret\n")
    ask(config(server, tmp_path, key_variable="JUDGE_KEY"), "a")
    ask(config(server, tmp_path, "anthropic", key_variable="JUDGE_KEY"), "a")
    assert server.seen[0].headers["authorization"] == "Bearer sk-very-secret"
    assert server.seen[1].headers["x-api-key"] == "sk-very-secret"
    assert server.seen[1].headers["anthropic-version"] == "2023-06-01"
    server.faults.append(Fault(status=401, body=b'{"error": {"message": "bad key sk-very-secret"}}'))
    with pytest.raises(UserError, match=r"bad key \(key\)") as raised:
        ask(config(server, tmp_path, key_variable="JUDGE_KEY"), "b")
    assert "secret" not in str(raised.value) and "JUDGE_KEY" in raised.value.fix
    assert b"very-secret" not in (tmp_path / "cache.sqlite").read_bytes()
    monkeypatch.setenv("JUDGE_KEY", "two\nlines")
    with pytest.raises(UserError, match="no header can carry"):
        ask(config(server, tmp_path, key_variable="JUDGE_KEY"), "b")
    monkeypatch.delenv("JUDGE_KEY")
    with pytest.raises(UserError, match="JUDGE_KEY is not set"):
        ask(config(server, tmp_path, key_variable="JUDGE_KEY"), "b")


def test_requests_are_spaced(server, tmp_path):
    ask(config(server, tmp_path, requests_per_minute=600), *"abcd")
    times = sorted(seen.at for seen in server.seen)
    assert times[-1] - times[0] >= 0.28


PRICED = {"input_price": 1000.0, "output_price": 1000.0}  # a dollar buys a thousand tokens


def test_the_spend_cap_holds_and_what_was_paid_for_is_kept(server, tmp_path):
    # an answer costs 0.11 dollars; before it is known it is thought to cost at most about 0.14
    capped = config(server, tmp_path, spend_cap=0.5, **PRICED)
    with pytest.raises(UserError, match=r"spend cap of \$0\.5 is reached"):
        ask(capped, *"abcdefgh")
    sent = len(server.seen)
    assert 2 <= sent <= 4
    # resumed, the same cap buys nothing more: earlier answers count
    with pytest.raises(UserError, match="spend cap"):
        ask(capped, *"abcdefgh")
    assert len(server.seen) == sent
    answers, stats = ask(config(server, tmp_path, spend_cap=5, **PRICED), *"abcdefgh")
    assert len(answers) == 8 and len(server.seen) == 8
    assert stats.dollars == pytest.approx(8 * 0.11) and stats.cached == sent


@pytest.mark.parametrize(
    "fault", [Fault(body=b'{"choices": [{"mess'), Fault(body=b'{"choices": [{"mess', claim=40)]
)
def test_an_answer_that_arrives_damaged_has_been_paid_for(server, tmp_path, fault):
    server.faults.extend([fault] * 30)
    capped = config(server, tmp_path, spend_cap=0.5, retries=2, on_error="skip", **PRICED)
    with pytest.raises(UserError, match=r"spend cap of \$0\.5 is reached"):
        ask(capped, *"abcdefgh")
    assert len(server.seen) <= 4


def test_what_is_asked_again_costs_nothing_again(server, tmp_path):
    with RemoteModel(config(server, tmp_path, spend_cap=0.3, **PRICED)) as model:
        for _ in range(5):
            model.ask(questions("a"))
        assert model.stats().dollars == pytest.approx(0.11) and len(server.seen) == 1


def test_without_usage_an_answer_counts_with_what_it_may_cost(tmp_path):
    with wire(lambda text: Reply("x", usage=None)) as server:
        _, stats = ask(config(server, tmp_path, **PRICED), "a")
        assert stats.dollars > 0.1 and stats.input_tokens == 0


def test_a_killed_job_loses_only_what_was_under_way(server, tmp_path):
    """The cache has each answer as soon as it came: the process may end at any moment."""
    slow = threading.Event()

    def say(text: str) -> Reply:
        if text == "c":
            slow.wait(5)
        return Reply(text)

    server.say = say
    model = RemoteModel(config(server, tmp_path, concurrency=1))
    thread = threading.Thread(target=lambda: model.ask(questions("a", "b", "c")), daemon=True)
    thread.start()
    deadline = time.monotonic() + 5
    while len(server.seen) < 3 and time.monotonic() < deadline:
        time.sleep(0.01)
    base = sqlite3.connect(tmp_path / "cache.sqlite")
    assert base.execute("SELECT count(*) FROM answers").fetchone() == (2,)
    base.close()
    slow.set()
    thread.join()
    model.close()
    _, stats = ask(config(server, tmp_path), "a", "b", "c")
    assert stats.cached == 3


def test_ctrl_c_is_not_held_up_by_a_slow_server(server, tmp_path):
    server.faults.extend([Fault(delay=3.0)] * 2)
    begun = time.monotonic()
    main = threading.get_ident()
    # what a shell starts in the background ignores SIGINT until it asks not to
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    with RemoteModel(config(server, tmp_path)) as model:
        threading.Timer(0.3, lambda: signal.pthread_kill(main, signal.SIGINT)).start()
        with pytest.raises(KeyboardInterrupt):
            model.ask(questions("a", "b"))
    signal.signal(signal.SIGINT, before)
    assert time.monotonic() - begun < 2


def test_a_stored_answer_that_cannot_be_read_is_asked_again(server, tmp_path):
    ask(config(server, tmp_path), "a")
    base = sqlite3.connect(tmp_path / "cache.sqlite")
    base.execute("UPDATE answers SET body = '{'")
    base.commit()
    base.close()
    answers, stats = ask(config(server, tmp_path), "a")
    assert answers[0].text == "you said a" and stats.requests == 1
