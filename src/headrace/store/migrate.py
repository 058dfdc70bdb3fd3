"""Numbered migrations, ``migrations/NNNN_name.sql``, applied in order, once, by one process at a time.

The versions applied are recorded with the hash of their text in ``headrace_migrations`` (in schema ``public``, so that
it is there before the schema is). A migration runs in one transaction with its record.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.resources import files
from typing import Any, Final

import asyncpg

from headrace.errors import ConfigurationError
from headrace.store.places import describe_failure

_LOCK: Final = 7305_0000
_RECORD: Final = """
CREATE TABLE IF NOT EXISTS public.headrace_migrations (
    version integer PRIMARY KEY, name text NOT NULL, sha256 text NOT NULL, applied_at timestamptz NOT NULL DEFAULT now()
)"""

_HAS_SCHEMA: Final = "SELECT to_regnamespace('headrace') IS NOT NULL"


@dataclass(frozen=True, slots=True)
class Migration:
    """One file under ``migrations/``."""

    version: int
    name: str
    sql: str

    @property
    def sha256(self) -> str:
        """The hash of its text, to notice one that was changed after it was applied."""
        return hashlib.sha256(self.sql.encode("utf-8")).hexdigest()


def list_migrations() -> list[Migration]:
    """All migrations of this version of headrace, in order."""
    found = [
        Migration(int(matched[1]), matched[2], entry.read_text(encoding="utf-8"))
        for entry in (files("headrace.store") / "migrations").iterdir()
        if (matched := re.fullmatch(r"(\d{4})_(\w+)\.sql", entry.name))
    ]
    return sorted(found, key=lambda migration: migration.version)


def format_migrations() -> str:
    """All migrations and their records as one script, for those who apply SQL by other means."""
    steps = [
        f"-- {migration.version:04d} {migration.name}\nBEGIN;\n{migration.sql.strip()}\n{_record_sql(migration)}\nCOMMIT;"
        for migration in list_migrations()
    ]
    return "\n\n".join([_RECORD.strip() + ";", *steps]) + "\n"


async def migrate_database(database_url: str) -> list[Migration]:
    """Applies what is missing and returns it. Safe to call from many processes at once: one does it, the rest wait.

    Raises ConfigurationError where the database can't be reached, is newer than this headrace, or holds a migration
    that differs from ours.
    """
    connection = await _connect(database_url)
    try:
        async with connection.transaction():
            await connection.execute("SELECT pg_advisory_xact_lock($1)", _LOCK)
            await connection.execute(_RECORD)
            missing = await read_missing_migrations(connection)
            if missing == list_migrations() and await connection.fetchval(_HAS_SCHEMA):
                raise ConfigurationError(
                    "The database has a schema named headrace that headrace did not make. Name an empty database, or rename that schema."
                )
            for migration in missing:
                await connection.execute(migration.sql)
                await connection.execute(_record_sql(migration))
            return missing
    finally:
        await connection.close()


async def find_missing_migrations(database_url: str) -> list[Migration]:
    """What ``migrate_database`` would apply. Raises as it does, and writes nothing."""
    connection = await _connect(database_url)
    try:
        return await read_missing_migrations(connection)
    finally:
        await connection.close()


async def check_schema(connection: Any) -> None:
    """Raises ConfigurationError unless the database has this version's schema."""
    if missing := await read_missing_migrations(connection):
        lack = (
            f"lacks migrations: {format_names(missing)}"
            if len(missing) < len(list_migrations())
            else "has none of headrace's tables"
        )
        raise ConfigurationError(f"The database {lack}. Run `headrace migrate`.")


def format_names(migrations: Sequence[Migration]) -> str:
    """Migrations as they are told of."""
    return ", ".join(f"{migration.version:04d}_{migration.name}" for migration in migrations)


async def read_missing_migrations(connection: Any) -> list[Migration]:
    """As ``find_missing_migrations``, on a connection."""
    ours = list_migrations()
    if await connection.fetchval("SELECT to_regclass('public.headrace_migrations') IS NULL"):
        return ours
    applied = {
        row["version"]: row["sha256"] for row in await connection.fetch("SELECT * FROM public.headrace_migrations")
    }
    if applied and max(applied) > ours[-1].version:
        raise ConfigurationError(
            f"The database has schema version {max(applied)}, this headrace knows versions up to {ours[-1].version}. "
            "Install the headrace that the database was migrated with, or a newer one."
        )
    for migration in ours:
        if applied.get(migration.version, migration.sha256) != migration.sha256:
            raise ConfigurationError(
                f"Migration {migration.version:04d}_{migration.name} was applied with another text than this headrace has. "
                "The database was migrated by an unreleased version: start with a fresh one."
            )
    return [migration for migration in ours if migration.version not in applied]


def _record_sql(migration: Migration) -> str:
    # from our own files' names and hashes: a plain literal, because it also has to stand in a printed script
    return (
        "INSERT INTO public.headrace_migrations (version, name, sha256) "  # noqa: S608
        f"VALUES ({migration.version}, '{migration.name}', '{migration.sha256}');"
    )


async def _connect(database_url: str) -> Any:
    if not database_url:
        raise ConfigurationError("No database is named: set HEADRACE_DATABASE_URL or DATABASE_URL.")
    try:
        # no statement cache: this is to work through PgBouncer as well
        return await asyncpg.connect(database_url, statement_cache_size=0)
    except (OSError, asyncpg.PostgresError, asyncpg.InterfaceError, ValueError, TimeoutError) as error:
        told = describe_failure(error, database_url)
        raise ConfigurationError(f"PostgreSQL can't be reached with HEADRACE_DATABASE_URL: {told}.") from error
