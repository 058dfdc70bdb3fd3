"""What tests of the control plane's copies ask: what a store has of it, and a store that nobody can reach."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Any

from headrace.engine.engine import Engine
from tests.fleet import run_sql, with_name
from tests.invariants import fetch_sql

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
