"""Attackers by name. Each works without a model of its own, and asks one (`Write`) where it can be of use.

An attacker that has nothing to try against a goal (a probe of facts against a hazard) ends without a move.
"""

from publius.redteam.attack import STYLES
from publius.redteam.attacker import Attacker
from publius.redteam.attackers.benign import Benign
from publius.redteam.attackers.bias import Bias
from publius.redteam.attackers.crescendo import Crescendo
from publius.redteam.attackers.encodings import Encodings, Translate
from publius.redteam.attackers.injection import SystemInjection, ToolInjection
from publius.redteam.attackers.play_on import PlayOn
from publius.redteam.attackers.probes import Deception, Sycophancy
from publius.redteam.attackers.refine import Refine
from publius.redteam.attackers.shots import Shots
from publius.redteam.attackers.styles import StyleAttacker
from publius.redteam.attackers.tree import Tree

__all__ = [
    "ATTACKERS",
    "Benign",
    "Bias",
    "Crescendo",
    "Deception",
    "Encodings",
    "PlayOn",
    "Refine",
    "Shots",
    "StyleAttacker",
    "Sycophancy",
    "SystemInjection",
    "ToolInjection",
    "Translate",
    "Tree",
]

_LIVE: tuple[Attacker, ...] = (
    Refine(),
    Tree(),
    Crescendo(),
    Shots(),
    SystemInjection(),
    ToolInjection(),
    PlayOn(),
    Encodings(),
    Translate(),
    Sycophancy(),
    Deception(),
    Bias(),
    Benign(),
)
ATTACKERS: dict[str, Attacker] = {
    **{name: StyleAttacker(style) for name, style in STYLES.items()},
    **{attacker.name: attacker for attacker in _LIVE},
}
"""All of them: the styles, and those that answer to what they see."""
