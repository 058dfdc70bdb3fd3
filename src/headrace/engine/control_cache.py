"""What a process remembers of the control plane for a moment: which environment an API key is of, which one a slug names.

Entries live for a second from before they were read, so what was revoked is refused within a second whatever hints are lost. A
hint makes it at once: it moves the epoch of its environment, or of the whole installation, and what was read before is worth
nothing then, what is being read just now too.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Hashable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Generic, TypeVar
from uuid import UUID

if TYPE_CHECKING:
    from headrace.engine.environments import Environment

REMEMBERED_SECONDS: Final = 1.0
REMEMBERED_ENTRIES: Final = 10_000

_REMEMBERED_EPOCHS: Final = 10_000

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")


@dataclass(frozen=True, slots=True)
class Known(Generic[V]):
    """An answer that is remembered. None is one too: there is no such thing."""

    value: V | None


@dataclass(frozen=True, slots=True)
class Moment:
    """When reading begins: ``Epochs.begin``. What is read since is kept under it."""

    number: int
    time: float


class Epochs:
    """When each environment was last changed, in the order of all changes that this process has heard of."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self.clock: Final = clock
        self._now = 0
        self._all_moved = 0
        self._moved: dict[int, int] = {}

    def begin(self) -> Moment:
        """To be taken before something is read that is to be kept."""
        return Moment(self._now, self.clock())

    def move(self, environment_id: int) -> None:
        """An environment has changed: nothing holds any more that was read of it before. 0 is the whole installation."""
        self._now += 1
        if environment_id:
            self._moved[environment_id] = self._now
        if not environment_id or len(self._moved) > _REMEMBERED_EPOCHS:
            self._all_moved = self._now
            self._moved.clear()

    def have_moved(self, since: int, environment_id: int | None) -> bool:
        """Whether an environment has changed since; None: any, because what is not there may be anywhere by now."""
        if environment_id is None:
            return self._now > since
        return self._all_moved > since or self._moved.get(environment_id, 0) > since


@dataclass(frozen=True, slots=True)
class _Entry(Generic[V]):
    known: Known[V]
    environment_id: int | None
    number: int
    expires_at: float


class ControlCache(Generic[K, V]):
    """Answers of one kind, by key: at most ``size``, each for ``seconds`` and no longer than what it says of holds.

    ``recall`` a key first; where it gives nothing take ``epochs.begin()``, then read, then ``keep`` what was found.
    """

    def __init__(self, epochs: Epochs, *, seconds: float = REMEMBERED_SECONDS, size: int = REMEMBERED_ENTRIES) -> None:
        self._epochs: Final = epochs
        self._seconds: Final = seconds
        self._size: Final = size
        self._entries: dict[K, _Entry[V]] = {}  # the one that was written first is first
        self._earliest = float("inf")  # no entry expires before

    def __len__(self) -> int:
        return len(self._entries)

    def recall(self, key: K) -> Known[V] | None:
        """What is known of a key; None where that has to be read."""
        entry = self._entries.get(key)
        if entry is None:
            return None
        if self._is_over(entry, self._epochs.clock()):
            del self._entries[key]
            return None
        return entry.known

    def keep(self, key: K, value: V | None, moment: Moment, environment_id: int | None = None) -> None:
        """Remembers what was read since ``moment``, unless it may have changed meanwhile.

        ``environment_id`` is the one that it is of; without one any change ends it.
        """
        entry = _Entry(Known(value), environment_id, moment.number, moment.time + self._seconds)
        if self._is_over(entry, self._epochs.clock()):
            return
        if self._entries.pop(key, None) is None and len(self._entries) >= self._size:
            self._make_room()
        self._entries[key] = entry
        self._earliest = min(self._earliest, entry.expires_at)

    def _is_over(self, entry: _Entry[V], now: float) -> bool:
        return entry.expires_at <= now or self._epochs.have_moved(entry.number, entry.environment_id)

    def _make_room(self) -> None:
        now = self._epochs.clock()
        while self._entries and self._is_over(self._entries[oldest := next(iter(self._entries))], now):
            del self._entries[oldest]  # they are over in about the order in which they came
        if len(self._entries) >= self._size and self._earliest <= now:
            self._entries = {key: one for key, one in self._entries.items() if not self._is_over(one, now)}
            self._earliest = min((one.expires_at for one in self._entries.values()), default=float("inf"))
        if len(self._entries) >= self._size:
            del self._entries[next(iter(self._entries))]


class ControlMemory:
    """What one process remembers of the control plane: answers in the home store's engine, how far its copy is in another's."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self.epochs: Final = Epochs(clock)
        self.keys: Final[ControlCache[bytes, Environment]] = ControlCache(self.epochs)
        self.strangers: Final[ControlCache[bytes, Environment]] = ControlCache(self.epochs, size=1000)
        """Hashes that are no key's: apart, so that a flood of them pushes out no key."""

        self.environments: Final[ControlCache[str, Environment]] = ControlCache(self.epochs)
        self.every: Final[ControlCache[str, list[Environment]]] = ControlCache(self.epochs)

        self.behind = False
        """Whether the last try to copy the control plane to this store failed."""

        self._copied: tuple[UUID, float] | None = None

    def note_copied(self, mark: UUID) -> None:
        """This store has what home had at a mark."""
        self._copied = (mark, self.epochs.clock())

    def has_copied(self, mark: UUID, seconds: float) -> bool:
        """Whether this store was seen to have it so many seconds ago at most."""
        return self._copied is not None and self._copied[0] == mark and self.epochs.clock() - self._copied[1] < seconds
