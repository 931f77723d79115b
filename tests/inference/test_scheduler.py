"""The scheduler hands out every prompt once, in groups that do share their prefix."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from publius.inference.scheduler import MIN_SHARED, PREFILL_TOKENS, Scheduler, chunk_rows, share_prefixes

A, B = list(range(100, 130)), list(range(200, 220))


def test_groups_by_common_beginning() -> None:
    sequences = [[*A, 1], [*A, 2, 3], [*B, 4], [5], [*B, 4, 4], [*range(30)]]
    groups = share_prefixes(sequences, [len(s) - 1 for s in sequences])
    assert [(g.shared, g.members) for g in groups] == [(30, [1, 0]), (20, [4, 2]), (0, [5, 3])]


def test_equal_prompts_keep_their_last_token_out_of_the_prefix() -> None:
    groups = share_prefixes([A, A], [29, 29])
    assert [(g.shared, g.members) for g in groups] == [(29, [0, 1])]


def test_a_limit_caps_the_prefix() -> None:
    assert share_prefixes([A, A], [18, 25])[0].shared == 18
    assert share_prefixes([A, A], [MIN_SHARED - 1, 29])[0].shared == 0


sequences = st.lists(
    st.tuples(st.sampled_from([[], A, B]), st.lists(st.integers(0, 3), min_size=1, max_size=6)).map(
        lambda pair: pair[0] + pair[1]
    ),
    min_size=1,
    max_size=20,
)


@settings(max_examples=60, deadline=None)
@given(prompts=sequences, slots=st.integers(1, 8))
def test_every_prompt_once_and_prefixes_true(prompts: list[list[int]], slots: int) -> None:
    scheduler = Scheduler(prompts, slots)
    seen: list[int] = []
    while scheduler.waiting:
        assert scheduler.wants(slots, 0)
        chunk = scheduler.take(list(range(slots)))
        assert 1 <= len(chunk.members) == len(chunk.slots) <= slots
        shared = chunk.group.shared
        assert len({tuple(prompts[i][:shared]) for i in chunk.members}) == 1
        assert all(len(prompts[i]) > shared for i in chunk.members)
        seen += chunk.members
    assert sorted(seen) == list(range(len(prompts)))
    assert not scheduler.wants(slots, 0)


def test_it_waits_until_an_eighth_is_free() -> None:
    scheduler = Scheduler([[1]] * 200, 64)
    assert scheduler.wants(64, 0)
    assert not scheduler.wants(7, 57)
    assert scheduler.wants(8, 56)
    assert not scheduler.wants(0, 64)


def test_chunks_are_bounded_in_tokens() -> None:
    assert chunk_rows([PREFILL_TOKENS * 2], 64) == 1
    assert chunk_rows([PREFILL_TOKENS // 4] * 64, 64) == 4
    assert chunk_rows([1] * 100, 64) == 64
