"""lm-eval's benchmarks through our engine: its model class, its tasks from files, its scores."""

from publius.evals.lm.model import EngineLM
from publius.evals.lm.run import LmItem, LmResult, evaluate_lm

__all__ = ["EngineLM", "LmItem", "LmResult", "evaluate_lm"]
