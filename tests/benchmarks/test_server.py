"""Streams are told apart by their marks; rates, verdicts and memory; and one quick run of both scripts."""

from __future__ import annotations

import json

import load
import pytest
import server as bench
import server_overhead as overhead
import server_start as start

from tests.slow import slow


def reply(began, first, ended, tokens=10, error=None):
    return load.Reply(began, first, ended, tokens, error)


def test_summary():
    replies = [reply(0, 1, 2), reply(0, 3, 4), reply(1, 2, 12), reply(0, None, 1, 0, "529 busy")]
    found = load.summary(replies, 0.0, 10.0)
    assert found["replies"] == 3 and found["errors"] == {"529 busy": 1}
    assert found["tokens"] == 30 and found["requests_per_second"] == 0.2
    assert found["tokens_per_second"] == 2.8  # a fifth of the last is late
    assert found["ttft"] == {"p50": 1, "p99": 1, "max": 3, "max_over_median": 3}
    assert "ttft" not in load.summary([], 0.0, 1.0)


def test_a_reply_over_an_edge_counts_with_its_share():
    assert load.share(reply(0, 1, 5, 8), 0.0, 10.0) == 8.0
    assert load.share(reply(0, 1, 5, 8), 2.0, 3.0) == 2.0
    assert load.share(reply(0, 1, 5, 8), 5.0, 9.0) == 0.0 == load.share(reply(0, 1, 5, 8), -3.0, 0.5)
    assert load.share(reply(0, 2, 2, 8), 2.0, 9.0) == 8.0 == load.share(reply(0, None, 3, 8), 0.0, 4.0)
    assert load.share(reply(0, None, 3, 8), 4.0, 9.0) == 0.0
    waves = [reply(0, 4 * i, 4 * i + 4, 64) for i in range(5)]
    assert load.summary(waves, 1.0, 10.0)["tokens_per_second"] == pytest.approx(16.0)


def test_processor_time_is_that_of_the_window():
    seen = [bench.Seen(10.0, 0, 1.0), bench.Seen(12.0, 0, 2.0), bench.Seen(13.0, 0, 4.0)]
    assert [bench.spent_at(seen, at) for at in (9.0, 10.0, 11.0, 12.0, 12.5, 20.0)] == [1, 1, 1.5, 2, 3, 4]


@pytest.fixture
def line(monkeypatch):
    """A connection to nobody, and what was written to it."""
    made = load._Line(load.MESSAGES)

    class Transport(load.asyncio.Transport):
        def write(self, data):
            pass

    made.connection_made(Transport())
    return made


def said(line, *pieces):
    async def follow():
        told = line.ask(b"")
        for piece in pieces:
            line.data_received(piece)
        return await load.asyncio.wait_for(told, 1)

    return load.asyncio.run(follow())


HEAD = b"HTTP/1.1 200 OK\r\n\r\n"
DELTA = b'event: content_block_delta\ndata: {"type":"content_block_delta"}\n\n'
END = b'data: {"usage":{"output_tokens":7}}\n\ndata: {"type":"message_stop"}\n\n\r\n0\r\n\r\n'


def test_a_stream_is_read_by_its_marks(line):
    whole = HEAD + DELTA + END
    for cut in (5, len(HEAD) + 20, len(whole) - 2):
        found = said(line, whole[:cut], whole[cut:])
        assert found.error is None and found.tokens == 7 and found.first is not None


def test_streams_that_fail(line):
    assert said(line, b"HTTP/1.1 529 X\r\n\r\n", b"{}").error == "529 "
    cut = said(line, HEAD + DELTA + b"\r\n0\r\n\r\n")
    assert cut.error is not None and cut.first is not None
    failed = said(line, HEAD + b"event: error\ndata: {}\n\n\r\n0\r\n\r\n")
    assert failed.error is not None and "error" in failed.error


def test_memory_counts_from_the_first_minute_on():
    seen = [bench.Seen(7.0 + i, 100 if i < 60 else 200 if i < 330 else 220, 0.0) for i in range(601)]
    found = bench._memory(seen)
    assert (found["start"], found["settled"], found["end"], found["peak"]) == (100, 200, 220, 220)
    assert found["grown"] == pytest.approx(0.1) and found["grown_in_second_half"] == pytest.approx(0.0)
    assert bench._memory([]) == {}


def test_a_header_that_ends_in_a_zero_is_no_end(line):
    kept = b"HTTP/1.1 200 OK\r\nKeep-Alive: timeout=5, max=100\r\n\r\n"
    found = said(line, kept, DELTA, END)
    assert found.error is None and found.tokens == 7 and not line.last
    assert said(line, b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n" + DELTA, END).error is None
    assert line.last


def test_verdicts_of_a_load():
    ours = {
        "errors": {"529": 2}, "ttft": {"max_over_median": 6.0}, "memory": {"grown_in_second_half": 0.01},
    }  # fmt: skip
    assert [row[-1] for row in bench.verdicts({"ours": ours})] == ["missed", "missed", "met"]


def test_overheads_and_their_verdicts():
    engines = [
        {"tokens_per_second": 110.0, "cpu_per_token": 1.0},
        {"tokens_per_second": 90.0, "cpu_per_token": 3.0},
    ]
    found = overhead.overheads({"tokens_per_second": 80.0, "cpu_per_token": 2.1}, engines)
    assert found == pytest.approx({"clock": 0.25, "processor": 0.05})
    long = {"tokens_a_reply": 250.0, "processor": [0.9, 0.1, 0.0], "clock": [0.2, 0.3, 0.1]}
    short = {"tokens_a_reply": 15.0, "processor": [0.5], "clock": [-0.1]}
    rows = overhead.verdicts({"long": long, "short": short})
    assert [row[-1] for row in rows] == ["met", "missed", "missed", "met"]
    assert "replies of 250" in rows[0][0] and rows[0][1] == "+10.0% (+0.0% to +90.0%)"


def test_ends_and_verdicts():
    found = {
        "cold": [{"first_token": 2.0}],
        "sigterm": {"ends": {"end": 5, "error event": 1}, "seconds": 20.0, "exit_code": 0},
        "kill": {"requests": 5, "once": 5, "more_than_once": 0, "none": 0, "kills": [1]},
    }  # fmt: skip
    assert [row[-1] for row in start.verdicts(found)] == ["met", "met", "met"]
    found["sigterm"]["ends"]["cut"] = 1
    found["kill"]["once"] = 4
    assert [row[-1] for row in start.verdicts(found)] == ["met", "missed", "missed"]


def test_quick(script, tmp_path):
    done = script("server.py", "--quick", "--out", str(tmp_path / "out"))
    assert done.returncode == 0, done.stderr
    (path,) = (tmp_path / "out").iterdir()
    record = json.loads(path.read_text())
    assert record["ours"]["replies"] > 0 and record["ours"]["errors"] == {}
    assert record["ours"]["pages_in_use_afterwards"] == 0 and record["ours"]["exit_code"] == 0
    assert "ours, Messages" in done.stdout and str(tmp_path) not in json.dumps(record["settings"])


@slow
def test_quick_overhead(script, tmp_path):
    done = script("server_overhead.py", "--quick", "--out", str(tmp_path / "out"))
    assert done.returncode == 0, done.stderr
    (path,) = (tmp_path / "out").iterdir()
    record = json.loads(path.read_text())
    for kind in ("short", "long"):
        assert record[kind]["errors"] == 0 and len(record[kind]["engines"]) == 2
    assert record["long"]["tokens_a_reply"] == 32


@slow
def test_quick_start(script):
    done = script("server_start.py", "--quick")
    assert done.returncode == 0, done.stderr
    assert "30 once" in done.stdout and "cut" not in done.stdout
