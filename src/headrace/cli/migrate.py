"""``headrace migrate``: brings the database to this version's schema."""

from __future__ import annotations

import asyncio
from typing import Annotated

from cyclopts import Parameter

from headrace.cli.options import DatabaseUrl, Json
from headrace.cli.outcome import FAILED, OK
from headrace.cli.output import out, print_json, print_text
from headrace.settings import Settings
from headrace.store.migrate import Migration, find_missing_migrations, format_migrations, migrate_database


def migrate(
    *,
    check: Annotated[bool, Parameter(negative="", help="Apply nothing; exit code 1 if something is missing")] = False,
    sql: Annotated[
        bool, Parameter(negative="", help="Print all migrations as one SQL script and do nothing else")
    ] = False,
    database_url: DatabaseUrl = None,
    json: Json = False,
) -> int:
    """Apply the migrations that the database lacks, one process at a time."""
    if sql:
        print_text(format_migrations())
        return OK
    url = Settings.from_environment(database_url=database_url).database_url
    changed = asyncio.run(find_missing_migrations(url) if check else migrate_database(url))
    if json:
        print_json({"missing" if check else "applied": [_name(migration) for migration in changed]})
    elif check:
        out.print(f"missing: {', '.join(map(_name, changed))}" if changed else "The schema is up to date.")
    else:
        out.print(
            f"applied: {', '.join(map(_name, changed))}" if changed else "Nothing to do: the schema is up to date."
        )
    return FAILED if check and changed else OK


def _name(migration: Migration) -> str:
    return f"{migration.version:04d}_{migration.name}"
