"""Schedules on the wire: created, changed, listed; and the payload of the runs that they make. research/engine.md B14, C1.8."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any, Literal

from msgspec import UNSET, Meta, Struct, UnsetType

from headrace.protocol.options import RunOptions

TaskId = Annotated[str, Meta(min_length=1, max_length=128)]
DeduplicationKey = Annotated[str, Meta(min_length=1, max_length=512)]
ExternalId = Annotated[str, Meta(max_length=512)]
ScheduleType = Literal["DECLARATIVE", "IMPERATIVE"]


class ScheduledPayload(Struct, frozen=True, rename="camel", omit_defaults=True):
    """The payload of a run that a schedule made. Times are in UTC; ``timestamp`` is the nominal one, however late it is.

    ``last_timestamp`` is that of the run before it, None for the first. ``upcoming`` holds the ten ticks after it.
    """

    type: ScheduleType
    timestamp: datetime
    timezone: str
    schedule_id: str
    upcoming: list[datetime]
    last_timestamp: datetime | None = None
    external_id: str | None = None


class CreateSchedule(Struct, frozen=True, rename="camel"):
    """Body of ``POST /api/v1/schedules``. A second one with the same ``deduplicationKey`` changes the schedule of the first.

    ``catchUp`` (skip, one, all) says what becomes of ticks that were missed; ``options`` are those of the runs.
    """

    task: TaskId
    cron: str
    deduplication_key: DeduplicationKey
    external_id: ExternalId | None = None
    timezone: str | None = None
    catch_up: str | None = None
    options: RunOptions | None = None


class UpdateSchedule(Struct, frozen=True, rename="camel"):
    """Body of ``PUT /api/v1/schedules/{id}``: what is not given stays as it is, null is back to the default."""

    task: TaskId | UnsetType = UNSET
    cron: str | UnsetType = UNSET
    external_id: ExternalId | UnsetType | None = UNSET
    timezone: str | UnsetType | None = UNSET
    catch_up: str | UnsetType | None = UNSET
    options: RunOptions | UnsetType | None = UNSET


class ScheduleGenerator(Struct, frozen=True):
    """When it ticks: the pattern, and what it says in English."""

    expression: str
    description: str
    type: Literal["CRON"] = "CRON"


class ScheduleEnvironment(Struct, frozen=True):
    """Where its runs are made."""

    id: str
    type: str


class Schedule(Struct, frozen=True, rename="camel", kw_only=True):
    """A schedule. ``nextRun`` is null while it is not active; ``fault`` says why its latest tick made no run."""

    id: str
    type: ScheduleType
    task: str
    active: bool
    generator: ScheduleGenerator
    timezone: str
    catch_up: str
    next_run: str | None
    environments: list[ScheduleEnvironment]
    created_at: str
    updated_at: str
    deduplication_key: str | UnsetType = UNSET
    external_id: str | UnsetType = UNSET
    options: dict[str, Any] | UnsetType = UNSET
    last_run: str | UnsetType = UNSET
    last_run_id: str | UnsetType = UNSET
    fault: str | UnsetType = UNSET


class ScheduleDetail(Schedule, frozen=True, rename="camel", kw_only=True):
    """Answer to ``GET /api/v1/schedules/{id}``: with the next ten runs."""

    upcoming: list[str]


class SchedulePages(Struct, frozen=True, rename="camel"):
    """Which page of how many, and how many schedules there are."""

    current_page: int
    total_pages: int
    count: int


class ScheduleList(Struct, frozen=True):
    """Answer to ``GET /api/v1/schedules``."""

    data: list[Schedule]
    pagination: SchedulePages


class DeletedSchedule(Struct, frozen=True):
    """Answer to ``DELETE /api/v1/schedules/{id}``."""

    id: str


class Timezones(Struct, frozen=True):
    """Answer to ``GET /api/v1/timezones``."""

    timezones: list[str]
