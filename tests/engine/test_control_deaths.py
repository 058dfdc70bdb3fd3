"""Every store has the control plane that home has, whoever raced or died, whichever store was away."""

from __future__ import annotations

import asyncio
import dataclasses
import json
import signal
import sys
from pathlib import Path
from typing import Any
from uuid import UUID

import asyncpg
import pytest

from headrace.engine import queues, versions
from headrace.engine.control_copies import copy_control, copy_on, copying, read_home_on, spread_control
from headrace.engine.engine import Engine
from headrace.engine.queues import QueueView
from headrace.engine.turns import Turns
from headrace.queues import Queue
from tests.engine.backlogs import fill, take
from tests.engine.control import agree, assert_agree, away, read_control, read_one, register, until
from tests.engine.held import blocked, is_anybody_blocked
from tests.invariants import fetch_sql

pytestmark = pytest.mark.anyio

ROOT = Path(__file__).parents[2]


async def test_a_store_that_was_away_gets_in_one_step_what_it_missed(fleet: list[Engine]) -> None:
    home, store, other = fleet
    async with copying(home, 0.05):
        async with away(store):
            for limit in (1, 2, 3):
                shown = await queues.declare_queue(home, 1, Queue("q", concurrency_limit=limit))
                assert isinstance(shown, QueueView)
                assert shown.limit == limit
            await register(home, "t", version="1")
            await assert_agree([home, other])
        assert not [what for what in await read_control(store) if what.startswith("queue")]
        await until(lambda: agree(fleet))


async def test_a_store_that_is_silent_holds_a_change_up_for_no_longer_than_the_patience(fleet: list[Engine]) -> None:
    home, store, other = fleet
    connection: asyncpg.Connection[Any] = await asyncpg.connect(store.settings.database_url)
    try:
        await connection.execute("SELECT pg_advisory_lock(7305, 3)")  # as one that copies, and stands still
        async with asyncio.timeout(home.settings.store_patience + 10):
            await queues.declare_queue(home, 1, Queue("q", concurrency_limit=3))
        await assert_agree([home, other])
    finally:
        await connection.close()
    await spread_control(home)
    await assert_agree(fleet)


async def test_a_change_that_home_made_is_made_though_every_other_store_is_away(fleet: list[Engine]) -> None:
    home = fleet[0]
    async with away(*fleet[1:]):
        assert isinstance(await versions.promote_version(home, 1, "1"), versions.VersionMissing)
        await register(home, "t", version="1")
        assert isinstance(await versions.promote_version(home, 1, "1"), versions.VersionPromoted)
    await spread_control(home)
    await assert_agree(fleet)


async def test_changes_at_once_by_several_processes_end_in_one_state(fleet: list[Engine]) -> None:
    home = fleet[0]
    second = await Engine.open(home.settings)
    try:
        await asyncio.gather(
            *(
                queues.declare_queue(one, 1, Queue(f"q{number % 3}", concurrency_limit=number + 1))
                for number in range(12)
                for one in (home, second)
            ),
            *(register(home, "t", f"t{number}", version=str(number)) for number in range(6)),
            *(queues.limit_environment(second, 1, number + 20) for number in range(4)),
        )
    finally:
        await second.close()
    await assert_agree(fleet)


async def test_an_older_copy_never_comes_after_a_newer_one(fleet: list[Engine]) -> None:
    """One has read home and stands still before it writes; home changes meanwhile, and another copies: it waits for the first."""
    home, store, _ = fleet
    await fetch_sql(home, "UPDATE headrace.environments SET max_ttl = 1 WHERE id = 1")
    read, released = asyncio.Event(), asyncio.Event()

    async def read_slowly(mark: UUID | None) -> Any:
        async with home.store.connect() as own:
            row = await read_home_on(own, mark)
        read.set()
        await released.wait()
        return row

    connection: asyncpg.Connection[Any] = await asyncpg.connect(store.settings.database_url)
    try:
        slow = asyncio.create_task(copy_on(connection, read_slowly))
        await read.wait()
        await fetch_sql(home, "UPDATE headrace.environments SET max_ttl = 2 WHERE id = 1")
        quick = await blocked(store, copy_control(home, store))
        released.set()
        await asyncio.gather(slow, quick)
    finally:
        await connection.close()
    assert await read_one(store, "SELECT max_ttl FROM headrace.environments WHERE id = 1") == 2
    await assert_agree([home, store])


async def test_one_that_is_killed_in_a_copy_leaves_nothing_of_it_and_the_next_one_makes_it(fleet: list[Engine]) -> None:
    home, store, other = fleet
    await queues.declare_queue(home, 1, Queue("q", concurrency_limit=3))
    before = await read_control(store)
    blocker: asyncpg.Connection[Any] = await asyncpg.connect(store.settings.database_url)
    try:
        transaction = blocker.transaction()
        await transaction.start()
        await blocker.execute("SELECT FROM headrace.queues FOR UPDATE")
        await fetch_sql(home, "UPDATE headrace.environments SET max_ttl = 9 WHERE id = 1")
        await fetch_sql(home, "UPDATE headrace.queues SET declared_limit = 4")
        settings = json.dumps(dataclasses.asdict(home.settings))
        child = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "tests.engine.copy_child", settings, store.name), cwd=ROOT
        )
        await until(lambda: is_anybody_blocked(store))  # it has written the environment
        child.send_signal(signal.SIGKILL)
        assert await child.wait() == -signal.SIGKILL
    finally:
        await blocker.close()
    await until(lambda: nobody_copies(store))
    assert await read_control(store) == before
    await spread_control(home)
    await assert_agree(fleet)
    assert await read_one(other, "SELECT max_ttl FROM headrace.environments WHERE id = 1") == 9


async def nobody_copies(store: Engine) -> bool:
    return await read_one(store, "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND classid = 7305") == 0


async def test_who_dies_between_a_limit_and_counting_again_leaves_that_to_the_next(fleet: list[Engine]) -> None:
    """The claim had looked before the limit was copied, and was committed after: the second count is its only one."""
    home, store, _ = fleet
    await queues.declare_queue(home, 1, Queue("task/t", concurrency_limit=5))
    await fill(store, "t", 10)
    lease, turns = await register(store), Turns()
    assert len(await take(store, lease, turns, 4)) == 4
    await fetch_sql(store, "UPDATE headrace.runs SET counted_in = NULL")
    await fetch_sql(store, "UPDATE headrace.control SET recounting = true")
    second = await Engine.open(home.settings)  # another process, which believes nothing of the store yet
    try:
        await spread_control(second)
    finally:
        await second.close()
    assert await read_one(store, "SELECT count(*) FROM headrace.runs WHERE counted_in IS NOT NULL") == 4
    assert not await read_one(store, "SELECT recounting FROM headrace.control")


async def test_a_home_of_yesterday_is_followed_too(fleet: list[Engine]) -> None:
    """Restored from a backup its epoch is lower than what others have."""
    home = fleet[0]
    for limit in range(1, 6):
        await queues.declare_queue(home, 1, Queue("q", concurrency_limit=limit))
    await fetch_sql(home, "UPDATE headrace.control SET epoch = 1, mark = gen_random_uuid()")
    await queues.declare_queue(home, 1, Queue("q", concurrency_limit=77))
    await assert_agree(fleet)
    assert await read_one(fleet[1], "SELECT declared_limit FROM headrace.queues") == 77
