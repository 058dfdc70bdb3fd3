"""SIGKILL of a real process at every point of every write: research/batch.md 3.5, row by row.

After each kill the database satisfies every invariant, and the caller's retry ends as if nothing had happened.
"""

from __future__ import annotations

import asyncio
import dataclasses
import json
import signal
from uuid import UUID

import pytest

from headrace.engine import batches, claims, completions, runs, sweeps, workers
from headrace.engine.engine import Engine
from headrace.engine.outcomes import (
    BatchCreated,
    BatchExists,
    BatchState,
    ChunkStored,
    Finish,
    Packet,
    RunCreated,
    RunExists,
    Sealed,
    WorkerLease,
)
from headrace.protocol.batches import CreateBatch
from headrace.protocol.options import RunOptions
from headrace.protocol.statuses import BatchStatus, RunStatus
from tests.chaos.crash_child import ITEMS, KEYED, make_items
from tests.invariants import assert_invariants, count_rows, fetch_sql
from tests.nursery import run_forked

pytestmark = pytest.mark.anyio

NOTHING = {"batches": 0, "runs": 0, "batch_aliases": 0, "idempotency_keys": 0, "attempts": 0}


async def kill_at(engine: Engine, operation: str, point: str, argument: str = "-") -> None:
    """Runs the operation in a process of its own that is killed at the point."""
    settings = json.dumps(dataclasses.asdict(engine.settings))
    assert await run_forked("tests.chaos.crash_child", settings, operation, point, argument) == -signal.SIGKILL
    await wait_for_connections_to_end(engine)


async def wait_for_connections_to_end(engine: Engine) -> None:
    """PostgreSQL notices a dead client when it next reads from it: until then its locks are held."""
    async with engine.store.connect() as connection:
        own = {
            row["pid"]
            for row in await connection.fetch("SELECT pid FROM pg_stat_activity WHERE datname = current_database()")
        }
        assert own
        async with asyncio.timeout(30):
            while await connection.fetchval(
                "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND state LIKE 'idle in transaction%'"
                " OR (datname = current_database() AND wait_event_type = 'Lock')"
            ):
                await asyncio.sleep(0.01)


async def open_batch(engine: Engine, start: str = "add") -> BatchState:
    answer = await batches.create_batch(engine, 1, CreateBatch(run_count=ITEMS, start=start))  # pyright: ignore
    assert isinstance(answer, BatchCreated)
    return answer.batch


async def full_batch(engine: Engine) -> BatchState:
    batch = await open_batch(engine)
    assert await batches.store_chunk(engine, 1, batch, make_items()) == ChunkStored(ITEMS, 0)
    return batch


async def register(engine: Engine) -> WorkerLease:
    return await workers.register_worker(engine, "dev", name="test", tasks=[workers.TaskRegistration("t", "task/t", 3)])


async def drain(engine: Engine, batch_id: UUID) -> BatchState:
    """Executes all that is ready with a new worker and returns the batch."""
    lease = await register(engine)
    while claimed := await claims.claim_runs(engine, lease, tasks=["t"], limit=7):
        assert isinstance(claimed, list)
        ended = [Finish(run.id, run.attempt, RunStatus.COMPLETED, Packet(b"2")) for run in claimed]
        assert await completions.finish_runs(engine, lease, ended) == set()
    batch = await batches.find_batch(engine, 1, batch_id)
    assert batch is not None
    return batch


@pytest.mark.parametrize("point", ["before:claim_keys", "after:claim_keys", "after:insert_batch"])
async def test_create_killed_before_its_commit_leaves_nothing(engine: Engine, point: str) -> None:
    """3.5 rows 1 and 3: nothing is debited, scheduled or stored apart from the batch's own row."""
    await kill_at(engine, "create", point, "request-1")
    assert await count_rows(engine) == NOTHING


async def test_create_whose_answer_is_lost_is_repeated_to_the_same_batch(engine: Engine) -> None:
    """3.5 row 2, fault 11."""
    await kill_at(engine, "create", "committed:insert_batch", "request-1")
    [row] = await fetch_sql(engine, "SELECT id FROM headrace.batches")
    answer = await batches.create_batch(engine, 1, CreateBatch(run_count=ITEMS), request_id="request-1")
    assert isinstance(answer, BatchExists)
    assert answer.batch.id == row["id"]
    assert len(await fetch_sql(engine, "SELECT id FROM headrace.batches")) == 1


@pytest.mark.parametrize(
    "point",
    [
        "after:lock_batch",
        "after:find_items",
        "after:claim_keys",
        "after:insert_items",
        "after:try_watch_runs",
        "after:insert_aliases",
    ],
)
async def test_fault_02_a_chunk_killed_before_its_commit_is_not_half_stored(engine: Engine, point: str) -> None:
    """3.5 row 5: marking an item as seen and storing it are one transaction, so the resend is not deduplicated away."""
    batch = await open_batch(engine)
    before = await count_rows(engine)
    await kill_at(engine, "store", point, str(batch.id))
    assert await count_rows(engine) == before
    assert await batches.store_chunk(engine, 1, batch, make_items()) == ChunkStored(ITEMS, 0)
    assert isinstance(await batches.end_stream(engine, 1, batch.id), Sealed)
    await assert_invariants(engine)
    assert (await drain(engine, batch.id)).status == BatchStatus.COMPLETED


async def test_a_chunk_whose_answer_is_lost_is_deduplicated(engine: Engine) -> None:
    """3.5 row 6: the stream is cut after some items; all of them are sent again."""
    batch = await open_batch(engine)
    await kill_at(engine, "store", "committed:insert_items", str(batch.id))
    assert await batches.store_chunk(engine, 1, batch, make_items()) == ChunkStored(0, ITEMS)
    assert isinstance(await batches.end_stream(engine, 1, batch.id), Sealed)
    await assert_invariants(engine)


@pytest.mark.parametrize("point", ["before:seal_batch", "after:seal_batch", "committed:seal_batch"])
async def test_a_seal_is_repeated_whatever_became_of_it(engine: Engine, point: str) -> None:
    """3.5 row 7."""
    batch = await full_batch(engine)
    await kill_at(engine, "seal", point, str(batch.id))
    answer = await batches.end_stream(engine, 1, batch.id)
    assert isinstance(answer, Sealed)
    assert answer.batch.run_count == ITEMS
    await assert_invariants(engine)
    assert (await drain(engine, batch.id)).status == BatchStatus.COMPLETED


async def test_a_seal_that_starts_runs_does_both_or_neither(engine: Engine) -> None:
    batch = await open_batch(engine, start="seal")
    await batches.store_chunk(engine, 1, batch, make_items())
    await kill_at(engine, "seal", "after:open_lanes", str(batch.id))
    lease = await register(engine)
    assert await claims.claim_runs(engine, lease, tasks=["t"], limit=100) == []
    assert isinstance(await batches.end_stream(engine, 1, batch.id), Sealed)
    assert (await drain(engine, batch.id)).status == BatchStatus.COMPLETED


@pytest.mark.parametrize(
    "point",
    [
        "after:claim_keys",
        "after:insert_batch",
        "after:find_items",
        "after:find_lanes",
        "after:insert_lanes",
        "after:insert_items",
        "after:try_watch_runs",
        "after:insert_aliases",
        "after:seal_batch",
    ],
)
async def test_a_one_shot_batch_is_whole_or_not_there(engine: Engine, point: str) -> None:
    await kill_at(engine, "submit", point, "request-1")
    assert await count_rows(engine) == NOTHING
    assert not await fetch_sql(engine, "SELECT id FROM headrace.lanes")
    request = CreateBatch(run_count=ITEMS, idempotency_key="batch")
    answer = await batches.submit_batch(engine, 1, request, make_items(), request_id="request-1")
    assert isinstance(answer, BatchCreated)
    await assert_invariants(engine)
    assert (await drain(engine, answer.batch.id)).status == BatchStatus.COMPLETED


async def test_a_one_shot_batch_whose_answer_is_lost_is_found_again(engine: Engine) -> None:
    await kill_at(engine, "submit", "committed:seal_batch", "request-1")
    request = CreateBatch(run_count=ITEMS, idempotency_key="batch")
    answer = await batches.submit_batch(engine, 1, request, make_items(), request_id="request-1")
    assert isinstance(answer, BatchExists)
    assert len(await fetch_sql(engine, "SELECT id FROM headrace.runs")) == ITEMS - KEYED + 1
    await assert_invariants(engine)


@pytest.mark.parametrize("point", ["after:claim_keys", "after:insert_run", "committed:insert_run"])
async def test_a_trigger_makes_one_run_however_it_was_cut(engine: Engine, point: str) -> None:
    await kill_at(engine, "trigger", point, "request-1")
    options = RunOptions(idempotency_key="once")
    answer = await runs.trigger_run(engine, 1, "t", Packet(b"1"), options, request_id="request-1")
    assert isinstance(answer, RunExists if point.startswith("committed") else RunCreated)
    assert len(await fetch_sql(engine, "SELECT id FROM headrace.runs")) == 1
    await assert_invariants(engine)


@pytest.mark.parametrize("point", ["before:claim_runs", "committed:claim_runs"])
async def test_fault_07_a_claim_that_dies_is_rescued_without_a_second_run(engine: Engine, point: str) -> None:
    """3.5 rows 8 and 9: the run's id follows from its item, so the second try is an attempt, not a second run."""
    batch = await full_batch(engine)
    await batches.end_stream(engine, 1, batch.id)
    lease = await register(engine)
    await kill_at(engine, "claim", point, str(lease.worker_id))
    await fetch_sql(engine, "UPDATE headrace.workers SET lease_until = now() - interval '1 second'")
    report = await sweeps.sweep_once(engine)
    assert report.runs_rescued == (ITEMS - KEYED + 1 if point.startswith("committed") else 0)
    ended = await drain(engine, batch.id)
    assert (ended.status, ended.settled, ended.succeeded) == (BatchStatus.COMPLETED, ITEMS, ITEMS)
    await assert_invariants(engine)


@pytest.mark.parametrize("point", ["after:finish_runs", "after:settle_aliases", "committed:finish_runs"])
async def test_fault_03_and_26_an_end_and_what_follows_from_it_commit_together(engine: Engine, point: str) -> None:
    """3.5 rows 10 to 12: the last completion, the batch's end and whoever stands for the run are one transaction."""
    batch = await full_batch(engine)
    await batches.end_stream(engine, 1, batch.id)
    lease = await register(engine)
    claimed = await claims.claim_runs(engine, lease, tasks=["t"], limit=100)
    assert isinstance(claimed, list)
    await kill_at(engine, "finish", point, f"{lease.worker_id}:{batch.id}")
    await assert_invariants(engine)
    state = await batches.find_batch(engine, 1, batch.id)
    assert state is not None
    assert state.status == (BatchStatus.COMPLETED if point.startswith("committed") else BatchStatus.PROCESSING)
    ended = [Finish(run.id, run.attempt, RunStatus.COMPLETED, Packet(b"2")) for run in claimed]
    lost = await completions.finish_runs(engine, lease, ended)
    assert len(lost) == (len(claimed) if point.startswith("committed") else 0)
    state = await batches.find_batch(engine, 1, batch.id)
    assert state is not None
    assert (state.status, state.settled) == (BatchStatus.COMPLETED, ITEMS)
    await assert_invariants(engine)


@pytest.mark.parametrize(
    "point", ["after:end_silent_workers", "committed:end_silent_workers", "after:rescue_runs", "committed:rescue_runs"]
)
async def test_a_sweep_that_dies_is_taken_up_by_the_next(engine: Engine, point: str) -> None:
    batch = await full_batch(engine)
    await batches.end_stream(engine, 1, batch.id)
    lease = await register(engine)
    assert await claims.claim_runs(engine, lease, tasks=["t"], limit=100)
    await fetch_sql(engine, "UPDATE headrace.workers SET lease_until = now() - interval '1 second'")
    await kill_at(engine, "sweep", point)
    await sweeps.sweep_once(engine)
    assert (await drain(engine, batch.id)).status == BatchStatus.COMPLETED
    assert not await fetch_sql(engine, "SELECT id FROM headrace.runs WHERE attempt <> 2")
    await assert_invariants(engine)


@pytest.mark.parametrize("point", ["after:abort_unsealed_batches", "committed:abort_unsealed_batches"])
async def test_an_abort_that_dies_is_whole_or_not_there(engine: Engine, point: str) -> None:
    """3.5 row 13: who waits for a batch reads its row, so there is nothing beside it that could be left undone."""
    batch = await open_batch(engine)
    await fetch_sql(engine, "UPDATE headrace.batches SET seal_deadline = now() - interval '1 second'")
    await kill_at(engine, "sweep", point)
    await sweeps.sweep_once(engine)
    state = await batches.find_batch(engine, 1, batch.id)
    assert state is not None
    assert state.status == BatchStatus.ABORTED
    assert state.completed_at is not None
    assert state.error is not None


@pytest.mark.parametrize("point", ["after:end_worker", "after:rescue_runs", "committed:end_worker"])
async def test_a_retirement_that_dies_loses_no_run(engine: Engine, point: str) -> None:
    batch = await full_batch(engine)
    await batches.end_stream(engine, 1, batch.id)
    lease = await register(engine)
    assert await claims.claim_runs(engine, lease, tasks=["t"], limit=100)
    await kill_at(engine, "retire", point, str(lease.worker_id))
    await fetch_sql(
        engine, "UPDATE headrace.workers SET lease_until = now() - interval '1 second' WHERE ended_at IS NULL"
    )
    await sweeps.sweep_once(engine)
    assert (await drain(engine, batch.id)).status == BatchStatus.COMPLETED
    await assert_invariants(engine)
