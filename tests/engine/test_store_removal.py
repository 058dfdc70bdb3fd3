"""A store is removed while others, which have not heard of it, give it something: nothing is stranded, and no key is lost.

The other process is an engine of its own that has stopped reading the registry.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from dataclasses import dataclass
from datetime import UTC, datetime
from uuid import UUID

import pytest

from headrace.engine import cancels, moves, runs, sweeps, upkeep
from headrace.engine.engine import Engine
from headrace.engine.foreign_keys import reserve_keys
from headrace.engine.idempotency import VOID, KeyClaim, task_scope
from headrace.engine.mirrors import mirror_targets
from headrace.engine.outcomes import RunCreated, RunExists
from headrace.engine.registry import change_store
from headrace.engine.ticks import fire_due
from headrace.engine.upkeep import OnTheWay, Removed, StillOwns
from headrace.ids import mint_run_id, store_of
from headrace.settings import Settings
from headrace.store.store import UnreachableError, find_store_name
from tests.engine.foreign import make_root
from tests.engine.held import blocked, held_at, holding
from tests.engine.scheduling import create, move_tick
from tests.engine.test_foreign_keys import count_runs, trigger_at
from tests.invariants import fetch_sql

pytestmark = pytest.mark.anyio


@dataclass
class Late:
    """A process that has read the registry for the last time before the store was drained."""

    home: Engine

    def at(self, key: str) -> Engine:
        return self.home.stores.named(key)


@pytest.fixture
async def late(fleet: list[Engine], settings: Settings) -> AsyncGenerator[Late]:
    home = await Engine.open(settings)
    assert home.refreshing is not None
    home.refreshing.cancel()
    await asyncio.wait({home.refreshing})
    try:
        yield Late(home)
    finally:
        await home.close()


async def drain(fleet: list[Engine]) -> None:
    await change_store(fleet[0], "s1", state="draining")


async def remove(fleet: list[Engine]) -> upkeep.RemoveOutcome:
    return await upkeep.remove_store(fleet[0], "s1")


async def find(engine: Engine, run_id: UUID) -> str:
    found = await runs.find_run(engine, 1, run_id)
    assert found is not None
    return found.status


async def test_a_root_that_comes_late_is_refused_and_may_be_tried_again(fleet: list[Engine], late: Late) -> None:
    await drain(fleet)
    assert await remove(fleet) == Removed()
    with pytest.raises(UnreachableError) as refused:
        await trigger_at(late.at("1"), None)
    assert find_store_name(refused.value) == "s1"
    await late.home.refresh_stores()
    made = await trigger_at(late.at("1"), None)
    assert store_of(made.run_id) == "0"


@pytest.mark.parametrize("key", [None, "k"])
async def test_a_root_that_is_being_made_is_waited_for_and_keeps_the_store(
    fleet: list[Engine], key: str | None
) -> None:
    async with holding(fleet[1], "after:insert_run") as (slow, hold):
        making = await held_at(hold, trigger_at(slow, key, request_id=None if key else "request"))
        await drain(fleet)
        removing = await blocked(fleet[1], remove(fleet))
        assert not removing.done()
        hold.released.set()
        made = await making
        left = await removing
    assert isinstance(left, StillOwns)
    assert left.holding.runs == 1
    assert await find(fleet[0], made.run_id) == "PENDING_VERSION"


async def test_who_has_read_the_tables_and_writes_to_them_next_is_not_broken_off(fleet: list[Engine]) -> None:
    """As a sweep does: it holds what a removal needs, and needs what a removal holds."""
    await drain(fleet)
    async with fleet[1].store.connect() as connection, connection.transaction():
        await connection.fetch("SELECT FROM headrace.batches")
        await connection.fetch("SELECT FROM headrace.runs")
        removing = await blocked(fleet[1], remove(fleet))
        for table in ("tokens", "batches", "runs"):
            await connection.fetch(f"UPDATE headrace.{table} SET moved = moved")
    assert await removing == Removed()


async def test_a_root_with_a_key_that_comes_too_late_leaves_the_key_to_who_tries_again(
    fleet: list[Engine], late: Late
) -> None:
    home, s1, s2 = fleet
    async with holding(s1, "before:claim_keys") as (slow, hold):  # its key is reserved at home by then
        making = await held_at(hold, trigger_at(slow, "k"))
        await drain(fleet)
        assert await remove(fleet) == Removed()
        hold.released.set()
        with pytest.raises(UnreachableError):
            await making
    made = await asyncio.gather(*(trigger_at(one, "k") for one in (home, s2, home, s2)))
    assert sorted(type(one).__name__ for one in made) == ["RunCreated", *3 * ["RunExists"]]
    assert len({one.run_id for one in made}) == 1
    assert await trigger_at(late.at("2"), "k") == RunExists(made[0].run_id, cached=True)
    assert await count_runs([home, s2]) == 1


async def test_a_key_reserved_by_who_died_can_be_taken_when_its_store_is_no_more(
    fleet: list[Engine], late: Late
) -> None:
    home, s1, s2 = fleet
    for number in range(3):
        claim = KeyClaim(task_scope("t"), f"k{number}", mint_run_id("1"), 60)
        await reserve_keys(s1, 1, [claim])
    await drain(fleet)
    assert await remove(fleet) == Removed()
    for number, heir in enumerate((home, s2, late.at("2"))):
        made = await trigger_at(heir, f"k{number}")
        assert isinstance(made, RunCreated)
        assert await trigger_at(home, f"k{number}") == RunExists(made.run_id, cached=True)


async def test_a_key_of_a_store_that_a_process_has_not_heard_of_is_not_taken(fleet: list[Engine], late: Late) -> None:
    """It is unknown to it, which is not the same as gone: the run may be made there any moment."""
    home, s1, _ = fleet
    known = late.home.stores
    late.home.stores.replace(
        [(record, one) for record, one in zip(known.records(), known.all(), strict=True) if record.key != "1"]
    )
    claim = KeyClaim(task_scope("t"), "k", mint_run_id("1"), 60)
    await reserve_keys(s1, 1, [claim])
    await fetch_sql(home, "UPDATE headrace.idempotency_keys SET reserved_at = reserved_at - interval '1 hour'")
    taken = await trigger_at(late.home, "k")
    assert isinstance(taken, RunCreated)
    [row] = await fetch_sql(s1, "SELECT target_id FROM headrace.idempotency_keys")
    assert row["target_id"] == VOID, "it was asked there, and nobody can make that run any more"


async def order(home: Engine, pick: str) -> None:
    """A tick at home, of a schedule whose time has come, by who believes that this store takes roots."""
    schedule = await create(home, "* * * * *")
    await move_tick(home, schedule, datetime.now(UTC).replace(second=0, microsecond=0))
    fired = await home.store.run_plan(fire_due(home.settings, home.lanes, 10, pick=lambda: pick))
    assert fired.runs == 1


async def test_a_schedule_orders_nothing_from_a_store_that_is_drained(fleet: list[Engine], late: Late) -> None:
    await drain(fleet)
    await order(late.home, "1")
    assert await fetch_sql(fleet[0], "SELECT FROM headrace.outbox") == []
    assert await count_runs(fleet[:1]) == 1


async def test_what_a_schedule_orders_is_waited_for_by_who_drains_and_by_who_removes(fleet: list[Engine]) -> None:
    home, s1, _ = fleet
    async with holding(home, "after:insert_mail") as (ticking, hold):
        tick = await held_at(hold, order(ticking, "1"))
        draining = await blocked(home, drain(fleet))
        assert not draining.done(), "what is being ordered there would be missed"
        hold.released.set()
        await tick
        await draining
    assert await remove(fleet) == OnTheWay(0, 1)
    await sweeps.sweep_once(home)  # the relay
    left = await remove(fleet)
    assert isinstance(left, StillOwns)
    assert left.holding.runs == 1
    assert await fetch_sql(home, "SELECT FROM headrace.outbox") == []
    assert await count_runs([s1]) == 1


@pytest.mark.parametrize("place", [0, 2])
async def test_a_tree_that_left_for_a_store_that_is_no_more_lands_at_home(
    fleet: list[Engine], late: Late, place: int
) -> None:
    source = fleet[place]
    run_id = await make_root(source)
    await drain(fleet)
    assert await remove(fleet) == Removed()
    with pytest.raises(UnreachableError):  # it has left, and is not taken
        await moves.move_tree(late.at(source.key), run_id, "s1")
    await sweeps.sweep_once(source)
    assert await find(fleet[0], run_id) == "PENDING_VERSION"
    assert await fetch_sql(source, "SELECT FROM headrace.moves") == []
    [found] = await fetch_sql(fleet[0], "SELECT id FROM headrace.runs")
    assert found["id"] == run_id


async def test_mail_for_a_store_that_is_no_more_is_dropped_or_no_other_could_be_removed(fleet: list[Engine]) -> None:
    home, s1, s2 = fleet
    run_id = await make_root(s2)
    assert await mirror_targets(s1, 1, "run", [run_id]) == set()
    await drain(fleet)
    assert await remove(fleet) == Removed()
    await cancels.cancel_run(home, 1, run_id)
    assert len(await fetch_sql(s2, "SELECT FROM headrace.outbox")) == 1
    await sweeps.sweep_once(s2)
    assert await fetch_sql(s2, "SELECT FROM headrace.outbox") == []


async def test_who_dies_while_he_removes_a_store_leaves_one_that_can_be_removed_or_used(fleet: list[Engine]) -> None:
    await drain(fleet)
    await fleet[1].store.run_plan(upkeep._close_if_empty())  # pyright: ignore[reportPrivateUsage] - and here he died
    with pytest.raises(UnreachableError):
        await trigger_at(fleet[1], None)
    await upkeep.undo_drain(fleet[0], "s1")
    assert store_of((await trigger_at(fleet[1], None)).run_id) == "1"
    await fetch_sql(fleet[1], "DELETE FROM headrace.runs")
    await drain(fleet)
    await fleet[1].store.run_plan(upkeep._close_if_empty())  # pyright: ignore[reportPrivateUsage]
    assert await remove(fleet) == Removed()
