"""The CPU's own forward pass: C++ built on the machine it runs on, and its Python face."""

from publius.inference.native.build import library, why_not
from publius.inference.native.draw import can_draw, draw_rows, read_rows, score_rows
from publius.inference.native.model import NativeModel, Weights, can_run

__all__ = [
    "NativeModel",
    "Weights",
    "can_draw",
    "can_run",
    "draw_rows",
    "library",
    "read_rows",
    "score_rows",
    "why_not",
]
