"""Times to live: a run that is not started in time ends as EXPIRED, once, and all that hangs on it goes on."""

from __future__ import annotations

import asyncio
from typing import Any
from uuid import UUID

import pytest

from headrace import task
from headrace.engine import batches, cancels, claims, journals, runs, sweeps, ttls
from headrace.engine.deeds import ChildRun
from headrace.engine.engine import Engine
from headrace.engine.outcomes import BatchRefused, Packet, RunCreated, RunExists, StoredItem
from headrace.errors import ConfigurationError
from headrace.ids import mint_run_id
from headrace.items import make_options
from headrace.protocol.batches import CreateBatch
from headrace.protocol.options import RunOptions
from headrace.protocol.statuses import RunStatus
from headrace.store.statements import query
from tests.engine.clocks import run_later
from tests.engine.held import HeldStore, blocked, held_at, holding
from tests.engine.helpers import claim, finish, register
from tests.engine.parents import read_state, start_parent
from tests.invariants import assert_invariants, fetch_sql

pytestmark = pytest.mark.anyio


async def trigger(engine: Engine, **options: Any) -> UUID:
    made = await runs.trigger_run(engine, 1, "t", Packet(b"1"), RunOptions(**options))
    assert isinstance(made, RunCreated), made
    return made.run_id


async def make_overdue(engine: Engine, *run_ids: UUID) -> None:
    """As if their time had come a second ago."""
    await fetch_sql(
        engine, "UPDATE headrace.runs SET expires_at = now() - interval '1 s' WHERE id = ANY($1)", list(run_ids)
    )


async def status_of(engine: Engine, run_id: UUID) -> str:
    found = await runs.find_run(engine, 1, run_id)
    assert found is not None
    return found.status


async def seconds_to_live(engine: Engine, run_id: UUID) -> float | None:
    [row] = await fetch_sql(
        engine,
        "SELECT extract(epoch FROM expires_at - created_at)::float8 AS s FROM headrace.runs WHERE id = $1",
        run_id,
    )
    return row["s"]


async def test_a_run_that_is_not_started_in_time_ends_as_expired(engine: Engine) -> None:
    lease = await register(engine)
    late, other = await trigger(engine, ttl="10m"), await trigger(engine)
    await make_overdue(engine, late)
    assert [run.id for run in await claim(engine, lease)] == [other]  # before any sweep
    report = await sweeps.sweep_once(engine)
    assert (report.runs_expired, report.runs_canceled) == (1, 0)
    found = await runs.find_run(engine, 1, late)
    assert found is not None
    assert found.error is not None
    assert (found.status, found.error["code"], found.attempt) == (RunStatus.EXPIRED, "TASK_RUN_EXPIRED", 0)
    assert found.finished_at is not None
    assert await runs.list_attempts(engine, 1, late) == []
    assert (await sweeps.sweep_once(engine)).empty
    assert isinstance(await cancels.cancel_run(engine, 1, late), cancels.RunEnded)
    await assert_invariants(engine)


@pytest.mark.parametrize(
    ("options", "seconds"),
    [
        ({}, None),
        ({"ttl": 0}, None),
        ({"ttl": "0s"}, None),
        ({"ttl": 90}, 90.0),
        ({"ttl": "1h30m"}, 5400.0),
        ({"ttl": "5m", "delay": "1h"}, 3900.0),  # it counts from when it could start
        ({"ttl": "5m", "priority": 100}, 300.0),
    ],
)
async def test_how_long_a_run_may_wait(engine: Engine, options: dict[str, Any], seconds: float | None) -> None:
    expected = None if seconds is None else pytest.approx(seconds, abs=5)
    assert await seconds_to_live(engine, await trigger(engine, **options)) == expected


@pytest.mark.parametrize(
    ("options", "seconds"),
    [({}, 60.0), ({"ttl": 30}, 30.0), ({"ttl": 1000}, 600.0), ({"ttl": 0}, 600.0)],
)
async def test_an_environment_has_a_default_and_a_maximum(
    engine: Engine, options: dict[str, Any], seconds: float
) -> None:
    assert await ttls.set_ttls(engine, "dev", default=60, most=600)
    assert await seconds_to_live(engine, await trigger(engine, **options)) == pytest.approx(seconds, abs=5)
    items = [StoredItem(0, "t", Packet(b"1"), RunOptions(**options))]
    made = await batches.submit_batch(engine, 1, CreateBatch(run_count=1), items)
    assert not isinstance(made, BatchRefused)
    [row] = await fetch_sql(engine, "SELECT id FROM headrace.runs WHERE batch_id IS NOT NULL")
    assert await seconds_to_live(engine, row["id"]) == pytest.approx(seconds, abs=5)
    assert {one.environment: (one.default, one.most) for one in await ttls.list_ttls(engine)} == {
        "dev": (60, 600),
        "staging": (None, None),
        "prod": (None, None),
    }


async def test_what_no_environment_can_have(engine: Engine) -> None:
    with pytest.raises(ConfigurationError, match="more than the maximum"):
        await ttls.set_ttls(engine, "dev", default=601, most=600)
    with pytest.raises(ConfigurationError, match="more than 0"):
        await ttls.set_ttls(engine, "dev", default=0, most=None)
    with pytest.raises(ConfigurationError, match="36500 days"):
        await ttls.set_ttls(engine, "dev", default=None, most=1e300)
    assert not await ttls.set_ttls(engine, "nowhere", default=None, most=None)


@pytest.mark.parametrize("ttl", ["soon", -1.0, "40000d", 1e300])
async def test_a_time_to_live_that_is_none_is_refused_and_leaves_nothing(engine: Engine, ttl: Any) -> None:
    answer = await runs.trigger_run(engine, 1, "t", Packet(b"1"), RunOptions(ttl=ttl))
    assert isinstance(answer, BatchRefused)
    assert (answer.status, "ttl" in answer.message) == (422, True)
    assert await fetch_sql(engine, "SELECT FROM headrace.runs") == []


async def test_the_ttl_of_a_task_goes_with_triggers_that_know_it() -> None:
    @task(id="hurried", ttl="2m")
    def hurried() -> None: ...

    assert make_options(hurried, {})["ttl"] == "120s"
    assert make_options(hurried, {"ttl": "3s"})["ttl"] == "3s"
    assert make_options(hurried, {"ttl": 0})["ttl"] == "0s"
    assert "ttl" not in make_options("hurried", {})


async def test_a_run_that_was_started_once_never_expires(engine: Engine) -> None:
    """Nor does its retry, nor the run that is given back (B3.6: a time to live is that of the first start)."""
    lease = await register(engine)
    retried, returned = await trigger(engine, ttl=60), await trigger(engine, ttl=60)
    claimed = {run.id: run for run in await claim(engine, lease)}
    await finish(engine, lease, [claimed[retried]], "FAILED", retry_in=0)
    assert await claims.give_back_runs(engine, lease, [(returned, claimed[returned].attempt)]) == 1
    assert await _sweep_late(engine) == 0
    assert await seconds_to_live(engine, retried) is None
    assert await seconds_to_live(engine, returned) is None
    assert {run.id for run in await claim(engine, lease)} == {retried, returned}


async def test_a_delayed_run_that_is_not_due_does_not_expire(engine: Engine) -> None:
    await register(engine)
    run_id = await trigger(engine, ttl="1s", delay="1h")
    assert (await sweeps.sweep_once(engine)).runs_expired == 0
    assert await status_of(engine, run_id) == "DELAYED"


async def test_who_waits_gets_the_error(engine: Engine) -> None:
    child = mint_run_id()
    parent = await start_parent(engine, await register(engine, "p"))
    await parent.write(engine, ChildRun(child, "t", Packet(b"1"), RunOptions(ttl=60)))
    await parent.sleep(engine)
    assert (await read_state(engine, parent.id))[0] == "WAITING"
    await make_overdue(engine, child)
    await sweeps.sweep_once(engine)
    assert (await read_state(engine, parent.id))[0] == "QUEUED"
    [point] = (await journals.read_journals(engine, 1, [parent.id]))[parent.id]
    assert (point.pending, point.status, point.error and point.error["code"]) == (False, "EXPIRED", "TASK_RUN_EXPIRED")
    await assert_invariants(engine)


async def test_its_key_is_free_and_its_batches_count_it(engine: Engine) -> None:
    """An item of one batch, and an item of another that stands for the same run."""
    lease = await register(engine)
    item = [StoredItem(0, "t", Packet(b"1"), RunOptions(ttl=60, idempotency_key="k"))]
    for _ in range(2):
        await batches.submit_batch(engine, 1, CreateBatch(run_count=1), item)
    [row] = await fetch_sql(engine, "SELECT id FROM headrace.runs")
    held = await runs.trigger_run(engine, 1, "t", Packet(b"1"), RunOptions(idempotency_key="k"))
    assert held == RunExists(row["id"], cached=True)
    await make_overdue(engine, row["id"])
    await sweeps.sweep_once(engine)
    rows = await fetch_sql(engine, "SELECT status, settled, succeeded FROM headrace.batches")
    assert [tuple(batch) for batch in rows] == [("COMPLETED", 1, 0)] * 2
    again = await runs.trigger_run(engine, 1, "t", Packet(b"1"), RunOptions(idempotency_key="k"))
    assert isinstance(again, RunCreated)
    assert [run.id for run in await claim(engine, lease)] == [again.run_id]
    await assert_invariants(engine)


async def test_an_expired_head_lets_the_next_of_its_order_key_go(engine: Engine) -> None:
    lease = await register(engine)
    first, second = await trigger(engine, order_key="k", ttl=60), await trigger(engine, order_key="k")
    await make_overdue(engine, first)
    assert await claim(engine, lease) == []
    ready = engine.notices.count_ready(1)
    await sweeps.sweep_once(engine)
    assert await engine.notices.wait_ready(1, 5, since=ready)
    assert [run.id for run in await claim(engine, lease)] == [second]


async def test_every_environment_is_swept_and_more_than_a_chunk(engine: Engine) -> None:
    items = [StoredItem(index, "t", Packet(b"1"), RunOptions(ttl=60)) for index in range(1500)]
    for environment_id in (1, 2):
        await batches.submit_batch(engine, environment_id, CreateBatch(run_count=1500), items)
    await fetch_sql(engine, "UPDATE headrace.runs SET expires_at = now()")
    report = await sweeps.sweep_once(engine)
    assert (report.runs_expired, report.environments) == (3000, {1, 2})
    rows = await fetch_sql(engine, "SELECT status, settled FROM headrace.batches")
    assert [tuple(row) for row in rows] == [("COMPLETED", 1500)] * 2
    await assert_invariants(engine)


async def test_many_that_expire_hold_up_no_other_deadline(engine: Engine) -> None:
    items = [StoredItem(index, "t", Packet(b"1"), RunOptions(ttl=60)) for index in range(2500)]
    await batches.submit_batch(engine, 1, CreateBatch(run_count=2500), items)
    await fetch_sql(engine, "UPDATE headrace.runs SET expires_at = now()")
    async with holding(engine, "nowhere") as (own, _):
        assert (await sweeps.sweep_once(own)).runs_expired == 2500
        assert isinstance(own.store, HeldStore)
        looks = [name for name in own.store.sent if name in {"find_expiring_runs", "lock_due_waiters"}]
    assert looks == ["lock_due_waiters", "find_expiring_runs"] * 3


# Races: one of both wins, and the other does nothing


async def test_a_claim_that_is_not_committed_when_the_sweep_comes_wins(engine: Engine) -> None:
    lease = await register(engine)
    run_id = await trigger(engine, ttl=60)
    claiming = query("claim_runs", 1, lease.worker_id, ["t"], None, 10, 30.0, None)
    async with holding(engine, "after:claim_runs") as (own, hold):
        claimed = await held_at(hold, own.store.run_plan(claiming))
        sweeping = await blocked(engine, _sweep_late(engine))
        assert not sweeping.done()
        hold.released.set()
        [row] = await claimed
        assert (row["id"], await sweeping) == (run_id, 0)
    assert await status_of(engine, run_id) == "EXECUTING"
    await assert_invariants(engine)


async def test_a_claim_between_the_look_and_the_lock_of_the_sweep_wins(engine: Engine) -> None:
    lease = await register(engine)
    run_id = await trigger(engine, ttl=60)
    async with holding(engine, "after:find_expiring_runs") as (own, hold):
        sweeping = await held_at(hold, _sweep_late(own))
        claimed = await claim(engine, lease)
        assert [run.id for run in claimed] == [run_id]
        hold.released.set()
        assert await sweeping == 0
    assert not await finish(engine, lease, claimed)
    assert await status_of(engine, run_id) == "COMPLETED"
    await assert_invariants(engine)


async def test_a_claim_that_meets_the_sweep_steps_over_its_run(engine: Engine) -> None:
    lease = await register(engine)
    run_id = await trigger(engine, ttl=60)
    async with holding(engine, "after:lock_runs") as (own, hold):
        sweeping = await held_at(hold, _sweep_late(own))
        assert await claim(engine, lease) == []
        hold.released.set()
        assert await sweeping == 1
    assert await status_of(engine, run_id) == "EXPIRED"
    assert await claim(engine, lease) == []
    await assert_invariants(engine)


async def test_a_cancel_and_the_sweep_end_a_run_once(engine: Engine) -> None:
    run_id = await trigger(engine, ttl=60)
    async with holding(engine, "after:cancel_runs") as (own, hold):
        canceling = await held_at(hold, cancels.cancel_run(own, 1, run_id))
        sweeping = await blocked(engine, _sweep_late(engine))
        hold.released.set()
        await canceling
        assert await sweeping == 0
    assert await status_of(engine, run_id) == "CANCELED"
    await assert_invariants(engine)


async def test_the_sweep_comes_when_the_time_does(engine: Engine) -> None:
    """Not at the next look, which is a minute away."""
    await trigger(engine, ttl=0.3)
    [look] = await engine.store.fetch("find_due_work")
    assert 0 <= (look["next_in"] or 0) <= 0.3
    run_id = await trigger(engine, ttl=0.3)
    stop = asyncio.Event()
    sweeping = asyncio.create_task(sweeps.run_sweeps(engine, stop, interval=60))
    try:
        ended = await runs.await_run(engine, 1, run_id, 20)
        assert ended is not None
        assert ended.status is RunStatus.EXPIRED
    finally:
        stop.set()
        await sweeping


async def _sweep_late(engine: Engine) -> int:
    """Ends what is overdue in two minutes; how many it ended."""
    _, ended, _ = await run_later(engine, "2 minutes", cancels.expire_runs(100))
    return ended
