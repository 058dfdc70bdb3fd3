"""``headrace server`` and ``headrace worker``: the two processes of an installation, apart."""

from __future__ import annotations

import asyncio
from typing import Annotated, Final

from cyclopts import Parameter

from headrace.api.main import run_server
from headrace.cli.output import out
from headrace.logs import set_up_logs
from headrace.settings import Settings
from headrace.worker.main import run_worker

DatabaseUrl = Annotated[str | None, Parameter(help="PostgreSQL to use; without it DATABASE_URL")]
_RUNNER: Final = "uvloop"


def run_with_uvloop(coroutine: object) -> object:
    """Runs a coroutine on uvloop where it is installed, else on asyncio's own loop."""
    try:
        import uvloop  # noqa: PLC0415 - not on every platform
    except ImportError:
        return asyncio.run(coroutine)  # pyright: ignore[reportArgumentType]
    return uvloop.run(coroutine)  # pyright: ignore[reportArgumentType]


def server(*, port: int | None = None, host: str | None = None, database_url: DatabaseUrl = None) -> int:
    """Serve the HTTP API.

    Parameters
    ----------
    port: Port to bind; 0 takes a free one (default 8030).
    host: Address to bind (default 127.0.0.1).
    """
    settings = Settings.from_environment(port=port, host=host, database_url=database_url)
    set_up_logs(settings)
    run_with_uvloop(run_server(settings, announce=lambda url: out.print(f"headrace serves on {url}", markup=False)))
    return 0


def worker(
    tasks: str,
    /,
    *,
    concurrency: int | None = None,
    queues: Annotated[str | None, Parameter(help="Queues to take runs from, with commas between; default: all")] = None,
    environment: Annotated[str | None, Parameter(help="Environment to serve: dev, staging or prod")] = None,
    database_url: DatabaseUrl = None,
) -> int:
    """Execute runs of the tasks in a file or module.

    Parameters
    ----------
    tasks: A Python file such as tasks.py, or a module such as shop.tasks.
    concurrency: Runs to execute at once (default 100).
    """
    settings = Settings.from_environment(concurrency=concurrency, environment=environment, database_url=database_url)
    set_up_logs(settings)
    chosen = [queue.strip() for queue in queues.split(",") if queue.strip()] if queues else None
    return run_worker(settings, tasks, queues=chosen)
