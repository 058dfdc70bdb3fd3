"""Runs in processes of their own: real children, real deaths."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import msgspec
import pytest

from headrace.engine import runs
from headrace.engine.engine import Engine
from headrace.engine.outcomes import Packet
from headrace.errors import ConfigurationError
from headrace.protocol.statuses import RunStatus
from headrace.settings import Settings
from headrace.tasks import RunContext, Task
from headrace.worker import processes
from headrace.worker.child import Order
from headrace.worker.conductor import Conductor
from headrace.worker.loading import find_source
from headrace.worker.processes import ProcessPool
from headrace.worker.retries import Failure
from tests.worker import jobs
from tests.worker.helpers import execute, is_alive, read_output, starts, until, working

pytestmark = pytest.mark.anyio


@asynccontextmanager
async def pool() -> AsyncGenerator[ProcessPool]:
    made = ProcessPool(Settings())
    try:
        yield made
    finally:
        await made.close()


def no_conductor() -> Conductor:
    raise AssertionError("these tasks do nothing durable")


def order(task: Task[Any, Any], payload: Any = None) -> Order:
    data = None if payload is None else msgspec.json.encode(payload)
    return Order(find_source(task), data, "application/json", RunContext("run_1", task.id, queue="q"), None)


async def call(children: ProcessPool, task: Task[Any, Any], payload: Any = None) -> Any:
    """The result, or the failure."""
    answer = await children.execute(order(task, payload), no_conductor)
    return answer if isinstance(answer, Failure) else msgspec.json.decode(answer.data or b"null")


async def test_one_child_serves_one_run_after_the_other() -> None:
    async with pool() as children:
        told = [await call(children, jobs.tell_context_in_process) for _ in range(3)]
        assert len({each["process"] for each in told}) == 1
        assert told[0]["process"] != os.getpid()


async def test_runs_at_the_same_time_have_a_child_each() -> None:
    async with pool() as children:
        told = await asyncio.gather(*(call(children, jobs.tell_context_in_process) for _ in range(3)))
        assert len({each["process"] for each in told}) == 3


async def test_a_child_is_replaced_after_its_share_of_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(processes, "RUNS_PER_CHILD", 2)
    async with pool() as children:
        told = [(await call(children, jobs.tell_context_in_process))["process"] for _ in range(5)]
        assert told[0] == told[1] != told[2] == told[3] != told[4]
        await until(lambda: not is_alive(told[0]) and not is_alive(told[2]), "the replaced ones are gone")


async def test_an_idle_child_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(processes, "IDLE_SECONDS", 0.05)
    async with pool() as children:
        process = (await call(children, jobs.tell_context_in_process))["process"]
        await until(lambda: not is_alive(process), "the idle child is gone")
        assert (await call(children, jobs.tell_context_in_process))["process"] != process


async def test_payloads_and_results_may_be_large() -> None:
    async with pool() as children:
        answer = await children.execute(order(jobs.echo_in_process, "a" * 5_000_000), no_conductor)
        assert isinstance(answer, Packet)
        assert len(answer.data or b"") == 5_000_002


@pytest.mark.parametrize("name", ["ValueError", "SystemExit", "Abort"])
async def test_what_a_task_raises_is_reported_and_the_child_lives_on(name: str) -> None:
    async with pool() as children:
        before = await call(children, jobs.tell_context_in_process)
        failure = await call(children, jobs.raise_in_process, name)
        assert isinstance(failure, Failure)
        assert (failure.error["name"], failure.status, failure.final) == (name, RunStatus.FAILED, name == "Abort")
        stack = str(failure.error["stackTrace"])
        assert "raise_in_process" in stack
        assert "child.py" not in stack
        assert (await call(children, jobs.tell_context_in_process))["process"] == before["process"]


@pytest.mark.parametrize(
    ("how", "code", "said"),
    [
        ("exit", "TASK_PROCESS_EXITED_WITH_NON_ZERO_CODE", "exit code 9"),
        ("exit 0", "TASK_PROCESS_EXITED_WITH_NON_ZERO_CODE", "exit code 0"),
        ("segfault", "TASK_PROCESS_SIGSEGV", "SIGSEGV"),
        ("kill", "TASK_PROCESS_MAYBE_OOM_KILLED", "SIGKILL"),
    ],
)
async def test_a_crash_is_the_crash_of_that_run_only(how: str, code: str, said: str, tmp_path: Path) -> None:
    async with pool() as children:
        gate = tmp_path / "gate"
        neighbour = asyncio.create_task(call(children, jobs.wait_in_process, str(gate)))
        await until(lambda: starts(gate), "the neighbour runs")
        failure = await call(children, jobs.crash, how)
        assert isinstance(failure, Failure)
        assert (failure.status, failure.error["code"], failure.final) == (RunStatus.CRASHED, code, False)
        assert said in str(failure.error["message"])
        gate.touch()
        assert str(await neighbour).startswith("done")
        assert await call(children, jobs.add_in_process, {"x": 1}) == 1


async def test_cancelling_ends_the_child_and_what_it_started(tmp_path: Path) -> None:
    async with pool() as children:
        gate = tmp_path / "gate"
        run = asyncio.create_task(call(children, jobs.wait_in_process, str(gate)))
        await until(lambda: starts(gate), "it runs")
        child, grandchild = map(int, starts(gate)[0].split())
        run.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await run
        await until(lambda: not is_alive(child) and not is_alive(grandchild), "both are gone")


async def test_a_child_that_died_between_two_runs_costs_neither() -> None:
    async with pool() as children:
        process = (await call(children, jobs.tell_context_in_process))["process"]
        os.kill(process, signal.SIGKILL)
        assert await call(children, jobs.add_in_process, {"x": 2}) == 2


async def test_a_task_that_no_other_process_can_find_is_refused() -> None:
    def inner(x: int) -> int:
        return x

    with pytest.raises(ConfigurationError, match="within a function"):
        find_source(Task(inner, id="w.inner", isolation="process"))


async def test_a_crash_is_recorded_and_tried_again_like_any_failure(engine: Engine) -> None:
    async with working(engine, jobs.crash, jobs.crash_until):
        once = await execute(engine, jobs.crash, "exit")
        assert (once.status, once.attempt) == (RunStatus.CRASHED, 1)
        again = await execute(engine, jobs.crash_until, 3)
        assert (again.status, read_output(again)) == (RunStatus.COMPLETED, 3)
        attempts = await runs.list_attempts(engine, 1, again.id)
        assert [each.status for each in attempts] == [RunStatus.CRASHED, RunStatus.CRASHED, RunStatus.COMPLETED]
