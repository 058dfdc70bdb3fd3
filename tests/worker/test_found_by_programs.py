"""What random programs (tests/chaos/test_programs.py) found, each in its smallest form."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from headrace import Item, Retry, step, task, wait
from headrace.engine.engine import Engine
from headrace.engine.sweeps import run_sweeps
from tests.invariants import fetch_sql
from tests.worker.helpers import await_end, execute, read_output, trigger, working
from tests.worker.waiting_jobs import count

pytestmark = pytest.mark.anyio

ONCE = Retry(max_attempts=1)


@task(id="f.slow", retry=ONCE)
async def slow(number: float) -> float:
    await wait.for_(number)
    return number


@task(id="f.doubled", retry=ONCE)
async def doubled(numbers: list[float]) -> list[float]:
    """A batch in which the last item has the key of the first."""
    items = [Item(number, idempotency_key=str(number)) for number in [*numbers, numbers[0]]]
    return [outcome.unwrap() for outcome in await slow.batch_trigger_and_wait(items)]


@task(id="f.timed_out", retry=ONCE)
async def timed_out() -> str:
    """A step that takes too long is given up; and the run is put down after that."""
    takes_long = asyncio.ensure_future(step("takes long", asyncio.sleep, 60))
    patience = asyncio.ensure_future(wait.for_(0.1, key="patience"))
    done, _ = await asyncio.wait({takes_long, patience}, return_when=asyncio.FIRST_COMPLETED)
    takes_long.cancel()
    await wait.for_(0.1, key="rest")
    return "given up" if patience in done else "done"


@task(id="f.tried_again", retry=ONCE)
async def tried_again(file: str) -> str:
    """A step is given up in its second try; the next replay tries it again, and is quick to succeed."""

    async def flaky() -> None:
        times = count(file)
        if times == 1:
            raise ValueError("the first time")
        await asyncio.sleep(60 if times == 2 else 0.05)

    async def try_it() -> None:
        await step("flaky", flaky, retry=Retry(max_attempts=2, min_delay=0.01, jitter=False))
        count(f"{file}.succeeded")
        await wait.for_(60)

    tries = asyncio.ensure_future(try_it())
    patience = asyncio.ensure_future(wait.for_(0.3, key="patience"))
    done, _ = await asyncio.wait({tries, patience}, return_when=asyncio.FIRST_COMPLETED)
    tries.cancel()
    for _ in range(2):
        await wait.for_(0.3)
    return "given up" if patience in done else "done"


@task(id="f.limited", retry=ONCE)
async def limited(way: str) -> float:
    """Children one at a time, or as they come: both wait for something of asyncio's that is no task."""
    limit = asyncio.Semaphore(1 if way == "gather" else 3)

    async def child(number: float) -> float:
        async with limit:
            return (await slow.trigger_and_wait(number)).unwrap()

    numbers = [0.01, 0.02, 0.03]
    if way == "gather":
        return sum(await asyncio.gather(*(child(number) for number in numbers)))
    return sum([await one for one in asyncio.as_completed([child(number) for number in numbers])])


CALLS: list[str] = []


@task(id="f.reordered", retry=ONCE)
async def reordered(name: str) -> list[float]:
    """Its tasks get the lock in another order each time, as those of asyncio.as_completed do in Python 3.11."""
    CALLS.append(name)
    limit = asyncio.Semaphore(1)

    async def child(number: float) -> float:
        async with limit:
            return (await slow.trigger_and_wait(number)).unwrap()

    numbers = [0.01, 0.02, 0.03]
    started = {n: asyncio.ensure_future(child(n)) for n in (numbers if len(CALLS) % 2 else numbers[::-1])}
    return [await started[number] for number in numbers]


async def test_a_replay_in_which_another_task_gets_the_lock_goes_on(engine: Engine) -> None:
    """It holds the lock and comes to a new point; the one whose point the journal has waits for the lock."""
    CALLS.clear()
    async with living(engine, concurrency=1):
        run = await execute(engine, reordered, "x")
    assert read_output(run) == [0.01, 0.02, 0.03]
    assert len(CALLS) > 1
    rows = await fetch_sql(engine, "SELECT FROM headrace.runs WHERE parent_run_id = $1", run.id)
    assert len(rows) == 3, "a child each, whatever came first"


async def test_a_batch_has_not_ended_when_its_first_item_has(engine: Engine) -> None:
    """They have one id, and a run that a key stands for is watched."""
    async with living(engine):
        assert read_output(await execute(engine, doubled, [0.01, 0.5])) == [0.01, 0.5, 0.01]


async def test_a_step_is_given_up_before_the_run_is_put_down(engine: Engine) -> None:
    """The replay begins the step again, gives it up, and comes at once to the last point that it has met."""
    async with living(engine):
        run = await execute(engine, timed_out)
    assert run.resumes > 0
    assert read_output(run) == "given up"


@pytest.mark.parametrize("linger", [0.0, 0.15], ids=["put-down-between-its-tries", "put-down-after-them"])
async def test_a_step_that_was_given_up_in_its_second_try_does_not_win_in_a_replay(
    engine: Engine, tmp_path: Path, linger: float
) -> None:
    """That it is to be tried again was told before the end of the wait; what comes of the new try was not."""
    async with living(engine, linger):
        run = await execute(engine, tried_again, str(tmp_path / "count"))
    assert read_output(run) == "given up"
    points = await fetch_sql(engine, "SELECT point FROM headrace.journal WHERE run_id = $1 AND kind = 'time'", run.id)
    assert not (tmp_path / "count.succeeded").exists()
    assert run.resumes < 10, "it was woken again and again by a step that nobody waits for"
    assert {row["point"] for row in points} == {"wait:patience", "wait:for", "wait:for#2"}


@pytest.mark.parametrize("way", ["gather", "as_completed"])
async def test_parents_do_not_hold_the_slots_that_their_children_need(engine: Engine, way: str) -> None:
    async with living(engine, concurrency=2):
        parents = [await trigger(engine, limited, way) for _ in range(4)]
        sums = [read_output(await await_end(engine, run_id)) for run_id in parents]
    assert sums == [pytest.approx(0.06)] * 4


@asynccontextmanager
async def living(engine: Engine, linger: float = 0.0, **changes: Any) -> AsyncGenerator[None]:
    stop = asyncio.Event()
    sweeping = asyncio.create_task(run_sweeps(engine, stop))
    tasks: list[Any] = [slow, doubled, timed_out, tried_again, limited, reordered]
    async with working(engine, *tasks, wait_linger=linger, **changes):
        yield
    stop.set()
    await sweeping
