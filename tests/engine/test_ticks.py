"""Ticks: each has exactly one run, whoever sweeps, dies, or was away, and whatever the clock does."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any
from zoneinfo import ZoneInfo

import pytest

from headrace.engine import schedules, sweeps
from headrace.engine.engine import Engine
from headrace.engine.ticks import fire_due
from headrace.protocol.schedules import UpdateSchedule
from headrace.settings import Settings
from headrace.store.statements import Record, load_sql
from headrace.store.store import Store, run_plan_on
from tests.chaos.test_crash_points import kill_at
from tests.engine.held import held_at, holding
from tests.engine.scheduling import (
    DAY,
    DEV,
    HOUR,
    MINUTE,
    NOON,
    SECOND,
    Clock,
    create,
    look,
    move_tick,
    read_payloads,
    read_ticks,
    seconds,
)
from tests.invariants import assert_invariants, fetch_sql
from tests.unit.test_crons import CHANGES, Times, count_by_hand, utc

pytestmark = pytest.mark.anyio
AT_HOME = pytest.mark.at_home("schedules are at home, and this drives what fires their ticks by hand")


@pytest.fixture
def clock(settings: Settings) -> Clock:
    return Clock(settings)


# Over changes of the clock


@AT_HOME
@pytest.mark.parametrize("zone", CHANGES)
@pytest.mark.parametrize("change", [0, 1])
async def test_each_tick_around_a_change_of_the_clock_has_one_run(
    clock: Clock, engine: Engine, zone: str, change: int
) -> None:
    every = frozenset(range(7))
    wanted = [
        Times(frozenset({minute}), frozenset({hour}), every)
        for hour, minute in ((1, 45), (2, 0), (2, 15), (2, 30), (3, 0))
    ]
    wanted += [
        Times(frozenset({0, 30}), frozenset({1, 2, 3}), every),
        Times(frozenset({15}), frozenset(range(24)), every),
    ]
    midnight = datetime.fromisoformat(CHANGES[zone][change]).replace(tzinfo=ZoneInfo(zone)).astimezone(UTC)
    first, last = midnight - HOUR, midnight + 29 * HOUR
    async with clock.at(first) as early:
        made = [await create(early, times.pattern, timezone=zone) for times in wanted]
    patient = replace(engine.settings, schedule_tolerance=7200.0)
    async with engine.store.connect() as connection:  # as its own clock goes on, in steps
        at = first
        while at < last:
            at = min(at + (13 * MINUTE if midnight <= at < midnight + 5 * HOUR else HOUR), last)
            shift = f"{(at - datetime.now(UTC)).total_seconds()} seconds"
            async with connection.transaction():
                await connection.execute("SELECT set_config('headrace.clock_shift', $1, true)", shift)
                await run_plan_on(connection, fire_due(patient, engine.lanes, 100))
    for times, schedule in zip(wanted, made, strict=True):
        expected = sorted({tick for tick in count_by_hand(times, ZoneInfo(zone), first, last) if first < tick <= last})
        assert await read_ticks(engine, schedule) == expected, times.pattern


# Exactly once


async def fire_alone(settings: Settings, start: asyncio.Event) -> int:
    """The runs that one who sweeps makes, on a connection of its own, though nobody elected it."""
    engine = await Engine.open(settings)
    try:
        await start.wait()
        return (await engine.store.run_plan(fire_due(settings, engine.lanes, 100))).runs
    finally:
        await engine.close()


@AT_HOME
async def test_however_many_sweep_at_once_a_tick_has_one_run(engine: Engine) -> None:
    made = [await create(engine, "* * * * * *") for _ in range(10)]
    first = datetime.now(UTC).replace(microsecond=0) - 30 * SECOND
    for schedule in made:
        await move_tick(engine, schedule, first)
    start = asyncio.Event()
    racing = [asyncio.create_task(fire_alone(engine.settings, start)) for _ in range(8)]
    start.set()
    counts = await asyncio.gather(*racing)
    for schedule in made:
        ticks = await read_ticks(engine, schedule)
        assert ticks == seconds(first, len(ticks))
        assert 31 <= len(ticks) <= 60
    assert sum(counts) == len(await fetch_sql(engine, "SELECT FROM headrace.runs"))
    await assert_invariants(engine)


@AT_HOME
async def test_whoever_comes_second_leaves_what_is_held_and_finds_it_done(engine: Engine) -> None:
    schedule = await create(engine, "0 0 1 1 *")
    await move_tick(
        engine, schedule, datetime.now(UTC).replace(month=1, day=1, hour=0, minute=0, second=0, microsecond=0)
    )
    patient = replace(engine.settings, schedule_tolerance=400 * 86_400.0)
    async with holding(engine, "after:insert_run") as (slow, hold):
        first = await held_at(hold, slow.store.run_plan(fire_due(patient, slow.lanes, 100)))
        assert (await engine.store.run_plan(fire_due(patient, engine.lanes, 100))).schedules == 0
        hold.released.set()
        assert (await first).runs == 1
    assert (await engine.store.run_plan(fire_due(patient, engine.lanes, 100))).schedules == 0
    assert len(await read_ticks(engine, schedule)) == 1


@AT_HOME
@pytest.mark.parametrize(
    ("point", "left"),
    [
        ("before:lock_due_schedules", 0),
        ("after:lock_due_schedules", 0),
        ("after:claim_keys", 0),
        ("before:insert_run", 0),
        ("after:insert_run", 0),
        ("before:advance_schedules", 0),
        ("after:advance_schedules", 0),
        ("committed:advance_schedules", 2),
    ],
)
async def test_a_kill_at_any_point_leaves_a_tick_due_or_done(engine: Engine, point: str, left: int) -> None:
    made = [await create(engine, "0 0 1 1 *") for _ in range(2)]
    for schedule in made:
        await move_tick(engine, schedule, utc("2026-01-01"))
    await fetch_sql(engine, "UPDATE headrace.schedules SET catch_up = 'one'")
    await kill_at(engine, "sweep", point)
    assert len(await fetch_sql(engine, "SELECT FROM headrace.runs")) == left
    for _ in range(2):
        await sweeps.sweep_once(engine)
    for schedule in made:
        assert len(await read_ticks(engine, schedule)) == 1
        assert (await look(engine, schedule)).next_tick == utc("2027-01-01")
    await assert_invariants(engine)


async def test_a_clock_that_is_put_back_makes_no_second_run(clock: Clock, engine: Engine) -> None:
    made = await clock.create(NOON, "0 * * * *")
    assert await clock.fire(NOON + HOUR) == 1
    async with clock.at(NOON + 30 * MINUTE) as earlier:  # with a new pattern, the next tick is computed anew
        await schedules.update_schedule(earlier, DEV, made.id, UpdateSchedule(cron="0 13 * * *"))
    assert (await look(engine, made)).next_tick == NOON + HOUR
    assert await clock.fire(NOON + HOUR) == 0
    assert await read_ticks(engine, made) == [NOON + HOUR]
    assert (await look(engine, made)).next_tick == NOON + HOUR + DAY


@AT_HOME
async def test_a_sweep_wakes_for_the_tick_and_not_at_its_next_look(engine: Engine) -> None:
    schedule = await create(engine, "* * * * * *")
    stop = asyncio.Event()
    sweeping = asyncio.create_task(sweeps.run_sweeps(engine, stop, interval=60))
    async with asyncio.timeout(50):
        while len(ticks := await read_ticks(engine, schedule)) < 2:
            await asyncio.sleep(0.05)
    stop.set()
    await sweeping
    rows = await fetch_sql(engine, "SELECT created_at FROM headrace.runs ORDER BY id")
    assert all(row["created_at"] - tick < 30 * SECOND for row, tick in zip(rows, ticks, strict=False))


class LateStore(Store):
    """A store of which each look at what is due comes so late that a tick is."""

    async def fetch(self, name: str, *args: Any) -> list[Record]:
        if name == "find_due_work":
            await asyncio.sleep(1.0)
        return await super().fetch(name, *args)


@AT_HOME
async def test_a_tick_that_comes_while_others_are_fired_does_not_wait_for_the_next_look(engine: Engine) -> None:
    schedule = await create(engine, "* * * * * *")
    stop, store = asyncio.Event(), await LateStore.open(engine.settings)
    sweeping = asyncio.create_task(sweeps.run_sweeps(replace(engine, store=store), stop, interval=600))
    try:
        async with asyncio.timeout(50):
            while len(await read_ticks(engine, schedule)) < 4:
                await asyncio.sleep(0.05)
    finally:
        stop.set()
        await sweeping
        await store.close()


# Missed ticks


@pytest.mark.parametrize(
    ("policy", "late", "expected"),
    [
        # every hour; nobody looked from noon on
        ("skip", 3 * HOUR + 4 * MINUTE, [3]),
        ("skip", 3 * HOUR + 6 * MINUTE, []),
        ("one", 3 * HOUR + 4 * MINUTE, [2, 3]),
        ("one", 3 * HOUR + 6 * MINUTE, [3]),
        ("all", 3 * HOUR + 4 * MINUTE, [1, 2, 3]),
        ("all", 3 * HOUR + 6 * MINUTE, [1, 2, 3]),
        ("all", 9 * HOUR + 6 * MINUTE, [6, 7, 8, 9]),
        ("all", 9 * HOUR + 4 * MINUTE, [5, 6, 7, 8, 9]),
    ],
)
async def test_missed_ticks_become_what_the_policy_says(
    clock: Clock, engine: Engine, policy: str, late: timedelta, expected: list[int]
) -> None:
    made = await clock.create(NOON, "0 * * * *", catch_up=policy)
    assert await clock.fire(NOON + late, schedule_catch_up=4) == len(expected)
    assert await read_ticks(engine, made) == [NOON + hours * HOUR for hours in expected]
    now = await look(engine, made)
    assert now.next_tick == (NOON + late).replace(minute=0) + HOUR
    assert now.last_tick == (NOON + expected[-1] * HOUR if expected else None)
    payloads = await read_payloads(engine, made)
    told = [payload.get("lastTimestamp") for payload in payloads]
    assert told == [None, *(payload["timestamp"] for payload in payloads)][: len(payloads)]


@AT_HOME
async def test_many_late_ticks_are_made_a_bounded_part_at_a_time(engine: Engine) -> None:
    made = [await create(engine, "* * * * * *") for _ in range(4)]
    first = datetime.now(UTC).replace(microsecond=0) - 200 * SECOND
    for schedule in made:
        await move_tick(engine, schedule, first)
    part = await engine.store.run_plan(fire_due(engine.settings, engine.lanes, 100))
    assert (part.runs, part.more) == (500, True)
    report = await sweeps.sweep_once(engine)
    for schedule in made:
        ticks = await read_ticks(engine, schedule)
        assert ticks == seconds(first, len(ticks))
        assert len(ticks) >= 201
    assert report.runs_scheduled + part.runs == len(await fetch_sql(engine, "SELECT FROM headrace.runs"))


async def test_a_year_of_missed_seconds_costs_no_more_than_a_day(clock: Clock, engine: Engine) -> None:
    made = [await clock.create(NOON, "* * * * * *", catch_up=policy) for policy in ("skip", "one", "all")]
    late = NOON + 365 * DAY
    async with asyncio.timeout(60):
        await clock.fire(late, schedule_tolerance=1.0, schedule_catch_up=5)
    skipped, one, several = [await read_ticks(engine, schedule) for schedule in made]
    assert 0 < len(skipped) < len(one) < len(several)
    assert all(late - 10 * SECOND < tick < late + 5 * SECOND for tick in several)


# Plans


@pytest.mark.one_store("the plan of one statement, in one database")
async def test_what_is_due_is_found_by_its_index_among_very_many(engine: Engine) -> None:
    await fetch_sql(
        engine,
        "INSERT INTO headrace.schedules (environment_id, id, declared, task, deduplication_key, pattern, timezone, catch_up,"
        " active, next_tick, created_at, updated_at) SELECT 1, gen_random_uuid(), false, 't', n::text, '* * * * *', 'UTC',"
        " 'skip', n % 5 > 0, now() + n * interval '1 second' - interval '10 seconds', now(), now() FROM generate_series(1, 50000) n",
    )
    await fetch_sql(engine, "ANALYZE headrace.schedules")
    async with engine.store.connect() as connection:
        for name, arguments in (("lock_due_schedules", [100]), ("find_due_work", [])):
            plan = await connection.fetch(f"EXPLAIN {load_sql(name)}", *arguments)
            text = "\n".join(row[0] for row in plan)
            assert (
                "Index Scan using schedules_due on schedules" in text or "Index Only Scan using schedules_due" in text
            )
            assert "Seq Scan on schedules" not in text
