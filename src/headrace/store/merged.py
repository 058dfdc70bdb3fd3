"""Pages of one list that several stores keep together: merged by the id, which is the order in each of them.

An id is in one store, says which, and sorts by bytes everywhere, so there are no equal ones to put in order: where two were
minted in the same millisecond the bytes behind the time decide, and the store's is the last of them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import groupby
from typing import TypeVar
from uuid import UUID

R = TypeVar("R")

Chosen = tuple[list[R], UUID | None]
"""Rows in the order in which they were come to, and the id behind which there may be more (None: these were the last)."""


def merge_chosen(
    parts: Sequence[Chosen[R]], limit: int, find_id: Callable[[R], UUID], *, newest_first: bool
) -> Chosen[R]:
    """The first ``limit`` of what the stores chose, and where the next page goes on.

    What lies behind the place at which a store stopped is left for the next page: between there and what another store has
    found, it may have some too.
    """
    if len(parts) == 1:
        return parts[0]
    rows = sorted((row for rows, _ in parts for row in rows), key=find_id, reverse=newest_first)
    rows = [next(same) for _, same in groupby(rows, find_id)]  # a tree that is being moved may be in two stores
    stops = [last for _, last in parts if last is not None]
    stop = (max(stops) if newest_first else min(stops)) if stops else None
    if stop is not None:
        rows = [row for row in rows if (find_id(row) >= stop if newest_first else find_id(row) <= stop)]
    return (rows[:limit], find_id(rows[limit - 1])) if len(rows) > limit else (rows, stop)
