"""``headrace migrate``: brings the database, and those of all other stores, to this version's schema."""

from __future__ import annotations

import asyncio
from typing import Annotated, Any

import asyncpg
from cyclopts import Parameter

from headrace.cli.options import DatabaseUrl, Json
from headrace.cli.outcome import FAILED, OK, UNREACHABLE
from headrace.cli.output import err, out, print_json, print_text
from headrace.engine.registry import read_registry
from headrace.errors import ConfigurationError
from headrace.ids import HOME_STORE
from headrace.settings import Settings
from headrace.store.migrate import Migration, find_missing_migrations, format_migrations, migrate_database
from headrace.store.places import describe_failure, describe_place
from headrace.store.router import StoreRecord
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
    changed, others, faults = asyncio.run(_migrate_all(settings, check=check))
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


async def _migrate_all(
    settings: Settings, *, check: bool
) -> tuple[list[Migration], dict[str, list[Migration]], dict[str, str]]:
    """What home lacked, what each other store lacked, and which could not be asked, and why."""
    work = find_missing_migrations if check else migrate_database
    changed = await work(settings.database_url)
    others: dict[str, list[Migration]] = {}
    faults: dict[str, str] = {}
    records = await read_registry(settings)
    if len(records) > 1:
        fleet = await _read_identity(settings.database_url)
        for record in (one for one in records if one.key != HOME_STORE):
            if fault := await _find_fault(record, fleet["fleet"]):
                faults[record.name] = fault
                continue
            try:
                others[record.name] = await work(record.url)
            except ConfigurationError as error:
                faults[record.name] = str(error)
    return changed, others, faults


async def _find_fault(record: StoreRecord, fleet: Any) -> str:
    """Why a store must not be migrated: it is away, or its URL leads to what is not that store. "" where it may be."""
    if not record.url:
        return "no URL is known for it. Set HEADRACE_STORES as for the other processes."
    try:
        own = await _read_identity(record.url)
    except (*DATABASE_ERRORS, ValueError) as error:
        told = describe_failure(error, record.url)
        return f"{describe_place(record.url)} can't be asked: {told}. Run `headrace migrate` again when it can."
    if own is None or (own["key"], own["fleet"]) != (record.key, fleet):
        return f"{describe_place(record.url)} is not that store, and was left alone: see `headrace stores check`."
    return ""


async def _read_identity(url: str) -> Any:
    connection: Any = await asyncpg.connect(url, statement_cache_size=0, timeout=10)
    try:
        async with connection.transaction():
            return await connection.fetchrow(load_sql("read_identity"))
    finally:
        await connection.close()


def _tell(changed: list[Migration], *, check: bool) -> str:
    names = ", ".join(map(_name, changed))
    if check:
        return f"missing: {names}" if changed else "The schema is up to date."
    return f"applied: {names}" if changed else "Nothing to do: the schema is up to date."


def _name(migration: Migration) -> str:
    return f"{migration.version:04d}_{migration.name}"
