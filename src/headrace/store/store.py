"""One store: a pool of connections to one PostgreSQL database, and the two ways to use it.

``fetch`` sends one statement, ``run_plan`` a plan in one transaction. Behind PgBouncer in transaction mode
(``HEADRACE_POOLER=transaction``) there are no prepared statements and no session, so every statement goes in a
transaction of its own: asyncpg sends Parse and Bind apart, and PgBouncer may put another server between them.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from types import CoroutineType
from typing import Any, Final, TypeVar

import asyncpg

from headrace.errors import ConfigurationError
from headrace.settings import Settings
from headrace.store.places import describe_failure
from headrace.store.statements import Plan, Record, Statement

T = TypeVar("T")

DATABASE_ERRORS: Final = (
    OSError,
    TimeoutError,
    asyncpg.PostgresError,
    asyncpg.InterfaceError,
    asyncpg.InternalClientError,
)
"""What a call may raise while the database is away, restarts, or refuses a statement."""


HOME_NAME: Final = "home"
"""What the home store is called."""

_NAMED: Final = "store: "

_CANCEL_SECONDS: Final = 2.0
"""How long a server has to say that it has broken a statement off."""


class UnreachableError(ConnectionError):
    """A server answered that it gives no connection: it starts, is full, knows no such database or user, or lets nobody in;
    or the store takes nothing because it is being removed.

    What it says by that is nothing about the statement that was to be sent, so it is an error of the way there.
    """


class FreeConnection(asyncpg.Connection):
    """A connection that a frozen server can't hold fast.

    A call that is canceled, as by ``asyncio.timeout``, waits until the server has broken off its statement: for ever, where
    the server is frozen. So the connection is given up where that takes too long, and every limit of time is one.
    """

    async def _cancel(self, *waiters: Any) -> None:
        async with asyncio.timeout(_CANCEL_SECONDS) as limit:
            await super()._cancel(*waiters)  # pyright: ignore - asyncpg's own, which has no other place for this
        if limit.expired():
            self.terminate()


def name_store(error: BaseException, name: str) -> None:
    """Notes in an error of a database which store it comes from, unless that is known."""
    if find_store_name(error) is None:
        error.add_note(_NAMED + name)


def find_store_name(error: BaseException) -> str | None:
    """The name of the store that an error comes from; None where it says none."""
    notes: list[str] = getattr(error, "__notes__", [])
    return next((note.removeprefix(_NAMED) for note in notes if note.startswith(_NAMED)), None)


class Store:
    """A pool on one database: ``store = await Store.open(settings)``, then ``await store.close()``."""

    def __init__(self, pool: asyncpg.Pool[Any], *, pooled: bool, name: str = HOME_NAME) -> None:
        self._pool = pool
        self._pooled = pooled
        self._name = name

    @classmethod
    async def open(
        cls,
        settings: Settings,
        *,
        lazily: bool = False,
        name: str = HOME_NAME,
        connect: Callable[..., CoroutineType[Any, Any, Any]] | None = None,
    ) -> Store:
        """Connects, or ``lazily`` does so at the first statement. Raises ConfigurationError where no database is named or
        it can't be reached. ``connect`` makes the connections, as ``asyncpg.connect`` does, or refuses to by raising.
        """
        if not settings.database_url and connect is None:
            raise ConfigurationError(
                "No database is named. Set HEADRACE_DATABASE_URL (or DATABASE_URL) to a PostgreSQL URL such as "
                "postgresql://user:password@host/database, or use `headrace dev`, which starts its own."
            )
        pooled = settings.pooler == "transaction"
        try:
            pool = await asyncpg.create_pool(
                settings.database_url,
                min_size=0 if lazily else 1,
                max_size=settings.pool_size,
                statement_cache_size=0 if pooled else 200,
                # of any length: the default leaves out what has more than 15 KiB, and that of claims under limits has.
                # Planned anew each time it takes 9.7 ms instead of 1.6.
                max_cacheable_statement_size=0,
                reset=_leave_connection,
                connect=connect,
                connection_class=FreeConnection,
            )
        except (*DATABASE_ERRORS, ValueError) as error:
            told = describe_failure(error, settings.database_url)
            raise ConfigurationError(
                f"PostgreSQL can't be reached with HEADRACE_DATABASE_URL: {told}. Check that the server runs and that "
                "user, password, host and database are right; `headrace doctor` looks closer."
            ) from error
        return cls(pool, pooled=pooled, name=name)

    async def close(self) -> None:
        """Ends all connections, by force those that don't end within five seconds."""
        try:
            async with asyncio.timeout(5):
                await self._pool.close()
        except TimeoutError:
            self._pool.terminate()

    @asynccontextmanager
    async def connect(self) -> AsyncGenerator[Any]:
        """A connection of the pool (asyncpg), for what needs several transactions or none. Raises UnreachableError."""
        try:
            async with self._acquire() as connection:
                try:
                    yield connection
                except asyncpg.InternalClientError:
                    connection.terminate()  # it is out of step with the server, as after a kill: nobody may be handed it again
                    raise
        except asyncpg.CheckViolationError as error:
            if not str(error.constraint_name).endswith("_removed"):  # see close_store
                raise
            closed = UnreachableError("the store is being removed")
            name_store(closed, self._name)
            raise closed from error
        except DATABASE_ERRORS as error:
            name_store(error, self._name)
            raise

    @asynccontextmanager
    async def _acquire(self) -> AsyncGenerator[Any]:
        async with AsyncExitStack() as stack:
            try:
                connection = await stack.enter_async_context(self._pool.acquire())
            except asyncpg.PostgresError as error:
                raise UnreachableError(str(error)) from error
            yield connection

    async def fetch(self, name: str, *args: Any) -> list[Record]:
        """The rows of one statement, in a transaction of its own."""
        async with self.connect() as connection:
            if not self._pooled:
                return await connection.fetch(Statement(name, args).sql, *args)
            async with connection.transaction():
                return await connection.fetch(Statement(name, args).sql, *args)

    async def run_plan(self, plan: Plan[T]) -> T:
        """What ``plan`` returns, its statements in one transaction: all of them or none."""
        async with self.connect() as connection, connection.transaction():
            return await run_plan_on(connection, plan)


async def run_plan_on(connection: Any, plan: Plan[T]) -> T:
    """Runs a plan on an asyncpg connection in whose transaction it is to be; begins and ends none."""
    try:
        statement = next(plan)
        while True:
            statement = plan.send(await connection.fetch(statement.sql, *statement.args))
    except StopIteration as stop:
        return stop.value


async def _leave_connection(_: Any) -> None:
    """Nothing to reset: no statement of ours sets anything for a session, and a reset is a round trip a call."""
