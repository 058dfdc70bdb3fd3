"""Runs that wait, on real workers: kept in memory for a moment, put down, taken up again."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from headrace.engine import tokens
from headrace.engine.engine import Engine
from headrace.engine.outcomes import Packet
from headrace.engine.sweeps import run_sweeps
from headrace.ids import parse_token_id
from headrace.protocol.statuses import RunStatus
from tests.worker import waiting_jobs as jobs
from tests.worker.helpers import await_end, execute, look, read_output, trigger, working

pytestmark = pytest.mark.anyio

LINGERS = pytest.mark.parametrize("linger", [0.0, 30.0], ids=["put-down", "kept"])


@LINGERS
async def test_a_parent_gets_what_its_child_returned(engine: Engine, linger: float) -> None:
    async with living(engine, wait_linger=linger):
        run = await execute(engine, jobs.one, 21)
    assert read_output(run)["value"] == 42
    assert (run.resumes > 0) == (linger == 0.0)


@LINGERS
@pytest.mark.parametrize("name", ["one_in_thread", "one_in_process"])
async def test_a_def_task_waits_as_well(engine: Engine, linger: float, name: str) -> None:
    async with living(engine, wait_linger=linger):
        run = await execute(engine, getattr(jobs, name), 3)
    assert read_output(run) == 12


@LINGERS
async def test_a_failed_child_is_an_outcome(engine: Engine, linger: float) -> None:
    async with living(engine, wait_linger=linger):
        assert read_output(await execute(engine, jobs.failing, "no")) == [False, "no"]


@LINGERS
async def test_outcomes_of_a_batch_are_in_input_order(engine: Engine, linger: float) -> None:
    numbers = list(range(50, 0, -1))
    async with living(engine, wait_linger=linger):
        assert read_output(await execute(engine, jobs.many, numbers)) == [2 * number for number in numbers]
        assert read_output(await execute(engine, jobs.many, [])) == []


@LINGERS
async def test_a_batch_of_several_chunks_is_iterated(engine: Engine, linger: float) -> None:
    async with living(engine, wait_linger=linger):
        assert read_output(await execute(engine, jobs.iterate, 2500)) == 2 * sum(range(2500))


@LINGERS
async def test_several_waits_at_once(engine: Engine, linger: float) -> None:
    async with living(engine, wait_linger=linger):
        assert read_output(await execute(engine, jobs.gathered, list(range(30)))) == [2 * n for n in range(30)]


@LINGERS
async def test_a_run_sleeps_and_its_steps_run_once(engine: Engine, tmp_path: Path, linger: float) -> None:
    file = str(tmp_path / "count")
    async with living(engine, wait_linger=linger):
        run = await execute(engine, jobs.sleeper, {"file": file, "seconds": 0.3})
    assert read_output(run) == "awake"
    assert [len(Path(f"{file}.{name}").read_text().splitlines()) for name in ("before", "after")] == [1, 1]


@LINGERS
async def test_a_token_is_waited_for(engine: Engine, linger: float) -> None:
    async with living(engine, wait_linger=linger):
        run_id = await trigger(engine, jobs.asker)
        token_id = await _await_token(engine, run_id)
        await tokens.complete_token(engine, 1, token_id, Packet(json.dumps({"yes": 1}).encode()))
        assert read_output(await await_end(engine, run_id)) == {"yes": 1}


@LINGERS
async def test_a_token_that_nobody_completes_raises_wait_timeout(engine: Engine, linger: float) -> None:
    async with living(engine, wait_linger=linger):
        run = await execute(engine, jobs.asker, 0.2)
    assert run.status is RunStatus.FAILED
    assert run.error is not None
    assert run.error["name"] == "WaitTimeout"


async def test_pages_of_outcomes_do_not_count_against_the_limit_of_points(engine: Engine) -> None:
    async with living(engine, wait_linger=0.0, max_points=1):
        assert read_output(await execute(engine, jobs.iterate, 2500)) == 2 * sum(range(2500))


async def test_the_end_of_a_batch_that_was_iterated_wakes_nobody(engine: Engine) -> None:
    async with living(engine, wait_linger=0.0):
        run_id = await trigger(engine, jobs.iterate_then_ask, 3)
        token_id = await _await_token(engine, run_id)
        while (await look(engine, run_id)).status is not RunStatus.WAITING:
            await engine.notices.wait_ready(1, 0.05)
        before = (await look(engine, run_id)).attempt
        await execute(engine, jobs.one, 1)  # as long as a child and back takes
        assert (await look(engine, run_id)).attempt == before
        await tokens.complete_token(engine, 1, token_id, Packet(b"7"))
        assert read_output(await await_end(engine, run_id)) == 7


async def test_a_replay_is_told_the_same_credentials_and_none_is_stored(engine: Engine) -> None:
    async with living(engine, wait_linger=0.0):
        run = await execute(engine, jobs.same_token, 1.1)  # a second later a token's times would be others
    assert run.resumes > 0
    told = read_output(run)
    assert isinstance(run.metadata, dict)
    assert run.metadata["first"] == told
    rows = await engine.store.fetch("read_journals", 1, [run.id])
    kept = b"".join(row["value"] or b"" for row in rows).decode()
    assert told[0] in kept
    assert told[1].rpartition("/")[2] not in kept
    assert told[2] not in kept


@LINGERS
async def test_a_step_has_retries_of_its_own(engine: Engine, tmp_path: Path, linger: float) -> None:
    async with living(engine, wait_linger=linger):
        run = await execute(engine, jobs.stepper, str(tmp_path / "count"))
    assert read_output(run) == 3


@pytest.mark.parametrize("what", ["child", "time", "step", "increment"])
async def test_a_durable_point_inside_of_a_step_is_refused(engine: Engine, what: str) -> None:
    async with living(engine):
        run = await execute(engine, jobs.wait_in_step, what)
    assert run.status is RunStatus.FAILED
    assert "can't be used inside of a step" in str((run.error or {})["message"])
    assert run.metadata == {"progress": 1}  # that is no point


async def test_a_batch_of_more_children_than_are_allowed_is_refused(engine: Engine) -> None:
    async with living(engine, batch_max_items=3):
        assert read_output(await execute(engine, jobs.many, [1, 2, 3])) == [2, 4, 6]
        run = await execute(engine, jobs.many, [1, 2, 3, 4])
    assert run.status is RunStatus.FAILED
    assert "HEADRACE_BATCH_MAX_ITEMS" in str((run.error or {})["message"])
    assert await engine.store.fetch("read_journals", 1, [run.id]) == []


async def test_a_next_attempt_keeps_what_succeeded_and_does_the_last_failure_again(
    engine: Engine, tmp_path: Path
) -> None:
    async with living(engine, wait_linger=0.0):
        run = await execute(engine, jobs.retried, str(tmp_path / "count"))
    assert read_output(run) == [1, 2]
    assert run.attempt - run.resumes == 2


@LINGERS
async def test_metadata_is_counted_once(engine: Engine, tmp_path: Path, linger: float) -> None:
    async with living(engine, wait_linger=linger):
        run = await execute(engine, jobs.shower, str(tmp_path))
    assert read_output(run) == run.metadata == {"progress": 0.5, "times": 3, "names": ["a"]}


@LINGERS
async def test_a_race_goes_the_same_way_in_a_replay(engine: Engine, linger: float) -> None:
    async with living(engine, wait_linger=linger):
        assert read_output(await execute(engine, jobs.racer, 0.2)) == "quick"


@asynccontextmanager
async def living(engine: Engine, **changes: Any) -> AsyncGenerator[None]:
    """A worker, and the sweeps of deadlines."""
    stop = asyncio.Event()
    sweeping = asyncio.create_task(run_sweeps(engine, stop))
    async with working(engine, *jobs.TASKS, **changes):
        yield
    stop.set()
    await sweeping


async def _await_token(engine: Engine, run_id: Any) -> Any:
    while True:
        run = await look(engine, run_id)
        if isinstance(run.metadata, dict) and "token" in run.metadata:
            return parse_token_id(run.metadata["token"])
        await engine.notices.wait_ready(1, 0.05)
