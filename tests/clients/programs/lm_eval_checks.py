"""lm-eval over HTTP: log-likelihoods as the engine has them, generation, chat, our tokenizer."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import lm_eval
import yaml
from lm_eval.api.instance import Instance
from lm_eval.api.registry import get_model
from lm_eval.tasks import TaskManager
from setting import Setting


def completions(setting: Setting, **more: Any) -> Any:
    """`local-completions`, its tokenizer found by itself."""
    os.environ["OPENAI_API_KEY"] = setting.key
    given = {"model": setting.model, "base_url": f"{setting.url}/v1/completions", "max_length": 4096, **more}
    return get_model("local-completions")(**given)


def scored(model: Any, pairs: list[list[str]]) -> list[tuple[float, bool]]:
    """Log-likelihood of each continuation, and whether it is the greedy one."""
    requests = [Instance("loglikelihood", {}, tuple(pair), i) for i, pair in enumerate(pairs)]
    return model.loglikelihood(requests, disable_tqdm=True)


def check_the_tokenizer_is_found(setting: Setting) -> None:
    model = completions(setting)
    assert model.tokenizer_backend == "remote"
    text = "naïve owls ☂"
    ids = model.tok_encode(text)
    assert ids and model.decode_batch([ids])[0] == text


def check_log_likelihoods_are_the_engines(setting: Setting) -> None:
    facts = json.loads((Path(setting.facts) / "scores.json").read_text())
    for more in ({}, {"batch_size": 4}, {"num_concurrent": 4}):
        found = scored(completions(setting, **more), facts["pairs"])
        for (ours, greedy), wanted, is_greedy in zip(found, facts["scores"], facts["greedy"], strict=True):
            assert abs(ours - wanted) < 1e-3 * max(1, abs(wanted)), (ours, wanted)
            assert greedy == is_greedy


def task_of(kind: str) -> dict[str, Any]:
    """A task of our own, from a file that lies here."""
    rows = [{"ask": f"Say {n}.", "choices": [f" {n}", " owl"], "gold": 0} for n in range(6)]
    Path("rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    task = {
        "task": f"publius_{kind}", "dataset_path": "json", "test_split": "test", "doc_to_text": "{{ask}}",
        "dataset_kwargs": {"data_files": {"test": str(Path("rows.jsonl").absolute())}},
    }  # fmt: skip
    if kind == "choice":
        return task | {
            "output_type": "multiple_choice", "doc_to_choice": "{{choices}}", "doc_to_target": "{{gold}}",
            "metric_list": [{"metric": "acc"}, {"metric": "acc_norm"}],
        }  # fmt: skip
    return task | {
        "output_type": "generate_until", "doc_to_target": "{{choices[0]}}",
        "generation_kwargs": {"until": ["END"], "max_gen_toks": 16, "do_sample": False},
        "metric_list": [{"metric": "exact_match"}],
    }  # fmt: skip


def ran(kind: str, model: str, arguments: dict[str, Any], **more: Any) -> dict[str, Any]:
    """The results of a task."""
    folder = Path(f"tasks-{kind}")
    folder.mkdir(exist_ok=True)
    (folder / f"{kind}.yaml").write_text(yaml.safe_dump(task_of(kind)))
    manager = TaskManager(include_path=str(folder), include_defaults=False)
    found = lm_eval.simple_evaluate(
        model=model, model_args=arguments, tasks=[f"publius_{kind}"], task_manager=manager, **more
    )
    assert found is not None
    return found["results"][f"publius_{kind}"]


def check_a_task_of_choices(setting: Setting) -> None:
    os.environ["OPENAI_API_KEY"] = setting.key
    arguments = {"model": setting.model, "base_url": f"{setting.url}/v1/completions", "max_length": 4096}
    found = ran("choice", "local-completions", arguments)
    assert 0 <= found["acc,none"] <= 1 and found["sample_len"] == 6


def check_a_task_of_generation(setting: Setting) -> None:
    os.environ["OPENAI_API_KEY"] = setting.key
    arguments = {"model": setting.model, "base_url": f"{setting.url}/v1/completions", "max_length": 4096}
    assert "exact_match,none" in ran("generation", "local-completions", arguments)


def check_chat(setting: Setting) -> None:
    os.environ["OPENAI_API_KEY"] = setting.key
    arguments = {"model": setting.model, "base_url": f"{setting.url}/v1/chat/completions"}
    assert "exact_match,none" in ran(
        "generation", "local-chat-completions", arguments, apply_chat_template=True
    )


def check_messages(setting: Setting) -> None:
    os.environ["ANTHROPIC_API_KEY"] = setting.key
    arguments = {"model": setting.model, "base_url": f"{setting.url}/v1/messages"}
    assert "exact_match,none" in ran(
        "generation", "anthropic-chat-completions", arguments, apply_chat_template=True
    )
