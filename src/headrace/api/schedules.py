"""Schedules: created, changed, switched on and off, deleted, listed; and the time zones that they can be in."""

from __future__ import annotations

import math
from typing import Any, Final

from msgspec import UNSET
from starlette.requests import Request
from starlette.responses import Response

from headrace import ids
from headrace.api import filters, limits
from headrace.api.bodies import read_body, refuse_nul
from headrace.api.callers import Caller
from headrace.api.errors import AnsweredError, answer_error, answer_json, answer_missing, forbid_unless
from headrace.api.routing import Call
from headrace.api.views import format_time
from headrace.crons import describe_cron, list_timezones, read_cron
from headrace.engine import schedules
from headrace.engine.engine import Engine
from headrace.engine.environments import Environment
from headrace.engine.schedule_outcomes import (
    ScheduleDeleted,
    ScheduleKept,
    ScheduleMissing,
    ScheduleRefused,
    ScheduleView,
)
from headrace.engine.screening import refuse_faults, refuse_large_metadata
from headrace.engine.ticks import UPCOMING
from headrace.protocol.options import RunOptions
from headrace.protocol.schedules import (
    CreateSchedule,
    DeletedSchedule,
    Schedule,
    ScheduleDetail,
    ScheduleEnvironment,
    ScheduleGenerator,
    ScheduleList,
    SchedulePages,
    Timezones,
    UpdateSchedule,
)

_TYPES: Final = {"dev": "DEVELOPMENT", "staging": "STAGING", "prod": "PRODUCTION"}
_FURTHEST_PAGE: Final = 1_000_000


async def create_schedule(call: Call) -> Response:
    """A schedule; or the one that its deduplication key stands for, changed to what is asked for now."""
    request = await read_body(call, CreateSchedule)
    refuse_nul(await call.request.body())
    forbid_unless(call.caller.may("write", ("schedules", None)))
    _refuse_options(call, request.task, request.options)
    return _answer(call, await schedules.create_schedule(call.engine, call.environment_id, request))


async def update_schedule(call: Call) -> Response:
    """Changes a schedule; what the body leaves out stays as it is."""
    request = await read_body(call, UpdateSchedule)
    refuse_nul(await call.request.body())
    forbid_unless(call.caller.may("write", ("schedules", call.path_param("schedule_id"))))
    if isinstance(request.options, RunOptions):
        _refuse_options(call, "", request.options)
    schedule_id = ids.parse_schedule_id(call.path_param("schedule_id"))
    if schedule_id is None:
        return _answer(call, ScheduleMissing())
    return _answer(call, await schedules.update_schedule(call.engine, call.environment_id, schedule_id, request))


async def activate_schedule(call: Call) -> Response:
    """Switches a schedule on; its next run is at the next tick from now."""
    return await _set_active(call, active=True)


async def deactivate_schedule(call: Call) -> Response:
    """Switches a schedule off: it makes no runs, until it is switched on."""
    return await _set_active(call, active=False)


async def delete_schedule(call: Call) -> Response:
    """Deletes a schedule. The runs that it made stay."""
    forbid_unless(call.caller.may("write", ("schedules", call.path_param("schedule_id"))))
    schedule_id = ids.parse_schedule_id(call.path_param("schedule_id"))
    if schedule_id is None:
        return _answer(call, ScheduleMissing())
    return _answer(call, await schedules.delete_schedule(call.engine, call.environment_id, schedule_id))


async def retrieve_schedule(call: Call) -> Response:
    """A schedule, and when its next runs are."""
    text = call.path_param("schedule_id")
    forbid_unless(call.caller.may("read", ("schedules", text)))
    schedule_id = ids.parse_schedule_id(text)
    found = await schedules.find_schedule(call.engine, call.environment_id, schedule_id) if schedule_id else None
    if found is None:
        return _answer(call, ScheduleMissing())
    return answer_json(200, ScheduleDetail(**_view(call, found), upcoming=_list_upcoming(found)))


async def list_schedules(call: Call) -> Response:
    """A page of schedules, newest first. Pages have numbers, as published clients want them."""
    page, size = (_read_number(call, name, default, most) for name, default, most in _PAGES)
    task = filters.read_text(call, "filter[task]")
    forbid_unless(call.caller.may("read", ("schedules", None)))
    found = await schedules.list_schedules(call.engine, call.environment_id, page=page, size=size, task=task)
    answer = ScheduleList(
        data=[Schedule(**_view(call, one)) for one in found.schedules],
        pagination=SchedulePages(current_page=page, total_pages=math.ceil(found.count / size), count=found.count),
    )
    return answer_json(200, answer)


async def identify_anybody(_engine: Engine, _request: Request) -> Caller:
    """Whoever asks for what is nobody's: published clients send no key for the list of time zones."""
    return Caller(Environment(0, "none", b""), frozenset())


async def answer_timezones(call: Call) -> Response:
    """The names that a schedule's ``timezone`` can have."""
    without = call.request.query_params.get("excludeUtc", "").lower() in ("true", "1")
    return answer_json(200, Timezones(timezones=list(list_timezones()[1 if without else 0 :])))


_PAGES: Final = (("page", 1, _FURTHEST_PAGE), ("perPage", filters.DEFAULT_PAGE, filters.MAX_PAGE))


async def _set_active(call: Call, *, active: bool) -> Response:
    forbid_unless(call.caller.may("write", ("schedules", call.path_param("schedule_id"))))
    schedule_id = ids.parse_schedule_id(call.path_param("schedule_id"))
    if schedule_id is None:
        return _answer(call, ScheduleMissing())
    return _answer(call, await schedules.set_active(call.engine, call.environment_id, schedule_id, active=active))


def _answer(call: Call, outcome: ScheduleKept | ScheduleDeleted | ScheduleRefused | ScheduleMissing) -> Response:
    match outcome:
        case ScheduleKept(schedule):
            return answer_json(200, Schedule(**_view(call, schedule)))
        case ScheduleDeleted(schedule_id):
            return answer_json(200, DeletedSchedule(id=ids.format_schedule_id(schedule_id)))
        case ScheduleRefused(status, message):  # asked again, it is refused again
            return answer_error(status, message, {"x-should-retry": "false"})
        case ScheduleMissing():
            return answer_missing("Schedule not found")


def _refuse_options(call: Call, task: str, options: RunOptions | None) -> None:
    try:
        refuse_faults(task, options)
        refuse_large_metadata(options, call.settings.metadata_max_size)
    except ValueError as error:
        raise AnsweredError(answer_error(422, f"Invalid schedule: {error}")) from None


def _read_number(call: Call, name: str, default: int, most: int) -> int:
    text = call.request.query_params.get(name)
    number = default if not text else limits.parse_whole(text)
    if number is None or not 1 <= number <= most:
        raise limits.bad_query(name, f"{name} must be a whole number from 1 to {most}")
    return number


def _view(call: Call, schedule: ScheduleView) -> dict[str, Any]:
    environment = call.caller.environment
    last = schedule.last_tick
    return {
        "id": ids.format_schedule_id(schedule.id),
        "type": "DECLARATIVE" if schedule.declared else "IMPERATIVE",
        "task": schedule.task,
        "active": schedule.active,
        "generator": ScheduleGenerator(
            expression=schedule.pattern, description=describe_cron(schedule.pattern, schedule.timezone)
        ),
        "timezone": schedule.timezone,
        "catch_up": schedule.catch_up,
        "next_run": format_time(schedule.next_tick) if schedule.next_tick else None,
        "environments": [
            ScheduleEnvironment(id=environment.slug, type=_TYPES.get(environment.slug, environment.slug.upper()))
        ],
        "created_at": format_time(schedule.created_at),
        "updated_at": format_time(schedule.updated_at),
        "deduplication_key": schedule.deduplication_key or UNSET,
        "external_id": schedule.external_id or UNSET,
        "options": schedule.options or UNSET,
        "last_run": format_time(last) if last else UNSET,
        "last_run_id": ids.format_run_id(schedule.last_run_id) if schedule.last_run_id else UNSET,
        "fault": schedule.fault or UNSET,
    }


def _list_upcoming(schedule: ScheduleView) -> list[str]:
    """The next ticks, also a first one that is late."""
    if schedule.next_tick is None:
        return []
    try:
        later = read_cron(schedule.pattern, schedule.timezone).next_ticks(schedule.next_tick, UPCOMING - 1)
    except ValueError:
        later = []
    return [format_time(tick) for tick in (schedule.next_tick, *later)]
