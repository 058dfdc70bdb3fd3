"""A fleet of which one store is on a PostgreSQL of its own, that a test may stop, kill and start again."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Generator
from dataclasses import dataclass, replace

import pytest

from headrace.engine import runs
from headrace.engine.engine import Engine
from headrace.engine.outcomes import Packet, RunCreated
from headrace.ids import store_of
from headrace.protocol.options import RunOptions
from headrace.settings import Settings
from tests.fleet import add_database, drop_database, join_store, make_template
from tests.postgres_15 import OldPostgres, running_old_postgres

PATIENCE = 1.0


@dataclass
class BrittleFleet:
    """``engines``: of home, s1 and s2. ``server`` is that of s2, and of nothing else."""

    engines: list[Engine]
    server: OldPostgres

    @property
    def home(self) -> Engine:
        return self.engines[0]


async def trigger_at(engine: Engine, task: str = "t", **options: object) -> RunCreated:
    """A root in the store of ``engine``, as if the router had picked it."""
    picked = engine.stores.pick
    engine.stores.pick = lambda: engine  # pyright: ignore[reportAttributeAccessIssue] - the store is the test's choice
    try:
        made = await runs.trigger_run(engine, 1, task, Packet(b"1"), RunOptions(**options))  # pyright: ignore[reportArgumentType]
    finally:
        engine.stores.pick = picked  # pyright: ignore[reportAttributeAccessIssue]
    assert isinstance(made, RunCreated)
    assert store_of(made.run_id) == engine.key
    return made


@pytest.fixture(scope="session")
def brittle_server() -> Generator[tuple[OldPostgres, str]]:
    """The server, and the name of its template."""
    with running_old_postgres() as server:
        yield server, asyncio.run(make_template(server.url))


@pytest.fixture
def brittle_urls(postgres: str, template: str, brittle_server: tuple[OldPostgres, str]) -> Generator[dict[str, str]]:
    """The databases of s1 and s2. Whatever a test did to the server of s2, the next one finds it running."""
    server, old_template = brittle_server
    urls = {
        "s1": asyncio.run(add_database(postgres, template)),
        "s2": asyncio.run(add_database(server.url, old_template)),
    }
    yield urls
    try:
        server.thaw()
    except AssertionError:  # it was killed
        server.start()
    for url in urls.values():
        asyncio.run(drop_database(url))


@pytest.fixture
async def brittle(
    settings: Settings, brittle_urls: dict[str, str], brittle_server: tuple[OldPostgres, str]
) -> AsyncGenerator[BrittleFleet]:
    home = await Engine.open(replace(settings, store_patience=PATIENCE), listen=False)
    try:
        yield BrittleFleet(
            [home, *[await join_store(home, name, url) for name, url in brittle_urls.items()]], brittle_server[0]
        )
    finally:
        await home.close()
