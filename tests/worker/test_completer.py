"""Reporting: by the chunk, never twice, and never lost while the database is away."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import asyncpg
import pytest

from headrace.engine import batches, runs
from headrace.engine.engine import Engine
from headrace.engine.outcomes import ClaimedRun, Finish, Packet, WorkerLease
from headrace.protocol.statuses import RunStatus
from headrace.settings import Settings
from headrace.worker.completer import FLUSH_RUNS, MOST_RUNS, Completer
from tests.engine.helpers import claim, make_items, open_batch, register
from tests.engine.helpers import look as look_at
from tests.invariants import assert_invariants, fetch_sql
from tests.worker import jobs
from tests.worker.helpers import await_end, execute, look, read_output, starts, trigger, until, working

pytestmark = pytest.mark.anyio


@asynccontextmanager
async def completing(engine: Engine) -> AsyncGenerator[tuple[Completer, list[str]]]:
    """A completer at work, and what it called."""
    called: list[str] = []
    completer = Completer(
        engine,
        on_lost=lambda: called.append("lost"),
        on_retry=lambda seconds: called.append(f"retry {seconds:g}"),
        on_room=lambda: None,
    )
    job = asyncio.create_task(completer.run())
    yield completer, called
    job.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await job


@asynccontextmanager
async def database_away(settings: Settings, postgres: str) -> AsyncGenerator[None]:
    """Nobody can use the test's database within the block: connections are cut, new ones refused."""
    name = settings.database_url.partition("?")[0].rpartition("/")[2]
    admin = await asyncpg.connect(postgres)
    try:
        await admin.execute(f"ALTER DATABASE {name} ALLOW_CONNECTIONS false")
        await admin.execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = $1", name)
        yield
    finally:
        await admin.execute(f"ALTER DATABASE {name} ALLOW_CONNECTIONS true")
        await admin.close()


async def claim_many(engine: Engine, count: int) -> tuple[WorkerLease, list[ClaimedRun], Any]:
    batch = await open_batch(engine, count)
    await batches.store_chunk(engine, 1, batch, make_items(0, count))
    await batches.end_stream(engine, 1, batch.id)
    lease = await register(engine)
    return lease, await claim(engine, lease, count), batch


def end(run: ClaimedRun, output: bytes = b"1", **changes: Any) -> Finish:
    return Finish(run.id, run.attempt, RunStatus.COMPLETED, Packet(output), **changes)


async def test_ends_are_written_by_the_chunk(engine: Engine) -> None:
    """One statement for all that ended together, at most FLUSH_RUNS in one."""
    lease, claimed, batch = await claim_many(engine, FLUSH_RUNS + 100)
    async with completing(engine) as (completer, called):
        for run in claimed:
            completer.put(lease, end(run), "t", 0.001)
        assert await completer.wait_empty(10)
    assert (completer.written, completer.lost, completer.unwritten, called) == (FLUSH_RUNS + 100, 0, 0, [])
    rows = await fetch_sql(engine, "SELECT count(DISTINCT finished_at) AS n FROM headrace.attempts")
    assert rows[0]["n"] == 2
    assert (await look_at(engine, batch)).succeeded == FLUSH_RUNS + 100
    await assert_invariants(engine)


async def test_a_single_end_is_written_within_moments(engine: Engine) -> None:
    lease, [run], _ = await claim_many(engine, 1)
    async with completing(engine) as (completer, _):
        completer.put(lease, end(run), "t", 0.001)  # nobody asks for a flush
        await until(lambda: completer.written == 1, "it is written")


async def test_with_too_much_unwritten_there_is_no_room_for_claims(engine: Engine) -> None:
    lease, [run], _ = await claim_many(engine, 1)
    async with completing(engine) as (completer, _):
        for _ in range(MOST_RUNS):
            completer.put(lease, end(run), "t", 0.001)
        assert not completer.has_room
        completer.drop(lease)
        assert completer.has_room
        completer.put(lease, end(run, b"x" * 33 * 1024 * 1024), "t", 0.001)
        assert not completer.has_room
        completer.drop(lease)
    assert completer.lost == MOST_RUNS + 1


async def test_what_cannot_be_written_fails_alone(engine: Engine) -> None:
    """The ends beside it are written; it ends with an error that says so."""
    lease, claimed, batch = await claim_many(engine, 9)
    async with completing(engine) as (completer, _):
        for number, run in enumerate(claimed):
            broken: dict[str, object] = {"type": "STRING_ERROR", "raw": "nul \0 here"}
            finish = Finish(run.id, run.attempt, RunStatus.FAILED, error=broken) if number == 4 else end(run)
            completer.put(lease, finish, "t", 0.001)
        assert await completer.wait_empty(10)
    seen = [await look(engine, run.id) for run in claimed]
    assert [run.status is RunStatus.COMPLETED for run in seen] == [number != 4 for number in range(9)]
    assert (seen[4].error or {})["code"] == "TASK_OUTPUT_ERROR"
    assert (await look_at(engine, batch)).succeeded == 8


async def test_a_retry_is_announced_and_a_lost_end_asks_for_the_lease(engine: Engine) -> None:
    lease, claimed, _ = await claim_many(engine, 2)
    async with completing(engine) as (completer, called):
        again = Finish(claimed[0].id, 1, RunStatus.FAILED, error={"type": "STRING_ERROR", "raw": "x"}, retry_in=7.5)
        completer.put(lease, again, "t", 0.001)
        completer.put(lease, Finish(claimed[1].id, 99, RunStatus.COMPLETED), "t", 0.001)  # of another attempt
        assert await completer.wait_empty(10)
        assert sorted(called) == ["lost", "retry 7.5"]
        assert (completer.written, completer.lost) == (1, 1)
    assert (await look(engine, claimed[1].id)).status is RunStatus.EXECUTING


async def test_two_attempts_of_a_run_are_never_in_one_chunk(engine: Engine) -> None:
    """A chunk of unknown fate may hold attempt 1 when attempt 2 has already ended here."""
    lease, [run], _ = await claim_many(engine, 1)
    async with completing(engine) as (completer, _):
        error: dict[str, object] = {"type": "STRING_ERROR", "raw": "x"}
        completer.put(lease, Finish(run.id, 1, RunStatus.FAILED, error=error, retry_in=0), "t", 0.001)
        completer.put(lease, Finish(run.id, 2, RunStatus.COMPLETED), "t", 0.001)
        assert await completer.wait_empty(10)
    assert [each.number for each in await runs.list_attempts(engine, 1, run.id)] == [1]


async def test_results_outlive_a_database_that_goes_away(
    engine: Engine, settings: Settings, postgres: str, tmp_path: Path
) -> None:
    """The run ends while there is no database; its result is written when it is back, in the same attempt."""
    gate = tmp_path / "gate"
    async with working(engine, jobs.wait, jobs.add, lease=20.0) as worker:
        made = await trigger(engine, jobs.wait, str(gate))
        await until(lambda: starts(gate), "it runs")
        async with database_away(settings, postgres):
            gate.touch()
            await until(lambda: worker.status.executing == 0, "it has ended")
            assert worker.status.unwritten == 1
        run = await await_end(engine, made)
        assert (run.status, run.attempt, len(starts(gate))) == (RunStatus.COMPLETED, 1, 1)
        assert read_output(await execute(engine, jobs.add, {"x": 5})) == 5
    await assert_invariants(engine)


async def test_runs_whose_claim_was_never_answered_are_given_back(
    engine: Engine, settings: Settings, postgres: str, tmp_path: Path
) -> None:
    """The claim is committed, its answer lost with the connection: without a look such a run would wait for ever."""
    gate = tmp_path / "gate"
    async with working(engine, jobs.wait, jobs.add, lease=20.0, concurrency=1) as worker:
        busy = await trigger(engine, jobs.wait, str(gate))
        await until(lambda: starts(gate), "its only slot is taken")
        lost = await trigger(engine, jobs.add, {"x": 3})
        lease = worker._home._tenure.lease
        assert lease is not None
        [unanswered] = await claim(engine, lease, 1, "w.add")  # as the worker, behind its back
        assert unanswered.id == lost
        async with database_away(settings, postgres):
            gate.touch()
            await until(lambda: worker._home._claimer._checks, "a claim failed")
        run = await await_end(engine, lost)
        assert (run.status, run.attempt, read_output(run)) == (RunStatus.COMPLETED, 1, 3)
        kept = await await_end(engine, busy)  # its result was not in the database yet, and it was not given back
        assert (kept.status, kept.attempt) == (RunStatus.COMPLETED, 1)
    await assert_invariants(engine)
