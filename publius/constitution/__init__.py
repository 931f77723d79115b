"""The constitution: principles people write, and the models that criticise, revise and judge by them."""

from publius.constitution.consistency import (
    Case,
    Consistency,
    ConsistencyConfig,
    ConsistencyJudge,
    EngineConsistencyJudge,
)
from publius.constitution.judge import Judge, JudgeConfig, Judgement, ParseFailure
from publius.constitution.preferences import (
    JudgeEvalConfig,
    JudgeReport,
    LabelConfig,
    evaluate_judge,
    grade_judge,
    label,
)
from publius.constitution.principles import Constitution, ConstitutionField, Principle
from publius.constitution.revise import ReviseConfig, Revisions, revise
from publius.constitution.styles import ChatStyle, RawStyle

__all__ = [
    "Case",
    "ChatStyle",
    "Consistency",
    "ConsistencyConfig",
    "ConsistencyJudge",
    "Constitution",
    "ConstitutionField",
    "EngineConsistencyJudge",
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
    "evaluate_judge",
    "grade_judge",
    "label",
    "revise",
]
