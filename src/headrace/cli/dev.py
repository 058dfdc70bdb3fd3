"""``headrace dev``: database, server and worker with one command; the worker starts anew when the code changes."""

from __future__ import annotations

import signal
import socket
import time
from pathlib import Path
from typing import Annotated, Any

from cyclopts import Parameter
from watchfiles import PythonFilter, watch

from headrace.cli.local import LocalHeadrace
from headrace.cli.outcome import INTERRUPTED
from headrace.cli.output import err, out
from headrace.settings import Settings


def dev(
    tasks: str,
    /,
    *,
    port: int | None = None,
    data: Annotated[
        str | None,
        Parameter(help="Folder for PostgreSQL and payloads (default .headrace)", env_var="HEADRACE_DATA_DIR"),
    ] = None,
    reload: Annotated[
        bool, Parameter(negative="--no-reload", help="Start the worker anew when a Python file changes")
    ] = True,
    concurrency: int | None = None,
) -> int:
    """Run everything on this machine: embedded PostgreSQL, API server and worker.

    With HEADRACE_DATABASE_URL set that database is used instead. Ctrl-C stops all of it.

    Parameters
    ----------
    tasks: A Python file such as tasks.py, or a module such as shop.tasks.
    port: Port of the API; 0 takes a free one (default 8030).
    concurrency: Runs to execute at once (default 100).
    """
    settings = Settings.from_environment(port=port, data_dir=data, concurrency=concurrency)
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    local = LocalHeadrace(settings)
    try:
        local.prepare()
        local.start_server(settings.port or find_free_port(settings.host))
        worker = local.add_child("worker", "worker", tasks, "--concurrency", str(settings.concurrency))
        out.print(
            f"headrace dev: {local.url}\nHEADRACE_API_URL={local.url}\nHEADRACE_API_KEY={local.key}", markup=False
        )
        for changes in _look_now_and_then(tasks, reload=reload):
            if changes:
                err.print(f"{len(changes)} file(s) changed: the worker starts anew")
                worker.stop()
                worker.start()
            for child in local.children:
                if said := child.look_after():
                    err.print(said)
    except KeyboardInterrupt:
        err.print("stopping")
    finally:
        local.stop()
    return INTERRUPTED


def find_free_port(host: str) -> int:
    """A port that nothing uses at this moment."""
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as probe:
        probe.bind((host, 0))
        return int(probe.getsockname()[1])


def _look_now_and_then(tasks: str, *, reload: bool) -> Any:
    """Sets of changes, empty ones while nothing changes."""
    if not reload:
        return _tick()
    folder = Path(tasks).absolute().parent if tasks.endswith(".py") else Path.cwd()
    return watch(
        folder, watch_filter=PythonFilter(), yield_on_timeout=True, rust_timeout=500, raise_interrupt=True, step=100
    )


def _tick() -> Any:
    while True:
        time.sleep(0.5)
        yield set()
