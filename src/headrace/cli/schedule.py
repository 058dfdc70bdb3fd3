"""``headrace schedule``: what runs by itself and when: list schedules, make and change them, switch them on and off."""

from __future__ import annotations

from typing import Annotated, Any, Final, cast

import msgspec
from cyclopts import App, Parameter

from headrace.cli.connection import open_client, told_when_missing
from headrace.cli.options import ApiKey, ApiUrl, Json
from headrace.cli.outcome import OK, USAGE, CommandError
from headrace.cli.output import format_value, out, print_fields, print_json, print_table
from headrace.crons import CatchUp
from headrace.errors import ConfigurationError
from headrace.items import SharedOptions

schedule_app: Final = App(name="schedule", help="Say what runs by itself, and when.")

ScheduleId = Annotated[str, Parameter(help="Id of the schedule, sched_...", env_var="HEADRACE_SCHEDULE_ID")]
Timezone = Annotated[
    str | None,
    Parameter(help="IANA name, such as Europe/Berlin; default: UTC", env_var="HEADRACE_SCHEDULE_TIMEZONE"),
]
ExternalId = Annotated[
    str | None,
    Parameter(help="An id of your own: each run finds it in its payload", env_var="HEADRACE_SCHEDULE_EXTERNAL_ID"),
]
CatchUpPolicy = Annotated[
    str | None,
    Parameter(
        help="Of ticks that were missed: skip, one run for the latest, or all; default: skip",
        env_var="HEADRACE_SCHEDULE_CATCH_UP_POLICY",
    ),
]
RunOptions = Annotated[
    str | None,
    Parameter(
        help='Options of the runs, as a JSON object: \'{"tags": ["nightly"], "ttl": "1h"}\'',
        env_var="HEADRACE_SCHEDULE_OPTIONS",
    ),
]


@schedule_app.command(name="list")
def list_(
    *,
    task: Annotated[str | None, Parameter(help="Only those of this task", env_var="HEADRACE_SCHEDULE_TASK")] = None,
    page: Annotated[int, Parameter(help="Which page, from 1", env_var="HEADRACE_SCHEDULE_PAGE")] = 1,
    limit: Annotated[int, Parameter(help="Schedules a page, 1 to 100", env_var="HEADRACE_SCHEDULE_LIMIT")] = 25,
    json: Json = False,
    api_url: ApiUrl = None,
    api_key: ApiKey = None,
) -> int:
    """List schedules, the newest first."""
    with open_client(api_url, api_key) as client:
        found = client.list_schedules(page=page, per_page=limit, task=task)
    if json:
        print_json(found)
        return OK
    print_table(
        ["id", "task", "cron", "timezone", "active", "next", "key"],
        [
            [
                one["id"],
                one["task"],
                one["generator"]["expression"],
                one["timezone"],
                "yes" if one["active"] else "no",
                one["nextRun"],
                one.get("deduplicationKey") or "(in the code)",
            ]
            for one in found["data"]
        ],
    )
    pages = found["pagination"]
    if pages["currentPage"] < pages["totalPages"]:
        print_fields({"more": f"--page {page + 1} (of {pages['totalPages']})"})
    return OK


@schedule_app.command
def show(schedule_id: ScheduleId, /, *, json: Json = False, api_url: ApiUrl = None, api_key: ApiKey = None) -> int:
    """Show a schedule, and when its next runs are."""
    with open_client(api_url, api_key) as client, told_when_missing(f"schedule {schedule_id}"):
        found = client.retrieve_schedule(schedule_id)
    if json:
        print_json(found)
    else:
        _print_schedule(found)
    return OK


@schedule_app.command
def create(
    task: Annotated[str, Parameter(help="Id of the task to run", env_var="HEADRACE_SCHEDULE_TASK")],
    cron: Annotated[
        str,
        Parameter(
            help="When: minute, hour, day of month, month, day of week, such as '0 2 * * *'; with six fields the first one is "
            "the second",
            env_var="HEADRACE_SCHEDULE_CRON",
        ),
    ],
    /,
    *,
    key: Annotated[
        str | None,
        Parameter(
            help="Deduplication key: made again with it, the schedule is changed; default: the task's id",
            env_var="HEADRACE_SCHEDULE_KEY",
        ),
    ] = None,
    timezone: Timezone = None,
    external_id: ExternalId = None,
    catch_up: CatchUpPolicy = None,
    options: RunOptions = None,
    json: Json = False,
    api_url: ApiUrl = None,
    api_key: ApiKey = None,
) -> int:
    """Make a schedule, or change the one of its key."""
    given = _read_options(options)
    with open_client(api_url, api_key) as client:
        try:
            made = client.create_schedule(
                task,
                cron,
                deduplication_key=key or task,
                timezone=timezone,
                external_id=external_id,
                catch_up=cast("CatchUp | None", catch_up),
                **given,
            )
        except ConfigurationError as error:
            raise CommandError(str(error), USAGE) from None
    return _tell(made, json=json)


@schedule_app.command
def update(
    schedule_id: ScheduleId,
    /,
    *,
    task: Annotated[str | None, Parameter(help="Id of the task to run", env_var="HEADRACE_SCHEDULE_TASK")] = None,
    cron: Annotated[str | None, Parameter(help="When, as for create", env_var="HEADRACE_SCHEDULE_CRON")] = None,
    timezone: Timezone = None,
    external_id: ExternalId = None,
    catch_up: CatchUpPolicy = None,
    options: RunOptions = None,
    json: Json = False,
    api_url: ApiUrl = None,
    api_key: ApiKey = None,
) -> int:
    """Change a schedule. What is not given stays as it is."""
    given = _read_options(options)
    with open_client(api_url, api_key) as client, told_when_missing(f"schedule {schedule_id}"):
        try:
            changed = client.update_schedule(
                schedule_id,
                task=task,
                cron=cron,
                timezone=timezone,
                external_id=external_id,
                catch_up=cast("CatchUp | None", catch_up),
                **given,
            )
        except ConfigurationError as error:
            raise CommandError(str(error), USAGE) from None
    return _tell(changed, json=json)


@schedule_app.command
def activate(schedule_id: ScheduleId, /, *, json: Json = False, api_url: ApiUrl = None, api_key: ApiKey = None) -> int:
    """Switch a schedule on. Its next run is at the next tick from now."""
    with open_client(api_url, api_key) as client, told_when_missing(f"schedule {schedule_id}"):
        return _tell(client.activate_schedule(schedule_id), json=json)


@schedule_app.command
def deactivate(
    schedule_id: ScheduleId, /, *, json: Json = False, api_url: ApiUrl = None, api_key: ApiKey = None
) -> int:
    """Switch a schedule off. It makes no runs, until it is switched on."""
    with open_client(api_url, api_key) as client, told_when_missing(f"schedule {schedule_id}"):
        return _tell(client.deactivate_schedule(schedule_id), json=json)


@schedule_app.command
def delete(schedule_id: ScheduleId, /, *, json: Json = False, api_url: ApiUrl = None, api_key: ApiKey = None) -> int:
    """Delete a schedule. The runs that it made stay."""
    with open_client(api_url, api_key) as client, told_when_missing(f"schedule {schedule_id}"):
        client.delete_schedule(schedule_id)
    if json:
        print_json({"id": schedule_id})
    else:
        out.print(f"Schedule {schedule_id} is deleted.", markup=False)
    return OK


def _tell(schedule: dict[str, Any], *, json: bool) -> int:
    if json:
        print_json(schedule)
    else:
        _print_schedule(schedule)
    return OK


def _print_schedule(schedule: dict[str, Any]) -> None:
    print_fields(
        {
            "id": schedule["id"],
            "task": schedule["task"],
            "cron": schedule["generator"]["expression"],
            "means": schedule["generator"]["description"],
            "timezone": schedule["timezone"],
            "active": "yes" if schedule["active"] else "no",
            "next": schedule["nextRun"],
            "then": ", ".join(schedule.get("upcoming", [])[1:5]) or None,
            "last": schedule.get("lastRun"),
            "last run": schedule.get("lastRunId"),
            "catch-up": schedule["catchUp"],
            "key": schedule.get("deduplicationKey"),
            "external id": schedule.get("externalId"),
            "options": format_value(schedule.get("options")),
            "fault": schedule.get("fault"),
            "note": "it is declared in the code of its task" if schedule["type"] == "DECLARATIVE" else None,
        }
    )


def _read_options(text: str | None) -> SharedOptions:
    """The options of runs, by the names that the Python client has for them, which it checks."""
    if text is None:
        return {}
    try:
        given = msgspec.json.decode(text, type=dict[str, Any])
    except (msgspec.DecodeError, RecursionError) as error:
        raise CommandError(f"--options is no JSON object: {error}", USAGE) from None
    return cast("SharedOptions", given)
