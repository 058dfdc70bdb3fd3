"""Schedules for tests, and a clock of the database that a test sets."""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import uuid4

import asyncpg

from headrace.engine import schedules, sweeps
from headrace.engine.engine import Engine
from headrace.engine.schedule_outcomes import ScheduleKept, ScheduleView
from headrace.protocol.schedules import CreateSchedule
from headrace.settings import Settings
from tests.invariants import fetch_sql
from tests.unit.test_crons import utc

DEV, STAGING = 1, 2
SECOND, MINUTE, HOUR, DAY = timedelta(seconds=1), timedelta(minutes=1), timedelta(hours=1), timedelta(days=1)
NOON = utc("2026-06-15T12:00")


class Clock:
    """The database's clock, where a test wants it. An engine's own connections see it from when they are opened."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings

    @asynccontextmanager
    async def at(self, moment: datetime, **changes: Any) -> AsyncGenerator[Engine]:
        """An engine for which it is ``moment``, and a little later with each statement."""
        shift = (moment - datetime.now(UTC)).total_seconds()
        connection = await asyncpg.connect(self.settings.database_url)
        name = await connection.fetchval("SELECT current_database()")
        await connection.execute(f"ALTER DATABASE {name} SET headrace.clock_shift = '{shift} seconds'")
        await connection.close()
        engine = await Engine.open(replace(self.settings, **changes))
        try:
            yield engine
        finally:
            await engine.close()

    async def create(self, moment: datetime, pattern: str, **given: Any) -> ScheduleView:
        async with self.at(moment) as engine:
            return await create(engine, pattern, **given)

    async def fire(self, moment: datetime, **changes: Any) -> int:
        """How many runs a sweep makes at ``moment``."""
        async with self.at(moment, **changes) as engine:
            return (await sweeps.sweep_once(engine)).runs_scheduled


async def create(engine: Engine, pattern: str, **given: Any) -> ScheduleView:
    """A new schedule of task t, or the changed one of a key."""
    asked = {"task": "t", "deduplication_key": str(uuid4())} | given
    answer = await schedules.create_schedule(engine, DEV, CreateSchedule(cron=pattern, **asked))
    assert isinstance(answer, ScheduleKept), answer
    return answer.schedule


async def look(engine: Engine, schedule: ScheduleView) -> ScheduleView:
    found = await schedules.find_schedule(engine, DEV, schedule.id)
    assert found is not None
    return found


async def read_payloads(engine: Engine, schedule: ScheduleView) -> list[dict[str, Any]]:
    """The payloads of the runs that a schedule made, in the order of their ticks."""
    rows = await fetch_sql(
        engine,
        "SELECT convert_from(payload, 'UTF8') AS payload FROM headrace.runs WHERE schedule_id = $1",
        schedule.id,
    )
    return sorted((json.loads(row["payload"]) for row in rows), key=lambda payload: payload["timestamp"])


async def read_ticks(engine: Engine, schedule: ScheduleView) -> list[datetime]:
    return sorted(datetime.fromisoformat(payload["timestamp"]) for payload in await read_payloads(engine, schedule))


async def move_tick(engine: Engine, schedule: ScheduleView, moment: datetime) -> None:
    """As if the schedule had not been looked at since ``moment``."""
    await fetch_sql(engine.home, "UPDATE headrace.schedules SET next_tick = $2 WHERE id = $1", schedule.id, moment)


def seconds(first: datetime, count: int) -> list[datetime]:
    return [first + n * SECOND for n in range(count)]
