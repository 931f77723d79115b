"""Evaluations: tasks, scorers, and reports bound to the weights they measured."""

from publius.evals.budgets import BudgetCurve, BudgetReport, BudgetsConfig, evaluate_budgets
from publius.evals.compression import CompressionConfig, compression_baselines, gzip_bpb
from publius.evals.needle import NeedleConfig, NeedleGrid, NeedleReport, needle
from publius.evals.ngram import NGram
from publius.evals.report import Measure, Report, ReportDocument, write_report
from publius.evals.revisions import ScoreRevisionsConfig, score_revisions
from publius.evals.runner import EvalConfig, evaluate, summarise
from publius.evals.study import Claim, Place, Reading, StudyConfig, StudyReport, study
from publius.evals.task import Sample, Task, Verdict, ask, ask_with_tools, run_task
from publius.evals.tournament import TournamentConfig, tournament

__all__ = [
    "BudgetCurve",
    "BudgetReport",
    "BudgetsConfig",
    "Claim",
    "CompressionConfig",
    "EvalConfig",
    "Measure",
    "NGram",
    "NeedleConfig",
    "NeedleGrid",
    "NeedleReport",
    "Place",
    "Reading",
    "Report",
    "ReportDocument",
    "Sample",
    "ScoreRevisionsConfig",
    "StudyConfig",
    "StudyReport",
    "Task",
    "TournamentConfig",
    "Verdict",
    "ask",
    "ask_with_tools",
    "compression_baselines",
    "evaluate",
    "evaluate_budgets",
    "gzip_bpb",
    "needle",
    "run_task",
    "score_revisions",
    "study",
    "summarise",
    "tournament",
    "write_report",
]
