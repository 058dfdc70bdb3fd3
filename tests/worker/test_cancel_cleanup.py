"""A run that is canceled while it executes: its code is told, wherever it runs, may clean up, and is ended hard after that."""

from __future__ import annotations

import asyncio
import signal
import time
from pathlib import Path
from typing import Any

import pytest

from headrace.engine import cancels
from headrace.engine.engine import Engine
from headrace.engine.outcomes import RunCanceled, RunEnded
from headrace.hooks import Event
from headrace.protocol.statuses import RunStatus
from headrace.tasks import RunContext, Task, current_run
from tests.invariants import assert_invariants, fetch_sql
from tests.worker import cancel_jobs as jobs
from tests.worker.helpers import execute, is_alive, look, trigger, until, worker_process, working
from tests.worker.hook_jobs import read

pytestmark = pytest.mark.anyio

ROOT = str(Path(__file__).parents[2])
"""Where worker processes find the package of these tests."""


@pytest.fixture
def log(tmp_path: Path) -> Path:
    return tmp_path / "log"


async def begin(engine: Engine, task: Task[Any, Any], log: Path) -> Any:
    run_id = await trigger(engine, task, {"log": str(log)})
    await until(lambda: read(log), "it runs")
    return run_id


@pytest.mark.parametrize("place", jobs.PLACES)
async def test_the_code_of_a_canceled_run_is_told_cleans_up_and_its_hook_is_called(
    engine: Engine, log: Path, place: str
) -> None:
    async with working(engine, jobs.PLACES[place], wait_linger=30.0) as worker:
        run_id = await begin(engine, jobs.PLACES[place], log)
        assert await cancels.cancel_run(engine, 1, run_id) == RunCanceled(run_id)
        assert (await look(engine, run_id)).status is RunStatus.CANCELED, "at once, whatever the code does"
        await until(lambda: worker.status.executing == 0, "its slot is free")
    assert read(log) == ["begun", "cancelled True", "cleaned up", "on_cancel True"]
    run = await look(engine, run_id)
    assert (run.status, run.output) == (RunStatus.CANCELED, None)
    await assert_invariants(engine)


@pytest.mark.parametrize("place", ["loop", "thread", "process"])
async def test_a_worker_process_tells_the_code_as_well(engine: Engine, log: Path, place: str) -> None:
    async with worker_process(engine.settings, str(Path(jobs.__file__)), PYTHONPATH=ROOT):
        run_id = await begin(engine, jobs.PLACES[place], log)
        await cancels.cancel_run(engine, 1, run_id)
        await until(lambda: len(read(log)) == 4, "it has cleaned up")
    assert read(log)[-1] == "on_cancel True"


async def test_code_that_cleans_up_for_too_long_is_ended_hard(
    engine: Engine, log: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with working(engine, jobs.stubborn) as worker:
        run_id = await begin(engine, jobs.stubborn, log)
        await cancels.cancel_run(engine, 1, run_id)
        await until(lambda: worker.status.executing == 0, "its slot is free")
    assert read(log) == ["begun", "ended hard"]
    assert "has not ended in time" in caplog.text


async def test_a_thread_that_does_not_look_keeps_its_slot_and_the_log_says_so(
    engine: Engine, log: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with working(engine, jobs.deaf) as worker:
        run_id = await begin(engine, jobs.deaf, log)
        await cancels.cancel_run(engine, 1, run_id)
        await until(lambda: "current_run().cancelled" in caplog.text, "the log names the thread")
        assert worker.status.executing == 1
        Path(f"{log}.gate").touch()
        await until(lambda: worker.status.executing == 0, "its slot is free")
    assert (await look(engine, run_id)).status is RunStatus.CANCELED


@pytest.mark.parametrize("task", [jobs.spinning, jobs.never_yields, jobs.in_c], ids=lambda task: task.id)
async def test_a_process_that_never_yields_is_killed_with_what_it_started(
    engine: Engine, log: Path, task: Task[Any, Any]
) -> None:
    async with working(engine, task) as worker:
        run_id = await begin(engine, task, log)
        began = time.monotonic()
        await cancels.cancel_run(engine, 1, run_id)
        await until(lambda: worker.status.executing == 0, "its slot is free")
        assert time.monotonic() - began >= (task.cancel_grace or 0), "it had time to clean up"
        if task is jobs.spinning:
            assert read(log)[1:] == ["SIGTERM"]
            grandchild = int(read(log)[0].split()[1])
            await until(lambda: not is_alive(grandchild), "what it started is gone")


async def test_a_process_that_was_canceled_is_not_used_again(engine: Engine, log: Path) -> None:
    async with working(engine, jobs.process) as worker:
        for _ in range(2):
            log.unlink(missing_ok=True)
            run_id = await begin(engine, jobs.process, log)
            await cancels.cancel_run(engine, 1, run_id)
            await until(lambda: worker.status.executing == 0, "its slot is free")
            assert read(log)[-2:] == ["cleaned up", "on_cancel True"]


async def test_a_process_that_gets_sigterm_from_elsewhere_dies_of_it(engine: Engine) -> None:
    async with working(engine, jobs.spinning_elsewhere) as worker:
        run = await execute(engine, jobs.spinning_elsewhere, {})
        assert (run.status, (run.error or {})["code"]) == (RunStatus.CRASHED, "TASK_PROCESS_SIGTERM")
        assert worker.status.executing == 0


async def test_a_late_result_of_a_canceled_run_changes_nothing(engine: Engine, log: Path) -> None:
    """The code returns as if nothing had been: the thread gives "done"."""
    async with working(engine, jobs.thread) as worker:
        run_id = await begin(engine, jobs.thread, log)
        await cancels.cancel_run(engine, 1, run_id)
        before = await fetch_sql(engine, "SELECT * FROM headrace.runs WHERE id = $1", run_id)
        await until(lambda: worker.status.executing == 0, "its slot is free")
        assert worker.status.written == 0, "nothing is reported of it"
    assert await fetch_sql(engine, "SELECT * FROM headrace.runs WHERE id = $1", run_id) == before
    assert await cancels.cancel_run(engine, 1, run_id) == RunEnded(run_id, RunStatus.CANCELED)


async def test_a_run_that_was_taken_away_is_dropped_and_not_canceled(engine: Engine, log: Path) -> None:
    """Nobody canceled it: it may run elsewhere by now, and its hook of cancels is not called."""
    async with working(engine, jobs.plain) as worker:
        run_id = await begin(engine, jobs.plain, log)
        await fetch_sql(
            engine,
            "UPDATE headrace.runs SET status = 'QUEUED', worker_id = NULL, ready_at = now() + interval '1 hour' WHERE id = $1",
            run_id,
        )
        engine.notices.runs_canceled(1)
        await until(lambda: worker.status.executing == 0, "its slot is free")
    assert read(log) == ["begun", "cancelled True", "cleaned up"]
    assert (await look(engine, run_id)).status is not RunStatus.CANCELED


async def test_an_on_cancel_hook_may_take_time_and_use_timeouts_of_its_own(engine: Engine, log: Path) -> None:
    async def sleeps(payload: Any) -> None:
        Path(payload["log"]).write_text("begun\n")
        await asyncio.sleep(60)

    cleaning = Task(sleeps, id="c.cleaning")

    @cleaning.on_cancel
    async def clean(event: Event) -> None:
        async with asyncio.timeout(30), asyncio.TaskGroup() as group:
            group.create_task(asyncio.sleep(0.05))
        log.write_text("begun\ncleaned\n")

    async with working(engine, cleaning) as worker:
        run_id = await begin(engine, cleaning, log)
        await cancels.cancel_run(engine, 1, run_id)
        await until(lambda: worker.status.executing == 0, "its slot is free")
    assert read(log) == ["begun", "cleaned"]


async def test_a_hook_that_cleans_up_for_too_long_is_ended_hard_too(engine: Engine, log: Path) -> None:
    async def sleeps(payload: Any) -> None:
        Path(payload["log"]).write_text("begun\n")
        await asyncio.sleep(60)

    cleaning = Task(sleeps, id="c.cleaning", cancel_grace=0.2)
    ended: list[str] = []

    @cleaning.on_cancel
    async def clean(event: Event) -> None:
        try:
            await asyncio.sleep(60)
        finally:
            ended.append("hard")

    async with working(engine, cleaning) as worker:
        run_id = await begin(engine, cleaning, log)
        await cancels.cancel_run(engine, 1, run_id)
        await until(lambda: worker.status.executing == 0, "its slot is free")
    assert ended == ["hard"]


async def test_the_setting_says_how_long_where_the_task_does_not(engine: Engine, log: Path) -> None:
    async def sleeps(payload: Any) -> None:
        Path(payload["log"]).write_text("begun\n")
        try:
            await asyncio.sleep(60)
        finally:
            await asyncio.sleep(60)

    slow = Task(sleeps, id="c.slow")
    async with working(engine, slow, cancel_grace=0.2) as worker:
        run_id = await begin(engine, slow, log)
        await cancels.cancel_run(engine, 1, run_id)
        await until(lambda: worker.status.executing == 0, "its slot is free", 10)


async def test_a_worker_that_drains_lets_a_canceled_run_clean_up(engine: Engine, log: Path) -> None:
    async with worker_process(engine.settings, str(Path(jobs.__file__)), PYTHONPATH=ROOT) as worker:
        run_id = await begin(engine, jobs.plain, log)
        await cancels.cancel_run(engine, 1, run_id)
        worker.signal(signal.SIGTERM)
        assert await worker.wait() == 0
    assert read(log) == ["begun", "cancelled True", "cleaned up", "on_cancel True"]


def test_outside_of_a_worker_nothing_is_canceled() -> None:
    run = RunContext("run_x", "t")
    assert not run.cancelled
    assert not run.wait_cancelled(0)
    assert current_run() is None
