"""Attackers by name. Each works without a model of its own, and asks one (`Write`) where it can be of use.

An attacker that has nothing to try against a goal (a probe of facts against a hazard) ends without a move.
"""

from publius.redteam.attack import STYLES
from publius.redteam.attacker import Attacker
from publius.redteam.attackers.styles import StyleAttacker

__all__ = ["ATTACKERS", "StyleAttacker"]

ATTACKERS: dict[str, Attacker] = {name: StyleAttacker(style) for name, style in STYLES.items()}
"""All of them."""
