"""Lanes: what runs queue up in, one a (task, queue, kind), and for a batch that starts at its seal one of its own.

A trigger knows a task by its id; which queue that is, the task's worker has said (``headrace.tasks``), and the trigger
may say otherwise. The lanes met lately are remembered for a few seconds, so a chunk of a thousand items looks up none.
"""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Final, Literal, NamedTuple
from uuid import UUID

from headrace.ids import HOME_STORE
from headrace.store.statements import Plan, query

LaneKind = Literal["plain", "keyed", "ordered"]


class LaneName(NamedTuple):
    """What a lane is found by: the task's id, the queue that the trigger names (None: the task's own), how its runs are
    picked, and the version of the code that they are locked to.
    """

    task: str
    queue: str | None = None
    kind: LaneKind = "plain"
    locked_to: str | None = None


_KEPT_SECONDS: Final = 5.0
_KEPT_LANES: Final = 10_000


class LaneBook:
    """The lanes of one store that one process has met lately, by environment, task and queue."""

    def __init__(self, store: str = HOME_STORE) -> None:
        self.store = store
        """The key of that store: runs that queue up there get ids of its own."""
        self._lanes: dict[tuple[int, str | None, LaneName], tuple[int, float]] = {}

    def find_lane(self, environment_id: int, name: LaneName, version: str | None = None) -> int | None:
        """A lane that was committed when it was met, not long ago."""
        known = self._lanes.get((environment_id, version, name))
        return known[0] if known and known[1] > time.monotonic() else None

    def keep_lanes(self, environment_id: int, lanes: Mapping[LaneName, int], version: str | None = None) -> None:
        """Remembers lanes. To be called after the commit: a lane made in a transaction that is rolled back is none."""
        if len(self._lanes) + len(lanes) > _KEPT_LANES:
            self._lanes.clear()
        until = time.monotonic() + _KEPT_SECONDS
        for name, lane in lanes.items():
            self._lanes[environment_id, version, name] = (lane, until)


@dataclass(slots=True)
class LaneFinder:
    """The lanes that one transaction needs: from the book where it knows them, else looked up or made."""

    environment_id: int
    book: LaneBook | None = None
    held_for: UUID | None = None
    version: str | None = None
    prefers: str | None = None
    met: dict[LaneName, int] = field(default_factory=dict)
    _children: LaneFinder | None = None
    own_store: str = HOME_STORE

    @property
    def store(self) -> str:
        """The key of the store that the transaction is on: runs that are made in it get ids of its own."""
        return self.own_store if self.book is None else self.book.store

    def for_children(self, version: str) -> LaneFinder:
        """For runs that a run of this version waits for: its workers take them, or where none of it lives, any.

        Runs of an order key stand in one line, whatever version they are for, and so stay in it.
        """
        if not version:
            return self
        if self._children is None:
            self._children = replace(self, prefers=version, met={}, _children=None)
        return self._children

    def find_lanes(self, names: Iterable[LaneName]) -> Plan[dict[LaneName, int]]:
        """Plan: the lane of each name. With ``held_for``, the id of a batch, lanes of its own that its seal opens.

        With a ``version``, the lanes of runs whose journal was begun by that version of the code.
        """
        missing: defaultdict[str | None, list[LaneName]] = defaultdict(list)
        for name in names:
            if name not in self.met:
                known = self._recall(name)
                if known is None:
                    missing[self._version_of(name)].append(name)
                else:
                    self.met[name] = known
        for version, some in missing.items():
            self.met.update((yield from _make_lanes(self.environment_id, some, self.held_for, version)))
        return self.met

    def keep_lanes(self) -> None:
        """After the commit: remembers what was met."""
        if self.book and not self.held_for:
            for version in {self._version_of(name) for name in self.met}:
                own = {name: lane for name, lane in self.met.items() if self._version_of(name) == version}
                self.book.keep_lanes(self.environment_id, own, version)
        if self._children is not None:
            self._children.keep_lanes()

    def _version_of(self, name: LaneName) -> str | None:
        return self.version or (None if name.kind == "ordered" or name.locked_to else self.prefers)

    def _recall(self, name: LaneName) -> int | None:
        if self.book is None or self.held_for:
            return None
        return self.book.find_lane(self.environment_id, name, self._version_of(name))


def _make_lanes(
    environment_id: int, names: list[LaneName], held_for: UUID | None, version: str | None
) -> Plan[dict[LaneName, int]]:
    wanted = [list(column) for column in zip(*names, strict=True)]
    rows = yield from query("find_lanes", environment_id, *wanted[:2], held_for, version, *wanted[2:])
    absent = [row for row in rows if row["id"] is None]
    if absent:
        yield from query(
            "insert_lanes",
            environment_id,
            [row["task"] for row in absent],
            [row["queue"] for row in absent],
            held_for,
            held_for is None,
            version,
            [row["kind"] for row in absent],
            [row["locked_to"] for row in absent],
        )
        rows = yield from query("find_lanes", environment_id, *wanted[:2], held_for, version, *wanted[2:])
    return {LaneName(row["task"], row["given"], row["kind"], row["locked_to"]): row["id"] for row in rows}
