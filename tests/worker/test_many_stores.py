"""One worker for several stores: a lease in each, slots that all share, and none that waits for another."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import pytest

from headrace.engine import dev_sessions
from headrace.engine.engine import Engine
from headrace.engine.everywhere import do_everywhere
from headrace.engine.registry import change_store
from headrace.engine.sweeps import run_sweeps
from headrace.protocol.statuses import RunStatus
from headrace.settings import Settings
from tests.fleet import add_database, drop_database, join_store
from tests.invariants import assert_invariants
from tests.worker import jobs, waiting_jobs
from tests.worker.helpers import (
    await_end,
    execute,
    look,
    read_output,
    starts,
    trigger,
    until,
    worker_process,
    working,
)

pytestmark = pytest.mark.anyio


@pytest.fixture
async def stores(settings: Settings, postgres: str, template: str) -> AsyncGenerator[list[Engine]]:
    """The engines of home, s1 and s2, of one process."""
    urls = {name: await add_database(postgres, template) for name in ("s1", "s2")}
    home = await Engine.open(settings, listen=True)
    try:
        yield [home, *[await join_store(home, name, url) for name, url in urls.items()]]
    finally:
        await home.close()
        for url in urls.values():
            await drop_database(url)


async def aim(target: Engine) -> None:
    """New roots go to this store."""
    for record in list(target.stores.records()):
        await change_store(target.home, record.name, weight=float(record.key == target.key))


async def trigger_in(store: Engine, task: Any, payload: Any, count: int = 1, **options: Any) -> list[UUID]:
    """New runs in a store."""
    await aim(store)
    made = [await trigger(store.home, task, payload, **options) for _ in range(count)]
    assert {store.at(run_id) for run_id in made} == {store}
    return made


async def count_leases(store: Engine) -> int:
    """Workers with a lease in a store."""
    [row] = await ask(store, "SELECT count(*) AS n FROM headrace.workers WHERE ended_at IS NULL")
    return row["n"]


async def ask(store: Engine, sql: str, *args: Any) -> list[Any]:
    async with store.store.connect() as connection:
        return await connection.fetch(sql, *args)


@asynccontextmanager
async def sweeping(home: Engine) -> AsyncGenerator[None]:
    """Sweeps of every store, as a server and a worker do them."""
    stop = asyncio.Event()
    job = asyncio.create_task(do_everywhere(home, lambda one: run_sweeps(one, stop)))
    try:
        yield
    finally:
        job.cancel()
        await asyncio.wait({job})


async def test_one_worker_executes_the_runs_of_every_store(stores: list[Engine]) -> None:
    home = stores[0]
    async with working(home, jobs.add, jobs.add_in_thread, jobs.add_in_process) as worker:
        assert worker.status.stores == 3, "it is ready once it is at work in each"
        assert [await count_leases(store) for store in stores] == [1, 1, 1]
        for store in stores:
            made = [
                (await trigger_in(store, task, {"x": 2, "y": 1}))[0]
                for task in (jobs.add, jobs.add_in_thread, jobs.add_in_process)
            ]
            assert [read_output(await await_end(home, run_id)) for run_id in made] == [3, 3, 3]
        assert (worker.status.claimed, worker.status.written) == (9, 9)
    assert [await count_leases(store) for store in stores] == [0, 0, 0]
    for store in stores:
        await assert_invariants(store)


async def test_stores_share_the_slots_and_each_gets_some(stores: list[Engine], tmp_path: Path) -> None:
    """Four slots for all: as many runs execute at a time, one at least of each store."""
    home, gates = stores[0], [tmp_path / f"gate-{number}" for number in range(3)]
    made: list[UUID] = []
    for store, gate in zip(stores, gates, strict=True):
        made += await trigger_in(store, jobs.wait, str(gate), 6)
    async with working(home, jobs.wait, concurrency=4) as worker:
        await until(lambda: worker.status.executing == 4, "all slots are taken")
        await until(lambda: sum(len(starts(gate)) for gate in gates) >= 4, "they have started")
        opened = max(gates, key=lambda gate: len(starts(gate)))
        opened.touch()  # those of one store end, and what is freed goes to all again
        await until(lambda: all(starts(gate) for gate in gates), "some of every store have started")
        assert worker.status.executing <= 4
        assert sum(len(starts(gate)) for gate in gates if gate != opened) <= 4
        for gate in gates:
            gate.touch()
        for run_id in made:
            assert (await await_end(home, run_id)).status is RunStatus.COMPLETED
        assert worker.status.free == 4


async def test_a_busy_store_starves_no_other(stores: list[Engine]) -> None:
    home, busy, other = stores
    backlog = await trigger_in(busy, jobs.add, {"x": 1}, 120)
    async with working(home, jobs.add, concurrency=2) as worker:
        await until(lambda: worker.status.claimed > 4, "it is busy")
        [late] = await trigger_in(other, jobs.add, {"x": 2})
        await await_end(home, late)
        left = await ask(busy, "SELECT count(*) AS n FROM headrace.runs WHERE finished_at IS NULL")
        assert left[0]["n"] > 20, "the backlog of the other store was not done first"
        for run_id in backlog:
            await await_end(home, run_id)
        assert worker.status.lost == 0


async def test_a_run_that_waits_gives_its_slot_to_another_store(stores: list[Engine], tmp_path: Path) -> None:
    """It waits in memory as long as there are free slots: once there are none it is put down, whose runs ever took the last."""
    home, first, second = stores
    gate = tmp_path / "gate"
    given = {"file": str(tmp_path / "steps"), "seconds": 3600}
    async with working(
        home, waiting_jobs.sleeper, jobs.add, jobs.wait, concurrency=2, wait_linger=600.0, poll_interval=60.0
    ):
        [waiting] = await trigger_in(first, waiting_jobs.sleeper, given)
        await until(Path(f"{given['file']}.before").exists, "it has come to its wait")
        [busy] = await trigger_in(second, jobs.wait, str(gate))
        await until(lambda: starts(gate), "the other slot is taken")
        [other] = await trigger_in(second, jobs.add, {"x": 4})
        assert read_output(await await_end(home, other)) == 4
        assert (await look(home, waiting)).status is RunStatus.WAITING
        gate.touch()
        await await_end(home, busy)


async def test_a_store_that_is_added_is_worked_for_and_one_that_is_removed_is_left(
    settings: Settings, engine: Engine, postgres: str, template: str
) -> None:
    url = await add_database(postgres, template)
    home = engine.home
    try:
        async with worker_process(settings) as worker:
            added = await join_store(home, f"late-{uuid4().hex[:6]}", url)
            [run_id] = await trigger_in(added, jobs.add, {"x": 7})
            assert read_output(await await_end(home, run_id)) == 7
            [before] = [line for line in worker.logged("worker started") if line["store"] == added.name]
            assert before["concurrency"] == settings.concurrency
            await change_store(home, added.name, state="draining")
            assert (await execute(home, jobs.add, {"x": 8})).output is not None
            assert not worker.logged("worker stopped"), "what is in a store that drains is still to be done"
            await change_store(home, added.name, state="removed")
            await until(lambda: worker.logged("worker stopped"), "it has left")
            assert [line["store"] for line in worker.logged("worker stopped")] == [added.name]
            assert (await execute(home, jobs.add, {"x": 9})).output is not None
            worker.signal(signal.SIGTERM)
            assert await worker.wait() == 0
            assert not worker.logged("claim failed, trying again"), "it left before the connections were closed"
    finally:
        await home.close()
        await drop_database(url)


async def test_sigterm_drains_every_store(settings: Settings, stores: list[Engine], tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    async with worker_process(settings) as worker:
        made = [(await trigger_in(store, jobs.wait, str(gate)))[0] for store in stores]
        await until(lambda: len(starts(gate)) == 3, "one of each store executes")
        worker.signal(signal.SIGTERM)
        await until(lambda: len(worker.logged("worker draining")) == 3, "it drains in each")
        late = [(await trigger_in(store, jobs.add, {"x": 1}))[0] for store in stores]
        gate.touch()
        assert await worker.wait() == 0
    for run_id in made:
        assert (await look(stores[0], run_id)).status is RunStatus.COMPLETED
    assert {(await look(stores[0], run_id)).status for run_id in late} == {RunStatus.QUEUED}
    assert [await count_leases(store) for store in stores] == [0, 0, 0]


async def test_what_is_cut_off_is_given_back_in_every_store(
    settings: Settings, stores: list[Engine], tmp_path: Path
) -> None:
    gate = tmp_path / "gate"
    async with worker_process(replace(settings, drain_timeout=0.2)) as worker:
        made = [(await trigger_in(store, jobs.wait, str(gate)))[0] for store in stores]
        await until(lambda: len(starts(gate)) == 3, "one of each store executes")
        worker.signal(signal.SIGTERM)
        assert await worker.wait() == 3
    assert {(await look(stores[0], run_id)).status for run_id in made} == {RunStatus.QUEUED}


async def test_every_store_is_swept(settings: Settings, stores: list[Engine], tmp_path: Path) -> None:
    """A worker that dies is noticed in every store, and a run that nobody wanted in time expires in each."""
    home, gate = stores[0], tmp_path / "gate"
    async with worker_process(settings) as worker:
        held = [(await trigger_in(store, jobs.wait, str(gate)))[0] for store in stores]
        await until(lambda: len(starts(gate)) == 3, "one of each store executes")
        worker.signal(signal.SIGKILL)
        await worker.wait()
    expiring = [(await trigger_in(store, "w.nobody", None, ttl=1))[0] for store in stores]
    gate.touch()
    async with sweeping(home), working(home, jobs.wait):
        ends = [await await_end(home, run_id) for run_id in (*held, *expiring)]
    assert [end.status for end in ends] == [RunStatus.COMPLETED] * 3 + [RunStatus.EXPIRED] * 3
    assert [end.attempt for end in ends[:3]] == [2, 2, 2]


async def test_waits_for_an_end_in_another_store_wake_at_once(stores: list[Engine]) -> None:
    """By a hint of that store's own: without one they would look a second later."""
    home, other, _ = stores
    loop = asyncio.get_running_loop()
    async with working(home, jobs.add, poll_interval=60.0):
        await until(lambda: other.notices.listening and home.notices.listening, "hints are heard")
        await aim(other)
        took: list[float] = []
        for _ in range(5):
            began = loop.time()
            await execute(home, jobs.add, {"x": 1})
            took.append(loop.time() - began)
    assert sorted(took)[2] < 0.6, took


async def test_a_session_of_headrace_dev_that_ends_cancels_what_it_began_in_every_store(
    settings: Settings, stores: list[Engine], tmp_path: Path
) -> None:
    home, session = stores[0], uuid4().hex
    gate = tmp_path / "gate"
    async with worker_process(
        settings, HEADRACE_DEV_SESSION=session, HEADRACE_DEV_GRACE="2", HEADRACE_LEASE="600"
    ) as worker:
        made = [(await trigger_in(store, jobs.wait, str(gate)))[0] for store in stores]
        await until(lambda: len(starts(gate)) == 3, "one of each store executes")
        for store in stores:
            [kept] = await ask(store, "SELECT id FROM headrace.dev_sessions")
            assert kept["id"].hex == session
        worker.signal(signal.SIGKILL)
        await worker.wait()
    async with sweeping(home):
        ends = [await await_end(home, run_id) for run_id in made]
    assert [end.status for end in ends] == [RunStatus.CANCELED] * 3
    assert [end.error for end in ends] == [dev_sessions.AWAY] * 3
