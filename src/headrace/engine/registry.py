"""The registry of stores: which there are, where, and whether they take new roots. It lives in the home store.

A store can be named by a line of configuration (``HEADRACE_STORES="s1=postgresql://..."``) or be added by
``headrace stores add``. Its key, one character, is in the id of all that it owns, so a key is given once and never again.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Final, Literal
from uuid import UUID

import asyncpg

from headrace.engine.control_copies import copy_on, read_home_on
from headrace.errors import ConfigurationError
from headrace.ids import HOME_STORE, STORE_KEYS
from headrace.settings import Settings
from headrace.store.checks import NamedStore
from headrace.store.migrate import check_schema
from headrace.store.places import describe_failure, describe_place
from headrace.store.router import StoreRecord
from headrace.store.statements import Plan, load_sql, query
from headrace.store.store import DATABASE_ERRORS, run_plan_on

if TYPE_CHECKING:
    from headrace.engine.engine import Engine

_NAMED: Final = re.compile(r"(?:^|,)\s*([a-z][a-z0-9-]{0,62})=(?=postgres)")
_RESERVED: Final = "home"


def read_store_urls(text: str, variable: str = "HEADRACE_STORES") -> dict[str, str]:
    """The URLs of ``HEADRACE_STORES`` by name, or of another variable that is written as it is. Raises ConfigurationError on text that is not ``name=url,name=url``.

    A URL may hold commas, as one with several hosts does: a name begins after a comma and is followed by ``=postgres``.
    """
    if not text.strip():
        return {}
    starts = list(_NAMED.finditer(text))
    if not starts or starts[0].start() != 0:
        raise ConfigurationError(
            f"{variable} must be names and URLs, such as s1=postgresql://user:password@host/database,s2=postgresql://..."
        )
    ends = [match.start() for match in starts[1:]] + [len(text)]
    found: dict[str, str] = {}
    for match, end in zip(starts, ends, strict=True):
        if match[1] in found or match[1] == _RESERVED:
            why = "is the name of HEADRACE_DATABASE_URL" if match[1] == _RESERVED else "stands there twice"
            raise ConfigurationError(f"{variable}: {match[1]!r} {why}. Give each store a name of its own.")
        found[match[1]] = text[match.end() : end].strip()
    return found


def read_listen_urls(settings: Settings) -> dict[str, str]:
    """Where to LISTEN, by the store's name, home among them: those that are named."""
    found = read_store_urls(settings.stores_listen, "HEADRACE_STORES_LISTEN")
    return found | ({_RESERVED: settings.listen_url} if settings.listen_url else {})


def name_stores(records: Sequence[StoreRecord], settings: Settings) -> list[NamedStore]:
    """What ``examine_stores`` asks, of stores of the registry: home first."""
    ears = read_listen_urls(settings)
    return [
        NamedStore(
            one.name, settings.database_url if one.key == HOME_STORE else one.url, one.key, ears.get(one.name, "")
        )
        for one in sorted(records, key=lambda one: one.key != HOME_STORE)
    ]


def name_new_stores(records: Sequence[StoreRecord], settings: Settings) -> list[NamedStore]:
    """The stores of HEADRACE_STORES that the registry does not know yet; ``records`` are all that it knows."""
    known = {one.name for one in records}
    return [NamedStore(name, url) for name, url in read_store_urls(settings.stores).items() if name not in known]


async def load_records(engine: Engine) -> list[StoreRecord]:
    """The stores that own anything, home among them."""
    rows = await engine.home.store.fetch("list_stores")
    urls = read_store_urls(engine.settings.stores)
    return [record for row in rows if (record := _read_record(row, urls, engine.settings)).state != "removed"]


async def list_stores(engine: Engine) -> list[StoreRecord]:
    """All stores, those too that were removed."""
    urls = read_store_urls(engine.settings.stores)
    return [_read_record(row, urls, engine.settings) for row in await engine.home.store.fetch("list_stores")]


async def read_registry(settings: Settings) -> list[StoreRecord]:
    """All stores, those too that were removed, read without an engine: home may lack migrations, or be away.

    Raises ConfigurationError where it can't be reached; none is found where home is older than stores are.
    """
    try:
        connection: Any = await asyncpg.connect(settings.database_url, statement_cache_size=0, timeout=10)
    except (*DATABASE_ERRORS, ValueError) as error:
        told = describe_failure(error, settings.database_url)
        raise ConfigurationError(f"PostgreSQL can't be reached with HEADRACE_DATABASE_URL: {told}.") from error
    try:
        async with connection.transaction():
            if await connection.fetchval("SELECT to_regclass('headrace.stores') IS NULL"):
                return []
            rows = await connection.fetch(load_sql("list_stores"))
    finally:
        await connection.close()
    urls = read_store_urls(settings.stores)
    return [_read_record(row, urls, settings) for row in rows]


async def add_store(engine: Engine, name: str, url: str, *, weight: float = 1.0, keep_url: bool = True) -> StoreRecord:
    """Registers a migrated, empty database as a store; it takes new roots after ``store_grace`` seconds.

    ``keep_url`` writes the URL to the registry; without it every process needs it in HEADRACE_STORES. Repeating it does
    nothing. Raises ConfigurationError where the name is taken, or the database can't be reached, lacks migrations or is
    a store already.
    """
    _check_weight(weight)
    try:
        connection: Any = await asyncpg.connect(url, statement_cache_size=0, timeout=10)
    except (*DATABASE_ERRORS, ValueError) as error:
        told = describe_failure(error, url)
        raise ConfigurationError(f"store {name!r} can't be reached: {told}. Check its URL.") from error
    try:
        try:
            await check_schema(connection)
        except ConfigurationError as error:
            raise ConfigurationError(f"store {name!r} ({describe_place(url)}): {error}") from None
        async with engine.home.store.connect() as home, home.transaction():
            key, fleet = await run_plan_on(home, _register(name, url if keep_url else None, weight, engine.settings))
            # home commits last: a database that became a store which no registry knows is made one again by the next try
            async with connection.transaction():
                await run_plan_on(connection, _become(key, name, fleet))
            await copy_on(connection, lambda mark: read_home_on(home, mark))
    except asyncpg.CheckViolationError as error:
        raise ConfigurationError(
            f"store {name!r}: its database holds runs of another store. A store that is added must be empty: make a new "
            "database and migrate it."
        ) from error
    finally:
        await connection.close()
    await _tell_all(engine)
    [record] = [one for one in await list_stores(engine) if one.name == name]
    return record


async def change_store(
    engine: Engine,
    name: str,
    *,
    weight: float | None = None,
    state: Literal["active", "draining", "removed"] | None = None,
    url: str | None = None,
) -> bool:
    """Changes the weight, state or URL of a store; False where there is none of that name. Other processes follow in seconds."""
    if weight is not None:
        _check_weight(weight)
    if name == _RESERVED and state == "removed":
        raise ConfigurationError("home can't be removed: it has the control plane. Drain it instead.")
    rows = await engine.home.store.fetch("update_store", name, weight, state, url)
    await _tell_all(engine)
    return bool(rows)


async def declare_legacy(engine: Engine, name: str) -> None:
    """Says which store runs are imported to (``headrace.engine.imports``). Repeating it does nothing; without it that is home.

    Raises ConfigurationError where there is no such store, or runs were imported to another one: they are looked for there.
    """
    records = await list_stores(engine)
    [record] = [one for one in records if one.name == name and one.state != "removed"] or [None]
    if record is None:
        known = ", ".join(one.name for one in records if one.state != "removed")
        raise ConfigurationError(f"there is no store {name!r} to import runs to. There are: {known}.")
    if record.legacy:
        return
    if not await engine.home.store.fetch("declare_legacy", record.key):
        [before] = [one.name for one in await list_stores(engine) if one.legacy]
        raise ConfigurationError(
            f"runs were imported to the store {before!r}, so their ids lead there: {name!r} can't be declared for them any more. "
            f"To have them there, move them: `headrace stores move --all-from {before} --to {name}`."
        )
    await _tell_all(engine)


async def ensure_stores(engine: Engine) -> None:
    """Registers the stores of HEADRACE_STORES that are not registered yet. Raises ConfigurationError as ``add_store`` does."""
    if not engine.settings.stores:
        return
    for new in name_new_stores(await list_stores(engine), engine.settings):
        await add_store(engine, new.name, new.url, keep_url=False)


async def _tell_all(engine: Engine) -> None:
    await engine.home.refresh_stores()
    engine.home.notices.stores_changed()


def _check_weight(weight: float) -> None:
    if not 0 <= weight <= 1_000_000:
        raise ConfigurationError(f"weight is {weight:g}, but must be from 0 to 1000000.")


def _register(name: str, url: str | None, weight: float, settings: Settings) -> Plan[tuple[str, UUID]]:
    yield from query("lock_stores")
    [home] = yield from query("read_identity")
    rows: list[Any] = yield from query("list_stores")
    for row in rows:
        if row["name"] == name:
            if row["state"] == "removed" or name == _RESERVED:
                raise ConfigurationError(f"the name {name!r} was given to another store before: choose a new one.")
            return row["key"], home["fleet"]
    free = [key for key in STORE_KEYS if key not in {row["key"] for row in rows}]
    if not free:
        raise ConfigurationError(f"there are {len(STORE_KEYS)} stores already, and no id can name another one.")
    yield from query("insert_store", free[0], name, url, weight, settings.store_grace)
    return free[0], home["fleet"]


def _become(key: str, name: str, fleet: UUID) -> Plan[None]:
    [own] = yield from query("read_identity")
    if (own["key"], own["fleet"]) == (key, fleet):
        return
    if own["key"] != HOME_STORE or own["fleet"] == fleet:
        raise ConfigurationError(
            f"store {name!r}: its database is the store {own['name']!r} already. Give each store a database of its own."
        )
    if used := (yield from query("find_use")):
        raise ConfigurationError(
            f"store {name!r}: its database holds {', '.join(row['what'] for row in used)} already. A store that is added must be "
            "empty: make a new database and migrate it."
        )
    yield from query("become_store", key, name, fleet)


def _read_record(row: Any, urls: dict[str, str], settings: Settings) -> StoreRecord:
    url = settings.database_url if row["key"] == HOME_STORE else urls.get(row["name"]) or row["url"] or ""
    return StoreRecord(row["key"], row["name"], url, row["weight"], row["state"], row["opens_in"], row["legacy"])
