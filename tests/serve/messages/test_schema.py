"""What a body of the Messages API asks of a model."""

from __future__ import annotations

from typing import Any

import pytest

from publius.serve.messages.schema import parse_messages

CALLED: list[dict[str, Any]] = [
    {"role": "user", "content": "hi"},
    {"role": "assistant", "content": [{"type": "tool_use", "id": "t1", "name": "sum", "input": {}}]},
    {"role": "user", "content": [{"type": "tool_result", "tool_use_id": "t1", "content": "3"}]},
]
SYSTEM = {"role": "system", "content": "Be brief."}


def body(**changes: Any) -> dict[str, Any]:
    return {"model": "m", "max_tokens": 4, "messages": CALLED[:1], **changes}


@pytest.mark.parametrize(("given", "kept"), [(None, None), (1, None), (0.5, 0.5), (0, 1e-9), (0.0, 1e-9)])
def test_the_tightest_nucleus_is_one(given: float | None, kept: float | None) -> None:
    assert parse_messages(body(top_p=given)).sampling.top_p == kept


@pytest.mark.parametrize(
    ("messages", "thinking"),
    [
        (CALLED, None),
        ([*CALLED, SYSTEM], None),
        (CALLED[:1], False),
        ([*CALLED[:1], SYSTEM], False),
        ([*CALLED, {"role": "assistant", "content": "So"}], False),
        ([SYSTEM], False),
    ],
)
def test_between_tools_it_may_think_whatever_the_system_adds(
    messages: list[Any], thinking: bool | None
) -> None:
    asked = body(messages=messages, thinking={"type": "between_tools"})
    assert parse_messages(asked).thinking is thinking
