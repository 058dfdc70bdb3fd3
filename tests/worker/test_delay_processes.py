"""Delays, times to live and debounce under several worker processes, one of which is killed: each run is started in time or never."""

from __future__ import annotations

import asyncio
import random
import signal
from collections import Counter
from dataclasses import replace
from uuid import UUID

import pytest

from headrace.engine import runs
from headrace.engine.engine import Engine
from headrace.engine.outcomes import Packet, RunCreated, RunExists
from headrace.engine.reschedules import RunNotDelayed, RunRescheduled, reschedule_run
from headrace.protocol.options import Debounce, RunOptions
from headrace.settings import Settings
from tests.invariants import assert_invariants, fetch_sql
from tests.worker import jobs
from tests.worker.helpers import await_end, trigger, worker_process
from tests.worker.test_worker_deaths import sweeping

pytestmark = pytest.mark.anyio

SEED = 20261121
POINT = {"x": 1, "y": 2}


async def test_a_run_is_started_in_time_or_expires_and_never_both(engine: Engine, settings: Settings) -> None:
    """Times to live around the time that the workers need, so that claims and the sweep meet at many of them."""
    dice = random.Random(SEED)
    slow = replace(settings, concurrency=2)
    ttls = [
        0.0,
        0.05,
        *(dice.uniform(0.5, 4.0) for _ in range(150)),
    ]  # one always runs, and one expires before a worker is there
    made = [await trigger(engine, jobs.add, POINT, ttl=ttl) for ttl in ttls]
    async with sweeping(engine), worker_process(slow) as first, worker_process(slow):
        await await_end(engine, made[0])
        first.signal(signal.SIGKILL)
        ended = [await await_end(engine, run_id) for run_id in made]
    for run in ended:
        assert (run.status, run.attempt > 0) in {("COMPLETED", True), ("EXPIRED", False)}, run
    assert (ended[0].status, ended[1].status) == ("COMPLETED", "EXPIRED")
    late = await fetch_sql(
        engine,
        "SELECT id FROM headrace.runs WHERE attempt = 1 AND rescues = 0 AND (options ->> 'ttl')::float8 > 0 AND started_at >= created_at + (options ->> 'ttl')::float8 * interval '1 s'",
    )
    assert late == []
    await assert_invariants(engine)


async def test_runs_that_are_moved_while_they_become_due_run_once_at_the_time_that_they_have(
    engine: Engine, settings: Settings
) -> None:
    dice = random.Random(SEED)
    async with worker_process(settings), worker_process(settings):
        made = [await trigger(engine, jobs.add, POINT, delay=f"{dice.randrange(100, 1500)}ms") for _ in range(60)]

        async def move(run_id: UUID, pause: float) -> bool:
            await asyncio.sleep(pause)  # somewhere around its time, which is the point of it
            answer = await reschedule_run(engine, 1, run_id, f"{dice.randrange(50, 400)}ms")
            assert isinstance(answer, RunRescheduled | RunNotDelayed)
            return isinstance(answer, RunRescheduled)

        moved = await asyncio.gather(*(move(run_id, dice.uniform(0.0, 1.4)) for run_id in made))
        ended = [await await_end(engine, run_id) for run_id in made]
    assert 0 < sum(moved) < len(made)
    assert Counter((run.status, run.attempt) for run in ended) == {("COMPLETED", 1): len(made)}
    early = await fetch_sql(engine, "SELECT id FROM headrace.runs WHERE started_at < delayed_until")
    assert early == []
    await assert_invariants(engine)


async def test_every_debounced_trigger_is_in_a_run_that_starts_after_it(engine: Engine, settings: Settings) -> None:
    """Trailing: what a run was started with is at least as new as each trigger that was answered with it before that."""
    answers: list[tuple[UUID, int]] = []
    created = 0
    async with worker_process(settings), worker_process(settings):

        async def keep_triggering(numbers: range) -> None:
            nonlocal created
            for number in numbers:
                options = RunOptions(debounce=Debounce("k", "30ms", "trailing", "200ms"))
                packet = Packet(b'{"x": %d, "y": 0}' % number)
                answer = await runs.trigger_run(engine, 1, jobs.add.id, packet, options)
                assert isinstance(answer, RunCreated | RunExists)
                created += isinstance(answer, RunCreated)
                answers.append((answer.run_id, number))

        await asyncio.gather(*(keep_triggering(range(first, 600, 3)) for first in range(3)))
        ended = {run_id: await await_end(engine, run_id) for run_id in {run_id for run_id, _ in answers}}
    assert len(ended) == created >= 2
    assert {run.status for run in ended.values()} == {"COMPLETED"}
    for run_id, run in ended.items():
        assert run.output is not None
        mine = {number for other, number in answers if other == run_id}
        assert int(run.output.data or b"-1") in mine  # of those that are answered with this run, and of nobody else's
    early = await fetch_sql(engine, "SELECT id FROM headrace.runs WHERE started_at < delayed_until")
    assert early == []
    await assert_invariants(engine)
