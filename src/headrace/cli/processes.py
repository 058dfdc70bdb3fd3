"""``headrace server`` and ``headrace worker``: the two processes of an installation, apart."""

from __future__ import annotations

from typing import Annotated

from cyclopts import Parameter

from headrace.cli.options import Concurrency, DatabaseUrl, Host, Json, Port, Tasks
from headrace.cli.output import out, print_json
from headrace.cli.supervisor import end_with_supervisor
from headrace.logs import set_up_logs
from headrace.settings import Settings


def server(*, port: Port = None, host: Host = None, database_url: DatabaseUrl = None, json: Json = False) -> None:
    """Serve the HTTP API. SIGTERM lets requests end first, a second one does not."""
    import uvloop  # noqa: PLC0415 - the worker needs none of it

    from headrace.api.main import run_server  # noqa: PLC0415

    def announce(url: str) -> None:
        if json:
            print_json({"url": url})
        elif not supervised:
            out.print(f"headrace serves on {url}", markup=False)

    settings = Settings.from_environment(port=port, host=host, database_url=database_url)
    set_up_logs(settings)
    supervised = end_with_supervisor()
    uvloop.run(run_server(settings, announce=announce))


def worker(
    tasks: Tasks,
    /,
    *,
    concurrency: Concurrency = None,
    queues: Annotated[str | None, Parameter(help="Queues to take runs from, with commas between; default: all")] = None,
    environment: Annotated[str | None, Parameter(help="Environment to serve: dev, staging or prod")] = None,
    database_url: DatabaseUrl = None,
    json: Json = False,
) -> int:
    """Execute runs of the tasks in a file or module. SIGTERM drains, a second one gives back what still runs."""
    from headrace.worker.main import run_worker  # noqa: PLC0415 - the server needs none of it

    def announce() -> None:
        if json:
            print_json({"tasks": tasks, "environment": settings.environment, "queues": chosen})
        elif not supervised:
            out.print(f"headrace works on {tasks} in environment {settings.environment}", markup=False)

    settings = Settings.from_environment(concurrency=concurrency, environment=environment, database_url=database_url)
    chosen = [queue.strip() for queue in queues.split(",") if queue.strip()] if queues else None
    supervised = end_with_supervisor()
    return run_worker(settings, tasks, queues=chosen, announce=announce)
