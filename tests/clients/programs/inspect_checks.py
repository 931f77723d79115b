"""inspect_ai: evaluations through its `anthropic` and its `openai-api` provider, with tools and without."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from inspect_ai import Task, eval
from inspect_ai.dataset import Sample
from inspect_ai.log import EvalLog
from inspect_ai.model import ChatMessageUser, GenerateConfig, get_model
from inspect_ai.scorer import includes
from inspect_ai.solver import generate, use_tools
from inspect_ai.tool import ToolFunction, tool
from setting import Setting, piece_of

os.environ["INSPECT_DISPLAY"] = "none"
PROVIDERS = ("anthropic", "openai-api/publius")


def model_of(setting: Setting, provider: str, **config: Any) -> Any:
    """The model through one of the providers."""
    base = setting.url if provider == "anthropic" else f"{setting.url}/v1"
    given = GenerateConfig(**{"max_tokens": 40, "max_retries": 0, **config})
    name = f"{provider}/{setting.model}"
    return get_model(name, base_url=base, api_key=setting.key, config=given, memoize=False)


def ran(setting: Setting, provider: str, task: Task, **config: Any) -> EvalLog:
    """The log of an evaluation that came to its end."""
    (log,) = eval(task, model=model_of(setting, provider, **config), log_dir=str(Path("logs").absolute()))
    assert log.status == "success", log.error
    return log


def check_an_evaluation(setting: Setting) -> None:
    samples = [Sample(input=f"What is {n} times {n}?", target=str(n * n)) for n in range(6)]
    for provider in PROVIDERS:
        log = ran(setting, provider, Task(dataset=samples, solver=generate(), scorer=includes()))
        assert log.results is not None and log.results.completed_samples == 6
        (usage,) = log.stats.model_usage.values()
        assert usage.input_tokens + (usage.input_tokens_cache_write or 0) > 0 and usage.output_tokens > 0


def check_temperature_0_by_openai(setting: Setting) -> None:
    samples = [Sample(input="Who lives at the mill?", target="x", id=n) for n in range(3)]
    task = Task(dataset=samples, solver=generate(), scorer=includes())
    log = ran(setting, PROVIDERS[1], task, temperature=0.0, seed=1)
    said = {sample.output.completion for sample in log.samples or []}
    assert len(said) == 1
    stop = piece_of(said.pop())
    log = ran(setting, PROVIDERS[1], task, temperature=0.0, stop_seqs=[stop])
    assert all(stop not in sample.output.completion for sample in log.samples or [])


@tool
def clock():
    async def execute() -> str:
        """What time it is."""
        return "noon"

    return execute


def check_tools(setting: Setting) -> None:
    solver = [use_tools(clock(), tool_choice=ToolFunction("clock")), generate(tool_calls="single")]
    samples = [Sample(input="What time is it?", target="noon")]
    for provider in PROVIDERS:
        log = ran(setting, provider, Task(dataset=samples, solver=solver, scorer=includes()))
        messages = (log.samples or [])[0].messages
        assert any(getattr(message, "tool_calls", None) for message in messages), provider
        assert any(message.role == "tool" and message.text == "noon" for message in messages), provider


def check_reasoning(setting: Setting) -> None:
    samples = [Sample(input="Who lives at the mill?", target="x")]
    task = Task(dataset=samples, solver=generate(), scorer=includes())
    log = ran(setting, "anthropic", task, reasoning_effort="high", max_tokens=300)  # thinks if it likes
    assert (log.samples or [])[0].output.message.content is not None


def check_logprobs_by_openai(setting: Setting) -> None:
    import asyncio

    model = model_of(setting, PROVIDERS[1], logprobs=True, top_logprobs=2)
    output = asyncio.run(model.generate([ChatMessageUser(content="Who lives at the mill?")]))
    found = output.choices[0].logprobs
    assert found is not None and found.content and all(one.logprob <= 0 for one in found.content)
