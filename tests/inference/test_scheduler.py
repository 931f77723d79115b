"""The scheduler's choices: budget, order, sharing, room. What requests then say: laws/test_engine.py."""

from __future__ import annotations

import time

import pytest

from publius.core.errors import UserError
from publius.inference.pages import PagePool
from publius.inference.request import Request
from publius.inference.sampling import Sampling
from publius.inference.scheduler import Scheduler, Work


def make(prompt: int | list[int], tokens: int = 4, **more: object) -> Request:
    ids = [7] * prompt if isinstance(prompt, int) else prompt
    return Request(ids, Sampling(max_tokens=tokens), **more)  # pyright: ignore[reportArgumentType]


def scheduler(pages: int = 100, rows: int = 4, tokens: int = 32, **more: object) -> Scheduler:
    return Scheduler(PagePool(pages), rows=rows, tokens=tokens, scored=64, **more)  # pyright: ignore[reportArgumentType]


def run(chosen: Scheduler, plan: list[Work]) -> None:
    """What the engine does after a step: every complete row says 9."""
    for work in plan:
        complete = work.complete
        if complete:
            work.request.tokens.append(9)
        chosen.advance(work.request, work.size)
        if complete and len(work.request.tokens) == work.request.sampling.max_tokens:
            chosen.remove(work.request)


def counts(plan: list[Work]) -> list[tuple[int, int]]:
    return [(work.request.number, work.size) for work in plan]


def test_prompts_are_read_in_chunks_beside_rows_that_decode() -> None:
    s = scheduler()
    s.add(make(20))
    s.add(make([8] * 40))
    plan = s.schedule()
    assert counts(plan) == [(0, 20), (1, 12)]
    assert [work.complete for work in plan] == [True, False]
    run(s, plan)
    plan = s.schedule()
    assert counts(plan) == [(0, 1), (1, 28)]
    run(s, plan)
    assert counts(s.schedule()) == [(0, 1), (1, 1)]


def test_at_most_so_many_rows() -> None:
    s = scheduler(rows=2)
    for n in range(3):
        s.add(make([n] * 4, tokens=1))
    run(s, plan := s.schedule())
    assert counts(plan) == [(0, 4), (1, 4)]
    assert s.waiting == 1
    assert counts(s.schedule()) == [(2, 4)]


def test_who_begins_alike_waits_and_then_shares() -> None:
    s = scheduler(tokens=100)
    s.add(make([*range(40), 1]))
    s.add(make([*range(40), 2]))
    s.add(make([5] * 3))
    run(s, plan := s.schedule())
    assert counts(plan) == [(0, 41), (2, 3)]
    plan = s.schedule()
    assert counts(plan) == [(0, 1), (2, 1), (1, 1)]
    assert s.reused == 40
    first, last = plan[0].request.pages, plan[2].request.pages
    assert first[:2] == last[:2]
    assert plan[2].copy == (first[2], last[2])  # the page they part in is copied, for both write on
    assert first[2] != last[2]


def test_an_equal_prompt_still_reads_its_last_token() -> None:
    s = scheduler()
    for _ in range(2):
        s.add(make(32, tokens=1))
        plan = s.schedule()
        run(s, plan)
    assert counts(plan) == [(1, 1)]


def test_samples_of_one_prompt_read_it_once() -> None:
    s = scheduler(rows=8, tokens=100)
    for _ in range(3):
        s.add(make(20))
    run(s, plan := s.schedule())
    assert counts(plan) == [(0, 20)]  # the others wait for it
    run(s, plan := s.schedule())
    assert counts(plan) == [(0, 1), (1, 1), (2, 1)]
    pages = [work.request.pages for work in plan]
    assert [work.copy for work in plan] == [None, *((pages[0][1], mine[1]) for mine in pages[1:])]
    assert len({mine[1] for mine in pages}) == 3
    s.add(make(20))
    assert counts(s.schedule())[-1] == (3, 1)  # it is copied as long as it lies there, whatever follows it


def test_short_prompts_have_no_full_page_and_are_read_once_too() -> None:
    s = scheduler()
    for _ in range(2):
        s.add(make(5))
    run(s, s.schedule())
    assert counts(s.schedule()) == [(0, 1), (1, 1)]
    assert s.reused == 4


def test_who_waits_for_a_tail_goes_on_when_its_reader_is_gone() -> None:
    s = scheduler(tokens=8)
    first, second = make(20), make(20)
    s.add(first)
    s.add(second)
    assert counts(s.schedule()) == [(0, 8)]
    s.remove(first)
    assert counts(s.schedule()) == [(1, 8)]


def test_a_tail_is_gone_with_its_page() -> None:
    s = scheduler(pages=2)
    for prompt in (make(20, tokens=1), make([3] * 32, tokens=1)):  # the second takes both pages
        s.add(prompt)
        run(s, s.schedule())
    s.add(make(20, tokens=1))
    assert counts(s.schedule()) == [(2, 20)]


def test_a_tail_is_gone_with_an_error() -> None:
    """The runner clears what is not numbers, by whole pages."""
    s = scheduler()
    s.add(bad := make(20))
    run(s, s.schedule())
    bad.error = UserError("its states are not numbers")
    s.remove(bad)
    s.add(make(20))
    [work] = s.schedule()
    assert (work.size, work.copy) == (4, None)


def test_what_is_scored_alike_shares_what_comes_before() -> None:
    s = scheduler()
    for answer in (4, 5):
        s.add(make([*range(20), answer, 6], targets={19: [answer], 20: [6]}))
    run(s, s.schedule())
    assert counts(s.schedule()) == [(1, 3)]


def test_what_is_scored_is_read() -> None:
    s = scheduler()
    s.add(make(32, tokens=1))
    run(s, s.schedule())
    s.add(make(32, targets={20: [7]}))
    assert counts(s.schedule()) == [(1, 16)]
    s.add(make(32, targets={5: [7]}))
    assert counts(s.schedule())[-1] == (2, 16)  # the rest of the budget, from the beginning


def test_the_more_urgent_first_and_in_place_of_the_less() -> None:
    s = scheduler(rows=1)
    s.add(make([1] * 4))
    s.add(make([2] * 4, priority=1))
    s.add(make([3] * 4, priority=1))
    run(s, plan := s.schedule())
    assert counts(plan) == [(1, 4)]
    s.add(make([4] * 4, priority=2))
    assert counts(s.schedule()) == [(3, 4)]
    assert s.preemptions == 1


def test_without_room_the_least_urgent_gives_up_its_pages_and_comes_again() -> None:
    s = scheduler(pages=4, tokens=100)
    first, second = make([1] * 30, tokens=20), make([2] * 30, tokens=20)
    s.add(first)
    s.add(second)
    for _ in range(4):
        run(s, s.schedule())
    assert s.running == [first]  # its 33rd token needs a third page
    assert second.pages == []
    assert len(second.tokens) == 3
    while s.running or s.waiting:
        plan = s.schedule()
        assert plan
        run(s, plan)
    assert [len(r.tokens) for r in (first, second)] == [20, 20]
    assert s.pool.in_use == 0


def test_a_deadline_ends_running_and_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    s = scheduler(rows=1)
    running, waiting, endless = make([1] * 4, deadline=50.0), make([2] * 4, deadline=40.0), make([3] * 4)
    for request in (running, waiting, endless):
        s.add(request)
    monkeypatch.setattr(time, "monotonic", lambda: 30.0)
    run(s, s.schedule())
    monkeypatch.setattr(time, "monotonic", lambda: 45.0)
    run(s, s.schedule())
    assert (running.stop_reason, waiting.stop_reason) == (None, "deadline")
    monkeypatch.setattr(time, "monotonic", lambda: 50.0)
    assert [work.request for work in s.schedule()] == [endless]
    assert running.stop_reason == "deadline"
    assert (s.pool.in_use, s.waiting) == (1, 0)


def test_guesses_take_no_room_from_others() -> None:
    s = scheduler(pages=3, draft=lambda asked: [[9] * count for _, count in asked], guesses=8)
    s.add(make(30, tokens=19))
    run(s, s.schedule())
    [work] = s.schedule()
    assert (work.size, work.draft) == (1, [9] * 8)
    s = scheduler(pages=2, draft=lambda asked: [[9] * count for _, count in asked], guesses=8)
    s.add(make(30, tokens=3))
    run(s, s.schedule())
    [work] = s.schedule()
    assert work.draft == [9]  # no more than may still be said


def test_forgetting_reads_again() -> None:
    s = scheduler()
    s.add(make(20))
    run(s, s.schedule())
    s.forget()
    assert counts(s.schedule()) == [(0, 21)]
    assert s.reused == 0


def test_those_that_run_are_kept_most_urgent_first() -> None:
    s = scheduler()
    for priority in (1, 0, 2, 1):
        s.add(make(4, tokens=40, priority=priority))
        run(s, s.schedule())
    assert [request.number for request in s.running] == [2, 0, 3, 1]


def test_every_row_reads_a_token_whatever_is_before_it() -> None:
    """Neither a long prompt nor guesses take it from those behind."""
    s = scheduler(rows=4, tokens=8, guesses=6, draft=lambda asked: [[9] * room for _, room in asked])
    s.add(make(2, tokens=20))
    s.add(make(3, tokens=20))
    run(s, s.schedule())
    s.add(make([5] * 50, priority=1))
    run(s, s.schedule())
    [long, first, second] = plan = s.schedule()
    assert counts(plan) == [(2, 6), (0, 1), (1, 1)]
    assert long.draft == first.draft == second.draft == []


def test_guesses_take_half_of_a_step_at_most() -> None:
    s = scheduler(rows=4, tokens=8, guesses=9, draft=lambda asked: [[9] * room for _, room in asked])
    s.add(make(2, tokens=20))
    s.add(make(3, tokens=20))
    run(s, s.schedule())
    assert [len(work.draft) for work in s.schedule()] == [4, 0]
    s.add(make([5] * 50))
    assert counts(s.schedule())[-1] == (2, 2)


def test_who_is_held_back_goes_on_when_the_other_goes() -> None:
    s = scheduler(tokens=20)
    first, second, third = (make([*range(40), i]) for i in range(3))
    for request in (first, second, third):
        s.add(request)
    assert counts(s.schedule()) == [(0, 20)]
    assert s.waiting == 2
    s.remove(second)
    assert s.waiting == 1
    s.remove(first)
    assert counts(s.schedule()) == [(2, 20)]
    s.remove(third)
    assert (s.waiting, s.pool.in_use, s.schedule()) == (0, 0, [])


def test_the_more_urgent_takes_pages_from_the_less_urgent_only() -> None:
    s = scheduler(pages=4)
    s.add(make([1] * 30, priority=1))
    s.add(make([2] * 30))
    run(s, s.schedule())
    s.add(make([3] * 20, priority=1))
    assert [work.request.number for work in s.schedule()][-1] == 2
    assert [request.number for request in s.running] == [0, 2]
    assert (s.waiting, s.preemptions) == (1, 1)


def test_what_is_scored_holds_no_other_up() -> None:
    """A step has room for the logits of so many places; who wants none of it starts all the same."""
    s = scheduler(pages=200, tokens=200)
    s.add(make(300, targets={place: [7] for place in range(300)}))
    run(s, s.schedule())
    s.add(make([8] * 100, targets={place: [7] for place in range(100)}))
    s.add(make([9] * 20))
    s.add(make([6] * 20, priority=1))
    assert counts(s.schedule()) == [(0, 64), (3, 20), (2, 20)]
    assert s.waiting == 1
