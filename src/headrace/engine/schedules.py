"""Schedules: made, changed, switched on and off, listed. Those that a task's code declares are in ``declarations``, what
happens when one ticks in ``ticks``.

A schedule's next tick is a column. Whoever writes it holds the schedule's row and computes it from the database's clock: on
a new pattern, on being switched on, and when a tick is done with.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any, Final
from uuid import UUID

import msgspec
from msgspec import UnsetType

from headrace.crons import CatchUp, read_catch_up, read_cron
from headrace.engine.debounces import read_window
from headrace.engine.engine import Engine
from headrace.engine.idempotency import find_ttl
from headrace.engine.items import delayed_until, stored_options
from headrace.engine.schedule_outcomes import (
    ScheduleDeleted,
    ScheduleKept,
    ScheduleMissing,
    SchedulePage,
    ScheduleRefused,
    ScheduleView,
)
from headrace.ids import mint_schedule_id
from headrace.protocol.options import RunOptions
from headrace.protocol.schedules import CreateSchedule, UpdateSchedule
from headrace.store.statements import Plan, Record, query

_encode: Final = msgspec.json.Encoder().encode
_COLUMNS: Final = (
    "id", "environment_id", "declared", "task", "deduplication_key", "external_id", "pattern", "timezone", "active",
    "last_tick", "last_run_id", "fault", "created_at", "updated_at",
)  # fmt: skip

_DECLARED: Final = ScheduleRefused(
    409,
    "This schedule is declared in the code of its task, and can't be changed or deleted over the API: change cron= there. "
    "It can be deactivated.",
)


@dataclass(frozen=True, slots=True)
class SchedulePlan:
    """What a schedule is to be, checked."""

    task: str
    pattern: str
    timezone: str
    catch_up: CatchUp
    external_id: str | None
    options: dict[str, Any]

    @classmethod
    def read(
        cls,
        task: str,
        pattern: str,
        timezone: str | None = None,
        catch_up: str | None = None,
        external_id: str | None = None,
        options: RunOptions | None = None,
    ) -> SchedulePlan:
        """Checks what was asked for. Raises ValueError saying what is wrong."""
        read_cron(pattern, timezone or "UTC")
        if options is not None:
            check_options(options)
        return cls(
            task,
            pattern,
            timezone or "UTC",
            read_catch_up(catch_up or "skip"),
            external_id or None,
            {} if options is None else msgspec.to_builtins(options),
        )

    @classmethod
    def read_row(cls, row: Record) -> SchedulePlan:
        """What a schedule is, from its row."""
        catch_up = read_catch_up(row["catch_up"])
        return cls(row["task"], row["pattern"], row["timezone"], catch_up, row["external_id"], _read_options(row))

    @property
    def spelt_options(self) -> str | None:
        """The options of its runs as they are stored: JSON, or None where nothing is said."""
        return _encode(self.options).decode("utf-8") if self.options else None

    def next_tick(self, now: datetime) -> datetime | None:
        """The first tick after a moment."""
        return read_cron(self.pattern, self.timezone).next_tick(now)


async def create_schedule(
    engine: Engine, environment_id: int, request: CreateSchedule
) -> ScheduleKept | ScheduleRefused:
    """A new schedule; or the one that its deduplication key stands for, changed to what is asked for now."""
    engine = engine.home
    try:
        asked = SchedulePlan.read(
            request.task, request.cron, request.timezone, request.catch_up, request.external_id, request.options
        )
    except ValueError as error:
        return ScheduleRefused(422, str(error))
    return await engine.store.run_plan(_upsert(environment_id, request.deduplication_key, asked))


async def update_schedule(
    engine: Engine, environment_id: int, schedule_id: UUID, request: UpdateSchedule
) -> ScheduleKept | ScheduleRefused | ScheduleMissing:
    """Changes a schedule that was made over the API. What the request leaves out stays as it is."""
    engine = engine.home
    try:
        return await engine.store.run_plan(_update(environment_id, schedule_id, request))
    except ValueError as error:
        return ScheduleRefused(422, str(error))


async def set_active(
    engine: Engine, environment_id: int, schedule_id: UUID, *, active: bool
) -> ScheduleKept | ScheduleMissing:
    """Switches a schedule on or off. Ticks that came while it was off are not made up for."""
    engine = engine.home
    return await engine.store.run_plan(_set_active(environment_id, schedule_id, active=active))


async def delete_schedule(
    engine: Engine, environment_id: int, schedule_id: UUID
) -> ScheduleDeleted | ScheduleRefused | ScheduleMissing:
    """Deletes a schedule that was made over the API; its runs stay."""
    engine = engine.home
    return await engine.store.run_plan(_delete(environment_id, schedule_id))


async def find_schedule(engine: Engine, environment_id: int, schedule_id: UUID) -> ScheduleView | None:
    """The schedule as it stands, or None where this environment has none with that id."""
    engine = engine.home
    rows = await engine.store.fetch("find_schedule", environment_id, schedule_id)
    return read_schedule(rows[0]) if rows else None


async def list_schedules(
    engine: Engine, environment_id: int, *, page: int = 1, size: int = 25, task: str | None = None
) -> SchedulePage:
    """A page of schedules, newest first; pages are numbered from 1."""
    engine = engine.home
    return await engine.store.run_plan(_list(environment_id, page, size, task))


def read_schedule(row: Record) -> ScheduleView:
    """A schedule from a row."""
    return ScheduleView(
        **{name: row[name] for name in _COLUMNS},
        catch_up=read_catch_up(row["catch_up"]),
        options=_read_options(row),
        next_tick=row["next_tick"] if row["active"] else None,
    )


def check_options(options: RunOptions) -> None:
    """Raises ValueError on options that no tick could make a run with, before anything is written for it."""
    delayed_until(options)
    stored_options(options)
    find_ttl(options, 0)
    read_window(options)


def _upsert(environment_id: int, key: str, asked: SchedulePlan) -> Plan[ScheduleKept]:
    [clock] = yield from query("read_clock")
    [row] = yield from query(
        "upsert_schedule", environment_id, mint_schedule_id(), key, *_arguments(asked), asked.next_tick(clock["now"])
    )
    return ScheduleKept(read_schedule(row))


def _update(
    environment_id: int, schedule_id: UUID, request: UpdateSchedule
) -> Plan[ScheduleKept | ScheduleRefused | ScheduleMissing]:
    rows = yield from query("lock_schedule", environment_id, schedule_id)
    if not rows:
        return ScheduleMissing()
    [row] = rows
    if row["declared"]:
        return _DECLARED
    said = SchedulePlan.read_row(row)
    asked = SchedulePlan.read(
        said.task if isinstance(request.task, UnsetType) else request.task,
        said.pattern if isinstance(request.cron, UnsetType) else request.cron,
        said.timezone if isinstance(request.timezone, UnsetType) else request.timezone,
        said.catch_up if isinstance(request.catch_up, UnsetType) else request.catch_up,
        said.external_id if isinstance(request.external_id, UnsetType) else request.external_id,
        None if isinstance(request.options, UnsetType) else request.options,
    )
    if isinstance(request.options, UnsetType):
        asked = replace(asked, options=said.options)
    stays = (said.pattern, said.timezone) == (asked.pattern, asked.timezone)  # then what is due already is not lost
    tick = row["next_tick"] if stays else asked.next_tick(row["now"])
    return (yield from _write(environment_id, schedule_id, asked, active=row["active"], tick=tick))


def _set_active(environment_id: int, schedule_id: UUID, *, active: bool) -> Plan[ScheduleKept | ScheduleMissing]:
    rows = yield from query("lock_schedule", environment_id, schedule_id)
    if not rows:
        return ScheduleMissing()
    [row] = rows
    if row["active"] == active:
        return ScheduleKept(read_schedule(row))
    kept = SchedulePlan.read_row(row)
    tick = kept.next_tick(row["now"]) if active else row["next_tick"]
    return (yield from _write(environment_id, schedule_id, kept, active=active, tick=tick))


def _write(
    environment_id: int, schedule_id: UUID, asked: SchedulePlan, *, active: bool, tick: datetime | None
) -> Plan[ScheduleKept]:
    [row] = yield from query("update_schedule", environment_id, schedule_id, *_arguments(asked), active, tick)
    return ScheduleKept(read_schedule(row))


def _delete(environment_id: int, schedule_id: UUID) -> Plan[ScheduleDeleted | ScheduleRefused | ScheduleMissing]:
    rows = yield from query("lock_schedule", environment_id, schedule_id)
    if not rows:
        return ScheduleMissing()
    if rows[0]["declared"]:
        return _DECLARED
    yield from query("delete_schedule", environment_id, schedule_id)
    return ScheduleDeleted(schedule_id)


def _list(environment_id: int, page: int, size: int, task: str | None) -> Plan[SchedulePage]:
    [counted] = yield from query("count_schedules", environment_id, task)
    rows = yield from query("list_schedules", environment_id, size, (page - 1) * size, task)
    return SchedulePage([read_schedule(row) for row in rows], counted["count"])


def _arguments(asked: SchedulePlan) -> list[Any]:
    return [asked.task, asked.external_id, asked.pattern, asked.timezone, asked.catch_up, asked.spelt_options]


def _read_options(row: Record) -> dict[str, Any]:
    return json.loads(row["options"]) if row["options"] else {}
