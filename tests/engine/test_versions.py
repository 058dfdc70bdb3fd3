"""Which version of the code takes a task's new runs, what reads as PENDING_VERSION, and where children go.

What becomes of runs that are under way is asked in tests/worker/test_versions.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any
from uuid import UUID

import pytest

from headrace.engine import batches, claims, listings, runs, versions, workers
from headrace.engine.cancels import cancel_run
from headrace.engine.engine import Engine
from headrace.engine.lanes import LaneBook
from headrace.engine.outcomes import ClaimedRun, Packet, RunCreated, RunFilter, RunView, StoredItem, WorkerLease
from headrace.engine.queues import declare_queue
from headrace.engine.sweeps import sweep_once
from headrace.engine.turns import Turns
from headrace.engine.versions import VersionMissing, VersionPromoted, VersionView
from headrace.protocol.options import QueueOption, RunOptions
from headrace.protocol.statuses import RunStatus
from headrace.queues import Queue
from tests.engine.held import blocked, held_at, holding
from tests.engine.helpers import enlist, finish, open_batch
from tests.engine.parents import child, child_batch, start_parent
from tests.invariants import assert_invariants, fetch_sql

pytestmark = pytest.mark.anyio

PENDING, QUEUED, DELAYED = RunStatus.PENDING_VERSION, RunStatus.QUEUED, RunStatus.DELAYED


# Which version takes new runs


async def test_the_newest_version_takes_new_runs_while_a_worker_of_it_lives(engine: Engine) -> None:
    old = await start_worker(engine, "1")
    first = await trigger(engine)
    new = await start_worker(engine, "2")
    second = await trigger(engine)
    assert await take(engine, old) == []
    assert await take(engine, new, 1) == [first]
    await workers.retire_worker(engine, new)
    assert await take(engine, old) == [first, second]


@pytest.mark.parametrize(
    "options",
    [
        {"concurrency_key": "k"},
        pytest.param({"order_key": "k"}, marks=pytest.mark.at_home("roots with an order key are at home")),
        {},
    ],
)
async def test_so_do_lanes_with_keys_and_limits(engine: Engine, options: dict[str, Any]) -> None:
    await declare_queue(engine, 1, Queue("task/t", 5))
    old, turns = await start_worker(engine, "1"), Turns()
    await trigger(engine, **options)
    begun = await claim(engine, old, turns=turns)
    await finish(engine, old, begun)
    run_id = await trigger(engine, **options)
    new = await start_worker(engine, "2")
    for _ in range(2):  # one claim in two looks at such lanes first
        assert await claim(engine, old, turns=turns) == []
    assert await take(engine, new) == [run_id]
    assert (await look(engine, run_id)).version == "2"
    other = await trigger(engine, **dict.fromkeys(options, "other"))
    await kill(engine, new)
    assert set(await take(engine, old)) == {run_id, other}


async def test_a_version_takes_no_runs_of_tasks_that_it_does_not_have(engine: Engine) -> None:
    """Workers of other files have other versions."""
    one, other = await start_worker(engine, "1", "a", "b"), await start_worker(engine, "2", "b", "c")
    ids = {task: await trigger(engine, task) for task in "abc"}
    assert await take(engine, one, tasks="ab") == [ids["a"]]
    assert set(await take(engine, other, tasks="bc")) == {ids["b"], ids["c"]}


async def test_a_worker_that_would_not_claim_a_run_keeps_it_from_nobody(engine: Engine) -> None:
    """The current version lives, but elsewhere: its workers for this task or queue are gone or were not started yet."""
    old = await start_worker(engine, "1", "a", "b")
    gone = await start_worker(engine, "2", "a", "b")
    await workers.retire_worker(engine, gone)
    await start_worker(engine, "2", "a")
    await start_worker(engine, "2", "b", queues=["fast"])
    ids = [
        await trigger(engine, "b"),
        await trigger(engine, "b", queue=QueueOption("fast")),
        await trigger(engine, "a"),
    ]
    assert await take(engine, old, tasks="ab") == ids[:1]


async def test_a_worker_that_comes_again_takes_nothing_back(engine: Engine) -> None:
    """Only a version that is new to a task is promoted by itself: else every restart of an old worker would be a rollback."""
    await start_worker(engine, "1")
    new = await start_worker(engine, "2")
    again = await start_worker(engine, "1")
    run_id = await trigger(engine)
    assert await take(engine, again) == []
    assert await take(engine, new) == [run_id]


async def test_a_version_that_brings_a_task_later_takes_that_one_only(engine: Engine) -> None:
    await start_worker(engine, "1", "a", "b")
    await start_worker(engine, "2", "a", "b")
    assert isinstance(await versions.promote_version(engine, 1, "1"), VersionPromoted)
    await start_worker(engine, "2", "a", "b", "c")
    assert (await find(engine, "2")).current_for == ["c"]
    assert (await find(engine, "1")).current_for == ["a", "b"]


async def test_by_hand_the_first_version_is_current_until_another_is_promoted(engine: Engine) -> None:
    promote_by_hand(engine)
    old, new = await start_worker(engine, "1"), await start_worker(engine, "2")
    ids = [await trigger(engine) for _ in range(3)]
    assert await take(engine, new) == []
    assert await take(engine, old, 1) == ids[:1]
    assert isinstance(await versions.promote_version(engine, 1, "2"), VersionPromoted)
    assert await take(engine, old) == []
    assert await take(engine, new, 1) == ids[1:2]
    assert isinstance(await versions.promote_version(engine, 1, "1"), VersionPromoted)  # back
    assert await take(engine, new) == []
    assert await take(engine, old) == ids[2:]


async def test_a_run_without_a_journal_is_tried_again_by_the_current_version(engine: Engine) -> None:
    old = await start_worker(engine, "1")
    run_id = await trigger(engine)
    claimed = await claim(engine, old)
    new = await start_worker(engine, "2")
    await finish(engine, old, claimed, "FAILED", retry_in=0.0)
    assert await take(engine, old) == []
    assert await take(engine, new) == [run_id]


async def test_a_worker_without_a_version_takes_what_nobody_else_does(engine: Engine) -> None:
    plain = await start_worker(engine, "")
    first = await trigger(engine)
    assert await take(engine, plain) == [first]
    versioned = await start_worker(engine, "1")
    second = await trigger(engine)
    assert await take(engine, plain) == []
    await workers.retire_worker(engine, versioned)
    assert await take(engine, plain) == [second]
    assert (await look(engine, second)).version is None


async def test_what_an_old_version_says_of_its_tasks_does_not_count(engine: Engine) -> None:
    """Else an old worker that starts again would send new runs to the queue that the task had."""

    async def start(version: str, queue: str) -> str:
        known = [workers.TaskRegistration("t", queue, 3)]
        await enlist(engine, tasks=known, version=version)
        engine.lanes = LaneBook()
        return (await look(engine, await trigger(engine))).queue

    assert await start("1", "q1") == "q1"
    assert await start("2", "q2") == "q2"
    assert await start("1", "q1") == "q2"
    promote_by_hand(engine)
    assert await start("3", "q3") == "q2"
    await versions.promote_version(engine, 1, "1")
    assert await start("1", "q1") == "q1"
    assert await start("1", "q4") == "q4", "the last word of the current version counts"


async def test_environments_have_versions_of_their_own(engine: Engine) -> None:
    old = await start_worker(engine, "1")
    await enlist(engine, "prod", name="elsewhere", tasks=describe("t"), version="2")
    run_id = await trigger(engine)
    assert await take(engine, old) == [run_id]
    assert isinstance(await versions.promote_version(engine, 1, "2"), VersionMissing)
    assert [one.version for one in (await versions.list_versions(engine, 1)).versions] == ["1"]


@pytest.mark.at_home("how many workers a version has is counted there: each has a lease in each store")
async def test_what_is_known_of_versions(engine: Engine) -> None:
    assert await versions.find_current_version(engine, 1) is None
    await start_worker(engine, "1", "a", "b")
    lease = await start_worker(engine, "2", "b")
    await start_worker(engine, "2", "b")
    await workers.retire_worker(engine, lease)
    page = await versions.list_versions(engine, 1)
    assert [(one.version, one.tasks, one.current_for, one.workers) for one in page.versions] == [
        ("2", ["b"], ["b"], 1),
        ("1", ["a", "b"], ["a"], 1),
    ]
    current = await versions.find_current_version(engine, 1)
    assert current == page.versions[0]
    first = await versions.list_versions(engine, 1, limit=1)
    assert (first.versions, first.has_older) == (page.versions[:1], True)
    rest = await versions.list_versions(engine, 1, after=first.versions[0].number)
    assert (rest.versions, rest.has_older) == (page.versions[1:], False)
    await versions.promote_version(engine, 1, "1")
    assert [one.current_for for one in (await versions.list_versions(engine, 1)).versions] == [[], ["a", "b"]]
    current = await versions.find_current_version(engine, 1)
    assert current is not None
    assert current.version == "1"


@pytest.mark.at_home("there a version is promoted, by hand or by a worker")
async def test_a_promotion_and_a_worker_that_registers_wait_for_each_other_in_one_order(engine: Engine) -> None:
    await start_worker(engine, "1", "a", "b")
    await start_worker(engine, "2", "a", "b")
    async with holding(engine, "after:register_tasks") as (slow, hold):
        registering = await held_at(hold, start_worker(slow, "3", "b", "a"))
        promoting = await blocked(engine, versions.promote_version(engine, 1, "1"))
        assert not promoting.done()
        hold.released.set()
        await registering
        assert isinstance(await promoting, VersionPromoted)
    assert (await find(engine, "1")).current_for == ["a", "b"]


# PENDING_VERSION


async def test_a_run_of_a_task_that_no_worker_ever_had_is_pending_until_one_comes(engine: Engine) -> None:
    run_id = await trigger(engine)
    delayed = await trigger(engine, delay="1h")
    other = await start_worker(engine, "1", "other")
    assert await statuses(engine, run_id, delayed) == [PENDING, PENDING]
    before = await fetch_sql(engine, "SELECT xmin, ctid FROM headrace.runs ORDER BY id")
    lease = await start_worker(engine, "1")
    assert await statuses(engine, run_id, delayed) == [QUEUED, DELAYED]
    assert before == await fetch_sql(engine, "SELECT xmin, ctid FROM headrace.runs ORDER BY id"), "no run was touched"
    assert await take(engine, lease) == [run_id]
    assert await take(engine, other, tasks=["other"]) == []
    await workers.retire_worker(engine, lease)
    assert await statuses(engine, await trigger(engine)) == [QUEUED], "there was a worker once"


async def test_a_run_locked_to_a_version_is_pending_until_that_version_comes_with_its_task(engine: Engine) -> None:
    old = await start_worker(engine, "1")
    run_id = await trigger(engine, lock_to_version="2")
    unlocked = await trigger(engine)
    assert await statuses(engine, run_id, unlocked) == [PENDING, QUEUED]
    assert (await look(engine, run_id)).version == "2"
    await start_worker(engine, "2", "other")
    assert await statuses(engine, run_id) == [PENDING], "that version does not have the task"
    assert await take(engine, old) == [unlocked]
    new = await start_worker(engine, "2")
    assert await statuses(engine, run_id) == [QUEUED]
    assert await take(engine, old) == []
    assert await take(engine, new) == [run_id]


async def test_a_locked_run_waits_for_its_version_alone_and_for_ever(engine: Engine) -> None:
    old = await start_worker(engine, "1")
    new = await start_worker(engine, "2")
    ids = [await trigger(engine, lock_to_version="1") for _ in range(2)]
    assert await take(engine, new) == [], "it is current, and still not the one"
    assert await take(engine, old, 1) == ids[:1]
    await kill(engine, old)
    assert await take(engine, new) == []
    assert await statuses(engine, *ids) == [QUEUED, QUEUED], "it came once, and may come again"
    assert await take(engine, await start_worker(engine, "1")) == ids


async def test_a_pending_run_is_listed_by_what_it_reads_as(engine: Engine) -> None:
    await start_worker(engine, "1", "known")
    ids = {
        PENDING: {await trigger(engine), await trigger(engine, delay="1h"), await trigger(engine, "known", lock_to_version="9")},
        QUEUED: {await trigger(engine, "known")},
        DELAYED: {await trigger(engine, "known", delay="1h")},
    }  # fmt: skip
    for status, expected in ids.items():
        assert await listed(engine, status) == expected, status
    assert await listed(engine, PENDING, QUEUED) == ids[PENDING] | ids[QUEUED]
    assert await listed(engine, PENDING, RunStatus.FAILED) == ids[PENDING]
    assert await listed(engine, RunStatus.FAILED) == set()
    assert await listed(engine, PENDING, QUEUED, DELAYED) == ids[PENDING] | ids[QUEUED] | ids[DELAYED]


async def test_a_pending_run_is_canceled_and_expires_as_any_other(engine: Engine) -> None:
    canceled, late = await trigger(engine), await trigger(engine, ttl="1s")
    await cancel_run(engine, 1, canceled)
    await fetch_sql(
        engine, "UPDATE headrace.runs SET expires_at = now() - interval '1 second' WHERE expires_at IS NOT NULL"
    )
    await sweep_once(engine)
    assert await statuses(engine, canceled, late) == [RunStatus.CANCELED, RunStatus.EXPIRED]
    assert await take(engine, await start_worker(engine, "1")) == []
    await assert_invariants(engine)


async def test_items_of_a_batch_are_pending_one_by_one(engine: Engine) -> None:
    await start_worker(engine, "1", "known")
    batch = await open_batch(engine, 3)
    items = [
        StoredItem(0, "known", Packet(b"1")),
        StoredItem(1, "t", Packet(b"1")),
        StoredItem(2, "known", Packet(b"1"), RunOptions(lock_to_version="2")),
    ]
    await batches.store_chunk(engine, 1, batch, items)
    page = await listings.list_runs(engine, 1, RunFilter(batch_id=batch.id))
    assert [run.status for run in page.runs[::-1]] == [QUEUED, PENDING, PENDING]


@pytest.mark.parametrize("locked", [None, "1"])
async def test_a_lane_that_is_made_while_its_first_worker_registers_is_not_left_pending(
    engine: Engine, locked: str | None
) -> None:
    """Whichever commits last: what a lane is pending for is looked up when it is asked, not written down."""
    async with holding(engine, "after:insert_lanes") as (slow, hold):
        triggering = await held_at(hold, trigger(slow, lock_to_version=locked))
        lease = await start_worker(engine, "1")
        hold.released.set()
        run_id = await triggering
    assert await statuses(engine, run_id) == [QUEUED]
    assert await take(engine, lease) == [run_id]


async def test_a_worker_opens_no_lane_of_a_batch_that_waits_for_its_seal(engine: Engine) -> None:
    batch = await open_batch(engine, 1, start="seal")
    await batches.store_chunk(engine, 1, batch, [StoredItem(0, "t", Packet(b"1"), RunOptions(lock_to_version="1"))])
    lease = await start_worker(engine, "1")
    assert await take(engine, lease) == []
    await batches.end_stream(engine, 1, batch.id)
    assert len(await take(engine, lease)) == 1


# Children


async def test_children_that_a_run_waits_for_go_to_its_version_and_others_to_the_current_one(engine: Engine) -> None:
    old = await start_worker(engine, "1", "p", "t")
    parent = await start_parent(engine, old)
    new = await start_worker(engine, "2", "p", "t")
    awaited, other = child(), child(awaited=False)
    await parent.write(engine, awaited, other)
    batch = child_batch([StoredItem(0, "t", Packet(b"1"))])
    await parent.write(engine, batch, name="batch")
    opened = child_batch(None, 1)
    await parent.write(engine, opened, name="streamed")
    stored = await batches.find_batch(engine, 1, opened.batch_id)
    assert stored is not None
    await batches.store_chunk(engine, 1, stored, [StoredItem(0, "t", Packet(b"1"))], prefers="1")
    assert await take(engine, new) == [other.run_id]
    assert len(await take(engine, old)) == 3
    assert (await look(engine, awaited.run_id)).version == "1"


async def test_children_of_a_version_that_is_gone_or_does_not_have_them_go_anywhere(engine: Engine) -> None:
    old = await start_worker(engine, "1", "p")
    parent = await start_parent(engine, old)
    new = await start_worker(engine, "2", "t")
    first = child()
    await parent.write(engine, first)
    assert await take(engine, new) == [first.run_id], "no worker of version 1 has the task"
    back = await start_worker(engine, "1", "t")
    second = child()
    await parent.write(engine, second, name="second")
    assert await take(engine, new) == []
    await kill(engine, back)
    assert await take(engine, new) == [second.run_id]


@pytest.mark.at_home("children with an order key are refused elsewhere")
async def test_a_child_with_an_order_key_stays_in_its_line(engine: Engine) -> None:
    old = await start_worker(engine, "1", "p", "t")
    parent = await start_parent(engine, old)
    new = await start_worker(engine, "2", "p", "t")
    ahead = await trigger(engine, order_key="k")
    ordered = replace(child(), options=RunOptions(order_key="k"))
    await parent.write(engine, ordered)
    assert await take(engine, old) == []
    [first] = await claim(engine, new)
    assert first.id == ahead
    await finish(engine, new, [first])
    assert await take(engine, new) == [ordered.run_id]


async def test_a_child_that_names_a_version_is_locked_to_it(engine: Engine) -> None:
    old = await start_worker(engine, "1", "p", "t")
    parent = await start_parent(engine, old)
    new = await start_worker(engine, "2", "p", "t")
    asked = replace(child(), options=RunOptions(lock_to_version="2"))
    await parent.write(engine, asked)
    assert await take(engine, old) == []
    assert await take(engine, new) == [asked.run_id]


async def test_a_setting_sends_children_to_the_current_version(engine: Engine) -> None:
    engine.settings = replace(engine.settings, child_version="current")
    old = await start_worker(engine, "1", "p", "t")
    parent = await start_parent(engine, old)
    new = await start_worker(engine, "2", "p", "t")
    awaited = child()
    await parent.write(engine, awaited)
    assert await take(engine, old) == []
    assert await take(engine, new) == [awaited.run_id]


async def test_a_run_says_which_version_had_it_last(engine: Engine) -> None:
    old = await start_worker(engine, "1")
    run_id = await trigger(engine)
    assert (await look(engine, run_id)).version is None
    claimed = await claim(engine, old)
    assert (await look(engine, run_id)).version == "1"
    await finish(engine, old, claimed, "FAILED", retry_in=0.0)
    new = await start_worker(engine, "2")
    await finish(engine, new, await claim(engine, new))
    [listed_run] = (await listings.list_runs(engine, 1, RunFilter())).runs
    assert (listed_run.status, listed_run.version) == (RunStatus.COMPLETED, "2")


@pytest.mark.parametrize("text", ["", "a b", "feature/x", "-1", "1" * 129, "ü"])
def test_what_can_be_no_version_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"lockToVersion (is|has)"):
        RunOptions(lock_to_version=text)


def describe(*tasks: str) -> list[workers.TaskRegistration]:
    return [workers.TaskRegistration(task, f"task/{task}", 3) for task in tasks]


async def start_worker(engine: Engine, version: str, *tasks: str, queues: list[str] | None = None) -> WorkerLease:
    known = describe(*(tasks or ("t",)))
    return await enlist(engine, name=f"worker {version}", tasks=known, version=version, queues=queues)


async def trigger(engine: Engine, task: str = "t", **options: Any) -> UUID:
    made = await runs.trigger_run(engine, 1, task, Packet(b"1"), RunOptions(**options))
    assert isinstance(made, RunCreated), made
    return made.run_id


async def claim(
    engine: Engine,
    lease: WorkerLease,
    limit: int = 100,
    tasks: Sequence[str] = ("t",),
    turns: Turns | None = None,
) -> list[ClaimedRun]:
    claimed = await claims.claim_runs(engine, lease, tasks=tasks, limit=limit, turns=turns)
    assert isinstance(claimed, list), claimed
    return claimed


async def take(engine: Engine, lease: WorkerLease, limit: int = 100, tasks: Sequence[str] = ("t",)) -> list[UUID]:
    """The ids of what a claim gives, the oldest first."""
    return sorted(run.id for run in await claim(engine, lease, limit, tasks))


async def look(engine: Engine, run_id: UUID) -> RunView:
    found = await runs.find_run(engine, 1, run_id)
    assert found is not None
    return found


def promote_by_hand(engine: Engine) -> None:
    for one in engine.stores.all():
        one.settings = replace(one.settings, promote="manual")


async def statuses(engine: Engine, *ids: UUID) -> list[RunStatus]:
    return [(await look(engine, run_id)).status for run_id in ids]


async def listed(engine: Engine, *wanted: RunStatus) -> set[UUID]:
    page = await listings.list_runs(engine, 1, RunFilter(statuses=frozenset(wanted)))
    back = await listings.list_runs(engine, 1, RunFilter(statuses=frozenset(wanted)), before=UUID(int=0))
    assert [run.id for run in page.runs] == [run.id for run in back.runs]
    return {run.id for run in page.runs}


async def find(engine: Engine, version: str) -> VersionView:
    found = await versions.find_version(engine, 1, version)
    assert found is not None
    return found


async def kill(engine: Engine, lease: WorkerLease) -> None:
    """It is silent for longer than its lease, and somebody sweeps."""
    await fetch_sql(
        engine, "UPDATE headrace.workers SET lease_until = now() - interval '1 second' WHERE id = $1", lease.worker_id
    )
    await sweep_once(engine)
