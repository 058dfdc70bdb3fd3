"""The audit of batches: each way in which a batch can't be wrong is made by hand, found, repaired, and found no more."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from typing import Any
from uuid import UUID

import pytest

from headrace.engine import batches
from headrace.engine.audits import AuditPlace, audit_once
from headrace.engine.batch_audit import BatchAudit, audit_batches, log_repairs
from headrace.engine.engine import Engine
from headrace.engine.outcomes import BatchCreated, BatchState, ClaimedRun, WorkerLease
from headrace.ids import format_batch_id
from headrace.metrics import render_metrics
from headrace.protocol.batches import CreateBatch
from headrace.protocol.statuses import BatchStatus
from headrace.store.statements import Plan, load_sql
from tests.engine.batch_waiters import make_batch_waiter, read_waiter
from tests.engine.helpers import claim, finish, look, make_items, register
from tests.engine.test_plans import walk
from tests.invariants import assert_invariants, fetch_sql
from tests.logs import list_lines

pytestmark = pytest.mark.anyio

ITEMS = 10


async def submit(engine: Engine, items: int = ITEMS, **more: Any) -> BatchState:
    request = CreateBatch(run_count=items)
    answer = await batches.submit_batch(engine, 1, request, make_items(0, items, **more))
    assert isinstance(answer, BatchCreated)
    return answer.batch


async def begin(engine: Engine, ended: int) -> tuple[BatchState, WorkerLease, list[ClaimedRun]]:
    """A batch of ten of which so many have ended; the others are held by a worker."""
    batch = await submit(engine)
    lease = await register(engine)
    claimed = await claim(engine, lease)
    assert await finish(engine, lease, claimed[:ended]) == set()
    return batch, lease, claimed[ended:]


async def audit(engine: Engine, after: UUID | None = None, limit: int = 100, **more: Any) -> BatchAudit:
    return await engine.store.run_plan(audit_batches(after, limit, **{"quiet": 0.0, **more}))


async def break_batch(engine: Engine, batch: BatchState, change: str) -> None:
    """What no statement of headrace's does: the table's own checks are dropped for it."""
    checks = "SELECT conname FROM pg_constraint WHERE conrelid = 'headrace.batches'::regclass AND contype = 'c'"
    for row in await fetch_sql(engine, checks):
        await fetch_sql(engine, f"ALTER TABLE headrace.batches DROP CONSTRAINT {row['conname']}")
    await fetch_sql(engine, f"UPDATE headrace.batches SET {change} WHERE id = $1 /* forced */", batch.id)


async def run_interrupted(
    connection: Any, plan: Plan[BatchAudit], after: str, change: Callable[[], Awaitable[None]]
) -> BatchAudit:
    """Runs a plan; once it has sent the statement ``after``, something else happens."""
    try:
        statement = next(plan)
        while True:
            rows = await connection.fetch(statement.sql, *statement.args)
            if statement.name == after:
                await change()
            statement = plan.send(rows)
    except StopIteration as stop:
        return stop.value


async def test_what_is_right_is_left_alone(engine: Engine) -> None:
    batch, _, _ = await begin(engine, 4)
    keyed = await submit(engine, 5, key="same")
    before = await fetch_sql(engine, "SELECT * FROM headrace.batches ORDER BY id")
    found = await audit(engine)
    assert (found.looked, found.repairs, found.after) == (2, [], keyed.id)
    assert await fetch_sql(engine, "SELECT * FROM headrace.batches ORDER BY id") == before
    assert batch.id < keyed.id


@pytest.mark.parametrize(
    "drift",
    [
        "settled = 0, succeeded = 0",
        "settled = 3",
        "succeeded = 0",
        "settled = 9, succeeded = 9",
        "accepted = 7",
        "aliased = 2",
    ],
)
async def test_counts_that_drifted_are_counted_anew(engine: Engine, drift: str) -> None:
    batch, lease, held = await begin(engine, 4)
    await break_batch(engine, batch, drift)
    found = await audit(engine)
    [repair] = found.repairs
    assert (repair.environment_id, repair.batch_id, repair.missing, repair.ended) == (1, batch.id, 0, False)
    assert repair.before != repair.after or drift == "aliased = 2"
    assert repair.after == {"accepted": ITEMS, "settled": 4, "succeeded": 4}
    await assert_invariants(engine)
    assert (await audit(engine)).repairs == []
    assert await finish(engine, lease, held) == set()
    ended = await look(engine, batch)
    assert (ended.status, ended.settled, ended.succeeded) == (BatchStatus.COMPLETED, ITEMS, ITEMS)


@pytest.mark.parametrize("drift", ["settled = 8, succeeded = 8", "settled = 10, succeeded = 10"])
async def test_a_batch_that_would_have_stayed_open_for_ever_is_ended_and_who_waits_is_woken(
    engine: Engine, drift: str
) -> None:
    batch, _, _ = await begin(engine, ITEMS)
    await break_batch(engine, batch, f"{drift}, status = 'PROCESSING', completed_at = NULL")
    waiter = await make_batch_waiter(engine, batch)
    found = await audit(engine)
    assert [(repair.batch_id, repair.ended) for repair in found.repairs] == [(batch.id, True)]
    assert found.woken == {waiter}
    ended = await look(engine, batch)
    assert (ended.status, ended.settled, ended.error) == (BatchStatus.COMPLETED, ITEMS, None)
    assert ended.completed_at is not None
    assert await read_waiter(engine, waiter) == ("QUEUED", 1)
    await assert_invariants(engine)


async def test_a_batch_without_runs_is_aborted_and_says_so(engine: Engine) -> None:
    batch = await submit(engine)
    waiter = await make_batch_waiter(engine, batch)
    await fetch_sql(engine, "DELETE FROM headrace.runs WHERE batch_id = $1", batch.id)
    [repair] = (await audit(engine)).repairs
    assert (repair.missing, repair.ended) == (ITEMS, True)
    ended = await look(engine, batch)
    assert (ended.status, ended.prefailed, ended.succeeded) == (BatchStatus.ABORTED, ITEMS, 0)
    assert ended.error is not None
    assert ended.error["code"] == "BATCH_WITHOUT_RUNS"
    assert "sealed with 10 items, but has no run at all" in ended.error["message"]
    assert await read_waiter(engine, waiter) == ("QUEUED", 1)
    assert (await audit(engine)).repairs == []


async def test_a_batch_that_lost_some_runs_ends_with_the_others_and_says_so(engine: Engine) -> None:
    """Hindsight 14.8: a deleted child strands no parent, and the parent does not read as if all were well."""
    batch, lease, held = await begin(engine, 4)
    lost = sorted(run.id for run in held)[:2]
    await fetch_sql(engine, "DELETE FROM headrace.runs WHERE id = ANY($1)", lost)
    [repair] = (await audit(engine)).repairs
    assert (repair.missing, repair.ended, repair.after["settled"]) == (2, False, 6)
    assert await finish(engine, lease, [run for run in held if run.id not in lost]) == set()
    ended = await look(engine, batch)
    assert (ended.status, ended.settled, ended.succeeded, ended.prefailed) == (BatchStatus.PARTIAL_FAILED, 10, 8, 2)
    assert ended.error is not None
    assert "of which 2 have no run" in ended.error["message"]
    assert (await audit(engine)).repairs == []


async def test_an_alias_whose_run_ended_unnoticed_is_settled(engine: Engine) -> None:
    first = await submit(engine, 1, key="shared")
    second = await submit(engine, 3, key="shared")
    lease = await register(engine)
    assert await finish(engine, lease, await claim(engine, lease)) == set()
    assert (await look(engine, second)).status == BatchStatus.COMPLETED
    await break_batch(engine, second, "settled = 0, succeeded = 0, status = 'PROCESSING', completed_at = NULL")
    await fetch_sql(engine, "UPDATE headrace.batch_aliases SET settled = false")
    [repair] = (await audit(engine)).repairs
    assert (repair.batch_id, repair.ended) == (second.id, True)
    assert (await look(engine, second)).succeeded == 3
    assert (await look(engine, first)).status == BatchStatus.COMPLETED
    await assert_invariants(engine)


async def test_slices_are_bounded_by_batches_and_by_items_and_cover_all(engine: Engine) -> None:
    made = [(await submit(engine)).id for _ in range(5)]
    for batch_id in made:
        await fetch_sql(engine, "DELETE FROM headrace.runs WHERE batch_id = $1 AND batch_index = 3", batch_id)
    for bounds, sizes in (({"limit": 2}, [2, 2, 1]), ({"most_items": 15}, [2, 2, 1]), ({"most_items": 1}, [1] * 5)):
        after, looked = None, []
        repaired: list[UUID] = []
        while (found := await audit(engine, after, **bounds)).after is not None:
            looked.append(found.looked)
            repaired += [repair.batch_id for repair in found.repairs]
            after = found.after
        assert looked == sizes
        assert found.looked == 0
        assert repaired == (sorted(made) if "limit" in bounds else [])


async def test_a_batch_in_which_something_moves_is_not_counted(engine: Engine) -> None:
    batch = await submit(engine)
    await fetch_sql(engine, "DELETE FROM headrace.runs WHERE batch_id = $1", batch.id)
    found = await audit(engine, quiet=60.0)
    assert (found.looked, found.repairs) == (1, [])
    await fetch_sql(engine, "UPDATE headrace.batches SET updated_at = now() - interval '61 seconds'")
    assert len((await audit(engine, quiet=60.0)).repairs) == 1


async def test_batches_that_are_open_or_ended_are_not_looked_at(engine: Engine) -> None:
    await begin(engine, ITEMS)
    await batches.create_batch(engine, 1, CreateBatch(run_count=5))
    assert (await audit(engine)).looked == 0


async def test_it_finds_nothing_wrong_while_batches_run_and_disturbs_none(engine: Engine) -> None:
    """A completion is seen whole or not at all, and a repair that comes between two of them adds up with them."""
    made = [await submit(engine, 100, key="shared" if number % 2 else None) for number in range(6)]
    lease = await register(engine)
    claimed = await claim(engine, lease)

    async def work() -> None:
        for start in range(0, len(claimed), 7):
            assert await finish(engine, lease, claimed[start : start + 7]) == set()

    worker = asyncio.create_task(work())
    rounds = 0
    while not worker.done():
        assert (await audit(engine)).repairs == []
        rounds += 1
    await worker
    assert rounds > 3
    assert {(await look(engine, batch)).status for batch in made} == {BatchStatus.COMPLETED}
    await assert_invariants(engine)


async def test_a_repair_and_completions_at_once_add_up(engine: Engine) -> None:
    batch = await submit(engine, 300)
    lease = await register(engine)
    claimed = await claim(engine, lease)
    await break_batch(engine, batch, "settled = 1, succeeded = 1")

    async def work() -> None:
        for run in claimed:
            assert await finish(engine, lease, [run]) == set()

    worker = asyncio.create_task(work())
    repairs = 0
    while not worker.done():
        repairs += len((await audit(engine)).repairs)
    await worker
    assert repairs == 1
    ended = await look(engine, batch)
    assert (ended.status, ended.settled, ended.succeeded) == (BatchStatus.COMPLETED, 300, 300)
    await assert_invariants(engine)


async def test_a_batch_that_ends_while_its_row_is_waited_for_is_left_as_it_ended(engine: Engine) -> None:
    batch, _, _ = await begin(engine, 4)
    await break_batch(engine, batch, "settled = 3")

    async def end() -> None:
        change = "UPDATE headrace.batches SET status = 'ABORTED', completed_at = now() WHERE id = $1"
        await fetch_sql(engine, change, batch.id)

    async with engine.store.connect() as connection, connection.transaction():
        found = await run_interrupted(connection, audit_batches(None, 10, quiet=0.0), "audit_batches", end)
    assert found.repairs == []
    assert (await look(engine, batch)).settled == 3


async def test_what_was_repaired_is_logged_as_a_bug(engine: Engine, caplog: pytest.LogCaptureFixture) -> None:
    batch, _, _ = await begin(engine, 4)
    await break_batch(engine, batch, "settled = 3")
    found = await audit(engine)
    log_repairs(found)
    [line] = list_lines(caplog)
    assert (line["level"], line["batch"]) == ("error", format_batch_id(batch.id))
    assert line["event"].startswith("bug: ")
    assert (line["before"]["settled"], line["after"]["settled"]) == (3, 4)


async def test_the_audit_of_the_sweeps_finds_it_and_goes_round(engine: Engine) -> None:
    for _ in range(3):
        batch, _, _ = await begin(engine, 4)
    await fetch_sql(engine, "UPDATE headrace.batches SET updated_at = now() - interval '61 seconds'")
    place = AuditPlace()
    assert await audit_once(engine, place) == 0
    assert place.batch == batch.id
    await break_batch(engine, batch, "settled = 3")
    assert await audit_once(engine, place) == 0  # it was at the end, and found nothing behind it
    assert place.batch is None
    assert await audit_once(engine, place) == 1
    assert (await look(engine, batch)).settled == 4
    assert 'headrace_repairs_total{kind="batch"}' in render_metrics().decode()


@pytest.mark.one_store("the plan of one statement in one database, over a history that is written past the engine")
async def test_history_costs_it_nothing(engine: Engine) -> None:
    """Invariant 12: it reads what is open, by its index, and of that a slice."""
    await fetch_sql(
        engine,
        "INSERT INTO headrace.batches (environment_id, id, start_policy, run_count, accepted, settled, highest_index, status,"
        " seal_deadline, created_at, updated_at, sealed_at, completed_at)"
        " SELECT 1, overlay(gen_random_uuid()::text PLACING '00' FROM 35)::uuid, 'add', 1, 1, 1, 0, 'COMPLETED', now(), now(), now(), now(), now() FROM generate_series(1, 20000)",
    )
    await submit(engine)
    [row] = await fetch_sql(
        engine, f"EXPLAIN (ANALYZE, FORMAT JSON) {load_sql('audit_batches')}", UUID(int=0), 100, 1000, 0.0
    )
    nodes = list(walk(json.loads(row[0])[0]["Plan"]))
    assert "batches_open" in {node.get("Index Name") for node in nodes}
    assert not [node for node in nodes if node["Node Type"] == "Seq Scan" and node.get("Relation Name") == "batches"]
