"""What the engine answers about schedules: values to match on, as in ``outcomes``."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime
from typing import Any
from uuid import UUID

from headrace.crons import CatchUp


@dataclass(frozen=True, slots=True)
class ScheduleView:
    """A schedule as it stands. Times are aware, in UTC; ``next_tick`` is None while it is not active.

    ``declared`` says that it stands in the code of its task. ``last_tick`` is the latest that made a run, ``fault`` why the
    latest made none.
    """

    id: UUID
    environment_id: int
    declared: bool
    task: str
    deduplication_key: str | None
    external_id: str | None
    pattern: str
    timezone: str
    catch_up: CatchUp
    options: dict[str, Any]
    active: bool
    next_tick: datetime | None
    last_tick: datetime | None
    last_run_id: UUID | None
    fault: str | None
    created_at: datetime
    updated_at: datetime


@dataclass(frozen=True, slots=True)
class ScheduleKept:
    """The schedule as it is now, by this call."""

    schedule: ScheduleView


@dataclass(frozen=True, slots=True)
class ScheduleDeleted:
    """The schedule is gone."""

    id: UUID


@dataclass(frozen=True, slots=True)
class ScheduleRefused:
    """A schedule that can't be, or can't be changed so: HTTP ``status`` and a sentence."""

    status: int
    message: str


@dataclass(frozen=True, slots=True)
class ScheduleMissing:
    """No such schedule in this environment."""


@dataclass(frozen=True, slots=True)
class SchedulePage:
    """A page of schedules, newest first, and how many there are in all."""

    schedules: list[ScheduleView]
    count: int


@dataclass(slots=True)
class TicksFired:
    """What one look at due ticks did: so many schedules, and runs in these environments; whether more may be due."""

    schedules: int = 0
    runs: int = 0
    more: bool = False
    environments: set[int] = field(default_factory=set[int])
