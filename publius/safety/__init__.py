"""Layers between a model and the world while it answers."""

from publius.safety.cascade import CascadeMonitor, SecondStage
from publius.safety.exchanges import (
    Exchange,
    Exchanges,
    ExchangesConfig,
    LabelsConfig,
    draw_exchanges,
    label_exchanges,
)
from publius.safety.head import HeadDocument, HeadStage, TrainedHead
from publius.safety.head_training import TrainHeadConfig, train_head
from publius.safety.keywords import KeywordList, KeywordMonitor
from publius.safety.measure import MeasureConfig, MonitorReport, measure_monitors
from publius.safety.monitor import ALLOW, Monitor, Monitors, Verdict, Watch, Watching
from publius.safety.policy import MonitorPolicy, load_monitors
from publius.safety.probe import ProbeDocument, ProbeMonitor, TrainedProbe
from publius.safety.replay import Replayed, replay
from publius.safety.training import TrainProbeConfig, train_probe
from publius.safety.whitebox import WhiteboxConfig, WhiteboxReport

__all__ = [
    "ALLOW",
    "CascadeMonitor",
    "Exchange",
    "Exchanges",
    "ExchangesConfig",
    "HeadDocument",
    "HeadStage",
    "KeywordList",
    "KeywordMonitor",
    "LabelsConfig",
    "MeasureConfig",
    "Monitor",
    "MonitorPolicy",
    "MonitorReport",
    "Monitors",
    "ProbeDocument",
    "ProbeMonitor",
    "Replayed",
    "SecondStage",
    "TrainHeadConfig",
    "TrainProbeConfig",
    "TrainedHead",
    "TrainedProbe",
    "Verdict",
    "Watch",
    "Watching",
    "WhiteboxConfig",
    "WhiteboxReport",
    "draw_exchanges",
    "label_exchanges",
    "load_monitors",
    "measure_monitors",
    "replay",
    "train_head",
    "train_probe",
]
