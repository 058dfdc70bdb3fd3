"""Triggering in the caller's own transaction: the run exists if and only if that transaction commits. Every driver."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any

import asyncpg
import psycopg
import pytest
import sqlalchemy
import sqlalchemy.orm
from sqlalchemy.ext.asyncio import AsyncSession, create_async_engine

from headrace import ApiError, AsyncClient, Client, NotInTransactionError, task
from headrace.engine import keys
from headrace.engine.engine import Engine
from headrace.settings import Settings
from tests.conftest import execute_sql

KEY = "hr_dev_only-for-tests-0123456789"


@task(id="test_transactions.double")
async def double(number: int) -> int:
    return 2 * number


@pytest.fixture
def url(settings: Settings) -> str:
    """A database that knows the key; no server runs."""

    async def make_key() -> None:
        engine = await Engine.open(settings)
        await keys.ensure_key(engine, "dev", KEY)
        await engine.close()

    asyncio.run(make_key())
    return settings.database_url


def count_runs(url: str) -> int:
    return execute_sql(url, "SELECT count(*) AS n FROM headrace.runs")[0]["n"]


def with_driver(url: str, driver: str) -> str:
    return url.replace("postgresql://", f"postgresql+{driver}://", 1)


def test_psycopg(url: str) -> None:
    with Client(api_key=KEY) as client, psycopg.connect(url) as connection:
        client.trigger(double, 1, connection=connection)
        assert count_runs(url) == 0
        connection.rollback()
        client.trigger(double, 1, connection=connection, delay="5m", tags=["a"])
        batch = client.batch_trigger(double, range(50), connection=connection)
        assert batch.run_count == 50
        connection.commit()
    assert count_runs(url) == 51


def test_psycopg_in_autocommit_has_to_have_opened_one(url: str) -> None:
    with Client(api_key=KEY) as client, psycopg.connect(url, autocommit=True) as connection:
        with pytest.raises(NotInTransactionError, match="autocommit"):
            client.trigger(double, 1, connection=connection)
        with connection.transaction():
            client.trigger(double, 1, connection=connection)
    assert count_runs(url) == 1


def test_sqlalchemy(url: str) -> None:
    database = sqlalchemy.create_engine(with_driver(url, "psycopg"))
    with Client(api_key=KEY) as client:
        with sqlalchemy.orm.Session(database) as session:
            client.trigger(double, 1, connection=session)
            session.rollback()
            client.trigger(double, 2, connection=session)
            session.commit()
        with database.connect() as connection, connection.begin():
            client.trigger(double, 3, connection=connection)
    database.dispose()
    assert count_runs(url) == 2


@asynccontextmanager
async def open_asyncpg(url: str) -> AsyncGenerator[tuple[Any, Any, Any]]:
    connection: asyncpg.Connection[Any] = await asyncpg.connect(url)
    transaction = connection.transaction()
    await transaction.start()
    yield connection, transaction.commit, transaction.rollback
    await connection.close()


@asynccontextmanager
async def open_psycopg(url: str) -> AsyncGenerator[tuple[Any, Any, Any]]:
    connection = await psycopg.AsyncConnection.connect(url)
    yield connection, connection.commit, connection.rollback
    await connection.close()


def open_session(driver: str) -> Callable[[str], AbstractAsyncContextManager[tuple[Any, Any, Any]]]:
    @asynccontextmanager
    async def open_it(url: str) -> AsyncGenerator[tuple[Any, Any, Any]]:
        database = create_async_engine(with_driver(url, driver))
        async with AsyncSession(database) as session:
            yield session, session.commit, session.rollback
        await database.dispose()

    return open_it


OPENERS = [open_asyncpg, open_psycopg, open_session("asyncpg"), open_session("psycopg")]


@pytest.mark.anyio
@pytest.mark.parametrize("commit", [True, False])
@pytest.mark.parametrize("open_it", OPENERS, ids=["asyncpg", "psycopg", "sqlalchemy+asyncpg", "sqlalchemy+psycopg"])
async def test_async_drivers(settings: Settings, engine: Engine, open_it: Any, commit: bool) -> None:
    await keys.ensure_key(engine, "dev", KEY)
    async with AsyncClient(api_key=KEY) as client, open_it(settings.database_url) as (connection, end_well, end_badly):
        handle = await client.trigger(double, 1, connection=connection, idempotency_key="k")
        again = await client.trigger(double, 1, connection=connection, idempotency_key="k")
        assert again.id == handle.id
        await client.batch_trigger(double, range(20), connection=connection)
        await (end_well if commit else end_badly)()
    async with engine.store.connect() as own:
        assert await own.fetchval("SELECT count(*) FROM headrace.runs") == (21 if commit else 0)
        assert await own.fetchval("SELECT count(*) FROM headrace.batches") == (1 if commit else 0)


@pytest.mark.anyio
async def test_what_has_no_transaction_is_refused(settings: Settings, engine: Engine) -> None:
    await keys.ensure_key(engine, "dev", KEY)
    connection: asyncpg.Connection[Any] = await asyncpg.connect(settings.database_url)
    try:
        async with AsyncClient(api_key=KEY) as client:
            with pytest.raises(NotInTransactionError, match="no open transaction"):
                await client.trigger(double, 1, connection=connection)
            with pytest.raises(NotInTransactionError, match=r"builtins\.object"):
                await client.trigger(double, 1, connection=object())
            async with connection.transaction():
                with pytest.raises(ApiError, match="401"):
                    await AsyncClient(api_key="hr_dev_wrong-and-long-enough").trigger(double, 1, connection=connection)
    finally:
        await connection.close()
