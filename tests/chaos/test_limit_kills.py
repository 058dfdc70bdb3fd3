"""Claims under limits over two stores that are frozen, killed or cut off at each of their statements.

All that are frozen in one test are so at once: each has a task and a queue of its own.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import asdict, replace
from pathlib import Path

import anyio
import pytest

from headrace.engine.control_copies import spread_control
from headrace.engine.engine import Engine
from headrace.engine.outcomes import WorkerLease
from headrace.engine.queues import declare_queue
from headrace.engine.turns import Turns
from headrace.queues import Queue
from headrace.settings import Settings
from tests.engine.backlogs import fill, take
from tests.engine.helpers import register
from tests.invariants import fetch_sql
from tests.pairs import other_url, pair

__all__ = ["other_url", "pair"]

pytestmark = pytest.mark.anyio

CHILD = Path(__file__).with_name("limit_child.py")
LIMIT = 3

# {own} is the child's store, {beside} the other one
POINTS = [
    "before:lock_named_limits:{own}",
    "after:lock_named_limits:{own}",
    "before:lock_named_limits:{beside}",
    "after:lock_named_limits:{beside}",
    "before:count_limits:{own}",
    "after:count_limits:{beside}",
    "before:claim_limited_runs:{own}",
    "after:claim_limited_runs:{own}",
    "after:note_turns:{own}",
    "committed",
]


class Child:
    """A claim of another process that stops at a point."""

    def __init__(self, settings: Settings, store: str, worker: int, task: str, sign: str, point: str) -> None:
        self.task = task
        self.point = point
        arguments = [json.dumps(asdict(settings)), store, str(worker), task, str(LIMIT - 1), sign, point]
        self.process = subprocess.Popen([sys.executable, str(CHILD), *arguments], stdout=subprocess.PIPE, text=True)

    def reach(self) -> None:
        """Waits until it has stopped, or was killed."""
        _, status = os.waitpid(self.process.pid, os.WUNTRACED)
        if not os.WIFSTOPPED(status):
            self.process.returncode = os.waitstatus_to_exitcode(status)
        assert os.WIFSTOPPED(status) or os.WIFSIGNALED(status), f"{self.point} was never reached"

    def end(self) -> str:
        """Lets it go on, if it can, and gives what it has to say."""
        if self.process.returncode is None:
            self.process.send_signal(signal.SIGCONT)
        said, _ = self.process.communicate(timeout=60)
        return said


@asynccontextmanager
async def stopped(
    stores: list[Engine], own: str, sign: str, points: list[str], settings: Settings
) -> AsyncGenerator[tuple[Engine, WorkerLease, list[Child]]]:
    """Children that claim from the store ``own`` and have stopped, each at its point; the other store, and a worker of it."""
    tasks = [f"t{number}" for number in range(len(points))]
    [here] = [one for one in stores if one.key == own]
    [beside] = [one for one in stores if one.key != own]
    lease = await register(beside, *tasks)
    workers = [(await register(here, *tasks)).worker_id for _ in tasks]  # a claim holds its worker's row
    for task in tasks:
        await declare_queue(stores[0], 1, Queue(f"task/{task}", LIMIT))
        for one in stores:
            await fill(one, task, 10)
    await spread_control(stores[0])
    children: list[Child] = []
    try:
        for worker, task, point in zip(workers, tasks, points, strict=True):
            children.append(Child(settings, own, worker, task, sign, point.format(own=own, beside=beside.key)))
        await asyncio.gather(*(asyncio.to_thread(child.reach) for child in children))
        yield beside, lease, children
    finally:
        for child in children:
            if child.process.returncode is None and child.process.poll() is None:
                child.process.kill()
            child.process.communicate()


async def count_executing(stores: list[Engine]) -> dict[str, int]:
    """How much executes in all stores, by task."""
    counts: dict[str, int] = {}
    for one in stores:
        for row in await fetch_sql(
            one,
            "SELECT l.task, count(*) AS n FROM headrace.runs AS r JOIN headrace.lanes AS l ON l.id = r.lane_id"
            " WHERE r.status = 'EXECUTING' GROUP BY l.task",
        ):
            counts[row["task"]] = counts.get(row["task"], 0) + row["n"]
    return counts


async def take_the_rest(stores: list[Engine], beside: Engine, lease: WorkerLease, tasks: list[str]) -> None:
    """Claims in the other store until as many execute as may."""
    turns = {task: Turns() for task in tasks}
    async with asyncio.timeout(60):
        while (counts := await count_executing(stores)) != dict.fromkeys(tasks, LIMIT):
            assert max(counts.values(), default=0) <= LIMIT
            for task in tasks:
                if counts.get(task, 0) < LIMIT:
                    await take(beside, lease, turns[task], 10, task)
            await anyio.sleep(0.02)


@pytest.mark.parametrize("own", ["0", "1"])
async def test_a_claim_that_is_frozen_anywhere_holds_nothing_up_and_exceeds_nothing(
    pair: list[Engine], own: str
) -> None:
    """Its sessions end with its lease. Woken again, it finds its claim made or not, and what others took meanwhile stands."""
    async with stopped(pair, own, "STOP", POINTS, pair[0].settings) as (beside, lease, children):
        await take_the_rest(pair, beside, lease, [child.task for child in children])
        said = {child.point: await asyncio.to_thread(child.end) for child in children}
        assert set((await count_executing(pair)).values()) == {LIMIT}, said


async def test_a_claim_that_is_killed_leaves_nothing_behind(pair: list[Engine]) -> None:
    async with stopped(pair, "1", "KILL", POINTS, pair[0].settings) as (beside, lease, children):
        await take_the_rest(pair, beside, lease, [child.task for child in children])


@pytest.mark.parametrize("own", ["0", "1"])
async def test_a_claim_whose_locks_elsewhere_are_lost_exceeds_nothing(pair: list[Engine], own: str) -> None:
    """The other store's server goes down and up again while claims are being made: their locks there are gone, their counts old."""
    patient = replace(pair[0].settings, lease=30.0)  # their sessions live as long as the test
    points = [f"{when}:{name}:{{own}}" for name in ("claim_limited_runs", "note_turns") for when in ("before", "after")]
    async with stopped(pair, own, "STOP", points, patient) as (beside, lease, children):
        [row] = await fetch_sql(
            beside,
            "SELECT count(pg_terminate_backend(pid)) AS n FROM pg_stat_activity"
            " WHERE datname = current_database() AND state = 'idle in transaction'",
        )
        assert row["n"] == len(children)
        tasks = [child.task for child in children]
        for task in tasks:  # a claim that counts them now must wait for them, or leave it
            await take(beside, lease, Turns(), 10, task)
        said = {child.point: await asyncio.to_thread(child.end) for child in children}
        assert max((await count_executing(pair)).values(), default=0) <= LIMIT, said
        assert "2" in said.values(), "one at least was made, or nothing was tried"
        await take_the_rest(pair, beside, lease, tasks)
