"""The terminal chat: commands, what goes to stdout, one-shot mode, a real checkpoint."""

from __future__ import annotations

import io
from pathlib import Path

import pytest
from rich.console import Console

from publius.core.errors import UserError
from publius.core.messages import text_of
from publius.inference import terminal
from publius.inference.assistant import Assistant
from publius.inference.sampling import Sampling
from publius.inference.terminal import Chat, chat, load_assistant
from publius.model.checkpoint import save_checkpoint
from publius.testing import ScriptedEngine, byte_tokenizer, tiny_model
from publius.tokenizer.renderer import Renderer

TOKENIZER = byte_tokenizer()


def special(name: str) -> list[int]:
    return [TOKENIZER.special[name]]


CALL = [
    *special("<|tool_use|>"),
    *TOKENIZER.encode('{"name":"add","input":{"a":2}}'),
    *special("<|/tool_use|>"),
    *special("<|end|>"),
]
THOUGHT = [
    *special("<|think|>"),
    *TOKENIZER.encode("hm"),
    *special("<|/think|>"),
    *TOKENIZER.encode("yes [b]"),
    *special("<|end|>"),
]


class Screen:
    """A Chat with a scripted assistant, and what it wrote to stdout and beside it."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, *script: str | list[int], **kw: object) -> None:
        self.text, self.notes = io.StringIO(), io.StringIO()
        monkeypatch.setattr(terminal, "stderr_console", Console(file=self.notes, width=200))
        self.engine = ScriptedEngine(script)
        helper = Assistant(self.engine, Renderer(TOKENIZER), Sampling(max_tokens=100))
        self.chat = Chat(helper, out=Console(file=self.text, width=200), **kw)  # pyright: ignore[reportArgumentType]

    def prompt(self) -> str:
        return TOKENIZER.decode(self.engine.prompts[-1][0])


def test_text_to_stdout_the_rest_beside_it(monkeypatch: pytest.MonkeyPatch) -> None:
    screen = Screen(monkeypatch, THOUGHT)
    assert screen.chat.handle("Hi")
    assert screen.text.getvalue() == "yes [b]\n"
    assert screen.notes.getvalue() == "hm\n"
    assert [m.role for m in screen.chat.conversation.messages] == ["user", "assistant"]


def test_on_a_terminal_thinking_is_dimmed() -> None:
    out = Console(file=io.StringIO(), force_terminal=True, width=80, color_system="standard")
    Chat(Assistant(ScriptedEngine([THOUGHT]), Renderer(TOKENIZER)), out=out).handle("Hi")
    shown = out.file.getvalue()  # pyright: ignore[reportAttributeAccessIssue]
    assert "\x1b[2mh\x1b[0m\x1b[2mm\x1b[0m" in shown
    assert "yes [b]" in shown


def test_tools_are_run_and_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    screen = Screen(monkeypatch, CALL, "5", tools={"add": lambda given: str(given["a"] + 3)})
    screen.chat.handle("2 + 3?")
    assert screen.text.getvalue() == "5\n"
    assert screen.notes.getvalue() == 'call: {"name":"add","input":{"a":2}}\nresult: 5\n'
    assert len(screen.chat.conversation.messages) == 4


def test_without_tools_a_call_ends_the_turn(monkeypatch: pytest.MonkeyPatch) -> None:
    screen = Screen(monkeypatch, CALL)
    screen.chat.handle("2 + 3?")
    assert len(screen.chat.conversation.messages) == 2


def test_commands(monkeypatch: pytest.MonkeyPatch) -> None:
    screen = Screen(monkeypatch, "a", "b", "c", "d", system="Be kind.")
    assert screen.chat.handle("one")
    assert screen.prompt().startswith("<|bos|><|system|>Be kind.<|end|><|user|>one")
    assert screen.chat.handle("/thinking off")
    assert screen.chat.handle("two")
    assert screen.prompt().endswith("<|user|>two<|end|><|assistant|><|think|><|/think|>")
    assert screen.chat.handle("/reset")
    assert screen.chat.handle("/thinking on")
    assert screen.chat.handle("three")
    assert screen.prompt() == "<|bos|><|system|>Be kind.<|end|><|user|>three<|end|><|assistant|>"
    assert screen.chat.handle("/system")
    assert screen.chat.handle("four")
    assert screen.prompt() == "<|bos|><|user|>four<|end|><|assistant|>"
    assert screen.chat.handle("/system Be brief.")
    assert screen.chat.conversation.system == "Be brief."
    assert screen.chat.handle("   ")
    assert screen.chat.handle("/what")
    assert "/thinking on|off" in screen.notes.getvalue()
    assert not screen.chat.handle("/quit")
    assert screen.text.getvalue() == "a\nb\nc\nd\n"


def test_a_reply_cannot_repaint_the_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    screen = Screen(monkeypatch, "a\x1b[2Jb\rc\td\x9b1m")
    screen.chat.handle("Hi")
    assert screen.text.getvalue() == "a[2Jbc\td1m\n".expandtabs() or "\x1b" not in screen.text.getvalue()
    assert not set("\x1b\r\x9b") & set(screen.text.getvalue())


def test_cut_and_malformed_replies_say_so(monkeypatch: pytest.MonkeyPatch) -> None:
    screen = Screen(monkeypatch, [*TOKENIZER.encode("x"), *special("<|/think|>")])
    screen.chat.handle("Hi")
    assert "(cut at the token limit)" in screen.notes.getvalue()
    assert "<|/think|> out of place" in screen.notes.getvalue()


def test_a_full_context_is_explained_and_nothing_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    out, notes = io.StringIO(), io.StringIO()
    monkeypatch.setattr(terminal, "stderr_console", Console(file=notes, width=200))
    engine = terminal.Engine(tiny_model(), TOKENIZER)
    helper = Assistant(engine, Renderer(TOKENIZER), Sampling(max_tokens=50, seed=0))
    session = Chat(helper, out=Console(file=out, width=200))
    session.handle("x" * 600)
    assert "exceed the context of 512" in notes.getvalue()
    assert "/reset" in notes.getvalue()
    assert session.conversation.messages == ()
    session.handle("y" * 500)  # bos user 500 end assistant: room for 8 tokens
    assert len(session.conversation.messages) == 2


def test_interrupting_a_reply_forgets_it(monkeypatch: pytest.MonkeyPatch) -> None:
    screen = Screen(monkeypatch)

    def interrupted(*args: object, **kw: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(screen.engine, "stream", interrupted)
    assert screen.chat.handle("Hi")
    assert screen.chat.conversation.messages == ()


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    save_checkpoint(tmp_path / "files", tiny_model(), TOKENIZER)
    return tmp_path / "files"


def test_load_assistant(checkpoint: Path, tmp_path: Path) -> None:
    assert load_assistant(checkpoint).engine.tokenizer.vocab_size == 269
    with pytest.raises(UserError):
        load_assistant(tmp_path / "nowhere")


def test_one_message(checkpoint: Path) -> None:
    out = io.StringIO()
    sampling = Sampling(max_tokens=8, seed=1)
    done = chat(checkpoint, message="Hi", sampling=sampling, out=Console(file=out, width=200))
    expected = load_assistant(checkpoint, sampling=sampling).reply(
        done.model_copy(update={"messages": done.messages[:1]})
    )
    assert done.messages[1] == expected.message
    assert out.getvalue()
    with pytest.raises(UserError, match="context"):
        chat(checkpoint, message="x" * 600, out=Console(file=out))


def test_lines_from_a_pipe(checkpoint: Path) -> None:
    out = io.StringIO()
    lines = io.StringIO("Hi\n\nAgain\n/quit\nnever\n")
    sampling = Sampling(max_tokens=4, seed=1)
    done = chat(checkpoint, stdin=lines, sampling=sampling, out=Console(file=out, width=200))
    assert [text_of(m) for m in done.messages if m.role == "user"] == ["Hi", "Again"]


class Typed(io.StringIO):
    """A terminal on which lines are typed, and then Ctrl-C."""

    def isatty(self) -> bool:
        return True

    def readline(self, size: int = -1, /) -> str:
        line = super().readline(size)
        if not line:
            raise KeyboardInterrupt
        return line


def test_a_terminal_is_asked(checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    notes = io.StringIO()
    monkeypatch.setattr(terminal, "stderr_console", Console(file=notes, width=200))
    done = chat(checkpoint, stdin=Typed("/thinking off\n"), out=Console(file=io.StringIO()))
    assert done.messages == ()
    assert notes.getvalue().count("you> ") == 2
