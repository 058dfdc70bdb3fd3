"""Bulk actions: what is meant is fixed when they are made, each run is dealt with once, and the rest of a sweep goes on."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any
from uuid import UUID

import pytest

from headrace.engine import bulk_actions, bulk_steps, listings, runs, sweeps
from headrace.engine.bulk_actions import (
    BulkAborted,
    BulkAction,
    BulkCreated,
    BulkEnded,
    BulkKind,
    BulkLimit,
    BulkMissing,
    BulkOrder,
    BulkRunsMissing,
    BulkStatus,
)
from headrace.engine.bulk_parts import tend_all_parts
from headrace.engine.engine import Engine
from headrace.engine.outcomes import Packet, RunCreated, RunFilter
from headrace.ids import mint_bulk_action_id, mint_run_id
from headrace.protocol.options import QueueOption, RunOptions
from headrace.protocol.statuses import RunStatus
from tests.engine.helpers import claim, finish, register, sweep_all
from tests.invariants import assert_invariants, fetch_sql

pytestmark = pytest.mark.anyio


@pytest.fixture(autouse=True)
def small_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    """So that few runs are several parts."""
    monkeypatch.setattr(bulk_steps, "_SELECTED", 4)
    monkeypatch.setattr(bulk_steps, "_LOOKED_AT", 6)
    monkeypatch.setattr(bulk_steps, "_DEALT_WITH", 3)


async def trigger(engine: Engine, payload: Any = None, task: str = "t", **options: Any) -> UUID:
    made = await runs.trigger_run(engine, 1, task, Packet(json.dumps(payload).encode()), RunOptions(**options))
    assert isinstance(made, RunCreated)
    return made.run_id


async def order(engine: Engine, kind: BulkKind, wanted: RunFilter | None = None, run_ids: Sequence[UUID] = ()) -> UUID:
    made = await bulk_actions.create_bulk_action(engine, 1, BulkOrder(kind, wanted, run_ids))
    assert isinstance(made, BulkCreated), made
    return made.action_id


async def look(engine: Engine, action_id: UUID) -> BulkAction:
    found = await bulk_actions.find_bulk_action(engine, 1, action_id)
    assert found is not None
    return found


async def carry_out(engine: Engine, action_id: UUID) -> BulkAction:
    for _ in range(20):
        await sweep_all(engine)
        if (action := await look(engine, action_id)).status is not BulkStatus.PENDING:
            await assert_invariants(engine)
            return action
    raise AssertionError(await look(engine, action_id))


async def replays_of(engine: Engine) -> list[tuple[UUID, UUID]]:
    """Each replay and what it replays."""
    rows = await fetch_sql(
        engine, "SELECT id, replayed_from FROM headrace.runs WHERE replayed_from IS NOT NULL ORDER BY id"
    )
    return [(row["id"], row["replayed_from"]) for row in rows]


async def listed(engine: Engine, **wanted: Any) -> set[UUID]:
    page = await listings.list_runs(engine, 1, RunFilter(**wanted), limit=100)
    return {run.id for run in page.runs}


async def test_what_a_filter_means_is_canceled_and_nothing_else(engine: Engine) -> None:
    meant = {await trigger(engine, tags=["out"]) for _ in range(10)}
    others = {await trigger(engine, tags=["in"]) for _ in range(5)}
    action_id = await order(engine, BulkKind.CANCEL, RunFilter(tags=["out"]))
    action = await carry_out(engine, action_id)
    assert (action.status, action.total, action.succeeded, action.failed) == (BulkStatus.COMPLETED, 10, 10, 0)
    assert action.completed_at is not None
    assert await listed(engine, statuses=frozenset({RunStatus.CANCELED})) == meant
    assert await listed(engine, statuses=frozenset({RunStatus.QUEUED, RunStatus.PENDING_VERSION})) == others
    assert await listed(engine, bulk_action_id=action_id) == meant


async def test_a_cancel_by_filter_leaves_what_has_ended_out(engine: Engine) -> None:
    lease = await register(engine)
    ended = await trigger(engine, tags=["x"])
    await finish(engine, lease, await claim(engine, lease))
    open_one = await trigger(engine, tags=["x"])
    action = await carry_out(engine, await order(engine, BulkKind.CANCEL, RunFilter(tags=["x"])))
    assert (action.total, action.succeeded, action.failed) == (1, 1, 0)
    assert await listed(engine, statuses=frozenset({RunStatus.COMPLETED})) == {ended}
    assert await listed(engine, statuses=frozenset({RunStatus.CANCELED})) == {open_one}


async def test_a_named_run_that_had_ended_is_a_failure_of_the_cancel(engine: Engine) -> None:
    lease = await register(engine)
    ended = await trigger(engine)
    await finish(engine, lease, await claim(engine, lease))
    open_one = await trigger(engine)
    action_id = await order(engine, BulkKind.CANCEL, run_ids=[ended, open_one, ended])
    action = await carry_out(engine, action_id)
    assert (action.total, action.succeeded, action.failed) == (2, 1, 1)
    [row] = await fetch_sql(engine, "SELECT run_id, error FROM headrace.bulk_members WHERE NOT succeeded")
    assert (row["run_id"], row["error"]) == (ended, "The run had ended before.")
    assert await listed(engine, bulk_action_id=action_id) == {open_one}


async def test_each_run_that_failed_is_replayed_once(engine: Engine) -> None:
    lease = await register(engine)
    numbers = {await trigger(engine, number, tags=["a"], priority=9): number for number in range(10)}
    await finish(engine, lease, await claim(engine, lease), "FAILED")
    action_id = await order(engine, BulkKind.REPLAY, RunFilter(statuses=frozenset({RunStatus.FAILED})))
    action = await carry_out(engine, action_id)
    assert (action.status, action.total, action.succeeded, action.failed) == (BulkStatus.COMPLETED, 10, 10, 0)
    made = await replays_of(engine)
    assert sorted(source for _, source in made) == sorted(numbers)  # some of one millisecond: in no order
    assert await listed(engine, bulk_action_id=action_id) == {run_id for run_id, _ in made}
    for run_id, source in made:
        run = await runs.find_run(engine, 1, run_id)
        assert run is not None
        assert (run.payload.data, run.tags) == (str(numbers[source]).encode(), ["a"])
        assert "priority" not in run.options
    assert len(await claim(engine, await register(engine))) == 10  # the first worker has been silent for a while


async def test_replays_come_in_the_order_of_the_runs_and_with_their_keys(engine: Engine) -> None:
    first = [await trigger(engine, number, order_key="o") for number in range(8)]
    await carry_out(engine, await order(engine, BulkKind.REPLAY, run_ids=first))
    rows = await fetch_sql(
        engine.at(first[0]),
        "SELECT replayed_from, order_key, options ->> 'orderKey' AS said, convert_from(payload, 'UTF8') AS payload"
        " FROM headrace.runs WHERE replayed_from IS NOT NULL ORDER BY order_number",
    )
    assert [row["replayed_from"] for row in rows] == sorted(first)
    assert {(row["order_key"], row["said"]) for row in rows} == {("o", "o")}
    assert [first[int(row["payload"])] for row in rows] == sorted(first)
    keyed = await trigger(engine, concurrency_key="c", queue=QueueOption("q"))
    await carry_out(engine, await order(engine, BulkKind.REPLAY, run_ids=[keyed]))
    [run] = [await runs.find_run(engine, 1, made) for made, source in await replays_of(engine) if source == keyed]
    assert run is not None
    assert (run.queue, run.options["concurrencyKey"]) == ("q", "c")


async def test_what_comes_after_the_action_is_not_meant(engine: Engine) -> None:
    before = {await trigger(engine, tags=["x"]) for _ in range(7)}
    action_id = await order(engine, BulkKind.REPLAY, RunFilter(tags=["x"]))
    after = {await trigger(engine, tags=["x"]) for _ in range(7)}
    action = await carry_out(engine, action_id)
    # its own replays have the tag as well
    assert action.total == 7
    assert {source for _, source in await replays_of(engine)} == before
    assert not after & {source for _, source in await replays_of(engine)}
    assert await order(engine, BulkKind.REPLAY, RunFilter(tags=["x"])) != action_id


async def test_a_run_that_is_unfit_to_be_replayed_does_not_hold_up_the_others(engine: Engine) -> None:
    members = [await trigger(engine, number) for number in range(7)]
    broken = '{"concurrencyKey": "a", "orderKey": "b"}'  # no run can have both
    await fetch_sql(engine, "UPDATE headrace.runs SET options = $2::text::jsonb WHERE id = $1", members[3], broken)
    action = await carry_out(engine, await order(engine, BulkKind.REPLAY, run_ids=members))
    assert (action.total, action.succeeded, action.failed) == (7, 6, 1)
    assert {source for _, source in await replays_of(engine)} == set(members) - {members[3]}
    [row] = await fetch_sql(engine, "SELECT run_id, error FROM headrace.bulk_members WHERE NOT succeeded")
    assert row["run_id"] == members[3]
    assert "orderKey" in row["error"]


async def test_a_filter_that_can_not_be_used_ends_its_action(engine: Engine) -> None:
    """As one that a later version wrote may be."""
    action_id = await order(engine, BulkKind.REPLAY, RunFilter(tags=["x"]))
    await fetch_sql(engine, """UPDATE headrace.bulk_actions SET filter = '{"tags": 5}'""")
    assert (await carry_out(engine, action_id)).status is BulkStatus.ABORTED


async def test_what_is_aborted_does_no_more(engine: Engine) -> None:
    members = [await trigger(engine) for _ in range(7)]
    action_id = await order(engine, BulkKind.REPLAY, run_ids=members)
    carrier = bulk_steps.BulkCarrier(engine, lambda plan: plan)
    assert await carrier.carry_on()
    assert carrier.done == 3
    assert await bulk_actions.abort_bulk_action(engine, 1, action_id) == BulkAborted(action_id)
    assert await bulk_actions.abort_bulk_action(engine, 1, action_id) == BulkAborted(action_id)
    await sweeps.sweep_once(engine)
    action = await look(engine, action_id)
    assert (action.status, action.total, action.succeeded) == (BulkStatus.ABORTED, 7, 3)
    assert len(await replays_of(engine)) == 3


async def test_an_abort_while_a_part_is_chosen_by_another_process(engine: Engine) -> None:
    members = [await trigger(engine) for _ in range(4)]
    action_id = await order(engine, BulkKind.REPLAY, run_ids=members)
    carrier = bulk_steps.BulkCarrier(engine, lambda plan: plan)
    assert await carrier.carry_on()
    carrier._turns = [(1, action_id)]  # it looked before the abort
    await bulk_actions.abort_bulk_action(engine, 1, action_id)
    assert await carrier.carry_on()
    assert len(await replays_of(engine)) == 3


async def test_what_is_over_can_not_be_aborted(engine: Engine) -> None:
    action_id = await order(engine, BulkKind.CANCEL, run_ids=[await trigger(engine)])
    await carry_out(engine, action_id)
    assert await bulk_actions.abort_bulk_action(engine, 1, action_id) == BulkEnded(BulkStatus.COMPLETED)
    assert await bulk_actions.abort_bulk_action(engine, 1, mint_bulk_action_id()) == BulkMissing()


async def test_an_action_that_means_nothing_is_over_at_once(engine: Engine) -> None:
    action = await carry_out(engine, await order(engine, BulkKind.REPLAY, RunFilter(tags=["nobody"])))
    assert (action.status, action.total) == (BulkStatus.COMPLETED, 0)


async def test_several_actions_go_on_in_turn(engine: Engine) -> None:
    large = await order(engine, BulkKind.REPLAY, run_ids=[await trigger(engine) for _ in range(30)])
    small = await order(engine, BulkKind.CANCEL, run_ids=[await trigger(engine)])
    carrier = bulk_steps.BulkCarrier(engine, lambda plan: plan)
    for _ in range(2):
        assert await carrier.carry_on()
    await tend_all_parts(engine.home)
    assert (await look(engine, small)).status is BulkStatus.COMPLETED
    assert (await look(engine, large)).succeeded == 3


async def test_a_long_action_leaves_the_rest_of_the_sweep_its_turn(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sweeps, "_BULK_SECONDS", 0.0)
    action_id = await order(engine, BulkKind.REPLAY, run_ids=[await trigger(engine) for _ in range(9)])
    for part in (3, 6):
        report = await sweeps.sweep_once(engine)
        assert report.unfinished
        assert (await look(engine, action_id)).succeeded == part
    assert (await carry_out(engine, action_id)).succeeded == 9


async def test_only_the_elected_process_carries_it_out(engine: Engine) -> None:
    action_id = await order(engine, BulkKind.CANCEL, run_ids=[await trigger(engine)])
    async with engine.store.connect() as connection, connection.transaction():
        await connection.execute("SELECT pg_advisory_xact_lock(7305, 1)")
        await sweeps.sweep_once(engine)
        assert (await look(engine, action_id)).succeeded == 0
    assert (await carry_out(engine, action_id)).succeeded == 1


async def test_an_environment_has_few_replays_under_way(engine: Engine) -> None:
    run_id = await trigger(engine)
    actions = [await order(engine, BulkKind.REPLAY, run_ids=[run_id]) for _ in range(bulk_actions.MOST_REPLAYS)]
    refused = await bulk_actions.create_bulk_action(engine, 1, BulkOrder(BulkKind.REPLAY, run_ids=[run_id]))
    assert refused == BulkLimit(bulk_actions.MOST_REPLAYS)
    assert await order(engine, BulkKind.CANCEL, RunFilter(tags=["x"]))
    other = await bulk_actions.create_bulk_action(engine, 2, BulkOrder(BulkKind.REPLAY, RunFilter(tags=["x"])))
    assert isinstance(other, BulkCreated)
    await carry_out(engine, actions[0])
    assert await order(engine, BulkKind.REPLAY, run_ids=[run_id])


async def test_runs_that_are_not_there_make_no_action(engine: Engine) -> None:
    missing = mint_run_id()
    asked = BulkOrder(BulkKind.CANCEL, run_ids=[await trigger(engine), missing])
    assert await bulk_actions.create_bulk_action(engine, 1, asked) == BulkRunsMissing([missing])
    for one in (engine, engine.home):
        assert not await fetch_sql(one, "SELECT FROM headrace.bulk_actions")


async def test_a_request_that_is_sent_again_makes_one_action(engine: Engine) -> None:
    asked = BulkOrder(BulkKind.CANCEL, run_ids=[await trigger(engine)])
    made = [await bulk_actions.create_bulk_action(engine, 1, asked, request_id="r", fingerprint=b"f") for _ in range(2)]
    assert made[0] == made[1]
    other = await bulk_actions.create_bulk_action(engine, 1, asked, request_id="r", fingerprint=b"g")
    assert type(other).__name__ == "KeyConflict"
    for one in (engine, engine.home):
        assert len(await fetch_sql(one, "SELECT FROM headrace.bulk_actions")) == 1
    await assert_invariants(engine)


async def test_children_of_what_is_canceled_are_canceled(engine: Engine) -> None:
    """The way down the tree is the sweep's, as of any cancel."""
    [row] = await fetch_sql(engine, "SELECT count(*) AS n FROM headrace.journal")
    assert row["n"] == 0
    parent, child = await trigger(engine), await trigger(engine)
    await fetch_sql(
        engine,
        "INSERT INTO headrace.journal (environment_id, run_id, point, kind, pending, made, target, created_at)"
        " VALUES (1, $1, 'p', 'run', true, 1, $2, now())",
        parent,
        child,
    )
    await fetch_sql(engine, "UPDATE headrace.runs SET watched = true, parent_run_id = $1 WHERE id = $2", parent, child)
    action_id = await order(engine, BulkKind.CANCEL, run_ids=[parent])
    await carry_out(engine, action_id)
    await sweep_all(engine)
    assert await listed(engine, statuses=frozenset({RunStatus.CANCELED})) == {parent, child}
    assert await listed(engine, bulk_action_id=action_id) == {parent}
