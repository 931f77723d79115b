"""What the server keeps: keys and usage, batches, human comparisons and findings."""

from publius.serve.store.agreement import Agreement, nominal_alpha
from publius.serve.store.batches import Batch, BatchItem, Outcome
from publius.serve.store.comparisons import Comparison, Pair, Progress, Said, Shown
from publius.serve.store.findings import HumanFinding
from publius.serve.store.keys import SCOPES, Key, Limits, MadeKey
from publius.serve.store.store import Store, default_url
from publius.serve.store.usage import Used

__all__ = [
    "SCOPES",
    "Agreement",
    "Batch",
    "BatchItem",
    "Comparison",
    "HumanFinding",
    "Key",
    "Limits",
    "MadeKey",
    "Outcome",
    "Pair",
    "Progress",
    "Said",
    "Shown",
    "Store",
    "Used",
    "default_url",
    "nominal_alpha",
]
