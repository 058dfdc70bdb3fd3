"""Claims: a chunk of ready runs, in one statement, for a worker whose lease is not over."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any
from uuid import UUID

from headrace.engine.engine import Engine
from headrace.engine.journals import read_journals
from headrace.engine.outcomes import JSON_TYPE, ClaimedRun, LeaseLost, Point, WorkerLease
from headrace.engine.rows import read_json


async def claim_runs(
    engine: Engine, lease: WorkerLease, *, tasks: Sequence[str], limit: int, queues: Sequence[str] | None = None
) -> list[ClaimedRun] | LeaseLost:
    """Claims at most ``limit`` ready runs of ``tasks`` (and only on ``queues``, where given), and renews the lease.

    Queues share alike: each with something ready gives an equal part of the chunk, the oldest of its runs first.
    """
    rows = await engine.store.fetch(
        "claim_runs",
        lease.environment_id,
        lease.worker_id,
        list(tasks),
        list(queues) if queues is not None else None,
        limit,
        engine.settings.lease,
        lease.version or None,
    )
    if not rows:
        return LeaseLost()
    rows = [row for row in rows if row["id"] is not None]
    # a first claim has no journal; any other may have one, and most have none
    again = [row["id"] for row in rows if row["attempt"] > 1]
    journals = await read_journals(engine, lease.environment_id, again) if again else {}
    return [_read_claim(row, tuple(journals.get(row["id"], ()))) for row in rows]


async def give_back_runs(engine: Engine, lease: WorkerLease, runs: Sequence[tuple[UUID, int]]) -> int:
    """Gives back claimed runs, (id, attempt), that were never started, as if they had not been claimed."""
    rows = await engine.store.fetch(
        "give_back_runs",
        lease.environment_id,
        lease.worker_id,
        [run_id for run_id, _ in runs],
        [attempt for _, attempt in runs],
    )
    if rows:
        engine.notices.runs_ready(lease.environment_id)
    return len(rows)


def _read_claim(row: Any, journal: tuple[Point, ...]) -> ClaimedRun:
    options: dict[str, Any] = read_json(row["options"]) or {}
    return ClaimedRun(
        id=row["id"],
        task=row["task"],
        queue=row["queue"],
        attempt=row["attempt"],
        failures=row["failures"],
        max_attempts=options.get("maxAttempts"),
        payload=row["payload"],
        payload_type=row["payload_type"] or JSON_TYPE,
        batch_id=row["batch_id"],
        batch_index=row["batch_index"],
        tags=options.get("tags") or [],
        options=options,
        created_at=row["created_at"],
        traceparent=row["traceparent"],
        parent_run_id=row["parent_run_id"],
        root_run_id=row["root_run_id"],
        depth=row["depth"],
        resumes=row["resumes"],
        metadata=read_json(row["metadata"]),
        journal=journal,
    )
