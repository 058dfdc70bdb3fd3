"""What a handle says of a trigger whose key stood for a run already."""

from __future__ import annotations

import asyncpg
import pytest
from tests.server_fixture import RunningServer

from headrace import AsyncClient, Client, Debounce

pytestmark = pytest.mark.anyio


async def test_a_handle_says_whether_its_run_was_there_before(server: RunningServer) -> None:
    async with AsyncClient(server.url, api_key=server.key) as client:
        first = await client.trigger("t", 1, idempotency_key="k")
        again = await client.trigger("t", 1, idempotency_key="k")
        assert (first.is_cached, again.is_cached, again.id) == (False, True, first.id)
        put_off = [await client.trigger("t", 1, debounce=Debounce("d", "1h")) for _ in range(2)]
        assert [handle.is_cached for handle in put_off] == [False, True]
        assert not (await client.trigger("t", 1)).is_cached
        connection = await asyncpg.connect(server.settings.database_url)
        async with connection.transaction():
            assert (await client.trigger("t", 1, idempotency_key="k", connection=connection)).is_cached
            assert not (await client.trigger("t", 1, idempotency_key="other", connection=connection)).is_cached
        await connection.close()


def test_so_does_that_of_the_blocking_client(server: RunningServer) -> None:
    with Client(server.url, api_key=server.key) as client:
        assert [client.trigger("t", 1, idempotency_key="k").is_cached for _ in range(2)] == [False, True]
