"""What tests of the control plane's copies ask and do: what a store has of it, workers that register, stores that nobody can reach."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

from headrace.engine import workers
from headrace.engine.engine import Engine
from headrace.engine.outcomes import WorkerLease
from headrace.queues import Queue
from tests.fleet import run_sql, with_name
from tests.invariants import fetch_sql

PATIENCE = 30.0

_STATE = """
SELECT 'environment ' || id AS what, (to_jsonb(e) - 'created_at')::text AS said FROM headrace.environments AS e
UNION ALL
SELECT format('queue %s %s', environment_id, name), (to_jsonb(q) - '{id,created_at}'::text[])::text FROM headrace.queues AS q
UNION ALL
SELECT format('task %s %s', environment_id, id), (to_jsonb(t) - 'registered_at')::text FROM headrace.tasks AS t
UNION ALL
SELECT format('version %s %s', environment_id, version), jsonb_build_object('promoted_at', promoted_at, 'tasks', ARRAY(
    SELECT s.task FROM headrace.version_tasks AS s WHERE s.version_id = v.id ORDER BY s.task
))::text FROM headrace.versions AS v
"""


async def read_control(engine: Engine) -> dict[str, str]:
    """What a store's own rows say, by what they say it of."""
    return {row["what"]: row["said"] for row in await fetch_sql(engine, _STATE)}


async def assert_agree(fleet: list[Engine]) -> dict[str, str]:
    """All stores have the same control plane, which is returned."""
    home, *others = [await read_control(one) for one in fleet]
    for one in others:
        assert one == home
    return home


async def read_one(engine: Engine, sql: str, *args: Any) -> Any:
    """The only value of a statement."""
    [row] = await fetch_sql(engine, sql, *args)
    return row[0]


@asynccontextmanager
async def away(*engines: Engine) -> AsyncGenerator[None]:
    """Nobody can connect to these stores, and whoever was is thrown out."""
    places = [
        (one.settings.database_url, one.settings.database_url.partition("?")[0].rsplit("/", 1)[1]) for one in engines
    ]
    for url, name in places:
        keeper = with_name(url, "postgres")
        await run_sql(keeper, f"ALTER DATABASE {name} ALLOW_CONNECTIONS false")
        await run_sql(keeper, f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = '{name}'")
    try:
        yield
    finally:
        for url, name in places:
            await run_sql(with_name(url, "postgres"), f"ALTER DATABASE {name} ALLOW_CONNECTIONS true")


async def register(
    engine: Engine, *tasks: str, version: str = "", queue: Queue | None = None, name: str | None = None
) -> WorkerLease:
    known = [
        workers.TaskRegistration(task, queue.name if queue and queue.name else f"task/{task}", 3, limits=queue)
        for task in tasks or ("t",)
    ]
    return await workers.register_worker(engine, "dev", name=name or "test", tasks=known, version=version)


async def until(true: Callable[[], Awaitable[bool]]) -> None:
    async with asyncio.timeout(PATIENCE):
        while not await true():
            await asyncio.sleep(0.01)


async def agree(fleet: list[Engine]) -> bool:
    home, *others = [await read_control(one) for one in fleet]
    return all(one == home for one in others)
