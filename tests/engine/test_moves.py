"""Trees that are moved to another store, in each state that they can be in: they go on there, and are found by their old ids."""

from __future__ import annotations

import asyncio

import asyncpg
import msgspec
import pytest

from headrace.engine import batches, cancels, metadata, moves, runs, sweeps, tags, tokens, upkeep
from headrace.engine.deeds import Timer, TokenWait
from headrace.engine.engine import Engine
from headrace.engine.moves import MoveHeldUp, NothingToMove, TreeMoved
from headrace.engine.outcomes import Packet, RunCanceled, RunCreated, RunExists, StoredItem
from headrace.engine.registry import change_store
from headrace.engine.token_outcomes import TokenCompleted
from headrace.errors import ConfigurationError
from headrace.ids import mint_run_id, minted_at
from headrace.protocol.batches import CreateBatch
from headrace.protocol.options import RunOptions
from headrace.protocol.statuses import RunStatus
from tests.engine.helpers import claim, finish
from tests.engine.parents import DUE, Parent, read_state
from tests.engine.trees import STATES, Fleet, Tree, child
from tests.invariants import fetch_sql

pytestmark = pytest.mark.anyio


@pytest.fixture
async def stores(fleet: list[Engine]) -> Fleet:
    """A fleet in which new trees are made in s1; workers everywhere."""
    return await Fleet.open(fleet)


async def test_a_tree_goes_on_where_it_was_moved_to(stores: Fleet) -> None:
    for state in STATES:
        tree = await Tree.grow(stores, state)
        before = await stores.read_rows()
        outcome = await moves.move_tree(stores.home, tree.id, "s2")
        assert isinstance(outcome, TreeMoved), (state, outcome)
        assert await stores.where(tree.members) == {"s2"}, state
        assert await stores.read_rows() == before, state  # what they say is what they said
        await tree.assert_found()
        await tree.go_on(stores.s2)
        await tree.assert_ended()
    await stores.assert_sound()


async def test_a_tree_that_comes_back_is_at_home_again(stores: Fleet) -> None:
    for state in ("waiting for a child's child", "waiting for a batch", "a held batch", "keyed"):
        tree = await Tree.grow(stores, state)
        before = await stores.read_rows()
        for to in ("s2", "home", "s1"):
            assert isinstance(await moves.move_tree(stores.home, tree.id, to), TreeMoved)
            await tree.assert_found()
        assert await moves.move_tree(stores.home, tree.id, "s1") == NothingToMove(is_there=True)
        assert await stores.where(tree.members) == {"s1"}
        assert await stores.read_rows() == before
        await tree.go_on(stores.s1)
        await tree.assert_ended()
    await stores.assert_sound()


async def test_any_member_names_the_tree(stores: Fleet) -> None:
    tree = await Tree.grow(stores, "waiting for a batch")
    for member, to in zip(tree.members, ("s2", "home", "s1", "s2", "home", "s1", "s2"), strict=False):
        assert isinstance(await moves.move_tree(stores.home, member, to), TreeMoved), member
        assert await stores.where(tree.members) == {to}
    await stores.assert_sound()


async def test_what_executes_is_moved_when_it_waits(stores: Fleet) -> None:
    tree = await Tree.grow(stores, "executing")
    outcome = await moves.move_tree(stores.home, tree.id, "s2")
    assert isinstance(outcome, MoveHeldUp)
    assert outcome.why == "1 of its runs are executing"
    assert (await sweeps.sweep_once(stores.s1)).trees_moved == 0
    assert await stores.where(tree.members) == {"s1"}
    assert tree.parent is not None
    await tree.parent.write(stores.s1, Timer(seconds=3600))
    await tree.parent.sleep(stores.s1)
    assert (await sweeps.sweep_once(stores.s1)).trees_moved == 1
    assert await stores.where(tree.members) == {"s2"}
    assert await fetch_sql(stores.s1, "SELECT FROM headrace.moves") == []
    await tree.assert_found()
    await tree.go_on(stores.s2)
    await tree.assert_ended()
    await stores.assert_sound()


async def test_what_executes_is_moved_when_it_ends(stores: Fleet) -> None:
    tree = await Tree.grow(stores, "executing")
    assert isinstance(await moves.move_tree(stores.home, tree.id, "s2"), MoveHeldUp)
    assert tree.parent is not None
    assert await tree.parent.end(stores.s1) == set()
    await sweeps.sweep_once(stores.s1)
    assert await stores.where(tree.members) == {"s2"}
    await tree.assert_ended()


async def test_a_run_that_was_moved_makes_its_children_where_it_is(stores: Fleet) -> None:
    tree = await Tree.grow(stores, "waiting for a timer")
    await moves.move_tree(stores.home, tree.id, "s2")
    await fetch_sql(stores.s2, DUE)
    await sweeps.sweep_once(stores.s2)
    [run] = await claim(stores.s2, stores.leases["s2"], 1, "p")
    parent = Parent(stores.leases["s2"], run, 1000)
    made = child(stores.s2)
    await parent.write(stores.s2, made)
    with pytest.raises(asyncpg.CheckViolationError, match="runs_owned"):  # the guard lets nothing else in
        await parent.write(stores.s2, child(stores.s1), name="guarded")
    await parent.sleep(stores.s2)
    assert isinstance(await moves.move_tree(stores.home, made.run_id, "home"), TreeMoved)
    assert await stores.where([*tree.members, made.run_id]) == {"home"}
    assert (await runs.find_run(stores.fresh(), 1, made.run_id)) is not None
    await tree.go_on(stores.home)
    await tree.assert_ended()
    await stores.assert_sound()


async def test_old_ids_serve_every_call(stores: Fleet) -> None:
    made = await runs.trigger_run(stores.home, 1, "t", Packet(b"1"), RunOptions(delay="1h"))
    assert isinstance(made, RunCreated)
    run_id = made.run_id
    assert isinstance(await moves.move_tree(stores.home, run_id, "s2"), TreeMoved)
    assert isinstance(await tags.add_tags(stores.fresh(), 1, run_id, ["a"]), tags.TagsAdded)
    assert isinstance(await metadata.find_metadata(stores.fresh(), 1, run_id), metadata.MetadataShown)
    found = await runs.find_run(stores.fresh(), 1, run_id)
    assert found is not None
    assert found.tags == ["a"]
    assert isinstance(await cancels.cancel_run(stores.fresh(), 1, run_id), RunCanceled)
    found = await runs.find_run(stores.fresh(), 1, run_id)
    assert found is not None
    assert found.status == RunStatus.CANCELED
    assert await runs.find_run(stores.fresh(), 1, mint_run_id("1")) is None
    assert await runs.find_run(stores.fresh(), 2, run_id) is None  # another environment's stays another's


async def test_a_batch_is_moved_once_it_is_sealed(stores: Fleet) -> None:
    for start in ("add", "seal"):
        answer = await batches.create_batch(stores.s1, 1, CreateBatch(run_count=4, start=start))
        assert isinstance(answer, batches.BatchCreated)
        batch = answer.batch
        items = [StoredItem(i, "t", Packet(b"1")) for i in range(4)]
        await batches.store_chunk(stores.home, 1, batch, items[:2])
        outcome = await moves.move_tree(stores.home, batch.id, "s2")
        assert isinstance(outcome, MoveHeldUp)
        assert "is being filled" in outcome.why
        await batches.store_chunk(stores.home, 1, batch, items)
        assert isinstance(await batches.end_stream(stores.home, 1, batch.id), batches.Sealed)
        assert (await sweeps.sweep_once(stores.s1)).trees_moved == 1
        # whoever did not hear that it was sealed asks again
        assert isinstance(await batches.store_chunk(stores.fresh(), 1, batch, items), batches.StreamDone)
        assert isinstance(await batches.end_stream(stores.fresh(), 1, batch.id), batches.Sealed)
        await stores.finish_all("s2")
        found = await batches.find_batch(stores.fresh(), 1, batch.id)
        assert found is not None
        assert (found.status, found.settled) == ("COMPLETED", 4)
        assert len(await batches.list_batch_results(stores.fresh(), 1, batch.id)) == 4
        assert len(await batches.list_batch_run_ids(stores.fresh(), 1, batch.id)) == 4
        assert len(await batches.list_batch_outcomes(stores.fresh(), 1, batch.id)) == 4
    await stores.assert_sound()
    assert await fetch_sql(stores.s1, "SELECT FROM headrace.lanes WHERE batch_id IS NOT NULL") == []


async def test_a_key_stands_for_a_run_that_was_moved(stores: Fleet) -> None:
    for source, to in (("s1", "home"), ("s1", "s2"), ("home", "s2")):
        for one in stores.engines:
            await change_store(stores.home, one.name, weight=float(one.name == source))
        options = RunOptions(idempotency_key=f"{source} to {to}")
        made = await runs.trigger_run(stores.home, 1, "t", Packet(b"1"), options)
        assert isinstance(made, RunCreated)
        assert isinstance(await moves.move_tree(stores.home, made.run_id, to), TreeMoved)
        for engine in (*stores.engines, stores.fresh()):
            hit = await runs.trigger_run(engine, 1, "t", Packet(b"1"), options)
            assert hit == RunExists(made.run_id, cached=True)
        # one that failed stands for nothing
        place = next(one for one in stores.engines if one.name == to)
        [run] = await claim(place, stores.leases[to])
        await finish(place, stores.leases[to], [run], "FAILED")
        again = await runs.trigger_run(stores.fresh(), 1, "t", Packet(b"1"), options)
        assert isinstance(again, RunCreated)
        await stores.finish_all(*stores.leases)


async def test_trees_that_wait_for_each_other_stay_until_they_do_not(stores: Fleet) -> None:
    """What waits is held up, on both sides; what was told goes, and can be told again."""
    token = await stores.make_token()
    one = await Tree.grow(stores, "executing")
    other = await Tree.grow(stores, "executing")
    for tree in (one, other):
        assert tree.parent is not None
        await tree.parent.write(stores.s1, TokenWait(token), name="wait")
        await tree.parent.sleep(stores.s1)
    for asked in (one.id, token):
        outcome = await moves.move_tree(stores.home, asked, "s2")
        assert isinstance(outcome, MoveHeldUp)
        assert "wait" in outcome.why
    assert isinstance(await tokens.complete_token(stores.home, 1, token, Packet(b"7")), TokenCompleted)
    assert (await sweeps.sweep_once(stores.s1)).trees_moved == 2
    assert await stores.where([one.id, token]) == {"s2"}
    assert await stores.where([other.id]) == {"s1"}
    for place, tree in ((stores.s1, other), (stores.s2, one)):
        [run] = await claim(place, stores.leases[place.name], 1, "p")
        assert run.id == tree.id
        [point] = run.journal
        assert (point.pending, point.value.data, point.status) == (False, b"7", "COMPLETED")
        await Parent(stores.leases[place.name], run, 1000).end(place)
    await stores.assert_sound()


async def test_a_token_that_one_tree_waits_for_goes_with_it(stores: Fleet) -> None:
    token = await stores.make_token()
    tree = await Tree.grow(stores, "executing")
    assert tree.parent is not None
    await tree.parent.write(stores.s1, TokenWait(token), name="wait")
    await tree.parent.sleep(stores.s1)
    assert isinstance(await moves.move_tree(stores.home, tree.id, "s2"), TreeMoved)
    assert await stores.where([tree.id, token]) == {"s2"}
    assert isinstance(await tokens.complete_token(stores.fresh(), 1, token, Packet(b"7")), TokenCompleted)
    assert (await read_state(stores.s2, tree.id))[0] == "QUEUED"


async def test_a_run_waits_for_a_token_that_was_moved_away(stores: Fleet) -> None:
    """Its id says that it is here, and it is not."""
    token = await stores.make_token()
    assert isinstance(await moves.move_tree(stores.home, token, "s2"), TreeMoved)
    tree = await Tree.grow(stores, "executing")
    assert tree.parent is not None
    [point] = await tree.parent.write(stores.s1, TokenWait(token), name="wait")
    assert point.pending
    await tree.parent.sleep(stores.s1)
    outcome = await moves.move_tree(stores.home, token, "home")
    assert isinstance(outcome, MoveHeldUp)
    assert "in another store" in outcome.why
    assert isinstance(await tokens.complete_token(stores.home, 1, token, Packet(b"7")), TokenCompleted)
    await sweeps.sweep_once(stores.s2)
    assert (await read_state(stores.s1, tree.id))[0] == "QUEUED"
    await sweeps.sweep_once(stores.s2)
    assert await stores.where([token]) == {"home"}
    await stores.assert_sound()


async def test_runs_of_an_order_key_and_debounced_ones_stay_until_their_turn(stores: Fleet) -> None:
    debounced = msgspec.convert({"debounce": {"key": "d", "delay": "1h"}}, RunOptions)
    for options in (RunOptions(order_key="k"), debounced):
        made = await runs.trigger_run(stores.home, 1, "t", Packet(b"1"), options)
        assert isinstance(made, RunCreated)
        assert isinstance(await moves.move_tree(stores.home, made.run_id, "s2"), MoveHeldUp)
        await cancels.cancel_run(stores.home, 1, made.run_id)
        assert (await sweeps.sweep_once(stores.home)).trees_moved == 1
        found = await runs.find_run(stores.fresh(), 1, made.run_id)
        assert found is not None
        assert found.status == RunStatus.CANCELED
    await stores.assert_sound()


async def test_a_store_is_emptied_and_removed_and_its_ids_lead_on(stores: Fleet) -> None:
    states = ("queued", "waiting for a child's child", "a held batch", "ended")
    trees = [await Tree.grow(stores, state) for state in states]
    token = await stores.make_token()
    chained = await Tree.grow(stores, "queued")
    for to in ("s2", "s1"):
        await moves.move_tree(stores.home, chained.id, to)
    assert isinstance(
        await moves.move_tree(stores.home, trees[0].id, "home"), TreeMoved
    )  # home itself says where it went
    assert isinstance(await moves.move_tree(stores.home, trees[0].id, "s1"), TreeMoved)
    with pytest.raises(ConfigurationError, match="where they are"):
        await anext(moves.move_all(stores.home, "s1", "s1"))
    told = [one async for one in moves.move_all(stores.home, "s1", "s2")]
    assert all(isinstance(one, TreeMoved) for one in told), told
    assert len(told) == len(trees) + 2
    await change_store(stores.home, "s1", state="draining")
    assert isinstance(await upkeep.remove_store(stores.home, "s1"), upkeep.Removed)
    assert [one.name for one in stores.home.stores.all()] == ["home", "s2"]
    for tree in (*trees, chained):
        assert await stores.where(tree.members) == {"s2"}
        await tree.assert_found()
    assert await tokens.find_token(stores.fresh(), 1, token) is not None
    await stores.assert_sound()


async def test_only_trees_begun_before_a_time_are_moved(stores: Fleet) -> None:
    first, second = [await Tree.grow(stores, "queued") for _ in range(2)]
    await asyncio.sleep(0.002)
    third = await Tree.grow(stores, "queued")
    told = [one async for one in moves.move_all(stores.home, "s1", "home", before=minted_at(third.id))]
    assert {one.unit.id for one in told} == {first.id, second.id}
    assert await stores.where([third.id]) == {"s1"}


async def test_nothing_goes_where_nothing_may_go(stores: Fleet) -> None:
    tree = await Tree.grow(stores, "queued")
    with pytest.raises(ConfigurationError, match="there is no store 's9'"):
        await moves.move_tree(stores.home, tree.id, "s9")
    assert await moves.move_tree(stores.home, mint_run_id("1"), "s2") == NothingToMove(is_there=False)
