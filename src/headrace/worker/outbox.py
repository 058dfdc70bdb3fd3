"""What a run's code has come to, on its way into the journal: in order, the points of a moment in one transaction."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final
from uuid import UUID

from headrace.engine.deeds import Fence, PointWrite
from headrace.engine.engine import Engine
from headrace.engine.journals import RunLostError, write_points
from headrace.engine.outcomes import Point
from headrace.engine.shown import find_above
from headrace.logs import get_logger
from headrace.store.store import DATABASE_ERRORS
from headrace.worker.deeds import Deeds
from headrace.worker.watcher import Watcher

_FLUSH_POINTS: Final = 500
_FIRST_DELAY: Final = 0.05
_LONGEST_DELAY: Final = 2.0

_log = get_logger("headrace.worker")


@dataclass(slots=True)
class Asked:
    """A point that the code has come to and waits at."""

    op: Any
    future: asyncio.Future[Any]
    state: str = "new"  # parked, writing, waiting, ready, abandoned

    def tell(self, value: Any) -> None:
        """Gives ``value`` to the code, or raises it there; nothing where it stopped asking."""
        if self.future.done():
            return
        if isinstance(value, BaseException):
            self.future.set_exception(value)
        else:
            self.future.set_result(value)


@dataclass(frozen=True, slots=True)
class Desk:
    """What all runs of a worker share."""

    engine: Engine
    watcher: Watcher
    deeds: Deeds
    on_waiting: Callable[[UUID], None]
    on_lost: Callable[[UUID], None]


class Outbox:
    """The writes of one run. ``on_written`` is called with each point as it then stands; None for what is no point.

    ``seen`` is the order in which the code was told outcomes, as far as it is not written: it goes with the next write,
    under the names that ``store_name`` gives. ``hints`` is what the watcher had heard before the last write.
    """

    def __init__(
        self,
        desk: Desk,
        fence: Fence,
        store_name: Callable[[str], str],
        on_written: Callable[[Asked, Point | None], None],
    ) -> None:
        self._desk = desk
        self._fence = fence
        self._store_name = store_name
        self._on_written = on_written
        self._waiting: list[tuple[Asked, PointWrite]] = []
        self.seen: dict[str, int | None] = {}
        self.hints = desk.watcher.count_hints()
        self.busy = False
        """Whether something is on its way."""

    def put(self, asked: Asked, write: PointWrite) -> bool:
        """Takes a point. Whether ``flush`` is to be run for it."""
        self._waiting.append((asked, write))
        begin = not self.busy
        self.busy = True
        return begin

    def list_seen(self) -> tuple[tuple[str, int | None], ...]:
        """What is to be written of the order."""
        return tuple((self._store_name(name), moment) for name, moment in self.seen.items())

    async def flush(self) -> None:
        """Writes what there is."""
        try:
            await asyncio.sleep(0)  # others of this moment join
            while self._waiting:
                taken, self._waiting = _split(self._waiting)
                await self._write(taken)
        finally:
            self.busy = False

    async def _write(self, taken: Sequence[tuple[Asked, PointWrite]]) -> None:
        told, self.seen = self.seen, {}
        hints = self._desk.watcher.count_hints()
        try:
            writes = [replace(write, deed=await self._desk.deeds.prepare(write.deed)) for _, write in taken]
            seen = tuple((self._store_name(name), moment) for name, moment in told.items())
            points = await self._write_patiently(writes, seen)
        except RunLostError:
            self._desk.on_lost(self._fence.run_id)
            return
        except Exception as error:  # noqa: BLE001 - of one of them: found by writing each by itself
            self.seen = {**told, **self.seen}
            if len(taken) > 1:
                for one in taken:
                    await self._write([one])
            else:
                taken[0][0].tell(error)
            return
        self.hints = hints
        by_name = {point.name: point for point in points}
        for asked, write in taken:
            self._on_written(asked, by_name.get(write.name))

    async def _write_patiently(
        self, writes: Sequence[PointWrite], seen: Sequence[tuple[str, int | None]]
    ) -> list[Point]:
        delay = _FIRST_DELAY
        repeated = False
        while True:
            try:
                return await write_points(self._desk.engine, self._fence, writes, seen, repeated=repeated)
            except DATABASE_ERRORS as error:
                if self._desk.deeds.is_final(error):
                    raise
                _log.warning("journal not written yet, trying again", error=f"{type(error).__name__}: {error}")
                repeated = True  # it may be written, and its answer lost
            await asyncio.sleep(delay)
            delay = min(delay * 2, _LONGEST_DELAY)


def _split(
    waiting: list[tuple[Asked, PointWrite]],
) -> tuple[list[tuple[Asked, PointWrite]], list[tuple[Asked, PointWrite]]]:
    """What one transaction takes, from the first on, and the rest. One that changes a run above does nothing else."""
    first = find_above([waiting[0][1]])
    count = 1
    while count < min(len(waiting), _FLUSH_POINTS) and find_above([waiting[count][1]]) == first:
        count += 1
    return waiting[:count], waiting[count:]
