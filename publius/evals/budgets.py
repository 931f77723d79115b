"""What thinking is worth: the same questions with thinking forbidden, allowed, and cut off at a budget.

A budget is kept by the engine: when so many tokens of thinking are written, the token that ends thinking
follows, and the model answers from what it has (budget forcing, Muennighoff et al. 2025, arXiv 2501.19393,
section 3.1). Decoding is greedy, so on and off differ in nothing else.
"""

from __future__ import annotations

from collections.abc import Sequence

from pydantic import BaseModel, ConfigDict, Field, field_validator

from publius.core.config import Config, execution
from publius.core.device import pick_device
from publius.core.errors import UserError
from publius.core.messages import Conversation, ThinkingBlock
from publius.core.stats import Estimate, mean_estimate
from publius.data.artifacts import Prompts
from publius.evals.report import Measure, Report, ReportDocument, write_report
from publius.evals.runner import rate
from publius.evals.task import Sample, Task, ask, run_task
from publius.evals.tasks.pocket import pocket_scorer
from publius.inference import Assistant, Sampling, load_assistant
from publius.model.checkpoint import Checkpoint, fingerprint
from publius.pipeline import Run, stage

__all__ = ["BudgetCurve", "BudgetReport", "BudgetsConfig", "evaluate_budgets"]


class BudgetsConfig(Config):
    """Which budgets, and how much room for the rest."""

    prefix: str = "thinking"
    budgets: tuple[int, ...] = (0, 16, 32, 48, 64, 96, 128)
    """Most tokens of thinking, rising; 0 closes the block at once."""
    max_thinking: int = Field(default=192, ge=1)
    """Room for thinking where there is no budget: a reply that is still thinking then has no answer."""
    answer_tokens: int = Field(default=24, ge=1)
    max_questions: int | None = Field(default=None, ge=1)
    max_batch: int = execution(64)
    device: str = execution("auto")

    @field_validator("budgets")
    @classmethod
    def _rising(cls, budgets: tuple[int, ...]) -> tuple[int, ...]:
        if not budgets or list(budgets) != sorted(set(budgets)) or budgets[0] < 0:
            raise ValueError("budgets are different numbers of tokens from 0, rising")
        return budgets


class BudgetCurve(BaseModel):
    """The content of `budgets.json`: accuracy with thinking forbidden, at each budget, and unbounded."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    budgets: tuple[int, ...]
    accuracy: tuple[Measure, ...]
    tokens: tuple[float, ...]
    """Mean tokens of a reply at each budget."""
    off: Measure
    on: Measure
    on_tokens: float


class BudgetReport(Report):
    """A report, and `budgets.json`."""

    def curve(self) -> BudgetCurve:
        """Accuracy by budget.

        Raises:
            UserError: when the file is missing or damaged.
        """
        return self.parse("budgets.json", BudgetCurve)


@stage(version=1)
def evaluate_budgets(
    run: Run, config: BudgetsConfig, *, model: Checkpoint, questions: Prompts
) -> BudgetReport:
    """Ask the held-out `questions` (split `val` of the artifact) with thinking off, on, and at each budget.

    Metrics, with n and an interval: `PREFIX.off`, `PREFIX.on`, `PREFIX.gain` (on less off, question by
    question), `PREFIX.budget.TOKENS`, and on and off by category (`PREFIX.on.CATEGORY`, spaces as `_`);
    `PREFIX.tokens` (mean tokens of a reply with thinking on) and `PREFIX.thought` (share that thought when
    the model was left to decide).

    Raises:
        UserError: without questions, or their truth, or when the longest reply does not fit the model.
    """
    asked = questions.val()[: config.max_questions]
    if not asked:
        raise UserError(
            "there are no held-out questions",
            where="evaluate_budgets: questions",
            fix="hold out some prompts",
        )
    if any(not {"kind", "keys", "need"} <= question.meta.keys() for question in asked):
        raise UserError(
            "questions without their truth",
            where="evaluate_budgets: questions",
            fix="give questions of the Pocket world, whose meta holds kind, keys and need",
        )
    examiner = _Examiner(config, model, asked)
    with run.progress("thinking", len(config.budgets) + 3) as ticker:
        groups: dict[str, list[Sample]] = {}
        for name, thinking, budget in (
            ("off", False, None), ("free", None, None), ("on", True, None),
            *((f"budget.{tokens}", True, tokens) for tokens in config.budgets),
        ):  # fmt: skip
            groups[name] = examiner.ask(name, thinking, budget)
            ticker.advance(1, name)
    metrics = _metrics(config, groups, examiner)
    for name, measure in metrics.items():
        run.metric(name, measure.estimate())
    curve = BudgetCurve(
        budgets=config.budgets,
        accuracy=tuple(metrics[f"{config.prefix}.budget.{tokens}"] for tokens in config.budgets),
        tokens=tuple(examiner.tokens[f"budget.{tokens}"] for tokens in config.budgets),
        off=metrics[f"{config.prefix}.off"],
        on=metrics[f"{config.prefix}.on"],
        on_tokens=examiner.tokens["on"],
    )
    document = ReportDocument(
        model=fingerprint(model), prefix=config.prefix, split="val", metrics=metrics,
        config=config.model_dump(mode="json"),
    )  # fmt: skip
    write_report(run.output, document, [sample for group in groups.values() for sample in group])
    (run.output / "budgets.json").write_text(curve.model_dump_json(indent=1) + "\n", "utf-8")
    return BudgetReport(run.output)


class _Examiner:
    """Asks all questions of one model in one way after another."""

    def __init__(self, config: BudgetsConfig, model: Checkpoint, asked: Sequence[Conversation]) -> None:
        self._config = config
        self._asked = [q.model_copy(update={"meta": _without(q.meta, "thinking")}) for q in asked]
        self._loaded = load_assistant(
            model.path, device=str(pick_device(config.device)), max_batch=config.max_batch, dtype="auto"
        )
        self.tokens: dict[str, float] = {}
        """Mean tokens of a reply, by way of asking."""
        longest = max(len(self._loaded.renderer.prompt(q, thinking=True)) for q in self._asked)
        room = max(config.max_thinking, config.budgets[-1]) + 2 + config.answer_tokens
        if longest + room > self._loaded.engine.context:
            raise UserError(
                f"a prompt of {longest} tokens and a reply of {room} do not fit the model's "
                f"{self._loaded.engine.context} positions",
                where="evaluate_budgets.max_thinking",
                fix="lower max_thinking, budgets or answer_tokens",
            )

    def ask(self, name: str, thinking: bool | None, budget: int | None) -> list[Sample]:
        """One sample a question."""
        config = self._config
        room = config.answer_tokens
        if thinking is not False:  # and the tokens that open and close it
            room += 2 + (config.max_thinking if budget is None else budget)
        sampling = Sampling(max_tokens=room, temperature=0.0, thinking_budget=budget)
        assistant = Assistant(self._loaded.engine, self._loaded.renderer, sampling)
        samples = run_task(Task(name, self._asked, ask(assistant, thinking=thinking), pocket_scorer))
        lengths = [self._length(sample) for sample in samples]
        self.tokens[name] = sum(lengths) / len(lengths)
        return samples

    def _length(self, sample: Sample) -> int:
        """Ids of the reply's thinking and text."""
        encode = self._loaded.renderer.tokenizer.encode
        thought = "".join(
            block.thinking
            for block in sample.conversation.messages[-1].content
            if isinstance(block, ThinkingBlock)
        )
        return len(encode(thought)) + len(encode(sample.reply))


def _without(meta: dict[str, object], key: str) -> dict[str, object]:
    return {name: value for name, value in meta.items() if name != key}


def _metrics(
    config: BudgetsConfig, groups: dict[str, list[Sample]], examiner: _Examiner
) -> dict[str, Measure]:
    found = {name: rate(samples, "correct") for name, samples in groups.items() if name != "free"}
    found["gain"] = Measure.of(_gain(groups["on"], groups["off"]))
    found["thought"] = Measure.of(mean_estimate([float(sample.thought) for sample in groups["free"]]))
    found["tokens"] = Measure.of(examiner.tokens["on"])
    for category in sorted({_category(sample) for sample in groups["on"]} - {""}):
        for name in ("off", "on"):
            part = [sample for sample in groups[name] if _category(sample) == category]
            found[f"{name}.{category.replace(' ', '_')}"] = rate(part, "correct")
    return {f"{config.prefix}.{name}": measure for name, measure in found.items()}


def _category(sample: Sample) -> str:
    return str(sample.conversation.meta.get("category", ""))


def _gain(on: Sequence[Sample], off: Sequence[Sample]) -> Estimate:
    """Share right with thinking less share right without, of the same questions."""
    return mean_estimate(
        [
            float(a.says("correct", unscored=False)) - float(b.says("correct", unscored=False))
            for a, b in zip(on, off, strict=True)
        ]
    )
