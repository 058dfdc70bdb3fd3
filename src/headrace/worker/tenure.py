"""The lease under which a worker works now. Where the engine says that it is lost, everything under it is dropped and
the worker registers anew, under another number: so a worker that was frozen comes back as somebody else.
"""

from __future__ import annotations

import asyncio
import os
import random
import socket
import time
from collections.abc import Callable, Sequence
from typing import Final

from headrace import metrics
from headrace.engine.engine import Engine
from headrace.engine.outcomes import WorkerLease
from headrace.engine.workers import TaskRegistration, register_worker
from headrace.logs import get_logger
from headrace.store.store import DATABASE_ERRORS

_FIRST_DELAY: Final = 0.1
_LONGEST_DELAY: Final = 2.0

_log = get_logger("headrace.worker")


class Tenure:
    """``lease`` is None before the first one, while a new one is being taken, and after the end.

    ``on_loss`` is called with a lease that was lost, before the next one is asked for; ``on_begin`` with each new one.
    """

    def __init__(
        self,
        engine: Engine,
        tasks: Sequence[TaskRegistration],
        *,
        version: str,
        queues: Sequence[str] | None = None,
        on_loss: Callable[[WorkerLease], None],
        on_begin: Callable[[WorkerLease], None],
    ) -> None:
        self._engine = engine
        self._tasks = tasks
        self._version = version
        self._queues = queues
        self._on_loss = on_loss
        self._on_begin = on_begin
        self._ended = False
        self.name = f"{socket.gethostname()}:{os.getpid()}"
        self.lease: WorkerLease | None = None
        self.renewed_at = 0.0

    async def begin(self) -> None:
        """Takes the first lease. Raises what the engine raises: a worker that can't start says so at once."""
        await self._register()

    async def replace(self, lost: WorkerLease) -> None:
        """Drops a lost lease and takes the next, however long the database is away."""
        if self.lease != lost:
            return  # somebody else noticed before
        self.lease = None
        metrics.count_lease_loss()
        _log.warning("lease lost: this worker was silent for too long; its runs are dropped", worker=lost.worker_id)
        self._on_loss(lost)
        delay = _FIRST_DELAY
        while not self._ended:
            try:
                await self._register()
            except DATABASE_ERRORS as error:
                _log.warning("no new lease yet, trying again", error=f"{type(error).__name__}: {error}")
                await asyncio.sleep(delay * (1 + random.random()))  # noqa: S311 - spreads retries, guards nothing
                delay = min(delay * 2, _LONGEST_DELAY)
            else:
                return

    def end(self) -> None:
        """No lease is taken after this."""
        self._ended = True

    def note_renewal(self, sent_at: float) -> None:
        """A claim or a beat that was sent at this moment (``time.monotonic``) has renewed the lease."""
        self.renewed_at = max(self.renewed_at, sent_at)

    async def _register(self) -> None:
        sent_at = time.monotonic()
        async with asyncio.timeout(self._engine.settings.lease):
            lease = await register_worker(
                self._engine,
                self._engine.settings.environment,
                name=self.name,
                tasks=self._tasks,
                version=self._version,
                queues=self._queues,
            )
        self.lease = lease
        self.note_renewal(sent_at)
        self._on_begin(lease)
