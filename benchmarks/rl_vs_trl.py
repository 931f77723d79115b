"""PPO and GRPO samples/s and memory on this CPU, ours beside TRL's, on the same models and prompts.

    python -m venv /tmp/trl
    /tmp/trl/bin/pip install torch==2.13.0 transformers==5.23.0 trl==1.12.0 requests peft
    python benchmarks/rl_vs_trl.py --trl-python /tmp/trl/bin/python --out docs/results

TRL 1.12 is the last with PPO (in `trl.experimental.ppo`). It runs in its own Python, a process a case, and
loads the checkpoints that ours starts from: a policy that writes letters and never ends, so that every sample
has exactly 32 tokens of prompt and 32 of reply on either side, and a reward model of the same size.

ppo: policy, reference, reward model, and a critic that starts from the reward model, on both sides. grpo:
policy and reference, and a reward function in Python. lora: PPO whose policy is adapters of rank 16 on all
matrices of the blocks, the reference being the trunk without them; our critic is adapters on that trunk, too,
TRL's a model of its own. Batch, passes over a batch, optimizer steps, learning rate and weight of the KL are
the same. A sample is one prompt with its reply, from before it is drawn until it has been learned from; a
window is one batch. Modes: ours in fp32, and with critic and reward model in bf16 (`auto`, the default, where
the CPU multiplies in it), each with chunks of the default size and with small ones; TRL's in fp32, in bf16
autocast, and in fp32 with gradient checkpointing, its default. The fastest mode of each side counts for
speed; memory is compared for those two, and for the least of each. It is the peak of resident memory above
what the process had after its imports. Means of the reward are shown: both must learn.
"""

from __future__ import annotations

import argparse
import functools
import itertools
import json
import math
import random
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import torch
from harness import (
    Memory,
    child,
    entry,
    in_rounds,
    markdown,
    options_of,
    record_of,
    say,
    windows,
    write_record,
)

from publius.core.config import Config
from publius.core.device import compute_dtype
from publius.core.errors import UserError
from publius.core.messages import Conversation, user
from publius.model import ModelConfig
from publius.model.checkpoint import (
    Checkpoint,
    RewardCheckpoint,
    save_checkpoint,
    save_reward_checkpoint,
)
from publius.model.heads import RewardModel
from publius.model.transformer import Transformer
from publius.reward.reward_fn import ModelReward, RewardFn, VerifierReward
from publius.rl.batch import CHUNK_TOKENS
from publius.rl.ppo import PPOConfig, Trainer, load_models
from publius.rl.rollout import take
from publius.testing import byte_tokenizer
from publius.tokenizer.renderer import Renderer

SIDE = Path(__file__).with_name("trl_side.py")
LETTERS = "abcdefghijklmnopqrstuvwxyz "
PROMPTS = 512
SMALL_CHUNK = 1024
"""Tokens in a forward of the mode `small`: 16 samples."""
METHODS = ("ppo", "grpo", "lora")
OURS = ("float32", "auto", "float32 small", "auto small")
TRL = ("float32", "bfloat16", "float32 recompute")


def _shape(width: int, layers: int, heads: int, inner: int) -> ModelConfig:
    return ModelConfig(
        vocab_size=269, hidden_size=width, layers=layers, heads=heads, kv_heads=heads,
        head_dim=width // heads, intermediate_size=inner, max_position=128, tie_embeddings=False,
    )  # fmt: skip


SIZES = {"0.1M": _shape(64, 1, 2, 128), "3M": _shape(256, 4, 4, 640), "10M": _shape(384, 6, 6, 896)}


class RLCase(Config):
    """One side, one method, one mode. In TRL's child it is plain JSON."""

    side: Literal["ours", "trl"]
    method: Literal["ppo", "grpo", "lora"]
    mode: str
    """ours: float32 or auto, and `small`. trl: float32 or bfloat16, and `recompute`."""
    size: str
    batch: int = 64
    """Samples a step."""
    group: int = 8
    """(grpo) Samples of a prompt among them."""
    rank: int = 16
    """(lora) Of the adapters."""
    epochs: int = 4
    """Passes over a batch, each one optimizer step."""
    prompt_tokens: int = 32
    new_tokens: int = 32
    learning_rate: float = 1e-3
    beta: float = 0.02
    warm: int = 1
    """Steps before the first window; a window is one step."""
    windows: int = 3
    seed: int = 0

    @property
    def steps(self) -> int:
        """In all."""
        return self.warm + self.windows

    @property
    def words(self) -> list[str]:
        """Of the mode."""
        return self.mode.split()


def speaker(shape: ModelConfig, seed: int) -> Transformer:
    """A fresh model that writes random letters and never ends.

    Every embedding has a large first coordinate, which survives the last norm as about sqrt(width); the head
    (untied) reads it as a bias for each token.
    """
    model = Transformer(shape, seed=seed).eval()
    tokenizer, root = byte_tokenizer(), math.sqrt(shape.hidden_size)
    assert model.lm_head is not None
    with torch.no_grad():
        model.model.embed_tokens.weight[:, 0] = 4.0
        model.lm_head.weight[:, 0] = -30.0 / root
        for letter in LETTERS:
            model.lm_head.weight[tokenizer.encode(letter)[0], 0] = -math.log(len(LETTERS)) / root
    return model


def prompts_of(count: int, tokens: int, seed: int) -> list[Conversation]:
    """Prompts of random letters that are exactly `tokens` long once rendered."""
    renderer, rng = Renderer(byte_tokenizer()), random.Random(seed)
    letters = tokens - len(renderer.prompt(Conversation(messages=(user(""),))))
    return [
        Conversation(messages=(user("".join(rng.choices(LETTERS[:-1], k=letters))),)) for _ in range(count)
    ]


def write_models(folder: Path, case: RLCase) -> dict[str, str]:
    """What both sides load: policy, reward model, prompts as ids; their paths."""
    shape, tokenizer = SIZES[case.size], byte_tokenizer()
    save_checkpoint(folder / "policy", speaker(shape, case.seed), tokenizer)
    judge = RewardModel(Transformer(shape, seed=case.seed + 1), seed=case.seed + 1)
    save_reward_checkpoint(folder / "reward", judge, tokenizer)
    rows = [Renderer(tokenizer).prompt(c) for c in prompts_of(PROMPTS, case.prompt_tokens, case.seed)]
    (folder / "prompts.json").write_text(json.dumps(rows), "utf-8")
    paths = {"policy": folder / "policy", "reward": folder / "reward", "prompts": folder / "prompts.json"}
    return {name: str(path) for name, path in paths.items()}


def our_config(case: RLCase) -> PPOConfig:
    """PPO's arguments for a case of ours."""
    grouped = case.method == "grpo"
    return PPOConfig(
        steps=case.steps, batch=case.batch // case.group if grouped else case.batch,
        group=case.group if grouped else 1, epochs=case.epochs, max_tokens=case.new_tokens,
        learning_rate=case.learning_rate, critic_learning_rate=case.learning_rate, warmup=0,
        estimator="grpo" if grouped else "gae", beta=case.beta, missing_end_penalty=0.0, scale_rewards=False,
        critic_warmup=0, kl_budget=None, dtype="auto" if case.words[0] == "auto" else "float32",
        trunk="shared" if case.method == "lora" else "separate", rank=case.rank,
        critic="zero" if case.method == "lora" else "reward", max_batch=case.batch, seed=case.seed,
        chunk_tokens=SMALL_CHUNK if "small" in case.words else CHUNK_TOKENS,
    )  # fmt: skip


def our_trainer(case: RLCase, paths: Mapping[str, str]) -> Trainer:
    """The trainer of the stage `ppo`, on the models that TRL loads."""
    config, policy = our_config(case), Checkpoint(Path(paths["policy"]))
    reward = RewardCheckpoint(Path(paths["reward"]))
    device = torch.device("cpu")
    dtype = compute_dtype(device, config.dtype)
    score: RewardFn = VerifierReward(lambda meta, text: text.count("a") / max(1, len(text)), "letters")
    if case.method != "grpo":
        score = ModelReward.from_checkpoint(reward, dtype=dtype)
    speaker, critic, reference = load_models(config, policy, reward, device)
    return Trainer(config, speaker, critic, reference, Renderer(policy.tokenizer()), score, dtype=dtype)


def _ours(payload: dict[str, Any]) -> dict[str, Any]:
    case, paths = RLCase.model_validate(payload["case"]), payload["paths"]
    memory = Memory(torch.device("cpu"))
    trainer = our_trainer(case, paths)
    prompts = prompts_of(PROMPTS, case.prompt_tokens, case.seed)
    marks: list[float] = []
    rewards: list[float] = []
    for step in range(case.steps):
        report = trainer.step(take(prompts, step, trainer.config.batch, case.seed), step)
        if report.length != case.new_tokens:
            raise RuntimeError(f"replies of {report.length} tokens, not {case.new_tokens}")
        rewards.append(report.reward)
        marks.append(time.perf_counter())
    return {"marks": marks, "rewards": rewards, "peak_bytes": memory.peak()}


def outcome(case: RLCase, found: dict[str, Any]) -> dict[str, Any]:
    """Samples/s by window, first and last rewards, memory; an error as it is."""
    if "error" in found:
        return found
    timed = windows(found["marks"], [case.batch] * case.steps, case.warm, 1)
    rewards, few = found["rewards"], max(1, case.steps // 4)
    return {
        "windows": timed.tokens_per_second,  # of samples, not tokens
        "peak_bytes": found["peak_bytes"],
        "first_reward": statistics.fmean(rewards[:few]),
        "last_reward": statistics.fmean(rewards[-few:]),
        "versions": found.get("versions", {}),
    }


def run_case(case: RLCase, options: argparse.Namespace, paths: Mapping[str, str]) -> dict[str, Any]:
    """One case in a process of its own."""
    if case.side == "ours":
        payload = {"case": case.model_dump(mode="json"), "paths": dict(paths)}
        found = child(Path(__file__), "ours", payload, seconds=options.limit, threads=options.threads)
    else:
        with tempfile.TemporaryDirectory() as scratch:
            words = {"dtype": case.words[0], "recompute": "recompute" in case.words, "scratch": scratch}
            payload = case.model_dump(mode="json") | paths | words
            payload |= {"steps": case.steps, "threads": options.threads}
            found = child(
                SIDE, "trl", payload, seconds=options.limit, threads=options.threads,
                python=options.trl_python,
            )  # fmt: skip
    result = outcome(case, found)
    told = result.get("error") or f"{statistics.median(result['windows']):,.1f} samples/s"
    say(f"{case.size:5s} {case.method:5s} {case.side:5s} {case.mode:18s} {told}")
    return result


def named(case: RLCase, result: dict[str, Any]) -> dict[str, Any]:
    """A result with the words that say what it is of, and its rate by its name."""
    plain = {key: getattr(case, key) for key in ("size", "method", "epochs", "side", "mode")}
    if "error" in result:
        return plain | result
    rest = {key: value for key, value in result.items() if key != "tokens_per_second"}
    return plain | rest | {"samples_per_second": statistics.median(result["windows"])}


def summary(results: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """One size and method: each side's fastest and smallest, and the ratios; None where a side has none."""
    line: dict[str, Any] = {key: results[0][key] for key in ("size", "method", "epochs")}
    for side in ("ours", "trl"):
        good = [r for r in results if r["side"] == side and "error" not in r]
        if not good:
            line[side] = None
            continue
        top = max(good, key=lambda r: r["samples_per_second"])
        least = min(good, key=lambda r: r["peak_bytes"])
        line[side] = dict(top) | {"least_bytes": least["peak_bytes"], "least_mode": least["mode"]}
        line[side] |= {"least_samples_per_second": least["samples_per_second"]}
    ours, trl = line["ours"], line["trl"]
    for name, key in (
        ("speed", "samples_per_second"),
        ("memory", "peak_bytes"),
        ("least_memory", "least_bytes"),
    ):
        line[name] = ours[key] / trl[key] if ours and trl else None
    return line


def table(summaries: Sequence[Mapping[str, Any]]) -> str:
    """Markdown: a row a size and method."""
    head = ["model", "method", "passes", "ours, samples/s", "TRL's best, samples/s", "ratio", "ours, MB",
            "TRL, MB", "ratio", "least: ours, TRL, MB", "ratio", "reward: ours, TRL"]  # fmt: skip
    return markdown(head, [_row(line) for line in summaries])


def _row(line: Mapping[str, Any]) -> list[str]:
    def words(side: Mapping[str, Any] | None, tell: Callable[[Any], str]) -> str:
        return "failed" if side is None else tell(side)

    def ratio(name: str) -> str:
        return "-" if line[name] is None else f"{line[name]:.2f}"

    def mb(key: str) -> list[str]:
        return [words(line[side], lambda r: f"{r[key] / 1e6:,.0f}") for side in ("ours", "trl")]

    rate = [
        words(line[s], lambda r: f"{r['samples_per_second']:,.1f} ({r['mode']})") for s in ("ours", "trl")
    ]
    rose = [
        words(line[s], lambda r: f"{r['first_reward']:.3f} -> {r['last_reward']:.3f}")
        for s in ("ours", "trl")
    ]
    return [
        line["size"], line["method"], str(line["epochs"]), *rate, ratio("speed"), *mb("peak_bytes"),
        ratio("memory"), ", ".join(mb("least_bytes")), ratio("least_memory"), ", ".join(rose),
    ]  # fmt: skip


def details(results: Sequence[Mapping[str, Any]]) -> str:
    """Markdown: every case."""
    head = ["model", "method", "passes", "side", "mode", "samples/s", "spread", "MB", "reward"]
    rows: list[list[str]] = []
    for r in results:
        start = [r["size"], r["method"], str(r["epochs"]), r["side"], r["mode"]]
        if "error" in r:
            rows.append([*start, r["error"], "", "", ""])
            continue
        reward = f"{r['first_reward']:.3f} -> {r['last_reward']:.3f}"
        rate, size = f"{r['samples_per_second']:,.1f}", f"{r['peak_bytes'] / 1e6:,.0f}"
        rows.append([*start, rate, f"{r['spread']:.0%}", size, reward])
    return markdown(head, rows)


def checked(python: Path) -> Path:
    """The Python that has TRL.

    Raises:
        UserError: when there is none at that path.
    """
    if not python.is_file():
        raise UserError(
            f"there is no Python at {python}",
            where="--trl-python",
            fix="python -m venv /tmp/trl && /tmp/trl/bin/pip install torch==2.13.0 transformers==5.23.0"
            " trl==1.12.0 requests peft, and give /tmp/trl/bin/python",
        )
    return python.absolute()  # not resolved: a venv's Python is a link, and is found by its own place


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = options_of(__doc__, "a model of 0.1M, one mode a side, one window: a smoke test", limit=1200.0)
    parser.add_argument("--trl-python", type=Path, required=True, help="a Python with TRL installed")
    parser.add_argument("--sizes", nargs="+", choices=list(SIZES), default=None, help="default: 3M 10M")
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=list(METHODS))
    parser.add_argument("--batch", type=int, default=64, help="samples a step")
    parser.add_argument("--epochs", type=int, nargs="+", default=None,
                        help="passes over a batch; default: 1 4 (4 is the default of TRL's PPO)")  # fmt: skip
    parser.add_argument("--rounds", type=int, default=2, help="every mode once in each")
    parser.add_argument("--windows", type=int, default=3, help="of a mode in a round")
    options = parser.parse_args()
    options.sizes = options.sizes or (["0.1M"] if options.quick else ["3M", "10M"])
    options.epochs = options.epochs or ([2] if options.quick else [1, 4])
    if options.quick:
        options.rounds, options.windows, options.batch = 1, 1, 8
    return options


def cases(size: str, method: str, epochs: int, options: argparse.Namespace) -> list[RLCase]:
    """Every mode of both sides, in the order in which they are asked."""
    modes = [("ours", mode) for mode in OURS] + [("trl", mode) for mode in TRL]
    if options.quick:
        modes = [("ours", OURS[0]), ("trl", TRL[0])]
    common = {
        "size": size, "method": method, "batch": options.batch, "epochs": epochs, "windows": options.windows,
    }  # fmt: skip
    return [RLCase.model_validate({**common, "side": side, "mode": mode}) for side, mode in modes]


def main() -> None:
    """Measure, record, print."""
    options = arguments()
    options.trl_python = checked(options.trl_python)
    summaries: list[dict[str, Any]] = []
    results: list[dict[str, Any]] = []
    for size, method, epochs in itertools.product(options.sizes, options.methods, options.epochs):
        some = cases(size, method, epochs, options)
        with tempfile.TemporaryDirectory() as folder:
            paths = write_models(Path(folder), some[0])
            ask = [functools.partial(run_case, case, options, paths) for case in some]
            found = in_rounds(ask, options.rounds)
        found = [named(case, result) for case, result in zip(some, found, strict=True)]
        summaries.append(summary(found))
        results += found
    print(table(summaries))
    print()
    print(details(results))
    if options.out is not None:
        plain = {name: v for name, v in vars(options).items() if name not in ("out", "trl_python")}
        record = record_of(torch.device("cpu"), settings=plain, summary=summaries, cases=results)
        say(f"written: {write_record(options.out, 'rl-vs-trl', record)}")
    if any(line["speed"] is None for line in summaries):
        sys.exit(1)


if __name__ == "__main__":
    entry(main, {"ours": _ours})
