"""Waiting for an event, and for no longer than so many seconds."""

from __future__ import annotations

import asyncio


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
