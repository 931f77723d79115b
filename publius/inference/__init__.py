"""Inference: one engine for rollouts, critiques, judging, evaluation and chat; the assistant on top of it."""

from publius.inference.assistant import Assistant, Event, Reply, run_tools, run_tools_batch
from publius.inference.engine import Completion, Engine, Request, Sampling
from publius.inference.grammar import Grammar
from publius.inference.terminal import chat, load_assistant
from publius.inference.tool_choice import NamedTool, ToolChoice

__all__ = [
    "Assistant",
    "Completion",
    "Engine",
    "Event",
    "Grammar",
    "NamedTool",
    "Reply",
    "Request",
    "Sampling",
    "ToolChoice",
    "chat",
    "load_assistant",
    "run_tools",
    "run_tools_batch",
]
