"""A caller's own transaction, with several stores: it is used where it is on home, and refused in words elsewhere."""

from __future__ import annotations

import asyncpg
import pytest
from tests.e2e.client_jobs import double
from tests.fleet import run_sql
from tests.server_fixture import running_server

from headrace import ApiError, AsyncClient, BatchTriggerError
from headrace.engine.engine import Engine
from headrace.ids import HOME_STORE

pytestmark = pytest.mark.anyio


async def test_a_transaction_is_used_on_home_and_refused_on_another_store(fleet: list[Engine]) -> None:
    home, *others = fleet
    await run_sql(home.settings.database_url, "UPDATE headrace.stores SET weight = (name <> 'home')::int")
    with running_server(home.settings) as server:
        async with AsyncClient(server.url, api_key=server.key) as client:
            elsewhere = await client.trigger(double, 1, idempotency_key="elsewhere")
            assert elsewhere.id[-2] != HOME_STORE
            for other in others:
                connection = await asyncpg.connect(other.settings.database_url)
                async with connection.transaction():
                    with pytest.raises(
                        ApiError, match=f"to the store '{other.name}', but .* needs one to the home store"
                    ):
                        await client.trigger(double, 1, connection=connection)
                    with pytest.raises((ApiError, BatchTriggerError), match="needs one to the home store"):
                        await client.batch_trigger(double, [1, 2], connection=connection)
                await connection.close()
                assert await count_runs(other) == (other.key == elsewhere.id[-2])
            connection = await asyncpg.connect(home.settings.database_url)
            async with connection.transaction():
                made = await client.trigger(double, 1, connection=connection, idempotency_key="here")
                batch = await client.batch_trigger(double, [1, 2], connection=connection)
                with pytest.raises(ApiError, match="that another store has"):
                    await client.trigger(double, 1, connection=connection, idempotency_key="elsewhere")
            await connection.close()
            assert {made.id[-2], batch.id[-2]} == {HOME_STORE}, (
                "they are where their transaction is, whatever home weighs"
            )
            assert await count_runs(home) == 3
            again = await client.trigger(double, 1, idempotency_key="here")
            assert again.id == made.id


async def count_runs(engine: Engine) -> int:
    connection = await asyncpg.connect(engine.settings.database_url)
    try:
        return await connection.fetchval("SELECT count(*) FROM headrace.runs")
    finally:
        await connection.close()
