"""A run stays with the version of the code that began it while a worker of that version lives, and is never left behind.

Peers 4, item 10. What a replay by other code does is asked in test_replay.
"""

from __future__ import annotations

from typing import Any

import pytest

from headrace.engine import claims, workers
from headrace.engine.cancels import cancel_run
from headrace.engine.completions import finish_runs
from headrace.engine.engine import Engine
from headrace.engine.lanes import LaneName
from headrace.engine.outcomes import ClaimedRun, Finish, WorkerLease
from headrace.engine.sweeps import sweep_once
from headrace.engine.versions import promote_version
from headrace.protocol.statuses import RunStatus
from headrace.worker.versions import find_version
from tests.engine.parents import Parent, child, start_parent
from tests.invariants import assert_invariants, fetch_sql
from tests.worker import jobs, tree_jobs

pytestmark = pytest.mark.anyio

SILENT = "UPDATE headrace.workers SET lease_until = now() - interval '1 second' WHERE id = $1"
PIN = LaneName("p", "task/p")


async def test_a_run_that_was_put_down_goes_on_with_its_version(engine: Engine) -> None:
    first = await start_worker(engine, "A")
    parent = await suspend(engine, first)
    other = await start_worker(engine, "B")
    assert await take(engine, other) == []
    [again] = await take(engine, first)
    assert again.id == parent.id


async def test_after_its_worker_died_another_of_the_version_goes_on(engine: Engine) -> None:
    first, second = await start_worker(engine, "A"), await start_worker(engine, "A")
    parent = await suspend(engine, first)
    other = await start_worker(engine, "B")
    await kill(engine, first)
    assert await take(engine, other) == []
    [again] = await take(engine, second)
    assert again.id == parent.id


@pytest.mark.parametrize("end", ["killed", "stopped"])
async def test_a_run_whose_worker_ended_in_mid_code_goes_on_with_its_version(engine: Engine, end: str) -> None:
    """Not put down: it had come to a point, and its code was at something else."""
    first, second = await start_worker(engine, "A"), await start_worker(engine, "A")
    parent = await start_parent(engine, first)
    await parent.write(engine, child())
    other = await start_worker(engine, "B")
    await (kill(engine, first) if end == "killed" else workers.retire_worker(engine, first))
    assert await take(engine, other) == []
    [again] = await take(engine, second)
    assert (again.id, len(again.journal)) == (parent.id, 1)


@pytest.mark.parametrize("end", ["killed", "stopped"])
async def test_a_run_that_came_to_no_point_goes_on_as_a_new_one(engine: Engine, end: str) -> None:
    first, _ = await start_worker(engine, "A"), await start_worker(engine, "A")
    parent = await start_parent(engine, first)
    other = await start_worker(engine, "B")
    await (kill(engine, first) if end == "killed" else workers.retire_worker(engine, first))
    assert [run.id for run in await take(engine, other)] == [parent.id]


@pytest.mark.parametrize("end", ["killed", "stopped"])
async def test_when_no_worker_of_its_version_lives_another_version_goes_on(engine: Engine, end: str) -> None:
    first = await start_worker(engine, "A")
    parent = await suspend(engine, first)
    other = await start_worker(engine, "B")
    await (kill(engine, first) if end == "killed" else workers.retire_worker(engine, first))
    [again] = await take(engine, other)
    assert again.id == parent.id
    # from here on it is the other version's
    late = await start_worker(engine, "A")
    await report(engine, other, again, RunStatus.WAITING, pin=PIN)
    await wake(engine)
    assert await take(engine, late) == []
    assert [run.id for run in await take(engine, other)] == [parent.id]


async def test_lanes_of_a_version_that_is_gone_are_closed_when_they_are_empty_and_opened_when_it_comes_back(
    engine: Engine,
) -> None:
    first = await start_worker(engine, "A")
    await suspend(engine, first)
    other = await start_worker(engine, "B")
    await kill(engine, first)
    assert await list_lanes(engine, "A") == [True], "something lies in it"
    [again] = await take(engine, other)
    await report(engine, other, again, RunStatus.COMPLETED)
    await sweep_once(engine)
    assert await list_lanes(engine, "A") == [False]
    back = await start_worker(engine, "A")
    assert await list_lanes(engine, "A") == [True]
    await promote_version(engine, 1, "A")
    parent = await suspend(engine, back)
    assert [run.id for run in await take(engine, back)] == [parent.id]


@pytest.mark.parametrize("how", ["given back", "tried again", "put down without a version"])
async def test_a_lane_is_not_closed_under_a_run_that_another_version_took_from_it(engine: Engine, how: str) -> None:
    """It comes back into the lane when its worker never starts it, or fails before its first point."""
    first = await start_worker(engine, "A")
    parent = await suspend(engine, first)
    other = await start_worker(engine, "" if how.startswith("put down") else "B")
    await kill(engine, first)
    [again] = await take(engine, other)
    await sweep_once(engine)
    match how:
        case "given back":
            await claims.give_back_runs(engine, other, [(again.id, again.attempt)])
        case "tried again":
            await report(
                engine, other, again, RunStatus.FAILED, error={"type": "STRING_ERROR", "raw": "x"}, retry_in=0.0
            )
        case _:
            await report(engine, other, again, RunStatus.WAITING)
            await wake(engine)
    await sweep_once(engine)
    assert [run.id for run in await take(engine, other)] == [parent.id]
    await assert_invariants(engine)


async def test_a_lane_is_not_closed_under_a_run_that_waits_in_it(engine: Engine) -> None:
    first = await start_worker(engine, "A")
    parent = await suspend(engine, first, is_over=False)
    other = await start_worker(engine, "B")
    await kill(engine, first)
    await sweep_once(engine)
    assert await list_lanes(engine, "A") == [True]
    await wake(engine)
    assert [run.id for run in await take(engine, other)] == [parent.id]


async def test_a_run_of_a_worker_without_a_version_goes_on_anywhere(engine: Engine) -> None:
    first = await start_worker(engine, "")
    parent = await suspend(engine, first)
    other = await start_worker(engine, "B")
    assert [run.id for run in await take(engine, other)] == [parent.id]


async def test_a_version_in_one_environment_is_not_that_of_another(engine: Engine) -> None:
    first = await start_worker(engine, "A")
    elsewhere = [workers.TaskRegistration("p", "task/p", 3)]
    await workers.register_worker(engine, "staging", name="elsewhere", tasks=elsewhere, version="A")
    parent = await suspend(engine, first)
    other = await start_worker(engine, "B")
    await kill(engine, first)
    assert [run.id for run in await take(engine, other)] == [parent.id]


def test_the_version_of_code_is_told_by_its_files() -> None:
    """Where no setting names one."""
    assert find_version([jobs.add, jobs.wait]) == find_version([jobs.wait, jobs.add])
    assert find_version([jobs.add]) != find_version([tree_jobs.gate])
    assert find_version([jobs.add]) != find_version([jobs.add, tree_jobs.gate])


async def start_worker(engine: Engine, version: str) -> WorkerLease:
    known = [workers.TaskRegistration(task, f"task/{task}", 3) for task in ("p", "t")]
    return await workers.register_worker(engine, "dev", name=f"worker {version}", tasks=known, version=version)


async def suspend(engine: Engine, lease: WorkerLease, *, is_over: bool = True) -> Parent:
    """A run that this worker began and put down, as a worker reports it."""
    parent = await start_parent(engine, lease)
    await parent.write(engine, child())
    await report(engine, lease, parent.run, RunStatus.WAITING, pin=PIN)
    if is_over:
        await wake(engine)
    return parent


async def wake(engine: Engine) -> None:
    """Whatever is waited for is over: its child is canceled."""
    rows = await fetch_sql(
        engine, "SELECT id FROM headrace.runs WHERE parent_run_id IS NOT NULL AND finished_at IS NULL"
    )
    for row in rows:
        await cancel_run(engine, 1, row["id"])
    if not rows:
        await fetch_sql(engine, "UPDATE headrace.runs SET status = 'QUEUED' WHERE status = 'WAITING'")


async def take(engine: Engine, lease: WorkerLease) -> list[ClaimedRun]:
    claimed = await claims.claim_runs(engine, lease, tasks=["p"], limit=10)
    assert isinstance(claimed, list)
    return claimed


async def report(engine: Engine, lease: WorkerLease, run: ClaimedRun, status: RunStatus, **more: Any) -> None:
    assert await finish_runs(engine, lease, [Finish(run.id, run.attempt, status, **more)]) == set()


async def kill(engine: Engine, lease: WorkerLease) -> None:
    """It is silent for longer than its lease, and somebody sweeps."""
    await fetch_sql(engine, SILENT, lease.worker_id)
    await sweep_once(engine)


async def list_lanes(engine: Engine, version: str) -> list[bool]:
    rows = await fetch_sql(
        engine, "SELECT open FROM headrace.lanes WHERE version = $1 AND task = 'p' ORDER BY id", version
    )
    return [row["open"] for row in rows]
