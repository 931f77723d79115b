from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from publius.core.errors import UserError
from publius.core.messages import Conversation, ToolSpec, user
from publius.evals import Task, Verdict, ask, ask_with_tools, run_task
from publius.inference import Assistant

Puppets = Callable[..., Assistant]


def yes_scorer(meta: Mapping[str, Any], reply: str) -> Verdict:
    return Verdict(correct=meta["answer"] == reply, leaked=False, refused="no" in reply)


def question(text: str, answer: str, **more: Any) -> Conversation:
    return Conversation(messages=(user(text),), meta={"answer": answer}, **more)


def test_a_task_is_asked_and_marked(puppet: Puppets) -> None:
    assistant = puppet(lambda prompt: "three" if "two" in prompt else "no idea")
    task = Task(
        "counting",
        [question("after two?", "three"), question("after nine?", "ten")],
        ask(assistant),
        yes_scorer,
    )
    first, second = run_task(task)
    assert first.verdict == Verdict(correct=True, leaked=False, refused=False)
    assert second.verdict == Verdict(correct=False, leaked=False, refused=True)
    assert first.reply == "three" and first.conversation.messages[-1].role == "assistant"


def test_what_does_not_fit_is_unscored_and_the_rest_is_still_asked(puppet: Puppets) -> None:
    task = Task(
        "long", [question("x" * 600, "a"), question("short", "a")], ask(puppet(lambda _: "a")), yes_scorer
    )
    long, short = run_task(task)
    assert long.verdict is None and long.reply == ""
    assert short.verdict is not None and short.verdict.correct
    assert long.says("leaked", unscored=True) and not long.says("correct", unscored=False)


def test_thinking_is_forbidden_or_kept_out_of_the_reply(puppet: Puppets) -> None:
    seen: list[str] = []

    def say(prompt: str) -> str:
        seen.append(prompt)
        return "a"

    run_task(Task("t", [question("q", "a")], ask(puppet(say), thinking=False), yes_scorer))
    assert "<|think|><|/think|>" in seen[0]


def test_tools_are_run(puppet: Puppets) -> None:
    assistant = puppet(lambda p: "plain")
    tokenizer = assistant.renderer.tokenizer
    call = [
        tokenizer.special["<|tool_use|>"],
        *tokenizer.encode('{"name":"add","input":{"a":2}}'),
        tokenizer.special["<|/tool_use|>"],
        tokenizer.end_id,
    ]
    script: Any = lambda p: "it is 4" if "four" in p else call  # noqa: E731
    assistant = puppet(script)
    asked = question("add", "it is 4", tools=(ToolSpec(name="add"),))
    solver = ask_with_tools(assistant, {"add": lambda given: f"four {given['a']}"})
    (sample,) = run_task(Task("tool", [asked], solver, yes_scorer))
    assert sample.verdict is not None and sample.verdict.correct
    assert sample.tool_calls == 1


def test_a_tool_talk_that_outgrows_the_model_is_unscored_alone(puppet: Puppets) -> None:
    tokenizer = puppet(lambda _: "").renderer.tokenizer
    call: Any = [
        tokenizer.special["<|tool_use|>"],
        *tokenizer.encode('{"name":"tell","input":{}}'),
        tokenizer.special["<|/tool_use|>"],
        tokenizer.end_id,
    ]

    def say(prompt: str) -> Any:
        if len(prompt) > 560:
            raise UserError("too long")  # as the engine refuses the whole batch
        return call if "long" in prompt else "a"

    tools = (ToolSpec(name="tell"),)
    asked = [question(t, "a", tools=tools) for t in ("b", "long", "c")]
    solver = ask_with_tools(puppet(say), {"tell": lambda _: "x" * 600})
    samples = run_task(Task("tool", asked, solver, yes_scorer))
    assert [s.verdict is None for s in samples] == [False, True, False]
    assert run_task(Task("tool", [], solver, yes_scorer)) == []
