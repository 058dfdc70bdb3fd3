"""Order keys: one run of a key at a time, in the order in which they were submitted, through whatever happens to the others."""

from __future__ import annotations

import random
from collections import defaultdict
from typing import Any
from uuid import UUID

import pytest

from headrace.engine import batches, runs, workers
from headrace.engine.cancels import cancel_run
from headrace.engine.claims import give_back_runs
from headrace.engine.engine import Engine
from headrace.engine.outcomes import ClaimedRun, Packet, RunCreated, RunExists, StoredItem, WorkerLease
from headrace.engine.sweeps import sweep_once
from headrace.engine.turns import Turns
from headrace.protocol.options import RunOptions
from tests.engine.backlogs import shifted, take
from tests.engine.held import blocked, held_at, holding
from tests.engine.helpers import finish, open_batch, register
from tests.invariants import assert_invariants, fetch_sql

pytestmark = [pytest.mark.anyio, pytest.mark.at_home("roots with an order key, and batches of them, are at home")]


async def submit(engine: Engine, key: str = "k", **options: Any) -> UUID:
    made = await runs.trigger_run(engine, 1, "t", Packet(b"1"), RunOptions(order_key=key, **options))
    assert isinstance(made, RunCreated), made
    return made.run_id


async def register_skipping(engine: Engine) -> WorkerLease:
    known = [workers.TaskRegistration("t", "task/t", 3, skips_failed=True)]
    return await workers.register_worker(engine, "dev", name="test", tasks=known)


async def take_ids(engine: Engine, lease: WorkerLease, limit: int = 100) -> list[UUID]:
    return [run.id for run in await take(engine, lease, Turns(), limit)]


async def silence(engine: Engine, lease: WorkerLease) -> None:
    """A worker dies, and what it held is taken from it."""
    await fetch_sql(
        engine, "UPDATE headrace.workers SET lease_until = now() - interval '1 s' WHERE id = $1", lease.worker_id
    )
    await sweep_once(engine)


async def test_a_head_that_is_to_be_tried_again_holds_up_its_key_and_no_other(engine: Engine) -> None:
    lease = await register(engine, "t")
    head, behind, other = await submit(engine), await submit(engine), await submit(engine, "l")
    async with shifted(engine) as (later, clock):
        claimed = await take(later, lease, Turns())
        assert [run.id for run in claimed] == [head, other]
        await finish(later, lease, claimed, "FAILED", retry_in=60)
        clock.seconds = 59
        assert await take_ids(later, lease) == []
        clock.seconds = 61
        again = await take(later, lease, Turns())
        assert [(run.id, run.attempt) for run in again] == [(head, 2), (other, 2)]
        await finish(later, lease, again, "FAILED")  # for good: it makes room for the next one
        assert await take_ids(later, lease) == [behind]


async def test_where_the_task_skips_failed_ones_the_next_passes_and_the_head_comes_back_first(engine: Engine) -> None:
    lease = await register_skipping(engine)
    head, second, third = [await submit(engine) for _ in range(3)]
    async with shifted(engine) as (later, clock):
        await finish(later, lease, await take(later, lease, Turns()), "FAILED", retry_in=60)
        claimed = await take(later, lease, Turns())
        assert [run.id for run in claimed] == [second]
        clock.seconds = 61  # ready again, but one of its key is under way
        assert await take_ids(later, lease) == []
        await finish(later, lease, claimed)
        claimed = await take(later, lease, Turns())
        assert [run.id for run in claimed] == [head]
        await finish(later, lease, claimed)
        assert await take_ids(later, lease) == [third]


async def test_a_run_that_waits_holds_up_its_key(engine: Engine) -> None:
    for lease in (await register(engine, "t"), await register_skipping(engine)):
        key = f"key of {lease.worker_id}"
        head, behind = await submit(engine, key), await submit(engine, key)
        assert await take_ids(engine, lease) == [head]
        await fetch_sql(
            engine, "UPDATE headrace.runs SET status = 'WAITING', worker_id = NULL WHERE id = $1 RETURNING id", head
        )
        assert await take_ids(engine, lease) == []
        await cancel_run(engine, 1, head)
        assert await take_ids(engine, lease) == [behind]


@pytest.mark.parametrize("skips", [False, True])
async def test_an_insert_that_commits_late_is_not_overtaken(engine: Engine, *, skips: bool) -> None:
    """The first submission has its number and is not committed; the second waits for it, so nobody sees it alone."""
    lease = await (register_skipping(engine) if skips else register(engine, "t"))
    await submit(engine, "other")
    async with holding(engine, "after:insert_run") as (late, hold):
        first = await held_at(hold, submit(late))
        second = await blocked(engine, submit(engine))
        assert not second.done()
        assert len(await take_ids(engine, lease)) == 1
        hold.released.set()
        expected = [await first, await second]
    for run_id in expected:
        claimed = await take(engine, lease, Turns())
        assert [run.id for run in claimed] == [run_id]
        await finish(engine, lease, claimed)


async def test_a_chunk_of_a_stream_that_commits_late_is_not_overtaken(engine: Engine) -> None:
    lease = await register(engine, "t")
    batch = await open_batch(engine)
    items = [StoredItem(index, "t", Packet(b"1"), RunOptions(order_key="k")) for index in range(5)]
    async with holding(engine, "after:insert_items") as (late, hold):
        chunk = await held_at(hold, batches.store_chunk(late, 1, batch, items))
        second = await blocked(engine, submit(engine))
        assert not second.done()
        hold.released.set()
        await chunk
        last = await second
    order: list[UUID] = []
    while claimed := await take(engine, lease, Turns()):
        order += [run.id for run in claimed]
        await finish(engine, lease, claimed)
    rows = await fetch_sql(engine, "SELECT id FROM headrace.runs WHERE batch_id = $1 ORDER BY batch_index", batch.id)
    assert order == [*(row["id"] for row in rows), last]


async def test_a_trigger_and_a_batch_with_the_same_keys_do_not_wait_for_each_other(engine: Engine) -> None:
    """Both have an order key and an idempotency key in common, and take them in the same order."""
    batch = await open_batch(engine)
    both: dict[str, Any] = {"order_key": "k", "idempotency_key": "once"}
    items = [StoredItem(0, "t", Packet(b"1"), RunOptions(**both))]
    async with holding(engine, "after:lock_order_keys") as (slow, hold):
        chunk = await held_at(hold, batches.store_chunk(slow, 1, batch, items))
        single = await blocked(engine, runs.trigger_run(engine, 1, "t", Packet(b"1"), RunOptions(**both)))
        assert not single.done()
        hold.released.set()
        await chunk
        assert isinstance(await single, RunExists)


@pytest.mark.parametrize("skips", [False, True])
async def test_two_claims_at_once_take_one_run_of_a_key(engine: Engine, *, skips: bool) -> None:
    """The second claim looks while the first is not committed, and goes on when it is."""
    lease = await (register_skipping(engine) if skips else register(engine, "t"))
    other = await register_skipping(engine) if skips else await register(engine, "t")
    head, behind = await submit(engine), await submit(engine)
    async with holding(engine, "after:claim_limited_runs") as (slow, hold):
        first = await held_at(hold, take_ids(slow, lease))
        second = await blocked(engine, take_ids(engine, other))
        hold.released.set()
        assert (await first, await second) == ([head], [])
    assert behind not in await take_ids(engine, other)


async def test_a_head_that_comes_back_does_not_run_beside_the_one_that_passed_it(engine: Engine) -> None:
    """A claim takes the second run and is not committed; meanwhile the first one's next try is due, and another claim looks."""
    lease, other = await register_skipping(engine), await register_skipping(engine)
    head, second = await submit(engine), await submit(engine)
    await finish(engine, lease, await take(engine, lease, Turns()), "FAILED", retry_in=60)
    async with holding(engine, "after:claim_limited_runs") as (slow, hold), shifted(engine) as (later, clock):
        clock.seconds = 61
        first = await held_at(hold, take_ids(slow, lease))
        beside = await blocked(engine, take_ids(later, other))
        hold.released.set()
        assert (await first, await beside) == ([second], [])
    [row] = await fetch_sql(engine, "SELECT status FROM headrace.runs WHERE id = $1", head)
    assert row["status"] == "QUEUED"


async def test_a_run_of_a_dead_worker_goes_before_those_behind_it(engine: Engine) -> None:
    first = await register(engine, "t")
    head, behind = await submit(engine), await submit(engine)
    assert await take_ids(engine, first) == [head]
    second = await register(engine, "t")
    assert await take_ids(engine, second) == []
    await silence(engine, first)
    claimed = await take(engine, second, Turns())
    assert [(run.id, run.attempt) for run in claimed] == [(head, 2)]
    assert await finish(engine, first, claimed) == {head}  # who lost it can't end it, so nothing goes early
    assert await take_ids(engine, second) == []
    await workers.retire_worker(engine, second)
    third = await register(engine, "t")
    claimed = await take(engine, third, Turns())
    assert [run.id for run in claimed] == [head]
    await give_back_runs(engine, third, [(run.id, run.attempt) for run in claimed])
    claimed = await take(engine, third, Turns())
    assert [run.id for run in claimed] == [head]
    await finish(engine, third, claimed)
    assert await take_ids(engine, third) == [behind]


async def test_canceled_runs_leave_the_line(engine: Engine) -> None:
    lease = await register(engine, "t")
    line = [await submit(engine) for _ in range(5)]
    await cancel_run(engine, 1, line[0])  # the head, queued
    await cancel_run(engine, 1, line[2])  # in the middle
    claimed = await take(engine, lease, Turns())
    assert [run.id for run in claimed] == [line[1]]
    await cancel_run(engine, 1, line[1])  # the head, executing
    assert await finish(engine, lease, claimed) == {line[1]}
    claimed = await take(engine, lease, Turns())
    assert [run.id for run in claimed] == [line[3]]
    await finish(engine, lease, claimed)
    assert await take_ids(engine, lease) == [line[4]]
    await assert_invariants(engine)


async def test_delays_and_priorities_do_not_change_the_order(engine: Engine) -> None:
    """A delayed head holds up its key: the order is that of submission, and of nothing else."""
    lease = await register(engine, "t")
    head, behind = await submit(engine, delay="1m"), await submit(engine, priority=3600.0)
    async with shifted(engine) as (later, clock):
        assert await take_ids(later, lease) == []
        clock.seconds = 61
        claimed = await take(later, lease, Turns())
        assert [run.id for run in claimed] == [head]
        await finish(later, lease, claimed)
        assert await take_ids(later, lease) == [behind]


async def test_a_batch_with_many_keys_keeps_the_order_of_each(engine: Engine) -> None:
    """2,000 items of 300 keys in chunks, two workers that claim as they like: each key's items go one by one, by index."""
    count, keys = 2_000, 300
    batch = await open_batch(engine, count)
    for start in range(0, count, 500):
        items = [
            StoredItem(index, "t", Packet(b"1"), RunOptions(order_key=f"k{index * 7 % keys}"))
            for index in range(start, start + 500)
        ]
        await batches.store_chunk(engine, 1, batch, items)
    crew = [(await register(engine, "t"), Turns()) for _ in range(2)]
    held: list[tuple[WorkerLease, ClaimedRun]] = []
    last: defaultdict[int, int] = defaultdict(lambda: -1)
    chance = random.Random(4)
    done = 0
    while done < count:
        lease, turns = chance.choice(crew)
        for run in await take(engine, lease, turns, chance.randint(1, 200)):
            assert run.batch_index is not None
            key = run.batch_index * 7 % keys
            assert last[key] < run.batch_index == min(i for i in _indexes(key, keys, count) if i > last[key])
            assert all(_key_of(other, keys) != key for _, other in held), "one of its key is under way"
            last[key] = run.batch_index
            held.append((lease, run))
        chance.shuffle(held)
        over, held = held[: len(held) // 2 + 1], held[len(held) // 2 + 1 :]
        for lease, _ in crew:
            assert not await finish(engine, lease, [run for holder, run in over if holder == lease])
        done += len(over)
    await assert_invariants(engine)


@pytest.mark.parametrize("seed", range(4))
async def test_whatever_happens_the_order_is_kept(engine: Engine, seed: int) -> None:
    """Random submissions, claims, ends, failures, deaths and cancels: of each key one at a time, the oldest that is left."""
    chance = random.Random(seed)
    line: defaultdict[str, list[UUID]] = defaultdict(list)  # what has not ended, as it was submitted
    crew = [await register(engine, "t") for _ in range(2)]
    held: dict[UUID, tuple[str, WorkerLease, ClaimedRun]] = {}
    for _ in range(150):
        key = chance.choice("abcd")
        match chance.choice(["submit", "submit", "claim", "claim", "end", "fail", "die", "cancel"]):
            case "submit":
                line[key].append(await submit(engine, key))
            case "claim":
                lease = chance.choice(crew)
                for run in await take(engine, lease, Turns(), chance.randint(1, 4)):
                    key = run.options["orderKey"]
                    assert isinstance(key, str)
                    assert line[key][0] == run.id
                    assert all(other != key for other, _, _ in held.values())
                    held[run.id] = (key, lease, run)
            case "end" if held:
                key, lease, run = held.pop(chance.choice(list(held)))
                await finish(engine, lease, [run])
                line[key].remove(run.id)
            case "fail" if held:
                _, lease, run = held.pop(chance.choice(list(held)))
                await finish(engine, lease, [run], "FAILED", retry_in=0)
            case "die":
                lost = crew.pop(0)
                await silence(engine, lost)
                held = {run_id: one for run_id, one in held.items() if one[1] != lost}
                crew.append(await register(engine, "t"))
            case "cancel" if line[key]:
                run_id = line[key].pop(chance.randrange(len(line[key])))
                held.pop(run_id, None)
                await cancel_run(engine, 1, run_id)
            case _:
                pass
    while any(line.values()):  # nothing is stuck
        for key, lease, run in held.values():
            await finish(engine, lease, [run])
            line[key].remove(run.id)
        held = {}
        claimed = await take(engine, crew[0], Turns())
        assert {run.id for run in claimed} == {ids[0] for ids in line.values() if ids}
        held = {run.id: (str(run.options["orderKey"]), crew[0], run) for run in claimed}
    await assert_invariants(engine)


def _key_of(run: ClaimedRun, keys: int) -> int:
    assert run.batch_index is not None
    return run.batch_index * 7 % keys


def _indexes(key: int, keys: int, count: int) -> list[int]:
    return [index for index in range(count) if index * 7 % keys == key]
