"""Waiting for an event with a limit never costs a cancellation."""

from __future__ import annotations

import asyncio

import pytest

from headrace.timeouts import happens_within

pytestmark = pytest.mark.anyio


async def test_it_says_whether_the_event_came() -> None:
    event = asyncio.Event()
    assert not await happens_within(event, 0.0)
    event.set()
    assert await happens_within(event, 30.0)
    assert await happens_within(event, None)


@pytest.mark.parametrize("turns", range(4))
async def test_a_cancellation_about_the_turn_in_which_the_event_comes_is_not_lost(turns: int) -> None:
    """With ``asyncio.wait_for`` on Python 3.11 it was: a worker that was told to stop went on for ever."""
    event = asyncio.Event()

    async def loop() -> None:
        while True:
            await happens_within(event, 30.0)
            event.clear()

    looping = asyncio.create_task(loop())
    while not event._waiters:
        await asyncio.sleep(0)
    event.set()
    for _ in range(turns):
        await asyncio.sleep(0)
    looping.cancel()
    await asyncio.wait({looping}, timeout=10.0)
    assert looping.cancelled()
