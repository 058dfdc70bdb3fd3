"""Measures what a store costs: drain, ingest, rest, small statements; and 1, 2 and 4 stores on one machine.

    python -m benchmarks.stores_local                 # a quarter of an hour; writes benchmarks/figures/stores.json
    python -m benchmarks.stores_local --quick         # a minute: shows that it runs, says little; writes nothing

Each store is a PostgreSQL cluster of its own (the embedded one), with a worker process of its own. All of them share the
machine's cores with each other and with whatever else runs, so CPU time is taken beside the rates: what a run costs in CPU
seconds hardly depends on who else is there, a rate does. How many cores others used meanwhile stands beside each figure, and
of ``--tries`` measures of each kind the three count during which others used the least.
``benchmarks/stores_model.py`` predicts the rates of 2 and 4 stores from the figures of one, and is compared here.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import statistics
import sys
import tempfile
import threading
import time
import uuid
from bisect import bisect_left
from collections.abc import Callable, Coroutine, Generator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

import asyncpg
import psutil

from benchmarks.stores_model import Figures, predict_shared_drain
from headrace.bench.database import await_true, connected, empty_database
from headrace.bench.ingest import make_body, stream_batch
from headrace.bench.processes import running_server, running_worker
from headrace.store.embedded import EmbeddedPostgres
from headrace.store.migrate import migrate_database

FIGURES: Final = Path(__file__).with_name("figures") / "stores.json"

_COUNTS: Final = (1, 2, 4)
_KEPT: Final = 3
_DRAIN_RUNS: Final = 30_000
_INGEST_ITEMS: Final = 200_000
_IDLE_SECONDS: Final = 30.0
_SETTLE_SECONDS: Final = 5.0
_READS: Final = 10_000
_CLAIMS: Final = 10_000
_CLAIMERS: Final = 10
_SAMPLE_SECONDS: Final = 0.2
_QUICK: Final = 3

_KEYS_TABLE: Final = """
DROP TABLE IF EXISTS public.headrace_bench_keys;
CREATE TABLE public.headrace_bench_keys (
    environment_id integer NOT NULL, task text NOT NULL, key text NOT NULL, run_id uuid NOT NULL,
    created_at timestamptz NOT NULL DEFAULT now(), expires_at timestamptz NOT NULL DEFAULT now() + interval '30 days',
    PRIMARY KEY (environment_id, task, key)
)"""
"""Of the shape of idempotency_keys: a claim at the home store is one row of it, committed."""

_CLAIM_KEY: Final = """
INSERT INTO public.headrace_bench_keys (environment_id, task, key, run_id) VALUES (1, 'noop', $1, $2)
ON CONFLICT (environment_id, task, key) DO NOTHING
"""


@dataclass(frozen=True, slots=True)
class Cluster:
    """A PostgreSQL of its own, migrated."""

    url: str
    pid: int


@dataclass(frozen=True, slots=True)
class Use:
    """CPU seconds up to a moment: of the processes of headrace, of PostgreSQL's, and of everybody."""

    at: float
    headrace: float
    postgres: float
    all: float


@dataclass(frozen=True, slots=True)
class Drain:
    """One drain by so many stores: from when the last began to when the first ended, so that all of them worked."""

    stores: int
    runs_per_s: float
    headrace_cpu_us: float
    """CPU time of the worker processes, microseconds a run."""
    postgres_cpu_us: float
    others_cores: float
    """Cores that the rest of the machine used meanwhile."""


class Watch:
    """What processes use while the block runs, sampled; ``between`` tells what was used from one moment to another."""

    def __init__(self, headrace: Sequence[int], postgres: Sequence[int]) -> None:
        self._headrace = [psutil.Process(pid) for pid in headrace]
        self._postgres = [psutil.Process(pid) for pid in postgres]
        self._uses: list[Use] = []
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> Watch:
        self._uses.append(self._look())
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()
        self._uses.append(self._look())

    def between(self, start: float, end: float) -> Use:
        """What was used from ``start`` to ``end`` (``time.time()``), straight lines between samples."""
        first, last = self._at(start), self._at(end)
        return Use(end - start, last.headrace - first.headrace, last.postgres - first.postgres, last.all - first.all)

    def _watch(self) -> None:
        while not self._stop.wait(_SAMPLE_SECONDS):
            self._uses.append(self._look())

    def _look(self) -> Use:
        times = psutil.cpu_times()
        busy = sum(times) - times.idle - getattr(times, "iowait", 0.0) - getattr(times, "guest", 0.0)
        return Use(time.time(), sum(map(_used_by, self._headrace)), sum(map(_used_by, self._postgres)), busy)

    def _at(self, moment: float) -> Use:
        place = min(max(bisect_left([use.at for use in self._uses], moment), 1), len(self._uses) - 1)
        left, right = self._uses[place - 1], self._uses[place]
        part = min(max((moment - left.at) / (right.at - left.at), 0.0), 1.0)

        def mix(one: float, other: float) -> float:
            return one + (other - one) * part

        return Use(
            moment,
            mix(left.headrace, right.headrace),
            mix(left.postgres, right.postgres),
            mix(left.all, right.all),
        )


def main() -> int:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="a third of the work, once; writes nothing")
    parser.add_argument("--tries", type=int, default=_KEPT, help="measures of each kind")
    parser.add_argument("--quiet-cores", type=float, default=0.3, help="measure when others use less than this")
    parser.add_argument("--patience", type=float, default=120, help="seconds to wait for that, a measure")
    parser.add_argument("--out", type=Path, default=FIGURES)
    options = parser.parse_args()
    part, tries = (_QUICK, 1) if options.quick else (1, options.tries)

    def calm() -> None:
        if not options.quick:
            _await_quiet(options.quiet_cores, options.patience)

    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="hr-stores-", ignore_cleanup_errors=True)))
        clusters = [stack.enter_context(running_cluster(folder / str(number))) for number in range(max(_COUNTS))]
        figures, drains = measure_all(clusters, part, tries, calm)
    told = {"figures": asdict(figures), "drains": [asdict(drain) for drain in drains]}
    report(figures, drains)
    if not options.quick:
        options.out.parent.mkdir(exist_ok=True)
        options.out.write_text(json.dumps(told, indent=2) + "\n", encoding="utf-8")
    return 0


def measure_all(
    clusters: Sequence[Cluster], part: int, tries: int, calm: Callable[[], None]
) -> tuple[Figures, list[Drain]]:
    """Every measure, the drains of 1, 2 and 4 stores in turn so that a slow minute falls on all of them alike."""
    one = clusters[0]
    progress("ingest over HTTP")
    ingests: list[tuple[float, Use]] = []
    for _ in range(tries):
        calm()
        ingests.append(measure_ingest(one, _INGEST_ITEMS // part))
        progress(f"  {ingests[-1]}")
    ingests = sorted(ingests, key=lambda one: _others(one[1]))[:_KEPT]
    progress("a worker and a server at rest")
    rest_seconds = _IDLE_SECONDS / min(part, 3)
    calm()
    worker, worker_connections = measure_rest(one, rest_seconds, server=False)
    server, server_connections = measure_rest(one, rest_seconds, server=True)
    progress(f"  {worker} {worker_connections} {server} {server_connections}")
    progress("small statements")
    calm()
    reads = _run(measure_reads(one, _READS // part))
    claims = _run(measure_claims(one, _CLAIMS // part))
    drains: list[Drain] = []
    progress(f"  {reads} {claims}")
    for turn in range(tries):
        for count in _COUNTS:
            progress(f"drain of {count} store{'s' * (count > 1)}, {turn + 1} of {tries}")
            drains.append(measure_drain(clusters[:count], _DRAIN_RUNS // part, calm))
            progress(f"  {drains[-1]}")
    drains = [
        drain
        for count in _COUNTS
        for drain in sorted((one for one in drains if one.stores == count), key=lambda one: one.others_cores)[:_KEPT]
    ]
    alone = [drain for drain in drains if drain.stores == 1]
    items = _INGEST_ITEMS // part
    figures = Figures(
        cores=float(psutil.cpu_count() or 1),
        drain_runs_per_s=_median(drain.runs_per_s for drain in alone),
        drain_others_cores=_median(drain.others_cores for drain in alone),
        drain_worker_cpu_us=_median(drain.headrace_cpu_us for drain in alone),
        drain_store_cpu_us=_median(drain.postgres_cpu_us for drain in alone),
        ingest_items_per_s=_median(rate for rate, _ in ingests),
        ingest_server_cpu_us=_median(use.headrace / items * 1e6 for _, use in ingests),
        ingest_store_cpu_us=_median(use.postgres / items * 1e6 for _, use in ingests),
        idle_worker_cpu_ms_per_s=round(worker.headrace / worker.at * 1e3, 3),
        idle_worker_store_cpu_ms_per_s=round(worker.postgres / worker.at * 1e3, 3),
        idle_server_cpu_ms_per_s=round(server.headrace / server.at * 1e3, 3),
        idle_server_store_cpu_ms_per_s=round(server.postgres / server.at * 1e3, 3),
        worker_connections=worker_connections,
        server_connections=server_connections,
        read_client_cpu_us=round(reads.headrace * 1e6, 1),
        read_store_cpu_us=round(reads.postgres * 1e6, 1),
        key_claims_per_s=round(claims.at),
        key_claim_store_cpu_us=round(claims.postgres * 1e6, 1),
    )
    return figures, drains


def measure_drain(clusters: Sequence[Cluster], runs: int, calm: Callable[[], None]) -> Drain:
    """Runs a second of one worker process a store, and what a run cost."""
    for cluster in clusters:
        _run(empty_database(cluster.url))
        with running_server(cluster.url) as (url, _):
            stream_batch(url, runs, make_body(runs))
    calm()
    with ExitStack() as stack:
        workers = [stack.enter_context(running_worker(cluster.url, concurrency=500)) for cluster in clusters]
        watch = Watch([worker.pid for worker in workers], [cluster.pid for cluster in clusters])
        with watch:
            _run(_gather(_await_drain(cluster.url) for cluster in clusters))
        spans = _run(_gather(_read_span(cluster.url, runs) for cluster in clusters))
        start, end = max(first for first, _ in spans), min(last for _, last in spans)
        if end <= start:
            raise RuntimeError("the stores did not drain at once: take more runs")
        done = sum(_run(_gather(_count_finished(cluster.url, start, end) for cluster in clusters)))
    use = watch.between(start, end)
    return Drain(
        stores=len(clusters),
        runs_per_s=round(done / use.at),
        headrace_cpu_us=round(use.headrace / done * 1e6, 1),
        postgres_cpu_us=round(use.postgres / done * 1e6, 1),
        others_cores=round(_others(use), 2),
    )


def measure_ingest(cluster: Cluster, items: int) -> tuple[float, Use]:
    """Items a second of one stream over HTTP, and what all of them cost the server and PostgreSQL."""
    _run(empty_database(cluster.url))
    body = make_body(items)
    with running_server(cluster.url) as (url, pid):
        stream_batch(url, 5_000, make_body(5_000))
        watch = Watch([pid], [cluster.pid])
        with watch:
            start = time.time()
            stream_batch(url, items, body)
            end = time.time()
    return round(items / (end - start)), watch.between(start, end)


def measure_rest(cluster: Cluster, seconds: float, *, server: bool) -> tuple[Use, int]:
    """What a process with nothing to do uses, its own and PostgreSQL's CPU time, and how many connections it holds."""
    _run(empty_database(cluster.url))
    nobody = _rest_use(None, cluster, seconds)  # PostgreSQL's own housekeeping is nobody's
    with ExitStack() as stack:
        if server:
            _, pid = stack.enter_context(running_server(cluster.url))
        else:
            pid = stack.enter_context(running_worker(cluster.url, concurrency=100)).pid
            _run(_await_worker(cluster.url))
        use = _rest_use(pid, cluster, seconds)
        connections = _run(_count_connections(cluster.url))
    return Use(use.at, use.headrace, max(use.postgres - nobody.postgres, 0.0), use.all), connections


async def measure_reads(cluster: Cluster, reads: int) -> Use:
    """CPU seconds of one small read by its primary key, as a process that rereads the registry makes it."""
    async with connected(cluster.url) as connection:
        me, backend = psutil.Process(), psutil.Process(await connection.fetchval("SELECT pg_backend_pid()"))
        before = _used_by(me), _used_by(backend)
        for _ in range(reads):
            await connection.fetch("SELECT * FROM headrace.environments WHERE id = $1", 1)
        after = _used_by(me), _used_by(backend)
    return Use(1.0, (after[0] - before[0]) / reads, (after[1] - before[1]) / reads, 0.0)


async def measure_claims(cluster: Cluster, claims: int) -> Use:
    """Claims of a key a second (``at``), each a commit, by ten connections; and the CPU seconds of one."""
    async with connected(cluster.url) as connection:
        await connection.execute(_KEYS_TABLE)
    pool: asyncpg.Pool[Any] = await asyncpg.create_pool(cluster.url, min_size=_CLAIMERS, max_size=_CLAIMERS)
    try:
        postmaster = psutil.Process(cluster.pid)
        before, started = _used_by(postmaster), time.perf_counter()
        await asyncio.gather(*(_claim_keys(pool, claims // _CLAIMERS) for _ in range(_CLAIMERS)))
        seconds, after = time.perf_counter() - started, _used_by(postmaster)
        await pool.execute("DROP TABLE public.headrace_bench_keys")
    finally:
        await pool.close()
    return Use(claims / seconds, 0.0, (after - before) / claims, 0.0)


def report(figures: Figures, drains: Sequence[Drain]) -> None:
    """The figures, and measured beside predicted drains."""
    for name, value in asdict(figures).items():
        sys.stdout.write(f"{name:32} {value:g}\n")
    sys.stdout.write(f"\n{'stores':>6} {'measured/s':>11} {'predicted/s':>11} {'error':>7} {'others, cores':>14}\n")
    for count in _COUNTS:
        of_count = [drain for drain in drains if drain.stores == count]
        rate, others = (
            _median(drain.runs_per_s for drain in of_count),
            _median(drain.others_cores for drain in of_count),
        )
        predicted = predict_shared_drain(figures, count, others_cores=others)
        sys.stdout.write(f"{count:6} {rate:11.0f} {predicted:11.0f} {predicted / rate - 1:+7.1%} {others:14.2f}\n")


@contextmanager
def running_cluster(folder: Path) -> Generator[Cluster]:
    """A migrated database on a PostgreSQL of its own."""
    server = EmbeddedPostgres(folder)
    try:
        url = server.start()
        if server.pid is None:
            raise RuntimeError(f"the PostgreSQL in {folder} did not start")
        _run(migrate_database(url))
        with running_server(url):  # its first start makes the key
            pass
        yield Cluster(url, server.pid)
    finally:
        server.stop()


def progress(what: str) -> None:
    """Says on stderr what is being measured."""
    sys.stderr.write(f"{what}\n")


def _used_by(process: psutil.Process) -> float:
    """CPU seconds of a process, its children, and those of its children that have ended."""
    times = process.cpu_times()
    used = times.user + times.system + times.children_user + times.children_system
    for child in process.children():
        try:
            its = child.cpu_times()
        except psutil.NoSuchProcess:  # ended just now: its parent counts it from now on
            continue
        used += its.user + its.system
    return used


def _others(use: Use) -> float:
    """Cores that neither headrace nor its PostgreSQL used."""
    return (use.all - use.headrace - use.postgres) / use.at


def _rest_use(pid: int | None, cluster: Cluster, seconds: float) -> Use:
    time.sleep(_SETTLE_SECONDS)
    watch = Watch([] if pid is None else [pid], [cluster.pid])
    with watch:
        start = time.time()
        time.sleep(seconds)
    return watch.between(start, start + seconds)


def _await_quiet(cores: float, patience: float) -> None:
    """Until the machine has been as good as idle for three seconds; measures all the same when that does not come."""
    deadline = time.monotonic() + patience
    psutil.cpu_percent()
    while time.monotonic() < deadline:
        time.sleep(3)
        if psutil.cpu_percent() / 100 * (psutil.cpu_count() or 1) < cores:
            return
    progress("the machine does not come to rest: measured beside what runs")


async def _await_drain(url: str) -> None:
    async with connected(url) as connection:
        await await_true(connection, "bool_and(completed_at IS NOT NULL) FROM headrace.batches")


async def _await_worker(url: str) -> None:
    async with connected(url) as connection:
        await await_true(connection, "EXISTS (SELECT FROM headrace.workers WHERE ended_at IS NULL)")


async def _read_span(url: str, runs: int) -> tuple[float, float]:
    async with connected(url) as connection:
        row = await connection.fetchrow(
            "SELECT count(*) FILTER (WHERE status = 'COMPLETED') AS completed,"
            " extract(epoch FROM min(started_at))::float8 AS first, extract(epoch FROM max(finished_at))::float8 AS last"
            " FROM headrace.runs"
        )
    if row is None or row["completed"] != runs:
        raise RuntimeError(f"a store did not complete its {runs} runs: {row}")
    return row["first"], row["last"]


async def _count_finished(url: str, start: float, end: float) -> int:
    async with connected(url) as connection:
        return await connection.fetchval(
            "SELECT count(*) FROM headrace.runs WHERE finished_at BETWEEN to_timestamp($1) AND to_timestamp($2)",
            start,
            end,
        )


async def _count_connections(url: str) -> int:
    async with connected(url) as connection:
        return await connection.fetchval(
            "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()"
            " AND backend_type = 'client backend'"
        )


async def _claim_keys(pool: asyncpg.Pool[Any], claims: int) -> None:
    for _ in range(claims):
        run_id = uuid.uuid4()
        await pool.execute(_CLAIM_KEY, run_id.hex, run_id)


async def _gather(coroutines: Any) -> list[Any]:
    return await asyncio.gather(*coroutines)


def _median(values: Any) -> float:
    return round(statistics.median(values), 2)


def _run(coroutine: Coroutine[Any, Any, Any]) -> Any:
    return asyncio.run(coroutine)


if __name__ == "__main__":
    sys.exit(main())
