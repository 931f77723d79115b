"""Layers between a model and the world while it answers."""

from publius.safety.monitor import ALLOW, Monitor, Monitors, Verdict, Watch, Watching

__all__ = ["ALLOW", "Monitor", "Monitors", "Verdict", "Watch", "Watching"]
