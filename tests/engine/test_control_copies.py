"""Every store has the control plane that home has: whatever changed, whoever raced or died, whichever store was away."""

from __future__ import annotations

import asyncio
import dataclasses
import json
import signal
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any
from uuid import UUID

import asyncpg
import pytest

from headrace.engine import queues, ttls, versions, workers
from headrace.engine.control_copies import copy_control, copy_on, copying, read_home_on, spread_control
from headrace.engine.engine import Engine
from headrace.engine.outcomes import WorkerLease
from headrace.engine.queues import QueueView
from headrace.engine.turns import Turns
from headrace.queues import Queue
from headrace.store.store import DATABASE_ERRORS
from tests.engine.backlogs import fill, take
from tests.engine.control import assert_agree, away, read_control, read_one
from tests.engine.held import blocked, is_anybody_blocked
from tests.invariants import fetch_sql

pytestmark = pytest.mark.anyio

ROOT = Path(__file__).parents[2]
PATIENCE = 20.0


async def register(
    engine: Engine, *tasks: str, version: str = "", queue: Queue | None = None, name: str | None = None
) -> WorkerLease:
    known = [
        workers.TaskRegistration(task, queue.name if queue and queue.name else f"task/{task}", 3, limits=queue)
        for task in tasks or ("t",)
    ]
    return await workers.register_worker(engine, "dev", name=name or "test", tasks=known, version=version)


async def until(true: Callable[[], Awaitable[bool]]) -> None:
    async with asyncio.timeout(PATIENCE):
        while not await true():
            await asyncio.sleep(0.01)


async def agree(fleet: list[Engine]) -> bool:
    home, *others = [await read_control(one) for one in fleet]
    return all(one == home for one in others)


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


# Stores that are away, races, deaths


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
