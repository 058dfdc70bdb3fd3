"""``headrace demo``: a batch over the whole standard library, from an empty machine to a table; with --kill, under fire."""

from __future__ import annotations

import asyncio
import importlib
import sys
import tempfile
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Final

import asyncpg
from cyclopts import Parameter
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

import headrace
from headrace.cli.cutting_proxy import CuttingProxy
from headrace.cli.dev import find_free_port
from headrace.cli.local import LocalHeadrace
from headrace.cli.outcome import FAILED, OK, CommandError
from headrace.cli.output import err, out, print_table
from headrace.ids import parse_batch_id
from headrace.sdk import Client
from headrace.settings import Settings

_SHOWN: Final = 10
_PATIENCE: Final = 300.0


def demo(
    *,
    kill: Annotated[
        bool, Parameter(negative="", help="Kill the worker and cut the client's stream on the way")
    ] = False,
    exit: Annotated[
        bool, Parameter(negative="", help="End when the table is printed; default: leave the server up")
    ] = False,  # noqa: A002
    port: int | None = None,
) -> int:
    """Count what is in Python's standard library, one run a file, on an embedded PostgreSQL."""
    with tempfile.TemporaryDirectory(prefix="headrace-demo-", ignore_cleanup_errors=True) as folder:
        # a lease of three seconds: a killed worker's runs are taken up again while somebody is looking
        settings = Settings.from_environment({}, data_dir=folder, port=port or 0, lease=3.0, heartbeat=1.0, api_key="")
        local = LocalHeadrace(settings)
        try:
            local.prepare()
            local.start_server(settings.port or find_free_port(settings.host))
            code = _Demo(local, kill=kill).run()
            if not exit and code == OK:
                out.print(
                    f"The server stays up on {local.url} (HEADRACE_API_KEY={local.key}); Ctrl-C ends it.", markup=False
                )
                threading.Event().wait()
        except KeyboardInterrupt:
            return OK
        finally:
            local.stop()
    return code


@dataclass
class _Demo:
    local: LocalHeadrace
    kill: bool
    failure: BaseException | None = None
    batch: Any = None
    worker: Any = None
    proxy: CuttingProxy | None = None
    killed_at: int | None = None
    sent: int = 0
    paths: list[str] = field(default_factory=list[str])

    def run(self) -> int:
        example = _find_example()
        sys.path.insert(0, str(example.parent))
        tasks: Any = importlib.import_module(f"{example.name}.tasks")
        sources: Any = importlib.import_module(f"{example.name}.sources")
        self.paths = sources.list_sources()
        out.print(f"{len(self.paths)} files of Python {sys.version.split()[0]}'s standard library, one run each")
        self.worker = self._start_worker(example)
        port = int(self.local.url.rsplit(":", 1)[1])
        self.proxy = CuttingProxy(port) if self.kill else None
        url = f"http://127.0.0.1:{self.proxy.port}" if self.proxy else self.local.url
        started = time.monotonic()
        with Client(url, api_key=self.local.key) as client, Client(self.local.url, api_key=self.local.key) as watcher:
            streaming = threading.Thread(target=self._stream, args=(client, tasks.census), daemon=True)
            streaming.start()
            self._show_progress(watcher, streaming, example)
            outcomes = list(watcher.batch(self.batch.id, tasks.census).results())
        seconds = time.monotonic() - started
        counted = [outcome.value for outcome in outcomes if outcome.ok]
        print_table(
            ["module", "complexity", "lines", "classes", "functions", "nesting", "longest function"],
            [
                [
                    _name(c.path),
                    c.complexity,
                    c.lines,
                    c.classes,
                    c.functions,
                    c.nesting,
                    f"{c.longest_name} ({c.longest_function})",
                ]
                for c in sorted(counted, key=lambda c: c.complexity, reverse=True)[:_SHOWN]
            ],
        )
        failed = len(outcomes) - len(counted)
        out.print(f"{len(counted)} files counted, {failed} that are no valid Python, in {seconds:.1f} s")
        return self._check(outcomes)

    def _start_worker(self, example: Path) -> Any:
        return self.local.add_child("worker", "worker", str(example / "tasks.py"), "--concurrency", "8")

    def _stream(self, client: Client, census: Any) -> None:
        try:
            self.batch = client.batch_trigger(census, self._give_paths())
        except BaseException as error:  # noqa: BLE001 - raised in the thread that shows the progress
            self.failure = error

    def _give_paths(self) -> Any:
        """The items, as they are read: a batch that does not know yet how long it will be."""
        for self.sent, path in enumerate(self.paths, 1):
            if self.proxy and self.sent == len(self.paths) // 2:
                self.proxy.cut()
                err.print(f"cut the client's connection after item {self.sent}")
            yield path

    def _show_progress(self, watcher: Client, streaming: threading.Thread, example: Path) -> None:
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
        deadline = time.monotonic() + _PATIENCE
        with Progress(*columns, console=err) as progress:
            sent = progress.add_task("streamed", total=len(self.paths))
            ended = progress.add_task("finished", total=len(self.paths))
            while not progress.finished:
                if self.failure is not None:
                    raise self.failure
                settled = self._count_settled()
                if self.kill and self.killed_at is None and settled >= len(self.paths) // 2:
                    self.worker.kill()
                    self.killed_at = settled
                    self.worker = self._start_worker(example)
                    progress.console.print(f"SIGKILLed the worker after {settled} runs and started another")
                progress.update(sent, completed=self.sent)
                progress.update(ended, completed=settled)
                if time.monotonic() > deadline:
                    raise CommandError(f"the batch did not end within {_PATIENCE:g} s")
                time.sleep(0.05)
        streaming.join()

    def _count_settled(self) -> int:
        rows = asyncio.run(
            _fetch(self.local.database_url, "SELECT coalesce(sum(settled), 0)::integer AS n FROM headrace.batches")
        )
        return rows[0]["n"]

    def _check(self, outcomes: list[Any]) -> int:
        """Over the API and in the database itself: every index has one run, and none has two."""
        batch_id = parse_batch_id(self.batch.id)
        sql = "SELECT batch_index, count(*) AS n, max(attempt) AS attempt FROM headrace.runs WHERE batch_id = $1 GROUP BY 1"
        rows = asyncio.run(_fetch(self.local.database_url, sql, batch_id))
        expected = set(range(len(self.paths)))
        checks = {
            "indexes with a run, in the database": {row["batch_index"] for row in rows} == expected,
            "indexes with two runs: none": all(row["n"] == 1 for row in rows),
            "an outcome for each index, over the API, in order": [outcome.index for outcome in outcomes]
            == sorted(expected),
            "distinct run ids, over the API": len({outcome.run_id for outcome in outcomes}) == len(expected),
        }
        if self.kill and self.proxy:
            again = sum(row["attempt"] > 1 for row in rows)
            out.print(
                f"killed: the worker after {self.killed_at} runs, {self.proxy.connections_cut} connection(s) of the client; "
                f"{again} runs were taken up again"
            )
            checks["the worker was killed and the stream was cut"] = bool(self.killed_at and self.proxy.connections_cut)
        for what, held in checks.items():
            out.print(f"{'ok    ' if held else 'BROKEN'} {what} ({len(expected)})", markup=False)
        return OK if all(checks.values()) else FAILED


def _find_example() -> Path:
    package = Path(headrace.__file__).parent
    for folder in (package / "_examples", package.parents[1] / "examples"):
        if (folder / "stdlib_census").is_dir():
            return folder / "stdlib_census"
    raise CommandError("The example stdlib_census is not where it should be: reinstall headrace.")


def _name(path: str) -> str:
    parts = Path(path).parts
    lib = max(index for index, part in enumerate(parts) if part.startswith("python") or part == "Lib")
    return "/".join(parts[lib + 1 :])


async def _fetch(url: str, sql: str, *args: Any) -> list[Any]:
    connection: asyncpg.Connection[Any] = await asyncpg.connect(url)
    try:
        return await connection.fetch(sql, *args)
    finally:
        await connection.close()
