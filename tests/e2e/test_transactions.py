"""Triggers inside the caller's own transaction, on every driver: the run exists if and only if that commits."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator, Callable, Generator, Iterator
from contextlib import AbstractAsyncContextManager, AbstractContextManager, asynccontextmanager, contextmanager
from datetime import timedelta
from typing import Any

import asyncpg
import psycopg
import pytest
import sqlalchemy
import sqlalchemy.ext.asyncio as sqlalchemy_async
import sqlalchemy.orm
from tests.conftest import execute_sql
from tests.e2e.client_jobs import ALL, double, idle
from tests.e2e.worker_thread import running_worker
from tests.server_fixture import RunningServer

from headrace import ApiError, AsyncClient, BatchTriggerError, Client, Item, NotInTransactionError, PayloadError
from headrace.ids import format_run_id
from headrace.sdk import transactions
from headrace.settings import Settings


@pytest.fixture
def url(server: RunningServer) -> str:
    """A database with a key in it, and a table of the caller's own."""
    execute_sql(server.settings.database_url, "CREATE TABLE orders (number integer)")
    return server.settings.database_url


@pytest.fixture
def client(server: RunningServer) -> Generator[Client]:
    with Client(server.url, api_key=server.key) as opened:
        yield opened


def list_ids(url: str) -> list[str]:
    return [format_run_id(row["id"]) for row in execute_sql(url, "SELECT id FROM headrace.runs ORDER BY id")]


def spell(url: str, driver: str) -> str:
    """The URL as SQLAlchemy has it: without options that drivers spell differently."""
    return sqlalchemy.make_url(url).set(drivername=f"postgresql+{driver}").render_as_string(hide_password=False)


# Blocking connections


@contextmanager
def psycopg_connection(url: str) -> Iterator[Any]:
    with psycopg.connect(url) as connection:
        connection.execute("INSERT INTO orders VALUES (%s)", [1])
        yield connection


@contextmanager
def psycopg_block(url: str) -> Iterator[Any]:
    """Autocommit, with a transaction block of the caller's."""
    with psycopg.connect(url, autocommit=True) as connection, connection.transaction():
        yield connection


@contextmanager
def session(url: str) -> Iterator[Any]:
    engine = sqlalchemy.create_engine(spell(url, "psycopg"))
    try:
        with sqlalchemy.orm.Session(engine) as opened, opened.begin():
            yield opened
    finally:
        engine.dispose()


@contextmanager
def fresh_session(url: str) -> Iterator[Any]:
    """One that has not begun by itself: the trigger is the first thing in it."""
    engine = sqlalchemy.create_engine(spell(url, "psycopg"))
    try:
        with sqlalchemy.orm.Session(engine) as opened:
            yield opened
            opened.commit()
    finally:
        engine.dispose()


@contextmanager
def core_connection(url: str) -> Iterator[Any]:
    engine = sqlalchemy.create_engine(spell(url, "psycopg"))
    try:
        with engine.connect() as opened:
            yield opened
            opened.commit()
    finally:
        engine.dispose()


BLOCKING: list[Callable[[str], AbstractContextManager[Any]]] = [
    psycopg_connection,
    psycopg_block,
    session,
    fresh_session,
    core_connection,
]


class UndoError(Exception):
    """Rolls back."""


@pytest.mark.parametrize("connect", BLOCKING)
def test_a_run_is_there_when_the_transaction_commits(
    client: Client, url: str, connect: Callable[[str], AbstractContextManager[Any]]
):
    with connect(url) as connection:
        handle = client.trigger(
            double, 21, connection=connection, tags=["a"], delay=timedelta(days=1), metadata={"n": 1}
        )
        assert list_ids(url) == []
    assert list_ids(url) == [handle.id]
    shown = handle.retrieve()
    assert (shown["payload"], shown["tags"], shown["status"], shown["queue"]) == (
        21,
        ["a"],
        "PENDING_VERSION",
        "numbers",
    )
    assert shown["delayedUntil"]
    assert shown["metadata"] == {"n": 1}


@pytest.mark.parametrize("connect", BLOCKING)
def test_no_run_is_there_when_it_rolls_back(
    client: Client, url: str, connect: Callable[[str], AbstractContextManager[Any]]
):
    def undo() -> None:
        with connect(url) as connection:
            client.trigger(double, 21, connection=connection)
            client.batch_trigger(double, range(30), connection=connection)
            raise UndoError

    with pytest.raises(UndoError):
        undo()
    assert list_ids(url) == []
    assert execute_sql(url, "SELECT count(*) AS n FROM headrace.batches")[0]["n"] == 0
    assert execute_sql(url, "SELECT count(*) AS n FROM orders")[0]["n"] == 0


@pytest.mark.parametrize("connect", BLOCKING)
def test_a_batch_is_there_whole_when_the_transaction_commits(
    client: Client, url: str, settings: Settings, connect: Callable[[str], AbstractContextManager[Any]]
):
    items = [
        Item(0, idempotency_key="k", tags=["x"]),
        Item(task=idle),
        *range(2, 2_500),
        Item(9, delay="1s", queue="q"),
    ]
    with connect(url) as connection:
        batch = client.batch_trigger(double, items, connection=connection, max_attempts=2)
        assert list_ids(url) == []
    assert batch.run_count == 2_501
    assert client.retrieve_batch(batch.id)["progress"]["accepted"] == 2_501
    with running_worker(settings, *ALL):
        outcomes = [outcome.unwrap() for outcome in batch.results()]
    assert outcomes == [0, "idle", *(number * 2 for number in range(2, 2_500)), 18]


def test_keys_and_their_conflicts_hold_within_transactions(client: Client, url: str):
    with psycopg.connect(url) as connection:
        first = client.trigger(double, 1, connection=connection, idempotency_key="k")
        assert client.trigger(double, 1, connection=connection, idempotency_key="k").id == first.id
        batch = client.batch_trigger(double, [1], connection=connection, batch_key="b", batch_key_ttl="40d")
        again = client.batch_trigger(double, [1], connection=connection, batch_key="b", batch_key_ttl="40d")
        assert again.id == batch.id
        with pytest.raises(ApiError) as raised:
            client.batch_trigger(double, [1, 2], connection=connection, batch_key="b", batch_key_ttl="40d")
        assert raised.value.status == 409
    assert client.trigger(double, 1, idempotency_key="k").id == first.id


def test_the_key_of_a_batch_that_is_still_streamed_is_no_batch_to_return(client: Client, url: str):
    def half() -> Iterator[int]:
        yield 1
        raise UndoError

    with pytest.raises(UndoError):
        client.batch_trigger(double, half(), batch_key="k")
    with psycopg.connect(url) as connection, pytest.raises(ApiError) as raised:
        client.batch_trigger(double, [1], connection=connection, batch_key="k")
    assert raised.value.status == 409


def test_the_key_of_the_client_is_checked_in_the_transaction(server: RunningServer, url: str):
    with Client(server.url, api_key="unknown") as stranger, psycopg.connect(url) as connection:
        for call in (
            lambda: stranger.trigger(double, 1, connection=connection),
            lambda: stranger.batch_trigger(double, [1], connection=connection),
        ):
            with pytest.raises(ApiError) as raised:
                call()
            assert raised.value.status == 401
    assert list_ids(url) == []


def test_what_is_wrong_with_a_batch_is_said_before_anything_is_written(client: Client, url: str):
    with psycopg.connect(url) as connection:
        with pytest.raises(BatchTriggerError, match="at least one item"):
            client.batch_trigger(double, [], connection=connection)
        with pytest.raises(PayloadError, match="item 1"):
            client.batch_trigger(double, [1, "two"], connection=connection)  # type: ignore[list-item]
        with pytest.raises(Exception, match="run_count is 3"):
            client.batch_trigger(double, [1, 2], connection=connection, run_count=3)


def test_without_a_transaction_nothing_is_triggered(client: Client, url: str):
    engine = sqlalchemy.create_engine(spell(url, "psycopg"), isolation_level="AUTOCOMMIT")
    with (
        psycopg.connect(url, autocommit=True) as plain,
        engine.connect() as core,
        sqlalchemy.orm.Session(engine) as opened,
    ):
        for connection in (plain, core, opened):
            with pytest.raises(NotInTransactionError, match="autocommit"):
                client.trigger(double, 1, connection=connection)
    engine.dispose()
    assert list_ids(url) == []


@pytest.mark.parametrize("connection", [object(), "postgresql://", 5])
def test_what_is_no_connection_is_said_to_be_none(client: Client, connection: Any):
    with pytest.raises(NotInTransactionError, match="AsyncClient takes asyncpg"):
        client.trigger(double, 1, connection=connection)


def test_a_subclass_of_a_connection_is_one(client: Client, url: str):
    class OwnConnection(psycopg.Connection[Any]):
        pass

    with OwnConnection.connect(url) as connection:
        handle = client.trigger(double, 1, connection=connection)
    assert list_ids(url) == [handle.id]


# Connections of an event loop


@asynccontextmanager
async def asyncpg_connection(url: str) -> AsyncGenerator[Any]:
    connection = await asyncpg.connect(url)
    try:
        async with connection.transaction():
            yield connection
    finally:
        await connection.close()


@asynccontextmanager
async def asyncpg_pooled(url: str) -> AsyncGenerator[Any]:
    pool = asyncpg.create_pool(url, min_size=1, max_size=1)
    async with pool, pool.acquire() as connection, connection.transaction():
        yield connection


@asynccontextmanager
async def asyncpg_with_codecs(url: str) -> AsyncGenerator[Any]:
    """As web frameworks set theirs up: JSON columns are read and written as values."""
    async with asyncpg_connection(url) as connection:
        for kind in ("json", "jsonb"):
            await connection.set_type_codec(kind, encoder=json.dumps, decoder=json.loads, schema="pg_catalog")
        yield connection


@asynccontextmanager
async def psycopg_async(url: str) -> AsyncGenerator[Any]:
    async with await psycopg.AsyncConnection.connect(url) as connection:
        yield connection


def over_sqlalchemy(driver: str, kind: str) -> Callable[[str], AbstractAsyncContextManager[Any]]:
    @asynccontextmanager
    async def connect(url: str) -> AsyncGenerator[Any]:
        engine = sqlalchemy_async.create_async_engine(make_async_url(url, driver), **async_options(url, driver))
        try:
            if kind == "session":
                async with sqlalchemy_async.AsyncSession(engine) as opened, opened.begin():
                    yield opened
            else:
                async with engine.connect() as opened:
                    yield opened
                    await opened.commit()
        finally:
            await engine.dispose()

    connect.__name__ = f"sqlalchemy_{driver}_{kind}"
    return connect


def make_async_url(url: str, driver: str) -> str:
    return "postgresql+asyncpg://" if driver == "asyncpg" else spell(url, driver)


def async_options(url: str, driver: str) -> dict[str, Any]:
    """asyncpg is given the URL as it is: SQLAlchemy's own spelling of a socket's folder differs."""
    if driver != "asyncpg":
        return {}
    return {"async_creator": lambda: asyncpg.connect(url)}


LOOPED: list[Callable[[str], AbstractAsyncContextManager[Any]]] = [
    asyncpg_connection,
    asyncpg_pooled,
    asyncpg_with_codecs,
    psycopg_async,
    *(over_sqlalchemy(driver, kind) for driver in ("asyncpg", "psycopg") for kind in ("session", "connection")),
]


@pytest.mark.parametrize("connect", LOOPED, ids=lambda connect: connect.__name__)
def test_the_async_client_triggers_in_a_transaction(
    server: RunningServer, url: str, connect: Callable[[str], AbstractAsyncContextManager[Any]]
):
    async def numbers() -> AsyncGenerator[int]:
        for number in range(50):
            yield number

    async def undo(client: AsyncClient) -> None:
        async with connect(url) as connection:
            await client.trigger(double, 1, connection=connection)
            await client.batch_trigger(double, [1, 2], connection=connection)
            raise UndoError

    async def use() -> None:
        async with AsyncClient(server.url, api_key=server.key) as client:
            with pytest.raises(UndoError):
                await undo(client)
            assert await asyncio.to_thread(list_ids, url) == []
            async with connect(url) as connection:
                handle = await client.trigger(double, 21, connection=connection, metadata={"n": 1}, tags=["a"])
                batch = await client.batch_trigger(double, numbers(), connection=connection, start="seal")
                assert await asyncio.to_thread(list_ids, url) == []
            shown = await handle.retrieve()
            assert (shown["payload"], shown["metadata"], shown["tags"]) == (21, {"n": 1}, ["a"])
            assert (await batch.retrieve())["progress"]["accepted"] == batch.run_count == 50

    asyncio.run(use())


def test_the_async_client_needs_an_open_transaction_of_its_kind(server: RunningServer, url: str):
    async def use() -> None:
        async with AsyncClient(server.url, api_key=server.key) as client:
            connection = await asyncpg.connect(url)
            with pytest.raises(NotInTransactionError, match="no open transaction"):
                await client.trigger(double, 1, connection=connection)
            await connection.close()
            async with await psycopg.AsyncConnection.connect(url, autocommit=True) as other:
                with pytest.raises(NotInTransactionError, match="autocommit"):
                    await client.trigger(double, 1, connection=other)
            blocking = await asyncio.to_thread(psycopg.connect, url)
            with pytest.raises(NotInTransactionError, match=r"psycopg\.Connection"):
                await client.trigger(double, 1, connection=blocking)
            blocking.close()

    asyncio.run(use())
    assert list_ids(url) == []


def test_the_blocking_client_does_not_take_a_connection_of_a_loop(url: str):
    with asyncio.Runner() as runner:
        connection: Any = runner.run(asyncpg.connect(url))
        with pytest.raises(NotInTransactionError, match="Client takes psycopg"):
            transactions.run_plan(connection, iter(()))  # type: ignore[arg-type]
        runner.run(connection.close())


def test_a_run_of_a_transaction_is_executed(client: Client, url: str, settings: Settings):
    with running_worker(settings, *ALL):
        with psycopg.connect(url) as connection:
            handle = client.trigger(double, 4, connection=connection)
        assert handle.result(timeout=60) == 8
