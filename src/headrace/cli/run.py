"""``headrace run``: look at runs."""

from __future__ import annotations

from contextlib import suppress
from typing import Annotated, Any, Final, cast

import msgspec
from cyclopts import App, Parameter

from headrace.cli.connection import open_client, told_when_missing
from headrace.cli.options import ApiKey, ApiUrl, Json
from headrace.cli.outcome import FAILED, OK, USAGE, CommandError
from headrace.cli.output import describe_error, format_value, print_fields, print_json, print_table, print_warnings
from headrace.cli.run_filter_options import RunFilterOptions, list_filters
from headrace.cli.run_options import SingleRunOptions, list_options, read_json_argument
from headrace.errors import ConfigurationError, ResultTimeoutError, RunFailedError
from headrace.idempotency_keys import Key

run_app: Final = App(name="run", help="Trigger runs, look at them, and cancel them.")
run_app.command("headrace.cli.run_trigger:trigger", name="trigger", help="Trigger one run of a task, and print its id.")


@run_app.command
def show(
    run_id: Annotated[str, Parameter(help="Id of the run")],
    /,
    *,
    json: Json = False,
    api_url: ApiUrl = None,
    api_key: ApiKey = None,
) -> int:
    """Show a run: its status, payload, result or error, and attempts."""
    with open_client(api_url, api_key) as client, told_when_missing(f"run {run_id}"):
        run: dict[str, Any] = client.retrieve_run(run_id)
    if json:
        print_json(run)
        return OK
    error = run.get("error")
    related: dict[str, dict[str, Any]] = run.get("relatedRuns") or {}
    print_fields(
        {
            "id": run["id"],
            "task": run["taskIdentifier"],
            "status": run["status"],
            "queue": run.get("queue"),
            "version": run.get("version"),
            "created": run["createdAt"],
            "started": run.get("startedAt"),
            "finished": run.get("finishedAt"),
            "tags": ", ".join(run.get("tags") or []) or None,
            "batch": run.get("batchId"),
            "parent": related.get("parent", {}).get("id"),
            "replays": run.get("replayedFrom"),
            "metadata": format_value(run.get("metadata")),
            "payload": format_value(run.get("payload")),
            "output": format_value(run.get("output")),
            "error": describe_error(error) if error else None,
        }
    )
    for attempt in cast("list[dict[str, Any]]", run.get("attempts") or []):
        told = f" {describe_error(attempt['error'])}" if attempt.get("error") else ""
        print_fields({"attempt": f"{attempt['number']} {attempt['status']}{told}"})
    return OK


@run_app.command
def cancel(
    run_id: Annotated[str, Parameter(help="Id of the run")],
    /,
    *,
    json: Json = False,
    api_url: ApiUrl = None,
    api_key: ApiKey = None,
) -> int:
    """Cancel a run, and the children that it waits for. A run that has ended stays as it is."""
    with open_client(api_url, api_key) as client, told_when_missing(f"run {run_id}"):
        client.cancel_run(run_id)
        run: dict[str, Any] = client.retrieve_run(run_id)
    if json:
        print_json({"id": run["id"], "status": run["status"]})
    else:
        print_fields({"id": run["id"], "status": run["status"]})
    return OK


@run_app.command
def reschedule(
    run_id: Annotated[str, Parameter(help="Id of the run")],
    /,
    *,
    delay: Annotated[
        str, Parameter(help="How long from now, such as 2h, or a date in ISO 8601", env_var="HEADRACE_RUN_DELAY")
    ],
    json: Json = False,
    api_url: ApiUrl = None,
    api_key: ApiKey = None,
) -> int:
    """Give a run that is delayed another time. One that is due stays as it is."""
    with open_client(api_url, api_key) as client, told_when_missing(f"run {run_id}"):
        run: dict[str, Any] = client.reschedule_run(run_id, delay)
    told = {"id": run["id"], "status": run["status"], "delayedUntil": run.get("delayedUntil")}
    if json:
        print_json(told)
    else:
        print_fields({"id": told["id"], "status": told["status"], "delayed until": told["delayedUntil"]})
    return OK


@run_app.command
def replay(
    run_id: Annotated[str, Parameter(help="Id of the run")],
    /,
    *,
    payload: Annotated[
        str | None,
        Parameter(help="Another payload, as JSON; without it the same one", env_var="HEADRACE_RUN_REPLAY_PAYLOAD"),
    ] = None,
    options: SingleRunOptions | None = None,
    wait: Annotated[
        str | None,
        Parameter(
            help="Wait for the end of the new run for this long, such as 30s", env_var="HEADRACE_RUN_REPLAY_WAIT"
        ),
    ] = None,
    json: Json = False,
    api_url: ApiUrl = None,
    api_key: ApiKey = None,
) -> int:
    """Make a new run of what a run was asked to do. With --wait, exit code 1 where it did not end well in that time."""
    given: dict[str, Any] = {} if payload is None else {"payload": read_json_argument("--payload", payload)}
    with open_client(api_url, api_key) as client, told_when_missing(f"run {run_id}"):
        try:
            handle = client.replay_run(run_id, **given, **list_options(options))
        except ConfigurationError as error:
            raise CommandError(str(error), USAGE) from None
        if wait is not None:
            with suppress(RunFailedError, ResultTimeoutError):
                handle.result(timeout=wait)
        run: dict[str, Any] = handle.retrieve()
    shown = {"id": run["id"], "replayedFrom": run.get("replayedFrom"), "status": run["status"]}
    if json:
        print_json(shown)
    else:
        print_fields({"id": run["id"], "replays": run.get("replayedFrom"), "status": run["status"]})
    return OK if wait is None or run["isSuccess"] else FAILED


@run_app.command(name="reset-key")
def reset_key(
    key: Annotated[str, Parameter(help="The idempotency key, as it was given")],
    /,
    *,
    task: Annotated[str, Parameter(help="Id of the task whose key it is", env_var="HEADRACE_RUN_TASK")],
    run: Annotated[
        str | None, Parameter(help="Of a key that was used inside of a run: that run's id", env_var="HEADRACE_RUN_ID")
    ] = None,
    attempt: Annotated[
        int | None,
        Parameter(help="Of a key of one attempt of it: the attempt's number", env_var="HEADRACE_RUN_ATTEMPT"),
    ] = None,
    json: Json = False,
    api_url: ApiUrl = None,
    api_key: ApiKey = None,
) -> int:
    """Free an idempotency key: the next trigger with it makes a new run."""
    if attempt is not None and run is None:
        raise CommandError("--attempt says which attempt of --run: give both.", USAGE)
    given = key if run is None else Key(key, scope="run" if attempt is None else "attempt", run_id=run, attempt=attempt)
    with open_client(api_url, api_key) as client, told_when_missing(f"run of {task} with this key"):
        client.reset_idempotency_key(task, given)
    if json:
        print_json({"key": key, "task": task, "reset": True})
    else:
        print_fields({"reset": key})
    return OK


@run_app.command
def tag(
    run_id: Annotated[str, Parameter(help="Id of the run")],
    /,
    *tags: Annotated[str, Parameter(help="Tags to add, at most 10 in all")],
    json: Json = False,
    api_url: ApiUrl = None,
    api_key: ApiKey = None,
) -> int:
    """Add tags to a run, beside those that it has."""
    if not tags:
        raise CommandError("Which tags? Write them behind the run's id.", USAGE)
    with open_client(api_url, api_key) as client, told_when_missing(f"run {run_id}"):
        client.add_tags(run_id, tags)
        run: dict[str, Any] = client.retrieve_run(run_id)
    if json:
        print_json({"id": run["id"], "tags": run["tags"]})
    else:
        print_fields({"id": run["id"], "tags": ", ".join(run["tags"])})
    return OK


@run_app.command
def metadata(
    run_id: Annotated[str, Parameter(help="Id of the run")],
    /,
    *,
    set_: Annotated[
        str | None,
        Parameter(
            name="--set",
            help='Keys to set, a JSON object such as \'{"stage": "checked"}\'',
            env_var="HEADRACE_RUN_METADATA_SET",
        ),
    ] = None,
    increment: Annotated[
        str | None,
        Parameter(help="What to add to numbers, a JSON object", env_var="HEADRACE_RUN_METADATA_INCREMENT"),
    ] = None,
    append: Annotated[
        str | None,
        Parameter(help="What to add to lists, a JSON object", env_var="HEADRACE_RUN_METADATA_APPEND"),
    ] = None,
    delete: Annotated[
        str | None, Parameter(help="Keys to delete, with commas between", env_var="HEADRACE_RUN_METADATA_DELETE")
    ] = None,
    json: Json = False,
    api_url: ApiUrl = None,
    api_key: ApiKey = None,
) -> int:
    """Show what a run shows of itself, or change it: all that is asked for, or nothing."""
    asked = {"--set": set_, "--increment": increment, "--append": append}
    values, numbers, items = (_read_object(name, text) for name, text in asked.items())
    keys = [key for key in (delete or "").split(",") if key]
    with open_client(api_url, api_key) as client, told_when_missing(f"run {run_id}"):
        if values or numbers or items or keys:
            shown = client.update_metadata(run_id, values, increment=numbers, append=items, delete=keys)
        else:
            shown = client.retrieve_metadata(run_id)
    if json:
        print_json(shown)
    else:
        print_fields({key: format_value(value) for key, value in shown.items()})
    return OK


def _read_object(name: str, text: str | None) -> dict[str, Any]:
    try:
        return msgspec.json.decode(text or "{}", type=dict[str, Any])
    except msgspec.DecodeError as error:
        raise CommandError(f"{name} takes a JSON object, and was given {text!r}: {error}", USAGE) from None


@run_app.command(name="list")
def list_(
    *,
    which: RunFilterOptions | None = None,
    limit: Annotated[int, Parameter(help="Most runs to list, 1 to 100", env_var="HEADRACE_RUN_LIMIT")] = 25,
    after: Annotated[
        str | None, Parameter(help="The cursor that the page before gave", env_var="HEADRACE_RUN_AFTER")
    ] = None,
    json: Json = False,
    api_url: ApiUrl = None,
    api_key: ApiKey = None,
) -> int:
    """List runs, the newest first."""
    filters = list_filters(which)
    with open_client(api_url, api_key) as client:
        try:
            page = client.list_runs(limit=limit, after=after, **filters)
            while len(page["data"]) < limit and (cursor := page["pagination"].get("next")):  # a page can be short
                rest = client.list_runs(limit=limit - len(page["data"]), after=cursor, **filters)
                said = [*page.get("warnings", ()), *rest.get("warnings", ())]
                page = {"data": page["data"] + rest["data"], "pagination": rest["pagination"]}
                if said:
                    page["warnings"] = list(dict.fromkeys(said))
        except ConfigurationError as error:
            raise CommandError(str(error), USAGE) from None
    print_warnings(page)
    if json:
        print_json(page)
        return OK
    print_table(
        ["id", "task", "status", "attempts", "created", "finished"],
        [
            [
                run["id"],
                run["taskIdentifier"],
                run["status"],
                run.get("attemptCount"),
                run["createdAt"],
                run.get("finishedAt"),
            ]
            for run in page["data"]
        ],
    )
    if cursor := page.get("pagination", {}).get("next"):
        print_fields({"more": f"--after {cursor}"})
    return OK
