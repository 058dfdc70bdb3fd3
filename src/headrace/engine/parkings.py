"""Parking: what keeps a tree that is to move, and in which some run executes at any time, from being busy for ever.

A tree moves at rest: when none of its runs executes. Where some do, and nothing else holds it up, it is marked (``parkings``), and
what is queued of it is parked: QUEUED, and ready at no time, so that no claim meets it and none is slower for it. What becomes
ready under the mark is parked by the statement that makes it so: a child, an item, a run that is woken, tried again, rescued or
given back. What executes goes on until it waits or ends; then the tree is at rest, and its runs are ready where they land.

The mark is for a while. Code may execute until something ends that is parked, and that can't be seen here; so a tree that did not
come to rest is let go, left alone for as long as it was parked, and parked again for twice as long. No clock decides more than
that. Whoever marks a tree may die: what takes marks back is the sweep that tries to move it. And a run is never parked for
longer than its mark is there, whoever came when: a statement that had seen a mark which is gone parks runs that belong to no
mark, and these are let go by the sweep, which looks for nothing else.
"""

from __future__ import annotations

from typing import Final
from uuid import UUID

from headrace.engine.engine import Engine
from headrace.store.statements import Plan, query

FIRST_SECONDS: Final = 60.0
"""For so long a tree is parked the first time, and twice as long each time after."""

MOST_SECONDS: Final = 3600.0
"""And never for longer than that. A run that is to start within that time is not parked, so none expires by it."""

_CHUNK: Final = 1000
_FIRST_PLACE: Final = (-1, UUID(int=0))


async def park_tree(engine: Engine, move_id: UUID) -> int:
    """No run of a tree that is to move is started any more, for a while; how many were parked now.

    Nothing where it was parked not long ago. To be repeated: what was being written while it was done may have missed it.
    """
    return await engine.store.run_plan(_park(move_id))


async def let_tree_go(engine: Engine, move_id: UUID) -> bool:
    """Runs of a tree that could not leave are started again. Whether it was parked; ``release_runs`` lets its runs go."""
    return bool(await engine.store.fetch("let_tree_go", move_id, FIRST_SECONDS, MOST_SECONDS))


async def release_runs(engine: Engine) -> int:
    """Lets all runs go that are parked without a mark; how many."""
    place, count = _FIRST_PLACE, 0
    environments: set[int] = set()
    while True:
        [row] = await engine.store.fetch("release_runs", *place, _CHUNK)
        count += row["released"]
        environments.update(row["environments"])
        if row["looked"] < _CHUNK:
            break
        place = (row["environment_id"], row["id"])
    for environment_id in environments:
        engine.notices.runs_ready(environment_id)
    return count


def _park(move_id: UUID) -> Plan[int]:
    if not (yield from query("hold_move", move_id)):
        return 0  # somebody else is at it
    yield from query("park_tree", move_id, FIRST_SECONDS, MOST_SECONDS)
    return len((yield from query("park_runs", move_id, MOST_SECONDS)))
