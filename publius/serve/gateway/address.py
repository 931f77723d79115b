"""An address of a backend, as a user gives it."""

from __future__ import annotations

import re

import httpx2

__all__ = ["is_address"]


def is_address(url: str) -> bool:
    """Whether requests can be sent to `url`, a path behind it: http or https, a host, and no query."""
    if not re.fullmatch(r"https?://[^/?#\s@]+(/[^?#\s]*)?", url):
        return False
    try:
        found = httpx2.URL(url)
    except httpx2.InvalidURL:  # half of an IPv6 address, a port that is no number
        return False
    return found.host != "" and 0 < (found.port or 80) < 1 << 16
