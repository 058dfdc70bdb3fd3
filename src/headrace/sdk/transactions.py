"""Triggering inside the caller's own open transaction: asyncpg, psycopg (sync and async), SQLAlchemy (sync and async).

The run exists if and only if that transaction commits. The plan of the engine is the same as the server's; here it is
run on the caller's connection, which is neither committed nor closed.
"""

from __future__ import annotations

from typing import Any, TypeVar

from headrace.errors import NotInTransactionError
from headrace.store.statements import Plan

T = TypeVar("T")


def run_plan(connection: Any, plan: Plan[T]) -> T:
    """Runs a plan on a psycopg Connection or a SQLAlchemy Session or Connection over psycopg.

    Raises NotInTransactionError where no transaction is open, or the connection is of another kind.
    """
    driver = _find_driver(connection)
    _require_psycopg(driver, "Connection")
    from psycopg import RawCursor  # noqa: PLC0415 - whoever has such a connection has psycopg
    from psycopg.rows import dict_row  # noqa: PLC0415

    try:
        with RawCursor[Any](driver, row_factory=dict_row) as cursor:
            statement = next(plan)
            while True:
                cursor.execute(statement.sql.encode("utf-8"), list(statement.args))
                statement = plan.send(cursor.fetchall() if cursor.description else [])
    except StopIteration as stop:
        return stop.value


async def run_plan_async(connection: Any, plan: Plan[T]) -> T:
    """Runs a plan on an asyncpg connection, a psycopg AsyncConnection, or SQLAlchemy's async objects over either.

    Raises NotInTransactionError where no transaction is open, or the connection is of another kind.
    """
    driver = await _find_async_driver(connection)
    if hasattr(driver, "is_in_transaction"):
        from headrace.store.store import run_plan_on  # noqa: PLC0415 - asyncpg only

        if not driver.is_in_transaction():
            raise NotInTransactionError(
                "The asyncpg connection has no open transaction: use `async with connection.transaction():`."
            )
        return await run_plan_on(driver, plan)
    _require_psycopg(driver, "AsyncConnection")
    from psycopg import AsyncRawCursor  # noqa: PLC0415 - whoever has such a connection has psycopg
    from psycopg.rows import dict_row  # noqa: PLC0415

    try:
        async with AsyncRawCursor[Any](driver, row_factory=dict_row) as cursor:
            statement = next(plan)
            while True:
                await cursor.execute(statement.sql.encode("utf-8"), list(statement.args))
                statement = plan.send(await cursor.fetchall() if cursor.description else [])
    except StopIteration as stop:
        return stop.value


def _find_driver(connection: Any) -> Any:
    """The driver's connection of what was given; a SQLAlchemy object begins its transaction if it has not."""
    if hasattr(connection, "get_bind"):
        connection = connection.connection()  # a Session
    if hasattr(connection, "exec_driver_sql"):
        connection.exec_driver_sql("SELECT 1")  # SQLAlchemy begins at the first statement, and with it the driver
        return connection.connection.driver_connection
    return connection


async def _find_async_driver(connection: Any) -> Any:
    if hasattr(connection, "sync_session"):
        connection = await connection.connection()  # an AsyncSession
    if hasattr(connection, "exec_driver_sql"):
        await connection.exec_driver_sql("SELECT 1")
        return (await connection.get_raw_connection()).driver_connection
    return connection


def _require_psycopg(driver: Any, kind: str) -> None:
    name = f"{type(driver).__module__}.{type(driver).__qualname__}"
    if not any(
        base.__module__.partition(".")[0] == "psycopg" and base.__qualname__ == kind for base in type(driver).__mro__
    ):
        needed = "AsyncClient takes asyncpg, psycopg.AsyncConnection and SQLAlchemy's async objects; Client takes psycopg.Connection and SQLAlchemy's Session and Connection over psycopg"
        raise NotInTransactionError(f"connection is a {name}, on which nothing can be triggered here: {needed}.")
    # psycopg begins a transaction by itself at the first statement, unless it commits each one
    if driver.autocommit and driver.info.transaction_status.name == "IDLE":
        raise NotInTransactionError(
            "The psycopg connection is in autocommit mode with no open transaction: use `with connection.transaction():`."
        )
