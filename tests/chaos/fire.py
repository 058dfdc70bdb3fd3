"""Fire for tests: a PostgreSQL and workers of a test's own, that are killed, frozen, drained and started again."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, TypeVar

from headrace.store.embedded import EmbeddedPostgres
from headrace.store.store import DATABASE_ERRORS
from tests.fleet import with_name
from tests.processes import make_environment

T = TypeVar("T")

LEASE: Final = 1.0
PATIENCE: Final = 60.0
_WORKER_MAIN: Final = Path(__file__).parent.parent / "worker" / "worker_main.py"


@dataclass(frozen=True)
class Event:
    """Something bad: after ``pause`` seconds ``what`` happens to worker number ``worker``, which starts again with ``linger``
    and ``slots``.
    """

    pause: float
    what: str  # kill, freeze, drain, postgres or cancel
    worker: int
    linger: float
    slots: int


@dataclass
class Arena:
    """A database and its workers, which execute the tasks of ``target``. ``cancel`` cancels some runs."""

    folder: Path
    url: str
    target: str
    postgres: EmbeddedPostgres | None = None
    lease: float = LEASE
    cancel: Callable[[], Awaitable[None]] | None = None
    workers: list[subprocess.Popen[bytes] | None] = field(default_factory=list[Any])
    logs: list[Path] = field(default_factory=list[Path])
    _locks: dict[str, asyncio.Lock] = field(default_factory=dict[str, asyncio.Lock])

    async def start_worker(self, number: int, linger: float, slots: int) -> None:
        """A worker, once it claims. One that dies because the database is away is started again."""
        log = self.folder / f"worker-{len(self.logs)}.log"
        self.logs.append(log)
        environment = make_environment(
            self.url,
            str(self.folder),
            {
                "HEADRACE_LEASE": str(self.lease),
                "HEADRACE_HEARTBEAT": str(self.lease / 5),
                "HEADRACE_WAIT_LINGER": str(linger),
                "HEADRACE_CONCURRENCY": str(slots),
                "HEADRACE_MAX_RESCUES": "1000",
                "HEADRACE_AUDIT_INTERVAL": "1",
                "HEADRACE_DRAIN_TIMEOUT": "2",
                "HEADRACE_LOG_LEVEL": "warning",
                "HEADRACE_LOG_FORMAT": "json",
            },
        )
        while len(self.workers) <= number:
            self.workers.append(None)
        for _ in range(20):
            with log.open("wb") as output:  # what one said that found no database is of no interest
                process = await asyncio.to_thread(
                    subprocess.Popen,
                    [sys.executable, str(_WORKER_MAIN), self.target],
                    env=environment,
                    stdout=subprocess.PIPE,
                    stderr=output,
                )
            self.workers[number] = process
            assert process.stdout is not None
            line = await asyncio.to_thread(process.stdout.readline)
            process.stdout.close()
            if line == b"ready\n":
                return
            await asyncio.to_thread(process.wait, PATIENCE)
            await asyncio.sleep(0.2)
        raise AssertionError(f"worker {number} does not start: {log.read_text()[-2000:]}")

    async def burn(self, events: Sequence[Event]) -> None:
        """All of ``events``, one after the other; each worker is there again after it."""
        jobs: list[asyncio.Task[None]] = []
        for event in events:
            await asyncio.sleep(event.pause)
            jobs.append(asyncio.create_task(self._suffer(event)))
        for job in jobs:
            await job

    async def _suffer(self, event: Event) -> None:
        if event.what == "cancel":
            assert self.cancel is not None
            await self.cancel()
            return
        name = "postgres" if event.what == "postgres" else str(event.worker)
        async with self._locks.setdefault(name, asyncio.Lock()):
            if event.what == "postgres":
                await self._restart_postgres()
                return
            process = self.workers[event.worker]
            assert process is not None
            match event.what:
                case "freeze":
                    process.send_signal(signal.SIGSTOP)
                    await asyncio.sleep(1.6 * self.lease)
                    process.send_signal(signal.SIGCONT)
                    return
                case "drain":
                    process.terminate()
                case _:
                    process.kill()
            await asyncio.to_thread(process.wait, PATIENCE)
            await self.start_worker(event.worker, event.linger, event.slots)

    async def _restart_postgres(self) -> None:
        assert self.postgres is not None
        pid = self.postgres.pid
        assert pid is not None
        name = self.url.partition("?")[0].rsplit("/", 1)[1]
        os.kill(pid, signal.SIGKILL)
        while Path(f"/proc/{pid}").exists():
            await asyncio.sleep(0.01)
        self.url = with_name(await asyncio.to_thread(self.postgres.start), name)

    def stop(self) -> None:
        """Kills what is left."""
        for process in self.workers:
            if process is not None:
                process.kill()
                process.wait()

    def read_logs(self) -> str:
        """All that workers logged."""
        return "".join(log.read_text("utf-8") for log in self.logs)


async def patiently(call: Callable[[], Awaitable[T]]) -> T:
    """What ``call`` gives, however often the database is away."""
    deadline = asyncio.get_running_loop().time() + PATIENCE
    while True:
        try:
            return await call()
        except DATABASE_ERRORS:
            if asyncio.get_running_loop().time() > deadline:
                raise
            await asyncio.sleep(0.1)
