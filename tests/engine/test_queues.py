"""Limits of queues and environments: new ones hold at once, rates hold over time, the code's word and the operator's."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest

from headrace.engine import queues, runs, workers
from headrace.engine.cancels import cancel_run
from headrace.engine.engine import Engine
from headrace.engine.outcomes import ClaimedRun, Packet, RunCreated, WorkerLease
from headrace.engine.sweeps import sweep_once
from headrace.engine.turns import Turns
from headrace.errors import ConfigurationError
from headrace.protocol.options import QueueOption, RunOptions
from headrace.queues import Queue
from tests.engine.backlogs import fill, shifted, take
from tests.engine.held import blocked, held_at, holding
from tests.engine.helpers import enlist, finish, register
from tests.invariants import assert_invariants, fetch_sql

pytestmark = pytest.mark.anyio

OWN = "task/t"


async def say(engine: Engine, **said: Any) -> queues.QueueView:
    return await queues.declare_queue(engine, 1, Queue(OWN, **said))


async def register_with(engine: Engine, queue: Queue | None, *others: Queue | None) -> None:
    known = [
        workers.TaskRegistration(f"t{number or ''}", OWN, 3, limits=one) for number, one in enumerate([queue, *others])
    ]
    await enlist(engine, tasks=known)


async def test_what_executes_without_a_limit_counts_as_soon_as_there_is_one(engine: Engine) -> None:
    await fill(engine, "t", 10)
    lease, turns = await register(engine, "t"), Turns()
    claimed = await take(engine, lease, turns, 4)
    await say(engine, concurrency_limit=5)
    assert len(await take(engine, lease, turns)) == 1
    assert await take(engine, lease, turns) == []
    await finish(engine, lease, claimed)
    assert len(await take(engine, lease, turns)) == 4


@pytest.mark.parametrize("whose", ["queue", "environment", "override"])
async def test_a_claim_that_looked_before_a_limit_is_counted_under_it(engine: Engine, whose: str) -> None:
    """It holds its worker's row, uncommitted, while the limit is set: setting it waits for the claim and counts it."""
    await fill(engine, "t", 10)
    lease, turns = await register(engine, "t"), Turns()

    async def limit() -> Any:
        match whose:
            case "queue":
                return await say(engine, concurrency_limit=5)
            case "environment":
                return await queues.limit_environment(engine, 1, 5)
            case _:
                return await queues.override_queue(engine, 1, OWN, limit=5)

    async with holding(engine, "after:claim_runs") as (slow, hold):
        claiming = await held_at(hold, take_in_plan(slow, lease, 4))
        setting = await blocked(engine, limit())
        assert not setting.done()
        hold.released.set()
        assert await claiming == 4
        await setting
    assert len(await take(engine, lease, turns)) == 1


async def take_in_plan(engine: Engine, lease: WorkerLease, limit: int) -> int:
    """A plain claim in a transaction that can be held."""
    from headrace.store.statements import Plan, query  # noqa: PLC0415 - only here

    def plan() -> Plan[int]:
        rows = yield from query("claim_runs", 1, lease.worker_id, ["t"], None, limit, 30.0, None)
        return len(rows)

    return await engine.store.run_plan(plan())


async def test_a_limit_that_is_lowered_lets_nothing_start_until_enough_has_ended(engine: Engine) -> None:
    await fill(engine, "t", 20)
    await say(engine, concurrency_limit=6)
    lease, turns = await register(engine, "t"), Turns()
    claimed = await take(engine, lease, turns)
    assert len(claimed) == 6
    await queues.override_queue(engine, 1, OWN, limit=2)
    for run, room in zip(claimed, [0, 0, 0, 0, 1, 1], strict=True):
        await finish(engine, lease, [run])
        assert len(await take(engine, lease, turns)) == room
    await queues.reset_queue(engine, 1, OWN)
    assert len(await take(engine, lease, turns)) == 4


async def test_a_limit_of_zero_is_a_pause(engine: Engine) -> None:
    await fill(engine, "t", 2)
    await fill(engine, "t", 2, key="'a'")
    lease, turns = await register(engine, "t"), Turns()
    await say(engine, concurrency_limit=0)
    assert await take(engine, lease, turns) == []
    await say(engine)
    await queues.limit_environment(engine, 1, 0)
    assert await take(engine, lease, turns) == []
    await queues.limit_environment(engine, 1, None)
    assert len(await take(engine, lease, turns)) == 4


async def test_every_way_to_stop_executing_frees_its_slot(engine: Engine) -> None:
    """Slots are counted from rows that execute, so none can leak: ends, retries, cancels, deaths, give-backs."""
    await fill(engine, "t", 50)
    await say(engine, concurrency_limit=1)
    lease, turns = await register(engine, "t"), Turns()

    async def taken() -> ClaimedRun:
        [run] = await take(engine, lease, turns)
        assert await take(engine, lease, turns) == []
        return run

    await finish(engine, lease, [await taken()])
    await finish(engine, lease, [await taken()], "FAILED")
    await finish(engine, lease, [await taken()], "FAILED", retry_in=3600)
    await cancel_run(engine, 1, (await taken()).id)
    await taken()
    await workers.retire_worker(engine, lease)
    lease = await register(engine, "t")
    await taken()
    await fetch_sql(engine, "UPDATE headrace.workers SET lease_until = now() - interval '1 s'")
    await sweep_once(engine)
    lease = await register(engine, "t")
    await taken()
    await assert_invariants(engine)


async def test_keys_have_a_limit_and_all_together_another(engine: Engine) -> None:
    for key in "abcd":
        await fill(engine, "t", 5, key=f"'{key}'")
    await fill(engine, "t", 5)
    await say(engine, concurrency_limit=5, key_limit=2)
    lease, turns = await register(engine, "t"), Turns()
    claimed = await take(engine, lease, turns)
    count = await count_keys(engine, claimed)
    assert (count.total(), max(count[key] for key in "abcd")) == (5, 1)  # a turn each before anybody's second
    await finish(engine, lease, [run for run in claimed if run.options.get("concurrencyKey") is None])
    await say(engine, concurrency_limit=100, key_limit=2)
    await take(engine, lease, turns)
    rows = await fetch_sql(
        engine, "SELECT concurrency_key AS key, count(*) AS n FROM headrace.runs WHERE status = 'EXECUTING' GROUP BY 1"
    )
    assert {row["key"]: row["n"] for row in rows if row["key"]} == dict.fromkeys("abcd", 2)


async def test_without_a_limit_of_keys_the_limit_is_that_of_each(engine: Engine) -> None:
    """As the wire has it: runs without a key share one limit, each key has as much for itself."""
    for key in "ab":
        await fill(engine, "t", 9, key=f"'{key}'")
    await fill(engine, "t", 9)
    await say(engine, concurrency_limit=3)
    lease, turns = await register(engine, "t"), Turns()
    assert await count_keys(engine, await take(engine, lease, turns)) == {"a": 3, "b": 3, None: 3}


@pytest.mark.parametrize("by_key", [False, True])
async def test_a_rate_is_kept_over_time(engine: Engine, *, by_key: bool) -> None:
    """10 starts in 5 s: a burst of ten, then one each half second; and as many again after five quiet seconds."""
    keys = ["a", "b"] if by_key else [None]
    for key in keys:
        await fill(engine, "t", 500, key=f"'{key}'" if key else None)
    await say(engine, rate_limit=(10, 5.0), rate_by_key=by_key)
    lease, turns = await register(engine, "t"), Turns()
    async with shifted(engine) as (later, clock):
        started: Counter[str | None] = Counter()
        for step in range(201):  # a look each 0.1 s, 20 s in all
            clock.seconds = step * 0.1
            claimed = await take(later, lease, turns)
            started += await count_keys(engine, claimed)
            if claimed:
                await finish(later, lease, claimed)
            for key in keys:
                assert 9.9 + clock.seconds * 2 - 1 <= started[key] <= 10.1 + clock.seconds * 2, (clock.seconds, started)
        assert turns.wake_in is None or turns.wake_in <= 0.5
        clock.seconds += 100
        assert (await count_keys(engine, await take(later, lease, turns))) == dict.fromkeys(keys, 10)
        assert await take(later, lease, turns) == []
        assert turns.wake_in is not None
        assert 0.3 < turns.wake_in <= 0.5


async def test_a_rate_and_a_limit_hold_together(engine: Engine) -> None:
    await fill(engine, "t", 100)
    await say(engine, concurrency_limit=3, rate_limit=(8, 8.0))
    lease, turns = await register(engine, "t"), Turns()
    async with shifted(engine) as (later, clock):
        counts: list[int] = []
        for _ in range(4):
            claimed = await take(later, lease, turns)
            counts.append(len(claimed))
            await finish(later, lease, claimed)
        assert counts == [3, 3, 2, 0]
        clock.seconds = 2.5
        assert len(await take(later, lease, turns)) == 2


async def test_a_pause_is_not_overtaken_by_a_claim_that_had_looked_before(engine: Engine) -> None:
    await fill(engine, "t", 3)
    lease, turns = await register(engine, "t"), Turns()
    async with holding(engine, "after:claim_runs") as (slow, hold):
        claiming = await held_at(hold, take_in_plan(slow, lease, 1))
        pausing = await blocked(engine, queues.pause_queue(engine, 1, OWN, paused=True))
        assert not pausing.done()
        hold.released.set()
        await claiming
        paused = await pausing
    assert isinstance(paused, queues.QueueView)
    assert (paused.running, paused.queued) == (1, 2)
    assert await take(engine, lease, turns) == []
    await queues.pause_queue(engine, 1, OWN, paused=False)
    await queues.pause_environment(engine, 1, paused=True)
    assert await take(engine, lease, turns) == []
    await queues.pause_environment(engine, 1, paused=False)
    assert len(await take(engine, lease, turns)) == 2


async def test_the_last_word_of_the_code_counts_and_the_operators_stays(engine: Engine) -> None:
    await register_with(engine, Queue(OWN, concurrency_limit=4, rate_limit=(3, 1)))
    assert isinstance(await queues.override_queue(engine, 1, OWN, limit=2), queues.QueueView)
    await register_with(engine, Queue(OWN, concurrency_limit=9, key_limit=1))
    found = await queues.find_queue(engine, 1, OWN)
    assert found is not None
    assert (found.limit, found.declared_limit, found.key_limit, found.rate) == (2, 9, 1, None)
    await queues.reset_queue(engine, 1, OWN)
    await register_with(engine, None)  # names a queue, and says nothing of it
    found = await queues.find_queue(engine, 1, OWN)
    assert found is not None
    assert found.limit == 9
    await register_with(engine, Queue(OWN))  # says that it has no limits
    found = await queues.find_queue(engine, 1, OWN)
    assert found is not None
    assert (found.limit, found.key_limit) == (None, None)


async def test_a_worker_whose_tasks_contradict_each_other_does_not_start(engine: Engine) -> None:
    with pytest.raises(ConfigurationError, match="'t' and 't1' say different things of the queue 'task/t'"):
        await register_with(engine, Queue(OWN, concurrency_limit=1), Queue(OWN, concurrency_limit=2))
    assert not await fetch_sql(engine, "SELECT FROM headrace.workers")
    await register_with(engine, Queue(OWN, concurrency_limit=1), Queue(OWN, concurrency_limit=1), None)


@pytest.mark.at_home("roots with an order key are at home")
async def test_what_was_triggered_before_its_task_was_known_is_on_the_tasks_queue(engine: Engine) -> None:
    """Nobody knew the queue, so it was put on the task's own; the limits of the real one hold for it, and order keys too."""
    for key in ("a", "a", "b"):
        await trigger(engine, order_key=key)
    for _ in range(4):
        await trigger(engine)
    known = workers.TaskRegistration("t", "gpu", 3, limits=Queue("gpu", concurrency_limit=3))
    lease, turns = await enlist(engine, tasks=[known]), Turns()
    for _ in range(3):
        await trigger(engine)
    await trigger(engine, order_key="b")
    claimed = await take(engine, lease, turns)
    assert [run.queue for run in claimed] == ["gpu"] * 3
    found = await queues.find_queue(engine, 1, "gpu")
    assert found is not None
    assert (found.running, found.queued) == (3, 8)
    assert await queues.find_queue(engine, 1, OWN) is None
    order: list[str] = []
    while claimed:
        order += [str(run.options["orderKey"]) for run in claimed if run.options]
        await finish(engine, lease, claimed)
        claimed = await take(engine, lease, turns)
        assert len({run.options["orderKey"] for run in claimed if run.options}) == sum(
            1 for run in claimed if run.options
        )
    assert sorted(order) == ["a", "a", "b", "b"]


async def test_a_lane_that_can_t_be_renamed_is_under_the_limits_of_its_tasks_queue_all_the_same(engine: Engine) -> None:
    await trigger(engine, queue=QueueOption("gpu"))
    for _ in range(4):
        await trigger(engine)
    known = workers.TaskRegistration("t", "gpu", 3, limits=Queue("gpu", concurrency_limit=2))
    lease, turns = await enlist(engine, tasks=[known]), Turns()
    assert len(await take(engine, lease, turns)) == 2
    assert len(await fetch_sql(engine, "SELECT FROM headrace.lanes")) == 2
    found = await queues.find_queue(engine, 1, "gpu")
    assert found is not None
    assert (found.running, found.queued) == (2, 3)
    assert await take(engine, lease, turns, queues=["gpu"]) == []
    await queues.override_queue(engine, 1, "gpu", limit=5)
    assert len(await take(engine, lease, turns, queues=["gpu"])) == 3


async def trigger(engine: Engine, **options: Any) -> None:
    assert isinstance(await runs.trigger_run(engine, 1, "t", Packet(b"1"), RunOptions(**options)), RunCreated)


async def test_saying_nothing_of_a_queue_writes_no_row(engine: Engine) -> None:
    await register_with(engine, Queue(OWN))
    assert not await fetch_sql(engine, "SELECT FROM headrace.queues")


@pytest.mark.parametrize("limited", [False, True])
async def test_a_claim_says_whether_a_waiting_run_keeps_its_slot(engine: Engine, *, limited: bool) -> None:
    await fill(engine, "t", 1)
    lease = await register(engine, "t")
    await say(engine, keep_slot_while_waiting=True, concurrency_limit=5 if limited else None)
    [run] = await take(engine, lease, Turns())
    assert run.keeps_slot


async def count_keys(engine: Engine, runs: list[ClaimedRun]) -> Counter[str | None]:
    rows = await fetch_sql(
        engine, "SELECT concurrency_key AS key FROM headrace.runs WHERE id = ANY($1)", [run.id for run in runs]
    )
    return Counter(row["key"] for row in rows)
