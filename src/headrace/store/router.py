"""The router: which store owns an id, where a new root goes, and how every store is asked.

This is the only place that knows how many stores there are. It holds one thing a store (the engine of it), and with one
store, which is the usual case, costs an index into a list.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Awaitable, Callable, Collection, Sequence
from dataclasses import dataclass, field
from typing import Final, Generic, Literal, TypeVar
from uuid import UUID

from headrace.ids import HOME_STORE, LEGACY_BYTE, LEGACY_STORE, STORE_KEYS
from headrace.logs import get_logger
from headrace.store.store import DATABASE_ERRORS, name_store
from headrace.timeouts import answers_within

T = TypeVar("T")
R = TypeVar("R")

StoreState = Literal["active", "draining", "removed"]

_REMEMBERED: Final = 10_000
"""So many things that were moved a process knows to find at once."""

_log: Final = get_logger("headrace.stores")


@dataclass(frozen=True, slots=True)
class StoreRecord:
    """A store as the registry has it. ``url`` holds a password: it is never shown."""

    key: str
    name: str
    url: str = field(repr=False)
    weight: float
    state: StoreState
    opens_in: float = 0.0
    """Seconds until it takes new roots."""

    legacy: bool = False
    """Whether it is declared for runs that are imported: ids from another installation are its."""

    @property
    def takes_roots(self) -> bool:
        """Whether new roots go there now."""
        return self.state == "active" and self.weight > 0 and self.opens_in <= 0


@dataclass(frozen=True, slots=True)
class Gathered(Generic[R]):
    """What the stores answered, and which did not."""

    answers: list[R]
    missing: list[str]
    """Names of the stores that did not answer: what they own is not in ``answers``."""


class Stores(Generic[T]):
    """One ``T`` a store: ``stores.owner(run_id)``, ``stores.pick()``, ``stores.all()``."""

    def __init__(self, home: T, *, patience: float = 5.0) -> None:
        self.home: Final = home
        self._patience = patience
        self._owners: list[T] = [home] * 256
        self._all: list[tuple[StoreRecord, T]] = [(StoreRecord(HOME_STORE, "home", "", 1.0, "active"), home)]
        self._roots: list[T] = [home]
        self._weights: list[float] = []
        self._silent: dict[str, float] = {}
        self._moved: dict[UUID, str] = {}
        self.changed = asyncio.Event()
        """Set when a store has come or gone, and then another one: taken before the stores are looked at, and waited for."""

    def owner(self, value: UUID) -> T:
        """That of the store that owns an id. Total and pure: an id of no store that is known is looked for at home."""
        if self._moved and (key := self._moved.get(value)) is not None:
            return self.named(key)
        return self._owners[value.int & 0xFF]

    def named(self, key: str) -> T:
        """That of the store with this key; home where there is none: it knows where all went that a removed store had."""
        return self._owners[LEGACY_BYTE if key == LEGACY_STORE else STORE_KEYS.index(key)]

    def remember(self, value: UUID, place: T) -> None:
        """Something was found elsewhere than its id says: it is looked for there first from now on."""
        if len(self._moved) >= _REMEMBERED:
            self._moved.clear()
        for record, one in self._all:
            if one is place:
                self._moved[value] = record.key

    def pick(self) -> T:
        """That of the store that a new root goes to: by weight among those that are active; home where none is.

        One that was silent just now gets none while there is another.
        """
        if not self._weights:
            return self._roots[0]
        weights = self._weights
        if self._silent:
            now = time.monotonic()
            silent = {one for record, one in self._all if self._silent.get(record.key, 0.0) > now}
            heard = [0.0 if one in silent else weight for one, weight in zip(self._roots, weights, strict=True)]
            weights = heard if any(heard) else weights
        return random.choices(self._roots, weights)[0]  # noqa: S311 - spreads load, guards nothing

    def takes_roots(self, one: T) -> bool:
        """Whether new roots go to this one."""
        return one in self._roots

    def all(self) -> Sequence[T]:
        """Of every store that owns anything, home first: for what asks every store, and says so."""
        return [one for _, one in self._all]

    def records(self) -> Sequence[StoreRecord]:
        """The stores themselves, in the order of ``all``."""
        return [record for record, _ in self._all]

    def others(self) -> Sequence[T]:
        """Of every store but home."""
        return [one for _, one in self._all[1:]]

    async def gather(self, ask: Callable[[T], Awaitable[R]]) -> Gathered[R]:
        """Asks every store at once. One that is away or silent is missing from the answers; with one store errors are raised.

        Raises what ``ask`` raises beyond errors of the database; and the error of the last store where none answered.
        """
        if len(self._all) == 1:
            return Gathered([await ask(self.home)], [])
        answers = await self._ask_each(self._all, ask)
        gathered = _sort_answers(answers)
        if not gathered.answers:
            raise next(answer for _, answer in reversed(answers) if isinstance(answer, BaseException))
        return gathered

    async def gather_from(self, keys: Collection[str], ask: Callable[[T], Awaitable[R]]) -> Gathered[R]:
        """As ``gather``, of the stores with these keys only, and where none answers that is the answer."""
        return _sort_answers(await self._ask_each([one for one in self._all if one[0].key in keys], ask))

    async def ask(self, key: str, asking: Awaitable[R]) -> R:
        """The answer of one store, within the patience; what no answer came of names the store."""
        try:
            return await self._ask(key, asking)
        except TimeoutError as error:
            name_store(error, next((record.name for record, _ in self._all if record.key == key), ""))
            raise

    def replace(self, stores: Sequence[tuple[StoreRecord, T]]) -> None:
        """What is known of the stores is replaced; home is among them."""
        ordered = sorted(stores, key=lambda one: one[0].key != HOME_STORE)
        owners = [self.home] * 256
        for record, one in ordered:
            owners[STORE_KEYS.index(record.key)] = one
            if record.legacy:
                owners[LEGACY_BYTE] = one
        before, self._all = self.all(), ordered
        open_ones = [(record.weight, one) for record, one in ordered if record.takes_roots] or [(1.0, self.home)]
        self._owners = owners
        self._roots = [one for _, one in open_ones]
        self._weights = [weight for weight, _ in open_ones] if len(open_ones) > 1 else []
        if before != self.all():
            changed, self.changed = self.changed, asyncio.Event()
            changed.set()

    def copy(self, home: T) -> Stores[T]:
        """The same stores with another one in the place of home."""
        made = Stores(home, patience=self._patience)
        made.replace([(record, home if one is self.home else one) for record, one in self._all])
        return made

    async def _ask_each(
        self, stores: Sequence[tuple[StoreRecord, T]], ask: Callable[[T], Awaitable[R]]
    ) -> list[tuple[StoreRecord, R | BaseException]]:
        asking = [self._ask(record.key, ask(one)) for record, one in stores]
        answers = await asyncio.gather(*asking, return_exceptions=True)
        return [(record, answer) for (record, _), answer in zip(stores, answers, strict=True)]

    async def _ask(self, key: str, asking: Awaitable[R]) -> R:
        """An answer within the patience. One that was silent just now is given little, or each question would wait for it."""
        is_silent = self._silent.get(key, 0.0) > time.monotonic()
        try:
            answer = await answers_within(asking, self._patience / 10 if is_silent else self._patience)
        except TimeoutError:
            if not is_silent:
                self._silent[key] = time.monotonic() + 2 * self._patience
            raise
        self._silent.pop(key, None)
        return answer


def _sort_answers(answers: Sequence[tuple[StoreRecord, R | BaseException]]) -> Gathered[R]:
    """Raises what is no error of a database."""
    found: list[R] = []
    missing: list[str] = []
    for record, answer in answers:
        if isinstance(answer, DATABASE_ERRORS):
            _log.warning("a store does not answer", store=record.name, error=f"{type(answer).__name__}: {answer}")
            missing.append(record.name)
        elif isinstance(answer, BaseException):
            raise answer
        else:
            found.append(answer)
    return Gathered(found, missing)
