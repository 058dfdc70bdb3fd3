"""One run of the benchmark, measure by measure, each repeated and its median taken."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Coroutine
from contextlib import ExitStack
from typing import Any, Final

import asyncpg
import httpx2

from headrace.bench.ceilings import measure_copy, measure_unnest
from headrace.bench.database import await_true, connected, empty_database
from headrace.bench.ingest import MemoryWatch, make_body, stream_batch
from headrace.bench.noop_tasks import noop, tell_time
from headrace.bench.parents import measure_parents
from headrace.bench.processes import API_KEY, running_server, running_worker
from headrace.bench.queues import KEYS, limit_keys, measure_claims, measure_keyed_triggers
from headrace.bench.report import Figures, take_median, take_percentiles
from headrace.bench.resumes import measure_resumes
from headrace.bench.slow_store import running_slow_store
from headrace.bench.suspended import measure_suspended
from headrace.sdk import AsyncClient, Client

REPEATS: Final = 3
_INGEST_ITEMS: Final = 1_000_000
_WARM_ITEMS: Final = 20_000
_BULK_RUNS: Final = 10_000
_DRAIN_RUNS: Final = 60_000
_KEY_LIMIT: Final = 10
_BACKLOG: Final = 1_000_000
_KEYED_RUNS: Final = 100_000
_STARTS: Final = 200
_CHILDREN: Final = (1_000, 10_000, 100_000)
_RESUMES: Final = 100
_SUSPENDED: Final = 100_000
_IDLE_SECONDS: Final = 20.0
_LARGE_PAYLOAD: Final = 512 * 1024
_SERIAL_ITEMS: Final = 60
_PARALLEL_ITEMS: Final = 1_000
_QUICK: Final = 20

Progress = Callable[[str], None]


def run_benchmark(database_url: str, *, quick: bool = False, progress: Progress = lambda _: None) -> Figures:
    """Measures on a migrated database whose runs may be thrown away: it is emptied again and again.

    ``quick`` takes a twentieth of the rows, to see that it works; its figures say little.
    """
    part = _QUICK if quick else 1
    repeats = 1 if quick else REPEATS
    progress("this machine's own rates")
    unnest = [_run(measure_unnest(database_url)) for _ in range(repeats)]
    copy = [_run(measure_copy(database_url)) for _ in range(repeats)]
    progress("bulk trigger")
    bulk = [_measure_bulk(database_url, _BULK_RUNS // part) for _ in range(repeats)]
    progress("ingest over HTTP")
    ingest = [_measure_ingest(database_url, _INGEST_ITEMS // part) for _ in range(repeats)]
    progress("drain by one worker")
    drain = [_measure_drain(database_url, _DRAIN_RUNS // part) for _ in range(repeats)]
    progress("drain with a limit and 1,000 keys")
    limited = [_measure_drain(database_url, _DRAIN_RUNS // part, keys=KEYS) for _ in range(repeats)]
    progress("claims before a backlog of 1,000,000")
    claims = measure_claims(database_url, _BACKLOG // part, keyed=False)
    keyed_claims = measure_claims(database_url, _BACKLOG // part, keyed=True)
    limit_keys(database_url, None)
    progress("keyed triggers")
    keyed = [measure_keyed_triggers(database_url, _KEYED_RUNS // part) for _ in range(repeats)]
    progress("start latency")
    starts = [_measure_starts(database_url, _STARTS // part) for _ in range(repeats)]
    progress("uploads of large payloads")
    speedups = [_measure_offload(database_url, part) for _ in range(repeats)]
    progress("parents of many children")
    small, large, largest = (children // part for children in _CHILDREN)
    parents = measure_parents(database_url, small, large, largest, repeats=repeats)
    progress("resume latency")
    resumes = [measure_resumes(database_url, max(_RESUMES // part, 10)) for _ in range(repeats)]
    progress("suspended runs, at rest")
    suspended = measure_suspended(database_url, _SUSPENDED // part, seconds=_IDLE_SECONDS / min(part, 2))
    _run(empty_database(database_url))
    return Figures(
        unnest_rows_per_s=take_median(unnest),
        copy_rows_per_s=take_median(copy),
        bulk_trigger_runs_per_s=take_median(bulk),
        ingest_http_items_per_s=take_median([rate for rate, _ in ingest]),
        ingest_rss_growth_mib=take_median([growth for _, growth in ingest]),
        drain_runs_per_s=take_median(drain),
        start_p50_ms=take_median([p50 for p50, _ in starts]),
        start_p99_ms=take_median([p99 for _, p99 in starts]),
        offload_speedup=take_median(speedups),
        parent_1000_s=take_median(parents.small),
        parent_10000_s=take_median(parents.large),
        parent_gather_1000_s=take_median(parents.gathered),
        parent_iterate_100000_s=take_median([parents.iterated]),
        parent_iterate_100000_rss_growth_mib=take_median([parents.rss_growth]),
        resume_p50_ms=take_median([p50 for p50, _ in resumes]),
        resume_p99_ms=take_median([p99 for _, p99 in resumes]),
        suspended_100000_rss_mib=take_median([suspended.rss]),
        suspended_100000_rss_growth_mib=take_median([suspended.rss - suspended.idle_rss]),
        suspended_100000_queries_per_worker_and_s=take_median([suspended.worker_queries]),
        suspended_100000_queries_with_server_per_s=take_median([suspended.all_queries]),
        drain_limited_runs_per_s=take_median(limited),
        claim_p95_ms=take_median([claims]),
        claim_keyed_p95_ms=take_median([keyed_claims]),
        keyed_triggers_per_s=take_median(keyed),
    )


def _measure_bulk(database_url: str, runs: int) -> float:
    """One call of the SDK on an open transaction of the caller's, to its commit: batch, runs, seal."""

    async def trigger() -> float:
        await empty_database(database_url)
        connection: asyncpg.Connection[Any] = await asyncpg.connect(database_url)
        client = AsyncClient(api_key=API_KEY)
        try:
            started = time.perf_counter()
            async with connection.transaction():
                await client.batch_trigger(noop, range(runs), connection=connection)
            return runs / (time.perf_counter() - started)
        finally:
            await client.aclose()
            await connection.close()

    with running_server(database_url):  # its first start makes the key
        return _run(trigger())


def _measure_ingest(database_url: str, items: int) -> tuple[float, float]:
    """Items a second from the first byte sent to the answer, and the growth of the server's memory in MiB."""
    _run(empty_database(database_url))
    body = make_body(items)
    with running_server(database_url) as (url, pid):
        stream_batch(url, _WARM_ITEMS, make_body(_WARM_ITEMS))
        with MemoryWatch(pid) as watch:
            started = time.perf_counter()
            stream_batch(url, items, body)
            rate = items / (time.perf_counter() - started)
    return rate, watch.growth


def _measure_drain(database_url: str, runs: int, *, keys: int | None = None) -> float:
    """Runs a second of one worker process, from the first claim to the last result, by the database's clock.

    With ``keys`` they are of so many concurrency keys, under a limit.
    """
    _run(empty_database(database_url))
    limit_keys(database_url, _KEY_LIMIT if keys else None)
    with running_server(database_url) as (url, _):
        stream_batch(url, runs, make_body(runs, keys=keys))
    with running_worker(database_url, concurrency=500):
        return runs / _run(_await_drain(database_url, runs))


def _measure_starts(database_url: str, starts: int) -> tuple[float, float]:
    """p50 and p99, in ms, from the call of ``trigger`` to the first line of the task, one run at a time."""
    _run(empty_database(database_url))
    latencies: list[float] = []
    with ExitStack() as stack:
        url, _ = stack.enter_context(running_server(database_url))
        stack.enter_context(running_worker(database_url, concurrency=10))
        client = stack.enter_context(Client(url, api_key=API_KEY))
        for turn in range(10 + starts):
            called = time.time()
            started = client.trigger(tell_time, turn).result(timeout=30)
            if turn >= 10:
                latencies.append((started - called) * 1000)
            time.sleep(0.06)  # idle again, and past the spacing of hints: a start from rest is measured
    return take_percentiles(latencies)


def _measure_offload(database_url: str, part: int) -> float:
    """How much sooner 1,000 items of 512 KiB are in a slow object store than one after the other."""
    with ExitStack() as stack:
        slow = stack.enter_context(running_slow_store())
        with running_server(database_url, {**slow, "HEADRACE_INGEST_CONCURRENCY": "1"}) as (url, _):
            serial = _time_large_items(url, max(_SERIAL_ITEMS // part, 10))
        with running_server(database_url, slow) as (url, _):
            parallel = _time_large_items(url, max(_PARALLEL_ITEMS // part, 50))
    return serial / parallel


def _time_large_items(url: str, items: int) -> float:
    """Seconds an item."""
    filler = b"a" * _LARGE_PAYLOAD

    def body() -> Any:
        for index in range(items):
            yield b'{"index":%d,"task":"noop","payload":"' % index + filler + b'"}\n'

    headers = {"authorization": f"Bearer {API_KEY}"}
    batch_id = httpx2.post(f"{url}/api/v3/batches", json={"runCount": items}, headers=headers).json()["id"]
    started = time.perf_counter()
    answer = httpx2.post(
        f"{url}/api/v3/batches/{batch_id}/items",
        content=body(),
        headers={**headers, "content-type": "application/x-ndjson"},
        timeout=600,
    )
    answer.raise_for_status()
    if not answer.json()["sealed"]:
        raise RuntimeError(f"the batch of the benchmark was not sealed: {answer.text}")
    return (time.perf_counter() - started) / items


async def _await_drain(database_url: str, runs: int) -> float:
    async with connected(database_url) as connection:
        await await_true(connection, "bool_and(completed_at IS NOT NULL) FROM headrace.batches")
        row = await connection.fetchrow(
            "SELECT count(*) AS runs, count(*) FILTER (WHERE status = 'COMPLETED' AND output IS NOT NULL) AS completed,"
            " (SELECT count(*) FROM headrace.attempts) AS attempts,"
            " extract(epoch FROM max(finished_at) - min(started_at))::float8 AS seconds FROM headrace.runs"
        )
    if row is None or not row["runs"] == row["completed"] == row["attempts"] == runs:
        raise RuntimeError(f"the drain of the benchmark did not keep every result and attempt: {row}")
    return row["seconds"]


def _run(coroutine: Coroutine[Any, Any, Any]) -> Any:
    return asyncio.run(coroutine)
