"""What every test may ask for: a private PostgreSQL, a fresh migrated database, an engine on it.

One PostgreSQL serves the whole session. A test's database is cloned from a migrated template, which takes some 20 ms,
and is dropped after it; nothing is mocked.
"""

from __future__ import annotations

import asyncio
import itertools
import os
import tempfile
import uuid
import zlib
from collections.abc import AsyncGenerator, Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import asyncpg
import pytest

from headrace import ids
from headrace.engine.engine import Engine
from headrace.engine.environments import Environment, find_environment
from headrace.settings import Settings
from headrace.store.embedded import EmbeddedPostgres
from tests.fleet import (
    choose_store,
    cloned_stores,
    find_name,
    fleet,
    fleet_templates,
    make_template,
    more_stores,
    old_template,
    with_name,
)
from tests.memory import use_memory
from tests.postgres_15 import old_postgres, running_old_postgres
from tests.server_fixture import server

__all__ = ["cloned_stores", "fleet", "fleet_templates", "more_stores", "old_postgres", "old_template", "server"]

THREE_STORES = os.environ.get("HEADRACE_TEST_STORES") == "3"
"""Whether the engine of a test is one of a fleet of three stores: see ``engine``."""

_TURN = int(os.environ.get("HEADRACE_TEST_TURN", "0"))

_numbers = itertools.count()


use_memory()


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--state-machine-examples", default="25", help="random histories of batches to try")
    parser.addoption("--programs", default="500", help="random programs of waits to carry out under fire")
    parser.addoption("--programs-seed", default="20261121", help="the seed of the programs; 0 takes another each time")
    parser.addoption(
        "--fleet-rounds", default="6", help="things that each client of the fleet under fire does, at least"
    )
    parser.addoption(
        "--fleet-histories", default="1", help="histories of the fleet under fire, with one seed after the other"
    )
    parser.addoption("--program", default=None, help="one program, as JSON, to carry out instead of random ones")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """The longest files first: where several processes share the tests, none is left alone with them at the end.

    With three stores, only the tests that are another test with them: whatever asks for no ``engine`` would be a copy, and
    what is marked ``one_store`` says why it would be one, or would mean nothing.
    """
    items.sort(key=lambda item: item.path.parent.name != "chaos")
    if THREE_STORES:
        kept = [item for item in items if _is_of_stores(item)]
        config.hook.pytest_deselected(items=[item for item in items if not _is_of_stores(item)])
        items[:] = kept


def _is_of_stores(item: pytest.Item) -> bool:
    """Whether a test is another one where its engine is one of three stores'."""
    return "fleet_urls" in getattr(item, "fixturenames", ()) and item.get_closest_marker("one_store") is None


@pytest.fixture(scope="session")
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture(scope="session")
def postgres() -> Generator[str]:
    """The URL of a private PostgreSQL, in which databases may be made: the newest, or with HEADRACE_TEST_POSTGRES=15 the oldest."""
    if os.environ.get("HEADRACE_TEST_POSTGRES") == "15":
        with running_old_postgres() as old:
            yield old.url
        return
    with tempfile.TemporaryDirectory(prefix="hr-test-", ignore_cleanup_errors=True) as folder:
        server = EmbeddedPostgres(Path(folder))
        url = server.start()
        # Nothing here outlives a crash of the machine; what was committed outlives a kill.
        for setting in ("fsync = off", "full_page_writes = off", "max_wal_size = '512MB'"):
            execute_sql(url, f"ALTER SYSTEM SET {setting}")
        execute_sql(url, "SELECT pg_reload_conf()")
        try:
            yield url
        finally:
            server.stop()


@pytest.fixture(scope="session")
def template(postgres: str) -> str:
    """The name of a migrated database that nobody connects to. It refuses transitions that are not in the table."""
    return asyncio.run(make_template(postgres))


@pytest.fixture
def database_url(postgres: str, template: str, request: pytest.FixtureRequest) -> Generator[str]:
    """A fresh database with the schema in it."""
    if THREE_STORES and "fleet_urls" in request.fixturenames:
        template = find_name(request.getfixturevalue("fleet_templates")["home"])
    name = f"test_{uuid.uuid4().hex[:8]}_{next(_numbers)}"
    # file_copy: a third of the time, where nothing waits for a disk
    execute_sql(postgres, f"CREATE DATABASE {name} TEMPLATE {template} STRATEGY file_copy")
    yield with_database(postgres, name)
    execute_sql(postgres, f"DROP DATABASE {name} WITH (FORCE)")


@pytest.fixture
def settings(database_url: str, tmp_path: Path) -> Settings:
    """Settings of a test's processes: short beats, so that a death is noticed within a second, or with three stores three.

    A claim under limits waits for another store a sixth of a lease, which a busy machine is to keep to.
    """
    return Settings(
        database_url=database_url,
        data_dir=str(tmp_path),
        pool_size=6,
        lease=3.0 if THREE_STORES else 1.0,
        heartbeat=0.2,
        poll_interval=0.1,
        sweep_interval=0.1,
        drain_timeout=5.0,
    )


@contextmanager
def minting_for(store: str) -> Generator[None]:
    """Ids that a test mints without saying for which store are for this one: it writes them to its engine's."""
    minters = (ids.mint_run_id, ids.mint_batch_id, ids.mint_token_id)
    before = [minter.__defaults__ for minter in minters]
    for minter in minters:
        minter.__defaults__ = (store,)
    try:
        yield
    finally:
        for minter, defaults in zip(minters, before, strict=True):
            minter.__defaults__ = defaults


@pytest.fixture
def fleet_urls(request: pytest.FixtureRequest) -> dict[str, str]:
    """The stores that the test's engine has beside home: none, or with HEADRACE_TEST_STORES=3 two."""
    return request.getfixturevalue("cloned_stores") if THREE_STORES else {}


@pytest.fixture
async def engine(
    settings: Settings, fleet_urls: dict[str, str], request: pytest.FixtureRequest
) -> AsyncGenerator[Engine]:
    """An engine on the test's database, with its ear on the hints.

    With HEADRACE_TEST_STORES=3 it is one of a fleet of three on two major versions, another one from test to test, to
    which all roots go; home is elsewhere two times of three, but for tests that are marked ``at_home``. HEADRACE_TEST_TURN=1 or 2 takes another one for each test.
    """
    home = await Engine.open(settings, listen=True)
    try:
        is_home = request.node.get_closest_marker("at_home") is not None
        turn = 0 if is_home else zlib.crc32(request.node.nodeid.encode()) + _TURN
        chosen = await choose_store(home, fleet_urls, turn) if fleet_urls else home
        with minting_for(chosen.key):
            yield chosen
    finally:
        await home.close()


@pytest.fixture
async def environment(engine: Engine) -> Environment:
    """The environment dev."""
    found = await find_environment(engine, "dev")
    assert found is not None
    return found


def with_database(url: str, name: str) -> str:
    """The URL of another database on the same server."""
    return with_name(url, name)


def execute_sql(url: str, sql: str, *args: Any) -> list[Any]:
    """Rows of one statement, on a connection of its own."""

    async def run() -> list[Any]:
        connection = await asyncpg.connect(url)
        try:
            return await connection.fetch(sql, *args)
        finally:
            await connection.close()

    return asyncio.run(run())
