"""Red team: attack styles, the auditor that plays them, findings that go back into training, trigger scan."""

from publius.redteam.attack import STYLES, Attack, named_styles
from publius.redteam.auditor import Auditor, build_attacks
from publius.redteam.control import RandomPromptsConfig, random_prompts
from publius.redteam.export import ExportConfig, export_prompts
from publius.redteam.findings import Attempt, CellCount, Finding, Findings, FindingsDocument, Judged
from publius.redteam.human import HumanConfig, human_findings
from publius.redteam.planted import PlantConfig, plant_backdoor, planted_conversations
from publius.redteam.positives import MonitorExamples, MonitorExamplesConfig, export_monitor
from publius.redteam.regression import Regression, RegressionConfig, regression
from publius.redteam.scan import ScanDocument, TriggerReport, TriggerScanConfig, scan_triggers
from publius.redteam.stage import RedTeamConfig, red_team

__all__ = [
    "STYLES",
    "Attack",
    "Attempt",
    "Auditor",
    "CellCount",
    "ExportConfig",
    "Finding",
    "Findings",
    "FindingsDocument",
    "HumanConfig",
    "Judged",
    "MonitorExamples",
    "MonitorExamplesConfig",
    "PlantConfig",
    "RandomPromptsConfig",
    "RedTeamConfig",
    "Regression",
    "RegressionConfig",
    "ScanDocument",
    "TriggerReport",
    "TriggerScanConfig",
    "build_attacks",
    "export_monitor",
    "export_prompts",
    "human_findings",
    "named_styles",
    "plant_backdoor",
    "planted_conversations",
    "random_prompts",
    "red_team",
    "regression",
    "scan_triggers",
]
