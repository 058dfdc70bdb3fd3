"""Every store has the control plane that home has: whatever changed, and whichever worker said so."""

from __future__ import annotations

import asyncio
import dataclasses
import json
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any
from uuid import UUID

import asyncpg
import pytest

from headrace.engine import queues, ttls, versions, workers
from headrace.engine.control_copies import copying
from headrace.engine.engine import Engine
from headrace.engine.turns import Turns
from headrace.queues import Queue
from headrace.store.store import DATABASE_ERRORS
from tests.engine.backlogs import fill, take
from tests.engine.control import PATIENCE, agree, assert_agree, away, read_control, read_one, register, until
from tests.engine.held import blocked
from tests.invariants import fetch_sql

pytestmark = pytest.mark.anyio

ROOT = Path(__file__).parents[2]


# What is copied


async def test_every_change_is_in_every_store_when_it_has_been_made(fleet: list[Engine]) -> None:
    """Each of them goes in by another store's engine: functions find home by themselves."""
    home = fleet[0]
    worker = workers.TaskRegistration("a", "mine", 4, skips_failed=True, coalesces=3, limits=Queue("mine", key_limit=2))
    changes: list[Callable[[Engine], Awaitable[Any]]] = [
        lambda one: queues.declare_queue(one, 1, Queue("q", concurrency_limit=5)),
        lambda one: queues.declare_queue(one, 1, Queue("q", rate_limit=(3, 2.5), rate_by_key=True)),
        lambda one: queues.declare_queue(one, 1, Queue("q", key_limit=2, keep_slot_while_waiting=True)),
        lambda one: queues.override_queue(one, 1, "q", limit=7),
        lambda one: queues.reset_queue(one, 1, "q"),
        lambda one: queues.limit_environment(one, 1, 10),
        lambda one: queues.override_queue(one, 1, "q", percent=50.0),
        lambda one: queues.pause_queue(one, 1, "q", paused=True),
        lambda one: queues.pause_queue(one, 1, "q", paused=False),
        lambda one: queues.pause_environment(one, 2, paused=True),
        lambda one: queues.pause_environment(one, 2, paused=False),
        lambda one: queues.limit_environment(one, 1, None),
        lambda one: ttls.set_ttls(one, "prod", default=5.0, most=None),
        lambda one: ttls.set_ttls(one, "prod", default=None, most=60.0),
        lambda _: register(home, "t", version="1"),
        lambda _: workers.register_worker(home, "dev", name="w", tasks=[worker], version="1"),
        lambda _: register(home, "t", "u", version="2"),
        lambda one: versions.promote_version(one, 1, "1"),
        lambda _: register(home, "late", version="2"),
    ]
    before = await assert_agree(fleet)
    for number, change in enumerate(changes):
        await change(fleet[number % 3])
        after = await assert_agree(fleet)
        assert after != before, f"change {number} changed nothing"
        before = after


async def test_what_is_changed_by_hand_is_seen_by_whoever_sweeps(fleet: list[Engine]) -> None:
    home = fleet[0]
    async with copying(home, 0.05):
        await fetch_sql(home, "UPDATE headrace.environments SET signing_secret = '\\x0102' WHERE id = 1")
        await until(lambda: agree(fleet))
    assert bytes(await read_one(fleet[2], "SELECT signing_secret FROM headrace.environments WHERE id = 1")) == b"\1\2"


async def test_a_store_that_is_added_has_everything_before_it_is_known(
    fleet: list[Engine], more_stores: dict[str, str]
) -> None:
    """The fixture's stores were added to a home whose environments have secrets of their own."""
    await assert_agree(fleet)
    for one in fleet[1:]:
        assert await read_one(one, "SELECT copied_mark FROM headrace.control") == await mark_of(fleet[0])


async def mark_of(home: Engine) -> UUID:
    return await read_one(home, "SELECT mark FROM headrace.control")


async def test_a_worker_that_says_what_is_known_is_no_change(fleet: list[Engine]) -> None:
    await register(fleet[0], "t", version="1", queue=Queue("q", concurrency_limit=2))
    mark = await mark_of(fleet[0])
    await register(fleet[0], "t", version="1", queue=Queue("q", concurrency_limit=2))
    assert await mark_of(fleet[0]) == mark


async def test_a_change_that_is_taken_back_leaves_the_mark(fleet: list[Engine]) -> None:
    home = fleet[0]
    mark = await mark_of(home)
    async with home.store.connect() as connection:
        transaction = connection.transaction()
        await transaction.start()
        await connection.execute("UPDATE headrace.environments SET max_ttl = 7")
        await transaction.rollback()
    assert await mark_of(home) == mark


# What a copy does to runs


async def test_a_limit_counts_what_executes_in_another_store_already(fleet: list[Engine]) -> None:
    _, store, _ = fleet
    await fill(store, "t", 10)
    lease, turns = await register(store), Turns()
    assert len(await take(store, lease, turns, 4)) == 4
    assert await read_one(store, "SELECT count(*) FROM headrace.runs WHERE counted_in IS NOT NULL") == 0
    await queues.declare_queue(fleet[0], 1, Queue("task/t", concurrency_limit=5))
    assert await read_one(store, "SELECT count(*) FROM headrace.runs WHERE counted_in IS NOT NULL") == 4


async def test_a_pause_holds_in_every_store_when_it_has_been_made_and_ends_there_too(fleet: list[Engine]) -> None:
    home, store, _ = fleet
    await fill(store, "t", 3)
    lease, turns = await register(store), Turns()
    await queues.pause_queue(home, 1, "task/t", paused=True)
    assert await take(store, lease, turns) == []
    await queues.pause_queue(home, 1, "task/t", paused=False)
    await queues.pause_environment(home, 1, paused=True)
    assert await take(store, lease, turns) == []
    heard = store.notices.count_ready(1)
    await queues.pause_environment(home, 1, paused=False)
    assert store.notices.count_ready(1) > heard  # its workers look at once
    assert len(await take(store, lease, turns)) == 3


async def test_a_claim_that_looked_before_a_limit_is_counted_under_it_in_another_store(fleet: list[Engine]) -> None:
    """It holds its worker's row, uncommitted, while the limit is copied: the copy waits for the claim and counts it."""
    _, store, _ = fleet
    await fill(store, "t", 10)
    lease = await register(store)
    connection: asyncpg.Connection[Any] = await asyncpg.connect(store.settings.database_url)
    try:
        transaction = connection.transaction()
        await transaction.start()
        await connection.execute("SELECT FROM headrace.workers WHERE id = $1 FOR NO KEY UPDATE", lease.worker_id)
        await connection.execute(
            "UPDATE headrace.runs SET status = 'EXECUTING', attempt = 1, worker_id = $1, started_at = now()"
            " WHERE id IN (SELECT id FROM headrace.runs LIMIT 3)",
            lease.worker_id,
        )
        limiting = await blocked(store, queues.declare_queue(fleet[0], 1, Queue("task/t", concurrency_limit=5)))
        assert not limiting.done()
        await transaction.commit()
        await limiting
    finally:
        await connection.close()
    assert await read_one(store, "SELECT count(*) FROM headrace.runs WHERE counted_in IS NOT NULL") == 3


async def test_what_was_put_on_a_tasks_own_queue_is_on_the_one_that_its_code_names(fleet: list[Engine]) -> None:
    home, store, _ = fleet
    await fill(store, "t", 2)
    await register(home, "t", queue=Queue("mine", concurrency_limit=5))
    assert await read_one(store, "SELECT queue FROM headrace.lanes WHERE task = 't'") == "mine"


# Versions and workers


@pytest.mark.parametrize("promote", ["auto", "manual"])
async def test_stores_agree_on_the_current_version_in_whatever_order_it_came_to_them(
    fleet: list[Engine], promote: str
) -> None:
    for one in fleet:
        one.settings = dataclasses.replace(one.settings, promote=promote)
    home, first, second = fleet
    for engine, version in [(first, "2"), (first, "1"), (home, "1"), (second, "2"), (home, "2"), (second, "1")]:
        await register(engine, "t", f"of{version}", version=version)
    said = await assert_agree(fleet)
    wanted = "2" if promote == "auto" else "1"  # manual: the first one is it until somebody says otherwise
    assert json.loads(said["task 1 t"])["current_version"] == wanted
    await versions.promote_version(second, 1, "1" if wanted == "2" else "2")
    said = await assert_agree(fleet)
    assert json.loads(said["task 1 t"])["current_version"] != wanted


async def test_a_worker_of_another_store_decides_nothing_that_home_has_decided(fleet: list[Engine]) -> None:
    home, store, _ = fleet
    await register(home, "t", version="1", queue=Queue("q", concurrency_limit=2))
    before = await read_control(store)
    await register(store, "t", version="2", queue=Queue("q", concurrency_limit=9))
    after = await read_control(store)
    assert {what: said for what, said in after.items() if not what.startswith("version 1 2")} == before
    assert "version 1 2" in after
    await register(home, "t", version="2", queue=Queue("q", concurrency_limit=9))
    await assert_agree(fleet)


async def test_the_limit_of_a_queue_that_home_does_not_know_yet_holds_for_a_store_at_once(fleet: list[Engine]) -> None:
    home, store, _ = fleet
    await fill(store, "t", 5)
    lease, turns = await register(store, "t", queue=Queue("q", concurrency_limit=2)), Turns()
    assert await read_one(store, "SELECT declared_limit FROM headrace.queues") == 2
    taken = len(await take(store, lease, turns))
    assert taken <= 2
    await register(home, "t", queue=Queue("q", concurrency_limit=2))
    async with asyncio.timeout(PATIENCE):
        while not taken:  # a claim under limits gives way where another store is slow to answer
            taken += len(await take(store, lease, turns))
    assert taken == 2
    assert await take(store, lease, turns) == []


async def test_a_worker_registers_in_a_store_while_home_is_away(fleet: list[Engine]) -> None:
    home, store, _ = fleet
    async with away(home):
        await fill(store, "t", 1)
        lease = await register(store, "t", version="1")
        assert len(await take(store, lease, Turns())) == 1


async def test_schedules_of_the_code_are_homes(fleet: list[Engine]) -> None:
    from headrace.crons import Cron  # noqa: PLC0415

    known = [workers.TaskRegistration("t", "task/t", 3, cron=Cron("0 0 1 1 *"))]
    for one in fleet:
        await workers.register_worker(one, "dev", name="w", tasks=known, version="1")
    counts = [await read_one(one, "SELECT count(*) FROM headrace.schedules") for one in fleet]
    said = [await read_one(one, "SELECT count(*) FROM headrace.declarations") for one in fleet]
    assert (counts, said) == ([1, 0, 0], [1, 0, 0])


# Counts


async def test_what_queues_do_is_summed_over_stores_and_the_rest_is_told_where_one_is_away(fleet: list[Engine]) -> None:
    home, store, other = fleet
    for one, runs, begun in [(home, 3, 1), (store, 5, 2), (other, 7, 4)]:
        await fill(one, "t", runs)
        await take(one, await register(one), Turns(), begun)
    await fill(store, "elsewhere", 2)
    await queues.declare_queue(home, 1, Queue("a", concurrency_limit=2))
    page = await queues.list_queues(store, 1, limit=10, offset=0)
    assert [(one.name, one.running, one.queued) for one in page.queues] == [
        ("a", 0, 0),
        ("task/elsewhere", 0, 2),
        ("task/t", 7, 8),
    ]
    assert page.total == 3
    assert [one.name for one in (await queues.list_queues(home, 1, limit=1, offset=1)).queues] == ["task/elsewhere"]
    assert (await queues.list_queues(home, 1, limit=1, offset=9)) == queues.QueuePage([], 3)
    limits = await queues.find_limits(other, 1)
    assert (limits.running, limits.queued) == (7, 10)
    async with away(store):
        found = await queues.find_queue(home, 1, "task/t")
        assert found is not None
        assert (found.running, found.queued) == (5, 5)
        assert await queues.find_queue(home, 1, "task/elsewhere") is None
        assert (await queues.find_limits(home, 1)).running == 5
    async with away(home):
        with pytest.raises(DATABASE_ERRORS):
            await queues.list_queues(home, 1, limit=10, offset=0)
