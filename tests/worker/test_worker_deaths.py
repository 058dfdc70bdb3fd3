"""Real worker processes: killed, frozen, told to stop, told twice. No run is lost, none is written twice."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from headrace.engine import batches, runs
from headrace.engine.engine import Engine
from headrace.engine.outcomes import Packet, StoredItem
from headrace.engine.sweeps import run_sweeps
from headrace.protocol.statuses import BatchStatus, RunStatus
from headrace.settings import Settings
from headrace.tasks import Task
from tests.engine.helpers import look as look_at
from tests.engine.helpers import open_batch
from tests.invariants import assert_invariants, fetch_sql
from tests.worker import jobs
from tests.worker.helpers import (
    await_end,
    execute,
    is_alive,
    is_there,
    look,
    read_output,
    starts,
    trigger,
    until,
    worker_process,
)

pytestmark = pytest.mark.anyio


@asynccontextmanager
async def sweeping(engine: Engine) -> AsyncGenerator[None]:
    """Deadlines are looked at, by a process that nobody kills."""
    stop = asyncio.Event()
    job = asyncio.create_task(run_sweeps(engine, stop, interval=0.05))
    yield
    stop.set()
    await job


@pytest.mark.parametrize("task", [jobs.wait, jobs.wait_in_thread, jobs.wait_in_process])
async def test_runs_of_a_killed_worker_are_executed_by_another(
    engine: Engine, settings: Settings, tmp_path: Path, task: Task[Any, Any]
) -> None:
    gate = tmp_path / "gate"
    async with sweeping(engine), worker_process(settings) as first:
        made = [await trigger(engine, task, str(gate)) for _ in range(3)]
        await until(lambda: len(starts(gate)) == 3, "all run")
        first.signal(signal.SIGKILL)
        await first.wait()
        children = [int(line.split()[0]) for line in starts(gate)]
        await until(lambda: not any(map(is_alive, children)), "what the worker had started is gone with it")
        async with worker_process(settings):
            await until(lambda: len(starts(gate)) == 6, "all run again")
            gate.touch()
            ended = [await await_end(engine, run_id) for run_id in made]
    assert [(run.status, run.attempt) for run in ended] == [(RunStatus.COMPLETED, 2)] * 3
    for run in ended:
        lost, last = await runs.list_attempts(engine, 1, run.id)
        assert (lost.status, (lost.error or {})["code"]) == (RunStatus.CRASHED, "WORKER_LOST")
        assert last.status is RunStatus.COMPLETED
    await assert_invariants(engine)


async def test_a_batch_survives_workers_that_are_killed_again_and_again(engine: Engine, settings: Settings) -> None:
    """One run an index, each COMPLETED once, whatever was in flight at each kill."""
    count = 6_000
    batch = await open_batch(engine, count)
    items = [StoredItem(index, "w.add", Packet(b'{"x":%d}' % index)) for index in range(count)]
    await batches.store_chunk(engine, 1, batch, items)
    await batches.end_stream(engine, 1, batch.id)
    async with sweeping(engine):
        for _turn in range(3):
            async with worker_process(replace(settings, concurrency=50)) as worker:
                before = (await look_at(engine, batch)).settled
                while (await look_at(engine, batch)).settled < min(before + 500, count):
                    await asyncio.sleep(0.001)
                worker.signal(signal.SIGKILL)
                await worker.wait()
        async with worker_process(settings):
            while (await look_at(engine, batch)).status is not BatchStatus.COMPLETED:
                await asyncio.sleep(0.05)
    assert (await look_at(engine, batch)).succeeded == count
    wrong = await fetch_sql(
        engine,
        """SELECT r.batch_index FROM headrace.runs AS r WHERE convert_from(r.output, 'UTF8')::integer <> r.batch_index
            OR 1 <> (SELECT count(*) FROM headrace.attempts AS a WHERE a.run_id = r.id AND a.status = 'COMPLETED')""",
    )
    assert not wrong
    await assert_invariants(engine)


async def test_a_frozen_worker_that_thaws_can_write_nothing_and_starts_anew(
    engine: Engine, settings: Settings, tmp_path: Path
) -> None:
    """Invariant 6: its runs went to another; it hears so, drops them and comes back under a new number."""
    gate = tmp_path / "gate"
    async with sweeping(engine), worker_process(settings) as frozen:
        made = [await trigger(engine, task, str(gate)) for task in (jobs.wait, jobs.wait_in_thread)]
        await until(lambda: len(starts(gate)) == 2, "both run")
        frozen.signal(signal.SIGSTOP)
        async with worker_process(settings) as other:
            await until(lambda: len(starts(gate)) == 4, "both run elsewhere")
            frozen.signal(signal.SIGCONT)
            await until(
                lambda: frozen.logged("lease lost: this worker was silent for too long; its runs are dropped"), "heard"
            )
            await until(lambda: is_there(f"{gate}.cancelled"), "the run that can be stopped was")
            gate.touch()
            ended = [await await_end(engine, run_id) for run_id in made]
            assert {read_output(run) for run in ended} == {f"done by {other.pid}"}
            assert [run.attempt for run in ended] == [2, 2]
            other.signal(signal.SIGTERM)
            assert await other.wait() == 0
        assert read_output(await execute(engine, jobs.add, {"x": 4})) == 4  # by the thawed one: nobody else is left
        assert frozen.process is not None
        assert frozen.process.poll() is None
    for run in ended:
        again = await look(engine, run.id)
        assert (again.finished_at, again.output) == (run.finished_at, run.output)
    await assert_invariants(engine)


async def test_a_result_of_a_worker_that_thawed_is_refused(engine: Engine, settings: Settings, tmp_path: Path) -> None:
    """Its code went on to its end before the worker heard of anything: the database refuses the result."""
    gate = tmp_path / "gate"
    async with sweeping(engine), worker_process(settings) as frozen:
        made = await trigger(engine, jobs.wait_in_thread, str(gate))
        await until(lambda: starts(gate), "it runs")
        frozen.signal(signal.SIGSTOP)
        while (await look(engine, made)).status is not RunStatus.QUEUED:
            await asyncio.sleep(0.01)
        gate.touch()  # it ends the moment it thaws
        frozen.signal(signal.SIGCONT)
        run = await await_end(engine, made)
        assert (run.status, run.attempt) == (RunStatus.COMPLETED, 2)
    attempts = await runs.list_attempts(engine, 1, made)
    assert [attempt.status for attempt in attempts] == [RunStatus.CRASHED, RunStatus.COMPLETED]
    await assert_invariants(engine)


async def test_a_poison_run_stops_after_its_rescues(engine: Engine, settings: Settings) -> None:
    """A run that kills its worker is not tried for ever: after ``max_rescues`` it is CRASHED."""
    own = await Engine.open(replace(settings, max_rescues=2))
    try:
        async with sweeping(own):
            made = await trigger(engine, jobs.kill_worker)
            for attempt in range(1, 4):
                async with worker_process(settings) as worker:
                    assert await worker.wait() == -signal.SIGKILL
                while (run := await look(engine, made)).status is RunStatus.EXECUTING:
                    await asyncio.sleep(0.01)
                assert run.attempt == attempt
            assert run.status is RunStatus.CRASHED
            assert (run.error or {})["code"] == "WORKER_LOST"
            async with worker_process(settings):
                assert read_output(await execute(engine, jobs.add, {"x": 1})) == 1
            assert (await look(engine, made)).attempt == 3
    finally:
        await own.close()


@pytest.mark.parametrize("task", [jobs.wait, jobs.wait_in_thread, jobs.wait_in_process])
async def test_sigterm_drains(engine: Engine, settings: Settings, tmp_path: Path, task: Task[Any, Any]) -> None:
    """What runs ends and is written; what waits is left for others."""
    gate = tmp_path / "gate"
    async with worker_process(replace(settings, concurrency=2, drain_timeout=30.0)) as worker:
        running = [await trigger(engine, task, str(gate)) for _ in range(2)]
        await until(lambda: len(starts(gate)) == 2, "both run")
        waiting = await trigger(engine, jobs.add, {"x": 1})
        worker.signal(signal.SIGTERM)
        await until(lambda: worker.logged("worker draining"), "it drains")
        gate.touch()
        assert await worker.wait() == 0
        ended = [await look(engine, run_id) for run_id in running]
        assert [(run.status, run.attempt) for run in ended] == [(RunStatus.COMPLETED, 1)] * 2
        left = await look(engine, waiting)
        assert (left.status, left.attempt) == (RunStatus.QUEUED, 0)
    await assert_retired(engine)


@pytest.mark.parametrize("task", [jobs.wait, jobs.wait_in_thread, jobs.wait_in_process, jobs.stay])
async def test_after_the_drain_timeout_what_still_runs_is_given_back(
    engine: Engine, settings: Settings, tmp_path: Path, task: Task[Any, Any]
) -> None:
    gate = tmp_path / "gate"
    async with worker_process(replace(settings, drain_timeout=0.2, lease=20.0)) as worker:
        made = await trigger(engine, task, str(gate))
        await until(lambda: starts(gate), "it runs")
        worker.signal(signal.SIGTERM)
        assert await worker.wait() == 3
    await assert_given_back(engine, made)
    assert is_there(f"{gate}.cancelled") is (task is jobs.wait), "a coroutine is told"


async def test_a_second_signal_forces(engine: Engine, settings: Settings, tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    async with worker_process(replace(settings, drain_timeout=3600.0, lease=20.0)) as worker:
        made = await trigger(engine, jobs.wait_in_thread, str(gate))
        await until(lambda: starts(gate), "it runs")
        worker.signal(signal.SIGINT)
        await until(lambda: worker.logged("worker draining"), "it drains")
        worker.signal(signal.SIGTERM)
        assert await worker.wait() == 3
    await assert_given_back(engine, made)


async def test_a_task_that_exits_in_a_task_of_its_own_does_not_end_the_worker(
    engine: Engine, settings: Settings
) -> None:
    """asyncio lets SystemExit through the loop itself."""
    async with worker_process(settings) as worker:
        run = await execute(engine, jobs.exit_in_child_task)
        assert run.status is RunStatus.FAILED
        assert (run.error or {})["name"] == "SystemExit"
        assert read_output(await execute(engine, jobs.add, {"x": 1})) == 1
        worker.signal(signal.SIGTERM)
        assert await worker.wait() == 0


async def assert_given_back(engine: Engine, run_id: Any) -> None:
    """At once, long before the lease would have been over, and not counted as a failure."""
    run = await look(engine, run_id)
    assert (run.status, run.attempt) == (RunStatus.QUEUED, 1)
    [attempt] = await runs.list_attempts(engine, 1, run_id)
    assert (attempt.error or {})["code"] == "WORKER_STOPPED"
    rows = await fetch_sql(engine, "SELECT failures, rescues FROM headrace.runs")
    assert [(row["failures"], row["rescues"]) for row in rows] == [(0, 0)]
    await assert_retired(engine)


async def assert_retired(engine: Engine) -> None:
    rows = await fetch_sql(engine, "SELECT id FROM headrace.workers WHERE ended_at IS NULL")
    assert not rows
    await assert_invariants(engine)
