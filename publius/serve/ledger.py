"""What was used, on its way to the store: counted at once, written together once a second.

A transaction for every reply costs more than a small model's reply. A process that is killed loses the last
second of its books, in its users' favour; one that ends by itself writes all of it.
"""

from __future__ import annotations

import threading
from collections import defaultdict
from datetime import UTC, datetime

from publius.serve.exchange import Usage
from publius.serve.store.usage import Spending, Used

__all__ = ["Ledger"]


class Ledger:
    """Safe from threads; `flush` and `total` ask the store and may wait for it.

    Args:
        spending: the table.
    """

    def __init__(self, spending: Spending) -> None:
        self._spending = spending
        self._lock, self._writing = threading.Lock(), threading.Lock()
        self._pending: dict[tuple[str, str], Used] = defaultdict(Used)

    @property
    def pending(self) -> bool:
        """Whether anything has not been written."""
        return bool(self._pending)

    def add(self, key_id: str, used: Usage, now: float) -> None:
        """Count one request of `key_id` and its tokens, at `now` (Unix seconds)."""
        day = datetime.fromtimestamp(now, UTC).date().isoformat()
        more = Used(1, used.input, used.cache_write, used.cache_read, used.output)
        with self._lock:
            self._pending[key_id, day] = self._pending[key_id, day].plus(more)

    def flush(self) -> None:
        """Write what is pending.

        Raises:
            UserError: when the store cannot take it; it stays pending.
        """
        with self._writing:
            with self._lock:
                taken, self._pending = self._pending, defaultdict(Used)
            if not taken:
                return
            try:
                self._spending.add_all(taken)
            except Exception:
                with self._lock:
                    for place, used in taken.items():
                        self._pending[place] = self._pending[place].plus(used)
                raise

    def total(self, key_id: str) -> Used:
        """All that `key_id` ever used, written or not."""
        with self._writing:
            written = self._spending.total(key_id)
            with self._lock:
                for (key, _), used in self._pending.items():
                    if key == key_id:
                        written = written.plus(used)
        return written
