"""Execution: each kind of task, whatever it raises, and what is recorded of it."""

from __future__ import annotations

import asyncio
import itertools
import json
from pathlib import Path
from typing import Any

import pytest

from headrace.engine import runs
from headrace.engine.engine import Engine
from headrace.engine.outcomes import Packet
from headrace.ids import format_run_id
from headrace.payloads import STORED_TYPE
from headrace.protocol.options import QueueOption, RunOptions
from headrace.protocol.statuses import RunStatus
from headrace.tasks import Task
from headrace.worker.worker import Worker
from tests.worker import jobs
from tests.worker.helpers import await_end, execute, look, read_output, starts, trigger, until, working

pytestmark = pytest.mark.anyio


@pytest.mark.parametrize("task", [jobs.add, jobs.add_in_thread, jobs.add_in_process, jobs.add_async_in_process])
async def test_a_task_runs_with_its_payload_and_its_result_is_kept(engine: Engine, task: Task[Any, Any]) -> None:
    async with working(engine, task):
        run = await execute(engine, task, {"x": 3, "y": 4})
    assert (run.status, run.attempt, read_output(run)) == (RunStatus.COMPLETED, 1, 7)


@pytest.mark.parametrize("task", [jobs.add, jobs.add_in_thread, jobs.add_in_process])
async def test_a_payload_that_the_task_does_not_take_fails_the_run_at_once(
    engine: Engine, task: Task[Any, Any]
) -> None:
    async with working(engine, task):
        run = await execute(engine, task, {"x": "three"})
    assert (run.status, run.attempt) == (RunStatus.FAILED, 1)
    assert run.error is not None
    assert (run.error["code"], run.error["name"]) == ("TASK_INPUT_ERROR", "PayloadError")
    assert "three" in str(run.error["message"]) or "int" in str(run.error["message"])


async def test_a_task_can_ask_for_its_run_wherever_it_runs(engine: Engine) -> None:
    async with working(engine, jobs.tell_context, jobs.tell_context_in_thread, jobs.tell_context_in_process):
        told = await execute(engine, jobs.tell_context, tags=["a"], max_attempts=7)
        assert read_output(told) == {"id": format_run_id(told.id), "attempt": 1, "most": 7, "tags": ["a"]}
        in_thread = await execute(engine, jobs.tell_context_in_thread)
        assert read_output(in_thread) == format_run_id(in_thread.id)
        in_process = await execute(engine, jobs.tell_context_in_process)
        assert read_output(in_process)["id"] == format_run_id(in_process.id)
        assert read_output(in_process)["queue"] == "task/w.tell_context_in_process"


RAISED = {
    "ValueError": "no such thing",
    "SystemExit": "3",
    "KeyboardInterrupt": "",
    "CancelledError": "by hand",
    "GeneratorExit": "",
    "ExceptionGroup": "several (2 sub-exceptions)",
    "BaseExceptionGroup": "several (2 sub-exceptions)",
    "MemoryError": "",
    "RecursionError": "too deep",
}


@pytest.mark.parametrize("name", RAISED)
async def test_whatever_a_coroutine_raises_fails_its_run_and_nothing_else(engine: Engine, name: str) -> None:
    async with working(engine, jobs.raise_named, jobs.add):
        run = await execute(engine, jobs.raise_named, name)
        assert run.status is RunStatus.FAILED
        assert run.error is not None
        assert (run.error["type"], run.error["name"], run.error["message"]) == ("BUILT_IN_ERROR", name, RAISED[name])
        stack = str(run.error["stackTrace"])
        assert "raise_named" in stack
        assert "headrace/worker" not in stack
        assert read_output(await execute(engine, jobs.add, {"x": 1})) == 1


@pytest.mark.parametrize("name", ["ValueError", "SystemExit", "KeyboardInterrupt", "StopIteration", "CancelledError"])
async def test_whatever_a_function_raises_fails_its_run_and_nothing_else(engine: Engine, name: str) -> None:
    async with working(engine, jobs.raise_in_thread, jobs.add):
        run = await execute(engine, jobs.raise_in_thread, name)
        assert run.status is RunStatus.FAILED
        assert run.error is not None
        assert run.error["name"] == name
        assert "raise_in_thread" in str(run.error["stackTrace"])
        assert "headrace/worker" not in str(run.error["stackTrace"])
        assert read_output(await execute(engine, jobs.add, {"x": 1})) == 1


async def test_a_task_that_cancels_itself_fails(engine: Engine) -> None:
    async with working(engine, jobs.cancel_itself):
        run = await execute(engine, jobs.cancel_itself)
    assert run.status is RunStatus.FAILED
    assert run.error is not None
    assert run.error["name"] == "CancelledError"


async def test_a_result_that_is_no_json_fails_the_run_without_another_attempt(engine: Engine) -> None:
    async with working(engine, jobs.give_odd_result):
        run = await execute(engine, jobs.give_odd_result)
    assert (run.status, run.attempt) == (RunStatus.FAILED, 1)
    assert run.error is not None
    assert run.error["code"] == "TASK_OUTPUT_ERROR"


async def test_an_error_text_that_postgresql_refuses_is_mended(engine: Engine) -> None:
    async with working(engine, jobs.raise_odd_error):
        run = await execute(engine, jobs.raise_odd_error)
    assert run.status is RunStatus.FAILED
    assert run.error is not None
    assert str(run.error["message"]).startswith("nul \ufffd and half a pair ?")
    assert len(str(run.error["message"])) == 1024 - 2  # U+FFFD has three bytes


async def test_abort_ends_the_run_with_attempts_left(engine: Engine) -> None:
    async with working(engine, jobs.abort):
        run = await execute(engine, jobs.abort)
    assert (run.status, run.attempt) == (RunStatus.FAILED, 1)
    assert run.error is not None
    assert (run.error["name"], run.error["message"]) == ("Abort", "no such customer")


async def test_a_failed_run_is_tried_again_and_each_attempt_is_recorded(engine: Engine) -> None:
    async with working(engine, jobs.fail):
        run = await execute(engine, jobs.fail, 3)
    assert (run.status, run.attempt, read_output(run)) == (RunStatus.COMPLETED, 3, 3)
    attempts = await runs.list_attempts(engine, 1, run.id)
    assert [attempt.status for attempt in attempts] == [RunStatus.FAILED, RunStatus.FAILED, RunStatus.COMPLETED]
    assert [attempt.error and attempt.error["message"] for attempt in attempts] == ["attempt 1", "attempt 2", None]
    assert "in fail" in str((attempts[0].error or {})["stackTrace"])
    waits = [
        (later.started_at - earlier.finished_at).total_seconds()
        for earlier, later in itertools.pairwise(attempts)
        if later.started_at is not None
    ]
    assert len(waits) == 2
    assert waits[0] >= 0.05
    assert waits[1] >= 0.1  # twice the first delay


async def test_the_last_attempt_ends_the_run(engine: Engine) -> None:
    async with working(engine, jobs.fail):
        run = await execute(engine, jobs.fail, 99)
        once = await execute(engine, jobs.fail, 99, max_attempts=1)
    assert (run.status, run.attempt) == (RunStatus.FAILED, 3)
    assert (once.status, once.attempt) == (RunStatus.FAILED, 1)


async def test_large_results_and_payloads_lie_in_the_payload_store(engine: Engine) -> None:
    async with working(engine, jobs.give_large, jobs.measure, offload_threshold=1000):
        small = await execute(engine, jobs.give_large, 900)
        large = await execute(engine, jobs.give_large, 5000)
        assert small.output is not None
        assert small.output.type == "application/json"
        assert large.output is not None
        assert (large.status, large.output.type) == (RunStatus.COMPLETED, STORED_TYPE)
        path = (large.output.data or b"").decode()
        assert json.loads(await engine.payloads.get("dev", path)) == "a" * 5000
        made = await runs.trigger_run(engine, 1, "w.measure", large.output, RunOptions())
        measured = await await_end(engine, made.run_id)  # pyright: ignore[reportAttributeAccessIssue]
        assert read_output(measured) == 5000


async def test_a_payload_that_is_gone_from_the_store_fails_the_run(engine: Engine) -> None:
    async with working(engine, jobs.measure):
        made = await runs.trigger_run(
            engine, 1, "w.measure", Packet(b"payloads/dev/no/such", STORED_TYPE), RunOptions()
        )
        run = await await_end(engine, made.run_id)  # pyright: ignore[reportAttributeAccessIssue]
    assert run.status is RunStatus.FAILED
    assert run.error is not None
    assert run.error["code"] == "PAYLOAD_STORE_ERROR"


@pytest.mark.parametrize("task", [jobs.wait, jobs.wait_in_thread, jobs.wait_in_process])
async def test_a_run_over_its_max_duration_is_timed_out(engine: Engine, tmp_path: Path, task: Task[Any, Any]) -> None:
    gate = tmp_path / "gate"
    async with working(engine, task) as worker:
        run = await execute(engine, task, str(gate), max_duration=1.5)
        assert (run.status, run.attempt) == (RunStatus.TIMED_OUT, 1)
        assert run.error is not None
        assert run.error["code"] == "MAX_DURATION_EXCEEDED"
        assert starts(gate), "it had started"
        if task is jobs.wait_in_thread:  # a thread can't be stopped: its slot is in use until it ends
            assert worker.status.executing == 1
            gate.touch()
        await until(lambda: worker.status.executing == 0, "the slot is free")
    assert (await look(engine, run.id)).status is RunStatus.TIMED_OUT


async def test_no_more_runs_than_slots_are_held(engine: Engine, tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    async with working(engine, jobs.wait, concurrency=3) as worker:
        made = [await trigger(engine, jobs.wait, str(gate)) for _ in range(8)]
        await until(lambda: len(starts(gate)) == 3, "three started")
        statuses = [(await look(engine, run_id)).status for run_id in made]
        assert statuses.count(RunStatus.EXECUTING) == 3
        assert statuses.count(RunStatus.QUEUED) == 5
        assert worker.status.free == 0
        gate.touch()
        assert {(await await_end(engine, run_id)).status for run_id in made} == {RunStatus.COMPLETED}


async def test_a_worker_of_one_queue_leaves_the_others(engine: Engine) -> None:
    worker = Worker(engine, [jobs.add], queues=["fast"])
    job = asyncio.create_task(worker.run())
    other = await trigger(engine, jobs.add, {"x": 1})
    chosen = await trigger(engine, jobs.add, {"x": 2}, queue=QueueOption("fast"))
    assert read_output(await await_end(engine, chosen)) == 2
    assert (await look(engine, other)).status is RunStatus.QUEUED
    worker.stop()
    await job


async def test_a_hint_starts_a_run_long_before_the_next_poll(engine: Engine) -> None:
    async with working(engine, jobs.add, poll_interval=60.0):
        for number in range(5):
            run = await execute(engine, jobs.add, {"x": number})
            assert run.started_at is not None
            assert (run.started_at - run.created_at).total_seconds() < 30  # the poll is a minute away
