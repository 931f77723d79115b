"""TRL's PPO or GRPO on models that lie in a folder; run by a Python that has TRL, and nothing of Publius.

Written as TRL's users write it: its trainer, its arguments, its collator, `generate` of transformers. What is
set is what `rl_vs_trl` needs to be the same on both sides; the rest is TRL's default, but for what only costs
time here (samples to look at, checkpoints, bars). PPO left TRL with 1.13: take 1.12.
"""

from __future__ import annotations

import importlib.util
import json
import sys
import time
from pathlib import Path
from typing import Any

import torch
import transformers
import trl
from datasets import Dataset
from resident import Resident
from transformers import (
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    TrainerCallback,
)
from trl import GRPOConfig, GRPOTrainer

PPO = importlib.util.find_spec("trl.experimental.ppo") is not None
PEFT = importlib.util.find_spec("peft") is not None
if PEFT:
    from peft import LoraConfig
if PPO:
    from trl.experimental.ppo import PPOConfig, PPOTrainer


class Marks(TrainerCallback):
    """When each optimizer step (GRPO) or each update (PPO) ended, and the mean reward that was logged."""

    def __init__(self) -> None:
        self.seconds: list[float] = []
        self.work: list[float] = []
        self.rewards: list[float] = []

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Called by both trainers."""
        self.seconds.append(time.perf_counter())
        self.work.append(time.process_time())

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, float], **_: Any) -> None:
        """Of both trainers' names, the one that is there."""
        found = logs.get("objective/scores", logs.get("reward"))
        if found is not None:
            self.rewards.append(float(found))


def arguments(case: dict[str, Any], scratch: str) -> dict[str, Any]:
    """What both trainers take alike."""
    return {
        "output_dir": scratch, "learning_rate": case["learning_rate"], "lr_scheduler_type": "constant",
        "per_device_train_batch_size": case["batch"], "gradient_accumulation_steps": 1,
        "bf16": case["dtype"] == "bfloat16", "gradient_checkpointing": case["recompute"], "use_cpu": True,
        "seed": case["seed"], "report_to": "none", "save_strategy": "no", "logging_steps": 1,
        "disable_tqdm": True, "dataloader_num_workers": 0,
    }  # fmt: skip


def language_model(folder: str) -> Any:
    """The policy, in fp32."""
    return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)


def scorer(folder: str) -> Any:
    """The reward model, or the critic that starts from it, in fp32."""
    return AutoModelForSequenceClassification.from_pretrained(folder, num_labels=1, dtype=torch.float32)


def ppo(case: dict[str, Any], scratch: str, marks: Marks) -> Any:
    """Its PPO: policy, reference, reward model and critic, four networks of one size.

    With `lora` the policy is adapters, and the reference is the policy without them.
    """
    if not PPO:
        raise RuntimeError(f"TRL {trl.__version__} has no PPO: install trl==1.12.0")
    rows = json.loads(Path(case["prompts"]).read_text())
    config = PPOConfig(
        **arguments(case, scratch), total_episodes=case["steps"] * case["batch"], num_mini_batches=1,
        num_ppo_epochs=case["epochs"], response_length=case["new_tokens"], temperature=1.0,
        kl_coef=case["beta"], local_rollout_forward_batch_size=case["batch"], num_sample_generations=0,
    )  # fmt: skip
    lora = case["method"] == "lora"
    return PPOTrainer(
        args=config,
        processing_class=AutoTokenizer.from_pretrained(case["policy"]),
        model=language_model(case["policy"]),
        ref_model=None if lora else language_model(case["policy"]),
        reward_model=scorer(case["reward"]),
        value_model=scorer(case["reward"]),
        train_dataset=Dataset.from_dict({"input_ids": rows}),
        callbacks=[marks],
        peft_config=adapters(case) if lora else None,
    )


def adapters(case: dict[str, Any]) -> Any:
    """On every matrix of the blocks, scaled by 1."""
    if not PEFT:
        raise RuntimeError("adapters need peft: install it beside TRL")
    names = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
    return LoraConfig(r=case["rank"], lora_alpha=case["rank"], target_modules=names, task_type="CAUSAL_LM")


def share_of_a(completions: list[str], **_: Any) -> list[float]:
    """The reward of GRPO, as on our side."""
    return [text.count("a") / max(1, len(text)) for text in completions]


def grpo(case: dict[str, Any], scratch: str, marks: Marks) -> Any:
    """Its GRPO: policy, reference, a reward function; `num_iterations` passes over a batch."""
    tokenizer = AutoTokenizer.from_pretrained(case["policy"])
    rows = json.loads(Path(case["prompts"]).read_text())
    texts = [tokenizer.decode(row, skip_special_tokens=False) for row in rows]
    if tokenizer(texts)["input_ids"] != rows:
        raise RuntimeError("prompts do not read back as the tokens they are")
    config = GRPOConfig(
        **arguments(case, scratch), num_generations=case["group"], num_iterations=case["epochs"],
        max_completion_length=case["new_tokens"], temperature=1.0, beta=case["beta"],
        max_steps=case["steps"] * case["epochs"],
    )  # fmt: skip
    return GRPOTrainer(
        model=language_model(case["policy"]),
        reward_funcs=share_of_a,
        args=config,
        train_dataset=Dataset.from_dict({"prompt": texts}),
        processing_class=tokenizer,
        callbacks=[marks],
    )


def run(case: dict[str, Any]) -> dict[str, Any]:
    """Train; when each batch was done with, mean rewards, memory, versions."""
    memory, marks = Resident(), Marks()
    trainer = {"ppo": ppo, "lora": ppo, "grpo": grpo}[case["method"]](case, case["scratch"], marks)
    trainer.train()
    each = case["epochs"] if case["method"] == "grpo" else 1
    return {
        "marks": marks.seconds[each - 1 :: each],
        "work": marks.work[each - 1 :: each],
        "rewards": marks.rewards,
        "peak_bytes": memory.peak(),
        "resident_bytes": memory.peak() + memory.idle,
        "versions": {"trl": trl.__version__, "transformers": transformers.__version__},
    }


if __name__ == "__main__":
    if sys.argv[1:2] != ["--child"]:
        sys.exit("started by rl_vs_trl.py, with --trl-python")
    torch.set_num_threads(json.loads(sys.argv[3])["threads"])
    print("RESULT " + json.dumps(run(json.loads(sys.argv[3]))), flush=True)
