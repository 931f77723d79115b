"""Search: attacks that learn from each other, spread over kinds of harm and of attack (quality-diversity)."""

from publius.redteam.search.archive import Archive, Cell, Elite
from publius.redteam.search.bandit import Arm, Bandit
from publius.redteam.search.chains import Chain, begin, first_words
from publius.redteam.search.driver import Driver, Exchange, Outcome
from publius.redteam.search.hunt import Hit, Hunt, Status
from publius.redteam.search.settings import HuntSettings
from publius.redteam.search.stage import SearchConfig, search

__all__ = [
    "Archive",
    "Arm",
    "Bandit",
    "Cell",
    "Chain",
    "Driver",
    "Elite",
    "Exchange",
    "Hit",
    "Hunt",
    "HuntSettings",
    "Outcome",
    "SearchConfig",
    "Status",
    "begin",
    "first_words",
    "search",
]
