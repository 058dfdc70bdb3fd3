"""SIGKILL after every statement, in either store, of all that a wait across stores consists of, and past each commit.

Which statements those are is not listed here: each operation is done once unharmed, and what it sent is where the next
ones are killed. After each kill workers and sweeps bring the run that waits to its end, told the right outcome, with
nothing left in the outbox and nothing that an audit would have had to repair.
"""

from __future__ import annotations

import dataclasses
import json
import signal
from contextlib import AsyncExitStack
from datetime import UTC, datetime
from itertools import count
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest

from headrace.engine import sweeps, tokens
from headrace.engine.audits import AuditPlace, audit_once
from headrace.engine.engine import Engine
from headrace.engine.mirrors import MirrorPlace, audit_mirrors
from headrace.engine.registry import change_store
from headrace.ids import store_of
from tests.chaos.mirror_crash_child import make_deed, operate
from tests.chaos.test_crash_points import wait_for_connections_to_end
from tests.engine.foreign import (
    OUTPUT,
    Single,
    Waiter,
    assert_all_well,
    finish_all,
    make_keyed,
    make_token,
    sending_here,
)
from tests.engine.helpers import claim, register
from tests.engine.scheduling import create, look, move_tick
from tests.invariants import fetch_sql
from tests.nursery import run_forked

pytestmark = pytest.mark.anyio

ROOT = Path(__file__).parent.parent.parent
SILENT = "UPDATE headrace.workers SET lease_until = now() - interval '1 second' WHERE ended_at IS NULL"
DUE = "UPDATE headrace.outbox SET due_at = now()"

_keys = count()


class Story:
    """A run in one store that waits for a token or a run of another, from its begin to its end."""

    def __init__(self, fleet: list[Engine], shape: str, waiter: Waiter, given: dict[str, Any]) -> None:
        self.home, self.fleet, self.shape, self.waiter, self.given = fleet[0], fleet, shape, waiter, given
        self.here = waiter.engine
        self.there = self.here.at(UUID(given["target"]))

    @classmethod
    async def begin(cls, fleet: list[Engine], shape: str) -> Story:
        """The thing is at home, the run that is to wait for it is claimed in s1."""
        home, here, _ = fleet
        key = f"k{next(_keys)}"
        waiter = await Waiter.start(here)
        given: dict[str, Any] = {"run": str(waiter.id), "worker": waiter.lease.worker_id, "shape": shape, "key": key}
        given["attempt"] = waiter.parent.run.attempt
        if shape == "token":
            given["target"] = str(await make_token(home))
        else:
            [target] = await make_keyed(home, key)
            lease = await register(home, "t")
            assert [run.id for run in await claim(home, lease)] == [target]
            given |= {"target": str(target), "worker there": lease.worker_id}
        return cls(fleet, shape, waiter, given)

    async def write(self) -> None:
        await self.waiter.write(make_deed(self.here, self.shape, self.given))
        await self.waiter.sleep()

    async def end(self) -> None:
        await operate(self.home, "complete" if self.shape == "token" else "finish", self.given)

    async def go_on(self) -> None:
        """What is left, however it stands: the old workers are dead, sweeps and others come."""
        for _ in range(8):
            for one in (self.home, self.here):
                await fetch_sql(one, SILENT)
                await fetch_sql(one, DUE)
                await sweeps.sweep_once(one)
                if self.shape != "token" or one is self.here:
                    await finish_all(one, await register(one, "t"))
            if self.shape == "token":
                await tokens.complete_token(self.home, 1, UUID(self.given["target"]), OUTPUT)
            lease = await register(self.here, "p", "t")
            for run in await claim(self.here, lease, 1, "p"):
                self.waiter.lease, self.waiter.parent.lease, self.waiter.parent.run = lease, lease, run
                points = {point.name: point for point in run.journal}
                if "point" not in points:
                    await self.write()
                elif points["point"].pending:
                    await self.waiter.sleep()
                else:
                    assert await self.waiter.parent.end(self.here) == set()
            if await self.waiter.status() == "COMPLETED":
                return
        raise AssertionError(await fetch_sql(self.here, "SELECT id, status, attempt FROM headrace.runs"))

    async def assert_right(self, point: str) -> None:
        """It was told the outcome, and nothing is left over."""
        told = await self.waiter.read()
        assert told.status == "COMPLETED", point
        if self.shape != "batch":
            assert told.value == OUTPUT, point
        for one in (self.home, self.here):
            await fetch_sql(one, DUE)
            await sweeps.sweep_once(one)
            for table in ("outbox", "interests"):
                assert await fetch_sql(one, f"SELECT * FROM headrace.{table}") == [], (point, one.name, table)
            assert await audit_mirrors(one, MirrorPlace(), quiet=0) == 0, point
            assert await audit_once(one, AuditPlace()) == 0, point
        assert len(await fetch_sql(self.here, "SELECT FROM headrace.journal WHERE run_id = $1", self.waiter.id)) == 1
        await assert_all_well([self.home, self.here])


async def list_points(fleet: list[Engine], operation: str, given: dict[str, Any]) -> list[str]:
    """Where an operation can be killed, once it is done."""
    async with AsyncExitStack() as stack:
        sent = [await stack.enter_async_context(sending_here(one)) for one in fleet[:2]]
        await operate(fleet[0], operation, given)
        names = list(dict.fromkeys(name for some in sent for name in some))
    # a lane is made once; which process sweeps is asked in each transaction
    names = [name for name in names if name not in ("insert_lanes", "elect_sweeper", "list_stores", "send_notice")]
    moments = {name: "before" if isinstance(name, Single) else "after" for name in names}
    return [point for name, moment in moments.items() for point in (f"{moment}:{name}", f"committed:{name}")]


async def kill_at(fleet: list[Engine], operation: str, point: str, given: dict[str, Any]) -> None:
    settings = json.dumps(dataclasses.asdict(fleet[0].settings))
    ended = await run_forked("tests.chaos.mirror_crash_child", settings, operation, point, json.dumps(given))
    assert ended == -signal.SIGKILL, point
    for one in fleet[:2]:
        await wait_for_connections_to_end(one)


@pytest.mark.parametrize("shape", ["token", "keyed", "batch"])
async def test_who_is_killed_while_a_wait_is_written_leaves_it_to_be_written(fleet: list[Engine], shape: str) -> None:
    story = await Story.begin(fleet, shape)
    points = await list_points(fleet, "write", story.given)
    assert {"after:insert_interests", "committed:insert_mirrors", "after:try_hold_mirrors"} <= set(points)
    await story.waiter.sleep()
    await story.go_on()
    await story.assert_right("unharmed")
    for point in points:
        story = await Story.begin(fleet, shape)
        await kill_at(fleet, "write", point, story.given)
        await story.go_on()
        await story.assert_right(point)


@pytest.mark.parametrize("shape", ["token", "keyed", "batch"])
async def test_who_is_killed_while_it_ends_what_another_store_waits_for_ends_it_and_leaves_mail_or_neither(
    fleet: list[Engine], shape: str
) -> None:
    operation = "complete" if shape == "token" else "finish"
    points = ["unharmed"]
    while points:
        point = points.pop(0)
        story = await Story.begin(fleet, shape)
        await story.write()
        if point == "unharmed":
            points = await list_points(fleet, operation, story.given)
            assert {"after:lock_waiters", "after:complete_points", "committed:complete_points"} <= set(points)
        else:
            await kill_at(fleet, operation, point, story.given)
        mail = await fetch_sql(story.home, "SELECT FROM headrace.outbox")
        interests = await fetch_sql(story.home, "SELECT FROM headrace.interests")
        assert len(mail) + len(interests) == 1, point
        assert bool(mail) == (point.startswith("committed") or point == "unharmed"), point
        await story.go_on()
        await story.assert_right(point)


@pytest.mark.parametrize("shape", ["token", "keyed", "batch"])
async def test_who_is_killed_while_it_tells_another_store_leaves_it_to_be_told_again(
    fleet: list[Engine], shape: str
) -> None:
    points = ["unharmed"]
    while points:
        point = points.pop(0)
        story = await Story.begin(fleet, shape)
        await story.write()
        await story.end()
        if point == "unharmed":
            points = await list_points(fleet, "relay", story.given)
            assert {"committed:take_mail", "after:resolve_mirrors", "before:delete_mail"} <= set(points)
        else:
            await kill_at(fleet, "relay", point, story.given)
        await story.go_on()
        await story.assert_right(point)


async def test_a_tick_has_one_run_in_another_store_whoever_is_killed(fleet: list[Engine]) -> None:
    home, s1, _ = fleet
    for name, weight in (("home", 0.0), ("s1", 1.0), ("s2", 0.0)):
        await change_store(home, name, weight=weight)
    await home.refresh_stores()
    await register(s1, "t")
    points = ["unharmed"]
    while points:
        point = points.pop(0)
        tick = datetime.now(UTC).replace(second=0, microsecond=0)
        schedule = await create(home, f"{tick.minute} {tick.hour} {tick.day} {tick.month} *")
        await move_tick(home, schedule, tick)
        given = {"run": str(schedule.id), "target": str(schedule.id)}
        if point == "unharmed":
            wanted = {
                "insert_mail",
                "advance_schedules",
                "insert_run",
                "take_mail",
                "delete_mail",
                "claim_keys",
                "lock_due_schedules",
            }
            points = [one for one in await list_points(fleet, "sweep", given) if one.partition(":")[2] in wanted]
            assert {one.partition(":")[2] for one in points} == wanted
        else:
            await kill_at(fleet, "sweep", point, given)
        for _ in range(2):
            await fetch_sql(home, DUE)
            await sweeps.sweep_once(home)
        made = await fetch_sql(s1, "SELECT id FROM headrace.runs WHERE schedule_id = $1", schedule.id)
        assert len(made) == 1, point
        shown = await look(home, schedule)
        assert shown.last_run_id == made[0]["id"]
        assert store_of(made[0]["id"]) == s1.key
        assert await fetch_sql(home, "SELECT FROM headrace.runs") == []
        assert await fetch_sql(home, "SELECT FROM headrace.outbox") == []
        await fetch_sql(home, "DELETE FROM headrace.schedules")
