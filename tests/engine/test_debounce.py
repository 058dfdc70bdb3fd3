"""Debounce: triggers with one key are one run while it is delayed, and each puts it off (research/engine.md B10).

Such runs are at home, whatever store the engine of a test is of: it is ``engine.home`` that they are looked at on.
"""

from __future__ import annotations

import asyncio
from typing import Any
from uuid import UUID

import msgspec
import pytest

from headrace import Debounce, Item, task
from headrace.engine import batches, cancels, journals, runs
from headrace.engine.deeds import ChildRun
from headrace.engine.engine import Engine
from headrace.engine.lanes import LaneFinder
from headrace.engine.outcomes import BatchCreated, BatchRefused, ChunkStored, Packet, RunCreated, RunExists, StoredItem
from headrace.engine.reschedules import reschedule_run
from headrace.errors import ConfigurationError
from headrace.ids import mint_run_id
from headrace.items import check_items, make_options
from headrace.protocol import options as wire
from headrace.protocol.batches import CreateBatch
from headrace.protocol.options import RunOptions
from headrace.tasks import Retry
from tests.engine.clocks import run_later
from tests.engine.held import HeldStore, blocked, held_at, holding, is_anybody_blocked
from tests.engine.helpers import claim, finish, open_batch, register
from tests.engine.parents import start_parent
from tests.engine.test_reschedule import claim_later, read_times
from tests.engine.test_ttl import status_of
from tests.invariants import assert_invariants, fetch_sql
from tests.worker.helpers import await_end, execute, read_output, working
from tests.worker.helpers import trigger as trigger_task

pytestmark = pytest.mark.anyio

ONCE = Retry(max_attempts=1)


def debounced(
    delay: str = "1h", *, key: str = "k", mode: Any = None, most: str | None = None, **more: Any
) -> RunOptions:
    return RunOptions(debounce=wire.Debounce(key, delay, mode, most), **more)


async def trigger(
    engine: Engine, options: RunOptions, payload: bytes = b"1", environment_id: int = 1, name: str = "t", **more: Any
) -> Any:
    return await runs.trigger_run(engine, environment_id, name, Packet(payload), options, **more)


async def make(engine: Engine, options: RunOptions, *args: Any, **more: Any) -> UUID:
    made = await trigger(engine, options, *args, **more)
    assert isinstance(made, RunCreated), made
    return made.run_id


async def trigger_after(engine: Engine, shift: str, options: RunOptions, payload: bytes = b"1") -> Any:
    """The same when the database's clock at home is ``shift`` further on."""
    plan = runs.make_run("t", Packet(payload), options, LaneFinder(1), engine.settings)
    return await run_later(engine.home, shift, plan)


async def read_run(engine: Engine, run_id: UUID) -> Any:
    [row] = await fetch_sql(
        engine.at(run_id),
        "SELECT convert_from(payload, 'UTF8') AS payload, options::jsonb AS options FROM headrace.runs WHERE id = $1",
        run_id,
    )
    return row


async def test_triggers_with_one_key_are_one_run_that_each_puts_off(engine: Engine) -> None:
    lease = await register(engine.home)
    run_id = await make(engine, debounced("30m"), b'"first"')
    assert (await read_times(engine, run_id))[:2] == pytest.approx((1800, 1800), abs=5)
    assert await status_of(engine, run_id) == "DELAYED"
    assert await trigger(engine, debounced("1h"), b'"second"') == RunExists(run_id, cached=True)
    assert (await read_times(engine, run_id))[:2] == pytest.approx((3600, 3600), abs=5)
    assert await trigger(engine, debounced("1m")) == RunExists(run_id, cached=True)  # it only moves later
    assert (await read_times(engine, run_id))[:2] == pytest.approx((3600, 3600), abs=5)
    assert (await read_run(engine, run_id))["payload"] == '"first"'
    assert await claim(engine.home, lease) == []
    [row] = await engine.home.store.run_plan(claim_later(lease.worker_id))
    assert row["id"] == run_id
    await assert_invariants(engine.home)


async def test_the_latest_word_counts_where_it_is_asked_for(engine: Engine) -> None:
    first = debounced(mode="trailing", tags=["a"], metadata={"n": 1}, max_attempts=2, priority=5, ttl="5m")
    run_id = await make(engine, first, b'"first"')
    second = debounced(mode="trailing", tags=["b"], metadata={"n": 2}, max_duration=9.0, priority=7, ttl="9m")
    assert (await trigger(engine, second, b'"second"')).run_id == run_id
    found = await runs.find_run(engine, 1, run_id)
    assert found is not None
    assert (found.payload.data, found.tags, found.metadata) == (b'"second"', ["b"], {"n": 2})
    kept = {name: found.options[name] for name in ("maxAttempts", "maxDuration", "priority", "ttl")}
    assert kept == {"maxAttempts": 2, "maxDuration": 9.0, "priority": 5.0, "ttl": 300.0}
    assert (await read_times(engine, run_id))[2] == pytest.approx(
        3900, abs=5
    )  # the time to live counts from the new time


async def test_a_key_is_that_of_one_task_in_one_environment(engine: Engine) -> None:
    made = [await make(engine, debounced()), await make(engine, debounced(), name="u")]
    made += [await make(engine, debounced(), environment_id=2), await make(engine, debounced(key="l"))]
    made += [await make(engine, RunOptions(idempotency_key="k"))]  # an idempotency key is another thing
    assert len(set(made)) == 5


async def test_a_run_that_is_due_is_left_alone_and_the_next_is_another(engine: Engine) -> None:
    run_id = await make(engine, debounced("30m"))
    answer = await trigger_after(engine, "31 minutes", debounced("30m"))
    assert isinstance(answer, RunCreated)
    assert (await read_times(engine, run_id))[1] == pytest.approx(1800, abs=5)
    assert await trigger(engine, debounced("30m")) == RunExists(answer.run_id, cached=True)
    await assert_invariants(engine)


async def test_a_run_is_put_off_for_so_long_and_no_longer(engine: Engine) -> None:
    """From when it was made: 20 + 30 minutes are within an hour, 31 + 30 are not."""
    options = debounced("30m", most="1h")
    run_id = await make(engine, options)
    assert await trigger_after(engine, "20 minutes", options) == RunExists(run_id, cached=True)
    other = await trigger_after(engine, "31 minutes", options)
    assert isinstance(other, RunCreated)
    assert (await read_times(engine, run_id))[1] == pytest.approx(50 * 60, abs=5)
    assert await trigger(engine, options) == RunExists(other.run_id, cached=True)
    await assert_invariants(engine)


async def test_a_canceled_run_takes_no_more_triggers(engine: Engine) -> None:
    run_id = await make(engine, debounced())
    await cancels.cancel_run(engine, 1, run_id)
    assert await make(engine, debounced()) != run_id
    assert await status_of(engine, run_id) == "CANCELED"


async def test_moves_that_are_no_move_write_nothing(engine: Engine) -> None:
    await make(engine, debounced())
    before = await fetch_sql(engine.home, "SELECT ctid::text AS place, * FROM headrace.runs")
    assert len(before) == 1
    for _ in range(5):
        await trigger(engine, debounced())
    assert await fetch_sql(engine.home, "SELECT ctid::text AS place, * FROM headrace.runs") == before


async def test_a_run_that_was_rescheduled_takes_triggers_as_long_as_it_waits(engine: Engine) -> None:
    run_id = await make(engine, debounced("1h"))
    await reschedule_run(engine, 1, run_id, "9d")
    assert await trigger_after(engine, "8 days", debounced("1h")) == RunExists(run_id, cached=True)
    assert (await read_times(engine, run_id))[1] == pytest.approx(9 * 86_400, abs=5)


async def test_other_keys_of_a_trigger_stand_for_the_run_that_it_joined(engine: Engine) -> None:
    run_id = await make(engine, debounced())
    options = debounced(idempotency_key="i")
    assert await trigger(engine, options, request_id="r") == RunExists(run_id, cached=True)
    assert await trigger(engine, options, request_id="r") == RunExists(run_id, cached=False)
    assert await trigger(engine, RunOptions(idempotency_key="i")) == RunExists(run_id, cached=True)
    await assert_invariants(engine)


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (debounced("soon"), "debounce.delay is 'soon'"),
        (debounced("2027-01-01"), "debounce.delay"),
        (debounced("0s"), "more than 0"),
        (debounced("40000d"), "at most 36500 days"),
        (debounced("1h", most="1h"), "debounce.maxDelay is '1h', but must be more"),
        (debounced("1h", most="late"), "debounce.maxDelay is 'late'"),
        (RunOptions(delay="2h", debounce=wire.Debounce("k", "1h")), "delay and debounce"),
    ],
)
async def test_what_can_not_be_is_refused_and_leaves_nothing(engine: Engine, options: RunOptions, told: str) -> None:
    answer = await trigger(engine, options)
    assert isinstance(answer, BatchRefused)
    assert (answer.status, told in answer.message) == (422, True), answer
    for table in ("runs", "idempotency_keys"):
        for one in engine.stores.all():
            assert await fetch_sql(one, f"SELECT FROM headrace.{table}") == []


@pytest.mark.parametrize("mode", ["leading", "trailing"])
@pytest.mark.parametrize("shape", ["stream", "one shot"])
async def test_items_of_one_key_share_a_run_that_settles_them_all(engine: Engine, shape: str, mode: str) -> None:
    before = await trigger(engine, debounced(mode=mode), b"0")
    items = [StoredItem(n, "t", Packet(str(n + 1).encode()), debounced(mode=mode)) for n in range(3)]
    items.append(StoredItem(3, "t", Packet(b"9"), RunOptions(debounce=wire.Debounce("other", "1h"))))
    if shape == "one shot":
        made = await batches.submit_batch(engine, 1, CreateBatch(run_count=4), items)
        assert isinstance(made, BatchCreated)
        batch_id = made.batch.id
    else:
        batch = await open_batch(engine, 4, ordered=True)
        assert isinstance(await batches.store_chunk(engine, 1, batch, items), ChunkStored)
        assert isinstance(await batches.store_chunk(engine, 1, batch, items), ChunkStored), "sent again"
        await batches.end_stream(engine, 1, batch.id)
        batch_id = batch.id
    home = engine.home
    rows = await fetch_sql(home, "SELECT id, payload FROM headrace.runs ORDER BY payload")
    assert isinstance(before, RunCreated)
    assert [row["payload"] for row in rows] == [b"0" if mode == "leading" else b"3", b"9"]
    assert before.run_id in {row["id"] for row in rows}
    await fetch_sql(home, "UPDATE headrace.runs SET delayed_until = now(), ready_at = now()")
    lease = await register(home)
    await finish(home, lease, await claim(home, lease))
    [batch_row] = await fetch_sql(home, "SELECT status, settled, aliased FROM headrace.batches WHERE id = $1", batch_id)
    assert tuple(batch_row) == ("COMPLETED", 4, 3)
    await assert_invariants(home)


async def test_a_chunk_whose_debounced_run_is_held_by_others_is_stored_when_it_is_free(engine: Engine) -> None:
    """It does not wait while it holds its batch: whoever ends the run may want the batch."""
    engine = engine.home
    await trigger(engine, debounced())
    batch = await open_batch(engine, 1, ordered=True)
    item = StoredItem(0, "t", Packet(b"1"), debounced())
    async with engine.store.connect() as connection, holding(engine, "after:nothing") as (own, _):
        transaction = connection.transaction()
        await transaction.start()
        await connection.execute("SELECT FROM headrace.runs FOR UPDATE")
        storing = asyncio.create_task(batches.store_chunk(own, 1, batch, [item]))
        assert isinstance(own.store, HeldStore)
        async with asyncio.timeout(20):
            while own.store.sent.count("try_watch_runs") < 3:
                assert not await is_anybody_blocked(engine), "it waits for the run"
                await asyncio.sleep(0.005)
        await transaction.rollback()
        assert isinstance(await storing, ChunkStored)
    assert len(await fetch_sql(engine, "SELECT FROM headrace.runs")) == 1


async def test_an_item_with_both_keys_lets_both_stand_for_the_run_that_it_joins(engine: Engine) -> None:
    before = await trigger(engine, debounced())
    both = msgspec.structs.replace(debounced(), idempotency_key="once")
    batch = await open_batch(engine, 1, ordered=True)
    assert isinstance(
        await batches.store_chunk(engine, 1, batch, [StoredItem(0, "t", Packet(b"1"), both)]), ChunkStored
    )
    again = await trigger(engine, RunOptions(idempotency_key="once"))
    assert isinstance(before, RunCreated)
    assert again == RunExists(before.run_id, cached=True)


async def test_a_batch_that_waits_for_its_seal_takes_no_debounced_items(engine: Engine) -> None:
    batch = await open_batch(engine, 1, start="seal")
    answer = await batches.store_chunk(engine, 1, batch, [StoredItem(0, "t", Packet(b"1"), debounced())])
    assert isinstance(answer, BatchRefused)
    assert (answer.status, "start 'add'" in answer.message) == (422, True)
    assert await fetch_sql(engine, "SELECT FROM headrace.runs") == []


def test_debounce_as_a_program_writes_it() -> None:
    spelt = make_options("t", {"debounce": Debounce("k", 90, "trailing", max_delay="1h")})
    assert spelt == {"debounce": {"key": "k", "delay": "90s", "mode": "trailing", "maxDelay": "3600s"}}
    for wrong in (Debounce("k", "soon"), "k"):
        with pytest.raises(ConfigurationError, match="debounce"):
            make_options("t", {"debounce": wrong})
    assert Item(1, debounce=Debounce("k", 90)).options == {"debounce": Debounce("k", 90)}
    with pytest.raises(ConfigurationError, match="would make all its items one run"):
        check_items([1], {"debounce": Debounce("k", 90)})


# Races


async def test_many_triggers_at_once_are_one_run(engine: Engine) -> None:
    answers = await asyncio.gather(*(trigger(engine, debounced(mode="trailing"), str(n).encode()) for n in range(50)))
    assert len({answer.run_id for answer in answers}) == 1
    assert sum(isinstance(answer, RunCreated) for answer in answers) == 1
    assert len(await fetch_sql(engine.home, "SELECT FROM headrace.runs")) == 1
    await assert_invariants(engine.home)


async def test_a_claim_that_is_not_committed_yet_has_the_run(engine: Engine) -> None:
    """The trigger waits for it, and makes another run: what it says is not to be lost."""
    engine = engine.home
    lease = await register(engine)
    run_id = await make(engine, debounced("1h"))
    async with holding(engine, "after:claim_runs") as (own, hold):
        claiming = await held_at(hold, own.store.run_plan(claim_later(lease.worker_id)))
        joining = await blocked(engine, trigger(engine, debounced("1h")))
        assert not joining.done()
        hold.released.set()
        await claiming
        answer = await joining
    assert isinstance(answer, RunCreated)
    assert await status_of(engine, run_id) == "EXECUTING"
    assert await trigger(engine, debounced("1h")) == RunExists(answer.run_id, cached=True)
    await assert_invariants(engine)


@pytest.mark.parametrize("mode", ["leading", "trailing"])
async def test_no_claim_takes_a_run_that_a_trigger_has_joined_before_that_commits(engine: Engine, mode: str) -> None:
    """Also where the trigger is part of a caller's transaction, whose data the run is to find."""
    engine = engine.home
    lease = await register(engine)
    run_id = await make(engine, debounced("1h", mode=mode))
    async with holding(engine, "after:hold_debounced") as (own, hold):
        joining = await held_at(hold, trigger(own, debounced("1h", mode=mode)))
        assert [row["id"] for row in await engine.store.run_plan(claim_later(lease.worker_id))] == [None]
        hold.released.set()
        assert (await joining).run_id == run_id
    await assert_invariants(engine)


async def test_a_cancel_and_a_trigger(engine: Engine) -> None:
    engine = engine.home
    run_id = await make(engine, debounced())
    async with holding(engine, "after:cancel_runs") as (own, hold):
        canceling = await held_at(hold, cancels.cancel_run(own, 1, run_id))
        joining = await blocked(engine, trigger(engine, debounced()))
        hold.released.set()
        await canceling
        assert isinstance(await joining, RunCreated)
    await assert_invariants(engine)


async def test_a_reschedule_and_a_trigger_take_their_locks_in_one_order(engine: Engine) -> None:
    engine = engine.home
    run_id = await make(engine, debounced())
    async with holding(engine, "after:keep_key") as (own, hold):
        moving = await held_at(hold, reschedule_run(own, 1, run_id, "2h"))
        joining = await blocked(engine, trigger(engine, debounced("3h")))
        assert not joining.done()
        hold.released.set()
        await moving
        assert await joining == RunExists(run_id, cached=True)
    assert (await read_times(engine, run_id))[1] == pytest.approx(10_800, abs=5)


# Inside of runs


@task(id="d.child", retry=ONCE)
async def child(number: int) -> int:
    return number


@task(id="d.parent", retry=ONCE)
async def parent(mode: str) -> list[Any]:
    later_on = Debounce("k", 1.0, mode)  # type: ignore[arg-type]
    refs = await asyncio.gather(*(child.trigger(number, debounce=later_on) for number in range(3)))
    outcome = await child.trigger_and_wait(3, debounce=later_on)
    return [[ref.id for ref in refs] + [outcome.run_id], [ref.is_cached for ref in refs], outcome.unwrap()]


@pytest.mark.parametrize(("mode", "value"), [("leading", 0), ("trailing", 3)])
async def test_children_are_debounced_and_the_run_that_is_joined_is_waited_for(
    engine: Engine, mode: str, value: int
) -> None:
    async with working(engine, parent, child, wait_linger=0.0):
        ids, cached, output = read_output(await execute(engine, parent, mode))
    assert len(set(ids)) == 1
    assert sorted(cached) == [False, True, True]
    assert output == value
    assert len(await fetch_sql(engine, "SELECT FROM headrace.runs WHERE parent_run_id IS NOT NULL")) == 1
    await assert_invariants(engine)


async def test_a_run_that_others_made_is_waited_for_and_not_canceled_with_the_parent(engine: Engine) -> None:
    engine = engine.home
    run_id = await make(engine, debounced())
    # a child is where its parent is, and joins what is there: a parent with an order key is at home, too
    holder = await start_parent(engine, await register(engine, "p"), order_key="o")
    [point] = await holder.write(engine, ChildRun(mint_run_id(engine.key), "t", Packet(b"1"), debounced()))
    assert (point.pending, point.target) == (True, run_id)
    [row] = await fetch_sql(engine, "SELECT cascade FROM headrace.journal")
    assert row["cascade"] is False
    assert (await journals.read_journals(engine, 1, [holder.id]))[holder.id][0].target == run_id


async def test_a_delayed_run_starts_when_nothing_came_for_a_while(engine: Engine) -> None:
    async with working(engine, child):
        first = await trigger_task(engine, child, 1, debounce=wire.Debounce("k", "1s", "trailing"))
        await runs.trigger_run(engine, 1, child.id, Packet(b"2"), debounced("1s", mode="trailing"))
        assert read_output(await await_end(engine, first)) == 2
