"""Packing of items by size: nothing lost, nothing cut, nothing moved."""

from __future__ import annotations

import doctest
from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from headrace import pack, packing

SIZES = st.lists(st.integers(min_value=0, max_value=50), max_size=60)
MOST = st.integers(min_value=0, max_value=80)


def pack_sizes(sizes: list[int], most: int) -> list[list[tuple[int, int]]]:
    """Packs of (index, size), so that equal items can be told apart."""
    return pack(enumerate(sizes), size_of=lambda item: item[1], most=most)


def weigh(items: list[tuple[int, int]]) -> int:
    return sum(size for _, size in items)


def test_the_example_in_the_docstring() -> None:
    assert doctest.testmod(packing) == (0, 1)


@given(SIZES, MOST)
def test_every_item_is_packed_once_and_in_order(sizes: list[int], most: int) -> None:
    packs = pack_sizes(sizes, most)
    assert [item for one in packs for item in one] == list(enumerate(sizes))
    assert all(packs), "no pack is empty"


@given(SIZES, MOST)
def test_a_pack_is_within_the_budget_or_a_single_item(sizes: list[int], most: int) -> None:
    for one in pack_sizes(sizes, most):
        assert weigh(one) <= most or len(one) == 1


@given(SIZES, MOST)
def test_a_pack_is_closed_only_where_the_next_item_did_not_fit(sizes: list[int], most: int) -> None:
    for one, following in pairwise(pack_sizes(sizes, most)):
        assert weigh(one) + following[0][1] > most


def test_nothing_makes_no_pack() -> None:
    assert pack([], size_of=len, most=10) == []


def test_an_iterator_is_read_once_and_sizes_are_asked_for_once() -> None:
    asked: list[str] = []

    def size_of(item: str) -> int:
        asked.append(item)
        return len(item)

    assert pack(iter(["aaa", "bb", "c"]), size_of=size_of, most=3) == [["aaa"], ["bb", "c"]]
    assert asked == ["aaa", "bb", "c"]
