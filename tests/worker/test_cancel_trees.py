"""A canceled run takes what it waits for with it, all the way down, and the code that runs is really stopped."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from headrace.engine import cancels, runs
from headrace.engine.engine import Engine
from headrace.engine.outcomes import Packet, RunCanceled, RunCreated, RunEnded, RunMissing
from headrace.engine.sweeps import run_sweeps, sweep_once
from headrace.ids import mint_run_id
from headrace.protocol.options import RunOptions
from headrace.protocol.statuses import RunStatus
from headrace.tasks import Task
from headrace.worker.worker import Worker
from tests.engine.held import blocked, held_at, holding
from tests.engine.helpers import claim, finish, make_items, register
from tests.engine.parents import child, child_batch, read_state, start_parent
from tests.invariants import assert_invariants, fetch_sql
from tests.worker import tree_jobs as jobs
from tests.worker.helpers import await_end, is_there, look, read_output, trigger, until, working

pytestmark = pytest.mark.anyio

WHERE = {
    "put down": (jobs.tree, 0.0),
    "in memory": (jobs.tree, 30.0),
    "in a thread": (jobs.tree_in_thread, 30.0),
    "in a process": (jobs.tree_in_process, 30.0),
}


@pytest.mark.parametrize("where", WHERE)
async def test_a_canceled_tree_is_canceled_at_once_three_levels_down(
    engine: Engine, tmp_path: Path, where: str
) -> None:
    gate = tmp_path / "gate"
    task, linger = WHERE[where]
    async with living(engine, *jobs.TREES, wait_linger=linger) as worker:
        top = await trigger(engine, task, {"depth": 2, "gate": str(gate)})
        await until(lambda: is_there(f"{gate}.begun"), "the last level runs")
        if where == "put down":
            await until_waiting(engine, 3)
        assert await cancels.cancel_run(engine, 1, top) == RunCanceled(top)
        assert await list_statuses(engine) == ["CANCELED"] * 4
        await until(lambda: is_there(f"{gate}.stopped"), "the code of the last one is stopped")
        if where == "in a thread":
            await until(
                lambda: len(Path(f"{gate}.left").read_text().splitlines()) == 3,
                f"the code was left, and not {Path(f'{gate}.left').read_text()}",
            )
        await until(lambda: worker.status.executing == 0, "nothing runs any more")
    await assert_invariants(engine)
    gate.touch()
    assert await list_statuses(engine) == ["CANCELED"] * 4
    [error] = {str(row["error"]) for row in await fetch_sql(engine, "SELECT error FROM headrace.runs WHERE depth > 0")}
    assert "waits for this one was canceled" in error


@pytest.mark.parametrize("task", [jobs.wide, jobs.iterating])
async def test_three_thousand_items_are_canceled_with_the_parent_of_their_batch(
    engine: Engine, task: Task[Any, Any]
) -> None:
    async with living(engine, task, wait_linger=0.0):
        top = await trigger(engine, task, 3000)
        await until_waiting(engine, 1)
        assert await cancels.cancel_run(engine, 1, top) == RunCanceled(top)
        assert await list_statuses(engine) == ["CANCELED"] * 3001
    [batch] = await fetch_sql(engine, "SELECT status, settled, succeeded FROM headrace.batches")
    assert (batch["status"], batch["settled"], batch["succeeded"]) == ("COMPLETED", 3000, 0)
    await assert_invariants(engine)


async def test_a_child_that_is_to_be_left_goes_on(engine: Engine, tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    async with living(engine, jobs.leaving, jobs.gate, wait_linger=0.0):
        top = await trigger(engine, jobs.leaving, str(gate))
        await until(lambda: is_there(f"{gate}.begun"), "the child runs")
        await until_waiting(engine, 1)
        await cancels.cancel_run(engine, 1, top)
        await sweep_once(engine)
        gate.write_text("through")
        [row] = await fetch_sql(engine, "SELECT id FROM headrace.runs WHERE parent_run_id = $1", top)
        assert read_output(await await_end(engine, row["id"])) == "through"
    assert (await look(engine, top)).status is RunStatus.CANCELED


@pytest.mark.parametrize("linger", [0.0, 30.0], ids=["put-down", "kept"])
async def test_a_canceled_child_is_an_outcome_for_its_parent(engine: Engine, tmp_path: Path, linger: float) -> None:
    gate = tmp_path / "gate"
    async with living(engine, *jobs.TREES, wait_linger=linger):
        top = await trigger(engine, jobs.tree, {"depth": 0, "gate": str(gate)})
        await until(lambda: is_there(f"{gate}.begun"), "the child runs")
        [row] = await fetch_sql(engine, "SELECT id FROM headrace.runs WHERE parent_run_id = $1", top)
        await cancels.cancel_run(engine, 1, row["id"], reason="not wanted")
        assert read_output(await await_end(engine, top)) == "CANCELED"
    assert ((await look(engine, row["id"])).error or {})["message"] == "not wanted"


async def test_a_run_that_cleans_up_as_it_is_put_down_gives_its_slot_back_when_it_is_canceled(
    engine: Engine, tmp_path: Path
) -> None:
    """It was left already, and a task of its own was still on its way out."""
    gate = tmp_path / "gate"
    async with living(engine, jobs.cleaning, jobs.counted, wait_linger=0.0, concurrency=1) as worker:
        top = await trigger(engine, jobs.cleaning, str(gate))
        await until(lambda: is_there(f"{gate}.cleaning"), "it is being put down")
        await cancels.cancel_run(engine, 1, top)
        gate.touch()
        assert read_output(await await_end(engine, await trigger(engine, jobs.counted, f"{gate}.next"))) == 1
        await until(lambda: worker.status.executing == 0, "no slot is lost")
    assert (await look(engine, top)).status is RunStatus.CANCELED


@pytest.mark.parametrize("first", ["completion", "cancel"])
async def test_a_cancel_and_an_end_at_one_moment_have_one_winner(engine: Engine, first: str) -> None:
    lease = await register(engine, "p", "t")
    parent = await start_parent(engine, lease)
    await parent.write(engine, child())
    await parent.sleep(engine)
    children = await claim(engine, lease)
    point = "after:finish_runs" if first == "completion" else "after:cancel_runs"
    async with holding(engine, point) as (own, hold):
        if first == "completion":
            one = await held_at(hold, finish(own, lease, children))
            two = await blocked(engine, cancels.cancel_run(engine, 1, children[0].id))
        else:
            one = await held_at(hold, cancels.cancel_run(own, 1, children[0].id))
            two = await blocked(engine, finish(engine, lease, children))
        hold.released.set()
        answers = await asyncio.gather(one, two)
    won = RunStatus.COMPLETED if first == "completion" else RunStatus.CANCELED
    assert answers == (
        [set(), RunEnded(children[0].id, won)]
        if first == "completion"
        else [RunCanceled(children[0].id), {children[0].id}]
    )
    assert (await look(engine, children[0].id)).status is won
    assert await read_state(engine, parent.id) == ("QUEUED", 1, 0)
    before = await fetch_sql(engine, "SELECT * FROM headrace.runs WHERE id = $1", children[0].id)
    assert await cancels.cancel_run(engine, 1, children[0].id) == RunEnded(children[0].id, won)
    assert await finish(engine, lease, children, "FAILED") == {children[0].id}
    assert await fetch_sql(engine, "SELECT * FROM headrace.runs WHERE id = $1", children[0].id) == before
    await assert_invariants(engine)


@pytest.mark.parametrize("shape", ["child", "batch"])
async def test_a_run_of_others_that_is_waited_for_by_its_key_is_not_canceled(engine: Engine, shape: str) -> None:
    """It is no child of the canceled run: somebody else triggered it, and may wait for it."""
    shared = await runs.trigger_run(engine, 1, "t", Packet(b"1"), RunOptions(idempotency_key="k"))
    lease = await register(engine, "p", "t")
    parent = await start_parent(engine, lease)
    await parent.write(engine, child("k") if shape == "child" else child_batch(make_items(0, 2, key="k")), child())
    await parent.sleep(engine)
    await cancels.cancel_run(engine, 1, parent.id)
    await sweep_once(engine)
    assert await list_statuses(engine) == ["CANCELED", "CANCELED", "QUEUED"]
    assert isinstance(shared, RunCreated)
    await finish(engine, lease, await claim(engine, lease))
    assert (await look(engine, shared.run_id)).status is RunStatus.COMPLETED
    await assert_invariants(engine)


async def test_a_child_that_is_triggered_first_and_waited_for_later_by_its_key_is_canceled(engine: Engine) -> None:
    lease = await register(engine, "p", "t")
    parent = await start_parent(engine, lease)
    await parent.write(engine, child("k", awaited=False), name="first")
    await parent.write(engine, child("k"))
    await parent.sleep(engine, [("first", 1)])
    await cancels.cancel_run(engine, 1, parent.id)
    assert await list_statuses(engine) == ["CANCELED", "CANCELED"]


async def test_a_cascade_that_stopped_half_way_is_finished_by_the_sweep(engine: Engine) -> None:
    """The process that canceled died after its first transaction: killed in chaos/test_wait_crash_points.py, here stopped."""
    lease = await register(engine, "p", "t")
    top = await start_parent(engine, lease)
    await top.write(engine, child(task="p"))
    await top.sleep(engine)
    [claimed] = await claim(engine, lease, 1, "p")
    middle = type(top)(lease, claimed)
    await middle.write(engine, child(), child(awaited=False))
    await middle.sleep(engine, [("point#2", 5)])
    await engine.store.run_plan(cancels.cancel_runs(1, [top.id], cancels.CANCELED))
    assert await list_statuses(engine) == ["CANCELED", "QUEUED", "QUEUED", "WAITING"]
    report = await sweep_once(engine)
    assert report.runs_canceled == 2
    assert await list_statuses(engine) == ["CANCELED"] * 3 + ["QUEUED"], "what nobody waits for goes on"
    await assert_invariants(engine)


async def test_a_cascade_whose_connection_breaks_leaves_the_rest_to_the_sweep(engine: Engine) -> None:
    """Who canceled is told that the run is canceled, because it is."""
    lease = await register(engine, "p", "t")
    parent = await start_parent(engine, lease)
    await parent.write(engine, child())
    async with holding(engine, "after:find_canceling") as (own, hold):
        canceling = await held_at(hold, cancels.cancel_run(own, 1, parent.id))
        await fetch_sql(
            engine,
            "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity"
            " WHERE datname = current_database() AND state = 'idle in transaction'",
        )
        hold.released.set()
        assert await canceling == RunCanceled(parent.id)
    assert await list_statuses(engine) == ["CANCELED", "QUEUED"]
    await sweep_once(engine)
    assert await list_statuses(engine) == ["CANCELED"] * 2


async def test_a_cancel_of_what_is_not_there_says_so(engine: Engine) -> None:
    assert await cancels.cancel_run(engine, 1, mint_run_id()) == RunMissing()


async def until_waiting(engine: Engine, count: int) -> None:
    async with asyncio.timeout(30):
        while len(await fetch_sql(engine, "SELECT FROM headrace.runs WHERE status = 'WAITING'")) < count:
            await asyncio.sleep(0.01)


async def list_statuses(engine: Engine) -> list[str]:
    return sorted(row["status"] for row in await fetch_sql(engine, "SELECT status FROM headrace.runs"))


@asynccontextmanager
async def living(engine: Engine, *tasks: Task[Any, Any], **changes: Any) -> AsyncGenerator[Worker]:
    """A worker, and the sweeps of deadlines."""
    stop = asyncio.Event()
    sweeping = asyncio.create_task(run_sweeps(engine, stop))
    try:
        async with working(engine, *tasks, **changes) as worker:
            yield worker
    finally:
        stop.set()
        await sweeping
