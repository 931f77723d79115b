"""Runs Python that nobody vouches for: no network, no files but its own, no other processes, limits."""

from publius.core.sandbox.run import Job, Limits, Outcome, check_sandbox, run_all, run_python

__all__ = ["Job", "Limits", "Outcome", "check_sandbox", "run_all", "run_python"]
