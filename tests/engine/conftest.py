"""What tests of plans ask for: a connection to the database that their module has ``seeded``."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from typing import Any

import asyncpg
import pytest


@pytest.fixture
async def connection(seeded: str) -> AsyncGenerator[asyncpg.Connection[Any]]:
    """A connection to the module's seeded database, by its URL."""
    opened = await asyncpg.connect(seeded)
    yield opened
    await opened.close()
