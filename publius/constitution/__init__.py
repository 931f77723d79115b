"""The constitution: principles people write, and the models that criticise, revise and judge by them."""

from publius.constitution.consistency import (
    Consistency,
    ConsistencyConfig,
    ConsistencyJudge,
    ConsistencyPanel,
    EngineConsistencyJudge,
    RemoteConsistencyJudge,
    ReplyCase,
)
from publius.constitution.differences import Difference, differences
from publius.constitution.grading import JudgeEvalConfig, JudgeReport, evaluate_judge, grade_judge
from publius.constitution.judges import (
    Abstention,
    EngineJudge,
    Judge,
    JudgeConfig,
    Judgement,
    Panel,
    ParseFailure,
    RemoteJudge,
    RemoteJudgeConfig,
    Ruling,
    Skipped,
)
from publius.constitution.lint import doubts
from publius.constitution.preferences import LabelConfig, label
from publius.constitution.principles import Constitution, ConstitutionField, Principle
from publius.constitution.published import import_published
from publius.constitution.revise import ReviseConfig, Revisions, revise
from publius.constitution.styles import ChatStyle, RawStyle
from publius.constitution.verdicts import FilterConfig

__all__ = [
    "Abstention",
    "ChatStyle",
    "Consistency",
    "ConsistencyConfig",
    "ConsistencyJudge",
    "ConsistencyPanel",
    "Constitution",
    "ConstitutionField",
    "Difference",
    "EngineConsistencyJudge",
    "EngineJudge",
    "FilterConfig",
    "Judge",
    "JudgeConfig",
    "JudgeEvalConfig",
    "JudgeReport",
    "Judgement",
    "LabelConfig",
    "Panel",
    "ParseFailure",
    "Principle",
    "RawStyle",
    "RemoteConsistencyJudge",
    "RemoteJudge",
    "RemoteJudgeConfig",
    "ReplyCase",
    "ReviseConfig",
    "Revisions",
    "Ruling",
    "Skipped",
    "differences",
    "doubts",
    "evaluate_judge",
    "grade_judge",
    "import_published",
    "label",
    "revise",
]
