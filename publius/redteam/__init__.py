"""Red team: attack styles, the auditor that plays them, findings that go back into training, trigger scan."""

from publius.redteam.attack import STYLES, Attack, named_styles
from publius.redteam.auditor import Auditor, build_attacks
from publius.redteam.export import ExportConfig, export_prompts
from publius.redteam.findings import Attempt, Finding, Findings, FindingsDocument
from publius.redteam.planted import PlantConfig, plant_backdoor, planted_conversations
from publius.redteam.regression import Regression, RegressionConfig, regression
from publius.redteam.scan import ScanDocument, TriggerReport, TriggerScanConfig, scan_triggers
from publius.redteam.stage import RedTeamConfig, red_team

__all__ = [
    "STYLES",
    "Attack",
    "Attempt",
    "Auditor",
    "ExportConfig",
    "Finding",
    "Findings",
    "FindingsDocument",
    "PlantConfig",
    "RedTeamConfig",
    "Regression",
    "RegressionConfig",
    "ScanDocument",
    "TriggerReport",
    "TriggerScanConfig",
    "build_attacks",
    "export_prompts",
    "named_styles",
    "plant_backdoor",
    "planted_conversations",
    "red_team",
    "regression",
    "scan_triggers",
]
