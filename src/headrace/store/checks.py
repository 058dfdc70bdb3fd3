"""What is looked at before several databases are used as one system, and what is said of it.

Two names that lead to one database, a database of another schema version, another store's or another installation's: each
would lose or double runs without a word, so each is refused in words. Every problem says what is wrong, what was given,
what is allowed and what to do. Names, hosts and databases are shown; passwords never.

A store that is away is no reason to refuse: the others go on without it. What could not be looked at then is looked at
whenever a connection to it is made (``expect_store``).
"""

from __future__ import annotations

import asyncio
import itertools
import secrets
import time
from collections.abc import AsyncGenerator, Callable, Generator, Iterable, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from types import CoroutineType
from typing import Any, Final, Literal
from uuid import UUID

import asyncpg

from headrace.errors import ConfigurationError
from headrace.ids import HOME_STORE
from headrace.store.migrate import check_schema, format_names, list_migrations, read_missing_migrations
from headrace.store.places import describe_failure, describe_place
from headrace.store.statements import load_sql
from headrace.store.store import DATABASE_ERRORS, FreeConnection

OLDEST_POSTGRES: Final = 150_000
SHORTEST_TIMEOUT: Final = 5_000
"""Milliseconds that PostgreSQL has to allow a statement: the sweep of a large batch takes some."""

MOST_SKEW: Final = 2.0
_ADD: Final = "`headrace stores add NAME URL --migrate`"


@dataclass(frozen=True, slots=True)
class NamedStore:
    """A store as it was named: in the registry, in a setting, or in a command."""

    name: str
    url: str = field(repr=False)
    key: str | None = None
    """The key that the registry has for it; None for a database that is to become a store."""

    listen_url: str = field(default="", repr=False)
    """Where hints are listened for, where that is not ``url``."""


@dataclass(frozen=True, slots=True)
class Identity:
    """What a database says of itself in headrace.identity."""

    key: str
    name: str
    fleet: UUID


@dataclass(frozen=True, slots=True)
class StoreFacts:
    """What a database said when it was asked."""

    name: str
    place: str
    key: str | None = None
    failure: str = ""
    """Why it could not be asked; then the rest is not known."""

    version_number: int = 0
    version: str = ""
    read_only: bool = False
    isolation: str = "read committed"
    encoding: str = "UTF8"
    max_connections: int = 100
    shortest_timeout: int = 0
    skew: float = 0.0
    """Seconds between its clock and this machine's."""

    schema_fault: str = ""
    """What is wrong with its schema; "" where it is this version's."""

    lacks: bool = False
    """Whether migrations would mend that."""

    migrated: bool = False
    identity: Identity | None = None
    pooled: bool = False
    """Whether a pooler stands before it that gives every transaction another connection: seen, not told."""

    system: int | None = None
    """The number of its cluster; None where nobody may ask for it."""

    database: str = ""


@dataclass(frozen=True, slots=True)
class Problem:
    """Something that is wrong with a store: in words, with what to do."""

    store: str
    said: str
    todo: str
    weight: Literal["refuse", "warn"] = "refuse"
    """Whether a process refuses to start with it, or only says so."""

    kind: str = "other"
    """A word for programs."""

    def __str__(self) -> str:
        return f"{self.said} {self.todo}"


@dataclass(frozen=True, slots=True)
class Examined:
    """What ``examine_stores`` found: the facts of each store in the order given, and what is wrong."""

    facts: list[StoreFacts]
    problems: list[Problem]

    @property
    def refused(self) -> list[Problem]:
        """The problems that no process may start with."""
        return [problem for problem in self.problems if problem.weight == "refuse"]


class WrongStoreError(ConnectionError):
    """A connection leads to another database than it should. It is as good as none."""


async def examine_stores(
    stores: Sequence[NamedStore],
    *,
    fleet: UUID | None = None,
    pooler: str = "none",
    pool_size: int = 0,
    patience: float = 5.0,
) -> Examined:
    """Asks every store, home first, and says what is wrong. Writes nothing, and raises nothing that a store does.

    ``fleet`` is the installation, None for that which home says; ``pooler`` and ``pool_size`` are the settings of these names.
    """
    async with AsyncExitStack() as stack:
        visits = await asyncio.gather(*(_visit(store.name, store.key, store.url, patience, stack) for store in stores))
        ears = await asyncio.gather(
            *(_visit(store.name, store.key, store.listen_url, patience, stack) for store in stores if store.listen_url)
        )
        facts = [visit.facts for visit in visits]
        fleet = fleet or (facts[0].identity.fleet if facts[0].identity else None)
        problems = [
            problem for one in facts for problem in judge_facts(one, fleet=fleet, pooler=pooler, pool_size=pool_size)
        ]
        problems += judge_clocks(facts)
        problems += [problem async for problem in _find_twins(visits, patience)]
        by_name = {visit.facts.name: visit for visit in visits}
        for ear in ears:
            problems += [problem async for problem in _judge_ear(by_name[ear.facts.name], ear, patience)]
        problems += judge_ears(stores, pooler)
    return Examined(facts, problems)


def judge_facts(facts: StoreFacts, *, fleet: UUID | None, pooler: str, pool_size: int) -> Generator[Problem]:
    """What is wrong with one store by itself."""
    who = f"Store {facts.name!r} ({facts.place})"
    if not facts.place:
        yield Problem(
            facts.name,
            f"No URL is known for store {facts.name!r}: the registry has none.",
            f"Set HEADRACE_STORES={facts.name}=postgresql://... as for the other processes, or write it to the registry: "
            f"`headrace stores add {facts.name} URL`.",
            kind="no-url",
        )
        return
    if facts.failure:
        yield Problem(
            facts.name,
            f"{who} can't be reached: {facts.failure}.",
            "Check that it runs and that its URL is right. What it owns is not to be had until then; the other stores go on, but "
            "nothing starts in any of them on queues with limits, which wait for it.",
            "warn",
            "unreachable",
        )
        return
    yield from _judge_server(facts, who, pooler, pool_size)
    if facts.schema_fault:
        yield Problem(facts.name, f"{who}: {facts.schema_fault}", _tell_migration(facts), kind="schema")
        return
    yield from _judge_identity(facts, who, fleet)


def judge_clocks(facts: Sequence[StoreFacts]) -> Generator[Problem]:
    """Which stores' clocks differ from home's, the first one."""
    for one in facts[1:]:
        if not one.failure and not facts[0].failure and abs(one.skew - facts[0].skew) > MOST_SKEW:
            yield Problem(
                one.name,
                f"The clock of store {one.name!r} ({one.place}) is {one.skew - facts[0].skew:+.1f} s from home's.",
                f"Synchronise both (NTP): up to {MOST_SKEW:g} s is allowed. Leases go by each store's own clock, but delays and "
                "lists over all stores are off by that much.",
                "warn",
                "clock",
            )


def judge_ears(stores: Sequence[NamedStore], pooler: str) -> Generator[Problem]:
    """Which stores' hints would be lost where those of others are heard: behind a pooler that can't LISTEN."""
    if pooler == "none" or not any(store.listen_url for store in stores):
        return
    for store in stores:
        if not store.listen_url:
            where = (
                "HEADRACE_LISTEN_URL"
                if store.key == HOME_STORE
                else f"HEADRACE_STORES_LISTEN={store.name}=postgresql://..."
            )
            yield Problem(
                store.name,
                f"HEADRACE_POOLER is {pooler!r}, through which nobody can LISTEN, and for store {store.name!r} "
                f"({describe_place(store.url)}) no URL is named to LISTEN on, though there is one for others: its hints would be "
                "lost, and its runs be slower than the others'.",
                f"Set {where} to the database itself, past the pooler; or name none for any store, and all of them are polled.",
                kind="listen",
            )


async def find_same_database(one: Any, other: Any) -> bool:
    """Whether two connections lead to one database, whatever their URLs say and whoever they are.

    An advisory lock is of one database in one running server: what one connection holds the other can't have. So this
    tells apart also a database and its restored copy, which have all their names and numbers in common.
    """
    mark = secrets.randbits(62)
    async with one.transaction(), other.transaction():
        await one.fetchval(load_sql("hold_mark"), mark)
        return not await other.fetchval(load_sql("hold_mark"), mark)


def expect_store(name: str, url: str, key: str, fleet: UUID) -> Callable[..., CoroutineType[Any, Any, Any]]:
    """How the pool of a store connects: as ``asyncpg.connect`` does, but a connection to another database is refused.

    A store that was away at the start, or whose name leads elsewhere since, is found out here. The first connection is
    asked for its schema too; later ones are not, because a newer one may come while processes of the old one still run.
    All that it raises is in DATABASE_ERRORS: for whoever asks, the store is away.
    """
    known = False
    place = f"store {name!r}"

    async def connect(*args: Any, **given: Any) -> Any:
        if not url:
            raise WrongStoreError(f"no URL is known for {place}: HEADRACE_STORES names it for other processes")
        try:
            connection: Any = await asyncpg.connect(*args, **given)
        except ValueError as error:
            raise WrongStoreError(f"{place}: {describe_failure(error, url)}") from None
        try:
            await verify(connection)
        except BaseException:
            connection.terminate()
            raise
        return connection

    async def verify(connection: Any) -> None:
        nonlocal known
        try:
            async with connection.transaction():
                own = await connection.fetchrow(load_sql("read_identity"))
                if not known:
                    await check_schema(connection)
        except (asyncpg.UndefinedTableError, asyncpg.InvalidSchemaNameError):
            raise WrongStoreError(
                f"the database of {place} is no store of headrace: see `headrace stores check`"
            ) from None
        except ConfigurationError as error:
            raise WrongStoreError(f"{place}: {error}") from error
        if own is None or (own["key"], own["fleet"]) != (key, fleet):
            raise WrongStoreError(f"the database of {place} is another store: see `headrace stores check`")
        known = True

    return connect


def refuse_problems(problems: Iterable[Problem]) -> None:
    """Raises ConfigurationError with all that no process may start with, where there is any."""
    if found := [str(problem) for problem in problems if problem.weight == "refuse"]:
        raise ConfigurationError("\n".join([*found, "`headrace stores check` looks at all stores."]))


@dataclass(slots=True)
class _Visit:
    """A connection to a store, and what was seen there."""

    facts: StoreFacts
    connection: Any = None


async def _visit(name: str, key: str | None, url: str, patience: float, stack: AsyncExitStack) -> _Visit:
    place = describe_place(url)
    if not url:
        return _Visit(StoreFacts(name, "", key, failure="no URL is known for it"))
    try:
        async with asyncio.timeout(patience):
            # no statement cache: this is to work through a pooler as well
            connection: Any = await asyncpg.connect(
                url, timeout=patience, statement_cache_size=0, connection_class=FreeConnection
            )
            stack.push_async_callback(_hang_up, connection)
            return _Visit(await _read_facts(name, key, url, place, connection), connection)
    except (*DATABASE_ERRORS, ValueError) as error:
        failure = (
            f"no answer within {patience:g} s" if isinstance(error, TimeoutError) else describe_failure(error, url)
        )
        return _Visit(StoreFacts(name, place, key, failure=failure))


async def _read_facts(name: str, key: str | None, url: str, place: str, connection: Any) -> StoreFacts:
    asked = time.time()
    async with connection.transaction():
        row = await connection.fetchrow(load_sql("examine_store"))
    here = (asked + time.time()) / 2
    fault, missing, identity = "", [], None
    async with connection.transaction():
        try:
            missing = await read_missing_migrations(connection)
        except ConfigurationError as error:
            fault = str(error)
        if missing:
            fault = (
                f"It lacks migrations: {format_names(missing)}."
                if row["migrated"]
                else "It has none of headrace's tables."
            )
        if row["has_identity"]:
            own = await connection.fetchrow(load_sql("read_identity"))
            identity = Identity(own["key"], own["name"], own["fleet"]) if own else None
    return StoreFacts(
        name,
        place,
        key,
        version_number=row["version_number"],
        version=row["version"],
        read_only=row["read_only"],
        isolation=row["isolation"],
        encoding=row["encoding"],
        max_connections=row["max_connections"],
        shortest_timeout=row["shortest_timeout"],
        skew=row["clock"] - here,
        schema_fault=fault,
        lacks=bool(missing),
        migrated=row["migrated"],
        identity=identity,
        pooled=await _is_pooled(connection, url, row["pid"]),
        system=await _read_system(connection) if row["has_system"] else None,
        database=row["database"],
    )


async def _read_system(connection: Any) -> int | None:
    try:
        async with connection.transaction():
            return await connection.fetchval(load_sql("read_system"))
    except asyncpg.PostgresError:  # a service that says it may be asked, and refuses
        return None


async def _is_pooled(connection: Any, url: str, pid: int) -> bool:
    """Whether another connection is given the same server process while this one is open: only a pooler does so."""
    if connection.get_server_pid() == pid:
        return False
    other: Any = await asyncpg.connect(url, statement_cache_size=0, connection_class=FreeConnection)
    try:
        async with other.transaction():
            return (await other.fetchrow(load_sql("examine_store")))["pid"] == pid
    finally:
        await _hang_up(other)


async def _hang_up(connection: Any) -> None:
    connection.terminate()  # at once: nothing is open on it, and it may be to a server that does not answer any more


def _judge_server(facts: StoreFacts, who: str, pooler: str, pool_size: int) -> Generator[Problem]:
    if facts.version_number < OLDEST_POSTGRES:
        yield Problem(
            facts.name, f"{who} is PostgreSQL {facts.version}.", "Use PostgreSQL 15 or newer.", kind="version"
        )
    if facts.read_only:
        yield Problem(
            facts.name,
            f"{who} can only be read: it is a standby, or default_transaction_read_only is on. No deadline of it would be swept.",
            "Name the primary, and leave its transactions writable.",
            kind="read-only",
        )
    if facts.isolation != "read committed":
        yield Problem(
            facts.name,
            f"{who} has default_transaction_isolation {facts.isolation!r}, but 'read committed' is what headrace works with.",
            "Set it back, for the user and the database that headrace uses.",
            kind="isolation",
        )
    if facts.encoding != "UTF8":
        yield Problem(
            facts.name,
            f"{who} has the encoding {facts.encoding}, but must have UTF8: payloads and names hold any character.",
            "Make its database anew with ENCODING 'UTF8'.",
            kind="encoding",
        )
    if 0 < facts.shortest_timeout < SHORTEST_TIMEOUT:
        yield Problem(
            facts.name,
            f"{who} ends statements or transactions after {facts.shortest_timeout} ms (statement_timeout, transaction_timeout): "
            "sweeps and seals of large batches would be cut off each time and never get done.",
            f"Allow headrace's user {SHORTEST_TIMEOUT} ms or more, or set no limit (0).",
            kind="timeout",
        )
    if facts.pooled and pooler == "none":
        yield Problem(
            facts.name,
            f"{who} is behind a pooler that gives every transaction another connection, and HEADRACE_POOLER is 'none': hints "
            "and prepared statements would be lost.",
            "Set HEADRACE_POOLER=transaction and name each store's own address in HEADRACE_LISTEN_URL and "
            "HEADRACE_STORES_LISTEN; or name the databases themselves.",
            kind="pooler",
        )
    if pool_size > facts.max_connections:
        yield Problem(
            facts.name,
            f"{who} takes {facts.max_connections} connections, and HEADRACE_POOL_SIZE lets each process make {pool_size}.",
            "Set HEADRACE_POOL_SIZE so that all processes together keep below it, or put PgBouncer in between.",
            "warn",
            "connections",
        )


def _tell_migration(facts: StoreFacts) -> str:
    if facts.lacks and facts.key is None:
        return f"Make it a store with {_ADD}."
    if facts.lacks and not facts.migrated:
        # an empty database behind a name that the registry knows is another one than it was
        return f"Check that its URL leads to the database that was added as {facts.name!r}."
    wanted = f"All stores must have the schema of this headrace, {list_migrations()[-1].version:04d}"
    return f"{wanted}: `headrace migrate` brings home and all stores to it." if facts.lacks else f"{wanted}."


def _judge_identity(facts: StoreFacts, who: str, fleet: UUID | None) -> Generator[Problem]:
    own = facts.identity
    if own is None:
        yield Problem(
            facts.name,
            f"{who} does not say which store it is: the row of headrace.identity is gone.",
            "Restore it from a backup of this database; no other store's row will do.",
            kind="identity",
        )
    elif facts.key is None:
        yield from _judge_candidate(facts, own, who, fleet)
    elif own.fleet != fleet and own.key == HOME_STORE:
        yield Problem(
            facts.name,
            f"{who} has never been made a store of this installation: it is one of its own.",
            f"Make it a store with {_ADD}, if it is empty; otherwise check its URL.",
            kind="identity",
        )
    elif own.fleet != fleet:
        yield Problem(
            facts.name,
            f"{who} is the store {own.name!r} of another installation (fleet {own.fleet}, this one is {fleet}).",
            "Check its URL, and HEADRACE_DATABASE_URL; staging's and production's must not be mixed.",
            kind="fleet",
        )
    elif own.key != facts.key:
        yield Problem(
            facts.name,
            f"{who} says that it is the store {own.name!r} (key {own.key!r}), but the registry has {facts.name!r} with key "
            f"{facts.key!r}.",
            "Check whether URLs were swapped in HEADRACE_STORES or the registry: each name must lead to the database that was "
            "added by it. A database that was restored from a backup belongs in the place of the one that it is of.",
            kind="identity",
        )


def _judge_candidate(facts: StoreFacts, own: Identity, who: str, fleet: UUID | None) -> Generator[Problem]:
    if own.key == HOME_STORE and own.fleet != fleet:
        return  # a database of its own: whether it is empty is seen when it becomes a store
    whose = "this installation" if own.fleet == fleet else f"another installation (fleet {own.fleet})"
    yield Problem(
        facts.name,
        f"{who} is the store {own.name!r} of {whose} already.",
        "Give each store a database of its own: CREATE DATABASE makes one, `--migrate` its tables.",
        kind="identity",
    )


async def _find_twins(visits: Sequence[_Visit], patience: float) -> AsyncGenerator[Problem]:
    """Names that lead to one database."""
    for one, other in itertools.combinations([visit for visit in visits if not visit.facts.failure], 2):
        if _differ(one.facts, other.facts):
            continue
        both = f"{one.facts.name!r} ({one.facts.place}) and {other.facts.name!r} ({other.facts.place})"
        same = await _try_same(one, other, patience)
        if same is None:
            yield Problem(
                other.facts.name,
                f"Whether the stores {both} are one database or two could not be found out: a connection broke off.",
                "Try again; a start goes on only when it is known.",
                kind="same-database",
            )
        elif same:
            yield Problem(
                other.facts.name,
                f"The stores {both} are one and the same database, {one.facts.database!r}.",
                "Give each store a database of its own, or leave one of the names out: every run would be seen twice.",
                kind="same-database",
            )


async def _judge_ear(store: _Visit, ear: _Visit, patience: float) -> AsyncGenerator[Problem]:
    """What is wrong with the URL on which hints of a store are listened for."""
    name, place = ear.facts.name, ear.facts.place
    if ear.facts.failure:
        yield Problem(
            name,
            f"Hints of store {name!r} can't be listened for at {place}: {ear.facts.failure}.",
            "Check HEADRACE_LISTEN_URL and HEADRACE_STORES_LISTEN. Until then the store is polled, which is slower.",
            "warn",
            "listen",
        )
        return
    if ear.facts.pooled:
        yield Problem(
            name,
            f"The URL to LISTEN on for store {name!r} ({place}) leads through a pooler that gives every transaction another "
            "connection: no hint would be heard.",
            "Name the database itself, past the pooler.",
            kind="listen",
        )
    if store.facts.failure or ear.facts.read_only:
        return
    if _differ(store.facts, ear.facts) or await _try_same(store, ear, patience) is False:
        yield Problem(
            name,
            f"The URL to LISTEN on for store {name!r} ({place}) leads to another database than the store itself "
            f"({store.facts.place}): no hint would be heard.",
            "Name the same database in both.",
            kind="listen",
        )


def _differ(one: StoreFacts, other: StoreFacts) -> bool:
    """Whether what two databases say of themselves rules out that they are one."""
    if one.database != other.database:
        return True
    return one.system is not None and other.system is not None and one.system != other.system


async def _try_same(one: _Visit, other: _Visit, patience: float) -> bool | None:
    try:
        async with asyncio.timeout(patience):
            return await find_same_database(one.connection, other.connection)
    except DATABASE_ERRORS:
        return None
