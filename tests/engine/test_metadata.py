"""Metadata of runs: operations under the lock of the row, by many at once, once each, and all or nothing."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import Any
from uuid import UUID

import msgspec
import pytest

from headrace.engine import cancels, journals
from headrace.engine.deeds import ChildRun, MetadataChange, PointWrite, TagsAddition
from headrace.engine.engine import Engine
from headrace.engine.journals import RunLostError
from headrace.engine.metadata import MetadataRefused, MetadataShown, find_metadata, update_metadata
from headrace.engine.metadata_operations import MAX_DEPTH, apply_operations
from headrace.engine.outcomes import KeyConflict, Packet, RunMissing, WorkerLease
from headrace.errors import PayloadError
from headrace.ids import mint_run_id
from headrace.protocol.metadata import (
    AppendToKey,
    DeleteKey,
    IncrementKey,
    MetadataOperation,
    RemoveFromKey,
    ReplaceMetadata,
    SetKey,
    UpdateMetadata,
)
from headrace.protocol.options import RunOptions
from tests.engine.held import held_at, holding
from tests.engine.helpers import claim, register
from tests.engine.parents import Parent, start_parent
from tests.invariants import assert_invariants, fetch_sql

pytestmark = pytest.mark.anyio


@pytest.mark.parametrize(
    ("before", "operation", "after"),
    [
        ({}, SetKey("a", [1]), {"a": [1]}),
        ({"a": 1}, SetKey("a", None), {"a": None}),
        ({"a": {"b": [1, {"c": 2}]}}, SetKey("$.a.b[1].c", 3), {"a": {"b": [1, {"c": 3}]}}),
        ({}, SetKey("$.a.b", 1), {"a": {"b": 1}}),
        ({"$x": 1}, DeleteKey("$x"), {}),
        ({"a": 1}, DeleteKey("b"), {"a": 1}),
        ({"a": [1, 2, 3]}, DeleteKey("$.a.1"), {"a": [1, 3]}),
        ({"a": 1}, DeleteKey("$.a.b"), {"a": 1}),
        ({}, IncrementKey("n", 2), {"n": 2}),
        ({"n": 1}, IncrementKey("n", -0.5), {"n": 0.5}),
        ({"a": {"n": 1}}, IncrementKey("$.a.n", 1), {"a": {"n": 2}}),
        ({}, AppendToKey("l", 1), {"l": [1]}),
        ({"l": [1]}, AppendToKey("l", [2]), {"l": [1, [2]]}),
        ({"l": [1, True, 1.0, {"a": 1}, "1"]}, RemoveFromKey("l", 1), {"l": [True, {"a": 1}, "1"]}),
        ({"l": [{"a": [1]}, {"a": [2]}]}, RemoveFromKey("l", {"a": [1]}), {"l": [{"a": [2]}]}),
        ({}, RemoveFromKey("l", 1), {}),
        ({"a": 1, "b": 2}, ReplaceMetadata({"c": 3}), {"c": 3}),
    ],
)
def test_an_operation_does_what_it_says_and_leaves_what_was_given(
    before: dict[str, Any], operation: MetadataOperation, after: dict[str, Any]
) -> None:
    kept = msgspec.json.encode(before)
    assert apply_operations(before, [operation]) == after
    assert msgspec.json.encode(before) == kept


@pytest.mark.parametrize(
    ("operation", "told"),
    [
        (IncrementKey("text", 1), "metadata.increment('text'): there is 'x', which is no number"),
        (IncrementKey("yes", 1), "there is True, which is no number"),
        (IncrementKey("none", 1), "there is None, which is no number"),
        (AppendToKey("text", 1), "metadata.append('text'): there is 'x', which is no list"),
        (RemoveFromKey("text", 1), "metadata.remove('text'): there is 'x', which is no list"),
        (SetKey("$.text.a", 1), "asks for 'a' of 'x', which is no object and no list"),
        (SetKey("$.list.7", 1), "asks for '7' of a list that has 1 items"),
        (SetKey("$.list.²", 1), "asks for '²' of a list"),
        (SetKey("$.a..b", 1), "is no path"),
        (SetKey("$.list[*]", 1), "is no path"),
        (SetKey("$." + "a." * MAX_DEPTH + "b", 1), f"at most {MAX_DEPTH}"),
        (IncrementKey("number", 10**400), "the number is too large"),
        (IncrementKey("huge", 1e308), "no JSON"),
        (SetKey("nul", "a\0b"), "NUL character"),
        (SetKey("half", "\ud83d"), "no JSON"),
        (SetKey("large", "ä" * 200), "bytes, but may have 300 (HEADRACE_METADATA_MAX_SIZE)"),
    ],
)
async def test_what_can_not_be_done_says_why_and_changes_nothing(
    engine: Engine, operation: MetadataOperation, told: str
) -> None:
    """Over HTTP all operations of a request are left undone; of a run's own code the point keeps the error."""

    lease = await register(engine, "p")
    given = {"text": "x", "yes": True, "none": None, "list": [1], "number": 0.5, "huge": 1e308}
    parent = await start_parent(engine, lease, metadata=given)
    small = _with_limit(engine, 300)
    answer = await update_metadata(small, 1, parent.id, UpdateMetadata(operations=[SetKey("done", 1), operation]))
    assert isinstance(answer, MetadataRefused), answer
    assert told in answer.message
    [point] = await parent.write(small, MetadataChange([SetKey("done", 1), operation]))
    assert point.succeeded is False
    assert point.error is not None
    assert (point.error["name"], told in str(point.error["message"])) == ("PayloadError", True)
    with pytest.raises(PayloadError) as raised:
        await journals.write_points(small, parent.fence, [PointWrite("", 9, MetadataChange([operation]))])
    assert told in str(raised.value)
    assert await find_metadata(engine, 1, parent.id) == MetadataShown(given)
    assert len(await fetch_sql(engine, "SELECT FROM headrace.journal")) == 1


async def test_many_children_at_once_lose_nothing_of_each_others_changes(engine: Engine) -> None:
    """40 children on one parent and one root, all at once, beside the parent itself and requests from outside."""
    lease = await register(engine, "p", "t")
    root = await start_parent(engine, lease, metadata={"by_root": 0})
    parent = (await _claim_children(engine, lease, root, 1))[0]
    children = await _claim_children(engine, lease, parent, 40)

    async def report(child: Parent, number: int) -> None:
        for target in (parent.id, root.id):
            for change in (IncrementKey("done", 1), AppendToKey("log", number), SetKey(f"child {number}", number)):
                await child.write(engine, MetadataChange([change], target), name=f"{target} {change}")

    async def ask(number: int) -> None:
        for one in (parent, root):
            answer = await update_metadata(
                engine, 1, one.id, UpdateMetadata(operations=[IncrementKey("asked", number)])
            )
            assert isinstance(answer, MetadataShown)

    async def go_on(one: Parent) -> None:
        for number in range(20):
            await one.write(engine, MetadataChange([IncrementKey("own", 1)]), name=f"own {number}")

    reports = [report(child, number) for number, child in enumerate(children)]
    await asyncio.gather(*reports, *map(ask, range(20)), go_on(parent), go_on(root))
    for one in (parent, root):
        shown = await _show(engine, one.id)
        assert (shown["done"], shown["own"], shown["asked"]) == (40, 20, 190)
        assert sorted(shown["log"]) == list(range(40))
        assert all(shown[f"child {number}"] == number for number in range(40))
    assert (await _show(engine, root.id))["by_root"] == 0
    await assert_invariants(engine)


async def test_a_write_whose_answer_got_lost_does_nothing_twice(engine: Engine) -> None:
    """Points are found in the journal; what is no point is known by its moment, so it does not go over what others did since."""
    lease = await register(engine, "p", "t")
    parent = await start_parent(engine, lease)
    [child] = await _claim_children(engine, lease, parent, 1)
    own = [
        PointWrite("one", 50, MetadataChange([IncrementKey("n", 1)])),
        PointWrite("two", 51, TagsAddition(["a"])),
        PointWrite("", 52, MetadataChange([SetKey("stage", "first")])),
    ]
    above = [PointWrite("up", 53, MetadataChange([IncrementKey("n", 1)], parent.id))]
    alone = [PointWrite("", 54, MetadataChange([SetKey("alone", "first")]))]
    told = [await journals.write_points(engine, child.fence, writes) for writes in (own, above, alone)]
    later = UpdateMetadata(operations=[SetKey("stage", "second"), SetKey("alone", "second")])
    assert isinstance(await update_metadata(engine, 1, child.id, later), MetadataShown)
    for _ in range(2):
        again = [
            await journals.write_points(engine, child.fence, writes, repeated=True) for writes in (own, above, alone)
        ]
        assert [[(p.name, p.succeeded, p.value) for p in points] for points in again] == [
            [(p.name, p.succeeded, p.value) for p in points] for points in told
        ]
    assert await _show(engine, child.id) == {"n": 1, "stage": "second", "alone": "second"}
    assert await _show(engine, parent.id) == {"n": 1}


async def test_a_new_attempt_may_set_again_what_the_last_one_set(engine: Engine) -> None:
    """The moments of a clock are counted anew where nothing is in the journal: they are told apart by the attempt."""
    lease = await register(engine, "p")
    parent = await start_parent(engine, lease)
    await journals.write_points(engine, parent.fence, [PointWrite("", 7, MetadataChange([SetKey("try", 1)]))])
    await fetch_sql(engine, "UPDATE headrace.runs SET attempt = attempt + 1")
    parent.run = msgspec.structs.replace(parent.run, attempt=parent.run.attempt + 1)
    await journals.write_points(engine, parent.fence, [PointWrite("", 1, MetadataChange([SetKey("try", 2)]))])
    assert await _show(engine, parent.id) == {"try": 2}


async def test_a_child_that_is_canceled_in_mid_write_and_its_cancel_do_not_wait_for_each_other(engine: Engine) -> None:
    """The child's write holds the parent and wants the child; the cancel holds the child and wants the parent."""
    lease = await register(engine, "p", "t")
    parent = await start_parent(engine, lease)
    [child] = await _claim_children(engine, lease, parent, 1, awaited=True)
    async with holding(engine, "after:lock_metadata") as (held, hold):
        writing = await held_at(hold, child.write(held, MetadataChange([IncrementKey("n", 1)], parent.id), name="up"))
        async with holding(engine, "before:lock_waiters") as (other, end):
            canceling = await held_at(end, cancels.cancel_run(other, 1, child.id))
            hold.released.set()  # the child's row is held: the write lets go of the parent, and tries again
            await _until_parent_is_free(engine, parent.id)
            end.released.set()
            await canceling
        with pytest.raises(RunLostError):
            await writing
    assert await _show(engine, parent.id) == {}
    await assert_invariants(engine)


async def test_a_child_that_lost_its_run_changes_nothing_above(engine: Engine) -> None:
    lease = await register(engine, "p", "t")
    parent = await start_parent(engine, lease)
    [child] = await _claim_children(engine, lease, parent, 1)
    await fetch_sql(engine, "UPDATE headrace.runs SET attempt = attempt + 1 WHERE id = $1", child.id)
    for deed in (MetadataChange([SetKey("a", 1)], parent.id), MetadataChange([SetKey("a", 1)]), TagsAddition(["a"])):
        with pytest.raises(RunLostError):
            await child.write(engine, deed)
    assert (await _show(engine, parent.id), await _show(engine, child.id)) == ({}, {})


async def test_a_parent_that_ended_takes_changes_for_an_hour(engine: Engine) -> None:
    lease = await register(engine, "p", "t")
    parent = await start_parent(engine, lease)
    [child] = await _claim_children(engine, lease, parent, 1)
    await parent.end(engine)
    [point] = await child.write(engine, MetadataChange([SetKey("late", 1)], parent.id), name="late")
    assert point.succeeded
    assert isinstance(await update_metadata(engine, 1, parent.id, UpdateMetadata(metadata={"late": 2})), MetadataShown)
    await fetch_sql(
        engine, "UPDATE headrace.runs SET finished_at = now() - interval '61 minutes' WHERE id = $1", parent.id
    )
    [point] = await child.write(engine, MetadataChange([SetKey("late", 3)], parent.id), name="too late")
    assert point.error is not None
    assert "ended over an hour ago" in str(point.error["message"])
    answer = await update_metadata(
        engine, 1, child.id, UpdateMetadata(operations=[SetKey("own", 1)], parent_operations=[SetKey("late", 4)])
    )
    assert isinstance(answer, MetadataRefused)
    assert "parent run run_" in answer.message
    assert (await _show(engine, parent.id), await _show(engine, child.id)) == ({"late": 2}, {})


async def test_a_parent_that_is_gone_is_no_place_for_changes(engine: Engine) -> None:
    lease = await register(engine, "p", "t")
    parent = await start_parent(engine, lease)
    [child] = await _claim_children(engine, lease, parent, 1)
    await fetch_sql(engine, "DELETE FROM headrace.runs WHERE id = $1", parent.id)
    [point] = await child.write(engine, MetadataChange([SetKey("a", 1)], parent.id), name="up")
    assert point.error is not None
    assert "is not there any more" in str(point.error["message"])
    for update in (
        UpdateMetadata(parent_operations=[SetKey("a", 1)]),
        UpdateMetadata(root_operations=[SetKey("a", 1)]),
    ):
        answer = await update_metadata(engine, 1, child.id, update)
        assert isinstance(answer, MetadataRefused)
        assert "is not there any more" in answer.message


async def test_a_request_changes_three_runs_or_none(engine: Engine) -> None:
    lease = await register(engine, "p", "t")
    root = await start_parent(engine, lease)
    [parent] = await _claim_children(engine, lease, root, 1)
    [child] = await _claim_children(engine, lease, parent, 1)
    update = UpdateMetadata(
        operations=[IncrementKey("n", 1)],
        parent_operations=[IncrementKey("n", 2)],
        root_operations=[IncrementKey("n", 3)],
    )
    assert await update_metadata(engine, 1, child.id, update) == MetadataShown({"n": 1})
    assert [await _show(engine, one.id) for one in (root, parent, child)] == [{"n": 3}, {"n": 2}, {"n": 1}]
    for part in ("operations", "parent_operations", "root_operations"):
        wrong = msgspec.structs.replace(update, **{part: [AppendToKey("n", 1)]})
        assert isinstance(await update_metadata(engine, 1, child.id, wrong), MetadataRefused)
    assert [await _show(engine, one.id) for one in (root, parent, child)] == [{"n": 3}, {"n": 2}, {"n": 1}]
    # a child of the root has one run above it, the root none: then it is its own
    assert await update_metadata(engine, 1, parent.id, update) == MetadataShown({"n": 3})
    assert await update_metadata(engine, 1, root.id, update) == MetadataShown({"n": 3 + 3 + 2 + 6})
    assert await update_metadata(engine, 1, mint_run_id(), update) == RunMissing()


async def test_requests_for_three_runs_and_children_that_write_do_not_wait_in_a_ring(engine: Engine) -> None:
    lease = await register(engine, "p", "t")
    root = await start_parent(engine, lease)
    [parent] = await _claim_children(engine, lease, root, 1)
    children = await _claim_children(engine, lease, parent, 6)
    plus: list[MetadataOperation] = [IncrementKey("n", 1)]
    everywhere = UpdateMetadata(operations=plus, parent_operations=plus, root_operations=plus)

    async def ask(child: Parent) -> None:
        for _ in range(5):
            assert isinstance(await update_metadata(engine, 1, child.id, everywhere), MetadataShown)

    async def report(child: Parent) -> None:
        for number in range(5):
            for target in (parent.id, root.id, None):
                await child.write(engine, MetadataChange(plus, target), name=f"{number} {target}")

    async with asyncio.timeout(60):
        await asyncio.gather(*map(ask, children), *map(report, children))
    assert [await _show(engine, one.id) for one in (root, parent)] == [{"n": 60}, {"n": 60}]
    assert [await _show(engine, one.id) for one in children] == [{"n": 10}] * 6
    [deadlocks] = await fetch_sql(engine, "SELECT deadlocks FROM pg_stat_database WHERE datname = current_database()")
    assert deadlocks["deadlocks"] == 0


async def test_a_request_that_is_sent_again_is_done_once(engine: Engine) -> None:
    lease = await register(engine, "p")
    parent = await start_parent(engine, lease)
    update = UpdateMetadata(operations=[IncrementKey("n", 1)])
    for _ in range(3):
        assert await update_metadata(engine, 1, parent.id, update, "the same") == MetadataShown({"n": 1})
    other = UpdateMetadata(operations=[IncrementKey("n", 2)])
    assert isinstance(await update_metadata(engine, 1, parent.id, other, "the same"), KeyConflict)
    at_once = [update_metadata(engine, 1, parent.id, update, "another") for _ in range(5)]
    assert await asyncio.gather(*at_once) == [MetadataShown({"n": 2})] * 5


async def test_a_queued_run_that_a_claim_stepped_over_for_a_change_is_told_of(engine: Engine) -> None:
    """A claim leaves a locked row alone; whoever held it says that there is something to claim."""
    lease = await register(engine, "p", "t")
    parent = await start_parent(engine, lease)
    await parent.write(engine, ChildRun(mint_run_id(), "t", Packet(b"1"), RunOptions()))
    [row] = await fetch_sql(engine, "SELECT id FROM headrace.runs WHERE status = 'QUEUED'")
    told: list[int] = []
    original = engine.notices.runs_ready
    engine.notices.runs_ready = lambda environment_id: (told.append(environment_id), original(environment_id))[1]  # type: ignore[method-assign]
    async with holding(engine, "after:lock_metadata") as (held, hold):
        changing = await held_at(hold, update_metadata(held, 1, row["id"], UpdateMetadata(metadata={"a": 1})))
        assert await claim(engine, lease) == []
        assert told == []
        hold.released.set()
        assert await changing == MetadataShown({"a": 1})
    assert told == [1]
    assert [run.id for run in await claim(engine, lease)] == [row["id"]]


async def _claim_children(
    engine: Engine, lease: WorkerLease, parent: Parent, count: int, *, awaited: bool = False
) -> list[Parent]:
    deeds = [ChildRun(mint_run_id(), "t", Packet(b"1"), RunOptions(), awaited) for _ in range(count)]
    await parent.write(engine, *deeds, name=f"children {mint_run_id()}")
    return [Parent(lease, run) for run in await claim(engine, lease, 1000, "t")]


async def _show(engine: Engine, run_id: UUID) -> dict[str, Any]:
    found = await find_metadata(engine, 1, run_id)
    assert isinstance(found, MetadataShown)
    return found.metadata


async def _until_parent_is_free(engine: Engine, run_id: UUID) -> None:
    async with asyncio.timeout(20):
        while not await fetch_sql(engine, "SELECT FROM headrace.runs WHERE id = $1 FOR UPDATE SKIP LOCKED", run_id):
            await asyncio.sleep(0.005)


def _with_limit(engine: Engine, size: int) -> Engine:
    return replace(engine, settings=replace(engine.settings, metadata_max_size=size))
