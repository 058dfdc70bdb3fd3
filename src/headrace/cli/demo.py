"""``headrace demo``: a batch over the whole standard library, from nothing to a table; with --kill, under fire."""

from __future__ import annotations

import asyncio
import importlib
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Annotated, Any, Final

import asyncpg
import msgspec
from cyclopts import Parameter
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeElapsedColumn

import headrace
from headrace.cli.cutting_proxy import CuttingProxy
from headrace.cli.local import LocalHeadrace
from headrace.cli.options import Json
from headrace.cli.outcome import FAILED, OK, CommandError
from headrace.cli.output import describe_error, err, out, print_json, print_table
from headrace.cli.supervisor import Child, heed_terminals
from headrace.ids import parse_batch_id
from headrace.sdk import Client
from headrace.settings import Settings
from headrace.store.statements import load_sql

PATIENCE: Final = 600.0
"""Seconds after which a batch that does not end counts as broken."""

_LOOK: Final = 0.1
_NO_PYTHON: Final = frozenset({"SyntaxError", "IndentationError", "TabError", "ValueError"})


class Check(msgspec.Struct, frozen=True):
    """Something that has to be so, whether it is, and what was seen."""

    what: str
    held: bool
    seen: str


class Report(msgspec.Struct, frozen=True, rename="camel"):
    """What the demo found: ``--json`` prints it."""

    files: int
    counted: int
    failed: dict[str, str]
    seconds: float
    most_complex: list[Any]
    events: list[str]
    checks: list[Check]
    batch_id: str
    api_url: str
    api_key: str


def demo(
    *,
    kill: Annotated[
        bool, Parameter(negative="", help="Kill the worker half-way and cut the client's connection in mid-stream")
    ] = False,
    exit: Annotated[  # noqa: A002 - the option is called so
        bool, Parameter(negative="", help="End when the table is printed; default: leave the server up")
    ] = False,
    port: Annotated[int, Parameter(help="Port of the API; 0 takes a free one")] = 0,
    json: Json = False,
) -> int:
    """Count what is in Python's standard library, one run a file, on an embedded PostgreSQL of its own."""
    heed_terminals()
    with tempfile.TemporaryDirectory(prefix="headrace-demo-", ignore_cleanup_errors=True) as folder:
        # A lease of three seconds: a killed worker's runs are taken up again while somebody is looking.
        settings = Settings(data_dir=folder, port=port, lease=3.0, heartbeat=1.0, concurrency=8, log_level="error")
        err.print("starting PostgreSQL, the API server and a worker")
        with LocalHeadrace(settings) as local:
            local.start_server()
            report = _Demo(local).run(kill=kill)
            if json:
                print_json(report)
            else:
                _print_report(report)
            if not all(check.held for check in report.checks):
                return FAILED
            if not exit:
                _stay_up(local)
    return OK


class _Demo:
    """One batch, from its files to a report."""

    def __init__(self, local: LocalHeadrace) -> None:
        example = find_example()
        sys.path.insert(0, str(example.parent))
        self._tasks: Any = importlib.import_module(f"{example.name}.tasks")
        self._sources: Any = importlib.import_module(f"{example.name}.sources")
        self._local = local
        self._paths: list[str] = self._sources.list_sources()
        self._worker: Child = local.start_worker(str(example / "tasks.py"))
        self._streamed = 0
        self._handle: Any = None
        self._failure: BaseException | None = None
        self._events: list[str] = []

    def run(self, *, kill: bool) -> Report:
        """Streams, watches, reduces and checks."""
        started = time.monotonic()
        with ExitStack() as stack:
            proxy = stack.enter_context(self._open_proxy()) if kill else None
            client = stack.enter_context(Client(proxy.url if proxy else self._local.url, api_key=self._local.key))
            streaming = threading.Thread(target=self._stream, args=(client,), daemon=True)
            streaming.start()
            self._watch(streaming, kill=kill)
            streaming.join()
        if proxy:
            self._events.insert(
                0,
                f"cut the client's connection in mid-stream ({proxy.cuts}x, after {proxy.cut_at / 2**20:.1f} MiB); "
                f"it resumed on a new one, {proxy.connections} in all",
            )
        with Client(self._local.url, api_key=self._local.key) as client:
            outcomes: list[Any] = list(client.batch(self._handle.id, self._tasks.take_census).results())
        seconds = time.monotonic() - started
        counts: list[Any] = [outcome.value for outcome in outcomes if outcome.ok]
        checks = [*self._check_answers(outcomes), *self._check_database()]
        if proxy:
            checks.append(
                Check(
                    "the client's connection was cut",
                    proxy.cuts == 1,
                    "once" if proxy.cuts == 1 else f"{proxy.cuts} times",
                )
            )
        return Report(
            files=len(self._paths),
            counted=len(counts),
            failed={self._paths[one.index]: describe_error(one.error) for one in outcomes if not one.ok},
            seconds=round(seconds, 1),
            most_complex=self._tasks.find_most_complex(counts),
            events=self._events,
            checks=checks,
            batch_id=self._handle.id,
            api_url=self._local.url,
            api_key=self._local.key,
        )

    def _open_proxy(self) -> CuttingProxy:
        library = self._sources.find_library()
        size = sum((library / path).stat().st_size for path in self._paths)
        return CuttingProxy(self._local.settings.port, cut_after=size // 2)

    def _stream(self, client: Client) -> None:
        try:
            self._handle = client.batch_trigger(self._tasks.take_census, self._read_items())
        except BaseException as error:  # noqa: BLE001 - raised in the thread that watches
            self._failure = error

    def _read_items(self) -> Iterator[Any]:
        """The items, read as they are sent: a batch that does not know yet how long it will be."""
        for path, content in self._sources.read_sources(self._paths):
            yield self._tasks.Source(path, content)
            self._streamed += 1

    def _watch(self, streaming: threading.Thread, *, kill: bool) -> None:
        total = len(self._paths)
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
        deadline = time.monotonic() + PATIENCE
        with asyncio.Runner() as runner, Progress(*columns, console=err) as progress:
            connection: Any = runner.run(asyncpg.connect(self._local.database_url))
            streamed, ended = (progress.add_task(what, total=total) for what in ("streamed", "ended"))
            settled = 0
            while settled < total or streaming.is_alive():
                if self._failure is not None:
                    raise self._failure
                if time.monotonic() > deadline:
                    raise CommandError(f"The batch did not end within {PATIENCE:g} s: {settled} of {total} runs have.")
                settled = runner.run(connection.fetchrow(load_sql("measure_batches")))["settled"]
                if kill and settled >= total // 2:
                    self._kill_worker(progress, settled)
                    kill = False
                self._show(progress, streamed, ended, settled)
                time.sleep(_LOOK)
            runner.run(connection.close())

    def _show(self, progress: Progress, streamed: TaskID, ended: TaskID, settled: int) -> None:
        progress.update(streamed, completed=self._streamed)
        progress.update(ended, completed=settled)
        for child in self._local.children:
            if said := child.look_after():
                progress.console.print(said, markup=False)

    def _kill_worker(self, progress: Progress, settled: int) -> None:
        pid = self._worker.process.pid if self._worker.process else 0
        self._worker.kill()
        self._worker.start()
        self._events.append(f"SIGKILLed the worker (process {pid}) after {settled} runs had ended; started another")
        progress.console.print(self._events[-1], markup=False)

    def _check_answers(self, outcomes: Sequence[Any]) -> Iterator[Check]:
        total = len(self._paths)
        indexes = [outcome.index for outcome in outcomes]
        yield Check(
            "API: an outcome for each index, once, in order", indexes == [*range(total)], f"{len(indexes)} outcomes"
        )
        distinct = len({outcome.run_id for outcome in outcomes})
        yield Check("API: each with a run of its own", distinct == total, f"{distinct} distinct run ids")
        astray = [one for one in outcomes if one.ok and one.value.path != self._paths[one.index]]
        yield Check(
            "API: each count is of the file that was sent as that item", not astray, f"{len(astray)} are of another"
        )
        names = Counter(describe_error(one.error).partition(":")[0] for one in outcomes if not one.ok)
        told = ", ".join(f"{number} {name}" for name, number in names.items()) or "none failed"
        yield Check("API: a run that failed did so by its file", _NO_PYTHON.issuperset(names), told)

    def _check_database(self) -> Iterator[Check]:
        found = asyncio.run(self._fetch_runs())
        total = len(self._paths)
        yield Check("SQL: as many runs as items", found["runs"] == total, f"{found['runs']} runs")
        once = found["indexes"] == total and (found["lowest"], found["highest"]) == (0, total - 1)
        seen = f"{found['indexes']} distinct indexes, {found['lowest']} to {found['highest']}"
        yield Check("SQL: every index has one run, none has two", once and found["runs"] == total, seen)
        yield Check("SQL: all of them have ended", not found["unfinished"], f"{found['unfinished']} are open")
        yield Check("SQL: there is no run beside them", not found["strays"], f"{found['strays']} others")
        if self._events:
            again = found["taken_up_again"]
            self._events.append(f"{again} runs that a worker had begun and not ended were taken up by another")

    async def _fetch_runs(self) -> Any:
        connection: Any = await asyncpg.connect(self._local.database_url)
        try:
            return await connection.fetchrow(load_sql("check_batch_runs"), parse_batch_id(self._handle.id))
        finally:
            await connection.close()


def find_example() -> Path:
    """The folder of the example, in the wheel or in the tree. Raises CommandError where it is in neither."""
    package = Path(headrace.__file__).parent
    for folder in (package / "_examples", package.parents[1] / "examples"):
        if (folder / "stdlib_census" / "tasks.py").is_file():
            return folder / "stdlib_census"
    raise CommandError("The example stdlib_census is not where it should be: install headrace anew.")


def _print_report(report: Report) -> None:
    print_table(
        ["module", "complexity", "depth", "longest", "lines", "functions", "classes", "longest function"],
        [
            [
                one.path,
                one.complexity,
                one.depth,
                one.longest,
                one.lines,
                one.functions,
                one.classes,
                one.longest_name,
            ]
            for one in report.most_complex
        ],
    )
    out.print(f"complexity: deepest nesting x lines of the longest function; {report.counted} files were counted")
    for path, error in report.failed.items():
        out.print(f"not counted: {path}: {error}", markup=False)
    out.print(f"{report.files} files in {report.seconds} s, batch {report.batch_id}")
    for event in report.events:
        out.print(f"  {event}", markup=False)
    for check in report.checks:
        out.print(f"  {'ok    ' if check.held else 'BROKEN'} {check.what}: {check.seen}", markup=False)


def _stay_up(local: LocalHeadrace) -> None:
    """Until Ctrl-C, which is how this is meant to end."""
    err.print(f"The server stays up on {local.url} until Ctrl-C. Look around from another shell:", markup=False)
    err.print(f"export HEADRACE_API_URL={local.url} HEADRACE_API_KEY={local.key}", markup=False)
    try:
        while True:
            for child in local.children:
                if said := child.look_after():
                    err.print(said, markup=False)
            time.sleep(_LOOK)
    except KeyboardInterrupt:
        err.print("stopping")
