"""What a worker holds by the database's account, for one that is no longer sure: the answer to a claim can get lost."""

from __future__ import annotations

from uuid import UUID

from headrace.engine.engine import Engine
from headrace.engine.outcomes import WorkerLease


async def list_held_runs(engine: Engine, lease: WorkerLease, *, limit: int = 10_000) -> list[tuple[UUID, int]]:
    """The runs that this worker holds, (id, attempt), in order of id."""
    rows = await engine.store.fetch("find_held_runs", lease.worker_id, limit)
    return [(row["id"], row["attempt"]) for row in rows]
