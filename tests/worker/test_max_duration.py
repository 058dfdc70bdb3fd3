"""How long an attempt may take: on the wall or of CPU, over put-downs, and against code that never yields."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from headrace import wait
from headrace.engine import runs
from headrace.engine.engine import Engine
from headrace.errors import ConfigurationError, MaxDurationError
from headrace.hooks import Event
from headrace.protocol.statuses import RunStatus
from headrace.tasks import Task
from headrace.worker.time_limits import TimeLimit, process_cpu
from headrace.worker.worker import Worker
from tests.invariants import assert_invariants, fetch_sql
from tests.worker import cancel_jobs as jobs
from tests.worker.helpers import await_end, execute, is_alive, look, read_output, trigger, until, working
from tests.worker.hook_jobs import read
from tests.worker.test_cancel_trees import living

pytestmark = pytest.mark.anyio


@pytest.fixture
def log(tmp_path: Path) -> Path:
    return tmp_path / "log"


async def warm_up(engine: Engine, task: Task[Any, Any]) -> None:
    """Has a process ready, where there is need of one: how long one takes to start depends on what else this machine does."""
    if task.isolation is not None:
        await execute(engine, jobs.cpu_in_process, {})


@pytest.mark.parametrize("place", jobs.PLACES)
async def test_a_run_over_its_time_is_timed_out_at_once_and_its_code_may_clean_up(
    engine: Engine, log: Path, place: str
) -> None:
    task = jobs.PLACES[place]
    async with working(engine, task, jobs.cpu_in_process, wait_linger=30.0) as worker:
        await warm_up(engine, task)
        before = worker.status.written
        run = await execute(engine, task, {"log": str(log)}, max_duration=1.0)
        assert (run.status, (run.error or {})["code"]) == (RunStatus.TIMED_OUT, "MAX_DURATION_EXCEEDED")
        await until(lambda: worker.status.executing == 0, "its slot is free")
        assert worker.status.written == before + 1, "it is reported once"
    assert read(log) == ["begun", "cancelled True", "cleaned up", "ended ok False MaxDurationError"]
    [attempt] = await runs.list_attempts(engine, 1, run.id)
    assert attempt.status is RunStatus.TIMED_OUT
    assert (await look(engine, run.id)).status is RunStatus.TIMED_OUT, "what the code gave later changes nothing"
    await assert_invariants(engine)


@pytest.mark.parametrize("task", [jobs.spinning, jobs.never_yields, jobs.in_c], ids=lambda task: task.id)
async def test_a_process_is_killed_whatever_its_code_does(engine: Engine, log: Path, task: Task[Any, Any]) -> None:
    async with working(engine, task, jobs.cpu_in_process) as worker:
        await warm_up(engine, task)
        run = await execute(engine, task, {"log": str(log)}, max_duration=1.0)
        assert run.status is RunStatus.TIMED_OUT
        await until(lambda: worker.status.executing == 0, "its slot is free")
        if task is jobs.spinning:
            assert read(log)[1:] == ["SIGTERM"]
            grandchild = int(read(log)[0].split()[1])
            await until(lambda: not is_alive(grandchild), "what it started is gone")


@pytest.mark.parametrize("task", [jobs.cpu, jobs.cpu_in_process], ids=["thread", "process"])
async def test_seconds_of_cpu_are_counted_where_the_task_says_so(engine: Engine, task: Task[Any, Any]) -> None:
    """Twice in the same thread or process: what was used before is not this run's."""
    async with working(engine, task, concurrency=1):
        for _ in range(2):
            asleep = await execute(engine, task, {"sleep": 0.8, "cpu": 0.05})
            assert read_output(asleep) == "done", "sleeping costs nothing"
        busy = await execute(engine, task, {"cpu": 30})
    assert busy.status is RunStatus.TIMED_OUT
    assert "0.3 s of CPU" in str((busy.error or {})["message"])


async def test_the_time_of_an_attempt_adds_up_over_put_downs(engine: Engine, log: Path) -> None:
    """Four pieces, in memory for a third of the limit each time."""
    async with living(engine, jobs.piecemeal, wait_linger=0.0):
        within = await execute(engine, jobs.piecemeal, {"log": f"{log}.within", "pieces": 4, "each": 0.1})
        over = await execute(engine, jobs.piecemeal, {"log": f"{log}.over", "pieces": 4, "each": 0.6})
    assert (within.status, over.status) == (RunStatus.COMPLETED, RunStatus.TIMED_OUT)
    assert over.resumes >= 2
    kept = await fetch_sql(
        engine, "SELECT run_id, count(*)::integer AS rows FROM headrace.journal WHERE point LIKE '~%' GROUP BY run_id"
    )
    assert all(row["rows"] == 1 for row in kept), "the last one is enough"
    await assert_invariants(engine)


async def test_the_next_attempt_has_all_of_its_time_again(engine: Engine, log: Path) -> None:
    async with living(engine, jobs.piecemeal, wait_linger=0.0):
        payload = {"log": str(log), "pieces": 2, "each": 0.55, "failures": 1}
        run = await execute(engine, jobs.piecemeal, payload)
    assert (run.status, run.attempt - run.resumes) == (RunStatus.COMPLETED, 2)


async def test_a_wait_that_is_put_down_does_not_count(engine: Engine) -> None:
    async def waits(payload: Any) -> str:
        await wait.for_(1.5)
        return "done"

    waiting = Task(waits, id="d.waits", max_duration=1.0)
    async with living(engine, waiting, wait_linger=0.0):
        run = await execute(engine, waiting, {})
    assert (run.status, run.resumes) == (RunStatus.COMPLETED, 1)


async def test_a_run_may_have_another_limit_or_none(engine: Engine) -> None:
    async def sleeps(payload: Any) -> str:
        await asyncio.sleep(payload)
        return "done"

    sleeping = Task(sleeps, id="d.sleeps", max_duration=0.3)
    async with working(engine, sleeping):
        assert (await execute(engine, sleeping, 0.6)).status is RunStatus.TIMED_OUT
        assert (await execute(engine, sleeping, 0.6, max_duration=30)).status is RunStatus.COMPLETED
        assert (await execute(engine, sleeping, 0.6, max_duration=0.2)).status is RunStatus.TIMED_OUT


async def test_hooks_of_a_failure_are_told_that_time_was_up_and_it_is_not_tried_again(engine: Engine) -> None:
    async def sleeps(payload: Any) -> None:
        await asyncio.sleep(60)

    told: list[Event] = []
    sleeping = Task(sleeps, id="d.sleeps", max_duration=0.2)
    sleeping.on_failure(told.append)
    async with working(engine, sleeping) as worker:
        run = await execute(engine, sleeping, {})
        await until(lambda: worker.status.executing == 0, "its slot is free")
    assert (run.status, run.attempt) == (RunStatus.TIMED_OUT, 1)
    [event] = told
    assert isinstance(event.error, MaxDurationError)
    assert event.error.seconds == 0.2


async def test_a_run_that_ends_in_time_is_left_alone(engine: Engine) -> None:
    async def quick(payload: Any) -> str:
        return "done"

    task = Task(quick, id="d.quick", max_duration=0.2)
    async with working(engine, task) as worker:
        ids = [await trigger(engine, task, {}) for _ in range(20)]
        for run_id in ids:
            assert (await await_end(engine, run_id)).status is RunStatus.COMPLETED
        await asyncio.sleep(0.3)  # longer than any timer that was left
        assert worker.status.written == 20


def make_limit(now: list[float | None], over: list[str], used: float = 0.0) -> TimeLimit:
    return TimeLimit(1.0, lambda: now[0], lambda: over.append("over"), used=used, speed=1)


async def test_a_limit_looks_again_when_its_clock_was_slower_than_ours() -> None:
    now: list[float | None] = [None]
    over: list[str] = []
    limit = make_limit(now, over)
    limit.start()
    assert limit.used == 0.0, "its clock does not run yet"
    now[0] = 100.0
    assert limit.used == 0.0, "what it showed before is not counted"
    now[0] = 100.5
    limit.start()
    assert (limit.used, over) == (0.5, [])
    now[0] = 101.0
    limit.start()
    assert over == ["over"]


async def test_a_limit_that_was_used_up_before_is_over_at_once() -> None:
    over: list[str] = []
    make_limit([0.0], over, used=1.0).start()
    assert over == ["over"]


def test_the_cpu_of_a_process_that_is_gone_can_not_be_read() -> None:
    assert process_cpu(2**22 + 1) is None


@pytest.mark.parametrize("options", [{"duration_clock": "sun"}, {"duration_clock": "cpu"}])
def test_a_clock_that_can_not_be_counted_is_refused(options: dict[str, Any]) -> None:
    async def loops(payload: Any) -> None: ...

    with pytest.raises(ConfigurationError, match="duration_clock"):
        Task(loops, id="d.loops", **options)


async def test_a_worker_on_a_system_without_such_clocks_says_so(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("headrace.worker.executor.has_cpu_clocks", lambda: False)
    with pytest.raises(ConfigurationError, match=r"c\.cpu: duration_clock='cpu' needs Linux"):
        Worker(engine, [jobs.cpu])
