"""``headrace migrate``: brings the database, and those of all other stores, to this version's schema."""

from __future__ import annotations

import asyncio
from typing import Annotated, Any

import asyncpg
from cyclopts import Parameter

from headrace.cli.options import DatabaseUrl, Json
from headrace.cli.outcome import FAILED, OK, UNREACHABLE
from headrace.cli.output import err, out, print_json, print_text
from headrace.engine.registry import name_new_stores, name_stores, read_registry
from headrace.errors import ConfigurationError
from headrace.ids import HOME_STORE
from headrace.settings import Settings
from headrace.store.checks import NamedStore
from headrace.store.migrate import (
    Migration,
    find_missing_migrations,
    format_migrations,
    format_names,
    list_migrations,
    migrate_database,
)
from headrace.store.places import describe_failure, describe_place
from headrace.store.statements import load_sql
from headrace.store.store import DATABASE_ERRORS


def migrate(
    *,
    check: Annotated[bool, Parameter(negative="", help="Apply nothing; exit code 1 if something is missing")] = False,
    sql: Annotated[
        bool, Parameter(negative="", help="Print all migrations as one SQL script and do nothing else")
    ] = False,
    database_url: DatabaseUrl = None,
    json: Json = False,
) -> int:
    """Apply the migrations that the database lacks, and then those that the other stores lack, one process at a time."""
    if sql:
        print_text(format_migrations())
        return OK
    settings = Settings.from_environment(database_url=database_url)
    changed, others, faults = asyncio.run(migrate_all(settings, check=check))
    if json:
        told: dict[str, Any] = {"missing" if check else "applied": [*map(_name, changed)]}
        if others or faults:
            told |= {"stores": {name: [*map(_name, found)] for name, found in others.items()}, "failed": faults}
        print_json(told)
    else:
        out.print(_tell(changed, check=check))
        for name, found in others.items():
            out.print(f"store {name}: {_tell(found, check=check)}", markup=False)
    for name, fault in faults.items():
        err.print(f"error: store {name}: {fault}", markup=False)
    if faults:
        return UNREACHABLE
    return FAILED if check and (changed or any(others.values())) else OK


async def migrate_all(
    settings: Settings, *, check: bool = False
) -> tuple[list[Migration], dict[str, list[Migration]], dict[str, str]]:
    """What home lacked, what each other store lacked, and which could not be asked, and why. With ``check`` they lack it still."""
    work = find_missing_migrations if check else migrate_database
    changed = await work(settings.database_url)
    others: dict[str, list[Migration]] = {}
    faults: dict[str, str] = {}
    records = await read_registry(settings)
    known = [one for one in records if one.state != "removed"]
    asked = [*name_stores(known, settings)[1:], *name_new_stores(records, settings)]
    fleet = (await _read_identity(settings.database_url)) if len(known) > 1 else None
    for store in asked:
        if fault := await _find_fault(store, fleet):
            faults[store.name] = fault
            continue
        try:
            others[store.name] = await work(store.url)
        except ConfigurationError as error:
            faults[store.name] = str(error)
    return changed, others, faults


async def _find_fault(store: NamedStore, home: Any) -> str:
    """Why a store must not be migrated: it is away, or its URL leads to what is not that store. "" where it may be."""
    if not store.url:
        return "no URL is known for it. Set HEADRACE_STORES as for the other processes."
    try:
        own = await _read_identity(store.url)
    except (*DATABASE_ERRORS, ValueError) as error:
        told = describe_failure(error, store.url)
        return f"{describe_place(store.url)} can't be asked: {told}. Run `headrace migrate` again when it can."
    if store.key is None:
        return await _find_fault_of_new(store, own)
    if own is None or (own["key"], own["fleet"]) != (store.key, home["fleet"]):
        return f"{describe_place(store.url)} is not that store, and was left alone: see `headrace stores check`."
    return ""


async def _find_fault_of_new(store: NamedStore, own: Any) -> str:
    """As ``_find_fault``, of one that the next process adds when it starts: it may be another installation's, which is not ours to change."""
    if own is not None and own["key"] != HOME_STORE:
        return f"{describe_place(store.url)} is the store {own['name']!r} already, and was left alone."
    try:
        missing = await find_missing_migrations(store.url)
    except ConfigurationError as error:
        return str(error)
    if len(missing) in {0, len(list_migrations())}:
        return ""
    return f"{describe_place(store.url)} has headrace's tables of an older version, and was left alone: a new store begins as an empty database."


async def _read_identity(url: str) -> Any:
    """None where nothing of headrace is there."""
    connection: Any = await asyncpg.connect(url, statement_cache_size=0, timeout=10)
    try:
        async with connection.transaction():
            if await connection.fetchval("SELECT to_regclass('headrace.identity') IS NULL"):
                return None
            return await connection.fetchrow(load_sql("read_identity"))
    finally:
        await connection.close()


def _tell(changed: list[Migration], *, check: bool) -> str:
    names = format_names(changed)
    if check:
        return f"missing: {names}" if changed else "The schema is up to date."
    return f"applied: {names}" if changed else "Nothing to do: the schema is up to date."


def _name(migration: Migration) -> str:
    return f"{migration.version:04d}_{migration.name}"
