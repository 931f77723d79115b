"""Report: one self-contained HTML page per run, for people who want to see what happened."""

from publius.report.page import write_report

__all__ = ["write_report"]
