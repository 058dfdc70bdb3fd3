"""Whose turn it is: what a worker remembers from claim to claim, so that keys and lanes are served in rotation.

It is no state of the system: a worker that starts anew begins with any key, and each worker goes round by itself.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any, Final

_LONGEST_WALK: Final = 3
"""A claim looks at so many keys for each run that it may take: some are at their limit, or wait for their next try."""

_SHORTEST_WALK: Final = 100

_LONGER: Final = 4
"""A walk that found nothing is followed by one that is so many times as long."""

_MOST_KEYS: Final = 10_000
_MOST_WALKS: Final = 5
"""After so many walks of one claim that found nothing, the next claim goes on with it: it comes at once."""


_WAY_SECONDS: Final = 0.3
"""So long a worker leaves what it could take to another store that does not come."""

_PASSED_SECONDS: Final = 1.0
"""So long it does not do so again."""


class Turns:
    """The rotation of one worker's claims."""

    def __init__(self) -> None:
        self._keys: dict[int, str] = {}
        self._limited_first = False
        self.limited = False
        """Whether the last claim said that there are lanes with keys or limits."""
        self.wake_in: float | None = None
        """In how many seconds a rate of a queue allows more than the last claim got; None where none holds anything up."""
        self.again_in: float | None = None
        """In how many seconds a limit is to be looked at again that was left to another store; None where none was."""
        self._ways: dict[tuple[str, str], float] = {}
        self._passed_over: dict[tuple[str, str], float] = {}
        self._began: dict[int, str] = {}
        self._walks = 0
        self._unfinished = False

    def begin_round(self) -> None:
        """A claim begins: it looks at each key once at most, however many walks that takes; or it goes on with that."""
        self._walks = 0
        if not self._unfinished:
            self._began = dict(self._keys)

    def toggle(self) -> bool:
        """Whether lanes with keys or limits go first this time: they and the others take turns."""
        self._limited_first = not self._limited_first
        return self._limited_first

    def give_way(self, limit: str, store: str) -> None:
        """What could be taken under a limit is left to another store."""
        self._ways.setdefault((limit, store), time.monotonic())

    def may_give_way(self, limit: str, store: str, tried: float, *, is_due: bool) -> bool:
        """Whether to leave a limit to a store whose turn it is, which tried to take something ``tried`` seconds ago.

        For a moment only, and until it has tried: one that took nothing then, or has nobody who tries, is passed over for a while.
        """
        way = (limit, store)
        now = time.monotonic()
        if not is_due:
            self._ways.pop(way, None)
            return False
        if self._passed_over.get(way, 0.0) > now:
            return False
        since = self._ways.get(way)
        if since is not None and (tried < now - since or now - since > _WAY_SECONDS):
            del self._ways[way]
            self._passed_over[way] = now + _PASSED_SECONDS
            return False
        return True

    @property
    def lanes(self) -> list[int]:
        """The lanes in which a key had the last turn."""
        return list(self._keys)

    @property
    def keys(self) -> list[str]:
        """The keys that had it, lane by lane."""
        return list(self._keys.values())

    def find_walk(self, limit: int) -> int:
        """How many keys of a lane the next walk of a claim of at most ``limit`` runs looks at."""
        shortest = max(_LONGEST_WALK * limit, _SHORTEST_WALK)
        return max(min(shortest * _LONGER**self._walks, _MOST_KEYS), shortest)

    def note_claim(self, rows: Sequence[Any], limit: int) -> bool:
        """Remembers where a walk ended; True where the claim found nothing so far and is to look at more keys."""
        walk = self.find_walk(limit)
        last: dict[int, tuple[int, str]] = {}
        for row in rows:
            if row["id"] is not None and row["turn_key"] is not None:
                last[row["line"]] = max(last.get(row["line"], (0, "")), (row["turn_step"], row["turn_key"]))
        before, self._keys = self._keys, {}  # lanes that are not there any more are forgotten
        unfinished = False
        head = rows[0]
        self.wake_in = head["wake_in"]
        if self.again_in is not None:
            self.wake_in = self.again_in if self.wake_in is None else min(self.wake_in, self.again_in)
        for lane, key, steps in zip(head["walked_lanes"], head["walked_keys"], head["walked_steps"], strict=True):
            if lane in last:
                self._keys[lane] = last[lane][1]
                continue
            self._keys[lane] = key
            been_round = _passes(before.get(lane, ""), self._began.get(lane, ""), key)
            unfinished = unfinished or (steps >= walk and not been_round)
        self._walks += 1
        self._unfinished = unfinished and head["id"] is None
        if self._unfinished and self._walks >= _MOST_WALKS:
            self.wake_in = 0.0
            return False
        return self._unfinished


def _passes(start: str, mark: str, end: str) -> bool:
    """Whether a walk from behind ``start`` to ``end``, which may lead from the last key on to the first, comes by ``mark``."""
    if end <= start:
        return mark > start or mark <= end
    return start < mark <= end
