"""Layers between a model and the world while it answers."""

from publius.safety.exchanges import Exchange, Exchanges, ExchangesConfig, draw_exchanges
from publius.safety.keywords import KeywordList, KeywordMonitor
from publius.safety.measure import MeasureConfig, MonitorReport, measure_monitors
from publius.safety.monitor import ALLOW, Monitor, Monitors, Verdict, Watch, Watching
from publius.safety.policy import MonitorPolicy, load_monitors
from publius.safety.probe import ProbeDocument, ProbeMonitor, TrainedProbe
from publius.safety.replay import Replayed, replay
from publius.safety.training import TrainProbeConfig, train_probe

__all__ = [
    "ALLOW",
    "Exchange",
    "Exchanges",
    "ExchangesConfig",
    "KeywordList",
    "KeywordMonitor",
    "MeasureConfig",
    "Monitor",
    "MonitorPolicy",
    "MonitorReport",
    "Monitors",
    "ProbeDocument",
    "ProbeMonitor",
    "Replayed",
    "TrainProbeConfig",
    "TrainedProbe",
    "Verdict",
    "Watch",
    "Watching",
    "draw_exchanges",
    "load_monitors",
    "measure_monitors",
    "replay",
    "train_probe",
]
