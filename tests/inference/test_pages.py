"""Pages are handed out once, shared by hash, kept for later, and given up oldest first."""

from __future__ import annotations

import random

import pytest

from publius.inference.pages import PAGE, PagePool, page_hashes, tail_hash

A, B, C = (page_hashes(b"", [n] * PAGE)[0] for n in range(3))


def test_take_and_give_back() -> None:
    pool = PagePool(3)
    pages = pool.take(3)
    assert sorted(pages) == [1, 2, 3]
    assert (pool.available, pool.in_use) == (0, 3)
    pool.give_back(pages[:2])
    assert pool.available == 2
    with pytest.raises(AssertionError):
        pool.take(3)


def test_a_known_page_is_shared_and_outlives_its_maker() -> None:
    pool = PagePool(2)
    [page] = pool.take(1)
    pool.name(page, A)
    assert pool.known([A, B]) == 1
    assert pool.known([B, A]) == 0
    assert pool.share([A]) == [page]
    pool.give_back([page])
    assert pool.in_use == 1
    pool.give_back([page])
    assert (pool.in_use, pool.available) == (0, 2)
    assert pool.share([A]) == [page]


def test_a_tail_is_known_until_its_page_is_taken() -> None:
    pool, key = PagePool(1), tail_hash(A, [5, 6])
    [page] = pool.take(1)
    pool.begin(page, key)
    pool.name(page, B)  # it is filled up
    pool.give_back([page])
    assert pool.begun(key) == page
    pool.take(1)
    assert pool.begun(key) is None


def test_a_tail_is_no_page_and_knows_what_came_before() -> None:
    keys = {tail_hash(before, [1] * n) for before in (b"", A, B) for n in range(1, PAGE + 1)}
    assert len(keys) == 3 * PAGE
    assert page_hashes(b"", [1] * PAGE)[0] not in keys


def test_nothing_is_copied_of_what_is_spoilt_or_forgotten() -> None:
    pool = PagePool(2)
    pages = pool.take(2)
    for page, key in zip(pages, (A, B), strict=True):
        pool.begin(page, key)
    pool.spoil(pages[0])
    assert (pool.begun(A), pool.begun(B)) == (None, pages[1])
    pool.forget()
    assert pool.begun(B) is None


def test_unknown_pages_go_first_and_then_the_longest_unused() -> None:
    pool = PagePool(3)
    pages = pool.take(3)
    for page, key in zip(pages[:2], (A, B), strict=True):
        pool.name(page, key)
    pool.give_back(pages[:1])
    pool.give_back(pages[1:])
    assert pool.take(1) == [pages[2]]
    pool.give_back(pool.share([A]))  # used again: now B is the longest unused
    assert pool.take(1) == [pages[1]]
    assert pool.known([A]) == 1
    assert pool.known([B]) == 0


def test_the_end_of_a_row_is_given_up_before_its_beginning() -> None:
    pool = PagePool(2)
    pages = pool.take(2)
    pool.name(pages[0], A)
    pool.name(pages[1], B)
    pool.give_back(pages)
    pool.take(1)
    assert pool.known([A, B]) == 1


def test_one_page_a_hash_and_one_hash_a_page() -> None:
    pool = PagePool(2)
    first, second = pool.take(2)
    pool.name(first, A)
    pool.name(second, A)
    pool.name(first, B)
    assert pool.known([B]) == 0
    pool.give_back([second])
    assert pool.take(1) == [second]
    assert pool.share([A]) == [first]


def test_forgotten_pages_are_free() -> None:
    pool = PagePool(2)
    pages = pool.take(2)
    pool.name(pages[0], A)
    pool.name(pages[1], B)
    pool.give_back(pages[:1])
    pool.forget()
    assert pool.known([A]) == pool.known([B]) == 0
    assert pool.available == 1
    pool.give_back(pages[1:])
    assert pool.available == 2


def test_a_hash_tells_what_came_before() -> None:
    assert page_hashes(A, [7] * PAGE) != page_hashes(B, [7] * PAGE)
    assert page_hashes(A, [7] * PAGE) == page_hashes(A, (7,) * PAGE)
    whole = page_hashes(b"", [*range(3 * PAGE)])  # of pages in one go as of one after the other
    assert whole[:1] == page_hashes(b"", range(PAGE))
    assert whole[1:] == page_hashes(whole[0], range(PAGE, 3 * PAGE))


def test_nothing_is_lost_in_random_use() -> None:
    rng, pool = random.Random(0), PagePool(8)
    held: list[list[int]] = []
    for _ in range(2000):
        if held and rng.random() < 0.5:
            pool.give_back(held.pop(rng.randrange(len(held))))
        elif pool.known([A]) and rng.random() < 0.5:
            held.append(pool.share([A]))
        elif pool.available:
            held.append(pool.take(rng.randint(1, pool.available)))
            if rng.random() < 0.3:
                pool.name(held[-1][0], rng.choice([A, B, C]))
            if rng.random() < 0.3:
                pool.begin(held[-1][-1], rng.choice([A, B, C]))
            if rng.random() < 0.1:
                pool.spoil(rng.randint(1, 8))
        pool.begun(rng.choice([A, B, C]))
        used = {page for pages in held for page in pages}
        assert pool.in_use == len(used)
        assert pool.available == 8 - len(used)
