"""A worker's stations: the stores beside home that it works for, as they come and go.

Whatever happens at one of them holds up no other: a store that is away is asked again until it answers, and a post that fails
is followed by the next.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Coroutine, Sequence
from typing import Any, Final

from headrace.engine.engine import Engine
from headrace.errors import ConfigurationError
from headrace.logs import get_logger, of_store
from headrace.store.store import DATABASE_ERRORS
from headrace.timeouts import happens_within
from headrace.worker.post import Post

_FIRST_DELAY: Final = 0.2
_LONGEST_DELAY: Final = 2.0

_log = get_logger("headrace.worker")


class Stations:
    """Those of one worker: ``run`` keeps one at each store of the engine but home's."""

    def __init__(self, engine: Engine, make_post: Callable[[Engine], Post]) -> None:
        self._engine = engine
        self._make_post = make_post
        self._stopping = asyncio.Event()
        self._stations: dict[Engine, Station] = {}

    @property
    def posts(self) -> Sequence[Post]:
        """The posts there are now."""
        return [one.post for one in self._stations.values()]

    def stop(self) -> None:
        """All of them drain; none is begun any more."""
        self._stopping.set()
        for station in self._stations.values():
            station.stop()

    def force(self) -> None:
        """All of them end now."""
        self._stopping.set()
        for station in self._stations.values():
            station.force()

    async def await_answers(self, seconds: float) -> None:
        """Waits until each is at work or has failed to be, but no longer than so many seconds."""
        if waiting := [asyncio.ensure_future(station.answered()) for station in self._stations.values()]:
            await asyncio.wait(waiting, timeout=seconds)
            for one in waiting:
                one.cancel()

    async def run(self) -> bool:
        """Works until it is stopped. Whether everything that was claimed has ended."""
        jobs: dict[Engine, asyncio.Task[bool]] = {}
        left: set[asyncio.Task[bool]] = set()
        try:
            while not self._stopping.is_set():
                changed = self._engine.stores.changed
                present = self._engine.stores.others()
                for engine in present:
                    if engine not in jobs:
                        station = self._stations[engine] = Station(engine, self._make_post)
                        with of_store(engine.name):
                            jobs[engine] = asyncio.create_task(station.run())
                for engine in [
                    one for one in jobs if one not in present
                ]:  # it has nothing left, or is another database now
                    self._stations.pop(engine).force()
                    left.add(jobs.pop(engine))
                await _first_of(changed.wait(), self._stopping.wait())
            ended = await asyncio.gather(*jobs.values(), *left)
        except BaseException:
            for job in (*jobs.values(), *left):
                job.cancel()
            raise
        return all(ended)


class Station:
    """One store that the worker works for."""

    def __init__(self, engine: Engine, make_post: Callable[[Engine], Post]) -> None:
        self._engine = engine
        self._make_post = make_post
        self._leaving = asyncio.Event()
        self._failed = asyncio.Event()
        self.post = make_post(engine)

    def stop(self) -> None:
        """Drains."""
        self._leaving.set()
        self.post.stop()

    def force(self) -> None:
        """Ends now."""
        self._leaving.set()
        self.post.force()

    async def run(self) -> bool:
        """Works until it is stopped. Whether everything that its last post had claimed has ended."""
        delay, ended = _FIRST_DELAY, True
        with self._engine.in_use():
            while not self._leaving.is_set():
                begun = False
                try:
                    begun = await self._begin()
                    if begun:
                        return await self.post.run()
                except (*DATABASE_ERRORS, ConfigurationError) as error:
                    _log.warning(
                        "no worker at a store, trying again",
                        store=self._engine.name,
                        error=f"{type(error).__name__}: {error}",
                    )
                except Exception:  # noqa: BLE001 - logged; the other stores go on
                    _log.exception("the worker's post at a store failed, beginning anew", store=self._engine.name)
                self._failed.set()
                if begun:
                    ended = False
                    if not self._leaving.is_set():
                        self.post = self._make_post(self._engine)
                        delay = _FIRST_DELAY
                await happens_within(self._leaving, delay * (1 + random.random()))  # noqa: S311 - spreads retries, guards nothing
                delay = min(delay * 2, _LONGEST_DELAY)
        self.post.close()
        return ended

    async def answered(self) -> None:
        """Waits until it is at work, or has failed to be."""
        await _first_of(self.post.ready.wait(), self._failed.wait())

    async def _begin(self) -> bool:
        """Whether the post has a lease: not where it is told to leave before."""
        begin = asyncio.ensure_future(self.post.begin())
        try:
            await _first_of(asyncio.wait({begin}), self._leaving.wait())
        finally:
            if not begin.done():
                begin.cancel()
        if begin.cancelled() or not begin.done():
            return False
        begin.result()
        return True


async def _first_of(*coroutines: Coroutine[Any, Any, Any]) -> None:
    tasks = {asyncio.ensure_future(one) for one in coroutines}
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in tasks:
            task.cancel()
