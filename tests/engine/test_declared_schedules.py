"""Schedules that tasks declare in their code: made known by workers that register, and executed by them."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import Any
from uuid import UUID

import pytest

from headrace import ConfigurationError, Cron, RunContext, ScheduledPayload, task
from headrace.engine import schedules, sweeps, versions, workers
from headrace.engine.engine import Engine
from headrace.engine.schedule_outcomes import (
    ScheduleRefused,
    ScheduleView,
)
from headrace.ids import format_schedule_id, task_schedule_id
from headrace.protocol.schedules import UpdateSchedule
from headrace.settings import Settings
from tests.engine.scheduling import DEV, HOUR, MINUTE, NOON, SECOND, STAGING, Clock, look, read_payloads
from tests.invariants import fetch_sql
from tests.unit.test_crons import BERLIN
from tests.worker.helpers import working

pytestmark = pytest.mark.anyio


@pytest.fixture
def clock(settings: Settings) -> Clock:
    return Clock(settings)


# Declared


def registration(task_id: str, cron: Cron | None) -> workers.TaskRegistration:
    return workers.TaskRegistration(task_id, f"task/{task_id}", 3, cron=cron)


async def declare(engine: Engine, environment: str = "dev", version: str = "1", **crons: Cron | None) -> None:
    """A worker that has these tasks registers, at home, where schedules are."""
    tasks = [registration(name, cron) for name, cron in crons.items()]
    await workers.register_worker(engine.home, environment, name="test", tasks=tasks, version=version)


async def list_declared(engine: Engine, environment_id: int = DEV) -> dict[str, ScheduleView]:
    page = await schedules.list_schedules(engine, environment_id, size=100)
    return {one.task: one for one in page.schedules if one.declared}


async def test_what_tasks_declare_is_made_changed_and_deleted_by_workers_that_register(
    clock: Clock, engine: Engine
) -> None:
    async with clock.at(NOON) as now:
        await declare(now, a=Cron("0 * * * *"), b=Cron("30 * * * *", BERLIN, "one", options={"tags": ["x"]}), c=None)
        known = await list_declared(now)
        assert known.keys() == {"a", "b"}
        assert (known["a"].id, known["a"].next_tick) == (task_schedule_id(DEV, "a"), NOON + HOUR)
        b = known["b"]
        assert (b.timezone, b.catch_up, b.options) == (BERLIN, "one", {"tags": ["x"]})
    async with clock.at(NOON + HOUR) as due:
        rows = await fetch_sql(due, "SELECT id, xmin::text FROM headrace.schedules ORDER BY id")
        await declare(due, a=Cron("0 * * * *"), b=Cron("30 * * * *", BERLIN, "one", options={"tags": ["x"]}))
        assert await fetch_sql(due, "SELECT id, xmin::text FROM headrace.schedules ORDER BY id") == rows  # untouched
        await declare(due, a=Cron("0 * * * *", catch_up="all"))  # a worker that does not have b
        known = await list_declared(due)
        assert (known["a"].catch_up, known["a"].next_tick) == ("all", NOON + HOUR)  # what is due is not lost
        assert known["b"] == b
        await declare(due, a=Cron("15 * * * *"), b=None, c=Cron("0 0 * * *"))
        known = await list_declared(due)
        assert known.keys() == {"a", "c"}
        assert known["a"].next_tick == NOON + HOUR + 15 * MINUTE
        assert known["a"].id == task_schedule_id(DEV, "a")
    assert await clock.fire(NOON + HOUR + 15 * MINUTE) == 1
    [payload] = await read_payloads(engine, known["a"])
    assert payload["type"] == "DECLARATIVE"


async def test_many_workers_that_register_at_once_declare_one_schedule(engine: Engine) -> None:
    tasks = {f"t{n}": Cron("0 * * * *") for n in range(10)}
    await asyncio.gather(*(declare(engine, **dict(sorted(tasks.items(), reverse=n % 2 == 0))) for n in range(8)))
    assert len(await list_declared(engine)) == 10


async def test_a_schedule_is_declared_for_the_environments_that_it_names(engine: Engine) -> None:
    await declare(engine, "staging", a=Cron("0 * * * *", environments=["staging", "prod"]))
    await declare(engine, "dev", a=Cron("0 * * * *", environments=["staging", "prod"]))
    assert (await list_declared(engine), (await list_declared(engine, STAGING)).keys()) == ({}, {"a"})
    await declare(engine, "staging", a=Cron("0 * * * *", environments=["prod"]))
    assert await list_declared(engine, STAGING) == {}


async def test_the_current_version_of_a_task_says_when_it_ticks(engine: Engine) -> None:
    async def read_patterns() -> dict[str, str]:
        return {name: one.pattern for name, one in (await list_declared(engine)).items()}

    await declare(engine, version="old", a=Cron("0 1 * * *"), b=Cron("0 1 * * *"))
    await declare(engine, version="new", a=Cron("0 2 * * *"), b=None, c=Cron("0 2 * * *"))
    assert await read_patterns() == {"a": "0 2 * * *", "c": "0 2 * * *"}
    await declare(
        engine, version="old", a=Cron("0 1 * * *"), b=Cron("0 1 * * *")
    )  # one that comes back while it drains
    assert await read_patterns() == {"a": "0 2 * * *", "c": "0 2 * * *"}
    await versions.promote_version(engine, DEV, "old")  # a step back
    assert await read_patterns() == {"a": "0 1 * * *", "b": "0 1 * * *", "c": "0 2 * * *"}
    await versions.promote_version(engine, DEV, "new")
    assert await read_patterns() == {"a": "0 2 * * *", "c": "0 2 * * *"}
    await declare(engine, version="new", a=None, c=Cron("0 2 * * *"))  # the same name for other code
    assert await read_patterns() == {"c": "0 2 * * *"}


async def test_a_version_that_waits_for_its_promotion_changes_no_schedule(engine: Engine) -> None:
    careful = replace(engine.home, settings=replace(engine.home.settings, promote="manual"))
    await declare(careful, version="old", a=Cron("0 1 * * *"))
    await declare(careful, version="new", a=Cron("0 2 * * *"))
    assert (await list_declared(engine))["a"].pattern == "0 1 * * *"
    await versions.promote_version(careful, DEV, "new")
    assert (await list_declared(engine))["a"].pattern == "0 2 * * *"


async def test_what_code_declares_is_not_changed_over_the_api_but_can_be_switched_off(engine: Engine) -> None:
    await declare(engine, a=Cron("0 * * * *"))
    known = (await list_declared(engine))["a"]
    for answer in (
        await schedules.update_schedule(engine, DEV, known.id, UpdateSchedule(cron="* * * * *")),
        await schedules.delete_schedule(engine, DEV, known.id),
    ):
        assert isinstance(answer, ScheduleRefused)
        assert answer.status == 409
        assert "is declared in the code of its task" in answer.message
    assert await look(engine, known) == known
    await schedules.set_active(engine, DEV, known.id, active=False)
    await declare(engine, a=Cron("30 * * * *"))  # a worker that restarts does not switch it on
    now = await look(engine, known)
    assert (now.active, now.pattern) == (False, "30 * * * *")


async def test_options_that_no_run_can_have_stop_the_worker_that_declares_them(engine: Engine) -> None:
    with pytest.raises(ConfigurationError, match=r"task 'a', cron: .*there are: .*tags"):
        await declare(engine, a=Cron("0 * * * *", options={"tag": "x"}))
    with pytest.raises(ConfigurationError, match=r"task 'a', cron: .*delay"):
        await declare(engine, a=Cron("0 * * * *", options={"delay": "soon"}))
    assert await list_declared(engine) == {}


# With a worker


told: list[Any] = []


@task(id="scheduled-plain", cron="* * * * * *")
def plain() -> str:
    return "plain"


@task(id="scheduled-told", cron=Cron("* * * * * *", timezone=BERLIN, options={"tags": ["tick"]}))
async def tell(tick: ScheduledPayload, run: RunContext) -> None:
    told.append((tick, run.tags))


async def test_a_worker_declares_its_tasks_and_executes_their_ticks(engine: Engine) -> None:
    told.clear()
    stop = asyncio.Event()
    async with working(engine, plain, tell):
        sweeping = asyncio.create_task(sweeps.run_sweeps(engine.home, stop))
        async with asyncio.timeout(20):
            while len(told) < 2 or not await fetch_sql(engine, "SELECT FROM headrace.runs WHERE output = '\"plain\"'"):
                await asyncio.sleep(0.02)
        stop.set()
        await sweeping
    (first, tags), (second, _) = sorted(told, key=lambda pair: pair[0].timestamp)[:2]
    assert (first.type, first.timezone, tags) == ("DECLARATIVE", BERLIN, ("tick",))
    assert first.schedule_id == format_schedule_id(task_schedule_id(DEV, "scheduled-told"))
    assert second.timestamp == first.timestamp + SECOND == first.upcoming[0]
    assert second.last_timestamp == first.timestamp
    assert not await fetch_sql(engine, "SELECT FROM headrace.runs WHERE status = 'FAILED'")


def test_the_id_of_a_declared_schedule_follows_from_its_task() -> None:
    assert task_schedule_id(DEV, "a") == task_schedule_id(DEV, "a")
    assert len({task_schedule_id(DEV, "a"), task_schedule_id(STAGING, "a"), task_schedule_id(DEV, "b")}) == 3
    assert isinstance(task_schedule_id(DEV, "a"), UUID)
