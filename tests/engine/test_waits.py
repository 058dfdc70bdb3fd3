"""Who waits is woken, whatever comes first: research/engine.md B7, D3.2 (1, 2) and D4 (waits), research/batch.md 8.

Every race is forced: one transaction is held at a statement, on a connection of its own, while the other comes.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from functools import partial
from typing import Any
from uuid import UUID

import pytest

from headrace.engine import batches, cancels, completions, journals, runs, sweeps, tokens
from headrace.engine.deeds import Deed, Following, Timer, TokenWait
from headrace.engine.engine import Engine
from headrace.engine.journals import RunLostError
from headrace.engine.outcomes import (
    ChunkStored,
    ClaimedRun,
    Finish,
    ItemError,
    Packet,
    RunCreated,
    StoredItem,
    WorkerLease,
)
from headrace.engine.token_outcomes import TokenCompleted
from headrace.errors import ConfigurationError
from headrace.protocol.metadata import SetKey
from headrace.protocol.options import RunOptions
from headrace.protocol.statuses import BatchStatus, RunStatus
from headrace.protocol.tokens import TokenStatus
from tests.engine.held import advance, blocked, held_at, holding, locked
from tests.engine.helpers import claim, finish, make_items, register
from tests.engine.parents import (
    DUE,
    Parent,
    Wait,
    child,
    child_batch,
    make_token,
    read_state,
    resume,
    start_parent,
)
from tests.invariants import assert_invariants, fetch_sql

pytestmark = pytest.mark.anyio

KINDS = ["run", "cancel", "batch", "progress", "seal", "timer", "token", "timeout"]
Ending = Callable[[Engine], Coroutine[Any, Any, Any]]
EACH_KIND = pytest.mark.parametrize("kind", KINDS)
END = {"progress": 1}  # the batch itself is still waited for
ENDERS = {
    "run": "finish_runs",
    "batch": "finish_runs",
    "progress": "finish_runs",
    "cancel": "cancel_runs",
    "seal": "seal_batch",
    "timer": "end_due_waits",
    "token": "complete_token",
    "timeout": "expire_tokens",
}
"""The statement that ends what is waited for."""


# The wake-up race (D3.2 item 1)


@EACH_KIND
async def test_an_end_after_the_run_was_put_down_wakes_it(engine: Engine, kind: str) -> None:
    wait, parent = await begin(engine, kind)
    await parent.sleep(engine)
    assert (await read_state(engine, parent.id))[0] == "WAITING"
    await wait.end(engine)
    assert await read_state(engine, parent.id) == ("QUEUED", 1, END.get(kind, 0))
    await assert_invariants(engine)


@EACH_KIND
async def test_an_end_before_the_run_is_put_down_queues_it_at_once(engine: Engine, kind: str) -> None:
    wait, parent = await begin(engine, kind)
    await wait.end(engine)
    assert (await read_state(engine, parent.id))[:2] == ("EXECUTING", 0)
    await parent.sleep(engine)
    assert await read_state(engine, parent.id) == ("QUEUED", 1, END.get(kind, 0))
    await assert_invariants(engine)


@pytest.mark.parametrize("moment", ["target", "journal", "last"])
@EACH_KIND
async def test_an_end_that_is_not_committed_while_the_run_is_put_down_wakes_it(
    engine: Engine, kind: str, moment: str
) -> None:
    """The end is written and its transaction open: put down meets it in mid-way, after each of its statements."""
    wait, parent = await begin(engine, kind)
    point = {"target": f"after:{ENDERS[kind]}", "journal": "after:complete_points", "last": "after:wake_runs"}[moment]
    if kind == "timer" and moment == "journal":
        point = "before:wake_runs"
    async with holding(engine, point) as (own, hold):
        ending = await held_at(hold, wait.end(own))
        sleeping = await blocked(engine, parent.sleep(engine))
        hold.released.set()
        await asyncio.gather(ending, sleeping)
    assert await read_state(engine, parent.id) == ("QUEUED", 1, END.get(kind, 0))
    await assert_invariants(engine)


@pytest.mark.parametrize("moment", ["finish_runs", "find_resolved_waiters"])
@EACH_KIND
async def test_an_end_that_comes_while_the_put_down_is_not_committed_wakes_it(
    engine: Engine, kind: str, moment: str
) -> None:
    wait, parent = await begin(engine, kind)
    async with holding(engine, f"after:{moment}") as (own, hold):
        sleeping = await held_at(hold, parent.sleep(own))
        ending = await blocked(engine, wait.end(engine))
        hold.released.set()
        await asyncio.gather(sleeping, ending)
    assert await read_state(engine, parent.id) == ("QUEUED", 1, END.get(kind, 0))
    await assert_invariants(engine)


# When it ends (D4: before, during, after the wait is written; twice)


async def test_a_child_that_had_ended_before_by_its_key_is_no_wait(engine: Engine) -> None:
    """Peers 4, item 2: the parent does not wait for a run that is over."""
    await runs.trigger_run(engine, 1, "t", Packet(b"1"), RunOptions(idempotency_key="k"))
    lease = await register(engine, "p", "t")
    await finish(engine, lease, await claim(engine, lease))
    parent = await start_parent(engine, lease)
    [point] = await parent.write(engine, child("k"))
    assert not point.pending
    [found] = await journals.read_points(engine, 1, [(parent.id, "point")])
    assert (found.status, found.value.data) == (RunStatus.COMPLETED, b"2")
    assert await claim(engine, lease) == []
    await parent.sleep(engine)
    assert await read_state(engine, parent.id) == ("QUEUED", 1, 0)


async def test_a_token_that_had_ended_before_is_no_wait(engine: Engine) -> None:
    lease = await register(engine, "p")
    parent = await start_parent(engine, lease)
    token = await make_token(engine)
    await tokens.complete_token(engine, 1, token, Packet(b"7"))
    [point] = await parent.write(engine, TokenWait(token))
    assert not point.pending
    [found] = await journals.read_points(engine, 1, [(parent.id, "point")])
    assert (found.status, found.value.data) == (TokenStatus.COMPLETED, b"7")


@pytest.mark.parametrize("kind", ["child", "token"])
async def test_an_end_while_the_wait_is_written_waits_for_it_and_wakes_it(engine: Engine, kind: str) -> None:
    lease, parent, deed, end = await shared_target(engine, kind)
    async with holding(engine, "after:write_points") as (own, hold):
        writing = await held_at(hold, parent.write(own, deed))
        ending = await blocked(engine, end(engine))
        assert not ending.done()
        hold.released.set()
        await asyncio.gather(writing, ending)
    await parent.sleep(engine)
    assert await read_state(engine, parent.id) == ("QUEUED", 1, 0)
    assert lease.worker_id


@pytest.mark.parametrize("kind", ["child", "token"])
async def test_a_wait_that_is_written_while_its_target_ends_sees_the_end(engine: Engine, kind: str) -> None:
    _, parent, deed, end = await shared_target(engine, kind)
    async with holding(engine, "after:finish_runs" if kind == "child" else "after:complete_token") as (own, hold):
        ending = await held_at(hold, end(own))
        writing = asyncio.create_task(parent.write(engine, deed))
        if kind == "token":
            await locked(engine, writing)
        hold.released.set()
        await ending
        [point] = await writing
    assert not point.pending
    await parent.sleep(engine)
    assert await read_state(engine, parent.id) == ("QUEUED", 1, 0)


async def test_what_ends_twice_wakes_once(engine: Engine) -> None:
    lease = await register(engine, "p", "t")
    parent = await start_parent(engine, lease)
    token = await make_token(engine)
    await parent.write(engine, child(), TokenWait(token))
    await parent.sleep(engine)
    children = await claim(engine, lease)
    assert await finish(engine, lease, children) == set()
    assert await finish(engine, lease, children, "FAILED") == {run.id for run in children}
    assert await read_state(engine, parent.id) == ("QUEUED", 1, 1)
    resumed = await resume(engine, lease)
    [one, two] = sorted(resumed.run.journal, key=lambda point: point.made)
    assert (one.status, two.pending) == (RunStatus.COMPLETED, True)
    await resumed.sleep(engine, [("point", 1001)])
    assert await read_state(engine, parent.id) == ("WAITING", 1, 1)
    for output in (b"1", b"2"):
        answer = await tokens.complete_token(engine, 1, token, Packet(output))
        assert isinstance(answer, TokenCompleted)
        assert (answer.won, answer.token.output) == (output == b"1", Packet(b"1"))
    assert await read_state(engine, parent.id) == ("QUEUED", 2, 0)
    await assert_invariants(engine)


@pytest.mark.parametrize("kind", ["child", "token"])
async def test_two_runs_that_wait_for_one_target_are_both_woken(engine: Engine, kind: str) -> None:
    lease, parent, deed, end = await shared_target(engine, kind)
    other = await start_parent(engine, lease)
    await parent.write(engine, deed)
    await parent.sleep(engine)
    await other.write(engine, child("k") if kind == "child" else deed)
    await other.sleep(engine)
    await end(engine)
    assert [await read_state(engine, run.id) for run in (parent, other)] == [("QUEUED", 1, 0)] * 2
    outcomes = [point for run in await claim(engine, lease, 10, "p") for point in run.journal]
    assert [point.value.data for point in outcomes] == [b"2", b"2"]
    await assert_invariants(engine)


@pytest.mark.parametrize("first", ["completion", "timeout"])
async def test_a_token_that_is_completed_as_its_time_is_over_ends_once(engine: Engine, first: str) -> None:
    lease = await register(engine, "p")
    parent = await start_parent(engine, lease)
    token = await make_token(engine, timeout=60)
    await parent.write(engine, TokenWait(token))
    await parent.sleep(engine)
    await fetch_sql(engine, "UPDATE headrace.tokens SET timeout_at = now() - interval '1 second'")
    point = "after:complete_token" if first == "completion" else "after:expire_tokens"
    async with holding(engine, point) as (own, hold):
        complete: Ending = lambda on: tokens.complete_token(on, 1, token, Packet(b"1"))  # noqa: E731
        ends: list[Ending] = [complete, sweeps.sweep_once]
        leading, trailing = ends if first == "completion" else ends[::-1]
        one = await held_at(hold, leading(own))
        two = await blocked(engine, trailing(engine))
        hold.released.set()
        await asyncio.gather(one, two)
    await sweeps.sweep_once(engine)
    found = await tokens.find_token(engine, 1, token)
    assert found is not None
    assert found.status is (TokenStatus.COMPLETED if first == "completion" else TokenStatus.TIMED_OUT)
    assert await read_state(engine, parent.id) == ("QUEUED", 1, 0)
    await assert_invariants(engine)


@pytest.mark.parametrize("end", [RunStatus.COMPLETED, RunStatus.FAILED, RunStatus.CANCELED])
@EACH_KIND
async def test_a_parent_that_has_ended_itself_is_not_resumed(engine: Engine, kind: str, end: RunStatus) -> None:
    wait, parent = await begin(engine, kind)
    if end is RunStatus.CANCELED:
        await cancels.cancel_run(engine, 1, parent.id)
    else:
        await parent.end(engine, end)
    before = await fetch_sql(engine, "SELECT * FROM headrace.runs WHERE id = $1", parent.id)
    await wait.end(engine)
    assert await fetch_sql(engine, "SELECT * FROM headrace.runs WHERE id = $1", parent.id) == before
    assert await claim(engine, parent.lease, 10, "p") == []
    await assert_invariants(engine)


# Batches


async def test_fault_01_a_batch_of_one_run_at_two_indexes_wakes_its_parent(engine: Engine) -> None:
    """Items count, not runs: two items with one idempotency key are two outcomes."""
    lease = await register(engine, "p", "t")
    parent = await start_parent(engine, lease)
    made = child_batch(make_items(0, 3, key="same"))
    await parent.write(engine, made)
    await parent.sleep(engine)
    children = await claim(engine, lease)
    assert len(children) == 1
    await finish(engine, lease, children)
    assert await read_state(engine, parent.id) == ("QUEUED", 1, 0)
    outcomes = await batches.list_batch_outcomes(engine, 1, made.batch_id)
    assert [(one.index, one.run_id, one.output.data) for one in outcomes] == [
        (index, children[0].id, b"2") for index in range(3)
    ]
    await assert_invariants(engine)


async def test_a_batch_of_runs_that_have_all_ended_is_no_wait(engine: Engine) -> None:
    await runs.trigger_run(engine, 1, "t", Packet(b"1"), RunOptions(idempotency_key="k"))
    lease = await register(engine, "p", "t")
    await finish(engine, lease, await claim(engine, lease))
    parent = await start_parent(engine, lease)
    [point] = await parent.write(engine, child_batch(make_items(0, 2, key="k")))
    assert not point.pending
    assert await claim(engine, lease) == []
    await parent.sleep(engine)
    assert await read_state(engine, parent.id) == ("QUEUED", 1, 0)
    await assert_invariants(engine)


async def test_fault_05_items_that_are_cached_new_and_failed_have_outcomes_at_their_own_indexes(engine: Engine) -> None:
    """Peers 4, item 2: ended before, under way elsewhere, new, and never to become a run."""
    lease = await register(engine, "p", "t")
    await runs.trigger_run(engine, 1, "t", Packet(b"1"), RunOptions(idempotency_key="ended"))
    [done] = await claim(engine, lease)
    await completions.finish_runs(engine, lease, [Finish(done.id, done.attempt, RunStatus.COMPLETED, Packet(b"10"))])
    await runs.trigger_run(engine, 1, "t", Packet(b"1"), RunOptions(idempotency_key="under way"))
    [under_way] = await claim(engine, lease)
    parent = await start_parent(engine, lease)
    keys = [None, "ended", "under way", "new", "ended", None]
    items = [item for index, key in enumerate(keys) for item in make_items(index, 1, key=key)]
    items[5].error = ItemError("PAYLOAD_TOO_LARGE", "made to fail")
    made = child_batch(items)
    await parent.write(engine, made)
    await parent.sleep(engine)
    fresh = sorted(await claim(engine, lease), key=lambda run: run.batch_index or 0)
    assert [run.batch_index for run in fresh] == [0, 3]
    ends = [*fresh, under_way]
    finishes = [
        Finish(run.id, run.attempt, RunStatus.COMPLETED, Packet(b"%d" % number)) for number, run in enumerate(ends)
    ]
    await completions.finish_runs(engine, lease, finishes)
    assert await read_state(engine, parent.id) == ("QUEUED", 1, 0)
    outcomes = await batches.list_batch_outcomes(engine, 1, made.batch_id)
    assert [one.index for one in outcomes] == [0, 1, 2, 3, 4, 5]
    assert [one.output.data for one in outcomes] == [b"0", b"10", b"2", b"1", b"10", None]
    assert outcomes[5].status is RunStatus.SYSTEM_FAILURE
    await assert_invariants(engine)


async def test_fault_04_a_batch_whose_items_all_fail_wakes_its_parent(engine: Engine) -> None:
    lease = await register(engine, "p", "t")
    parent = await start_parent(engine, lease)
    made = child_batch(make_items(0, 5))
    await parent.write(engine, made)
    await parent.sleep(engine)
    await finish(engine, lease, await claim(engine, lease), "FAILED")
    assert await read_state(engine, parent.id) == ("QUEUED", 1, 0)
    outcomes = await batches.list_batch_outcomes(engine, 1, made.batch_id)
    assert [one.status for one in outcomes] == [RunStatus.FAILED] * 5


async def test_fault_04_a_batch_none_of_whose_items_can_become_a_run_is_no_wait(engine: Engine) -> None:
    lease = await register(engine, "p", "t")
    parent = await start_parent(engine, lease)
    made = child_batch(make_items(0, 2, error="PAYLOAD_TOO_LARGE"))
    [point] = await parent.write(engine, made)
    assert not point.pending
    await parent.sleep(engine)
    assert await read_state(engine, parent.id) == ("QUEUED", 1, 0)


async def test_fault_06_the_error_of_a_batch_that_was_never_sealed_reaches_its_parent(engine: Engine) -> None:
    """Peers 4, item 1: its stream died; the parent is told at the deadline, whatever has run of it by then."""
    lease = await register(engine, "p", "t")
    parent = await start_parent(engine, lease)
    made = child_batch(None, 2)
    await parent.write(engine, made)
    await parent.sleep(engine)
    await fetch_sql(engine, "UPDATE headrace.batches SET seal_deadline = now() - interval '1 second'")
    await sweeps.sweep_once(engine)
    assert await read_state(engine, parent.id) == ("QUEUED", 1, 0)
    [point] = (await resume(engine, lease)).run.journal
    assert point.status == BatchStatus.ABORTED
    assert point.error is not None
    assert "0 of 2" in str(point.error["message"])


async def test_fault_11_points_that_are_written_twice_are_there_once(engine: Engine) -> None:
    """The answer to the write got lost, so it is written again: no second run, batch, token."""
    lease = await register(engine, "p", "t")
    parent = await start_parent(engine, lease)
    deeds = [child(), child("k"), child(awaited=False), child_batch(make_items(0, 3)), Timer(seconds=60)]
    await parent.write(engine, *deeds)
    parent.made = 0
    before = await fetch_sql(engine, "SELECT * FROM headrace.journal ORDER BY point")
    again = await parent.write(engine, *deeds)
    assert len(again) == 5
    assert await fetch_sql(engine, "SELECT * FROM headrace.journal ORDER BY point") == before
    assert len(await claim(engine, lease)) == 6
    await assert_invariants(engine)


async def test_fault_11_a_child_by_its_key_is_one_however_often_it_is_written(engine: Engine) -> None:
    """The answer got lost; before it was written again the child failed, which frees its key."""
    lease = await register(engine, "p", "t")
    parent = await start_parent(engine, lease)
    await runs.trigger_run(engine, 1, "t", Packet(b"1"), RunOptions(idempotency_key="of others"))
    deeds = [child("own"), child("of others")]
    first = await parent.write(engine, *deeds)
    await finish(engine, lease, await claim(engine, lease), "FAILED")
    parent.made = 0
    again = await parent.write(engine, *deeds, repeated=True)
    assert [(point.name, point.target) for point in again] == [(point.name, point.target) for point in first]
    assert not any(point.pending for point in again)
    assert await claim(engine, lease) == []
    for key in ("own", "of others"):
        answer = await runs.trigger_run(engine, 1, "t", Packet(b"1"), RunOptions(idempotency_key=key))
        assert isinstance(answer, RunCreated), "a key of a failed run is free"
    await assert_invariants(engine)


async def test_fault_26_a_reader_sees_the_end_and_the_wake_or_neither(engine: Engine) -> None:
    """Held after each statement of the end in turn: nobody else sees anything of it; then all of it."""
    query = "SELECT r.status::text FROM headrace.runs AS r WHERE r.id = $1 OR r.parent_run_id = $1 ORDER BY r.id = $1"
    for point in ("finish_runs", "settle_aliases", "lock_waiters", "complete_points", "wake_runs"):
        wait, parent = await begin(engine, "run")
        await parent.sleep(engine)
        async with holding(engine, f"after:{point}") as (own, hold):
            ending = await held_at(hold, wait.end(own))
            assert [row["status"] for row in await fetch_sql(engine, query, parent.id)] == ["EXECUTING", "WAITING"]
            hold.released.set()
            await ending
        assert [row["status"] for row in await fetch_sql(engine, query, parent.id)] == ["COMPLETED", "QUEUED"]
        await cancels.cancel_run(engine, 1, parent.id)


async def test_a_run_that_would_wait_for_itself_is_told_so(engine: Engine) -> None:
    lease = await register(engine, "p")
    parent = await start_parent(engine, lease, idempotency_key="own")
    with pytest.raises(ConfigurationError, match="'own' stands for the run that waits for it"):
        await parent.write(engine, child("own", task="p"))
    [point] = await parent.write(engine, child("own", task="p", awaited=False))
    assert not point.pending


async def test_a_run_that_goes_on_goes_before_what_came_after_it(engine: Engine) -> None:
    lease = await register(engine, "p", "t")
    parent = await start_parent(engine, lease)
    await parent.write(engine, child())
    await parent.sleep(engine)
    later = await runs.trigger_run(engine, 1, "p", Packet(b"1"), RunOptions())
    await finish(engine, lease, await claim(engine, lease))
    first = await claim(engine, lease, 1, "p")
    assert isinstance(later, RunCreated)
    assert [run.id for run in first] == [parent.id]


async def test_a_worker_that_lost_a_run_adds_nothing_to_its_batch(engine: Engine) -> None:
    lease, other = await register(engine, "p", "t"), await register(engine, "p", "t")
    parent = await start_parent(engine, lease)
    made = child_batch(None, 4)
    await parent.write(engine, made)
    batch = await batches.find_batch(engine, 1, made.batch_id)
    assert batch is not None
    hold = partial(journals.hold_run, parent.fence)
    await batches.store_chunk(engine, 1, batch, make_items(0, 2), hold=hold)
    await fetch_sql(
        engine, "UPDATE headrace.workers SET lease_until = now() - interval '1 s' WHERE id = $1", lease.worker_id
    )
    await sweeps.sweep_once(engine)
    with pytest.raises(RunLostError):
        await batches.store_chunk(engine, 1, batch, make_items(2, 2), hold=hold)
    again = await resume(engine, other)
    hold = partial(journals.hold_run, again.fence)
    assert await batches.store_chunk(engine, 1, batch, make_items(0, 4), hold=hold) == ChunkStored(2, 2)
    await assert_invariants(engine)


async def test_a_worker_that_lost_a_run_writes_nothing_to_its_journal(engine: Engine) -> None:
    """Invariant 6: no child, no token, no wait, no metadata."""
    lease, other = await register(engine, "p", "t"), await register(engine, "p", "t")
    parent = await start_parent(engine, lease)
    await fetch_sql(
        engine, "UPDATE headrace.workers SET lease_until = now() - interval '1 s' WHERE id = $1", lease.worker_id
    )
    await sweeps.sweep_once(engine)
    for deed in (child(), child("k"), child(awaited=False), child_batch(make_items(0, 2)), Timer(seconds=1)):
        with pytest.raises(RunLostError):
            await parent.write(engine, deed)
    again = await resume(engine, other)
    with pytest.raises(RunLostError):
        await parent.write(engine, journals.MetadataChange([SetKey("a", 1)]))
    assert again.run.journal == ()
    for table in ("journal", "batches", "tokens", "idempotency_keys"):
        assert await fetch_sql(engine, f"SELECT FROM headrace.{table}") == []
    assert len(await fetch_sql(engine, "SELECT FROM headrace.runs")) == 1


# Locks (D3.2 item 2): what is held is taken in one order, so nobody waits in a ring: PostgreSQL would fail one of them


async def test_a_cancel_of_the_parent_and_the_end_of_its_child_lock_in_one_order(engine: Engine) -> None:
    """The end holds the wait and wants the parent; the cancel holds the parent and wants its waits."""
    wait, parent = await begin(engine, "run")
    await parent.sleep(engine)
    async with (
        holding(engine, "after:complete_points") as (first, hold),
        holding(engine, "after:cancel_runs") as (second, other),
    ):
        ending = await held_at(hold, wait.end(first))
        canceling = await advance(engine, other, cancels.cancel_run(second, 1, parent.id))
        hold.released.set()
        other.released.set()
        await asyncio.gather(ending, canceling)
    assert (await read_state(engine, parent.id))[0] in ("QUEUED", "CANCELED")


async def test_a_parent_that_gave_up_a_child_writes_so_while_the_child_ends(engine: Engine) -> None:
    """The parent's code stopped asking for a child: that it did is written beside the child's end."""
    lease = await register(engine, "p", "t")
    parent = await start_parent(engine, lease)
    await parent.write(engine, child(), Timer(seconds=60))
    children = await claim(engine, lease)
    async with (
        holding(engine, "after:complete_points") as (first, hold),
        holding(engine, "after:hold_run") as (second, other),
    ):
        ending = await held_at(hold, finish(first, lease, children))
        writing = await advance(
            engine, other, parent.write(second, Timer(seconds=1), name="next", seen=[("point", -9)])
        )
        hold.released.set()
        other.released.set()
        await asyncio.gather(ending, writing)
    assert await read_state(engine, parent.id) == ("EXECUTING", 0, 2)


@pytest.mark.parametrize("due", [False, True], ids=["child", "timer"])
async def test_a_parent_that_gave_up_a_wait_is_put_down_while_that_ends(engine: Engine, due: bool) -> None:
    lease = await register(engine, "p", "t")
    parent = await start_parent(engine, lease)
    await parent.write(engine, Timer(seconds=60) if due else child(), child())
    children = await claim(engine, lease)
    await fetch_sql(engine, DUE)
    given_up = [run for run in children if not due and run.id == (await target_of(engine, parent, "point"))]
    async with (
        holding(engine, "after:end_due_waits" if due else "after:complete_points") as (first, hold),
        holding(engine, "after:finish_runs") as (second, other),
    ):
        ending = await held_at(hold, sweeps.sweep_once(first) if due else finish(first, lease, given_up))
        sleeping = await advance(engine, other, parent.sleep(second, [("point", -9)]))
        hold.released.set()
        other.released.set()
        await asyncio.gather(ending, sleeping)
    await finish(engine, lease, [run for run in children if run not in given_up])
    assert (await read_state(engine, parent.id))[0] == "QUEUED"


@pytest.mark.parametrize("shape", ["child", "batch"])
async def test_a_wait_for_a_run_by_its_key_while_that_fails_and_frees_the_key(engine: Engine, shape: str) -> None:
    """The failure holds the run and wants the key; the wait holds the key and wants the run."""
    made = await runs.trigger_run(engine, 1, "t", Packet(b"1"), RunOptions(idempotency_key="k"))
    lease = await register(engine, "p", "t")
    children = await claim(engine, lease)
    parent = await start_parent(engine, lease)
    deed = child("k") if shape == "child" else child_batch(make_items(0, 2, key="k"))
    async with (
        holding(engine, "after:finish_runs") as (first, hold),
        holding(engine, "after:claim_keys") as (second, other),
    ):
        failing = await held_at(hold, finish(first, lease, children, "FAILED"))
        writing = await held_at(other, parent.write(second, deed))
        hold.released.set()
        await locked(engine, failing)
        other.released.set()
        await asyncio.gather(failing, writing)
    assert isinstance(made, RunCreated)
    await parent.sleep(engine)
    await finish(engine, lease, await claim(engine, lease))
    assert await read_state(engine, parent.id) == ("QUEUED", 1, 0)
    await assert_invariants(engine)


async def test_two_workers_that_each_put_down_a_parent_and_end_the_others_child(engine: Engine) -> None:
    """Each chunk puts down one parent and ends the child of the other one."""
    lease, second_lease = await register(engine, "p", "t"), await register(engine, "p", "t")
    left, right = await start_parent(engine, lease), await start_parent(engine, second_lease)
    await left.write(engine, child())
    [of_left] = await claim(engine, second_lease)
    await right.write(engine, child())
    [of_right] = await claim(engine, lease)
    async with (
        holding(engine, "after:finish_runs") as (first, hold),
        holding(engine, "after:finish_runs") as (second, other),
    ):
        one = await held_at(hold, completions.finish_runs(first, lease, [left.put_down(), ended(of_right)]))
        two = await advance(
            engine, other, completions.finish_runs(second, second_lease, [right.put_down(), ended(of_left)])
        )
        hold.released.set()
        other.released.set()
        assert await asyncio.gather(one, two) == [set(), set()]
    assert [await read_state(engine, run.id) for run in (left, right)] == [("QUEUED", 1, 0)] * 2


async def test_two_parents_that_come_to_the_same_keys_in_another_order(engine: Engine) -> None:
    lease = await register(engine, "p", "t")
    left, right = await start_parent(engine, lease), await start_parent(engine, lease)
    async with (
        holding(engine, "after:claim_keys") as (first, hold),
        holding(engine, "after:claim_keys") as (second, other),
    ):
        one = await held_at(hold, left.write(first, child("a"), child("b")))
        two = await advance(engine, other, right.write(second, child("b"), child("a")))
        hold.released.set()
        other.released.set()
        await asyncio.gather(one, two)
    assert len(await claim(engine, lease)) == 2


async def test_two_parents_that_follow_the_same_batches_in_another_order_as_these_end(engine: Engine) -> None:
    """A completion locks batches by their ids; a parent that follows two comes to them in any order."""
    lease = await register(engine, "p", "t")
    parent = await start_parent(engine, lease)
    low, high = child_batch(make_items(0, 2)), child_batch(make_items(0, 2))
    low, high = sorted((low, high), key=lambda deed: deed.batch_id)
    await parent.write(engine, low, high, name="batch")
    children = await claim(engine, lease)
    last = [next(run for run in children if run.batch_id == batch.batch_id) for batch in (low, high)]
    async with holding(engine, "after:watch_batch") as (own, hold):
        writing = await held_at(hold, parent.write(own, Following(high.batch_id, 0), Following(low.batch_id, 0)))
        ending = await blocked(engine, finish(engine, lease, last))
        hold.released.set()
        await asyncio.gather(writing, ending)
    await parent.sleep(engine)
    assert await read_state(engine, parent.id) == ("QUEUED", 1, 2)


@pytest.mark.parametrize("shape", ["chunk", "child"])
async def test_what_is_written_again_because_a_run_was_held_makes_its_lanes_again(engine: Engine, shape: str) -> None:
    """The first try is rolled back, and with it the lane of a task that nobody had met before."""
    await runs.trigger_run(engine, 1, "t", Packet(b"1"), RunOptions(idempotency_key="k"))
    lease = await register(engine, "p", "t")
    parent = await start_parent(engine, lease)
    opened = child_batch(None, 2)
    await parent.write(engine, opened, name="batch")
    batch = await batches.find_batch(engine, 1, opened.batch_id)
    assert batch is not None
    items = [StoredItem(0, "new", Packet(b"1")), *make_items(1, 1, key="k")]
    async with engine.store.connect() as connection:
        holder = connection.transaction()
        await holder.start()
        await connection.fetch("SELECT FROM headrace.runs WHERE idempotency_key = 'k' FOR UPDATE")
        async with holding(engine, "after:try_watch_runs") as (own, hold):
            writing = await held_at(
                hold,
                batches.store_chunk(own, 1, batch, items)
                if shape == "chunk"
                else parent.write(own, child("k"), child(task="new")),
            )
            hold.released.set()
            await holder.commit()
            await writing
    await assert_invariants(engine)
    lease = await register(engine, "new")
    assert [run.task for run in await claim(engine, lease, 10, "new")] == ["new"]


async def shared_target(engine: Engine, kind: str) -> tuple[WorkerLease, Parent, Deed, Ending]:
    """Something that is there already, under way, which any number of runs may wait for."""
    lease = await register(engine, "p", "t")
    if kind == "token":
        token = await make_token(engine)
        end: Ending = lambda on: tokens.complete_token(on, 1, token, Packet(b"2"))  # noqa: E731
        return lease, await start_parent(engine, lease), TokenWait(token), end
    await runs.trigger_run(engine, 1, "t", Packet(b"1"), RunOptions(idempotency_key="k"))
    children = await claim(engine, lease)
    return lease, await start_parent(engine, lease), child("k"), lambda on: finish(on, lease, children)


async def begin(engine: Engine, kind: str) -> tuple[Wait, Parent]:
    """A parent in a worker's hands, at a wait of that kind."""
    lease = await register(engine, "p", "t")
    wait, parent = Wait(kind, lease), await start_parent(engine, lease)
    await wait.begin(engine, parent)
    return wait, parent


def ended(run: ClaimedRun, status: RunStatus = RunStatus.COMPLETED) -> Finish:
    return Finish(run.id, run.attempt, status, Packet(b"2"))


async def target_of(engine: Engine, parent: Parent, point: str) -> UUID:
    [row] = await fetch_sql(
        engine, "SELECT target FROM headrace.journal WHERE run_id = $1 AND point = $2", parent.id, point
    )
    return row["target"]
