"""Workers that die, freeze or are stopped while their runs wait, or between two waits: each goes on from its journal."""

from __future__ import annotations

import asyncio
import signal
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from headrace.engine import runs, tokens
from headrace.engine.engine import Engine
from headrace.engine.outcomes import Packet
from headrace.ids import format_token_id
from headrace.protocol.statuses import RunStatus
from headrace.settings import Settings
from headrace.tasks import Task
from tests.engine.parents import make_token
from tests.invariants import assert_invariants, fetch_sql
from tests.worker import tree_jobs as jobs
from tests.worker.helpers import await_end, is_alive, is_there, look, read_output, trigger, until, worker_process
from tests.worker.test_cancel_trees import living, until_waiting
from tests.worker.test_worker_deaths import sweeping

pytestmark = pytest.mark.anyio

JOBS = str(Path(jobs.__file__))
LINGER = {"put-down": "0", "kept": "60"}


@pytest.mark.parametrize("linger", LINGER)
async def test_a_run_whose_worker_was_killed_between_two_points_goes_on_from_its_journal(
    engine: Engine, settings: Settings, tmp_path: Path, linger: str
) -> None:
    """Peers 4, item 9: steps and children that are done are not done again."""
    gate = tmp_path / "gate"
    extra = {"HEADRACE_WAIT_LINGER": LINGER[linger], "HEADRACE_VERSION": "one"}
    async with sweeping(engine):
        async with worker_process(settings, JOBS, **extra) as first:
            top = await trigger(engine, jobs.steps, str(gate))
            await until(lambda: is_there(f"{gate}.begun"), "it waits for the gate")
            first.signal(signal.SIGKILL)
            await first.wait()
        gate.write_text("through")
        async with worker_process(settings, JOBS, **extra):
            run = await await_end(engine, top)
    assert read_output(run) == [1, 1, 1, "through", 1]
    for name in ("first", "child", "second", "third"):
        assert len(Path(f"{gate}.{name}").read_text().splitlines()) == 1
    children = await fetch_sql(engine, "SELECT status FROM headrace.runs WHERE parent_run_id = $1", top)
    assert [row["status"] for row in children] == ["COMPLETED"] * 2
    await assert_invariants(engine)


async def test_a_run_that_dies_with_every_worker_comes_one_point_further_each_time(
    engine: Engine, settings: Settings, tmp_path: Path
) -> None:
    """Waiting for children again and again, each worker killed in the middle of the code after one of them."""
    gate = str(tmp_path / "gate")
    extra = {"HEADRACE_VERSION": "one"}
    async with sweeping(engine):
        top = await trigger(engine, jobs.stepper, {"gate": gate, "turns": 4, "stop": 2})
        for death in range(1, 3):
            async with worker_process(settings, JOBS, **extra) as worker:
                await until(
                    lambda death=death: is_there(f"{gate}.begun") and len(lines(f"{gate}.begun")) == death,
                    "between points",
                )
                worker.signal(signal.SIGKILL)
                await worker.wait()
        Path(gate).touch()
        async with worker_process(settings, JOBS, **extra):
            run = await await_end(engine, top)
    assert read_output(run) == 4
    assert [len(lines(f"{gate}.{turn}")) for turn in range(4)] == [1] * 4
    crashed = [attempt for attempt in await runs.list_attempts(engine, 1, top) if attempt.status is RunStatus.CRASHED]
    assert len(crashed) == 2
    await assert_invariants(engine)


async def test_a_worker_that_was_frozen_past_its_lease_makes_no_child_and_writes_no_point(
    engine: Engine, settings: Settings, tmp_path: Path
) -> None:
    """It thaws in the middle of the code, which goes on to its next child: by then the run is another worker's."""
    gate = str(tmp_path / "gate")
    extra = {"HEADRACE_VERSION": "one"}
    async with sweeping(engine), worker_process(settings, JOBS, **extra) as frozen:
        top = await trigger(engine, jobs.stepper, {"gate": gate, "turns": 6, "stop": 2})
        await until(lambda: is_there(f"{gate}.begun"), "between points")
        frozen.signal(signal.SIGSTOP)
        async with asyncio.timeout(30):
            while (await look(engine, top)).status is RunStatus.EXECUTING:
                await asyncio.sleep(0.01)
        before = await fetch_sql(engine, "SELECT point FROM headrace.journal WHERE run_id = $1", top)
        Path(gate).touch()
        frozen.signal(signal.SIGCONT)
        await until(
            lambda: frozen.logged("lease lost: this worker was silent for too long; its runs are dropped"), "it heard"
        )
        run = await await_end(engine, top)  # by the same process, under a new lease
    assert len(before) == 3
    assert read_output(run) == 6
    assert [len(lines(f"{gate}.{turn}")) for turn in range(6)] == [1] * 6
    assert len(await fetch_sql(engine, "SELECT FROM headrace.runs WHERE parent_run_id = $1", top)) == 6
    await assert_invariants(engine)


@pytest.mark.parametrize("task", [jobs.tree, jobs.tree_in_thread, jobs.tree_in_process])
async def test_a_worker_that_is_told_to_stop_lets_its_waiting_runs_go_on_elsewhere(
    engine: Engine, settings: Settings, tmp_path: Path, task: Task[Any, Any]
) -> None:
    """Peers 4, item 14: what waits does not hold up the worker's end, and is not held up by it."""
    gate = tmp_path / "gate"
    extra = {"HEADRACE_VERSION": "one", "HEADRACE_WAIT_LINGER": "3600"}
    changed = replace(settings, drain_timeout=2.0, lease=30.0)
    async with sweeping(engine):
        async with worker_process(changed, JOBS, **extra) as first:
            top = await trigger(engine, task, {"depth": 1, "gate": str(gate)})
            await until(lambda: is_there(f"{gate}.begun"), "the last level runs")
            first.signal(signal.SIGTERM)
            assert await first.wait() == 3, "the gate was cut off"
            rows = await fetch_sql(engine, "SELECT status FROM headrace.runs ORDER BY depth")
            assert {row["status"] for row in rows} <= {"WAITING", "QUEUED"}
        gate.write_text("through")
        async with worker_process(changed, JOBS, **extra):
            run = await await_end(engine, top)
    assert read_output(run) == "COMPLETED"
    assert len(await fetch_sql(engine, "SELECT FROM headrace.runs")) == 3
    assert not await fetch_sql(engine, "SELECT FROM headrace.runs WHERE rescues > 0 OR failures > 0")
    await assert_invariants(engine)


async def test_the_process_of_a_run_ends_with_its_worker_though_that_had_not_read_what_it_asked(
    engine: Engine, settings: Settings, tmp_path: Path
) -> None:
    gate = tmp_path / "gate"
    async with worker_process(replace(settings, lease=30.0), JOBS) as worker:
        await trigger(engine, jobs.asking_in_process, str(gate))
        await until(lambda: is_there(f"{gate}.begun"), "it runs")
        child = int(lines(f"{gate}.begun")[0])
        worker.signal(signal.SIGSTOP)
        gate.touch()
        await until(lambda: is_there(f"{gate}.asking"), "it comes to its wait")
        await until(lambda: len(list(Path(f"/proc/{child}/task").iterdir())) > 1 and is_asleep(child), "it has asked")
        worker.signal(signal.SIGKILL)
        await worker.wait()
        await until(lambda: not is_alive(child), "it is gone")


@pytest.mark.parametrize("name", ["tree", "tree_in_thread"])
async def test_parents_that_fill_every_slot_do_not_keep_their_children_out(
    engine: Engine, tmp_path: Path, name: str
) -> None:
    """Peers 4, items 3 and 15: three slots, twenty parents that each wait for a child that waits for a child."""
    gate = tmp_path / "gate"
    gate.write_text("open")
    async with living(engine, *jobs.TREES, concurrency=3, wait_linger=3600.0) as worker:
        tops = [await trigger(engine, getattr(jobs, name), {"depth": 1, "gate": str(gate)}) for _ in range(20)]
        ended = [await await_end(engine, top) for top in tops]
        await until(lambda: worker.status.free == 3, "every slot is free")
    assert [read_output(run) for run in ended] == ["COMPLETED"] * 20
    assert len(await fetch_sql(engine, "SELECT FROM headrace.runs")) == 60
    await assert_invariants(engine)


async def test_two_thousand_runs_that_wait_hold_no_slot(engine: Engine, tmp_path: Path) -> None:
    token = await make_token(engine)
    async with living(engine, jobs.asking, jobs.counted, concurrency=20, wait_linger=0.0) as worker:
        tops = [await trigger(engine, jobs.asking, format_token_id(token)) for _ in range(2000)]
        await until_waiting(engine, 2000)
        await until(lambda: worker.status.executing == 0, "no slot is held")
        assert read_output(await await_end(engine, await trigger(engine, jobs.counted, str(tmp_path / "file")))) == 1
        await tokens.complete_token(engine, 1, token, Packet(b'"now"'))
        async with asyncio.timeout(60):
            while await fetch_sql(engine, "SELECT FROM headrace.runs WHERE finished_at IS NULL LIMIT 1"):
                await asyncio.sleep(0.05)
    assert read_output(await look(engine, tops[-1])) == "now"
    rows = await fetch_sql(engine, "SELECT count(*) AS n, status::text FROM headrace.runs GROUP BY 2")
    assert [(row["n"], row["status"]) for row in rows] == [(2001, "COMPLETED")]
    await assert_invariants(engine)


def is_asleep(pid: int) -> bool:
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "S"


def lines(path: str) -> list[str]:
    return Path(path).read_text("utf-8").splitlines()
