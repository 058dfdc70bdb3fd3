"""Clients of a real server, and helpers to put a batch into any state."""

from __future__ import annotations

from collections.abc import AsyncGenerator

import httpx2
import pytest
from tests.conftest import execute_sql
from tests.processes import PLAIN
from tests.server_fixture import RunningServer

KNOWN = (
    "INSERT INTO headrace.tasks (environment_id, id, queue, max_attempts, registered_at)"
    " SELECT e.id, t, 'task/' || t, 3, now() FROM headrace.environments AS e, unnest('{a,b,c,d,t}'::text[]) AS t"
)


@pytest.fixture
def known_tasks(database_url: str) -> None:
    """A worker had these tasks once, in every environment: their runs are no PENDING_VERSION."""
    execute_sql(database_url, KNOWN)


@pytest.fixture
async def client(server: RunningServer, known_tasks: None) -> AsyncGenerator[httpx2.AsyncClient]:
    """A client with the key of environment dev."""
    headers = {"authorization": f"Bearer {server.key}"}
    async with httpx2.AsyncClient(base_url=server.url, headers=headers, timeout=30, verify=PLAIN) as opened:
        yield opened
