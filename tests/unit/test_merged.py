"""Pages of several stores, merged: whatever each has and however far each looked, all comes once and in order."""

from __future__ import annotations

import random
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from headrace.ids import at_store
from headrace.store.merged import Chosen, merge_chosen

# few times, few tails: the same 15 bytes in several stores, and neighbours, are the usual case
numbers = st.integers(0, 40)
stores = st.sampled_from("0123")
rows = st.sets(st.tuples(numbers, stores), max_size=80)
seeds = st.integers(0, 2**32)


def as_id(one: tuple[int, str]) -> UUID:
    return at_store(UUID(int=one[0] << 8), one[1])


def choose(
    own: list[UUID], start: UUID | None, limit: int, look_at: int, wanted: set[UUID], *, back: bool
) -> Chosen[UUID]:
    """What one store answers: it looks at so many rows behind ``start`` and picks those that are wanted."""
    ordered = sorted(own, reverse=not back)
    behind = [one for one in ordered if start is None or (one > start if back else one < start)]
    seen = behind[: max(look_at, limit + 1)]
    found = [one for one in seen if one in wanted]
    if len(found) > limit:
        return found[:limit], found[limit - 1]
    return found, seen[-1] if len(seen) < len(behind) else None


@given(rows, st.integers(1, 7), st.integers(1, 9), seeds, st.booleans())
def test_leafing_gives_the_sorted_union(
    few: set[tuple[int, str]], limit: int, look_at: int, seed: int, back: bool
) -> None:
    """Where each store looks at few rows only, too: then a page may be short, and says where the next one goes on."""
    chance = random.Random(seed)
    many = {(chance.randrange(40), chance.choice("0011123")) for _ in range(chance.choice([0, 20, 80]))}
    all_rows = few | many  # a library that looks for small examples finds too few that have several pages
    share = chance.random()
    wanted = {as_id(one) for one in sorted(all_rows) if chance.random() < share}
    by_store = {key: [as_id(one) for one in all_rows if one[1] == key] for key in "0123"}
    seen: list[UUID] = []
    start: UUID | None = None
    for _ in range(200):
        parts = [choose(own, start, limit, look_at, wanted, back=back) for own in by_store.values()]
        found, last = merge_chosen(parts, limit, lambda one: one, newest_first=not back)
        assert len(found) <= limit
        assert start is None or last is None or (last > start if back else last < start), "it comes to an end"
        seen += found
        if (start := last) is None:
            break
    assert seen == sorted(wanted, reverse=not back)


def test_a_full_page_goes_on_only_where_there_is_more() -> None:
    one, two, three = (as_id((number, "1")) for number in (1, 2, 3))
    other = at_store(two, "2")
    lists: list[Chosen[UUID]] = [([three, two], None), ([other], None)]
    assert merge_chosen(lists, 3, lambda row: row, newest_first=True) == ([three, other, two], None)
    assert merge_chosen(lists, 2, lambda row: row, newest_first=True) == ([three, other], other)
    assert merge_chosen([([three, two], two), ([one], None)], 2, lambda row: row, newest_first=True) == (
        [three, two],
        two,
    )


@pytest.mark.parametrize("newest_first", [True, False])
def test_a_row_that_two_stores_have_comes_once(newest_first: bool) -> None:
    moved = as_id((5, "1"))
    found, last = merge_chosen([([moved], None), ([moved], None)], 5, lambda row: row, newest_first=newest_first)
    assert (found, last) == ([moved], None)
