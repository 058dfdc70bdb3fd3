"""Claims: a chunk of ready runs for a worker whose lease is not over."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any
from uuid import UUID

from headrace.engine.dev_sessions import note_claims
from headrace.engine.engine import Engine
from headrace.engine.journals import read_journals
from headrace.engine.outcomes import JSON_TYPE, ClaimedRun, LeaseLost, Point, WorkerLease
from headrace.engine.rows import read_json
from headrace.engine.shared_limits import claim_over_stores
from headrace.engine.turns import Turns
from headrace.store.statements import Plan, Record, query


async def claim_runs(
    engine: Engine,
    lease: WorkerLease,
    *,
    tasks: Sequence[str],
    limit: int,
    queues: Sequence[str] | None = None,
    turns: Turns | None = None,
) -> list[ClaimedRun] | LeaseLost:
    """Claims at most ``limit`` ready runs of ``tasks`` (and only on ``queues``, where given), and renews the lease.

    Lanes share alike: each with something ready gives an equal part of the chunk, the oldest of its runs first. So do the
    keys of a lane whose runs have concurrency keys. ``turns`` is what the caller keeps from claim to claim. Runs without
    keys on queues without limits, which is most of them, cost one statement.
    """
    turns = turns or Turns()
    turns.wake_in = None
    wanted = [list(tasks), list(queues) if queues is not None else None]
    rows: list[Any] = []
    limited_first = turns.limited and turns.toggle()
    if limited_first:
        rows += await _claim_limited(engine, lease, wanted, limit, turns)
    if len(rows) < limit:
        plain = await _claim_plain(
            engine,
            lease.environment_id,
            lease.worker_id,
            *wanted,
            limit - len(rows),
            engine.settings.lease,
            lease.version or None,
        )
        if not plain and not rows:
            return LeaseLost()
        turns.limited = bool(plain) and plain[0]["any_limited"]
        rows += [row for row in plain if row["id"] is not None]
    if turns.limited and not limited_first and len(rows) < limit:
        rows += await _claim_limited(engine, lease, wanted, limit - len(rows), turns)
    # a first claim has no journal; any other may have one, and most have none
    again = [row["id"] for row in rows if row["attempt"] > 1]
    journals = await read_journals(engine, lease.environment_id, again) if again else {}
    return [_read_claim(row, tuple(journals.get(row["id"], ()))) for row in rows]


async def _claim_plain(engine: Engine, environment_id: int, *arguments: Any) -> list[Any]:
    if engine.settings.dev_session:
        claim = query("claim_runs", environment_id, *arguments)
        return await engine.store.run_plan(note_claims(engine.settings, environment_id, claim))
    return await engine.store.fetch("claim_runs", environment_id, *arguments)


async def _claim_limited(engine: Engine, lease: WorkerLease, wanted: list[Any], limit: int, turns: Turns) -> list[Any]:
    turns.begin_round()
    while True:
        if engine.stores.others():
            rows = await claim_over_stores(
                engine,
                lease.environment_id,
                wanted[0],
                limit,
                turns,
                partial(_limited_claim, engine, lease, wanted, limit, turns),
            )
        else:
            rows = await engine.store.run_plan(_held_claim(engine, lease, wanted, limit, turns))
        if not rows:  # the lease is over: the statement after this one says so, or the next claim
            return []
        if not turns.note_claim(rows, limit):
            return [row for row in rows if row["id"] is not None]


def _held_claim(engine: Engine, lease: WorkerLease, wanted: list[Any], limit: int, turns: Turns) -> Plan[list[Record]]:
    """Plan: a claim from lanes with keys or limits, by whoever holds the limits: they are counted after that."""
    yield from query("lock_limits", lease.environment_id, wanted[0], engine.settings.lease)
    return (yield from _limited_claim(engine, lease, wanted, limit, turns, None))


def _limited_claim(
    engine: Engine, lease: WorkerLease, wanted: list[Any], limit: int, turns: Turns, used_elsewhere: str | None
) -> Plan[list[Record]]:
    """Plan: the claim itself, in a transaction that holds the limits."""
    claim = query(
        "claim_limited_runs",
        lease.environment_id,
        lease.worker_id,
        *wanted,
        limit,
        engine.settings.lease,
        lease.version or None,
        turns.lanes,
        turns.keys,
        turns.find_walk(limit),
        used_elsewhere,
    )
    if engine.settings.dev_session:
        claim = note_claims(engine.settings, lease.environment_id, claim)
    return (yield from claim)


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
        kind=row["kind"],
        locked=row["locked"],
        keeps_slot=row["keeps_slot"],
    )
