"""Completions: a chunk of ended attempts in one transaction, guarded by worker and attempt.

The runs, their history and the tallies of their batches change in one statement. What is rare (a key to be freed, an
item of another batch that stands for the run) follows in the same transaction, as statements of their own, so that they
see what was committed while the first one waited for a row.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final
from uuid import UUID

import msgspec

from headrace.engine.engine import Engine
from headrace.engine.idempotency import hash_key
from headrace.engine.lanes import LaneFinder, LaneName
from headrace.engine.outcomes import JSON_TYPE, Finish, WorkerLease
from headrace.engine.waits import complete_targets, wake_runs
from headrace.protocol.statuses import KEY_FREEING_STATUSES, TERMINAL_RUN_STATUSES, RunStatus
from headrace.protocol.transitions import check_run_move
from headrace.store.statements import Plan, Record, query

_encode: Final = msgspec.json.Encoder().encode


async def finish_runs(engine: Engine, lease: WorkerLease, finishes: Sequence[Finish]) -> set[UUID]:
    """Writes how attempts ended. Returns the runs for which nothing was written, because this worker lost them.

    ``finishes`` names a run once. Safe to repeat after an error: a run that was written is no longer held. Raises ValueError on
    a status that no attempt ends with.
    """
    if not finishes:
        return set()
    for finish in finishes:
        check_run_move(RunStatus.EXECUTING, finish.status)
    lanes = LaneFinder(lease.environment_id, engine.lanes, version=lease.version or None)
    ordered = sorted(finishes, key=lambda finish: finish.run_id)
    written: set[UUID] = set()
    woken = freed = False
    # Ends lock runs, then batches, then the runs that wait. A transaction that puts runs down locks those, so it must not
    # go on to batches: it would wait for an end that waits for it.
    for part in (
        [f for f in ordered if f.status != RunStatus.WAITING],
        [f for f in ordered if f.status == RunStatus.WAITING],
    ):
        if part:
            some, any_woken, any_freed = await engine.store.run_plan(_finish(lease, part, lanes))
            written |= some
            woken = woken or any_woken
            freed = freed or any_freed
    lanes.keep_lanes()
    engine.notices.runs_done(lease.environment_id)
    if woken or freed:
        engine.notices.runs_ready(lease.environment_id)
    if freed:  # what was free under a limit may be for another store's runs
        for other in engine.stores.all():
            if other.key != engine.key:
                other.notices.runs_ready(lease.environment_id)
    return {finish.run_id for finish in finishes} - written


def settle_ends(environment_id: int, rows: Sequence[Record]) -> Plan[set[UUID]]:
    """Plan: what follows from runs that have just been written as ended: keys freed, aliases settled, waiters made ready.

    ``rows`` are those of ``finish_runs`` and its kin. Returns the runs that waited.
    """
    if not rows:
        return set()
    ended: list[UUID] = list(rows[0]["ended_batches"])
    followed: list[UUID] = list(rows[0]["followed_batches"])
    keyed = [row for row in rows if row["idempotency_key"] is not None and row["status"] in KEY_FREEING_STATUSES]
    if keyed:
        yield from query(
            "free_keys",
            environment_id,
            [row["lane_id"] for row in keyed],
            [hash_key(row["idempotency_key"]) for row in keyed],
            [row["id"] for row in keyed],
        )
    watched = [row for row in rows if row["watched"] and row["status"] in TERMINAL_RUN_STATUSES]
    if watched:
        batches = yield from query(
            "settle_aliases",
            environment_id,
            [row["id"] for row in watched],
            [row["status"] == RunStatus.COMPLETED for row in watched],
        )
        ended += [row["id"] for row in batches if row["ended"]]
        followed += [row["id"] for row in batches if row["followed"]]
    targets = [row["id"] for row in watched] + ended
    if not targets and not followed:
        return set()
    return (yield from complete_targets(environment_id, targets, followed))


def _finish(lease: WorkerLease, finishes: Sequence[Finish], lanes: LaneFinder) -> Plan[tuple[set[UUID], bool, bool]]:
    """Plan: the ends, and what follows from them: which runs were written, whether any waiter became ready, and any slot free."""
    pins: set[LaneName] = {finish.pin for finish in finishes if finish.pin is not None} if lanes.version else set()
    found = (yield from lanes.find_lanes(pins)) if pins else {}
    # A column in which no run says anything is sent as an empty array, which unnest fills up with NULL.
    rows: list[Any] = yield from query(
        "finish_runs",
        lease.environment_id,
        lease.worker_id,
        [finish.run_id for finish in finishes],
        [finish.attempt for finish in finishes],
        [finish.status for finish in finishes],
        [finish.output.data for finish in finishes],
        _sparse([None if finish.output.type == JSON_TYPE else finish.output.type for finish in finishes]),
        _sparse([_encode(finish.error).decode("utf-8") if finish.error else None for finish in finishes]),
        _sparse([finish.retry_in for finish in finishes]),
        _sparse([found.get(finish.pin) if finish.pin else None for finish in finishes]),
    )
    waiters = yield from settle_ends(lease.environment_id, rows)
    written = {row["id"] for row in rows}
    for finish in finishes:
        if finish.seen and finish.run_id in written:
            points, moments = zip(*finish.seen, strict=True)
            yield from query("mark_seen", lease.environment_id, finish.run_id, list(points), list(moments))
    forgotten = [(finish.run_id, name) for finish in finishes if finish.run_id in written for name in finish.forget]
    if forgotten:
        ids, names = zip(*forgotten, strict=True)
        yield from query("forget_points", lease.environment_id, list(ids), list(names))
    put_down = [row["id"] for row in rows if row["status"] == RunStatus.WAITING]
    # a slot of a queue, or the head of an order key, is free for another: its worker may be asleep
    freed = any(row["frees"] for row in rows)
    woken = bool(waiters)
    if put_down:
        resolved = yield from query("find_resolved_waiters", lease.environment_id, put_down)
        yield from wake_runs(lease.environment_id, [row["id"] for row in resolved])
        woken = woken or bool(resolved)
    return written, woken, freed


def _sparse(column: list[Any]) -> list[Any]:
    return column if any(value is not None for value in column) else []
