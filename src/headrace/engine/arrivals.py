"""The second half of a move: the rows of a tree that has left one store are written to the other, once. See ``moves``."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Final
from uuid import UUID

from headrace.store.statements import Plan, query
from headrace.store.store import run_plan_on

if TYPE_CHECKING:
    from headrace.engine.engine import Engine

_CHUNK: Final = 1000

_LANDED: Final = {
    "run": "land_runs",
    "batch": "land_batches",
    "token": "land_tokens",
    "point": "land_journal",
    "attempt": "land_attempts",
    "alias": "land_batch_aliases",
    "dev": "land_dev_claims",
    "mirror": "land_mirrors",
    "forward": "land_forwards",
}
"""The statement that writes the rows of each kind."""


async def end_move(source: Engine, move_id: UUID) -> None:
    """Writes a tree that has left ``source`` to the store that it goes to, unless that was done, and forgets it here.

    Anybody may call it, any number of times and at once. What was killed anywhere on the way is begun anew by the next.
    """
    rows = await source.store.fetch("find_move", move_id)
    if not rows or not rows[0]["cut"]:
        return
    target = source.stores.named(rows[0]["store"])
    async with target.store.connect() as connection, connection.transaction():
        # Who comes second waits here for the first, and finds it done. The rows to write don't change, and reading them
        # locks nothing, so this transaction may stay open while it is done.
        if await run_plan_on(connection, query("begin_arrival", move_id)):
            place = 0
            while rows_left := await source.store.fetch("read_departures", move_id, place, _CHUNK):
                await run_plan_on(connection, _land(rows_left))
                place = rows_left[-1]["place"]
    environment_id: int = rows[0]["environment_id"]
    target.notices.runs_ready(environment_id)
    target.notices.runs_done(environment_id)
    await source.store.fetch("end_move", move_id)
    # whoever still comes with it finds nothing to write: what it says here has served
    await target.store.fetch("forget_arrival", move_id)


def _land(rows: Sequence[Any]) -> Plan[None]:
    by_kind: defaultdict[str, list[str]] = defaultdict(list)
    for row in rows:
        by_kind[row["kind"]].append(row["content"])
    if runs := by_kind.get("run"):
        yield from query("land_lanes", runs)
    for kind, contents in by_kind.items():
        yield from query(_LANDED[kind], contents)
