"""Waiting for something, and for no longer than so many seconds."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from typing import Any, TypeVar

T = TypeVar("T")

_left: set[asyncio.Future[Any]] = set()


async def happens_within(event: asyncio.Event, seconds: float | None) -> bool:
    """Whether ``event`` was set within ``seconds`` (None: however long it takes).

    ``asyncio.wait_for`` on Python 3.11 drops a cancellation that comes in the loop turn in which the event is set: a
    worker was told to stop in the turn in which its heartbeat was asked for, and never stopped. ``asyncio.timeout``
    keeps it, so the linter lets nobody use the other.
    """
    try:
        async with asyncio.timeout(seconds):
            await event.wait()
    except TimeoutError:
        return False
    return True


async def answers_within(asking: Awaitable[T], seconds: float) -> T:
    """What ``asking`` gives; raises TimeoutError after ``seconds``, whatever becomes of it then.

    ``asyncio.timeout`` waits until what it ends has ended, and a question to a PostgreSQL whose processes are stopped does
    not: asyncpg asks that server to cancel it, and gives its connection back when the server has answered that.
    """
    asked = asyncio.ensure_future(asking)
    try:
        done, _ = await asyncio.wait({asked}, timeout=seconds)
    finally:
        if not asked.done():
            asked.cancel()
            _left.add(asked)  # the loop keeps no strong reference
            asked.add_done_callback(_forget)
    if not done:
        raise TimeoutError
    return asked.result()


def _forget(asked: asyncio.Future[Any]) -> None:
    _left.discard(asked)
    if not asked.cancelled():
        asked.exception()  # looked at, or the loop complains that nobody did
