"""Progress: a bar on a terminal, occasional lines elsewhere, nothing on stdout."""

import io

from rich.console import Console

from publius.core import console as module


def test_lines_give_rate_and_time_left(monkeypatch, capsys):
    clock = [100.0]
    monkeypatch.setattr(module.time, "monotonic", lambda: clock[0])
    monkeypatch.setattr(module, "console", Console(file=io.StringIO()))
    with module.progress("train", 100) as ticker:
        for _ in range(4):
            clock[0] += 10
            ticker.advance(5, "loss 2.0")
    out, err = capsys.readouterr()
    assert out == ""
    # Lines at 20 s and 40 s: at most one every 15 s.
    assert err.splitlines() == [
        "train: 10/100  0.50/s  180s left  loss 2.0",
        "train: 20/100  0.50/s  160s left  loss 2.0",
    ]


def test_bar_on_a_terminal(monkeypatch):
    screen = io.StringIO()
    monkeypatch.setattr(module, "console", Console(file=screen, force_terminal=True, width=120))
    with module.progress("train", 3) as ticker:
        for _ in range(3):
            ticker.advance(1, "loss 2.0")
    assert "train" in screen.getvalue() and "3/3" in screen.getvalue() and "loss 2.0" in screen.getvalue()


def test_what_was_done_before_a_resume_is_no_rate(monkeypatch, capsys):
    clock = [100.0]
    monkeypatch.setattr(module.time, "monotonic", lambda: clock[0])
    monkeypatch.setattr(module, "console", Console(file=io.StringIO()))
    with module.progress("train", 1000) as ticker:
        ticker.advance(900)
        clock[0] += 20
        ticker.advance(10)
        clock[0] += 20
        ticker.advance(100)
    assert capsys.readouterr().err.splitlines() == [
        "train: 910/1000  0.50/s  180s left  ",
        "train: 1010/1000  2.75/s  0s left  ",
    ]
