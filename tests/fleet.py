"""A fleet of three stores on two major versions: home and s1 on the newest PostgreSQL, s2 on the oldest."""

from __future__ import annotations

import asyncio
import tempfile
import uuid
from collections.abc import AsyncGenerator, Generator
from dataclasses import replace

import asyncpg
import pytest

from headrace.engine.engine import Engine
from headrace.engine.registry import add_store
from headrace.settings import Settings
from headrace.store.migrate import migrate_database
from tests.guards import list_guards


async def add_database(server_url: str, template: str) -> str:
    """The URL of a new database cloned from a template, that may become a store."""
    url = await clone_database(server_url, template)
    # a clone says that it is the template's installation: a copy of home is refused as a store, and rightly
    await run_sql(url, "UPDATE headrace.identity SET fleet = gen_random_uuid()")
    return url


async def clone_database(server_url: str, template: str) -> str:
    """The URL of a new database that is all that the template is, also which installation it belongs to."""
    name = f"store_{uuid.uuid4().hex[:10]}"
    await run_sql(server_url, f"CREATE DATABASE {name} TEMPLATE {template} STRATEGY file_copy")
    return with_name(server_url, name)


async def drop_database(url: str) -> None:
    """Drops a database, whoever is connected to it."""
    await run_sql(with_name(url, "postgres"), f"DROP DATABASE {find_name(url)} WITH (FORCE)")


async def join_store(engine: Engine, name: str, url: str, *, weight: float = 1.0) -> Engine:
    """Adds a store that takes roots at once, and returns the engine of it."""
    added = await add_store(engine, name, url, weight=weight)
    await run_sql(engine.home.settings.database_url, "UPDATE headrace.stores SET opens_at = now()")
    await engine.home.refresh_stores()
    [opened] = [one for one in engine.stores.all() if one.key == added.key]
    return opened


async def run_sql(url: str, sql: str) -> None:
    """One statement on a connection of its own."""
    connection = await asyncpg.connect(url)
    try:
        await connection.execute(sql)
    finally:
        await connection.close()


def find_name(url: str) -> str:
    """The name of a URL's database."""
    return url.partition("?")[0].rsplit("/", 1)[1]


def with_name(url: str, name: str) -> str:
    """The URL of another database on the same server."""
    head, _, query = url.partition("?")
    return f"{head.rsplit('/', 1)[0]}/{name}" + (f"?{query}" if query else "")


async def make_template(server_url: str) -> str:
    """The name of a migrated database that nobody connects to. It refuses transitions that are not in the table."""
    name = f"template_{uuid.uuid4().hex[:8]}"
    await run_sql(server_url, f"CREATE DATABASE {name}")
    url = with_name(server_url, name)
    await migrate_database(url)
    for statement in list_guards():
        await run_sql(url, statement)
    return name


@pytest.fixture(scope="session")
def old_template(old_postgres: str) -> str:
    """As ``template``, on PostgreSQL 15."""
    return asyncio.run(make_template(old_postgres))


@pytest.fixture
def more_stores(postgres: str, template: str, old_postgres: str, old_template: str) -> Generator[dict[str, str]]:
    """The URLs of two more databases by the names of the stores that they may become."""
    urls = {
        "s1": asyncio.run(add_database(postgres, template)),
        "s2": asyncio.run(add_database(old_postgres, old_template)),
    }
    yield urls
    for url in urls.values():
        asyncio.run(drop_database(url))


@pytest.fixture(scope="session")
def fleet_templates(postgres: str, template: str, old_postgres: str, old_template: str) -> dict[str, str]:
    """The URLs of three databases that are a fleet, by the names of its stores, to be cloned: nobody connects to them.

    In the registry s1 and s2 are removed, so that nobody looks for them where they are not.
    """

    async def make() -> dict[str, str]:
        urls = {
            "home": await add_database(postgres, template),
            "s1": await add_database(postgres, template),
            "s2": await add_database(old_postgres, old_template),
        }
        with tempfile.TemporaryDirectory() as folder:
            home = await Engine.open(Settings(database_url=urls["home"], data_dir=folder))
            try:
                for name in ("s1", "s2"):
                    await add_store(home, name, urls[name])
            finally:
                await home.close()
        await run_sql(urls["home"], "UPDATE headrace.stores SET state = 'removed' WHERE name <> 'home'")
        return urls

    return asyncio.run(make())


@pytest.fixture
def cloned_stores(postgres: str, old_postgres: str, fleet_templates: dict[str, str]) -> Generator[dict[str, str]]:
    """The URLs of s1 and s2 of a test, whose home is a clone of home."""
    urls = {
        name: asyncio.run(clone_database(server, find_name(fleet_templates[name])))
        for name, server in (("s1", postgres), ("s2", old_postgres))
    }
    yield urls
    for url in urls.values():
        asyncio.run(drop_database(url))


async def choose_store(home: Engine, urls: dict[str, str], turn: int) -> Engine:
    """The engine of one of the stores of a home that was cloned, to which all roots go from here on."""
    names = ["home", *urls]
    chosen = names[turn % len(names)]
    async with home.store.connect() as connection:
        await connection.execute(
            "UPDATE headrace.stores AS s SET state = 'active', opens_at = now(), weight = (s.name = $1)::int, url = c.url"
            " FROM unnest($2::text[], $3::text[]) AS c (name, url) WHERE s.name = c.name",
            chosen,
            names,
            [None, *urls.values()],
        )
    await home.refresh_stores()
    return next(one for one in home.stores.all() if one.name == chosen)


@pytest.fixture
async def fleet(settings: Settings, more_stores: dict[str, str]) -> AsyncGenerator[list[Engine]]:
    """The engines of home, s1 and s2, of one process. Give any of them to what finds the store by itself."""
    home = await Engine.open(replace(settings, store_patience=3.0), listen=True)
    try:
        yield [home, *[await join_store(home, name, url) for name, url in more_stores.items()]]
    finally:
        await home.close()
