"""Limits with several worker processes, some of them killed: never exceeded, and no slot is lost with a process."""

from __future__ import annotations

import asyncio
import signal
import time
from collections import Counter, defaultdict
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest

from headrace.engine import queues, tokens
from headrace.engine.engine import Engine
from headrace.engine.outcomes import Packet, RunView
from headrace.engine.sweeps import run_sweeps
from headrace.engine.token_outcomes import TokenCreated
from headrace.ids import format_run_id, format_token_id, mint_token_id
from headrace.protocol.statuses import RunStatus
from headrace.protocol.tokens import CreateToken
from headrace.settings import Settings
from headrace.tasks import Task
from tests.invariants import assert_invariants, fetch_sql
from tests.worker import limit_jobs
from tests.worker.helpers import (
    PATIENCE,
    WorkerProcess,
    await_end,
    look,
    read_output,
    trigger,
    until,
    worker_process,
    working,
)

pytestmark = pytest.mark.anyio

JOBS = str(Path(limit_jobs.__file__))


@asynccontextmanager
async def crew(engine: Engine, settings: Settings, count: int, **changes: Any) -> AsyncGenerator[list[WorkerProcess]]:
    """Worker processes, and somebody whom nobody kills who looks at their leases."""
    stop = asyncio.Event()
    sweeping = asyncio.create_task(run_sweeps(engine, stop, interval=0.05))
    async with AsyncExitStack() as stack:
        starts = [stack.enter_async_context(worker_process(replace(settings, **changes), JOBS)) for _ in range(count)]
        yield [await start for start in starts]
    stop.set()
    await sweeping


async def kill(worker: WorkerProcess, log: Path) -> None:
    """Kills a worker, and notes it: what it executed executes no more."""
    worker.signal(signal.SIGKILL)
    await worker.wait()
    limit_jobs.write(str(log), "killed", worker.pid)


def observe(log: Path) -> tuple[Counter[str], int]:
    """The most runs that executed at once: of each queue ("three"), of each key of one ("keys/a"); and of all together."""
    active: dict[tuple[str, str], list[str]] = {}
    most: Counter[str] = Counter()
    together = 0
    for line in log.read_text().splitlines():
        match line.split():
            case ["start", run, pid, queue, key]:
                active[run, pid] = [queue, f"{queue}/{key}"]
                now = Counter(name for names in active.values() for name in names)
                most |= now
                together = max(together, len(active))
            case ["end", run, pid]:
                del active[run, pid]
            case ["killed", pid]:
                active = {one: names for one, names in active.items() if one[1] != pid}
            case words:
                raise AssertionError(words)
    return most, together


async def drain(engine: Engine, made: list[UUID]) -> None:
    """All of them end, and well."""
    assert {(await await_end(engine, run_id)).status for run_id in made} == {RunStatus.COMPLETED}
    await assert_invariants(engine)


def count_starts(log: Path) -> int:
    return log.read_text().count("start") if log.exists() else 0


async def test_a_queue_never_does_more_than_its_limit(engine: Engine, settings: Settings, tmp_path: Path) -> None:
    """Three workers with ten slots each, a limit of three; one dies with what it holds, and one takes its place."""
    log = tmp_path / "log"
    made = [await trigger(engine, limit_jobs.three, str(log)) for _ in range(80)]
    async with crew(engine, settings, 3, concurrency=10) as workers:
        await until(lambda: count_starts(log) >= 20, "some have started")
        await kill(workers[0], log)
        async with worker_process(settings, JOBS):
            await drain(engine, made)
    most, _ = observe(log)
    assert most["three"] == 3


async def test_keys_never_do_more_than_theirs(engine: Engine, settings: Settings, tmp_path: Path) -> None:
    log = tmp_path / "log"
    made = [
        await trigger(engine, limit_jobs.keys, str(log), concurrency_key="abcdef"[number % 6 if number < 60 else 0])
        for number in range(90)
    ]
    async with crew(engine, settings, 3, concurrency=10) as workers:
        await until(lambda: count_starts(log) >= 20, "some have started")
        await kill(workers[1], log)
        await drain(engine, made)
    most, _ = observe(log)
    assert most["keys"] == 5
    assert {most[f"keys/{key}"] for key in "abcdef"} <= {1, 2}
    assert most["keys/a"] == 2


async def test_an_environment_never_does_more_than_its_limit(
    engine: Engine, settings: Settings, tmp_path: Path
) -> None:
    """Plain runs, runs with concurrency keys and with order keys, on several queues."""
    log = tmp_path / "log"
    await queues.limit_environment(engine, 1, 4)
    made: list[UUID] = []
    for number in range(25):
        made += [
            await trigger(engine, limit_jobs.anything, str(log)),
            await trigger(engine, limit_jobs.keys, str(log), concurrency_key="ab"[number % 2]),
            await trigger(engine, limit_jobs.ordered, str(log), order_key="xy"[number % 2]),
            await trigger(engine, limit_jobs.three, str(log)),
        ]
    async with crew(engine, settings, 3, concurrency=10) as workers:
        await until(lambda: count_starts(log) >= 20, "some have started")
        await kill(workers[2], log)
        await drain(engine, made)
    most, together = observe(log)
    assert together == 4
    assert most["keys/a"] <= 2
    assert most["task/limits.ordered/x"] == most["task/limits.ordered/y"] == 1


async def test_order_keys_keep_their_order_through_deaths(engine: Engine, settings: Settings, tmp_path: Path) -> None:
    """Two workers are killed with heads of keys in their hands; each key's runs start in the order of their triggers."""
    log = tmp_path / "log"
    lines: defaultdict[str, list[str]] = defaultdict(list)
    made: list[UUID] = []
    for number in range(100):
        key = "abcde"[number * 3 % 5]
        made.append(await trigger(engine, limit_jobs.ordered, str(log), order_key=key))
        lines[key].append(format_run_id(made[-1]))
    async with crew(engine, settings, 3, concurrency=10) as workers:
        for number, worker in enumerate(workers[:2]):
            await until(lambda number=number: count_starts(log) >= 20 * (number + 1), "some have started")
            await kill(worker, log)
        await drain(engine, made)
    most, _ = observe(log)
    assert {most[f"task/limits.ordered/{key}"] for key in "abcde"} == {1}
    started = [line.split() for line in log.read_text().splitlines() if line.startswith("start")]
    for key, line in lines.items():
        seen = dict.fromkeys(words[1] for words in started if words[4] == key)  # a run that was taken again counts once
        assert list(seen) == line


async def test_no_slot_is_lost_with_a_worker(engine: Engine, settings: Settings, tmp_path: Path) -> None:
    """Each worker that dies holds the only slots that there are; the next one gets all of them."""
    log = tmp_path / "log"
    gone = replace(settings, max_rescues=0)
    made = [await trigger(engine, limit_jobs.three, str(log)) for _ in range(12)]
    for _ in range(3):
        before = count_starts(log)
        async with crew(engine, gone, 1) as [worker]:
            await until(lambda before=before: count_starts(log) >= before + 3, "its slots are full")
            await kill(worker, log)
            await until_empty(engine)
    async with crew(engine, gone, 1):
        ended = [await await_end(engine, run_id) for run_id in made]
    assert observe(log)[0]["three"] == 3
    assert RunStatus.COMPLETED in {run.status for run in ended}


async def until_empty(engine: Engine) -> None:
    deadline = time.monotonic() + PATIENCE
    while await fetch_sql(engine, "SELECT FROM headrace.runs WHERE status = 'EXECUTING'"):
        assert time.monotonic() < deadline
        await asyncio.sleep(0.02)


async def reach(engine: Engine, run_id: UUID, holds: Callable[[RunView], bool], what: str) -> RunView:
    """The run once that holds."""
    deadline = time.monotonic() + PATIENCE
    while not holds(run := await look(engine, run_id)):
        assert time.monotonic() < deadline, f"{what}: {run}"
        await asyncio.sleep(0.02)
    return run


async def make_token(engine: Engine) -> tuple[str, Callable[[], Awaitable[Any]]]:
    """A token's id, and what completes it."""
    made = await tokens.create_token(engine, 1, mint_token_id(), CreateToken())
    assert isinstance(made, TokenCreated)
    return format_token_id(made.token.id), lambda: tokens.complete_token(engine, 1, made.token.id, Packet(b'"done"'))


async def test_a_run_that_waits_makes_room_for_the_next(engine: Engine, settings: Settings) -> None:
    """A queue of one: the first waits for a person, and meanwhile the others have their turn."""
    (slow, complete), (quick, complete_quick) = await make_token(engine), await make_token(engine)
    await complete_quick()
    first = await trigger(engine, limit_jobs.waits, slow)
    async with crew(engine, settings, 2) as _:
        os_linger = settings.wait_linger
        assert os_linger > 0
        await reach(engine, first, lambda run: run.status is RunStatus.WAITING, "it is put down")
        others = [await trigger(engine, limit_jobs.waits, quick) for _ in range(3)]
        for run_id in others:
            assert read_output(await await_end(engine, run_id)) == "done"
        await complete()
        assert read_output(await await_end(engine, first)) == "done"


@pytest.mark.parametrize("task", [limit_jobs.keeps, limit_jobs.keeps_unlimited])
async def test_a_run_that_keeps_its_slot_is_not_put_down(engine: Engine, task: Task[Any, Any]) -> None:
    (slow, complete), (quick, complete_quick) = await make_token(engine), await make_token(engine)
    await complete_quick()
    async with working(engine, task, limit_jobs.waits, wait_linger=0.05, concurrency=2) as worker:
        first = await trigger(engine, task, slow)
        await reach(engine, first, lambda run: run.status is RunStatus.EXECUTING, "it executes")
        await until(lambda: worker.status.executing == 1, "it is in its slot")
        second = await trigger(engine, task, quick)
        if task is limit_jobs.keeps:
            # others come and go, and are put down, while it stays where it is
            other = await trigger(engine, limit_jobs.waits, slow)
            await reach(engine, other, lambda run: run.status is RunStatus.WAITING, "another is put down")
            assert (await look(engine, second)).status is RunStatus.QUEUED
        else:
            assert read_output(await await_end(engine, second)) == "done"
        assert (await look(engine, first)).status is RunStatus.EXECUTING
        await complete()
        assert read_output(await await_end(engine, first)) == "done"
        assert read_output(await await_end(engine, second)) == "done"
    [row] = await fetch_sql(engine, "SELECT resumes FROM headrace.runs WHERE id = $1", first)
    assert row["resumes"] == 0


async def test_a_run_that_keeps_its_slot_is_put_down_by_a_worker_that_ends(engine: Engine) -> None:
    token, complete = await make_token(engine)
    async with working(engine, limit_jobs.keeps, wait_linger=0.05):
        run_id = await trigger(engine, limit_jobs.keeps, token)
        await reach(engine, run_id, lambda run: run.status is RunStatus.EXECUTING, "it executes")
    assert (await look(engine, run_id)).status is RunStatus.WAITING
    async with working(engine, limit_jobs.keeps):
        await complete()
        assert read_output(await await_end(engine, run_id)) == "done"


async def test_a_pause_holds_for_all_workers(engine: Engine, settings: Settings, tmp_path: Path) -> None:
    log = tmp_path / "log"
    async with crew(engine, settings, 2):
        first = await trigger(engine, limit_jobs.three, str(log))
        await drain(engine, [first])
        await queues.pause_queue(engine, 1, "three", paused=True)
        held = [await trigger(engine, limit_jobs.three, str(log)) for _ in range(5)]
        await drain(engine, [await trigger(engine, limit_jobs.anything, str(log)) for _ in range(20)])
        assert {(await look(engine, run_id)).status for run_id in held} == {RunStatus.QUEUED}
        await queues.pause_environment(engine, 1, paused=True)
        late = await trigger(engine, limit_jobs.anything, str(log))
        await queues.pause_queue(engine, 1, "three", paused=False)
        found = await queues.find_limits(engine, 1)
        assert (found.running, found.queued) == (0, 6)
        await queues.pause_environment(engine, 1, paused=False)
        await drain(engine, [*held, late])


async def test_a_limit_can_be_changed_while_workers_work(engine: Engine, settings: Settings, tmp_path: Path) -> None:
    """Three at once by the code, then one by an operator, then three again; a new worker does not take the word back."""
    log = tmp_path / "log"
    async with crew(engine, settings, 2, concurrency=10):
        await drain(engine, [await trigger(engine, limit_jobs.three, str(log)) for _ in range(20)])
        assert observe(log)[0]["three"] == 3
        await queues.override_queue(engine, 1, "three", limit=1)
        async with worker_process(settings, JOBS):
            second = tmp_path / "second"
            await drain(engine, [await trigger(engine, limit_jobs.three, str(second)) for _ in range(15)])
        assert observe(second)[0]["three"] == 1
        await queues.reset_queue(engine, 1, "three")
        third = tmp_path / "third"
        await drain(engine, [await trigger(engine, limit_jobs.three, str(third)) for _ in range(20)])
        assert observe(third)[0]["three"] == 3
