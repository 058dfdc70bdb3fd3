"""Measures what a store costs: drain, ingest, rest, small statements; and 1, 2 and 4 stores on one machine.

    python -m benchmarks.stores_local                 # a quarter of an hour; writes benchmarks/figures/stores.json
    python -m benchmarks.stores_local --quick         # two minutes: shows that it runs, says little; writes nothing

Each store is a PostgreSQL cluster of its own (the embedded one); an installation of N stores has N worker processes, each of
which works for all stores. All of them share the machine's cores with each other and with whatever else runs, so CPU time is
taken beside the rates: what a run costs in CPU seconds hardly depends on who else is there, a rate does. How many cores others
used meanwhile stands beside each figure, and of ``--tries`` measures of each kind the three count during which others used the
least. On a machine that never rests, ``--bench`` takes the rates of one store from the output of ``headrace bench --json``.

``benchmarks/stores_model.py`` predicts the rates of 1, 2 and 4 stores from the figures of one, and is compared here.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import statistics
import sys
import tempfile
import threading
import time
import uuid
from bisect import bisect_left
from collections.abc import Callable, Coroutine, Generator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Final

import psutil

from benchmarks.stores_model import Figures, predict_shared_drain
from headrace.bench.database import await_true, connected, empty_database
from headrace.bench.ingest import make_body, stream_batch
from headrace.bench.processes import running_server, running_worker
from headrace.engine.engine import Engine
from headrace.engine.environments import find_environment
from headrace.engine.outcomes import Packet
from headrace.engine.runs import trigger_run
from headrace.protocol.options import RunOptions
from headrace.settings import Settings
from headrace.store.embedded import DATABASE, EmbeddedPostgres
from headrace.store.migrate import migrate_database

FIGURES: Final = Path(__file__).with_name("figures") / "stores.json"

_COUNTS: Final = (1, 2, 4)
_KEPT: Final = 3
_DRAIN_RUNS: Final = 30_000
_INGEST_ITEMS: Final = 200_000
_IDLE_SECONDS: Final = 30.0
_SETTLE_SECONDS: Final = 5.0
_READS: Final = 10_000
_CLAIMS: Final = 5_000
_CLAIMERS: Final = 10
_SAMPLE_SECONDS: Final = 0.2
_QUICK: Final = 3


@dataclass(frozen=True, slots=True)
class Cluster:
    """A PostgreSQL of its own."""

    url: str
    pid: int


@dataclass(frozen=True, slots=True)
class Installation:
    """A home store and others: a database in each of the first so many clusters."""

    urls: tuple[str, ...]
    pids: tuple[int, ...]

    @property
    def home(self) -> str:
        """The URL of the home store."""
        return self.urls[0]

    @property
    def environment(self) -> dict[str, str]:
        """What its processes are told beside the URL of home."""
        stores = ",".join(f"s{number}={url}" for number, url in enumerate(self.urls[1:], 1))
        return {"HEADRACE_STORES": stores, "HEADRACE_STORE_GRACE": "0"} if stores else {}


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
    parser.add_argument(
        "--bench", type=Path, help="take the rates of one store from this output of headrace bench --json"
    )
    parser.add_argument("--out", type=Path, default=FIGURES)
    options = parser.parse_args()
    part, tries = (_QUICK, 1) if options.quick else (1, options.tries)

    def calm() -> None:
        if not options.quick:
            _await_quiet(options.quiet_cores, options.patience)

    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="hr-stores-", ignore_cleanup_errors=True)))
        clusters = [stack.enter_context(running_cluster(folder / str(number))) for number in range(max(_COUNTS))]
        installations = {count: make_installation(clusters[:count]) for count in _COUNTS}
        figures, drains = measure_all(installations, part, tries, calm)
    if options.bench:
        bench = json.loads(options.bench.read_text(encoding="utf-8"))
        figures = replace(
            figures,
            drain_runs_per_s=bench["drain_runs_per_s"],
            drain_others_cores=0.0,
            ingest_items_per_s=bench["ingest_http_items_per_s"],
        )
    told = {
        "how": f"benchmarks.stores_local, {time.strftime('%Y-%m-%d')}; rates of one store: {'headrace bench' if options.bench else 'the same run'}",
        "figures": asdict(figures),
        "drains": [asdict(drain) for drain in drains],
    }
    for name, value in asdict(figures).items():
        sys.stdout.write(f"{name:32} {value:g}\n")
    for drain in drains:
        predicted = predict_shared_drain(figures, drain.stores, others_cores=drain.others_cores)
        sys.stdout.write(f"{drain}: predicted {predicted:,.0f}, {predicted / drain.runs_per_s - 1:+.0%}\n")
    if not options.quick:
        options.out.parent.mkdir(exist_ok=True)
        options.out.write_text(json.dumps(told, indent=2) + "\n", encoding="utf-8")
    return 0


def measure_all(
    installations: Mapping[int, Installation], part: int, tries: int, calm: Callable[[], None]
) -> tuple[Figures, list[Drain]]:
    """Every measure, the drains of 1, 2 and 4 stores in turn so that a slow minute falls on all of them alike."""
    one, most = installations[1], installations[max(installations)]
    progress("ingest over HTTP")
    ingests: list[tuple[float, Use]] = []
    for _ in range(tries):
        calm()
        ingests.append(measure_ingest(one, _INGEST_ITEMS // part))
        progress(f"  {ingests[-1]}")
    ingests = sorted(ingests, key=lambda one: _others(one[1]))[:_KEPT]
    progress("a worker and a server at rest")
    seconds = _IDLE_SECONDS / part
    calm()
    worker = measure_rest(one, most, seconds, server=False)
    server = measure_rest(one, most, seconds, server=True)
    progress(f"  {worker} {server}")
    progress("small statements")
    calm()
    reads = _run(measure_reads(one.home, _READS // part))
    claims = _run(measure_claims(installations[2], _CLAIMS // part))
    progress(f"  {reads} {claims}")
    drains: list[Drain] = []
    for turn in range(tries):
        for count, installation in installations.items():
            progress(f"drain of {count} store{'s' * (count > 1)}, {turn + 1} of {tries}")
            drains.append(measure_drain(installation, _DRAIN_RUNS // part, calm))
            progress(f"  {drains[-1]}")
    drains = [
        drain
        for count in installations
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
        idle_worker_cpu_ms_per_s=worker.process_ms,
        idle_worker_store_cpu_ms_per_s=worker.store_ms,
        idle_server_cpu_ms_per_s=server.process_ms,
        idle_server_store_cpu_ms_per_s=server.store_ms,
        read_client_cpu_us=round(reads.headrace * 1e6, 1),
        read_store_cpu_us=round(reads.postgres * 1e6, 1),
        key_claim_store_cpu_us=round(claims.postgres * 1e6, 1),
    )
    return figures, drains


def measure_drain(installation: Installation, runs: int, calm: Callable[[], None]) -> Drain:
    """Runs a second of as many worker processes as there are stores, ``runs`` in each store, and what a run cost."""
    urls = installation.urls
    fill_stores(installation, runs)
    calm()
    with ExitStack() as stack:
        workers = [stack.enter_context(running_worker(installation.home, 500, installation.environment)) for _ in urls]
        watch = Watch([worker.pid for worker in workers], installation.pids)
        with watch:
            _run(_gather(_await_drain(url) for url in urls))
        spans = _run(_gather(_read_span(url, runs) for url in urls))
        start, end = max(first for first, _ in spans), min(last for _, last in spans)
        if end <= start:
            raise RuntimeError("the stores did not drain at once: take more runs")
        done = sum(_run(_gather(_count_finished(url, start, end) for url in urls)))
    use = watch.between(start, end)
    return Drain(
        stores=len(urls),
        runs_per_s=round(done / use.at),
        headrace_cpu_us=round(use.headrace / done * 1e6, 1),
        postgres_cpu_us=round(use.postgres / done * 1e6, 1),
        others_cores=round(_others(use), 2),
    )


def fill_stores(installation: Installation, runs: int) -> None:
    """As many runs in each store: a batch is where its root goes, and roots go to the only store that has a weight."""
    body = make_body(runs)
    for url in installation.urls:
        _run(empty_database(url))
    for number in range(len(installation.urls)):
        _run(_weigh(installation.home, "home" if number == 0 else f"s{number}"))
        with running_server(installation.home, installation.environment) as (url, _):
            stream_batch(url, runs, body)
    _run(_weigh(installation.home, None))


def measure_ingest(installation: Installation, items: int) -> tuple[float, Use]:
    """Items a second of one stream over HTTP, and what all of them cost the server and PostgreSQL."""
    _run(empty_database(installation.home))
    body = make_body(items)
    with running_server(installation.home, installation.environment) as (url, pid):
        stream_batch(url, 5_000, make_body(5_000))
        watch = Watch([pid], installation.pids)
        with watch:
            start = time.time()
            stream_batch(url, items, body)
            end = time.time()
    return round(items / (end - start)), watch.between(start, end)


@dataclass(frozen=True, slots=True)
class Rest:
    """A process at rest: CPU milliseconds a second of its own for each store, and of a store's."""

    process_ms: float
    store_ms: float


def measure_rest(one: Installation, most: Installation, seconds: float, *, server: bool) -> Rest:
    """What a process with nothing to do costs for each store that is there beside home.

    Its own part is the difference of one store and all of them; a store's is that of one which is not home.
    """
    alone = _watch_rest(one, one.pids[0], seconds, server=server)
    among = _watch_rest(most, most.pids[-1], seconds, server=server)
    others = len(most.urls) - 1
    return Rest(
        process_ms=round((among.headrace - alone.headrace) / among.at / others * 1e3, 3),
        store_ms=round(max(among.postgres, 0.0) / among.at * 1e3, 3),
    )


async def measure_reads(url: str, reads: int) -> Use:
    """CPU seconds of one small read by its primary key, as a process that rereads the registry makes it."""
    async with connected(url) as connection:
        me, backend = psutil.Process(), psutil.Process(await connection.fetchval("SELECT pg_backend_pid()"))
        before = _used_by(me), _used_by(backend)
        for _ in range(reads):
            await connection.fetch("SELECT * FROM headrace.environments WHERE id = $1", 1)
        after = _used_by(me), _used_by(backend)
    return Use(1.0, (after[0] - before[0]) / reads, (after[1] - before[1]) / reads, 0.0)


async def measure_claims(installation: Installation, triggers: int) -> Use:
    """Triggers a second (``at``) of runs whose request has an id, ten at once, all of them put in another store than home.

    And the CPU seconds of the home store for one of them, which are for its key alone: every request of the SDKs has one.
    """
    await _weigh(installation.home, "s1")
    settings = Settings(database_url=installation.home, stores=installation.environment["HEADRACE_STORES"])
    engine = await Engine.open(settings)
    try:
        environment = await find_environment(engine, "dev")
        if environment is None:
            raise RuntimeError("there is no environment dev")
        left = iter(range(triggers))

        async def trigger() -> None:
            for _ in left:
                await trigger_run(
                    engine, environment.id, "noop", Packet(b"1"), RunOptions(), request_id=uuid.uuid4().hex
                )

        await trigger_run(engine, environment.id, "noop", Packet(b"1"), RunOptions())  # its lane
        postmaster = psutil.Process(installation.pids[0])
        before, started = _used_by(postmaster), time.perf_counter()
        await asyncio.gather(*(trigger() for _ in range(_CLAIMERS)))
        seconds, after = time.perf_counter() - started, _used_by(postmaster)
    finally:
        await engine.close()
        await _weigh(installation.home, None)
    return Use(triggers / seconds, 0.0, (after - before) / triggers, 0.0)


@contextmanager
def running_cluster(folder: Path) -> Generator[Cluster]:
    """A PostgreSQL of its own."""
    server = EmbeddedPostgres(folder)
    try:
        url = server.start()
        if server.pid is None:
            raise RuntimeError(f"the PostgreSQL in {folder} did not start")
        yield Cluster(url, server.pid)
    finally:
        server.stop()


def make_installation(clusters: Sequence[Cluster]) -> Installation:
    """A database for it in each of the clusters, migrated; its first server registers the stores and makes the key."""
    name = f"headrace_{len(clusters)}"
    urls = [cluster.url.replace(f"/{DATABASE}?", f"/{name}?") for cluster in clusters]
    for cluster, url in zip(clusters, urls, strict=True):
        _run(_make_database(cluster.url, name))
        _run(migrate_database(url))
    installation = Installation(tuple(urls), tuple(cluster.pid for cluster in clusters))
    with running_server(installation.home, installation.environment):
        pass
    return installation


def progress(what: str) -> None:
    """Says on stderr what is being measured."""
    sys.stderr.write(f"{what}\n")


def _used_by(process: psutil.Process) -> float:
    """CPU seconds of a process, its children, and those of its children that have ended."""
    ended = process.cpu_times()
    return ended.children_user + ended.children_system + sum(map(_run_time, [process, *process.children()]))


def _run_time(process: psutil.Process) -> float:
    """CPU seconds of the threads of a process, to the nanosecond: processes at rest use less than a tick at a time."""
    used = 0
    for path in Path(f"/proc/{process.pid}/task").glob("*/schedstat"):
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            used += int(path.read_text(encoding="ascii").split()[0])
    return used / 1e9


def _others(use: Use) -> float:
    """Cores that neither headrace nor its PostgreSQL used."""
    return (use.all - use.headrace - use.postgres) / use.at


def _watch_rest(installation: Installation, postgres: int, seconds: float, *, server: bool) -> Use:
    """What a process at rest and one store's PostgreSQL use, less what that uses by itself."""
    for url in installation.urls:
        _run(empty_database(url))
    nobody = _watch_for(None, postgres, seconds)
    with ExitStack() as stack:
        if server:
            _, pid = stack.enter_context(running_server(installation.home, installation.environment))
        else:
            pid = stack.enter_context(running_worker(installation.home, 100, installation.environment)).pid
            _run(_gather(_await_worker(url) for url in installation.urls))
        use = _watch_for(pid, postgres, seconds)
    return Use(use.at, use.headrace, use.postgres - nobody.postgres, use.all)


def _watch_for(pid: int | None, postgres: int, seconds: float) -> Use:
    time.sleep(_SETTLE_SECONDS)
    watch = Watch([] if pid is None else [pid], [postgres])
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


async def _make_database(url: str, name: str) -> None:
    async with connected(url) as connection:
        await connection.execute(f"CREATE DATABASE {name}")


async def _weigh(home: str, only: str | None) -> None:
    async with connected(home) as connection:
        await connection.execute("UPDATE headrace.stores SET weight = ($1::text IS NULL OR name = $1)::integer", only)


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


async def _gather(coroutines: Any) -> list[Any]:
    return await asyncio.gather(*coroutines)


def _median(values: Any) -> float:
    return round(statistics.median(values), 2)


def _run(coroutine: Coroutine[Any, Any, Any]) -> Any:
    return asyncio.run(coroutine)


if __name__ == "__main__":
    sys.exit(main())
