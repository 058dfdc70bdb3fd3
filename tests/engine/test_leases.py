"""Leases fence: what a worker may write, and who else gets its runs when it may not."""

from __future__ import annotations

import asyncio

import pytest

from headrace.engine import batches, claims, runs, sweeps, workers
from headrace.engine.engine import Engine
from headrace.engine.outcomes import LeaseLost, Packet, RunCreated
from headrace.protocol.options import RunOptions
from headrace.protocol.statuses import BatchStatus, RunStatus
from tests.engine.helpers import claim, finish, look, make_items, open_batch, register
from tests.invariants import assert_invariants, fetch_sql

pytestmark = pytest.mark.anyio

SILENT = "UPDATE headrace.workers SET lease_until = now() - interval '1 second' WHERE id = $1"


async def test_a_run_is_claimed_by_one_worker(engine: Engine) -> None:
    """Invariant 6."""
    batch = await open_batch(engine, 500)
    await batches.store_chunk(engine, 1, batch, make_items(0, 500))
    leases = [await register(engine) for _ in range(4)]

    async def take(index: int) -> list[object]:
        taken: list[object] = []
        while claimed := await claim(engine, leases[index], 13):
            taken += [run.id for run in claimed]
        return taken

    taken = [run for part in await asyncio.gather(*(take(index) for index in range(4))) for run in part]
    assert len(taken) == len(set(taken)) == 500


async def test_a_worker_that_was_silent_claims_and_writes_no_more(engine: Engine) -> None:
    batch = await open_batch(engine, 2)
    await batches.store_chunk(engine, 1, batch, make_items(0, 2))
    await batches.end_stream(engine, 1, batch.id)
    frozen, other = await register(engine), await register(engine)
    held = await claim(engine, frozen)
    await fetch_sql(engine, SILENT, frozen.worker_id)
    assert (await sweeps.sweep_once(engine)).runs_rescued == 2
    assert isinstance(await claims.claim_runs(engine, frozen, tasks=["t"], limit=5), LeaseLost)
    assert isinstance(await workers.renew_lease(engine, frozen), LeaseLost)
    taken = await claim(engine, other)
    assert {run.attempt for run in taken} == {2}
    assert await finish(engine, frozen, held, "FAILED") == {run.id for run in held}
    assert await finish(engine, other, taken) == set()
    assert (await look(engine, batch)).succeeded == 2
    assert await claims.give_back_runs(engine, frozen, [(run.id, run.attempt) for run in held]) == 0
    await assert_invariants(engine)


async def test_a_late_completion_and_the_rescue_never_both_win(engine: Engine) -> None:
    for _ in range(20):
        made = await runs.trigger_run(engine, 1, "t", Packet(b"1"), RunOptions())
        lease = await register(engine)
        held = await claim(engine, lease)
        await fetch_sql(engine, SILENT, lease.worker_id)
        lost, report = await asyncio.gather(finish(engine, lease, held), sweeps.sweep_once(engine))
        assert isinstance(made, RunCreated)
        assert len(lost) == report.runs_rescued
        if lost:
            other = await register(engine)
            await finish(engine, other, await claim(engine, other))
        run = await runs.find_run(engine, 1, made.run_id)
        assert run is not None
        assert run.status == RunStatus.COMPLETED
    await assert_invariants(engine)


async def test_a_run_that_kills_its_workers_is_crashed_in_the_end(engine: Engine) -> None:
    batch = await open_batch(engine, 1)
    await batches.store_chunk(engine, 1, batch, make_items(0, 1, key="poison"))
    await batches.end_stream(engine, 1, batch.id)
    for _ in range(engine.settings.max_rescues + 1):
        lease = await register(engine)
        assert len(await claim(engine, lease)) == 1
        await fetch_sql(engine, SILENT, lease.worker_id)
        await sweeps.sweep_once(engine)
    assert (await look(engine, batch)).status == BatchStatus.COMPLETED
    [result] = await batches.list_batch_results(engine, 1, batch.id)
    assert result.run.status == RunStatus.CRASHED
    assert result.run.error is not None
    assert result.run.error["code"] == "WORKER_LOST"
    assert len(await runs.list_attempts(engine, 1, result.run.id)) == engine.settings.max_rescues + 1
    assert not await fetch_sql(engine, "SELECT scope FROM headrace.idempotency_keys WHERE scope LIKE 'task:%'")
    await assert_invariants(engine)


async def test_a_worker_that_retires_gives_back_what_it_holds_at_once(engine: Engine) -> None:
    batch = await open_batch(engine, 3)
    await batches.store_chunk(engine, 1, batch, make_items(0, 3))
    lease, other = await register(engine), await register(engine)
    held = await claim(engine, lease)
    assert await workers.retire_worker(engine, lease) == 3
    taken = await claim(engine, other)
    assert {run.failures for run in taken} == {0}
    assert await finish(engine, lease, held) == {run.id for run in held}
    assert not await fetch_sql(engine, "SELECT id FROM headrace.runs WHERE rescues > 0")
    await assert_invariants(engine)


async def test_runs_given_back_unstarted_keep_their_attempt(engine: Engine) -> None:
    await runs.trigger_run(engine, 1, "t", Packet(b"1"), RunOptions())
    lease = await register(engine)
    held = await claim(engine, lease)
    assert await claims.give_back_runs(engine, lease, [(run.id, run.attempt) for run in held]) == 1
    assert [run.attempt for run in await claim(engine, lease)] == [1]


async def test_a_failed_attempt_is_queued_again_after_its_delay(engine: Engine) -> None:
    made = await runs.trigger_run(engine, 1, "t", Packet(b"1"), RunOptions())
    lease = await register(engine)
    await finish(engine, lease, await claim(engine, lease), "FAILED", retry_in=3600)
    assert await claim(engine, lease) == []
    await fetch_sql(engine, "UPDATE headrace.runs SET ready_at = now()")
    [again] = await claim(engine, lease)
    assert (again.attempt, again.failures) == (2, 1)
    await finish(engine, lease, [again])
    assert isinstance(made, RunCreated)
    attempts = await runs.list_attempts(engine, 1, made.run_id)
    assert [attempt.status for attempt in attempts] == [RunStatus.FAILED, RunStatus.COMPLETED]
    assert attempts[0].error == {"type": "STRING_ERROR", "raw": "made to fail"}


async def test_queues_share_a_claim_alike(engine: Engine) -> None:
    batch = await open_batch(engine, 1010)
    await batches.store_chunk(engine, 1, batch, make_items(0, 1000, task="flood"))
    await batches.store_chunk(engine, 1, batch, make_items(1000, 10, task="trickle"))
    lease = await register(engine, "flood", "trickle")
    claimed = await claim(engine, lease, 20, "flood", "trickle")
    assert sum(run.task == "trickle" for run in claimed) == 10
    assert len(claimed) == 20


async def test_a_worker_claims_only_its_tasks_and_queues(engine: Engine) -> None:
    await runs.trigger_run(engine, 1, "t", Packet(b"1"), RunOptions())
    await runs.trigger_run(engine, 1, "other", Packet(b"1"), RunOptions())
    lease = await register(engine)
    assert await claims.claim_runs(engine, lease, tasks=["t"], limit=5, queues=["elsewhere"]) == []
    assert [run.task for run in await claim(engine, lease)] == ["t"]


async def test_a_delayed_run_waits_and_reads_as_delayed(engine: Engine) -> None:
    made = await runs.trigger_run(engine, 1, "t", Packet(b"1"), RunOptions(delay="1h"))
    assert isinstance(made, RunCreated)
    lease = await register(engine)
    assert await claim(engine, lease) == []
    run = await runs.find_run(engine, 1, made.run_id)
    assert run is not None
    assert run.status == RunStatus.DELAYED


async def test_concurrent_triggers_with_one_key_make_one_run(engine: Engine) -> None:
    options = RunOptions(idempotency_key="one")
    answers = await asyncio.gather(*(runs.trigger_run(engine, 1, "t", Packet(b"1"), options) for _ in range(12)))
    assert sum(isinstance(answer, RunCreated) for answer in answers) == 1
    assert len({answer.run_id for answer in answers if hasattr(answer, "run_id")}) == 1  # pyright: ignore
