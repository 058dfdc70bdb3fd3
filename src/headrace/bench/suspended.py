"""What suspended runs cost: memory of a worker that is started beside them, and queries while nothing happens."""

from __future__ import annotations

import asyncio
import time
from contextlib import ExitStack
from typing import Any, Final, NamedTuple
from uuid import UUID

import asyncpg

from headrace.bench.database import await_true, connected, empty_database
from headrace.bench.noop_tasks import wait_for_long, wait_for_token
from headrace.bench.processes import API_KEY, read_rss, running_server, running_worker
from headrace.ids import format_token_id
from headrace.sdk import Client

_REAL_RUNS: Final = 500
"""Put down by a worker, half at a token and half at a time; the others are copies of their rows, under ids of their own."""

_SETTLE_SECONDS: Final = 5.0
_LOOK_SECONDS: Final = 0.005
_LAST_QUERIES: Final = (
    "SELECT pid, query_start FROM pg_stat_activity WHERE datname = current_database()"
    " AND backend_type = 'client backend' AND pid <> pg_backend_pid() AND query_start IS NOT NULL"
)
_COPY_ID: Final = "overlay({0}::text PLACING substr(md5({0}::text || n.copy), 1, 10) FROM 25)::uuid"
"""Of the same moment, and, in the last byte, of the same store."""

_COPIED: Final = {
    "runs": ("id", "root_run_id"),
    "tokens": ("id", "run_id"),
    "journal": ("run_id", "target"),
}
"""Tables, and their columns that are ids of runs or tokens."""


class SuspendedFigures(NamedTuple):
    """What suspended runs cost at rest.

    MiB of a worker, on an empty database and beside suspended runs; and queries a second that the database then sees of
    the worker, its sweeps among them, and of a server and the worker together.
    """

    idle_rss: float
    rss: float
    worker_queries: float
    all_queries: float


def measure_suspended(database_url: str, runs: int, *, seconds: float) -> SuspendedFigures:
    """With ``runs`` suspended runs, over ``seconds`` of rest a figure. Raises where they do not go on after it."""
    asyncio.run(empty_database(database_url))
    with running_server(database_url):  # the key
        pass
    with running_worker(database_url, 100) as worker:
        asyncio.run(_await_worker(database_url))
        time.sleep(_SETTLE_SECONDS)
        idle_rss = read_rss(worker.pid)
    _suspend(database_url, runs)
    with ExitStack() as stack:
        worker = stack.enter_context(running_worker(database_url, 100))
        asyncio.run(_await_worker(database_url))
        of_worker = asyncio.run(_count_queries(database_url, seconds))
        rss = read_rss(worker.pid)
        url, _ = stack.enter_context(running_server(database_url))
        of_all = asyncio.run(_count_queries(database_url, seconds))
        client = stack.enter_context(Client(url, api_key=API_KEY))
        _resume_one(database_url, client)
    return SuspendedFigures(idle_rss, rss, of_worker, of_all)


def _suspend(database_url: str, runs: int) -> None:
    real = min(runs, _REAL_RUNS)
    with ExitStack() as stack:
        url, _ = stack.enter_context(running_server(database_url))
        stack.enter_context(running_worker(database_url, 100, {"HEADRACE_WAIT_LINGER": "0"}))
        client = stack.enter_context(Client(url, api_key=API_KEY))
        client.batch_trigger(wait_for_token, range(real // 2))
        client.batch_trigger(wait_for_long, range(real - real // 2))
        asyncio.run(_await_suspended(database_url, real))
    asyncio.run(_copy_runs(database_url, real, runs // real - 1))


async def _await_suspended(database_url: str, runs: int) -> None:
    async with connected(database_url) as connection:
        await await_true(connection, f"count(*) = {runs} FROM headrace.runs WHERE status = 'WAITING'")


async def _copy_runs(database_url: str, real: int, copies: int) -> None:
    """Each of ``real`` suspended runs, ``copies`` times more: its row, its journal and its token, as they are."""
    async with connected(database_url) as connection:
        # items of a batch are found by ids that follow from the batch's: the copies are runs by themselves
        await connection.execute("UPDATE headrace.runs SET batch_id = NULL, batch_index = NULL")
        await connection.execute("TRUNCATE headrace.batches")
        async with connection.transaction():
            for table, ids in _COPIED.items():
                names = await _list_columns(connection, table)
                values = [_COPY_ID.format(f"s.{name}") if name in ids else f"s.{name}" for name in names]
                await connection.execute(
                    f"INSERT INTO headrace.{table} ({', '.join(names)})"  # noqa: S608 - names of our own tables and columns
                    f" SELECT {', '.join(values)} FROM headrace.{table} AS s, generate_series(1, {copies}) AS n (copy)"
                )
        await connection.execute("VACUUM ANALYZE")
        there = await connection.fetchval("SELECT count(*) FROM headrace.runs WHERE status = 'WAITING'")
        if there != real * (copies + 1):
            raise RuntimeError(f"{there} runs are suspended, not {real * (copies + 1)}")


async def _list_columns(connection: asyncpg.Connection[Any], table: str) -> list[str]:
    rows = await connection.fetch(
        "SELECT attname FROM pg_attribute WHERE attrelid = $1::regclass AND attnum > 0 AND NOT attisdropped"
        " AND attgenerated = '' ORDER BY attnum",
        f"headrace.{table}",
    )
    return [row["attname"] for row in rows]


async def _await_worker(database_url: str) -> None:
    async with connected(database_url) as connection:
        await await_true(connection, "EXISTS (SELECT FROM headrace.workers WHERE ended_at IS NULL)")


async def _count_queries(database_url: str, seconds: float) -> float:
    """Queries a second that clients send, seen in what each of their connections did last.

    Not the database's count of transactions: autovacuum's are among those, as many as these. What one connection sends
    within a few milliseconds (the statements of one transaction) may count as one.
    """
    async with connected(database_url) as connection:
        await asyncio.sleep(_SETTLE_SECONDS)
        before = {*await connection.fetch(_LAST_QUERIES)}
        seen = before.copy()
        started = time.monotonic()
        while (elapsed := time.monotonic() - started) < seconds:
            await asyncio.sleep(_LOOK_SECONDS)
            seen.update(await connection.fetch(_LAST_QUERIES))
        return len(seen - before) / elapsed


def _resume_one(database_url: str, client: Client) -> None:
    """A suspended run among all of them goes on, or this raises."""
    run_id, token_id = asyncio.run(_find_token(database_url))
    client.complete_token(token_id)
    asyncio.run(_await_end(database_url, run_id))


async def _find_token(database_url: str) -> tuple[UUID, str]:
    """A run, one of the copies, and the token that it waits for."""
    async with connected(database_url) as connection:
        row = await connection.fetchrow(
            "SELECT j.run_id, j.target FROM headrace.journal AS j JOIN headrace.runs AS r ON r.id = j.run_id"
            " WHERE j.kind = 'token' AND j.pending AND r.status = 'WAITING' ORDER BY r.ctid DESC LIMIT 1"
        )
    if row is None:
        raise RuntimeError("no suspended run waits for a token")
    return row["run_id"], format_token_id(row["target"])


async def _await_end(database_url: str, run_id: UUID) -> None:
    async with connected(database_url) as connection:
        await await_true(connection, f"status = 'COMPLETED' FROM headrace.runs WHERE id = '{run_id}'")
