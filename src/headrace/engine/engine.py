"""What every rule works on: a store, the payload store, the settings and the notices of one process.

There is one Engine a store; all of a process know each other through ``stores``. With one store there is one.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any, Final
from uuid import UUID

from headrace.engine.control_cache import ControlMemory
from headrace.engine.lanes import LaneBook
from headrace.engine.notices import CONTROL_CHANNEL, STORES_CHANNEL, Notices
from headrace.engine.registry import declare_legacy, ensure_stores, load_records, name_stores, read_listen_urls
from headrace.errors import ConfigurationError
from headrace.ids import HOME_STORE
from headrace.logs import get_logger, of_store
from headrace.payloads import Payloads
from headrace.settings import Settings
from headrace.store.checks import examine_stores, expect_store, refuse_problems
from headrace.store.migrate import check_schema
from headrace.store.router import StoreRecord, Stores
from headrace.store.store import DATABASE_ERRORS, Store
from headrace.timeouts import happens_within

_REFRESH_SECONDS: Final = 5.0
"""How often the registry is read; less than ``store_grace``, so that a store is known before anything is in it."""

_LEAVE_SECONDS: Final = 20.0
"""So long who works on a store has to leave it once it is gone."""

_NO_FLEET: Final = UUID(int=0)

_log = get_logger("headrace.stores")


def _make_set() -> asyncio.Event:
    event = asyncio.Event()
    event.set()
    return event


@dataclass(slots=True, eq=False)
class Engine:
    """The engine of one process on one store: ``engine = await Engine.open(settings)``, then ``await engine.close()``.

    Functions of the engine take that of any store and find the right one by themselves: ``at`` for what has an id,
    ``home`` for the control plane.
    """

    store: Store
    payloads: Payloads
    settings: Settings
    notices: Notices
    lanes: LaneBook = field(default_factory=LaneBook)
    control: ControlMemory = field(default_factory=ControlMemory)
    key: str = HOME_STORE
    name: str = "home"
    listens: bool = False
    fleet: UUID = _NO_FLEET
    """The installation that its stores belong to."""

    known: Stores[Engine] | None = None
    refreshing: asyncio.Task[None] | None = None
    refresh_lock: asyncio.Lock = field(default_factory=asyncio.Lock)
    users: int = 0
    unused: asyncio.Event = field(default_factory=_make_set)
    leaving: dict[Engine, asyncio.Task[None]] = field(default_factory=dict["Engine", asyncio.Task[None]])
    """Engines of stores that are gone, until they are closed."""

    def __post_init__(self) -> None:
        self.notices.heed(CONTROL_CHANNEL, self.control.epochs.move)

    @classmethod
    async def open(cls, settings: Settings, *, listen: bool = False) -> Engine:
        """Connects, and with ``listen`` takes hints from other processes. That of the home store.

        Raises ConfigurationError where the database can't be reached, lacks migrations or is not the home store; and with
        ``listen`` where another store can't be what it is named as.
        """
        payloads = Payloads.open(settings)
        store = await Store.open(settings)
        try:
            async with store.connect() as connection, connection.transaction():
                await check_schema(connection)
                own = await connection.fetchrow("SELECT key, name, fleet FROM headrace.identity")
            _check_home(own)
        except BaseException:
            await store.close()
            raise
        engine = cls(store, payloads, settings, Notices(store, settings), listens=listen, fleet=own["fleet"])
        try:
            if listen and settings.stores:
                await ensure_stores(engine)
            await engine.refresh_stores()
            if listen:  # a command may start with anything, so that it can be used to mend it
                await engine.check_stores()
                if settings.legacy_store:
                    await declare_legacy(engine, settings.legacy_store)
        except BaseException:
            await engine.close()
            raise
        if listen:
            engine.notices.start_listening()
        engine.refreshing = asyncio.create_task(engine.follow_stores())
        return engine

    @property
    def stores(self) -> Stores[Engine]:
        """The engines of all stores."""
        if self.known is None:
            self.known = Stores(self, patience=self.settings.store_patience)
        elif self.key == HOME_STORE and self.known.home is not self:  # this one is a copy: it is home to itself
            self.known = self.known.copy(self)
        return self.known

    @property
    def home(self) -> Engine:
        """That of the home store."""
        return self.stores.home

    def at(self, value: UUID) -> Engine:
        """That of the store which owns an id; the home store's where no store does."""
        owner = self.stores.owner(value)
        return self if owner.key == self.key else owner  # a copy of an engine stays with its own connections

    def pick(self) -> Engine:
        """That of a store that takes new roots."""
        picked = self.stores.pick()
        return self if picked.key == self.key else picked

    async def refresh_stores(self) -> None:
        """Reads the registry, and opens and closes what has changed. Of the home store's engine."""
        async with self.refresh_lock:  # two at once would open a new store twice
            present = {one.key: one for one in self.stores.all()}
            found: list[tuple[StoreRecord, Engine]] = []
            for record in await load_records(self):
                engine = present.get(record.key)
                if engine is not None and engine is not self and engine.settings.database_url != record.url:
                    engine = None
                found.append((record, engine or await self._open_other(record)))
            self.stores.replace(found)
            left = {one for _, one in found}
            for gone in present.values():
                if gone not in left:
                    self.leaving[gone] = asyncio.create_task(gone.close_unused())
                    self.leaving[gone].add_done_callback(lambda _, gone=gone: self.leaving.pop(gone, None))

    @contextmanager
    def in_use(self) -> Generator[None]:
        """For whoever needs a moment to leave a store that is gone: its connections are closed after that."""
        self.users += 1
        self.unused.clear()
        try:
            yield
        finally:
            self.users -= 1
            if not self.users:
                self.unused.set()

    async def check_stores(self) -> None:
        """Looks at all stores, where there are several. Raises ConfigurationError with what no process may start with."""
        named = name_stores(self.stores.records(), self.settings)
        if len(named) == 1:
            return
        settings = self.settings
        examined = await examine_stores(
            named,
            fleet=self.fleet,
            pooler=settings.pooler,
            pool_size=settings.pool_size,
            patience=settings.store_patience,
        )
        refuse_problems(examined.problems)
        for problem in examined.problems:
            _log.warning(problem.said, store=problem.store, todo=problem.todo)

    async def follow_stores(self) -> None:
        """Keeps up with the registry, for ever."""
        while True:
            heard = self.notices.count(STORES_CHANNEL, 0)
            await self.notices.wait(STORES_CHANNEL, 0, pause_of(self.stores.records()), since=heard)
            try:
                await self.refresh_stores()
            except (*DATABASE_ERRORS, ConfigurationError) as error:
                _log.warning("the registry of stores can't be read", error=f"{type(error).__name__}: {error}")

    async def close_unused(self) -> None:
        """Closes it once nobody uses it, or takes too long to leave."""
        await happens_within(self.unused, _LEAVE_SECONDS)
        await self.close()

    async def close(self) -> None:
        """Lets go of every connection, of all stores where it is the home store's."""
        if self.refreshing is not None:
            self.refreshing.cancel()
            await asyncio.wait({self.refreshing})
        if self.home is self:
            leaving = list(self.leaving)
            for job in self.leaving.values():
                job.cancel()
            await asyncio.gather(*(one.close() for one in (*self.stores.others(), *leaving)))
        await self.notices.close()
        await self.store.close()

    async def _open_other(self, record: StoreRecord) -> Engine:
        listen_url = read_listen_urls(self.settings).get(record.name, "")
        settings = replace(self.settings, database_url=record.url, listen_url=listen_url, stores="", stores_listen="")
        # one that is away now must not keep this process from starting: it is looked at when a connection is made
        connect = expect_store(record.name, record.url, record.key, self.fleet)
        store = await Store.open(settings, lazily=True, name=record.name, connect=connect)
        opened = Engine(
            store,
            self.payloads,
            settings,
            Notices(store, settings),
            lanes=LaneBook(record.key),
            key=record.key,
            name=record.name,
            listens=self.listens,
            fleet=self.fleet,
            known=self.stores,
        )
        if self.listens:
            with of_store(record.name):
                opened.notices.start_listening()
        return opened


def pause_of(records: Sequence[StoreRecord]) -> float:
    """How many seconds until a process reads the registry again: when a store takes roots, and never after _REFRESH_SECONDS.

    Each pause is another one, so that hundreds of processes that were told of a change at once don't all come at once from then on.
    """
    soon = [record.opens_in for record in records if record.opens_in > 0]
    return min([_REFRESH_SECONDS * random.uniform(0.6, 1.0), *soon])  # noqa: S311 - spreads load, guards nothing


def _check_home(own: Any) -> None:
    if own["key"] != HOME_STORE:
        raise ConfigurationError(
            f"HEADRACE_DATABASE_URL names the store {own['name']!r}, but must name the home store, which has the control "
            "plane. Name the others in HEADRACE_STORES."
        )
