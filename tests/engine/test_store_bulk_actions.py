"""Bulk actions over several stores: what is meant is dealt with once wherever it lives, and no store is left out for good."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from uuid import UUID

import pytest

from headrace.engine import bulk_actions, bulk_steps, listings, moves, replays, runs, sweeps
from headrace.engine.bulk_actions import (
    BulkAborted,
    BulkAction,
    BulkCreated,
    BulkKind,
    BulkLimit,
    BulkOrder,
    BulkRunsMissing,
    BulkStatus,
)
from headrace.engine.engine import Engine
from headrace.engine.moves import MoveHeldUp
from headrace.engine.outcomes import RunCreated, RunFilter
from headrace.engine.registry import change_store
from headrace.ids import at_store, mint_run_id, store_of
from tests.engine.brittle import BrittleFleet, brittle, brittle_server, brittle_urls, trigger_at
from tests.invariants import assert_invariants, fetch_sql

__all__ = ["brittle", "brittle_server", "brittle_urls"]

pytestmark = pytest.mark.anyio


@pytest.fixture(autouse=True)
def small_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    """So that few runs are several parts."""
    monkeypatch.setattr(bulk_steps, "_SELECTED", 4)
    monkeypatch.setattr(bulk_steps, "_LOOKED_AT", 6)
    monkeypatch.setattr(bulk_steps, "_DEALT_WITH", 3)
    monkeypatch.setattr(sweeps, "_BULK_SECONDS", 60.0)


async def order(engine: Engine, kind: BulkKind, wanted: RunFilter | None = None, run_ids: Sequence[UUID] = ()) -> UUID:
    made = await bulk_actions.create_bulk_action(engine, 1, BulkOrder(kind, wanted, run_ids))
    assert isinstance(made, BulkCreated), made
    return made.action_id


async def look(engine: Engine, action_id: UUID) -> BulkAction:
    found = await bulk_actions.find_bulk_action(engine, 1, action_id)
    assert found is not None
    return found


async def sweep(engines: Sequence[Engine]) -> None:
    for engine in engines:
        await sweeps.sweep_once(engine)


async def carry_out(engines: Sequence[Engine], action_id: UUID) -> BulkAction:
    for _ in range(10):
        await sweep(engines)
        if (action := await look(engines[0], action_id)).status is not BulkStatus.PENDING:
            for engine in engines:
                await assert_invariants(engine)
            return action
    raise AssertionError(await look(engines[0], action_id))


async def make(engines: Sequence[Engine], count: int, task: str = "t") -> list[UUID]:
    return [(await trigger_at(engine, task)).run_id for _ in range(count) for engine in engines]


async def statuses(engine: Engine, ids: Sequence[UUID]) -> dict[UUID, str]:
    rows = await fetch_sql(engine, "SELECT id, status::text AS status FROM headrace.runs WHERE id = ANY($1)", ids)
    return {row["id"]: row["status"] for row in rows}


async def listed(engine: Engine, action_id: UUID) -> list[UUID]:
    page = await listings.list_runs(engine, 1, RunFilter(bulk_action_id=action_id), limit=100)
    return [run.id for run in page.runs]


async def test_a_filter_is_meant_in_every_store(fleet: list[Engine]) -> None:
    meant = await make(fleet, 5)
    others = await make(fleet, 2, "other")
    action_id = await order(fleet[1], BulkKind.CANCEL, RunFilter(tasks=["t"]))  # whichever engine is asked
    assert store_of(action_id) == fleet[0].key
    later = await make(fleet, 1)
    await sweep(fleet[:1])
    first = await look(fleet[2], action_id)
    assert (first.status, first.selected, first.succeeded) == (BulkStatus.PENDING, False, 5)
    await sweep(fleet[1:2])
    assert (await look(fleet[0], action_id)).succeeded == 10, "how far the parts are is asked, not remembered"
    await sweep(fleet[:1])
    assert (await look(fleet[0], action_id)).status is BulkStatus.PENDING, "not before all parts are over"
    action = await carry_out(fleet, action_id)
    assert (action.status, action.selected, action.missing) == (BulkStatus.COMPLETED, True, ())
    assert (action.total, action.succeeded, action.failed) == (15, 15, 0)
    for engine in fleet:
        assert set((await statuses(engine, meant)).values()) == {"CANCELED"}
        assert set((await statuses(engine, [*others, *later])).values()) == {"QUEUED"}
    assert await listed(fleet[0], action_id) == sorted(meant, reverse=True)
    page = await bulk_actions.list_bulk_actions(fleet[0], 1)
    assert page.actions == [action]


async def test_runs_that_are_named_are_dealt_with_by_their_owners(fleet: list[Engine]) -> None:
    ids = await make(fleet[1:], 4)
    action_id = await order(fleet[0], BulkKind.CANCEL, run_ids=ids[:5])
    action = await carry_out(fleet, action_id)
    assert (action.status, action.total, action.succeeded) == (BulkStatus.COMPLETED, 5, 5)
    assert await listed(fleet[0], action_id) == sorted(ids[:5], reverse=True)
    absent = [mint_run_id(fleet[2].key), mint_run_id(fleet[0].key), mint_run_id("x")]
    refused = await bulk_actions.create_bulk_action(fleet[0], 1, BulkOrder(BulkKind.CANCEL, run_ids=[ids[5], *absent]))
    assert refused == BulkRunsMissing(absent)
    assert len((await bulk_actions.list_bulk_actions(fleet[0], 1)).actions) == 1


async def test_replays_are_made_where_their_originals_are(fleet: list[Engine]) -> None:
    ids = await make(fleet, 4)
    action_id = await order(fleet[0], BulkKind.REPLAY, RunFilter(tasks=["t"]))
    action = await carry_out(fleet, action_id)
    assert (action.succeeded, action.failed) == (12, 0)
    made = await listed(fleet[0], action_id)
    assert len(made) == 12
    for engine in fleet:
        rows = await fetch_sql(engine, "SELECT id, replayed_from FROM headrace.runs WHERE replayed_from IS NOT NULL")
        assert sorted(row["replayed_from"] for row in rows) == sorted(one for one in ids if store_of(one) == engine.key)
        assert {row["id"] for row in rows} == {one for one in made if store_of(one) == engine.key}


async def test_a_draining_store_gets_no_replays_and_says_so(fleet: list[Engine]) -> None:
    ids = await make(fleet, 2)
    await change_store(fleet[0], "s1", state="draining")
    action = await carry_out(fleet, await order(fleet[0], BulkKind.REPLAY, run_ids=ids))
    assert (action.status, action.total, action.succeeded, action.failed) == (BulkStatus.COMPLETED, 6, 4, 2)
    rows = await fetch_sql(fleet[1], "SELECT error FROM headrace.bulk_members")
    assert len(rows) == 2
    for row in rows:
        assert row["error"].startswith("The run is in the store s1, which takes no new runs now.")
    action = await carry_out(fleet, await order(fleet[0], BulkKind.CANCEL, run_ids=ids))
    assert action.succeeded == 6, "what is there can be canceled"


async def test_a_home_that_takes_no_roots_gets_the_replays_of_an_order_key(fleet: list[Engine]) -> None:
    """They can be nowhere else: the runs of a key stand in one line, at home."""
    [plain] = await make(fleet[:1], 1)
    ordered = [(await trigger_at(fleet[0], order_key="o")).run_id for _ in range(2)]
    await change_store(fleet[0], "home", weight=0.0)
    action_id = await order(fleet[0], BulkKind.REPLAY, run_ids=[plain, *ordered])
    action = await carry_out(fleet, action_id)
    assert (action.status, action.total, action.succeeded, action.failed) == (BulkStatus.COMPLETED, 3, 2, 1)
    [failed] = await fetch_sql(fleet[0], "SELECT run_id, error FROM headrace.bulk_members WHERE NOT succeeded")
    assert failed["run_id"] == plain
    assert failed["error"].startswith("The run is in the store home, which takes no new runs now.")


async def test_replays_under_way_are_counted_over_all_stores(fleet: list[Engine]) -> None:
    [run_id] = await make(fleet[2:], 1)
    for _ in range(3):
        await order(fleet[0], BulkKind.REPLAY, run_ids=[run_id])
    await sweep(fleet[:2])
    refused = await bulk_actions.create_bulk_action(fleet[0], 1, BulkOrder(BulkKind.REPLAY, run_ids=[run_id]))
    assert refused == BulkLimit(3)
    await sweep([fleet[2], fleet[0]])
    await order(fleet[0], BulkKind.REPLAY, run_ids=[run_id])


async def test_an_abort_reaches_all_stores(fleet: list[Engine]) -> None:
    await make(fleet, 5)
    action_id = await order(fleet[0], BulkKind.CANCEL, RunFilter(tasks=["t"]))
    await sweep(fleet[:1])
    assert await bulk_actions.abort_bulk_action(fleet[2], 1, action_id) == BulkAborted(action_id)
    await sweep(fleet)
    action = await look(fleet[0], action_id)
    assert (action.status, action.succeeded) == (BulkStatus.ABORTED, 5)
    for engine in fleet[1:]:
        [part] = await fetch_sql(engine, "SELECT id, status::text AS status FROM headrace.bulk_actions")
        assert (part["id"], part["status"]) == (at_store(action_id, engine.key), "ABORTED")
    assert await fetch_sql(fleet[0], "SELECT FROM headrace.bulk_parts WHERE status = 'PENDING'") == []
    assert await bulk_actions.abort_bulk_action(fleet[0], 1, action_id) == BulkAborted(action_id)


async def test_a_store_that_is_away_when_it_is_asked_for_gets_its_part_when_it_is_back(brittle: BrittleFleet) -> None:
    home, there, away = brittle.engines
    meant = await make(brittle.engines, 4)
    brittle.server.kill()
    action_id = await order(home, BulkKind.CANCEL, RunFilter(tasks=["t"]))
    named = await order(home, BulkKind.REPLAY, run_ids=[meant[2], mint_run_id(away.key)])
    await sweep([home, there, home])
    action = await look(home, action_id)
    assert (action.status, action.succeeded, action.missing) == (BulkStatus.PENDING, 8, ["s2"])
    assert (await look(home, named)).status is BulkStatus.PENDING
    brittle.server.start()
    later = await make([away], 1)
    action = await carry_out(brittle.engines, action_id)
    assert (action.total, action.succeeded, action.failed) == (12, 12, 0)
    assert set((await statuses(away, [one for one in meant if store_of(one) == away.key])).values()) == {"CANCELED"}
    assert list((await statuses(away, later)).values()) == ["QUEUED"], "what came after the action is not meant"
    replayed = await carry_out(brittle.engines, named)
    assert (replayed.total, replayed.succeeded, replayed.failed) == (2, 1, 1), "the one that was not there"


async def test_what_is_aborted_while_a_store_is_away_is_never_begun_there(brittle: BrittleFleet) -> None:
    home, _, away = brittle.engines
    meant = await make([away], 4)
    with_part = await order(home, BulkKind.CANCEL, RunFilter(tasks=["t"]))
    brittle.server.freeze()
    without = await order(home, BulkKind.CANCEL, RunFilter(tasks=["t"]))
    for action_id in (with_part, without):
        assert await bulk_actions.abort_bulk_action(home, 1, action_id) == BulkAborted(action_id)
    assert (await look(home, without)).missing == ["s2"]
    brittle.server.thaw()
    async with asyncio.timeout(20):
        while await fetch_sql(home, "SELECT FROM headrace.bulk_parts WHERE status = 'PENDING'"):
            await sweeps.sweep_once(home)
    await sweep(brittle.engines)
    assert set((await statuses(away, meant)).values()) == {"QUEUED"}
    rows = await fetch_sql(away, "SELECT DISTINCT status::text AS status FROM headrace.bulk_actions")
    assert [row["status"] for row in rows] == ["ABORTED"]
    assert (await look(home, without)).missing == ()


async def test_a_silent_store_holds_up_no_deadline_of_home(brittle: BrittleFleet) -> None:
    """The sweeps of home go on beside the part that can't be made."""
    home, _, away = brittle.engines
    [meant] = await make([away], 1)
    brittle.server.freeze()
    action_id = await order(home, BulkKind.CANCEL, run_ids=[meant])
    stop = asyncio.Event()
    sweeping = asyncio.create_task(sweeps.run_sweeps(home, stop))
    try:
        for _ in range(3):
            [run_id] = await make([home], 1)
            await fetch_sql(home, "UPDATE headrace.runs SET expires_at = now() WHERE id = $1", run_id)
            async with asyncio.timeout(20):
                while (await statuses(home, [run_id]))[run_id] != "EXPIRED":
                    await asyncio.sleep(0.01)
        brittle.server.thaw()
        async with asyncio.timeout(20):
            while (await look(home, action_id)).status is BulkStatus.PENDING:
                await sweeps.sweep_once(away)
    finally:
        stop.set()
        await sweeping
    assert (await look(home, action_id)).succeeded == 1


async def test_the_part_of_a_store_that_is_removed_holds_up_no_action(fleet: list[Engine]) -> None:
    ids = await make([fleet[0]], 2)
    await fleet[1].store.close()
    action_id = await order(fleet[0], BulkKind.CANCEL, RunFilter(tasks=["t"]))
    await change_store(fleet[0], "s1", state="removed")
    action = await carry_out([fleet[0], fleet[2]], action_id)
    assert (action.status, action.succeeded) == (BulkStatus.COMPLETED, len(ids))


async def test_a_filter_that_can_not_be_used_in_one_store_ends_the_action(fleet: list[Engine]) -> None:
    await make(fleet, 2)
    action_id = await order(fleet[0], BulkKind.CANCEL, RunFilter(tasks=["t"]))
    await fetch_sql(fleet[1], """UPDATE headrace.bulk_actions SET filter = '{"statuses": ["NONE"]}'""")
    action = await carry_out(fleet, action_id)
    assert action.status is BulkStatus.ABORTED
    assert await fetch_sql(fleet[0], "SELECT FROM headrace.bulk_parts WHERE status = 'PENDING'") == []


async def test_what_an_action_is_for_is_moved_after_it(fleet: list[Engine]) -> None:
    """Else it would be looked for where it is not any more; and where it comes to, what is meant may be chosen already."""
    home, source, target = fleet
    first, second = await make([source], 2)
    action_id = await order(home, BulkKind.REPLAY, RunFilter(tasks=["t"]))
    held = await moves.move_tree(home, second, target.name)
    assert isinstance(held, MoveHeldUp), held
    assert held.why == "a bulk action is under way, which its runs may be meant by"
    assert (await carry_out(fleet, action_id)).succeeded == 2
    await sweep(fleet)
    assert list(await statuses(target, [second])) == [second], "and then it goes"
    found = await listings.list_runs(home, 1, RunFilter(), limit=100)
    assert {first, second} <= {run.id for run in found.runs}
    action = await carry_out(fleet, await order(home, BulkKind.CANCEL, run_ids=[first, second]))
    assert (action.total, action.succeeded) == (2, 2), "a run that is named is looked for where it was moved to"
    assert (await statuses(target, [second]))[second] == "CANCELED"


async def test_a_replay_of_one_run_is_made_where_the_first_is_while_that_takes_roots(fleet: list[Engine]) -> None:
    home, source, _ = fleet
    first = await runs.find_run(home, 1, (await trigger_at(source)).run_id)
    assert first is not None
    for _ in range(5):
        made = await replays.replay_run(home, 1, first)
        assert isinstance(made, RunCreated)
        assert store_of(made.run_id) == source.key
    await change_store(home, source.name, state="draining")
    for _ in range(5):
        made = await replays.replay_run(home, 1, first)
        assert isinstance(made, RunCreated)
        assert store_of(made.run_id) != source.key
