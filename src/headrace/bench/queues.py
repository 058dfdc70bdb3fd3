"""Queues: what limits and keys cost a drain, what a claim costs before a backlog, and keyed triggers."""

from __future__ import annotations

import asyncio
import time
from typing import Any, Final

from headrace.bench.database import connected, empty_database
from headrace.bench.ingest import make_body, stream_batch
from headrace.bench.processes import API_KEY, running_server
from headrace.engine.claims import claim_runs
from headrace.engine.completions import finish_runs
from headrace.engine.engine import Engine
from headrace.engine.outcomes import ClaimedRun, Finish, Packet, WorkerLease
from headrace.engine.turns import Turns
from headrace.engine.workers import TaskRegistration, register_worker
from headrace.protocol.statuses import RunStatus
from headrace.sdk import Client
from headrace.settings import Settings

KEYS: Final = 1_000
_LIMIT: Final = 10
_CLAIM_RUNS: Final = 10
_CLAIMS: Final = 300
_WARM_CLAIMS: Final = 20


def measure_claims(database_url: str, backlog: int, *, keyed: bool) -> float:
    """p95, in ms, of claims of ten runs before a backlog of so many: of one lane, or of 1,000 keys with a limit each."""
    _fill(database_url, backlog, keys=KEYS if keyed else None)
    return asyncio.run(_measure_claims(database_url))


def limit_keys(database_url: str, limit: int | None = _LIMIT) -> None:
    """Each concurrency key of the benchmark's queue may have so many runs at once; None takes the limit away."""

    async def write() -> None:
        async with connected(database_url) as connection:
            await connection.execute("DELETE FROM headrace.queues WHERE name = 'task/noop'")
            if limit is not None:
                await connection.execute(
                    "INSERT INTO headrace.queues (environment_id, name, declared_limit, created_at, updated_at)"
                    " SELECT id, 'task/noop', $1, now(), now() FROM headrace.environments WHERE slug = 'dev'",
                    limit,
                )

    asyncio.run(write())


def measure_keyed_triggers(database_url: str, runs: int) -> float:
    """Runs a second, each with an idempotency key of its own, by one call of the client over HTTP."""
    asyncio.run(empty_database(database_url))
    body = make_body(runs, b'"idempotencyKey":"the key of item %d"')
    with running_server(database_url) as (url, _), Client(url, api_key=API_KEY):
        started = time.perf_counter()
        stream_batch(url, runs, body)
        return runs / (time.perf_counter() - started)


def _fill(database_url: str, runs: int, *, keys: int | None) -> None:
    asyncio.run(empty_database(database_url))
    limit_keys(database_url, _LIMIT if keys else None)
    with running_server(database_url) as (url, _):
        stream_batch(url, runs, make_body(runs, keys=keys))
    asyncio.run(_settle(database_url))


async def _settle(database_url: str) -> None:
    """What a million new rows leave behind (a vacuum, a checkpoint) is done first: the claim is what is measured."""
    async with connected(database_url) as connection:
        await connection.execute("VACUUM (ANALYZE) headrace.runs")
        await connection.execute("CHECKPOINT")


async def _measure_claims(database_url: str) -> float:
    engine = await Engine.open(Settings(database_url=database_url, lease=600.0), listen=False)
    try:
        lease = await register_worker(
            engine, "dev", name="bench", tasks=[TaskRegistration("noop", "task/noop", 1)], version=""
        )
        turns, seconds = Turns(), list[float]()
        for turn in range(_WARM_CLAIMS + _CLAIMS):
            started = time.perf_counter()
            claimed = await claim_runs(engine, lease, tasks=["noop"], limit=_CLAIM_RUNS, turns=turns)
            if turn >= _WARM_CLAIMS:
                seconds.append(time.perf_counter() - started)
            if not isinstance(claimed, list) or len(claimed) != _CLAIM_RUNS:
                raise RuntimeError(f"a claim of the benchmark got {claimed}")
            await _finish(engine, lease, claimed)
    finally:
        await engine.close()
    return sorted(seconds)[int(len(seconds) * 0.95)] * 1000


async def _finish(engine: Engine, lease: WorkerLease, claimed: list[ClaimedRun]) -> None:
    ends: Any = [Finish(run.id, run.attempt, RunStatus.COMPLETED, Packet(b"1")) for run in claimed]
    await finish_runs(engine, lease, ends)
