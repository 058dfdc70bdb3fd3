"""``headrace dev`` that goes away, as a user sees it: real processes, ended by Ctrl-C and by SIGKILL of all of them."""

from __future__ import annotations

import asyncio
import json
import signal
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import psutil
import pytest
from tests.conftest import execute_sql
from tests.e2e.commands import Running, clean_environment, running_headrace
from tests.engine.scheduling import Clock
from tests.processes import wait_until

from headrace import Client
from headrace.engine import sweeps
from headrace.settings import Settings

CODE = """
import os, time
from pathlib import Path
from headrace import task, wait

@task
def {name}(gate: str) -> str:
    with Path(gate + ".started").open("a") as log:
        log.write("x")
    while not Path(gate).exists():
        time.sleep(0.02)
    return "through"

@task
async def {name}_waits(_: None) -> None:
    await wait.for_("1h")
"""
QUICK = {
    "lease": "1.5",
    "heartbeat": "0.3",
    "poll_interval": "0.1",
    "sweep_interval": "0.1",
    "drain_timeout": "0.1",
    "wait_linger": "0",
    "log_level": "error",
    "dev_grace": "120",
}


@dataclass
class World:
    """A database, a folder for each process, and a gate that runs wait at."""

    settings: Settings
    folder: Path

    @property
    def url(self) -> str:
        return self.settings.database_url

    @property
    def gate(self) -> str:
        return str(self.folder / "gate")

    def started(self) -> int:
        """How often a run has come to the gate."""
        log = Path(f"{self.gate}.started")
        return len(log.read_text()) if log.exists() else 0

    def code(self, name: str) -> str:
        path = self.folder / f"{name}_tasks.py"
        path.write_text(CODE.format(name=name), encoding="utf-8")
        return str(path)

    def environment(self, name: str) -> dict[str, str]:
        return clean_environment(database_url=self.url, data_dir=str(self.folder / name), **QUICK)

    @contextmanager
    def dev(self) -> Generator[tuple[Running, Client]]:
        """``headrace dev``, always of the same folder."""
        arguments = ["dev", self.code("dev"), "--port", "0", "--no-reload", "--json"]
        with running_headrace(*arguments, env=self.environment("dev")) as running:
            said: dict[str, Any] = json.loads(running.await_line("apiUrl"))
            with Client(said["apiUrl"], api_key=said["apiKey"]) as client:
                yield running, client

    def status(self, run_id: str) -> str:
        from headrace.ids import parse_run_id  # noqa: PLC0415

        [row] = execute_sql(self.url, "SELECT status FROM headrace.runs WHERE id = $1", parse_run_id(run_id))
        return row["status"]

    def sweep(self, after: timedelta = timedelta()) -> None:
        """What the sweep of another process does, so much later."""

        async def sweep() -> None:
            async with Clock(self.settings).at(datetime.now(UTC) + after) as engine:
                await sweeps.sweep_once(engine)

        asyncio.run(sweep())


@pytest.fixture
def world(settings: Settings, tmp_path: Path) -> World:
    return World(replace(settings, lease=1.5), tmp_path)


def kill_all(running: Running) -> None:
    """The power goes: none of its processes says a word."""
    family = [psutil.Process(running.process.pid), *psutil.Process(running.process.pid).children(recursive=True)]
    assert len(family) >= 3, "supervisor, server and worker"
    for process in family:
        process.suspend()
    for process in family:
        process.kill()
    psutil.wait_procs(family, 10)


def test_what_it_had_begun_is_canceled_when_it_does_not_come_back(world: World) -> None:
    # its lease outlives what the clock is set forward by
    plain = {**world.environment("plain"), "HEADRACE_LEASE": "600"}
    with (
        running_headrace("worker", world.code("plain"), "--json", env=plain) as worker,
        world.dev() as (running, client),
    ):
        worker.await_line("plain_tasks")
        own, waiting = client.trigger("dev", world.gate), client.trigger("dev_waits", None)
        others = client.trigger("plain", world.gate)
        wait_until(lambda: world.started() == 2, "both are at the gate")
        wait_until(lambda: world.status(waiting.id) == "WAITING", "it waits")
        kill_all(running)
        later = client_trigger(world, "dev")
        world.sweep(timedelta(seconds=60))
        assert world.status(waiting.id) == "WAITING"  # it may come back yet
        wait_until(lambda: world.status(own.id) == "QUEUED", "its worker is given up")
        world.sweep(timedelta(seconds=130))
        assert world.status(own.id) == world.status(waiting.id) == "CANCELED"
        assert world.status(later) == "QUEUED"  # nobody had begun it
        Path(world.gate).touch()
        wait_until(lambda: world.status(others.id) == "COMPLETED", "a run of `headrace worker` goes on")


def client_trigger(world: World, task: str) -> str:
    """A run that is triggered in the database itself: no server is there."""
    from headrace.engine import runs  # noqa: PLC0415
    from headrace.engine.engine import Engine  # noqa: PLC0415
    from headrace.engine.outcomes import Packet, RunCreated  # noqa: PLC0415
    from headrace.ids import format_run_id  # noqa: PLC0415
    from headrace.protocol.options import RunOptions  # noqa: PLC0415

    async def trigger() -> str:
        engine = await Engine.open(world.settings)
        try:
            made = await runs.trigger_run(engine, 1, task, Packet(json.dumps(world.gate).encode()), RunOptions())
        finally:
            await engine.close()
        assert isinstance(made, RunCreated)
        return format_run_id(made.run_id)

    return asyncio.run(trigger())


@pytest.mark.parametrize("end", ["Ctrl-C", "SIGKILL"])
def test_who_comes_back_in_time_goes_on_with_them(world: World, end: str) -> None:
    with world.dev() as (running, client):
        run = client.trigger("dev", world.gate)
        wait_until(lambda: world.started() == 1, "it is at the gate")
        if end == "SIGKILL":
            kill_all(running)
        else:
            assert running.end(signal.SIGINT) == 130
    Path(world.gate).touch()
    with world.dev() as (_, client):
        wait_until(lambda: world.status(run.id) == "COMPLETED", "it goes on and ends")
    assert world.started() == 2


def test_who_comes_back_too_late_has_them_canceled_before_it_begins(world: World) -> None:
    """With a PostgreSQL of its own nobody was there to do it meanwhile."""
    with world.dev() as (running, client):
        run = client.trigger("dev", world.gate)
        wait_until(lambda: world.started() == 1, "it is at the gate")
        kill_all(running)
    away = "UPDATE headrace.dev_sessions SET kept_until = now() - interval '1 second' RETURNING id"
    assert len(execute_sql(world.url, away)) == 1
    Path(world.gate).touch()
    with world.dev() as (_, client):
        assert world.status(run.id) == "CANCELED"
        assert client.trigger("dev", world.gate).result(timeout=30) == "through"
    assert world.started() == 2
