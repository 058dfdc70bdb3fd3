"""Waits: what ended is told to the runs that wait for it, in the transaction that ends it.

A pending row of the journal says that a run waits for a target. Whoever writes such a row locks the target first and
looks whether it has ended; whoever ends a target looks, in a new statement, who waits. So one of them sees the other.
The waiting run itself is locked whatever its status: a worker that is putting it down at this moment is waited for,
and looks at the journal once more after it wrote that the run waits.

Locks are taken in one order everywhere: what ends, then the runs that wait for it, then their journals.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from uuid import UUID

from headrace.store.statements import Plan, query


def complete_targets(environment_id: int, targets: Sequence[UUID], progressed: Sequence[UUID] = ()) -> Plan[set[UUID]]:
    """Plan: runs, batches or tokens have just ended: who waits for them is ready. Returns those runs, also where they are
    in a worker's memory still and need to be told only.

    ``progressed`` are batches of which some items more have ended. To be run in the transaction that ended the targets,
    after it wrote that.
    """
    locked = yield from query("lock_waiters", environment_id, list(targets), list(progressed))
    rows = yield from query("complete_points", environment_id, list(targets), list(progressed))
    waiters: set[UUID] = {row["run_id"] for row in rows if row["awaited"]}
    # one that had given up the wait, and at this moment asks for it again, was not among those that were locked
    yield from wake_runs(environment_id, waiters, locked={row["id"] for row in locked})
    return waiters


def wake_runs(environment_id: int, runs: Collection[UUID], *, locked: Collection[UUID] = ()) -> Plan[None]:
    """Plan: makes those of ``runs`` ready that were put down; a point of theirs is done."""
    if runs:
        ids = sorted(runs)
        if not all(run_id in locked for run_id in ids):
            yield from query("lock_runs", environment_id, ids)
        yield from query("wake_runs", environment_id, ids)
