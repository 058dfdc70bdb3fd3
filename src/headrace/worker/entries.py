"""What a worker leaves of an attempt for the next time that the run is in memory: which attempt it was, and how much of its
time is used up. A row of the run's journal that its code never sees; only runs that need it have one.
"""

from __future__ import annotations

from typing import Final

import msgspec

from headrace.engine.deeds import Fence, PointWrite, Result
from headrace.engine.engine import Engine
from headrace.engine.journals import write_points
from headrace.engine.outcomes import ClaimedRun, Packet

_PREFIX: Final = "~entry/"
_SEEN: Final = -1  # nobody waits for it


class Entry(msgspec.Struct, frozen=True):
    """The attempt, by its number, and the seconds of its ``max_duration`` that are used up."""

    number: int
    used: float = 0.0


def take_entry(run: ClaimedRun) -> tuple[ClaimedRun, Entry | None, tuple[str, ...]]:
    """The run with the journal as its code left it, what was kept beside that, and the names of the rows that are to go."""
    kept = [point for point in run.journal if point.name.startswith(_PREFIX)]
    if not kept:
        return run, None, ()
    last = max(kept, key=lambda point: point.made)
    entry = msgspec.json.decode(last.value.data or b"", type=Entry)
    journal = tuple(point for point in run.journal if point not in kept)
    return msgspec.structs.replace(run, journal=journal), entry, tuple(point.name for point in kept)


def is_same_attempt(run: ClaimedRun, entry: Entry | None) -> bool:
    """Whether the run goes on with the attempt that it was in."""
    if run.number == 1:
        return run.attempt > 1
    return entry is not None and entry.number == run.number


async def keep_entry(engine: Engine, fence: Fence, run: ClaimedRun, entry: Entry) -> None:
    """Writes what is to be kept. Raises RunLostError, and what a database that is away raises."""
    value = Result(Packet(msgspec.json.encode(entry)))
    write = PointWrite(f"{_PREFIX}{run.attempt}", run.attempt, value, seen=_SEEN)
    await write_points(engine, fence, [write])
