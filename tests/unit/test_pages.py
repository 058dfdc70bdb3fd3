"""Pages of outcomes as a replay is given them: those that followed each other as one, in the order of before."""

from __future__ import annotations

import json
from uuid import UUID

from headrace.engine.outcomes import Packet, Point
from headrace.worker.pages import MOST_INDEXES, PageBook

RUN = UUID(int=1)


def page(number: int, indexes: list[int], seen: int | None, batch: str = "iterate:t") -> Point:
    value = Packet(json.dumps(indexes).encode())
    return Point(
        RUN, f"{batch}/page{number}", "step", pending=False, made=number, seen=seen, succeeded=True, value=value
    )


def step(seen: int) -> Point:
    return Point(RUN, f"step:{seen}", "step", pending=False, made=seen, seen=seen, succeeded=True)


def given(book: PageBook) -> list[tuple[str, int | None, list[int]]]:
    return [(point.name, point.seen, json.loads(point.value.data or b"")) for point in book.points]


def test_pages_that_followed_each_other_are_one() -> None:
    book = PageBook([page(2, [5], 4), page(1, [3, 1], 2), page(3, [0], 9)])
    assert given(book) == [("iterate:t~1", 2, [3, 1, 5, 0])]


def test_what_was_told_in_between_stays_in_between() -> None:
    book = PageBook([page(1, [1], 1), page(2, [2], 2), step(3), page(3, [3], 4), page(4, [4], 5)])
    assert given(book) == [("iterate:t~1", 1, [1, 2]), ("iterate:t~2", 4, [3, 4])]


def test_batches_are_kept_apart() -> None:
    book = PageBook([page(1, [1], 1), page(1, [7], 2, "iterate:u"), page(2, [2], 3)])
    assert given(book) == [("iterate:t~1", 1, [1]), ("iterate:u~1", 2, [7]), ("iterate:t~2", 3, [2])]


def test_waits_for_more_are_not_in_between() -> None:
    more = Point(RUN, "iterate:t/more", "progress", pending=False, made=2, seen=2)
    assert given(PageBook([page(1, [1], 1), more, page(2, [2], 3)])) == [("iterate:t~1", 1, [1, 2])]


def test_a_page_that_was_perhaps_not_given_comes_last_and_by_itself() -> None:
    assert given(PageBook([page(2, [2], None), page(1, [1], 1)])) == [
        ("iterate:t~1", 1, [1]),
        ("iterate:t~2", None, [2]),
    ]


def test_a_merged_page_is_bounded() -> None:
    rows = [page(n, list(range(n * 600, n * 600 + 600)), n) for n in range(1, 5)]
    assert [len(indexes) for _, _, indexes in given(PageBook(rows))] == [600] * 4
    assert MOST_INDEXES < 1200


def test_new_pages_are_stored_behind_those_that_are_there() -> None:
    book = PageBook([page(1, [1], 1), page(2, [2], 2), page(3, [3], None)])
    assert [book.store_name(name) for name in ("iterate:t~2", "iterate:t~3", "iterate:t~3", "iterate:t~4")] == [
        "iterate:t/page3",
        "iterate:t/page4",
        "iterate:t/page4",
        "iterate:t/page5",
    ]
    assert book.store_name("step:a~b") == "step:a~b"
