"""Clients of a real server, and helpers to put a batch into any state."""

from __future__ import annotations

from collections.abc import AsyncGenerator

import httpx2
import pytest
from tests.server_fixture import RunningServer


@pytest.fixture
async def client(server: RunningServer) -> AsyncGenerator[httpx2.AsyncClient]:
    """A client with the key of environment dev."""
    headers = {"authorization": f"Bearer {server.key}"}
    async with httpx2.AsyncClient(base_url=server.url, headers=headers, timeout=30) as opened:
        yield opened
