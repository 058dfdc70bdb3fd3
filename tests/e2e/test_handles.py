"""What a handle says of a trigger whose key stood for a run already."""

from __future__ import annotations

import json

import asyncpg
import pytest
from tests.e2e.commands import clean_environment, run_headrace
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


async def test_a_handle_says_whether_its_batch_was_there_before(server: RunningServer) -> None:
    async with AsyncClient(server.url, api_key=server.key) as client:
        for ask in (client.batch_trigger, client.submit):
            key = ask.__name__
            made = [await ask("t", [1, 2], batch_key=key) for _ in range(2)]
            assert [batch.is_cached for batch in made] == [False, True]
            assert made[0].id == made[1].id
        connection = await asyncpg.connect(server.settings.database_url)
        async with connection.transaction():
            made = [await client.batch_trigger("t", [1], batch_key="k", connection=connection) for _ in range(2)]
        await connection.close()
        assert [(batch.is_cached, batch.run_count) for batch in made] == [(False, 1), (True, 1)]


def test_a_batch_of_the_command_line_may_have_a_key(server: RunningServer) -> None:
    env = clean_environment(api_url=server.url, api_key=server.key, batch_key="k")
    made = [run_headrace("batch", "run", "t", "-", "--json", env=env, stdin="1\n2\n") for _ in range(2)]
    first, again = (json.loads(one.stdout) for one in made)
    assert (first["isCached"], again) == (False, {"id": first["id"], "runCount": 2, "isCached": True})


def test_so_does_that_of_the_blocking_client(server: RunningServer) -> None:
    with Client(server.url, api_key=server.key) as client:
        assert [client.submit("t", [1], batch_key="k").is_cached for _ in range(2)] == [False, True]
        assert [client.trigger("t", 1, idempotency_key="k").is_cached for _ in range(2)] == [False, True]
