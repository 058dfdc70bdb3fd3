"""The database that is measured on: emptied between measures, looked at from a connection of the benchmark's own."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Any, Final

import asyncpg

_LIMIT: Final = 600.0
_LOOK_SECONDS: Final = 0.1


@asynccontextmanager
async def connected(database_url: str) -> AsyncGenerator[asyncpg.Connection[Any]]:
    """A connection inside the block."""
    connection: asyncpg.Connection[Any] = await asyncpg.connect(database_url)
    try:
        yield connection
    finally:
        await connection.close()


async def empty_database(database_url: str) -> None:
    """Throws all runs away, and what belongs to them."""
    async with connected(database_url) as connection:
        await connection.execute(
            "TRUNCATE headrace.runs, headrace.attempts, headrace.batches, headrace.batch_aliases,"
            " headrace.idempotency_keys, headrace.journal, headrace.tokens"
        )


async def await_true(connection: asyncpg.Connection[Any], condition: str) -> None:
    """Until an SQL expression is true. Raises TimeoutError where it does not become that."""
    deadline = time.monotonic() + _LIMIT
    while not await connection.fetchval(f"SELECT {condition}"):
        if time.monotonic() > deadline:
            raise TimeoutError(f"the benchmark waited in vain for: {condition}")
        await asyncio.sleep(_LOOK_SECONDS)
