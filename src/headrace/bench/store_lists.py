"""Lists over several stores: what a page costs where four have a million runs between them.

    python -m headrace.bench.store_lists [RUNS]

Four databases on one embedded PostgreSQL: what is measured is asking and merging, not the machines.
"""

from __future__ import annotations

import asyncio
import random
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Final
from uuid import UUID

import msgspec

from headrace.bench.database import connected
from headrace.engine.engine import Engine
from headrace.engine.listings import list_runs
from headrace.engine.outcomes import RunFilter
from headrace.engine.registry import add_store
from headrace.ids import STORE_KEYS, first_id_at
from headrace.protocol.statuses import RunStatus
from headrace.settings import Settings
from headrace.store.embedded import EmbeddedPostgres
from headrace.store.migrate import migrate_database

STORES: Final = 4
RUNS: Final = 1_000_000
_PAGES: Final = 300
_WARM_PAGES: Final = 20
_PAGE: Final = 100
_FAILED: Final = RunFilter(statuses=frozenset({RunStatus.FAILED}))

_FILL: Final = """
WITH lane AS (
    INSERT INTO headrace.lanes (environment_id, task, queue) VALUES (1, 'noop', 'task/noop') RETURNING id
)
INSERT INTO headrace.runs (environment_id, lane_id, id, status, payload, ready_at, created_at, updated_at, finished_at)
SELECT 1, lane.id, encode(
        substring(int8send((extract(epoch FROM m.at) * 1000)::bigint) FROM 3) || int8send(n::bigint) || '\\x00'
        || set_byte('\\x00'::bytea, 0, $3::integer), 'hex'
    )::uuid,
    CASE WHEN n % 100 = 0 THEN 'FAILED'::headrace.run_status ELSE 'COMPLETED'::headrace.run_status END, '{"n": 1}', m.at, m.at, m.at, m.at
FROM lane, generate_series(1, $1::integer) AS n
CROSS JOIN LATERAL (SELECT now() - interval '1 millisecond' * (n * 4 + $2::integer) AS at) AS m
"""


class ListFigures(msgspec.Struct, frozen=True):
    """p95 in ms of a page of 100 runs, anywhere in the list, and of one that failed; beside it one store with all of them."""

    list_p95_4_stores_ms: float
    list_failed_p95_4_stores_ms: float
    list_p95_1_store_ms: float


def list_p95_4_stores(server_url: str, runs: int = RUNS) -> ListFigures:
    """Measures on a server where databases may be made."""
    return asyncio.run(_measure(server_url, runs))


async def _measure(server_url: str, runs: int) -> ListFigures:
    alone = await _make_database(server_url, "alone")
    await _fill(alone, runs, 0)
    urls = [await _make_database(server_url, f"store_{number}") for number in range(STORES)]
    await _fill(urls[0], runs // STORES, 0)
    one = await _time_pages(alone, [], RunFilter())
    others = urls[1:]
    four = await _time_pages(urls[0], others, RunFilter(), fill=runs // STORES)
    failed = await _time_pages(urls[0], others, _FAILED)
    return ListFigures(list_p95_4_stores_ms=four, list_failed_p95_4_stores_ms=failed, list_p95_1_store_ms=one)


async def _make_database(server_url: str, name: str) -> str:
    async with connected(server_url) as connection:
        await connection.execute(f"CREATE DATABASE {name}")
    head, _, rest = server_url.partition("?")
    url = f"{head.rsplit('/', 1)[0]}/{name}" + (f"?{rest}" if rest else "")
    await migrate_database(url)
    return url


async def _fill(url: str, runs: int, number: int) -> None:
    async with connected(url) as connection:
        await connection.execute(_FILL, runs, number, number)
        await connection.execute("VACUUM (ANALYZE) headrace.runs")
        await connection.execute("CHECKPOINT")


async def _time_pages(home_url: str, others: Sequence[str], wanted: RunFilter, *, fill: int = 0) -> float:
    """p95, in ms, of pages that begin at any run."""
    engine = await Engine.open(Settings(database_url=home_url), listen=False)
    try:
        for number, url in enumerate(others, 1):
            await add_store(engine, f"s{number}", url)
            if fill:  # a store is empty when it is added
                await _fill(url, fill, STORE_KEYS.index(str(number)))
        async with connected(home_url) as connection:
            [ends] = await connection.fetch(
                "SELECT min(created_at) AS first, max(created_at) AS last FROM headrace.runs"
            )
        chance, seconds = random.Random(1), list[float]()  # noqa: S311 - which pages are looked at
        for turn in range(_WARM_PAGES + _PAGES):
            moment = ends["first"] + (ends["last"] - ends["first"]) * (0.05 + 0.95 * chance.random())
            after: UUID = first_id_at(moment)
            started = time.perf_counter()
            page = await list_runs(engine, 1, wanted, after=after, limit=_PAGE)
            if turn >= _WARM_PAGES:
                seconds.append(time.perf_counter() - started)
            if len(page.runs) != _PAGE and wanted == RunFilter():
                raise RuntimeError(f"a page of the benchmark has {len(page.runs)} runs")
    finally:
        await engine.close()
    return sorted(seconds)[int(len(seconds) * 0.95)] * 1000


def main() -> None:
    """Prints the figures as JSON."""
    runs = int(sys.argv[1]) if len(sys.argv) > 1 else RUNS
    with tempfile.TemporaryDirectory(prefix="hr-bench-", ignore_cleanup_errors=True) as folder:
        server = EmbeddedPostgres(Path(folder))
        try:
            sys.stdout.write(msgspec.json.encode(list_p95_4_stores(server.start(), runs)).decode("utf-8") + "\n")
        finally:
            server.stop()


if __name__ == "__main__":
    main()
