"""A worker: at its post in every store, with slots that all of them share."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from headrace import metrics
from headrace.engine.engine import Engine
from headrace.errors import ConfigurationError
from headrace.tasks import Task
from headrace.worker.machine import Machine
from headrace.worker.post import Post, State
from headrace.worker.stations import Stations
from headrace.worker.tracking import tracking_loop
from headrace.worker.versions import find_version


@dataclass(frozen=True, slots=True)
class WorkerStatus:
    """A worker at a moment, over all stores; ``state`` and ``worker`` are those of the home store.

    ``unwritten`` counts ended runs that are not in the database yet, ``stores`` those in which it has a lease.
    """

    state: State
    name: str
    worker: int | None
    executing: int
    free: int
    unwritten: int
    claimed: int
    written: int
    lost: int
    stores: int


class Worker:
    """Executes runs of ``tasks`` in the environment that the engine's settings name, whichever store they are in.

        worker = Worker(engine, [resize, census])
        await worker.run()      # until worker.stop() is called, and what runs has ended

    ``queues`` narrows it to runs on those queues. A store that is added while it works is worked for at once; one that is
    away holds up no other. Raises ConfigurationError where there is no task, or where a task with ``isolation="process"``
    stands where no other process could find it.
    """

    def __init__(
        self,
        engine: Engine,
        tasks: Iterable[Task[Any, Any]],
        *,
        queues: Sequence[str] | None = None,
    ) -> None:
        self._tasks = {task.id: task for task in tasks}
        if not self._tasks:
            raise ConfigurationError("A worker needs at least one task.")
        self._queues = queues
        self._version = engine.settings.version or find_version(self._tasks.values())
        self._machine = Machine(engine.settings)
        self._home = self._make_post(engine)
        self._others = Stations(engine, self._make_post)
        self._stopping = asyncio.Event()
        self._patience = engine.settings.store_patience
        self.ready = asyncio.Event()
        """Set once it is registered and claims in the home store, and in all others that answer."""
        metrics.watch_executing(lambda: self._machine.slots.used)

    @property
    def status(self) -> WorkerStatus:
        """What it is doing."""
        posts = [self._home, *self._others.posts]
        return WorkerStatus(
            self._home.state,
            self._home.name,
            self._home.worker,
            self._machine.slots.used,
            self._machine.slots.free,
            sum(post.unwritten for post in posts),
            sum(post.claimed for post in posts),
            sum(post.written for post in posts),
            sum(post.lost for post in posts),
            sum(post.worker is not None for post in posts),
        )

    @property
    def stopping(self) -> bool:
        """Whether it was told to stop."""
        return self._stopping.is_set()

    def stop(self) -> None:
        """Begins to drain: claims no more, and lets what runs end, for at most ``drain_timeout``."""
        self._stopping.set()
        self._home.stop()
        self._others.stop()

    def force(self) -> None:
        """Ends now: what runs is cut off and given back."""
        self._stopping.set()
        self._home.force()
        self._others.force()

    async def run(self) -> bool:
        """Works until it is stopped. True where everything that it had claimed has ended, False where it gave some back.

        Raises what registering in the home store raises, and any fault of its own there; the leases are given up in every
        case.
        """
        try:
            await self._home.begin()
            with tracking_loop():
                return await self._work()
        finally:
            await self._machine.close()

    async def _work(self) -> bool:
        others = asyncio.create_task(self._others.run())
        looking = asyncio.create_task(self._look_when_ready())
        try:
            ended = await self._home.run()
        except BaseException:
            self.force()
            raise
        finally:
            looking.cancel()
            self.stop()
            await asyncio.wait({others})
        return others.result() and ended

    async def _look_when_ready(self) -> None:
        await self._home.ready.wait()
        await self._others.await_answers(self._patience)
        self.ready.set()

    def _make_post(self, engine: Engine) -> Post:
        return Post(engine, self._tasks, self._machine, version=self._version, queues=self._queues)
