"""``headrace bench``: the figures that the README quotes, on this machine."""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import msgspec
from cyclopts import Parameter

from headrace.bench.report import list_misses
from headrace.bench.run import run_benchmark
from headrace.cli.options import Json
from headrace.cli.outcome import FAILED, OK
from headrace.cli.output import err, out, print_fields, print_json
from headrace.store.embedded import EmbeddedPostgres
from headrace.store.migrate import migrate_database


def bench(
    *,
    json: Json = False,
    quick: Annotated[
        bool, Parameter(negative="", help="A twentieth of the work, once: shows that it runs, says little")
    ] = False,
    database_url: Annotated[
        str | None,
        Parameter(
            help="An EMPTY database to measure on (its runs are deleted); default: an embedded one",
            env_var="HEADRACE_BENCH_DATABASE_URL",
        ),
    ] = None,
) -> int:
    """Measure headrace beside what this machine's PostgreSQL can do at most: medians, all in one run.

    Exit code 1 where a floor is missed.
    """
    with _database(database_url) as url:
        asyncio.run(migrate_database(url))
        figures = run_benchmark(url, quick=quick, progress=lambda what: err.print(f"measuring: {what}"))
    if json:
        print_json(figures)
    else:
        print_fields(msgspec.structs.asdict(figures))
    misses = list_misses(figures)
    for miss in misses:
        err.print(miss)
    if not misses:
        (err if json else out).print("all floors are met")
    return FAILED if misses and not quick else OK


@contextmanager
def _database(url: str | None) -> Generator[str]:
    if url:
        yield url
        return
    with tempfile.TemporaryDirectory(prefix="hr-bench-", ignore_cleanup_errors=True) as folder:
        server = EmbeddedPostgres(Path(folder))
        try:
            yield server.start()
        finally:
            server.stop()
