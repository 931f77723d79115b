"""The command line: thin verbs over the Python API of the same names.

Results go to stdout (`--json` prints nothing else there), words for people to stderr. What a user
can mend ends with one message and exit code 2, never a traceback.
"""

from publius.cli import (
    audit,
    constitution,
    evaluate,
    gate,
    gateway,
    keys,
    models,
    redteam,
    runs,
    serve,
    suites,
)
from publius.cli.base import app, main

__all__ = [
    "app",
    "audit",
    "constitution",
    "evaluate",
    "gate",
    "gateway",
    "keys",
    "main",
    "models",
    "redteam",
    "runs",
    "serve",
    "suites",
]
