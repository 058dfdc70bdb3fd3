"""``headrace dev``: database, server and worker with one command; the worker starts anew when the code changes."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, Final

from cyclopts import Parameter
from watchfiles import PythonFilter, watch

from headrace.cli.local import LocalHeadrace
from headrace.cli.options import Concurrency, Host, Json, Port, Tasks
from headrace.cli.output import err, out, print_json
from headrace.cli.supervisor import Child, heed_terminals
from headrace.settings import Settings

_LOOK: Final = 0.25


def dev(
    tasks: Tasks,
    /,
    *,
    port: Port = None,
    host: Host = None,
    data: Annotated[
        str | None,
        Parameter(help="Folder for PostgreSQL, payloads and the key (default .headrace)", env_var="HEADRACE_DATA_DIR"),
    ] = None,
    reload: Annotated[
        bool, Parameter(negative="--no-reload", help="Start the worker anew when a Python file changes")
    ] = True,
    concurrency: Concurrency = None,
    json: Json = False,
) -> None:
    """Run everything on this machine: embedded PostgreSQL, API server and worker.

    With HEADRACE_DATABASE_URL set, that database is used instead. Ctrl-C stops all of it; a second one at once. Runs that it
    had begun are canceled once it has been away for HEADRACE_DEV_GRACE (30 s).
    """
    settings = Settings.from_environment(port=port, host=host, data_dir=data, concurrency=concurrency)
    heed_terminals()
    with LocalHeadrace(settings) as local:
        local.begin_dev_session()
        local.start_server()
        worker = local.start_worker(tasks)
        _announce(local, json=json)
        try:
            _supervise(local, worker, _look_for_changes(tasks) if reload else _tick())
        finally:
            err.print("stopping")


def _announce(local: LocalHeadrace, *, json: bool) -> None:
    if json:
        print_json({"apiUrl": local.url, "apiKey": local.key, "databaseUrl": local.database_url})
        return
    err.print(f"headrace serves on {local.url} until Ctrl-C; a client's shell needs", markup=False)
    out.print(f"export HEADRACE_API_URL={local.url} HEADRACE_API_KEY={local.key}", markup=False)


def _supervise(local: LocalHeadrace, worker: Child, changes: Iterator[set[Any]]) -> None:
    for changed in changes:
        if changed:
            names = sorted({Path(path).name for _, path in changed})
            err.print(f"changed: {', '.join(names)}; the worker starts anew", markup=False)
            worker.restart()
        for child in local.children:
            if said := child.look_after():
                err.print(said, markup=False)


def _look_for_changes(tasks: str) -> Iterator[set[Any]]:
    """Sets of changes to Python files below the tasks' folder, empty ones while nothing changes."""
    folder = Path(tasks.partition(":")[0]).absolute().parent if ".py" in tasks or "/" in tasks else Path.cwd()
    timeout = int(_LOOK * 1000)
    return watch(
        folder, watch_filter=PythonFilter(), yield_on_timeout=True, rust_timeout=timeout, raise_interrupt=True, step=50
    )


def _tick() -> Iterator[set[Any]]:
    while True:
        time.sleep(_LOOK)
        yield set()
