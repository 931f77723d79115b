"""Evaluations: tasks, scorers, and reports bound to the weights they measured."""

from publius.evals.budgets import BudgetCurve, BudgetReport, BudgetsConfig, evaluate_budgets
from publius.evals.compression import CompressionConfig, compression_baselines, gzip_bpb
from publius.evals.needle import NeedleConfig, NeedleGrid, NeedleReport, needle
from publius.evals.ngram import NGram
from publius.evals.report import Measure, Report, ReportDocument, write_report
from publius.evals.runner import EvalConfig, evaluate, fingerprint, summarise
from publius.evals.task import Sample, Task, Verdict, ask, ask_with_tools, run_task

__all__ = [
    "BudgetCurve",
    "BudgetReport",
    "BudgetsConfig",
    "CompressionConfig",
    "EvalConfig",
    "Measure",
    "NGram",
    "NeedleConfig",
    "NeedleGrid",
    "NeedleReport",
    "Report",
    "ReportDocument",
    "Sample",
    "Task",
    "Verdict",
    "ask",
    "ask_with_tools",
    "compression_baselines",
    "evaluate",
    "evaluate_budgets",
    "fingerprint",
    "gzip_bpb",
    "needle",
    "run_task",
    "summarise",
    "write_report",
]
