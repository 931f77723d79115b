"""The thirteen special tokens, in id order, and what each one marks."""

from __future__ import annotations

__all__ = [
    "ASSISTANT",
    "BOS",
    "END",
    "PAD",
    "SPECIAL_TOKENS",
    "SYSTEM",
    "THINK",
    "THINK_END",
    "TOOLS",
    "TOOL_RESULT",
    "TOOL_RESULT_END",
    "TOOL_USE",
    "TOOL_USE_END",
    "USER",
]

PAD = "<|pad|>"
"""Fills rows; never trained on."""
BOS = "<|bos|>"
"""Starts every document and conversation."""
END = "<|end|>"
"""Ends every document and every turn."""
SYSTEM = "<|system|>"
USER = "<|user|>"
ASSISTANT = "<|assistant|>"
TOOLS = "<|tools|>"
"""Opens the list of tools, one JSON object a line."""
THINK = "<|think|>"
THINK_END = "<|/think|>"
TOOL_USE = "<|tool_use|>"
TOOL_USE_END = "<|/tool_use|>"
TOOL_RESULT = "<|tool_result|>"
TOOL_RESULT_END = "<|/tool_result|>"

SPECIAL_TOKENS = (
    PAD, BOS, END, SYSTEM, USER, ASSISTANT, TOOLS, THINK, THINK_END,
    TOOL_USE, TOOL_USE_END, TOOL_RESULT, TOOL_RESULT_END,
)  # fmt: skip
"""In a tokenizer we train, token i of this tuple has id i."""
