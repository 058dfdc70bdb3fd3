"""What users of other systems ran into, each by its name: research/peers.md section 4, as far as no other file holds it.

tests/CHECKLIST.md says which test holds which of them.
"""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from headrace.engine.engine import Engine
from headrace.engine.sweeps import sweep_once
from headrace.protocol.statuses import RunStatus
from headrace.tasks import Task
from tests.engine.helpers import claim, make_items, register
from tests.engine.parents import child, child_batch, read_state, resume, start_parent
from tests.invariants import assert_invariants, fetch_sql
from tests.worker import tree_jobs as jobs
from tests.worker.helpers import await_end, execute, is_there, read_output, trigger, until
from tests.worker.test_cancel_trees import living

pytestmark = pytest.mark.anyio

SILENT = "UPDATE headrace.workers SET lease_until = now() - interval '1 second' WHERE id = $1"


@pytest.mark.parametrize("shape", ["child", "batch"])
async def test_a_child_that_kills_its_workers_ends_and_its_parent_goes_on(engine: Engine, shape: str) -> None:
    """Peers 4, item 4: the callback of a group of which one member was killed never came."""
    lease = await register(engine, "p", "t")
    parent = await start_parent(engine, lease)
    await parent.write(engine, child() if shape == "child" else child_batch(make_items(0, 2)))
    await parent.sleep(engine)
    for _ in range(engine.settings.max_rescues + 1):
        doomed = await register(engine, "t")
        assert await claim(engine, doomed)
        await fetch_sql(engine, SILENT, doomed.worker_id)
        await sweep_once(engine)
    assert await read_state(engine, parent.id) == ("QUEUED", 1, 0)
    [point] = (await resume(engine, lease)).run.journal
    assert point.status == (RunStatus.CRASHED if shape == "child" else "COMPLETED")
    rows = await fetch_sql(engine, "SELECT status FROM headrace.runs WHERE id <> $1", parent.id)
    assert {row["status"] for row in rows} == {"CRASHED"}
    await assert_invariants(engine)


async def test_children_run_while_the_items_of_their_batch_are_still_being_made(engine: Engine, tmp_path: Path) -> None:
    """Peers 4, item 5: the whole generator was read before the first child started."""
    async with living(engine, jobs.lazy, jobs.counted):
        assert read_output(await execute(engine, jobs.lazy, str(tmp_path / "file"))) == 1500


@pytest.mark.parametrize("task", [jobs.streaming_in_thread, jobs.streaming_in_process])
async def test_fault_06_the_error_of_a_batch_is_raised_where_its_items_are_made(
    engine: Engine, tmp_path: Path, task: Task[Any, Any]
) -> None:
    """It was aborted in the middle of its stream. The exception comes with all that it knows, also through a pipe."""
    gate = tmp_path / "gate"
    async with living(engine, task):
        run_id = await trigger(engine, task, str(gate))
        await until(lambda: is_there(f"{gate}.begun"), "it stands in the middle of the stream")
        await fetch_sql(engine, "UPDATE headrace.batches SET seal_deadline = now() - interval '1 second'")
        async with asyncio.timeout(20):
            while not await fetch_sql(engine, "SELECT FROM headrace.batches WHERE status = 'ABORTED'"):
                await asyncio.sleep(0.01)
        gate.touch()
        assert read_output(await await_end(engine, run_id)) == ["BatchTriggerError", "stream", True]


@pytest.mark.parametrize("linger", [0.0, 30.0], ids=["put-down", "kept"])
async def test_a_parent_does_not_grow_by_what_its_children_return(engine: Engine, linger: float) -> None:
    """Peers 4, item 6: what a run hands on, and what is kept of it, does not hold what others made."""
    async with living(engine, jobs.collecting, jobs.large, wait_linger=linger):
        run = await execute(engine, jobs.collecting, 20)
    assert read_output(run) == 2 * 20 * 10_000
    [row] = await fetch_sql(
        engine,
        "SELECT sum(pg_column_size(j.*))::integer AS journal,"
        " (SELECT max(octet_length(payload)) FROM headrace.runs) AS payload FROM headrace.journal AS j",
    )
    assert row["journal"] < 20 * 400
    assert row["payload"] < 10


@pytest.mark.parametrize("linger", [0.0, 30.0], ids=["put-down", "kept"])
async def test_what_waits_for_longer_than_a_lease_is_not_given_to_another(engine: Engine, linger: float) -> None:
    """Peers 4, item 13: work that took longer than some timeout was delivered again."""
    async with living(engine, jobs.napping, wait_linger=linger), living(engine, jobs.napping, wait_linger=linger):
        run = await execute(engine, jobs.napping, 2.5 * engine.settings.lease)
    assert read_output(run) == "awake"
    assert (run.attempt, run.resumes) == ((2, 1) if linger == 0.0 else (1, 0))
    assert not await fetch_sql(engine, "SELECT FROM headrace.runs WHERE rescues > 0")
