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
from headrace.engine.outcomes import JSON_TYPE, Finish, WorkerLease
from headrace.protocol.statuses import KEY_FREEING_STATUSES, TERMINAL_RUN_STATUSES, RunStatus
from headrace.store.statements import Plan, Record, query

_encode: Final = msgspec.json.Encoder().encode


async def finish_runs(engine: Engine, lease: WorkerLease, finishes: Sequence[Finish]) -> set[UUID]:
    """Writes how attempts ended. Returns the runs for which nothing was written, because this worker lost them.

    ``finishes`` names a run once. Safe to repeat after an error: a run that was written is no longer held.
    """
    if not finishes:
        return set()
    written = await engine.store.run_plan(_finish(lease, sorted(finishes, key=lambda finish: finish.run_id)))
    engine.notices.runs_done(lease.environment_id)
    return {finish.run_id for finish in finishes} - written


def settle_ends(environment_id: int, rows: Sequence[Record]) -> Plan[None]:
    """Plan: what follows from runs that have just been written as ended: keys freed, aliases settled."""
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
        yield from query(
            "settle_aliases",
            environment_id,
            [row["id"] for row in watched],
            [row["status"] == RunStatus.COMPLETED for row in watched],
        )


def _finish(lease: WorkerLease, finishes: Sequence[Finish]) -> Plan[set[UUID]]:
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
    )
    yield from settle_ends(lease.environment_id, rows)
    return {row["id"] for row in rows}


def _sparse(column: list[Any]) -> list[Any]:
    return column if any(value is not None for value in column) else []
