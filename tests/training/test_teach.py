"""What a teacher writes: answers are kept when whole, prompts when new."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest

from publius.core.errors import UserError
from publius.core.messages import (
    Conversation,
    TextBlock,
    ThinkingBlock,
    ToolUseBlock,
    assistant,
    text_of,
    user,
)
from publius.data.artifacts import Conversations, Prompts, write_conversations, write_prompts
from publius.model.checkpoint import Checkpoint
from publius.pipeline import testing_run
from publius.testing import ScriptedEngine, byte_tokenizer
from publius.tokenizer import Renderer
from publius.training import teach as module
from publius.training.teach import InventConfig, TeachConfig, invent_prompts, teach_answers
from tests.rl import tiny


@pytest.fixture
def teacher(tmp_path: Path) -> Checkpoint:
    return tiny.checkpoint(tmp_path / "teacher")


def says(monkeypatch: pytest.MonkeyPatch, script: Sequence[str | Sequence[int]]) -> ScriptedEngine:
    engine = ScriptedEngine(script)
    monkeypatch.setattr(module, "_engine", lambda config, teacher: engine)
    return engine


def prompts(folder: Path, *asked: Conversation, val: Sequence[Conversation] = ()) -> Prompts:
    write_prompts(folder, train=asked, val=val)
    return Prompts(folder)


def ask(text: str, **meta: object) -> Conversation:
    return Conversation(messages=(user(text),), meta=dict(meta))


def test_whole_answers_become_demonstrations(
    tmp_path: Path, teacher: Checkpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    broken = [byte_tokenizer().special["<|/think|>"], byte_tokenizer().end_id]
    says(monkeypatch, ["yes", "", "a" * 50, broken, "no", "yes"])
    asked = [ask(f"q{i}", kind="fact") for i in range(5)]
    run = testing_run(tmp_path)
    made = teach_answers(
        run, TeachConfig(max_tokens=20), teacher=teacher,
        prompts=prompts(tmp_path / "p", *asked, val=[ask("held out")]),
    )  # fmt: skip
    assert [text_of(c.messages[-1]) for c in made.train()] == ["yes", "no"]
    assert [c.meta["kind"] for c in made.train()] == ["fact", "fact"] and len(made.val()) == 1
    shares = {name: m["value"] for name, m in run.metrics.items()}
    assert shares == {
        "teach.context": 0, "teach.kept": 0.5, "teach.empty": pytest.approx(1 / 6),
        "teach.truncated": pytest.approx(1 / 6), "teach.malformed": pytest.approx(1 / 6),
    }  # fmt: skip


def test_thinking_is_handed_on_and_answers_alike_are_kept_once(
    tmp_path: Path, teacher: Checkpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    tokenizer = byte_tokenizer()
    thought = [
        *tokenizer.encode("hm"),
        tokenizer.special["<|/think|>"],
        *tokenizer.encode("yes"),
        tokenizer.end_id,
    ]
    engine = says(monkeypatch, [thought, thought, "other"])
    run = testing_run(tmp_path)
    begun = ask("q").then(assistant("I say "))
    made = teach_answers(
        run, TeachConfig(samples=2, temperature=1.0, thinking=True, max_tokens=20), teacher=teacher,
        prompts=prompts(tmp_path / "p", ask("q")),
    )  # fmt: skip
    assert engine.prompts[0][0] == Renderer(tokenizer).prompt(ask("q"), thinking=True)
    [chat] = made.train()
    assert chat.messages[-1].content[0] == ThinkingBlock(thinking="hm")
    assert run.metrics["teach.again"]["value"] == 0.5
    made = teach_answers(
        testing_run(tmp_path), TeachConfig(thinking=True, max_tokens=20), teacher=teacher,
        prompts=prompts(tmp_path / "b", begun),
    )  # fmt: skip
    [chat] = made.train()
    assert text_of(chat.messages[-1]) == "I say other" and chat.meta["prefill"] == "I say "


def test_a_real_teacher_and_what_does_not_fit(tmp_path: Path) -> None:
    talker = tiny.talker_checkpoint(tmp_path / "t", end=0.3, max_position=64)
    run = testing_run(tmp_path)
    asked = prompts(tmp_path / "p", *(ask(f"q{i}") for i in range(6)), ask("x" * 80))
    made = teach_answers(
        run, TeachConfig(temperature=1.0, max_tokens=40, device="cpu"), teacher=talker, prompts=asked
    )
    assert made.train() and run.metrics["teach.context"]["value"] == pytest.approx(1 / 7)
    again = teach_answers(
        testing_run(tmp_path), TeachConfig(temperature=1.0, max_tokens=40, device="cpu"), teacher=talker,
        prompts=asked,
    )  # fmt: skip
    assert again.train() == made.train()


def test_no_answer_is_an_error(tmp_path: Path, teacher: Checkpoint, monkeypatch: pytest.MonkeyPatch) -> None:
    says(monkeypatch, ["", ""])
    with pytest.raises(UserError, match="no answer of the teacher"):
        teach_answers(
            testing_run(tmp_path), TeachConfig(), teacher=teacher, prompts=prompts(tmp_path / "p", ask("a"))
        )


def examples(folder: Path, *pairs: tuple[str, str]) -> Conversations:
    chats = [Conversation(messages=(user(q), assistant(a))) for q, a in pairs]
    chats.append(Conversation(messages=(user("two\n\nparts"), assistant("a"))))
    chats.append(Conversation(messages=(user("b"), assistant((ThinkingBlock(thinking="x"),)))))
    write_conversations(folder, train=chats)
    return Conversations(folder)


def test_new_prompts_are_kept(tmp_path: Path, teacher: Checkpoint, monkeypatch: pytest.MonkeyPatch) -> None:
    new = " What now?\n\nAssistant: x"
    engine = says(
        monkeypatch, [new, " Who is it?\n\nHuman", "\n\n", " z" * 40, " What now?\n\n", " Why?\n\n"]
    )
    run = testing_run(tmp_path)
    made = invent_prompts(
        run, InventConfig(prompts=6, shots=2, val_fraction=0.5), teacher=teacher,
        examples=examples(tmp_path / "e", ("Who is it?", "Me."), ("Where?", "Here.")),
    )  # fmt: skip
    assert [text_of(c.messages[0]) for c in (*made.val(), *made.train())] == ["What now?", "Why?"]
    assert len(made.val()) == 1
    shown = byte_tokenizer().decode(engine.prompts[0][0])
    assert shown.endswith("\n\nHuman:") and shown.count("\n\nAssistant:") == 2 and "parts" not in shown
    shares = {name: m["value"] for name, m in run.metrics.items()}
    assert shares.pop("invent.kept") == pytest.approx(2 / 6) and shares.pop("invent.context") == 0
    assert set(shares) == {"invent.known", "invent.empty", "invent.truncated", "invent.again"}
    assert all(share == pytest.approx(1 / 6) for share in shares.values())


def test_held_out_questions_are_known(
    tmp_path: Path, teacher: Checkpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    says(monkeypatch, [" Kept back?\n\n", " Why?\n\n"])
    held_out = Conversation(messages=(user("Kept back?"), assistant("Yes.")))
    write_conversations(
        tmp_path / "e", train=[Conversation(messages=(user("Where?"), assistant("Here.")))], val=[held_out]
    )
    made = invent_prompts(
        testing_run(tmp_path), InventConfig(prompts=2, shots=1, val_fraction=0.0), teacher=teacher,
        examples=Conversations(tmp_path / "e"),
    )  # fmt: skip
    assert [text_of(c.messages[0]) for c in made.train()] == ["Why?"]


def test_a_call_behind_a_prefill_is_kept() -> None:
    begun = Conversation(messages=(user("q"), assistant("Let me see.")))
    call = ToolUseBlock(id="toolu_0", name="sum", input={})
    joined = module._joined(begun, assistant((TextBlock(text=" So:"), call)))  # pyright: ignore[reportPrivateUsage]
    assert joined.messages[-1].content == (TextBlock(text="Let me see. So:"), call)


def test_nothing_to_show_and_nothing_written(
    tmp_path: Path, teacher: Checkpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(UserError, match="no exchange to show"):
        invent_prompts(
            testing_run(tmp_path), InventConfig(), teacher=teacher, examples=examples(tmp_path / "e")
        )
    says(monkeypatch, ["\n\n"])
    with pytest.raises(UserError, match="wrote no new prompt"):
        invent_prompts(
            testing_run(tmp_path), InventConfig(prompts=1), teacher=teacher,
            examples=examples(tmp_path / "f", ("Who?", "Me.")),
        )  # fmt: skip
