"""An agent loop: the SDK's tool runner and a trained Pocket model answer held-out questions."""

from __future__ import annotations

from typing import Any

import anthropic
from anthropic import beta_tool

from publius.data.pocket.grade import grade
from publius.data.pocket.world import World
from publius.release.locate import locate

TASKS = 50
ENOUGH = 0.8


def test_the_tool_runner_reaches_the_right_answer(pocket, capsys):
    server, home = pocket
    found = locate("quickstart", home)
    assert found.world is not None
    world = World(found.world)
    tools = world.tools()

    def use(name: str, arguments: dict[str, Any]) -> str:
        try:
            return tools[name](arguments)
        except (KeyError, ValueError) as error:
            return f"error: {error}"

    @beta_tool(name="calculator", description="multiply big numbers", input_schema=SCHEMAS["calculator"])
    def calculator(sum: str = "") -> str:
        return use("calculator", {"sum": sum})

    @beta_tool(name="almanac", description="birthdays of people", input_schema=SCHEMAS["almanac"])
    def almanac(ask: str = "") -> str:
        return use("almanac", {"ask": ask})

    questions = world.questions("tool", "test")[:TASKS]
    assert len(questions) == TASKS
    right, called = 0, 0
    with anthropic.Anthropic(base_url=server.url, api_key=server.key, max_retries=0) as client:
        for question in questions:
            text = question.messages[0].content[0].text
            runner = client.beta.messages.tool_runner(
                model=server.model, max_tokens=100, messages=[{"role": "user", "content": text}],
                tools=[calculator, almanac], max_iterations=4, thinking={"type": "adaptive"},
                extra_body={"temperature": 0},
            )  # fmt: skip
            said = list(runner)
            called += any(message.stop_reason == "tool_use" for message in said)
            reply = "".join(block.text for block in said[-1].content if block.type == "text")
            right += grade(question.meta, reply).correct
    with capsys.disabled():
        print(f"\nagent loop: {right} of {TASKS} right, {called} with a tool call")
    assert right >= ENOUGH * TASKS


SCHEMAS: dict[str, Any] = {
    "calculator": {"type": "object", "properties": {"sum": {"type": "string"}}},
    "almanac": {"type": "object", "properties": {"ask": {"type": "string"}}},
}
