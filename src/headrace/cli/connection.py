"""What commands talk to the server with: a client; or, for the few that need no server, an engine on the database."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Generator
from contextlib import contextmanager
from typing import TypeVar

from headrace.cli.outcome import NOT_FOUND, UNREACHABLE, CommandError
from headrace.cli.output import err
from headrace.engine.engine import Engine
from headrace.engine.registry import ensure_stores
from headrace.errors import ApiError, BatchTriggerError, ConfigurationError, ConnectionFailedError
from headrace.sdk import Client
from headrace.settings import Settings

T = TypeVar("T")


@contextmanager
def open_client(api_url: str | None, api_key: str | None) -> Generator[Client]:
    """A client of the server that the options or the environment name. Raises CommandError where it can't be used."""
    settings = Settings.from_environment(api_url=api_url, api_key=api_key)
    if not settings.api_key:
        raise CommandError(
            "No API key is given. Set HEADRACE_API_KEY, or give --api-key; `headrace keys create` makes one.",
            UNREACHABLE,
        )
    with Client(settings.api_url, api_key=settings.api_key) as client:
        try:
            yield client
        except (ConnectionFailedError, BatchTriggerError) as error:
            if isinstance(error, BatchTriggerError) and not isinstance(error.__cause__, ConnectionFailedError):
                raise
            raise CommandError(f"{error} The server is looked for at {settings.api_url}.", UNREACHABLE) from error


@contextmanager
def told_when_missing(what: str) -> Generator[None]:
    """Says in plain words that ``what`` is not there. Raises CommandError for the server's 404."""
    try:
        yield
    except ApiError as error:
        if error.status != 404:
            raise
        raise CommandError(f"There is no {what} in the environment of this key.", NOT_FOUND) from None


def use_engine(database_url: str | None, work: Callable[[Engine], Awaitable[T]]) -> T:
    """What ``work`` gives on an engine of its own. Raises ConfigurationError where the database can't be used."""

    async def run() -> T:
        engine = await Engine.open(Settings.from_environment(database_url=database_url))
        try:
            await _add_stores(engine)
            return await work(engine)
        finally:
            await engine.close()

    return asyncio.run(run())


async def _add_stores(engine: Engine) -> None:
    """What a process does that starts; but a command goes on where a store can't be added, so that it can be used to mend it."""
    try:
        await ensure_stores(engine)
    except ConfigurationError as error:
        err.print(f"warning: {error} Until then no server or worker starts with this HEADRACE_STORES.", markup=False)
