"""Home and one more store, for tests of what happens between two."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Generator
from dataclasses import replace

import pytest

from headrace.engine.engine import Engine
from headrace.settings import Settings
from tests.fleet import add_database, drop_database, join_store
from tests.invariants import fetch_sql

COUNT = "SELECT count(*) AS n FROM headrace.runs WHERE status = 'EXECUTING'"


@pytest.fixture
def other_url(postgres: str, template: str) -> Generator[str]:
    """The URL of a database that may become a store."""
    url = asyncio.run(add_database(postgres, template))
    yield url
    asyncio.run(drop_database(url))


@pytest.fixture
async def pair(settings: Settings, other_url: str) -> AsyncGenerator[list[Engine]]:
    """Home and s1."""
    home = await Engine.open(replace(settings, store_patience=3.0, lease=4.0), listen=True)
    try:
        yield [home, await join_store(home, "s1", other_url)]
    finally:
        await home.close()


async def count_executing(stores: list[Engine]) -> int:
    """How much executes in all stores, while nothing ends."""
    return sum([(await fetch_sql(one, COUNT))[0]["n"] for one in stores])
