"""What is done to stores by hand: look at what each owns, and take one out of use when it owns nothing any more."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Any, Final

import asyncpg  # pyright: ignore[reportMissingTypeStubs]

from headrace.engine.engine import Engine
from headrace.engine.moves import give_forwards_to_home
from headrace.engine.registry import change_store, list_stores
from headrace.ids import HOME_STORE
from headrace.store.places import describe_failure
from headrace.store.router import StoreRecord
from headrace.store.statements import Plan, query
from headrace.store.store import DATABASE_ERRORS

COUNTED: Final = 100_000
"""Counting ends there: a store with more says "at least"."""

_LOCK_SECONDS: Final = 30.0
_LOCK_WAIT: Final = 0.5
"""Less than PostgreSQL's ``deadlock_timeout``, which is a second."""

_PAUSE: Final = 0.05


@dataclass(frozen=True, slots=True)
class Holding:
    """What a store owns, each counted to ``COUNTED``."""

    open_runs: int
    runs: int
    batches: int
    tokens: int
    mail: int
    """What other stores are to be told still: it goes by itself."""

    @property
    def empty(self) -> bool:
        """Whether it owns nothing."""
        return not (self.runs or self.batches or self.tokens or self.mail)


@dataclass(frozen=True, slots=True)
class MeasuredStore:
    """A store of the registry, and what it owns; ``failure`` says why that is not known, "" for a store that was removed."""

    record: StoreRecord
    holding: Holding | None
    failure: str = ""


@dataclass(frozen=True, slots=True)
class Removed:
    """The store is no more: it owned nothing, and takes nothing."""


@dataclass(frozen=True, slots=True)
class StillOwns:
    """The store was left as it was: this has to be moved first."""

    holding: Holding


@dataclass(frozen=True, slots=True)
class OnTheWay:
    """The store was left as it was: so many trees of other stores are being moved there, and runs of schedules to be made."""

    trees: int
    mail: int = 0


@dataclass(frozen=True, slots=True)
class NotDraining:
    """The store was left as it was: it takes new roots still."""


@dataclass(frozen=True, slots=True)
class NoStore:
    """There is no store of that name, or only one that was removed."""


_UNKNOWN: Final = OnTheWay(-1)

RemoveOutcome = Removed | StillOwns | OnTheWay | NotDraining | NoStore


async def measure_stores(engine: Engine) -> list[MeasuredStore]:
    """Every store of the registry with what it owns. One that is away says so."""
    records = await list_stores(engine)
    engines = {one.key: one for one in engine.home.stores.all()}
    patience = engine.settings.store_patience

    async def measure(record: StoreRecord) -> MeasuredStore:
        owner = engines.get(record.key)
        if record.state == "removed" or owner is None:
            return MeasuredStore(record, None)
        try:
            async with asyncio.timeout(patience):
                [row] = await owner.store.fetch("measure_store", COUNTED)
        except TimeoutError:
            return MeasuredStore(record, None, f"no answer within {patience:g} s")
        except (*DATABASE_ERRORS, ValueError) as error:
            return MeasuredStore(record, None, describe_failure(error, record.url))
        return MeasuredStore(record, _read_holding(row))

    return await asyncio.gather(*map(measure, records))


async def remove_store(engine: Engine, name: str) -> RemoveOutcome:
    """Takes a draining store that owns nothing out of the registry, for ever. Repeating it does nothing.

    Its tables are closed first, in the transaction that finds them empty: a process that has not heard of it can't write a
    run there that nobody would find again. Raises DATABASE_ERRORS where it does not answer. ``name`` is not home.
    """
    [record] = [one for one in await list_stores(engine) if one.name == name] or [None]
    if record is None or record.key == HOME_STORE:
        return NoStore()
    if record.state == "removed":
        return Removed()
    if record.state != "draining":
        return NotDraining()
    owner = next(one for one in engine.home.stores.all() if one.key == record.key)
    async with asyncio.timeout(_LOCK_SECONDS):
        holding = await _close_patiently(owner)
    if not holding.empty:
        return StillOwns(holding)
    coming = _UNKNOWN
    try:
        coming = await _count_coming(engine, owner)
    finally:
        if coming != OnTheWay(0):  # they would knock at a closed door for ever
            await owner.store.fetch("open_store")
    if coming != OnTheWay(0):
        return coming
    await give_forwards_to_home(engine, owner)
    await change_store(engine, name, state="removed")
    return Removed()


async def _close_patiently(owner: Engine) -> Holding:
    """Closes the store if it is empty, as soon as nobody works on it.

    A sweep that has read its tables, and is about to write to them, would wait for this and this for it. PostgreSQL breaks off
    whichever of two such looked first; so this one, which can be repeated, waits for less than that look takes to come.
    """
    while True:
        try:
            return await owner.store.run_plan(_close_if_empty())
        except (asyncpg.LockNotAvailableError, asyncpg.DeadlockDetectedError):
            await asyncio.sleep(_PAUSE)


async def undo_drain(engine: Engine, name: str) -> None:
    """A store takes new roots again. One that was closed to be removed, by somebody who died over it, is opened first.

    Raises DATABASE_ERRORS where it does not answer: then nothing was changed.
    """
    for record, one in zip(engine.home.stores.records(), engine.home.stores.all(), strict=True):
        if record.name == name:
            await one.store.fetch("open_store")
    await change_store(engine, name, state="active")


async def _count_coming(engine: Engine, owner: Engine) -> OnTheWay:
    """What any other store sends there. A store that does not answer is no answer: this raises then.

    Nothing is added to it by now: who orders a run there or sends a tree makes sure that the store is active, or meets the
    closed door, and then home, which has what a removed store had.
    """
    others = [one for one in engine.home.stores.all() if one is not owner]
    trees = await asyncio.gather(*(one.store.fetch("count_moves_to", owner.key) for one in others))
    mail = await asyncio.gather(*(one.store.fetch("count_mail_to", owner.key, COUNTED) for one in others))
    return OnTheWay(*(sum(found["found"] for [found] in rows) for rows in (trees, mail)))


def _close_if_empty() -> Plan[Holding]:
    yield from query("bound_lock_waits", _LOCK_WAIT)
    yield from query("lock_owned")
    [row] = yield from query("measure_store", COUNTED)
    holding = _read_holding(row)
    if holding.empty:
        yield from query("close_store")
    return holding


def _read_holding(row: Any) -> Holding:
    return Holding(row["open_runs"], row["runs"], row["batches"], row["tokens"], row["mail"])
