"""``headrace version``: versions of the code that workers brought: list them, look at one, promote one."""

from __future__ import annotations

from typing import Annotated, Any, Final

from cyclopts import App, Parameter

from headrace.cli.connection import open_client, told_when_missing
from headrace.cli.options import ApiKey, ApiUrl, Json
from headrace.cli.outcome import OK, USAGE, CommandError
from headrace.cli.output import out, print_fields, print_json, print_next_page, print_table
from headrace.version_names import find_version_fault

version_app: Final = App(name="version", help="List and promote the versions of the code that workers brought.")

_MISSING: Final = "version {!r} that a worker brought"


@version_app.command(name="list")
def list_(
    *,
    limit: Annotated[int, Parameter(help="Most versions to list, 1 to 100", env_var="HEADRACE_VERSION_LIMIT")] = 20,
    after: Annotated[
        str | None, Parameter(help="The cursor that the page before gave", env_var="HEADRACE_VERSION_AFTER")
    ] = None,
    json: Json = False,
    api_url: ApiUrl = None,
    api_key: ApiKey = None,
) -> int:
    """List versions, the one that came last first."""
    with open_client(api_url, api_key) as client:
        page = client.list_versions(limit=limit, after=after)
    if json:
        print_json(page)
        return OK
    print_table(
        ["version", "current for", "workers", "first seen", "last seen", "promoted"],
        [
            [
                one["version"],
                f"{len(one['currentTasks'])} of {len(one['tasks'])} tasks",
                one["workers"],
                one["createdAt"],
                one["lastSeenAt"],
                one.get("promotedAt"),
            ]
            for one in page["data"]
        ],
    )
    print_next_page(page)
    return OK


@version_app.command
def show(
    name: Annotated[
        str | None, Parameter(help="A version; default: the one promoted last", env_var="HEADRACE_VERSION_NAME")
    ] = None,
    /,
    *,
    json: Json = False,
    api_url: ApiUrl = None,
    api_key: ApiKey = None,
) -> int:
    """Show a version: its tasks, those whose new runs it takes, and how many of its workers live."""
    missing = "version yet" if name is None else _MISSING.format(_check(name))
    with open_client(api_url, api_key) as client, told_when_missing(missing):
        found: dict[str, Any] = client.retrieve_version(name)
    if json:
        print_json(found)
        return OK
    print_fields(
        {
            "version": found["version"],
            "tasks": ", ".join(found["tasks"]) or None,
            "current for": ", ".join(found["currentTasks"]) or "no task",
            "workers": found["workers"],
            "first seen": found["createdAt"],
            "last seen": found["lastSeenAt"],
            "promoted": found.get("promotedAt"),
        }
    )
    return OK


@version_app.command
def promote(
    name: Annotated[str, Parameter(help="The version, newer or older", env_var="HEADRACE_VERSION_NAME")],
    /,
    *,
    json: Json = False,
    api_url: ApiUrl = None,
    api_key: ApiKey = None,
) -> int:
    """Let a version take the new runs of its tasks. Other versions go on with what they have begun."""
    _check(name)
    with open_client(api_url, api_key) as client, told_when_missing(_MISSING.format(name)):
        promoted = client.promote_version(name)
    if json:
        print_json(promoted)
    else:
        out.print(f"{name} takes the new runs of: {', '.join(promoted['tasks']) or 'no task'}", markup=False)
    return OK


def _check(name: str) -> str:
    if fault := find_version_fault(name):
        raise CommandError(f"The version {fault}.", USAGE)
    return name
