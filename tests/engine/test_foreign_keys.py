"""Keys over three stores: one run a key, wherever it lives, whoever races, dies or is away."""

from __future__ import annotations

import asyncio
from collections import Counter
from uuid import UUID

import pytest

from headrace.engine import batches, cancels, idempotency, moves, runs
from headrace.engine.engine import Engine
from headrace.engine.foreign_keys import reserve_keys
from headrace.engine.idempotency import KeyClaim, hash_key, task_scope
from headrace.engine.outcomes import (
    BatchCreated,
    BatchExists,
    KeyConflict,
    Lineage,
    Packet,
    RunCreated,
    RunExists,
    StoredItem,
)
from headrace.ids import mint_run_id, store_of
from headrace.protocol.batches import CreateBatch
from headrace.protocol.options import RunOptions
from tests.engine.held import blocked, held_at, holding
from tests.fleet import run_sql
from tests.invariants import fetch_sql

pytestmark = pytest.mark.anyio

ENVIRONMENT = 1
NOTHING = Packet(b"{}")


async def trigger_at(engine: Engine, key: str | None, **more: object) -> RunCreated | RunExists:
    """A root in the store of ``engine``, as if the router had picked it."""
    parent = more.pop("lineage", None)
    picked = engine.stores.pick
    engine.stores.pick = lambda: engine  # pyright: ignore[reportAttributeAccessIssue] - which store it is is the test's choice
    try:
        answer = await runs.trigger_run(
            engine,
            ENVIRONMENT,
            "t",
            NOTHING,
            RunOptions(idempotency_key=key),
            lineage=parent,  # pyright: ignore[reportArgumentType]
            **more,  # pyright: ignore[reportArgumentType]
        )
    finally:
        engine.stores.pick = picked  # pyright: ignore[reportAttributeAccessIssue]
    assert isinstance(answer, RunCreated | RunExists), answer
    return answer


async def count_runs(fleet: list[Engine]) -> int:
    return sum([(await fetch_sql(one, "SELECT count(*) AS n FROM headrace.runs"))[0]["n"] for one in fleet])


@pytest.mark.parametrize(("first", "second"), [(0, 1), (1, 0), (1, 2), (2, 1), (1, 1), (2, 0)])
async def test_a_key_finds_its_run_from_every_store(fleet: list[Engine], first: int, second: int) -> None:
    made = await trigger_at(fleet[first], "k")
    assert isinstance(made, RunCreated)
    assert store_of(made.run_id) == fleet[first].key
    again = await trigger_at(fleet[second], "k")
    assert again == RunExists(made.run_id, cached=True)
    assert await count_runs(fleet) == 1


@pytest.mark.parametrize("place", [0, 1, 2])
async def test_a_failed_run_frees_its_key_and_a_canceled_one_keeps_it(fleet: list[Engine], place: int) -> None:
    for other in fleet:
        key = f"k{other.key}"
        made = await trigger_at(fleet[place], key)
        await cancels.cancel_run(fleet[0], ENVIRONMENT, made.run_id)
        assert await trigger_at(other, key) == RunExists(made.run_id, cached=True)
        failed = await trigger_at(fleet[place], f"f{other.key}")
        if fleet[place] is not other:
            await fetch_sql(
                fleet[place],
                "UPDATE headrace.runs SET status = 'FAILED', finished_at = now() WHERE id = $1 /* forced */",
                failed.run_id,
            )
            fresh = await trigger_at(other, f"f{other.key}")
            assert isinstance(fresh, RunCreated)
            assert store_of(fresh.run_id) == other.key


async def test_fifty_at_once_from_all_stores_make_one(fleet: list[Engine]) -> None:
    weights = [one for one in fleet for _ in range(17)]
    await trigger_at(fleet[0], None)  # the lanes

    async def trigger(_: Engine) -> UUID:
        answer = await runs.trigger_run(fleet[0], ENVIRONMENT, "t", NOTHING, RunOptions(idempotency_key="one"))
        assert isinstance(answer, RunCreated | RunExists), answer
        return answer.run_id

    found = Counter(await asyncio.gather(*(trigger(one) for one in weights)))
    assert len(found) == 1
    assert await count_runs(fleet) == 2


async def test_more_at_once_than_there_are_connections_find_runs_at_home(fleet: list[Engine]) -> None:
    """Each holds a connection to home for its keys; if it took another one to look at the run, none would be left for anybody."""
    home, s1, s2 = fleet
    many = 3 * home.settings.pool_size
    made = [(await trigger_at(home, f"k{n}")).run_id for n in range(many)]
    assert {store_of(run_id) for run_id in made} == {home.key}
    found = await asyncio.gather(*(trigger_at(s1, f"k{n}") for n in range(many)))
    assert [one.run_id for one in found] == made
    for run_id in made:  # moved, and asked for by a process that does not know it yet
        assert isinstance(await moves.move_tree(home, run_id, "s2"), moves.TreeMoved)
    home.stores._moved.clear()  # pyright: ignore[reportPrivateUsage]
    found = await asyncio.gather(*(trigger_at(s1, f"k{n}") for n in range(many)))
    assert [one.run_id for one in found] == made
    assert all(home.at(run_id) is s2 for run_id in made)


async def test_who_dies_between_the_two_steps_leaves_a_key_that_can_be_taken(fleet: list[Engine]) -> None:
    home, s1, s2 = fleet
    for dead, heir in ((s1, s2), (s1, home), (s2, s1), (s1, s1)):
        key = f"{dead.key}{heir.key}"
        claim = KeyClaim(task_scope("t"), key, mint_run_id(dead.key), 60)
        await reserve_keys(dead, ENVIRONMENT, [claim])  # and here it died
        made = await trigger_at(heir, key)
        assert isinstance(made, RunCreated)
        assert made.run_id != claim.target_id
        assert await trigger_at(dead, key) == RunExists(made.run_id, cached=True)


async def test_who_was_only_slow_between_the_two_steps_makes_no_second_run(fleet: list[Engine]) -> None:
    """It reserved its key, stood still, and goes on when the key is somebody else's."""
    _, s1, s2 = fleet
    async with holding(s1, "before:claim_keys") as (slow, hold):
        late = await held_at(hold, trigger_at(slow, "k"))
        taken = await trigger_at(s2, "k")
        assert isinstance(taken, RunCreated)
        hold.released.set()
        assert await late == RunExists(taken.run_id, cached=True)
    assert await count_runs(fleet) == 1


async def test_who_takes_a_key_waits_for_whoever_is_making_its_run(fleet: list[Engine]) -> None:
    _, s1, s2 = fleet
    async with holding(s1, "after:claim_keys") as (slow, hold):
        late = await held_at(hold, trigger_at(slow, "k"))
        other = await blocked(s1, trigger_at(s2, "k"))
        assert not other.done()
        hold.released.set()
        made = await late
        assert isinstance(made, RunCreated)
        assert await other == RunExists(made.run_id, cached=True)
    assert await count_runs(fleet) == 1


async def test_a_key_of_a_store_that_is_away_is_refused_and_others_are_not(fleet: list[Engine]) -> None:
    home, s1, s2 = fleet
    there, here = await trigger_at(s1, "there"), await trigger_at(s2, "here")
    await s1.store.close()
    with pytest.raises(Exception, match="closed"):
        await trigger_at(s2, "there")
    with pytest.raises(Exception, match="closed"):
        await trigger_at(home, "there")
    assert await trigger_at(home, "here") == RunExists(here.run_id, cached=True)
    assert isinstance(await trigger_at(s2, "new"), RunCreated)
    del there


async def test_a_reset_frees_a_key_in_every_store(fleet: list[Engine]) -> None:
    _, s1, s2 = fleet
    made = await trigger_at(s1, "k")
    assert await idempotency.reset_key(s2, ENVIRONMENT, "t", "k")
    assert not await idempotency.reset_key(s1, ENVIRONMENT, "t", "k")
    for place in (s1, s2):
        fresh = await trigger_at(place, "k")
        assert isinstance(fresh, RunCreated)
        assert fresh.run_id != made.run_id
        assert await idempotency.reset_key(place, ENVIRONMENT, "t", "k")


async def test_a_key_whose_time_is_over_is_taken_in_another_store(fleet: list[Engine]) -> None:
    home, s1, s2 = fleet
    made = await trigger_at(s1, "k")
    await run_sql(home.settings.database_url, "UPDATE headrace.idempotency_keys SET expires_at = now()")
    fresh = await trigger_at(s2, "k")
    assert isinstance(fresh, RunCreated)
    assert await trigger_at(s1, "k") == RunExists(fresh.run_id, cached=True)
    assert made.run_id != fresh.run_id


async def test_a_request_repeated_finds_its_run_in_the_store_that_it_went_to(fleet: list[Engine]) -> None:
    for place in fleet:
        made = await trigger_at(place, None, request_id=f"r{place.key}")
        for other in fleet:
            again = await trigger_at(other, None, request_id=f"r{place.key}")
            assert again == RunExists(made.run_id, cached=False)
    assert await count_runs(fleet) == 3


async def test_a_child_with_a_key_is_where_its_parent_is(fleet: list[Engine]) -> None:
    home, s1, s2 = fleet
    parent = await trigger_at(s1, None)
    child = await trigger_at(home, "c", lineage=Lineage(parent.run_id, parent.run_id, 1))
    assert store_of(child.run_id) == s1.key
    assert await trigger_at(s2, "c") == RunExists(child.run_id, cached=True)


async def test_batches_have_keys_over_stores_too(fleet: list[Engine]) -> None:
    for place in fleet:
        place.stores.pick = lambda place=place: place  # pyright: ignore[reportAttributeAccessIssue]
        request = CreateBatch(run_count=2, idempotency_key=f"b{place.key}")
        made = await batches.create_batch(place, ENVIRONMENT, request, request_id=f"q{place.key}")
        assert isinstance(made, BatchCreated)
        assert store_of(made.batch.id) == place.key
        for other in fleet:
            other.stores.pick = lambda other=other: other  # pyright: ignore[reportAttributeAccessIssue]
            again = await batches.create_batch(other, ENVIRONMENT, request, request_id=f"q{place.key}")
            assert isinstance(again, BatchExists)
            assert again.batch.id == made.batch.id
            different = CreateBatch(run_count=3, idempotency_key=f"b{place.key}")
            assert isinstance(await batches.create_batch(other, ENVIRONMENT, different), KeyConflict)


async def test_items_with_keys_make_one_run_each_over_stores(fleet: list[Engine]) -> None:
    home, s1, _ = fleet
    s1.stores.pick = lambda: s1  # pyright: ignore[reportAttributeAccessIssue]
    items = [StoredItem(index, "t", NOTHING, RunOptions(idempotency_key=f"i{index % 3}")) for index in range(6)]
    made = await batches.submit_batch(s1, ENVIRONMENT, CreateBatch(run_count=6), items)
    assert isinstance(made, BatchCreated)
    assert await count_runs(fleet) == 3
    found = await trigger_at(home, "i1")
    assert isinstance(found, RunExists)
    assert store_of(found.run_id) == s1.key
    rows = await fetch_sql(
        home, "SELECT count(*) AS n FROM headrace.idempotency_keys WHERE key_hash = $1", hash_key("i1")
    )
    assert rows[0]["n"] == 1
