"""The constitution: principles people write, and the models that criticise, revise and judge by them."""

from publius.constitution.differences import Difference, differences
from publius.constitution.judge import Judge, JudgeConfig, Judgement, ParseFailure
from publius.constitution.lint import doubts
from publius.constitution.preferences import (
    JudgeEvalConfig,
    JudgeReport,
    LabelConfig,
    evaluate_judge,
    grade_judge,
    label,
)
from publius.constitution.principles import Constitution, ConstitutionField, Principle
from publius.constitution.published import import_published
from publius.constitution.revise import ReviseConfig, Revisions, revise
from publius.constitution.styles import ChatStyle, RawStyle
from publius.constitution.verdicts import FilterConfig

__all__ = [
    "ChatStyle",
    "Constitution",
    "ConstitutionField",
    "Difference",
    "FilterConfig",
    "Judge",
    "JudgeConfig",
    "JudgeEvalConfig",
    "JudgeReport",
    "Judgement",
    "LabelConfig",
    "ParseFailure",
    "Principle",
    "RawStyle",
    "ReviseConfig",
    "Revisions",
    "differences",
    "doubts",
    "evaluate_judge",
    "grade_judge",
    "import_published",
    "label",
    "revise",
]
