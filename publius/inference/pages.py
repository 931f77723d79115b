"""Which page holds what: pages are handed out, shared by what begins alike, kept while nobody needs the room.

No tensors here. A page holds the keys and values of `PAGE` tokens. A full page is known by a hash of its
tokens and of everything before them, so a later prompt that begins alike takes it as it is (Kwon et al. 2023,
arXiv 2309.06180). Shared pages are full and never written again: a row's next token goes to its own. The page
in which a prompt ends is not full, so who asks the same (n samples of it) gets a copy to write on.
"""

from __future__ import annotations

import hashlib
import struct
from collections import OrderedDict
from collections.abc import Iterable, Sequence

__all__ = ["PAGE", "PagePool", "page_hashes", "tail_hash"]

PAGE = 16
"""Tokens in a page; also the lanes of a vector in the native pass."""


def page_hashes(before: bytes, tokens: Sequence[int]) -> list[bytes]:
    """Of full pages that follow each other and, through `before`, of all pages before them.

    No two texts may share a hash: a page holds what another user has said.
    """
    data, hashes = struct.pack(f"<{len(tokens)}q", *tokens), list[bytes]()
    for start in range(0, len(data), 8 * PAGE):
        before = hashlib.blake2b(before + data[start : start + 8 * PAGE], digest_size=16).digest()
        hashes.append(before)
    return hashes


def tail_hash(before: bytes, tokens: Sequence[int]) -> bytes:
    """Of fewer tokens than a page holds, which follow the pages that `before` is the hash of."""
    data = struct.pack(f"<{len(tokens)}q", *tokens)
    return hashlib.blake2b(before + data, digest_size=16, person=b"tail").digest()


class PagePool:
    """`count` pages, numbered from 1: page 0 is where padding goes.

    A page is in use (by one or more), free, or free and still known by its hash or for the tail in front;
    those go last, the longest unused first.
    """

    def __init__(self, count: int) -> None:
        self.count = count
        self._fresh = 1  # pages from here on were never used: their memory is not touched before it must be
        self._users: dict[int, int] = {}
        self._free: list[int] = []
        self._kept: OrderedDict[int, None] = OrderedDict()  # free, and known
        self._page_of: dict[bytes, int] = {}
        self._hash_of: dict[int, bytes] = {}
        self._begun: dict[bytes, int] = {}
        """Where the tail of a prompt lies, by its hash: on this page in front, until it is taken anew."""
        self._tail_on: dict[int, bytes] = {}

    @property
    def available(self) -> int:
        """Pages that can be handed out."""
        return len(self._free) + len(self._kept) + self.count + 1 - self._fresh

    @property
    def in_use(self) -> int:
        """Pages somebody holds."""
        return len(self._users)

    def take(self, count: int) -> list[int]:
        """`count` pages of one's own; there must be as many `available`."""
        assert count <= self.available
        return [self._take() for _ in range(count)]

    def _take(self) -> int:
        if self._free:
            page = self._free.pop()
        elif self._fresh <= self.count:
            page, self._fresh = self._fresh, self._fresh + 1
        else:
            page, _ = self._kept.popitem(last=False)
            if (key := self._hash_of.pop(page, None)) is not None:
                del self._page_of[key]
        self.spoil(page)
        self._users[page] = 1
        return page

    def known(self, chain: Iterable[bytes]) -> int:
        """How many pages at the beginning of `chain` are there."""
        found = 0
        for key in chain:
            if key not in self._page_of:
                break
            found += 1
        return found

    def share(self, chain: Sequence[bytes]) -> list[int]:
        """The pages of `chain`, all of them known, now also held by the caller."""
        pages = [self._page_of[key] for key in chain]
        for page in pages:
            self._kept.pop(page, None)
            self._users[page] = self._users.get(page, 0) + 1
        return pages

    def name(self, page: int, key: bytes) -> None:
        """`page` is full; from now on it is found by `key` (unless another page already is)."""
        if key not in self._page_of and page not in self._hash_of:
            self._page_of[key] = page
            self._hash_of[page] = key

    def begin(self, page: int, key: bytes) -> None:
        """`page` begins with the tail of this hash, whatever is written behind it."""
        if key not in self._begun and page not in self._tail_on:
            self._begun[key] = page
            self._tail_on[page] = key

    def begun(self, key: bytes) -> int | None:
        """The page that begins with the tail of this hash, to be copied before anything is written."""
        page = self._begun.get(key)
        if page in self._kept:
            self._kept.move_to_end(page)  # used, so it is not the longest unused
        return page

    def spoil(self, page: int) -> None:
        """What `page` begins with is no longer to be copied."""
        if (key := self._tail_on.pop(page, None)) is not None:
            del self._begun[key]
            if page in self._kept and page not in self._hash_of:
                del self._kept[page]
                self._free.append(page)

    def give_back(self, pages: Sequence[int]) -> None:
        """The caller needs them no more. The end of a row is given up before its beginning."""
        for page in reversed(pages):
            self._users[page] -= 1
            if self._users[page]:
                continue
            del self._users[page]
            if page in self._hash_of or page in self._tail_on:
                self._kept[page] = None
            else:
                self._free.append(page)

    def forget(self) -> None:
        """Other weights: what pages hold is of no use to anybody new."""
        self._free += self._kept
        self._kept.clear()
        for known in (self._page_of, self._hash_of, self._begun, self._tail_on):
            known.clear()
