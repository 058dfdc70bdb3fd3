"""Runs that wait for a batch, made by hand, as a worker leaves them behind."""

from __future__ import annotations

from uuid import UUID

from headrace.engine.engine import Engine
from headrace.engine.outcomes import BatchState
from headrace.ids import mint_run_id
from tests.invariants import fetch_sql


async def make_batch_waiter(engine: Engine, batch: BatchState) -> UUID:
    """A run that was put down until the batch has ended, and that cancels it when it is canceled itself."""
    run_id = mint_run_id()
    [lane] = await fetch_sql(
        engine,
        "INSERT INTO headrace.lanes (environment_id, task, queue) VALUES (1, 'waiter', 'waiters')"
        " ON CONFLICT (environment_id, task, queue, batch_id, version, kind, locked) DO UPDATE SET queue = 'waiters' RETURNING id",
    )
    await fetch_sql(
        engine,
        "INSERT INTO headrace.runs (environment_id, lane_id, id, status, attempt, ready_at, created_at, updated_at)"
        " VALUES (1, $1, $2, 'WAITING', 1, now(), now(), now())",
        lane["id"],
        run_id,
    )
    await fetch_sql(engine, "UPDATE headrace.batches SET watched = true WHERE id = $1", batch.id)
    await fetch_sql(
        engine,
        "INSERT INTO headrace.journal (environment_id, run_id, point, kind, pending, made, target, created_at)"
        " VALUES (1, $1, 'batch', 'batch', true, 1, $2, now())",
        run_id,
        batch.id,
    )
    return run_id


async def read_waiter(engine: Engine, run_id: UUID) -> tuple[str, int]:
    """A run's status, and how often it was resumed."""
    [row] = await fetch_sql(engine, "SELECT status, resumes FROM headrace.runs WHERE id = $1", run_id)
    return row["status"], row["resumes"]
