"""Suites: published benchmarks and safety sets, read from files the user has (`publius.evals.registry`)."""

from publius.evals.suites.base import Kind, Metric, Suite

__all__ = ["Kind", "Metric", "Suite"]
