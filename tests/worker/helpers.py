"""Steps that tests of the worker take, and a real worker process."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import time
from collections.abc import AsyncGenerator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any
from uuid import UUID

from headrace.engine import runs
from headrace.engine.engine import Engine
from headrace.engine.outcomes import Packet, RunCreated, RunView
from headrace.protocol.options import RunOptions
from headrace.protocol.statuses import TERMINAL_RUN_STATUSES
from headrace.settings import Settings
from headrace.tasks import Task
from headrace.worker.worker import Worker
from tests.nursery import Forked, fork
from tests.worker import jobs

JOBS_FILE = str(Path(jobs.__file__))
PATIENCE = 30.0


@asynccontextmanager
async def working(engine: Engine, *tasks: Task[Any, Any], **changes: Any) -> AsyncGenerator[Worker]:
    """A worker in this process, claiming until the block ends."""
    own = await Engine.open(replace(engine.home.settings, **changes), listen=True)
    worker = Worker(own, tasks, queues=None)
    job = asyncio.create_task(worker.run())
    try:
        await asyncio.wait({job, asyncio.create_task(worker.ready.wait())}, return_when=asyncio.FIRST_COMPLETED)
        if job.done():
            job.result()
        yield worker
    finally:
        worker.stop()
        try:
            await asyncio.wait_for(job, PATIENCE)
        finally:  # what is left open would fail another test when it is collected
            await own.close()


async def trigger(engine: Engine, task: Task[Any, Any] | str, payload: Any = None, **options: Any) -> UUID:
    """A new run."""
    packet = Packet(None if payload is None else json.dumps(payload).encode())
    made = await runs.trigger_run(engine, 1, getattr(task, "id", task), packet, RunOptions(**options))
    assert isinstance(made, RunCreated), made
    return made.run_id


async def look(engine: Engine, run_id: UUID) -> RunView:
    """The run as it stands."""
    found = await runs.find_run(engine, 1, run_id)
    assert found is not None
    return found


async def await_end(engine: Engine, run_id: UUID) -> RunView:
    """The run once it has ended."""
    deadline = time.monotonic() + PATIENCE
    while time.monotonic() < deadline:
        found = await runs.await_run(engine, 1, run_id, 1.0)
        if found is not None and found.status in TERMINAL_RUN_STATUSES:
            return found
    raise AssertionError(f"the run has not ended: {await look(engine, run_id)}")


async def execute(engine: Engine, task: Task[Any, Any], payload: Any = None, **options: Any) -> RunView:
    """The end of a run of ``task``, by a worker that is there already."""
    return await await_end(engine, await trigger(engine, task, payload, **options))


def read_output(run: RunView) -> Any:
    """The result of a run that has one."""
    assert run.error is None, run.error
    assert run.output is not None
    return None if run.output.data is None else json.loads(run.output.data)


async def until(condition: Callable[[], Any], what: str, seconds: float = PATIENCE) -> Any:
    """What ``condition`` gives once that is true."""
    deadline = time.monotonic() + seconds
    while not (value := condition()):
        assert time.monotonic() < deadline, f"waited {seconds:g} s for: {what}"
        await asyncio.sleep(0.01)
    return value


def starts(gate: Path) -> list[str]:
    """What runs of the waiting jobs wrote when they started: a line each."""
    log = Path(f"{gate}.started")
    return log.read_text().splitlines() if log.exists() else []


def is_there(path: str) -> bool:
    """Whether there is such a file."""
    return Path(path).exists()


def is_alive(pid: int) -> bool:
    """Whether there is such a process, other than as a zombie."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


@dataclass
class WorkerProcess:
    """A worker in a process of its own. What it logs, as JSON, is in ``log``."""

    settings: Settings
    target: str = JOBS_FILE
    extra: Mapping[str, str] = field(default_factory=dict[str, str])
    process: Forked | None = None

    @property
    def log(self) -> Path:
        return Path(self.settings.data_dir) / f"worker-{self.pid}.log"

    @property
    def pid(self) -> int:
        assert self.process is not None
        return self.process.pid

    async def start(self) -> WorkerProcess:
        changed = {
            name: getattr(self.settings, name)
            for name in ("database_url", "data_dir", "lease", "heartbeat", "poll_interval", "sweep_interval")
        }
        changed |= {name: getattr(self.settings, name) for name in ("max_rescues", "drain_timeout", "concurrency")}
        environment = {
            **os.environ,
            **{f"HEADRACE_{name.upper()}": str(value) for name, value in changed.items()},
            "HEADRACE_LOG_FORMAT": "json",
            **self.extra,
        }
        folder = Path(self.settings.data_dir)
        with (folder / "worker.log").open("ab") as log:
            self.process = fork(
                "tests.worker.worker_main", self.target, env=environment, stdout=subprocess.PIPE, stderr=log.fileno()
            )
            (folder / "worker.log").rename(self.log)
        assert self.process.stdout is not None
        line = await asyncio.to_thread(self.process.stdout.readline)
        assert line == b"ready\n", self.log.read_text()
        return self

    def signal(self, number: signal.Signals) -> None:
        assert self.process is not None
        self.process.send_signal(number)

    async def wait(self) -> int:
        """Its exit code."""
        assert self.process is not None
        return await asyncio.to_thread(self.process.wait, PATIENCE)

    def logged(self, event: str) -> list[dict[str, Any]]:
        """The lines of its log with this event."""
        lines = [json.loads(line) for line in self.log.read_text().splitlines() if line.startswith("{")]
        return [line for line in lines if line["event"] == event]


@asynccontextmanager
async def worker_process(settings: Settings, target: str = JOBS_FILE, **extra: str) -> AsyncGenerator[WorkerProcess]:
    """A worker process that does not outlive the block."""
    worker = WorkerProcess(settings, target, extra)
    try:
        yield await worker.start()
    finally:
        if worker.process is not None:
            worker.process.kill()
            worker.process.wait()
            if worker.process.stdout is not None:
                worker.process.stdout.close()
