"""What runs in this worker's memory wait for: looked at when a hint comes, when a time has come, and now and then.

One query for all of them, whatever their number. Runs that were put down are none of its business.
"""

from __future__ import annotations

import asyncio
import time
from typing import Final, Protocol
from uuid import UUID

from headrace.engine.engine import Engine
from headrace.engine.journals import end_due_points, read_points
from headrace.engine.outcomes import Point
from headrace.logs import get_logger
from headrace.store.store import DATABASE_ERRORS
from headrace.timeouts import happens_within

_RETRY_DELAY: Final = 0.5

_log = get_logger("headrace.worker")


class Waiter(Protocol):
    """A run in memory that waits."""

    run_id: UUID

    def resolve(self, point: Point) -> None:
        """Takes an outcome."""
        ...


class Watcher:
    """Told by ``add`` what to watch; looks in ``run``."""

    def __init__(self, engine: Engine, environment_id: int) -> None:
        self._engine = engine
        self._environment_id = environment_id
        self._watched: dict[tuple[UUID, str], Waiter] = {}
        self._due: dict[tuple[UUID, str], float] = {}
        self._asked = asyncio.Event()
        self._now = False

    def count_hints(self) -> int:
        """Taken before a point is written or read, and given to ``add``: an end in between is not missed."""
        return self._engine.notices.count_done(self._environment_id)

    def add(self, waiter: Waiter, name: str, *, due_in: float | None, since: int) -> None:
        """Watches a point until it is done. ``since`` is what ``count_hints`` gave."""
        key = (waiter.run_id, name)
        self._watched[key] = waiter
        if due_in is not None:
            self._due[key] = time.monotonic() + due_in
        if since != self.count_hints():
            self._now = True
        self._asked.set()

    def look_now(self) -> None:
        """Looks at once."""
        self._now = True
        self._asked.set()

    def remove(self, waiter: Waiter, name: str) -> None:
        """Watches a point no more."""
        key = (waiter.run_id, name)
        if self._watched.get(key) is waiter:
            del self._watched[key]
            self._due.pop(key, None)

    async def run(self) -> None:
        """Looks until it is cancelled. Survives a database that is away."""
        hearing = asyncio.create_task(self._hear())
        try:
            while True:
                await self._wait()
                if not self._watched:
                    continue
                self._now = False
                try:
                    await self._look()
                except DATABASE_ERRORS as error:
                    _log.warning("waits not looked at, trying again", error=f"{type(error).__name__}: {error}")
                    self._now = True
                    await asyncio.sleep(_RETRY_DELAY)
        finally:
            hearing.cancel()

    async def _wait(self) -> None:
        """Until there is something watched, and a reason to look."""
        deadline = time.monotonic() + self._engine.settings.poll_interval
        while not self._now or not self._watched:
            until = min([deadline, *self._due.values()]) if self._watched else None
            if until is not None and until <= time.monotonic():
                return
            self._asked.clear()
            await happens_within(self._asked, None if until is None else until - time.monotonic())
            if until is None:
                deadline = time.monotonic() + self._engine.settings.poll_interval

    async def _look(self) -> None:
        now = time.monotonic()
        if due := [key for key, moment in self._due.items() if moment <= now]:
            left = await end_due_points(self._engine, self._environment_id, due)
            for key in due:
                if key in left:  # the database's clock is behind ours
                    self._due[key] = time.monotonic() + left[key]
                else:
                    self._due.pop(key, None)
        for point in await read_points(self._engine, self._environment_id, list(self._watched)):
            key = (point.run_id, point.name)
            self._due.pop(key, None)
            if waiter := self._watched.pop(key, None):
                waiter.resolve(point)

    async def _hear(self) -> None:
        notices = self._engine.notices
        while True:
            seen = self.count_hints()
            await notices.wait_done(self._environment_id, 3600.0, since=seen)
            if self._watched:
                self.look_now()
