"""Steps that several tests of the engine take."""

from __future__ import annotations

from typing import Any, Literal
from uuid import UUID

from headrace.engine import batches, claims, completions, sweeps, workers
from headrace.engine.engine import Engine
from headrace.engine.outcomes import (
    BatchCreated,
    BatchState,
    ClaimedRun,
    Finish,
    ItemError,
    Packet,
    StoredItem,
    WorkerLease,
)
from headrace.engine.sweeps import SweepReport
from headrace.protocol.batches import CreateBatch
from headrace.protocol.options import RunOptions
from headrace.protocol.statuses import RunStatus
from tests.invariants import fetch_sql


async def open_batch(engine: Engine, run_count: int | None = None, **request: Any) -> BatchState:
    """A new batch."""
    answer = await batches.create_batch(engine, 1, CreateBatch(run_count=run_count, **request))
    assert isinstance(answer, BatchCreated), answer
    return answer.batch


def make_items(
    first: int, count: int, *, task: str = "t", key: str | None = None, error: str | None = None
) -> list[StoredItem]:
    """Items with indexes from ``first`` on, alike but for them."""
    options = RunOptions(idempotency_key=key) if key else None
    fault = ItemError(error, "made to fail") if error else None
    return [StoredItem(index, task, Packet(b"1"), options, fault) for index in range(first, first + count)]


async def register(engine: Engine, *tasks: str) -> WorkerLease:
    """A worker's lease in environment dev."""
    known = [workers.TaskRegistration(task, f"task/{task}", 3) for task in tasks or ("t",)]
    return await workers.register_worker(engine, "dev", name="test", tasks=known)


async def enlist(engine: Engine, environment: str = "dev", **said: Any) -> WorkerLease:
    """The lease in the engine's own store of a worker that has one in each store, as all have: what it says counts at home."""
    for one in engine.stores.all():
        if one.key != engine.key:
            await workers.register_worker(one, environment, **({"name": "test"} | said))
    return await workers.register_worker(engine, environment, **({"name": "test"} | said))


async def claim(engine: Engine, lease: WorkerLease, limit: int = 1000, *tasks: str) -> list[ClaimedRun]:
    """What a worker whose lease is good gets."""
    claimed = await claims.claim_runs(engine, lease, tasks=tasks or ("t",), limit=limit)
    assert isinstance(claimed, list), claimed
    return claimed


async def finish(
    engine: Engine,
    lease: WorkerLease,
    claimed: list[ClaimedRun],
    status: Literal["COMPLETED", "FAILED"] = "COMPLETED",
    *,
    retry_in: float | None = None,
) -> set[UUID]:
    """Reports runs as ended; returns the lost ones."""
    error = None if status == "COMPLETED" else {"type": "STRING_ERROR", "raw": "made to fail"}
    ended = [
        Finish(run.id, run.attempt, RunStatus(status), Packet(b"2"), error=error, retry_in=retry_in) for run in claimed
    ]
    return await completions.finish_runs(engine, lease, ended)


async def look(engine: Engine, batch: BatchState) -> BatchState:
    """The batch as it stands."""
    found = await batches.find_batch(engine, 1, batch.id)
    assert found is not None
    return found


async def fetch_everywhere(engine: Engine, sql: str, *args: Any) -> list[Any]:
    """Rows of a statement of a test's own that is carried out in every store: what home decides is there, and copied."""
    return [row for one in engine.stores.all() for row in await fetch_sql(one, sql, *args)]


async def sweep_all(engine: Engine) -> SweepReport:
    """One sweep of every store, home's last, as it hears what the others did. The report is that of the engine's own store."""
    own = [engine if one.key == engine.key else one for one in engine.stores.all()]
    reports = {one.key: await sweeps.sweep_once(one) for one in reversed(own)}
    return reports[engine.key]
