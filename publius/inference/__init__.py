"""Inference: one engine for rollouts, critiques, judging, evaluation and chat; the assistant on top of it."""

from publius.inference.assistant import Assistant, Event, Reply, run_tools, run_tools_batch
from publius.inference.engine import Completion, Engine, Request, Sampling
from publius.inference.terminal import chat, load_assistant

__all__ = [
    "Assistant",
    "Completion",
    "Engine",
    "Event",
    "Reply",
    "Request",
    "Sampling",
    "chat",
    "load_assistant",
    "run_tools",
    "run_tools_batch",
]
