"""This machine's own limit: plain inserts of the same rows into a table of the same shape and with the same indexes.

No ON CONFLICT, no counts, no codec, one connection: what any way of storing a run can reach at most.
"""

from __future__ import annotations

import time
from typing import Any, Final

import asyncpg

from headrace.ids import item_run_id, mint_batch_id

_ROWS: Final = 100_000
_UNNEST_CHUNK: Final = 1_000
_COPY_CHUNK: Final = 10_000
_PAYLOAD: Final = b'{"n": 12345}'
_MAKE: Final = """
DROP TABLE IF EXISTS public.headrace_bench_runs;
CREATE TABLE public.headrace_bench_runs (LIKE headrace.runs INCLUDING ALL)
"""
_INSERT: Final = """
INSERT INTO public.headrace_bench_runs (
    environment_id, lane_id, id, batch_id, batch_index, status, ready_at, created_at, updated_at, payload
)
SELECT 1, 1, headrace.item_run_id($1::uuid, i.index), $1::uuid, i.index, 'QUEUED', now(), now(), now(), i.payload
FROM unnest($2::integer[], $3::bytea[]) AS i (index, payload)
"""
_COLUMNS: Final = (
    "environment_id", "lane_id", "id", "batch_id", "batch_index", "status", "ready_at", "created_at", "updated_at", "payload",
)  # fmt: skip


async def measure_unnest(database_url: str) -> float:
    """Rows a second by INSERT ... SELECT FROM unnest, a thousand a statement."""
    connection: asyncpg.Connection[Any] = await asyncpg.connect(database_url)
    try:
        await connection.execute(_MAKE)
        batch = mint_batch_id()
        started = time.perf_counter()
        for first in range(0, _ROWS, _UNNEST_CHUNK):
            await connection.execute(
                _INSERT, batch, list(range(first, first + _UNNEST_CHUNK)), [_PAYLOAD] * _UNNEST_CHUNK
            )
        return _ROWS / (time.perf_counter() - started)
    finally:
        await connection.execute("DROP TABLE IF EXISTS public.headrace_bench_runs")
        await connection.close()


async def measure_copy(database_url: str) -> float:
    """Rows a second by binary COPY, ten thousand a statement."""
    connection: asyncpg.Connection[Any] = await asyncpg.connect(database_url)
    try:
        await connection.execute(_MAKE)
        batch = mint_batch_id()
        now = await connection.fetchval("SELECT now()")
        chunks = [
            [
                (1, 1, item_run_id(batch, index), batch, index, "QUEUED", now, now, now, _PAYLOAD)
                for index in range(first, first + _COPY_CHUNK)
            ]
            for first in range(0, _ROWS, _COPY_CHUNK)
        ]
        started = time.perf_counter()
        for chunk in chunks:
            await connection.copy_records_to_table(
                "headrace_bench_runs", schema_name="public", columns=_COLUMNS, records=chunk
            )
        return _ROWS / (time.perf_counter() - started)
    finally:
        await connection.execute("DROP TABLE IF EXISTS public.headrace_bench_runs")
        await connection.close()
