"""A store that is killed, frozen or not there yet: the others work on, and what it holds is done when it is back."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import tempfile
import time
from collections.abc import AsyncGenerator, Generator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

import httpx2
import psutil
import pytest

from headrace.engine.engine import Engine
from headrace.protocol.statuses import RunStatus
from headrace.settings import Settings
from headrace.store.embedded import EmbeddedPostgres
from headrace.store.store import Store
from tests.fleet import add_database, drop_database, join_store, make_template
from tests.invariants import assert_invariants
from tests.processes import wait_until  # pyright: ignore[reportUnknownVariableType]
from tests.server_fixture import running_server
from tests.worker import jobs
from tests.worker.helpers import await_end, execute, read_output, starts, trigger, until, worker_process
from tests.worker.test_many_stores import aim, trigger_in

pytestmark = pytest.mark.anyio


class Cluster:
    """A PostgreSQL that a test may kill or freeze."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._server = EmbeddedPostgres(folder)
        self._frozen: list[psutil.Process] = []
        self.url = self._server.start()
        self.template = asyncio.run(make_template(self.url))

    def start(self) -> None:
        self._server.start()

    def kill(self) -> None:
        """SIGKILL of all its processes."""
        processes = self._processes()
        for one in processes:
            with contextlib.suppress(psutil.NoSuchProcess):
                one.kill()
        wait_until(lambda: not any(one.is_running() and one.status() != "zombie" for one in processes), "it is gone")

    def freeze(self) -> None:
        """SIGSTOP of all its processes: connections stay, and nobody answers."""
        self._frozen = self._processes()
        for one in self._frozen:
            one.send_signal(signal.SIGSTOP)

    def thaw(self) -> None:
        for one in self._frozen:
            with contextlib.suppress(psutil.NoSuchProcess):
                one.send_signal(signal.SIGCONT)
        self._frozen = []

    def stop(self) -> None:
        self.thaw()
        self._server.stop()

    def _processes(self) -> list[psutil.Process]:
        head = psutil.Process(int((self._folder / "postmaster.pid").read_text().splitlines()[0]))
        return [head, *head.children(recursive=True)]


@pytest.fixture(scope="module")
def cluster() -> Generator[Cluster]:
    with tempfile.TemporaryDirectory(prefix="hr-test-", ignore_cleanup_errors=True) as folder:
        made = Cluster(Path(folder))
        yield made
        made.stop()


@pytest.fixture
async def pair(settings: Settings, cluster: Cluster) -> AsyncGenerator[tuple[Engine, Engine]]:
    """Home, and a store on a cluster of its own."""
    url = await add_database(cluster.url, cluster.template)
    home = await Engine.open(replace(settings, store_patience=0.5), listen=True)
    try:
        yield home, await join_store(home, "s1", url)
    finally:
        cluster.thaw()
        with contextlib.suppress(Exception):
            await asyncio.to_thread(cluster.start)
        await home.close()
        await drop_database(url)


@asynccontextmanager
async def away(cluster: Cluster, how: str) -> AsyncGenerator[None]:
    """The cluster is killed, or frozen, until the block ends."""
    if how == "killed":
        await asyncio.to_thread(cluster.kill)
        try:
            yield
        finally:
            await asyncio.to_thread(cluster.start)
    else:
        cluster.freeze()
        try:
            yield
        finally:
            cluster.thaw()


@pytest.mark.parametrize("how", ["killed", "frozen"])
async def test_the_others_work_on_and_its_runs_finish_when_it_is_back(
    settings: Settings, cluster: Cluster, pair: tuple[Engine, Engine], tmp_path: Path, how: str
) -> None:
    home, other = pair
    gate = tmp_path / "gate"
    # two slots: one is in use by a run of the store that goes away, and its claims must not keep the other
    async with worker_process(replace(settings, concurrency=2)) as worker:
        [held] = await trigger_in(other, jobs.wait, str(gate))
        await until(lambda: starts(gate), "it executes")
        waiting = await trigger_in(other, "w.later", None, 3)
        await aim(home)
        async with away(cluster, how):
            began = time.monotonic()
            for number in range(6):
                assert read_output(await execute(home, jobs.add, {"x": number})) == number
            assert time.monotonic() - began < 10
            gate.touch()  # its result can't be written now
            async with worker_process(settings) as second:  # begun while one store is away
                assert not [line for line in second.logged("worker started") if line["store"] == "s1"]
                assert read_output(await execute(home, jobs.add, {"x": 9})) == 9
                worker.signal(signal.SIGSTOP)
                assert read_output(await execute(home, jobs.add, {"x": 10})) == 10, "it works by itself"
                worker.signal(signal.SIGCONT)
        end = await await_end(home, held)
        assert (end.status, read_output(end).startswith("done by")) == (RunStatus.COMPLETED, True)
        [late] = await trigger_in(other, jobs.add, {"x": 11})
        assert read_output(await await_end(home, late)) == 11
        assert worker.process is not None
        assert worker.process.poll() is None
        told = [line.get("store") for line in worker.logged("lease not renewed, trying again")]
        assert (set(told), how) in [({"s1"}, "killed"), ({"s1"}, "frozen"), (set(), "frozen")]
        assert {(await other.store.fetch("find_run", 1, run_id))[0]["status"] for run_id in waiting} == {"QUEUED"}
    await assert_invariants(home)
    await assert_invariants(other)


async def test_a_worker_that_is_told_to_end_does_so_though_a_store_is_frozen(
    settings: Settings, cluster: Cluster, pair: tuple[Engine, Engine], tmp_path: Path
) -> None:
    home, other = pair
    gate = tmp_path / "gate"
    async with worker_process(settings) as worker:
        [own] = await trigger_in(home, jobs.wait, str(gate))
        [held] = await trigger_in(other, jobs.wait, str(gate))
        await until(lambda: len(starts(gate)) == 2, "both execute")
        async with away(cluster, "frozen"):
            gate.touch()
            worker.signal(signal.SIGTERM)
            began = time.monotonic()
            assert await worker.wait() == 3, "what it did for the frozen store is not written"
            assert time.monotonic() - began < 25
    assert (await await_end(home, own)).status is RunStatus.COMPLETED
    async with worker_process(settings):
        assert (await await_end(home, held)).status is RunStatus.COMPLETED


async def test_limits_of_time_hold_for_a_frozen_store(cluster: Cluster, pair: tuple[Engine, Engine]) -> None:
    """asyncpg waits until the server has broken off a statement: for ever, where nobody gives the connection up."""
    _, other = pair
    store = await Store.open(other.settings)
    try:
        await store.fetch("check_database")
        async with away(cluster, "frozen"):
            began = time.monotonic()
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.2):
                    await store.fetch("check_database")
            assert time.monotonic() - began < 5
        await store.fetch("check_database")
    finally:
        await store.close()


async def test_a_server_is_ready_and_says_which_store_is_away(
    settings: Settings, cluster: Cluster, pair: tuple[Engine, Engine]
) -> None:
    home, other = pair
    await trigger_in(home, "t.nobody", None, 2)
    await trigger_in(other, "t.nobody", None, 3)
    await trigger_in(other, "t.other", None, 1)
    with running_server(replace(settings, store_patience=0.5)) as server:
        async with httpx2.AsyncClient(
            base_url=server.url, headers={"authorization": f"Bearer {server.key}"}, timeout=20
        ) as client:
            text = (await client.get("/metrics")).text
            assert 'headrace_queue_depth{environment="dev",queue="task/t.nobody"} 5.0' in text
            assert 'headrace_queue_depth{environment="dev",queue="task/t.other"} 1.0' in text
            assert 'headrace_store_up{store="home"} 1.0' in text
            assert 'headrace_store_up{store="s1"} 1.0' in text
            async with away(cluster, "killed"):
                text = (await client.get("/metrics")).text
                assert 'headrace_queue_depth{environment="dev",queue="task/t.nobody"} 2.0' in text
                assert "task/t.other" not in text
                assert 'headrace_store_up{store="s1"} 0.0' in text
                assert (await client.get("/readyz")).status_code == 200
            async with asyncio.timeout(20):
                while 'headrace_store_up{store="s1"} 1.0' not in (await client.get("/metrics")).text:
                    await asyncio.sleep(0.05)


async def test_sweeps_of_other_stores_go_on_while_one_is_away(
    settings: Settings, cluster: Cluster, pair: tuple[Engine, Engine]
) -> None:
    home, other = pair
    with running_server(settings):
        async with away(cluster, "frozen"):
            [here] = await trigger_in(home, "t.nobody", None, ttl=1)
            assert (await await_end(home, here)).status is RunStatus.EXPIRED
        await aim(other)
        there = await trigger(home, "t.nobody", None, ttl=1)
        assert (await await_end(home, there)).status is RunStatus.EXPIRED
