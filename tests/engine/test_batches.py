"""The life of a batch: every outcome, every race between its writers."""

from __future__ import annotations

import asyncio

import pytest

from headrace.engine import batches, runs, sweeps
from headrace.engine.admission import judge_stream
from headrace.engine.engine import Engine
from headrace.engine.outcomes import (
    BatchExists,
    BatchMissing,
    BatchRefused,
    ChunkStored,
    Incomplete,
    KeyConflict,
    Packet,
    RunCreated,
    Sealed,
    StreamDone,
    StreamOpen,
    StreamRefused,
)
from headrace.protocol.batches import CreateBatch
from headrace.protocol.options import RunOptions
from headrace.protocol.statuses import BatchStatus, RunStatus
from tests.engine.helpers import claim, fetch_everywhere, finish, look, make_items, open_batch, register
from tests.invariants import assert_invariants, fetch_sql

pytestmark = pytest.mark.anyio


@pytest.mark.parametrize(
    ("status", "sealed", "processed", "expected"),
    [
        ("PENDING", False, False, StreamOpen),
        ("PENDING", True, False, StreamDone),
        ("PENDING", False, True, StreamDone),
        ("PENDING", True, True, StreamDone),
        ("PROCESSING", False, False, StreamDone),
        ("PROCESSING", True, False, StreamDone),
        ("COMPLETED", False, False, StreamDone),
        ("COMPLETED", True, True, StreamDone),
        ("PARTIAL_FAILED", False, True, StreamDone),
        ("PARTIAL_FAILED", True, True, StreamDone),
        ("ABORTED", False, True, StreamRefused),
        ("ABORTED", True, True, StreamRefused),
    ],
)
async def test_the_one_rule_of_streams(
    engine: Engine, status: str, sealed: bool, processed: bool, expected: type
) -> None:
    """The predicate of batch.md 3, over rows that one store can and can't produce."""
    batch = await open_batch(engine, 2)
    async with engine.store.connect() as connection, connection.transaction():
        # only rows that this schema forbids need its checks out of the way
        await connection.execute("ALTER TABLE headrace.batches DROP CONSTRAINT batches_check2")
        await connection.execute(
            "UPDATE headrace.batches SET status = $1, sealed_at = CASE WHEN $2 THEN now() END,"
            " processing_completed_at = CASE WHEN $3 THEN now() END",
            status,
            sealed,
            processed,
        )
    assert type(judge_stream(await look(engine, batch))) is expected
    stored = await batches.store_chunk(engine, 1, batch, make_items(0, 1))
    assert isinstance(stored, ChunkStored if expected is StreamOpen else expected)
    ended = await batches.end_stream(engine, 1, batch.id)
    assert isinstance(ended, {StreamOpen: Incomplete, StreamDone: Sealed, StreamRefused: StreamRefused}[expected])


async def test_many_seals_at_once_seal_once(engine: Engine) -> None:
    batch = await open_batch(engine, 50)
    await batches.store_chunk(engine, 1, batch, make_items(0, 50))
    answers = await asyncio.gather(*(batches.end_stream(engine, 1, batch.id) for _ in range(6)))
    assert all(isinstance(answer, Sealed) for answer in answers)
    stamps = {answer.batch.processing_completed_at for answer in answers if isinstance(answer, Sealed)}
    assert len(stamps) == 1


async def test_nothing_is_added_after_the_seal(engine: Engine) -> None:
    """Invariant 2."""
    batch = await open_batch(engine, 3)
    await batches.store_chunk(engine, 1, batch, make_items(0, 3))
    await batches.end_stream(engine, 1, batch.id)
    assert isinstance(await batches.store_chunk(engine, 1, batch, make_items(0, 3)), StreamDone)
    assert len(await batches.list_batch_run_ids(engine, 1, batch.id)) == 3
    await assert_invariants(engine)


async def test_an_index_beyond_the_count_is_refused_and_stores_nothing(engine: Engine) -> None:
    """Invariant 9. Checklist 20."""
    batch = await open_batch(engine, 3)
    answer = await batches.store_chunk(engine, 1, batch, make_items(2, 2))
    assert answer == BatchRefused(422, "Item index 3 exceeds batch runCount 3")
    assert not await fetch_sql(engine, "SELECT id FROM headrace.runs")


async def test_options_that_cannot_be_read_store_nothing(engine: Engine) -> None:
    batch = await open_batch(engine, 3)
    items = make_items(0, 3)
    items[1].options = RunOptions(delay="soon")
    answer = await batches.store_chunk(engine, 1, batch, items)
    assert isinstance(answer, BatchRefused)
    assert "soon" in answer.message
    assert (await look(engine, batch)).accepted == 0


async def test_runs_start_before_the_seal(engine: Engine) -> None:
    batch = await open_batch(engine, 4)
    await batches.store_chunk(engine, 1, batch, make_items(0, 2))
    lease = await register(engine)
    await finish(engine, lease, await claim(engine, lease))
    await batches.store_chunk(engine, 1, batch, make_items(2, 2))
    await finish(engine, lease, await claim(engine, lease))
    state = await look(engine, batch)
    assert (state.status, state.settled, state.sealed) == (BatchStatus.PENDING, 4, False)
    answer = await batches.end_stream(engine, 1, batch.id)
    assert isinstance(answer, Sealed)
    assert answer.batch.status == BatchStatus.COMPLETED  # the seal came last, so the seal closes
    assert answer.batch.completed_at is not None
    await assert_invariants(engine)


async def test_runs_that_start_at_the_seal_do_not_start_before(engine: Engine) -> None:
    batch = await open_batch(engine, 4, start="seal")
    await batches.store_chunk(engine, 1, batch, make_items(0, 4))
    lease = await register(engine)
    assert await claim(engine, lease) == []
    await batches.end_stream(engine, 1, batch.id)
    assert len(await claim(engine, lease)) == 4


async def test_an_open_ended_batch_is_sealed_with_the_count_that_is_named(engine: Engine) -> None:
    batch = await open_batch(engine)
    await batches.store_chunk(engine, 1, batch, make_items(0, 5))
    assert isinstance(await batches.end_stream(engine, 1, batch.id), Incomplete)
    refused = await batches.end_stream(engine, 1, batch.id, run_count=4)
    assert refused == BatchRefused(422, "Item index 4 exceeds batch runCount 4")
    incomplete = await batches.end_stream(engine, 1, batch.id, run_count=7)
    assert isinstance(incomplete, Incomplete)
    assert incomplete.missing == [(5, 6)]
    sealed = await batches.end_stream(engine, 1, batch.id, run_count=5)
    assert isinstance(sealed, Sealed)
    assert sealed.batch.run_count == 5
    await assert_invariants(engine)


async def test_a_known_count_cannot_be_sealed_with_another(engine: Engine) -> None:
    batch = await open_batch(engine, 5)
    assert isinstance(await batches.end_stream(engine, 1, batch.id, run_count=4), BatchRefused)


async def test_a_segment_neither_seals_nor_lists_what_is_missing(engine: Engine) -> None:
    batch = await open_batch(engine, 2)
    await batches.store_chunk(engine, 1, batch, make_items(0, 2))
    answer = await batches.end_stream(engine, 1, batch.id, partial=True)
    assert isinstance(answer, Incomplete)
    assert answer.missing == []
    assert not (await look(engine, batch)).sealed


async def test_fault_01_items_that_resolve_to_one_run_each_have_an_outcome(engine: Engine) -> None:
    batch = await open_batch(engine, 6)
    await batches.store_chunk(engine, 1, batch, make_items(0, 3, key="same"))
    await batches.store_chunk(engine, 1, batch, make_items(3, 3, key="same"))
    await batches.end_stream(engine, 1, batch.id)
    lease = await register(engine)
    claimed = await claim(engine, lease)
    assert [run.batch_index for run in claimed] == [0]
    await finish(engine, lease, claimed)
    state = await look(engine, batch)
    assert (state.status, state.settled, state.succeeded) == (BatchStatus.COMPLETED, 6, 6)
    results = await batches.list_batch_results(engine, 1, batch.id)
    assert [result.index for result in results] == [0, 1, 2, 3, 4, 5]
    assert {result.run.id for result in results} == {claimed[0].id}
    await assert_invariants(engine)


async def test_fault_01_an_item_that_resolves_to_a_run_that_has_ended_is_settled_at_once(engine: Engine) -> None:
    first = await runs.trigger_run(engine, 1, "t", Packet(b"1"), RunOptions(idempotency_key="same"))
    lease = await register(engine)
    await finish(engine, lease, await claim(engine, lease))
    batch = await open_batch(engine, 2)
    await batches.store_chunk(engine, 1, batch, make_items(0, 2, key="same"))
    sealed = await batches.end_stream(engine, 1, batch.id)
    assert isinstance(sealed, Sealed)
    assert sealed.batch.status == BatchStatus.COMPLETED
    assert isinstance(first, RunCreated)
    assert await batches.list_batch_run_ids(engine, 1, batch.id) == [first.run_id]
    await assert_invariants(engine)


async def test_an_alias_and_the_end_of_its_run_never_miss_each_other(engine: Engine) -> None:
    """Both orders of the race, many times: the run ends while the item that stands for it is stored."""
    lease = await register(engine)
    for turn in range(25):
        key = f"key {turn}"
        await runs.trigger_run(engine, 1, "t", Packet(b"1"), RunOptions(idempotency_key=key))
        claimed = await claim(engine, lease)
        batch = await open_batch(engine, 1)
        await asyncio.gather(
            finish(engine, lease, claimed), batches.store_chunk(engine, 1, batch, make_items(0, 1, key=key))
        )
        await batches.end_stream(engine, 1, batch.id)
        assert (await look(engine, batch)).status == BatchStatus.COMPLETED
    await assert_invariants(engine)


async def test_a_stream_never_holds_its_batch_while_it_waits_for_a_run(engine: Engine) -> None:
    """A completion locks the run and then the batch. A stream that held the batch and waited for the run would deadlock."""
    batch = await open_batch(engine, 2)
    await batches.store_chunk(engine, 1, batch, make_items(0, 1, key="same"))
    async with engine.store.connect() as connection:
        completion = connection.transaction()
        await completion.start()
        await connection.fetch("SELECT FROM headrace.runs FOR UPDATE")
        storing = asyncio.create_task(batches.store_chunk(engine, 1, batch, make_items(1, 1, key="same")))
        done, _ = await asyncio.wait({storing}, timeout=0.3)
        assert not done
        # with the batch's row held by the stream this would be the deadlock, which PostgreSQL notices after a second
        async with asyncio.timeout(5):
            await connection.fetch("SELECT FROM headrace.batches FOR UPDATE")
        await completion.commit()
    assert await storing == ChunkStored(1, 0)
    await batches.end_stream(engine, 1, batch.id)
    await assert_invariants(engine)


async def test_a_failed_run_frees_its_key_and_a_repeated_item_does_not_take_it_back(engine: Engine) -> None:
    batch = await open_batch(engine, 1)
    items = make_items(0, 1, key="same")
    await batches.store_chunk(engine, 1, batch, items)
    lease = await register(engine)
    await finish(engine, lease, await claim(engine, lease), "FAILED")
    assert await batches.store_chunk(engine, 1, batch, items) == ChunkStored(0, 1)
    again = await runs.trigger_run(engine, 1, "t", Packet(b"1"), RunOptions(idempotency_key="same"))
    assert isinstance(again, RunCreated)


async def test_the_first_item_stored_at_an_index_wins(engine: Engine) -> None:
    batch = await open_batch(engine, 2)
    await runs.trigger_run(engine, 1, "t", Packet(b"1"), RunOptions(idempotency_key="same"))
    await batches.store_chunk(engine, 1, batch, make_items(0, 1, key="same"))
    assert await batches.store_chunk(engine, 1, batch, make_items(0, 2)) == ChunkStored(1, 1)
    await batches.end_stream(engine, 1, batch.id)
    await assert_invariants(engine)


async def test_some_items_that_fail_at_creation_make_it_partial_failed(engine: Engine) -> None:
    """Fault 5: every index has an outcome, at its own index."""
    batch = await open_batch(engine, 3)
    await batches.store_chunk(engine, 1, batch, make_items(0, 1, error="PAYLOAD_TOO_LARGE") + make_items(1, 2))
    await batches.end_stream(engine, 1, batch.id)
    lease = await register(engine)
    await finish(engine, lease, await claim(engine, lease))
    state = await look(engine, batch)
    assert (state.status, state.prefailed, state.settled, state.succeeded) == (BatchStatus.PARTIAL_FAILED, 1, 3, 2)
    results = await batches.list_batch_results(engine, 1, batch.id)
    assert [result.run.status for result in results] == [
        RunStatus.SYSTEM_FAILURE,
        RunStatus.COMPLETED,
        RunStatus.COMPLETED,
    ]
    [error] = await batches.list_batch_errors(engine, 1, batch.id)
    assert (error.index, error.code) == (0, "PAYLOAD_TOO_LARGE")
    await assert_invariants(engine)


async def test_fault_04_all_items_failing_at_creation_ends_the_batch(engine: Engine) -> None:
    batch = await open_batch(engine, 2)
    await batches.store_chunk(engine, 1, batch, make_items(0, 2, error="PAYLOAD_TOO_LARGE"))
    sealed = await batches.end_stream(engine, 1, batch.id)
    state = await look(engine, batch)
    assert state.status == BatchStatus.ABORTED
    assert state.completed_at is not None
    assert len(await batches.list_batch_results(engine, 1, batch.id)) == 2
    assert isinstance(sealed, Sealed)  # it was this stream that sealed it; one that comes later is told of the end
    assert isinstance(await batches.end_stream(engine, 1, batch.id), StreamRefused)


async def test_an_unsealed_batch_is_aborted_at_its_deadline(engine: Engine) -> None:
    """Invariant 3, fault 18: whoever made it."""
    batch = await open_batch(engine, 2)
    await batches.store_chunk(engine, 1, batch, make_items(0, 1))
    assert (await sweeps.sweep_once(engine)).batches_aborted == 0
    await fetch_sql(engine, "UPDATE headrace.batches SET seal_deadline = now() - interval '1 second'")
    assert (await sweeps.sweep_once(engine)).batches_aborted == 1
    state = await look(engine, batch)
    assert state.status == BatchStatus.ABORTED
    assert state.error is not None
    assert "1 of 2" in str(state.error["message"])
    assert isinstance(await batches.store_chunk(engine, 1, batch, make_items(1, 1)), StreamRefused)
    assert isinstance(await batches.end_stream(engine, 1, batch.id), StreamRefused)
    lease = await register(engine)
    await finish(engine, lease, await claim(engine, lease))
    assert (await look(engine, batch)).status == BatchStatus.ABORTED  # terminal is final, fault 9
    await assert_invariants(engine)


async def test_each_chunk_moves_the_deadline(engine: Engine) -> None:
    batch = await open_batch(engine, 2)
    await fetch_sql(engine, "UPDATE headrace.batches SET seal_deadline = now() - interval '1 second'")
    await batches.store_chunk(engine, 1, batch, make_items(0, 1))
    assert (await sweeps.sweep_once(engine)).batches_aborted == 0


async def test_a_seal_and_the_deadline_never_both_win(engine: Engine) -> None:
    outcomes: set[BatchStatus] = set()
    for _ in range(20):
        batch = await open_batch(engine, 1)
        await batches.store_chunk(engine, 1, batch, make_items(0, 1))
        await fetch_sql(engine, "UPDATE headrace.batches SET seal_deadline = now() - interval '1 second'")
        answer, _ = await asyncio.gather(batches.end_stream(engine, 1, batch.id), sweeps.sweep_once(engine))
        state = await look(engine, batch)
        outcomes.add(state.status)
        assert isinstance(answer, Sealed) == state.sealed
        assert state.sealed == (state.status != BatchStatus.ABORTED)
    await assert_invariants(engine)


async def test_an_aborted_batch_that_was_to_start_at_its_seal_leaves_nothing_running(engine: Engine) -> None:
    batch = await open_batch(engine, 3, start="seal")
    await batches.store_chunk(engine, 1, batch, make_items(0, 2))
    await fetch_sql(engine, "UPDATE headrace.batches SET seal_deadline = now() - interval '1 second'")
    report = await sweeps.sweep_once(engine)
    assert (report.batches_aborted, report.runs_canceled) == (1, 2)
    results = await batches.list_batch_results(engine, 1, batch.id)
    assert [result.run.status for result in results] == [RunStatus.CANCELED, RunStatus.CANCELED]
    await assert_invariants(engine)


async def test_fault_11_and_12_creating_is_safe_to_repeat(engine: Engine) -> None:
    request = CreateBatch(run_count=2, idempotency_key="monday")
    answers = await asyncio.gather(*(batches.create_batch(engine, 1, request, request_id="r") for _ in range(8)))
    ids = {answer.batch.id for answer in answers if not isinstance(answer, KeyConflict | BatchRefused)}
    assert len(ids) == 1
    assert len(await fetch_sql(engine, "SELECT id FROM headrace.batches")) == 1
    again = await batches.create_batch(engine, 1, request, request_id="another")
    assert isinstance(again, BatchExists)
    repeated = await batches.create_batch(engine, 1, request, request_id="another")
    assert isinstance(repeated, BatchExists)
    assert {again.batch.id, repeated.batch.id} == ids
    other = CreateBatch(run_count=3, idempotency_key="monday")
    assert isinstance(await batches.create_batch(engine, 1, other), KeyConflict)


async def test_a_key_whose_time_is_over_makes_a_new_batch(engine: Engine) -> None:
    request = CreateBatch(run_count=2, idempotency_key="monday", idempotency_key_ttl="1h")
    first = await open_batch(engine, 2, idempotency_key="monday", idempotency_key_ttl="1h")
    await fetch_everywhere(engine, "UPDATE headrace.idempotency_keys SET expires_at = now() - interval '1 second'")
    second = await open_batch(engine, 2, idempotency_key="monday", idempotency_key_ttl="1h")
    assert first.id != second.id
    assert isinstance(await batches.create_batch(engine, 1, request), BatchExists)


async def test_environments_cannot_see_each_other(engine: Engine) -> None:
    batch = await open_batch(engine, 1)
    await batches.store_chunk(engine, 1, batch, make_items(0, 1))
    assert await batches.find_batch(engine, 2, batch.id) is None
    assert isinstance(await batches.admit_stream(engine, 2, batch.id), BatchMissing)
    assert isinstance(await batches.end_stream(engine, 2, batch.id), BatchMissing)
    assert isinstance(await batches.store_chunk(engine, 2, batch, make_items(0, 1)), BatchMissing)
    [run_id] = await batches.list_batch_run_ids(engine, 1, batch.id)
    assert await runs.find_run(engine, 2, run_id) is None
    assert await batches.list_batch_run_ids(engine, 2, batch.id) == []
