"""``headrace bulk``: many runs canceled or replayed in the background."""

from __future__ import annotations

import time
from typing import Annotated, Any, Final, Literal

from cyclopts import App, Parameter
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from headrace.cli.connection import open_client, told_when_missing
from headrace.cli.options import ApiKey, ApiUrl, Json
from headrace.cli.outcome import FAILED, OK, USAGE, CommandError
from headrace.cli.output import err, print_fields, print_json, print_next_page, print_table, print_warnings
from headrace.cli.run_filter_options import RunFilterOptions, list_filters
from headrace.errors import ConfigurationError
from headrace.sdk import Client

bulk_app: Final = App(name="bulk", help="Cancel or replay many runs in the background.")

_LOOK: Final = 0.2

RunIds = Annotated[str, Parameter(help="Ids of runs, at most 500; or options that say which are meant")]
Name = Annotated[str | None, Parameter(help="What to call the action", env_var="HEADRACE_BULK_NAME")]
Wait = Annotated[
    bool,
    Parameter(
        negative="",
        help="Show its progress until it is over; exit code 1 where it did not go well with all",
        env_var="HEADRACE_BULK_WAIT",
    ),
]
ActionId = Annotated[str, Parameter(help="Id of the bulk action")]


@bulk_app.command
def cancel(
    *run_ids: RunIds,
    which: RunFilterOptions | None = None,
    name: Name = None,
    wait: Wait = False,
    json: Json = False,
    api_url: ApiUrl = None,
    api_key: ApiKey = None,
) -> int:
    """Cancel runs: those named, or all that have not ended and of which everything that is said is true."""
    return _begin("cancel", run_ids, which, name, (api_url, api_key), wait=wait, json=json)


@bulk_app.command
def replay(
    *run_ids: RunIds,
    which: RunFilterOptions | None = None,
    name: Name = None,
    wait: Wait = False,
    json: Json = False,
    api_url: ApiUrl = None,
    api_key: ApiKey = None,
) -> int:
    """Replay runs, each once: those named, or all of which everything that is said is true."""
    return _begin("replay", run_ids, which, name, (api_url, api_key), wait=wait, json=json)


@bulk_app.command
def show(
    action_id: ActionId, /, *, wait: Wait = False, json: Json = False, api_url: ApiUrl = None, api_key: ApiKey = None
) -> int:
    """Show a bulk action and how far it is."""
    with open_client(api_url, api_key) as client, told_when_missing(f"bulk action {action_id}"):
        action = _watch(client, action_id) if wait else client.retrieve_bulk_action(action_id)
    return _tell(action, json=json, judge=wait)


@bulk_app.command
def abort(action_id: ActionId, /, *, json: Json = False, api_url: ApiUrl = None, api_key: ApiKey = None) -> int:
    """End a bulk action before its time. What it has done stays."""
    with open_client(api_url, api_key) as client, told_when_missing(f"bulk action {action_id}"):
        client.abort_bulk_action(action_id)
        action = client.retrieve_bulk_action(action_id)
    return _tell(action, json=json)


@bulk_app.command(name="list")
def list_(
    *,
    limit: Annotated[int, Parameter(help="Most actions to list, 1 to 100", env_var="HEADRACE_BULK_LIMIT")] = 25,
    after: Annotated[
        str | None, Parameter(help="The cursor that the page before gave", env_var="HEADRACE_BULK_AFTER")
    ] = None,
    json: Json = False,
    api_url: ApiUrl = None,
    api_key: ApiKey = None,
) -> int:
    """List bulk actions, the newest first."""
    with open_client(api_url, api_key) as client:
        page = client.list_bulk_actions(limit=limit, after=after)
    if json:
        print_json(page)
        return OK
    rows = [
        [
            action["id"],
            action["type"],
            action["status"],
            action["counts"]["total"],
            action["counts"]["success"],
            action["counts"]["failure"],
            action["createdAt"],
            action.get("name"),
        ]
        for action in page["data"]
    ]
    print_table(["id", "type", "status", "runs", "succeeded", "failed", "created", "name"], rows)
    print_next_page(page)
    return OK


def _begin(
    kind: Literal["cancel", "replay"],
    run_ids: tuple[str, ...],
    which: RunFilterOptions | None,
    name: str | None,
    server: tuple[str | None, str | None],
    *,
    wait: bool,
    json: bool,
) -> int:
    filters = list_filters(which)
    with open_client(*server) as client:
        create = client.bulk_cancel if kind == "cancel" else client.bulk_replay
        try:
            action_id = create(run_ids or None, name=name, **filters)
        except ConfigurationError as error:
            raise CommandError(str(error), USAGE) from None
        action = _watch(client, action_id) if wait else client.retrieve_bulk_action(action_id)
    return _tell(action, json=json, judge=wait)


def _watch(client: Client, action_id: str) -> dict[str, Any]:
    """The action once it is over; how far it is goes to the terminal, if there is one."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=err, disable=not err.is_terminal) as progress:
        bar = progress.add_task("choosing", total=None)
        while True:
            action = client.retrieve_bulk_action(action_id)
            counts = action["counts"]
            what = "choosing" if action["selecting"] else action["type"].lower()
            total = None if action["selecting"] else counts["total"]
            progress.update(bar, description=what, total=total, completed=counts["success"] + counts["failure"])
            if action["status"] != "PENDING":
                return action
            time.sleep(_LOOK)


def _tell(action: dict[str, Any], *, json: bool, judge: bool = False) -> int:
    counts = action["counts"]
    print_warnings(action)
    if json:
        print_json(action)
    else:
        print_fields(
            {
                "id": action["id"],
                "name": action.get("name"),
                "type": action["type"],
                "status": action["status"],
                "runs": f"{counts['total']} so far" if action["selecting"] else counts["total"],
                "succeeded": counts["success"],
                "failed": counts["failure"],
                "created": action["createdAt"],
                "over": action.get("completedAt"),
            }
        )
    return FAILED if judge and (counts["failure"] or action["status"] != "COMPLETED") else OK
