"""``headrace run trigger``: one run, and its result where it is waited for."""

from __future__ import annotations

from typing import Annotated

from cyclopts import Parameter

from headrace.cli.connection import open_client
from headrace.cli.options import ApiKey, ApiUrl, Json
from headrace.cli.outcome import FAILED, OK, USAGE, CommandError
from headrace.cli.output import describe_error, format_value, print_fields, print_json
from headrace.cli.run_options import SingleRunOptions, list_options, read_json_argument
from headrace.errors import ConfigurationError, RunFailedError


def trigger(
    task: Annotated[str, Parameter(help="Id of the task", env_var="HEADRACE_RUN_TASK")],
    payload: Annotated[
        str | None,
        Parameter(
            help="Its payload, as JSON; default: none", env_var="HEADRACE_RUN_PAYLOAD", allow_leading_hyphen=True
        ),
    ] = None,
    /,
    *,
    wait: Annotated[
        bool,
        Parameter(negative="", help="Wait until it has ended; exit code 1 if it failed", env_var="HEADRACE_RUN_WAIT"),
    ] = False,
    options: SingleRunOptions | None = None,
    json: Json = False,
    api_url: ApiUrl = None,
    api_key: ApiKey = None,
) -> int:
    """Trigger one run of a task, and print its id; with --wait its result too."""
    value = read_json_argument("PAYLOAD", payload) if payload is not None else None
    with open_client(api_url, api_key) as client:
        try:
            handle = client.trigger(task, value, **list_options(options))
        except ConfigurationError as error:
            raise CommandError(str(error), USAGE) from None
        if not wait:
            note = "it was there already" if handle.is_cached else None
            print_json({"id": handle.id, "isCached": handle.is_cached}) if json else print_fields(
                {"id": handle.id, "note": note}
            )
            return OK
        try:
            output = handle.result()
        except RunFailedError as failed:
            error = failed.error or {}
            print_json(
                {"id": handle.id, "ok": False, "status": failed.status, "error": error}
            ) if json else print_fields({"id": handle.id, "status": failed.status, "error": describe_error(error)})
            return FAILED
    print_json({"id": handle.id, "ok": True, "output": output}) if json else print_fields(
        {"id": handle.id, "output": format_value(output)}
    )
    return OK
