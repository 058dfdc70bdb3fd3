"""Schedules: made, changed, switched off and on, deleted; and what the runs of their ticks are told."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from datetime import datetime
from typing import Any

import pytest

from headrace.engine import runs, schedules
from headrace.engine.engine import Engine
from headrace.engine.schedule_outcomes import (
    ScheduleDeleted,
    ScheduleKept,
    ScheduleMissing,
    ScheduleRefused,
    ScheduleView,
)
from headrace.ids import format_schedule_id
from headrace.protocol.options import Debounce, QueueOption, RunOptions
from headrace.protocol.schedules import CreateSchedule, UpdateSchedule
from headrace.settings import Settings
from tests.engine.scheduling import (
    DAY,
    DEV,
    HOUR,
    MINUTE,
    NOON,
    SECOND,
    STAGING,
    Clock,
    create,
    look,
    read_payloads,
    read_ticks,
)
from tests.invariants import assert_invariants, fetch_sql
from tests.unit.test_crons import BERLIN, utc

pytestmark = pytest.mark.anyio


@pytest.fixture
def clock(settings: Settings) -> Clock:
    return Clock(settings)


# What a run is told


async def test_a_tick_makes_a_run_that_is_told_of_it(clock: Clock, engine: Engine) -> None:
    options = RunOptions(tags=["nightly"], queue=QueueOption("slow"), max_attempts=1, metadata={"a": 1})
    made = await clock.create(NOON, "0 9 * * MON-FRI", timezone=BERLIN, external_id="mine", options=options)
    monday = utc("2026-06-16T07:00")  # NOON is on a Monday, and 9:00 is over
    assert (made.next_tick, made.last_tick, made.active, made.declared) == (monday, None, True, False)
    assert await clock.fire(monday - SECOND) == 0
    assert await clock.fire(monday + SECOND) == 1
    assert await clock.fire(monday + DAY + SECOND) == 1

    first, second = await read_payloads(engine, made)
    upcoming = [f"2026-06-{day}T07:00:00Z" for day in (17, 18, 19, 22, 23, 24, 25, 26, 29, 30)]
    assert first == {
        "type": "IMPERATIVE",
        "timestamp": "2026-06-16T07:00:00Z",
        "timezone": BERLIN,
        "scheduleId": format_schedule_id(made.id),
        "externalId": "mine",
        "upcoming": upcoming,
    }
    assert second["lastTimestamp"] == "2026-06-16T07:00:00Z"
    assert second["upcoming"][0] == upcoming[1]

    now = await look(engine, made)
    assert (now.last_tick, now.next_tick, now.fault) == (monday + DAY, monday + 2 * DAY, None)
    assert now.last_run_id is not None
    run = await runs.find_run(engine, DEV, now.last_run_id)
    assert run is not None
    assert (run.task, run.queue, run.tags, run.max_attempts, run.metadata) == ("t", "slow", ["nightly"], 1, {"a": 1})
    await assert_invariants(engine)


async def test_runs_of_other_schedules_and_environments_are_not_mixed_up(clock: Clock, engine: Engine) -> None:
    async with clock.at(NOON) as early:
        hourly = await create(early, "0 * * * *", task="a")
        answer = await schedules.create_schedule(early, STAGING, CreateSchedule("b", "0 * * * *", "k"))
        assert isinstance(answer, ScheduleKept)
    assert await clock.fire(NOON + HOUR) == 2
    rows = await fetch_sql(
        engine,
        "SELECT r.environment_id, l.task, r.schedule_id FROM headrace.runs AS r JOIN headrace.lanes AS l ON l.id = r.lane_id",
    )
    assert {tuple(row) for row in rows} == {(DEV, "a", hourly.id), (STAGING, "b", answer.schedule.id)}


# Switched off and on, changed, deleted


async def test_a_schedule_that_is_off_makes_no_run_and_nothing_is_made_up_for(clock: Clock, engine: Engine) -> None:
    made = await clock.create(NOON, "0 * * * *", catch_up="all")
    async with clock.at(NOON + MINUTE) as now:
        answer = await schedules.set_active(now, DEV, made.id, active=False)
        assert isinstance(answer, ScheduleKept)
        assert (answer.schedule.active, answer.schedule.next_tick) == (False, None)
    assert await clock.fire(NOON + HOUR) == 0
    async with clock.at(NOON + 2 * HOUR + MINUTE) as later:
        for _ in range(2):  # the second time it is on already
            answer = await schedules.set_active(later, DEV, made.id, active=True)
            assert isinstance(answer, ScheduleKept)
            assert (answer.schedule.active, answer.schedule.next_tick) == (True, NOON + 3 * HOUR)
    assert await clock.fire(NOON + 2 * HOUR + 2 * MINUTE) == 0
    assert await clock.fire(NOON + 3 * HOUR) == 1
    async with clock.at(NOON + 4 * HOUR) as due:  # what is due stays so where it was on before
        await schedules.set_active(due, DEV, made.id, active=True)
    assert await clock.fire(NOON + 4 * HOUR) == 1
    assert await read_ticks(engine, made) == [NOON + 3 * HOUR, NOON + 4 * HOUR]


async def test_a_key_leads_to_one_schedule_which_the_next_call_changes(clock: Clock, engine: Engine) -> None:
    made = await clock.create(NOON, "0 * * * *", deduplication_key="k", external_id="a", timezone=BERLIN)
    async with clock.at(NOON + HOUR) as due:  # said again, as programs do when they start: what is due is not lost
        again = await create(due, "0 * * * *", deduplication_key="k", timezone=BERLIN)
        assert (again.id, again.next_tick, again.external_id) == (made.id, NOON + HOUR, None)
    assert await clock.fire(NOON + HOUR) == 1
    async with clock.at(NOON + 2 * HOUR) as now:
        changed = await create(now, "30 * * * *", deduplication_key="k", task="other", catch_up="one")
        assert (changed.id, changed.next_tick) == (made.id, NOON + 2 * HOUR + 30 * MINUTE)
        assert (changed.task, changed.timezone, changed.catch_up) == ("other", "UTC", "one")
    assert len((await schedules.list_schedules(engine, DEV)).schedules) == 1


async def test_a_key_is_made_one_schedule_by_many_at_once(engine: Engine) -> None:
    made = await asyncio.gather(*(create(engine, f"{n} * * * *", deduplication_key="k") for n in range(20)))
    assert len({schedule.id for schedule in made}) == 1
    assert (await schedules.list_schedules(engine, DEV)).count == 1


async def test_an_update_changes_what_it_names_and_nothing_else(clock: Clock, engine: Engine) -> None:
    options = RunOptions(tags=["a"])
    made = await clock.create(NOON, "0 * * * *", external_id="x", timezone=BERLIN, catch_up="one", options=options)

    async def update(moment: datetime, **given: Any) -> ScheduleView:
        async with clock.at(moment) as now:
            answer = await schedules.update_schedule(now, DEV, made.id, UpdateSchedule(**given))
        assert isinstance(answer, ScheduleKept), answer
        return answer.schedule

    changed = await update(NOON + HOUR + MINUTE, task="other")
    assert replace(changed, updated_at=made.updated_at) == replace(made, task="other")  # and what is due stays due
    changed = await update(NOON + HOUR + MINUTE, cron="30 * * * *")
    assert (changed.pattern, changed.next_tick, changed.timezone) == ("30 * * * *", NOON + HOUR + 30 * MINUTE, BERLIN)
    changed = await update(NOON, external_id=None, timezone=None, catch_up=None, options=None)
    assert (changed.external_id, changed.timezone, changed.catch_up, changed.options) == (None, "UTC", "skip", {})
    assert isinstance(
        await schedules.update_schedule(engine, DEV, made.id, UpdateSchedule(cron="61 * * * *")), ScheduleRefused
    )
    assert await look(engine, made) == changed
    nobody = await schedules.update_schedule(engine, STAGING, made.id, UpdateSchedule(cron="* * * * *"))
    assert isinstance(nobody, ScheduleMissing)


async def test_a_deleted_schedule_makes_no_runs_and_its_runs_stay(clock: Clock, engine: Engine) -> None:
    made = await clock.create(NOON, "0 * * * *")
    assert await clock.fire(NOON + HOUR) == 1
    assert isinstance(await schedules.delete_schedule(engine, STAGING, made.id), ScheduleMissing)
    assert await schedules.delete_schedule(engine, DEV, made.id) == ScheduleDeleted(made.id)
    assert isinstance(await schedules.delete_schedule(engine, DEV, made.id), ScheduleMissing)
    assert await clock.fire(NOON + 2 * HOUR) == 0
    assert len(await read_ticks(engine, made)) == 1


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ({"cron": "61 * * * *"}, "its minute is '61'"),
        ({"timezone": "Mars/Olympus"}, "timezone is 'Mars/Olympus'"),
        ({"catch_up": "some"}, "catchUp is 'some', but must be one of: skip, one, all"),
        ({"options": RunOptions(delay="soon")}, "delay is 'soon'"),
        ({"options": RunOptions(ttl="soon")}, "'soon' is no duration"),
        ({"options": RunOptions(idempotency_key="k", idempotency_key_ttl="soon")}, "'soon' is no duration"),
        ({"options": RunOptions(debounce=Debounce("k", "0s"))}, "debounce.delay is '0s', but must be more than 0"),
    ],
)
async def test_what_can_not_be_is_refused_and_leaves_nothing(engine: Engine, given: dict[str, Any], told: str) -> None:
    request = CreateSchedule(**{"task": "t", "cron": "* * * * *", "deduplication_key": "k", **given})
    answer = await schedules.create_schedule(engine, DEV, request)
    assert isinstance(answer, ScheduleRefused)
    assert answer.status == 422
    assert told in answer.message
    assert (await schedules.list_schedules(engine, DEV)).count == 0


async def test_pages_are_numbered_newest_first(engine: Engine) -> None:
    made = [await create(engine, "* * * * *", task=f"t{n % 2}") for n in range(5)]
    newest = sorted((schedule.id for schedule in made), reverse=True)
    pages = [await schedules.list_schedules(engine, DEV, page=n, size=2) for n in (1, 2, 3, 4)]
    assert [[one.id for one in page.schedules] for page in pages] == [newest[:2], newest[2:4], newest[4:], []]
    assert {page.count for page in pages} == {5}
    assert (await schedules.list_schedules(engine, DEV, task="t1")).count == 2
    assert (await schedules.list_schedules(engine, STAGING)).count == 0


# What goes wrong at a tick, and keys


@pytest.mark.at_home("runs with a debounce key are at home")
async def test_ticks_that_are_debounced_become_one_run(clock: Clock, engine: Engine) -> None:
    options = RunOptions(debounce=Debounce("k", "90m", mode="trailing"))
    made = await clock.create(NOON, "0 * * * *", options=options)
    assert [await clock.fire(NOON + n * HOUR) for n in (1, 2, 3)] == [1, 0, 0]
    assert await read_ticks(engine, made) == [NOON + 3 * HOUR]
    assert (await look(engine, made)).last_tick == NOON + 3 * HOUR
    await assert_invariants(engine)


@pytest.mark.at_home("the run of a tick with a key is at home, where its key is")
async def test_the_ticks_of_a_schedule_with_an_idempotency_key_share_a_run(clock: Clock, engine: Engine) -> None:
    made = await clock.create(NOON, "0 * * * *", options=RunOptions(idempotency_key="k"))
    assert await clock.fire(NOON + HOUR) == 1
    assert await clock.fire(NOON + 2 * HOUR) == 0
    now = await look(engine, made)
    assert (now.last_tick, now.fault) == (NOON + 2 * HOUR, None)
    assert len(await read_ticks(engine, made)) == 1


@pytest.mark.parametrize(
    ("broken", "told", "goes_on"),
    [
        ('options = jsonb \'{"delay": "soon"}\'', "delay is 'soon'", True),
        ("timezone = 'Mars/Olympus'", "timezone is 'Mars/Olympus'", False),
    ],
)
async def test_a_schedule_that_can_not_go_on_says_why_and_holds_up_no_other(
    clock: Clock, engine: Engine, broken: str, told: str, goes_on: bool
) -> None:
    bad, good = await clock.create(NOON, "0 * * * *"), await clock.create(NOON, "0 * * * *")
    await fetch_sql(engine.home, f"UPDATE headrace.schedules SET {broken} WHERE id = $1", bad.id)
    assert await clock.fire(NOON + HOUR) == 1
    assert await read_ticks(engine, good) == [NOON + HOUR]
    now = await look(engine, bad)
    assert told in (now.fault or "")
    assert now.next_tick == (NOON + 2 * HOUR if goes_on else None)
    await assert_invariants(engine)
    async with clock.at(NOON + HOUR) as later:  # put right
        await schedules.update_schedule(
            later, DEV, bad.id, UpdateSchedule(timezone=None, cron="30 * * * *", options=None)
        )
    assert await clock.fire(NOON + HOUR + 30 * MINUTE) == 1
    assert (await look(engine, bad)).fault is None
