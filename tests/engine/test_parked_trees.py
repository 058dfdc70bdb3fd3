"""A tree that is to move, and of which some run executes at any time: what is ready of it is parked until it can leave.

Parked is what no claim meets, for a while; no run stays parked that belongs to no tree which is to move.
"""

from __future__ import annotations

from typing import Any

import pytest

from headrace.engine import cancels, claims, completions, moves, parkings, reschedules, runs, sweeps, workers
from headrace.engine.deeds import Timer, TokenWait
from headrace.engine.engine import Engine
from headrace.engine.moves import MoveHeldUp
from headrace.engine.outcomes import Finish, Packet, RunCanceled, RunCreated
from headrace.protocol.options import RunOptions
from headrace.protocol.statuses import RunStatus
from tests.engine.held import held_at, holding
from tests.engine.helpers import claim, finish, register
from tests.engine.parents import DUE, Parent
from tests.engine.trees import Fleet, Tree, child, child_batch
from tests.invariants import fetch_sql

pytestmark = pytest.mark.anyio

PARKED = "SELECT id FROM headrace.runs WHERE parked IS NOT NULL"
TOO_LONG = "UPDATE headrace.moves SET parked_until = now() - interval '1 second' WHERE parked_until IS NOT NULL"
AGAIN = "UPDATE headrace.moves SET park_after = now() - interval '1 second' WHERE park_after IS NOT NULL"


@pytest.fixture
async def stores(fleet: list[Engine]) -> Fleet:
    return await Fleet.open(fleet)


async def hold_up(stores: Fleet, tree: Tree) -> None:
    """It is to go to s2, and can't: it executes."""
    outcome = await moves.move_tree(stores.home, tree.id, "s2")
    assert isinstance(outcome, MoveHeldUp)
    assert outcome.why == "1 of its runs are executing"


async def take(stores: Fleet, limit: int = 100) -> list[Any]:
    """What workers of s1 get."""
    return await claim(stores.s1, stores.leases["s1"], limit, "p", "t")


async def count(engine: Engine, sql: str) -> int:
    return len(await fetch_sql(engine, sql))


async def read_ready(engine: Engine) -> dict[Any, Any]:
    """When each queued run is ready, or would be."""
    rows = await fetch_sql(
        engine, "SELECT id, coalesce(parked, ready_at) AS ready FROM headrace.runs WHERE status = 'QUEUED'"
    )
    return {row["id"]: row["ready"] for row in rows}


async def test_a_tree_of_which_something_executes_at_any_time_is_moved(stores: Fleet) -> None:
    """A worker that always has one of its items, the next before it has ended the last."""
    tree = await Tree.grow(stores, "executing")
    parent, s1 = tree.parent, stores.s1
    assert parent is not None
    await parent.write(s1, child_batch(s1, 50))
    await parent.sleep(s1)
    [last] = await take(stores, 1)
    ready = await read_ready(s1)
    await hold_up(stores, tree)
    assert await count(s1, PARKED) == 49
    steps = 0
    while (await sweeps.sweep_once(s1)).trees_moved == 0:
        steps += 1
        following = await take(stores, 1)
        await finish(s1, stores.leases["s1"], [last])
        if following:
            [last] = following
    assert steps == 1  # nothing of it was claimed any more
    assert await stores.where([tree.id, *ready]) == {"s2"}
    assert await read_ready(stores.s2) == ready  # its place in the queue is what it was
    await stores.finish_all("s2")
    await tree.go_on(stores.s2)
    await tree.assert_ended()
    await stores.assert_sound()


async def become_ready(stores: Fleet, tree: Tree, how: str) -> None:
    """Runs of a parked tree, of which the root executes, become ready."""
    s1, parent, lease = stores.s1, tree.parent, stores.leases["s1"]
    assert parent is not None
    match how:
        case "children":
            await parent.write(s1, child(s1, awaited=False), child(s1, awaited=False))
        case "a batch":
            await parent.write(s1, child_batch(s1, 2))
        case "triggers":
            for options in (RunOptions(), RunOptions(idempotency_key="k")):
                made = await runs.trigger_run(s1, 1, "t", Packet(b"1"), options, lineage=parent.fence.lineage)
                assert isinstance(made, RunCreated)
        case "tried again":
            await completions.finish_runs(
                s1, lease, [Finish(parent.id, parent.run.attempt, RunStatus.FAILED, retry_in=0.0)]
            )
        case "given back":
            assert await claims.give_back_runs(s1, lease, [(parent.id, parent.run.attempt)]) == 1
        case "rescued":
            assert await workers.retire_worker(s1, lease) == 1
            stores.leases["s1"] = await register(s1, "p", "t")
        case "woken":
            await parent.write(s1, Timer(seconds=3600))
            await parent.sleep(s1)
            await fetch_sql(s1, DUE)
            await s1.store.run_plan(sweeps._end_waits(sweeps.SweepReport(), s1))  # pyright: ignore[reportPrivateUsage]
        case _:
            raise AssertionError(how)


async def test_what_becomes_ready_of_a_parked_tree_is_parked(stores: Fleet) -> None:
    s1, goes_on = stores.s1, ("children", "a batch", "triggers")
    for how in (*goes_on, "tried again", "given back", "rescued", "woken"):
        tree = await Tree.grow(stores, "executing")
        await hold_up(stores, tree)
        await become_ready(stores, tree, how)
        assert await take(stores) == [], how
        assert await count(s1, PARKED) == (2 if how in goes_on else 1), how
        assert await moves.carry_on_moves(s1) == (how not in goes_on), how
        if how in goes_on:
            assert tree.parent is not None
            await (tree.parent.sleep(s1) if how == "a batch" else tree.parent.end(s1))
            assert (await sweeps.sweep_once(s1)).trees_moved == 1, how
        assert await count(stores.s2, PARKED) == 0
        await tree.go_on(stores.s2)
        await tree.assert_ended()
        assert await count(stores.s2, "SELECT FROM headrace.runs WHERE finished_at IS NULL") == 0, how
    await stores.assert_sound()


async def test_a_batch_of_many_trees_is_parked_whole(stores: Fleet) -> None:
    """One of its items executes and has children; others are queued."""
    tree = await Tree.grow(stores, "a batch")
    s1, lease = stores.s1, stores.leases["s1"]
    [run] = await take(stores, 1)
    await hold_up(stores, tree)
    item = Parent(lease, run)
    await item.write(s1, child(s1), child_batch(s1, 2))
    assert await take(stores) == []
    assert await count(s1, PARKED) == 5
    await item.sleep(s1)
    assert await moves.carry_on_moves(s1) == 1
    await tree.go_on(stores.s2)
    await tree.assert_ended()
    await stores.assert_sound()


async def test_what_does_not_come_to_rest_is_let_go_and_parked_again_later(stores: Fleet) -> None:
    """Its code executes for as long as a run of its own has not ended, which is seen nowhere."""
    tree = await Tree.grow(stores, "executing")
    s1, lease, parent = stores.s1, stores.leases["s1"], tree.parent
    assert parent is not None
    await parent.write(s1, child(s1, awaited=False), child(s1, awaited=False), child(s1, awaited=False))
    await hold_up(stores, tree)
    seconds: list[float] = []
    for left in (3, 2):
        assert await take(stores) == []
        [row] = await fetch_sql(s1, "SELECT extract(epoch FROM parked_until - now())::float8 AS s FROM headrace.moves")
        seconds.append(row["s"])
        await fetch_sql(s1, TOO_LONG)
        await moves.carry_on_moves(s1)
        assert await count(s1, PARKED) == await count(s1, "SELECT FROM headrace.parkings") == 0
        await moves.carry_on_moves(s1)  # left alone
        [run] = await take(stores, 1)
        await finish(s1, lease, [run])
        assert await count(s1, PARKED) == 0
        await fetch_sql(s1, AGAIN)
        await moves.carry_on_moves(s1)
        assert await count(s1, PARKED) == left - 1
    assert 0 < seconds[0] <= parkings.FIRST_SECONDS < seconds[1] <= 2 * parkings.FIRST_SECONDS
    await parent.end(s1)
    assert await moves.carry_on_moves(s1) == 1
    await tree.go_on(stores.s2)
    await stores.assert_sound()


async def test_a_tree_that_another_one_holds_up_is_not_parked(stores: Fleet) -> None:
    """It waits for what may never come, and its runs are not to wait for that."""
    token = await stores.make_token()
    tree, other = await Tree.grow(stores, "executing"), await Tree.grow(stores, "executing")
    s1 = stores.s1
    assert tree.parent is not None
    assert other.parent is not None
    await tree.parent.write(s1, child(s1, awaited=False))
    await hold_up(stores, tree)
    assert await count(s1, PARKED) == 1
    await tree.parent.write(s1, TokenWait(token), name="wait")
    await other.parent.write(s1, TokenWait(token), name="wait")
    for _ in range(2):
        assert await moves.carry_on_moves(s1) == 0
        [move] = await fetch_sql(s1, "SELECT held_up FROM headrace.moves")
        assert "waits for" in move["held_up"]
        assert await count(s1, PARKED) == await count(s1, "SELECT FROM headrace.parkings") == 0
        await fetch_sql(s1, AGAIN)
    assert len(await take(stores)) == 1


async def test_who_had_seen_a_mark_that_is_gone_parks_nothing_for_ever(stores: Fleet) -> None:
    tree = await Tree.grow(stores, "executing")
    s1, parent = stores.s1, tree.parent
    assert parent is not None
    await hold_up(stores, tree)
    async with holding(s1, "after:insert_children") as (slow, hold):
        writing = await held_at(hold, parent.write(slow, child(s1, awaited=False)))
        await fetch_sql(s1, TOO_LONG)
        await moves.carry_on_moves(s1)
        hold.released.set()
        await writing
    assert await take(stores) == []
    await sweeps.sweep_once(s1)  # whatever else is due
    [run] = await take(stores)
    assert run.parent_run_id == tree.id
    await fetch_sql(s1, "DELETE FROM headrace.moves")  # with no move, and so nothing else to look for
    await fetch_sql(
        s1, "UPDATE headrace.runs SET parked = now(), ready_at = 'infinity', status = 'QUEUED' /* forced */"
    )
    [look] = await s1.store.fetch("find_due_work")
    assert look["due"]


async def test_what_is_parked_can_be_canceled_and_put_off_and_does_not_expire(stores: Fleet) -> None:
    tree = await Tree.grow(stores, "executing")
    s1, parent = stores.s1, tree.parent
    assert parent is not None
    made = [child(s1, awaited=False) for _ in range(2)]
    await parent.write(s1, *made)
    delayed = await runs.trigger_run(s1, 1, "t", Packet(b"1"), RunOptions(delay="1h"), lineage=parent.fence.lineage)
    expiring = await runs.trigger_run(s1, 1, "t", Packet(b"1"), RunOptions(ttl="10m"), lineage=parent.fence.lineage)
    assert isinstance(delayed, RunCreated)
    assert isinstance(expiring, RunCreated)
    await hold_up(stores, tree)
    assert await count(s1, PARKED) == 3
    again = await runs.trigger_run(s1, 1, "t", Packet(b"1"), RunOptions(ttl="10m"), lineage=parent.fence.lineage)
    assert isinstance(again, RunCreated)
    assert {run.id for run in await take(stores)} == {expiring.run_id, again.run_id}
    assert isinstance(await cancels.cancel_run(s1, 1, made[0].run_id), RunCanceled)
    assert isinstance(await reschedules.reschedule_run(s1, 1, delayed.run_id, "2h"), reschedules.RunRescheduled)
    await fetch_sql(s1, TOO_LONG)
    await moves.carry_on_moves(s1)
    assert await count(s1, PARKED) == 0
    assert {run.id for run in await take(stores)} == {made[1].run_id}
    [row] = await fetch_sql(
        s1, "SELECT ready_at > now() + interval '90 minutes' AS late FROM headrace.runs WHERE id = $1", delayed.run_id
    )
    assert row["late"]
