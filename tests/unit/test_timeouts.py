"""Waiting with a limit never costs a cancellation, and never waits for longer."""

from __future__ import annotations

import asyncio

import pytest

from headrace.timeouts import answers_within, happens_within

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


async def test_an_answer_in_time_is_given_and_an_error_raised() -> None:
    async def answer(value: int) -> int:
        if value < 0:
            raise ValueError(value)
        return value

    assert await answers_within(answer(7), 30.0) == 7
    with pytest.raises(ValueError, match="-1"):
        await answers_within(answer(-1), 30.0)


async def test_what_does_not_heed_its_cancellation_is_left() -> None:
    """As asyncpg does, which waits for a server that is frozen to break off what it asked."""
    released, canceled = asyncio.Event(), asyncio.Event()

    async def hang() -> None:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            canceled.set()
            await released.wait()
            raise

    async with asyncio.timeout(10.0):
        with pytest.raises(TimeoutError):
            await answers_within(hang(), 0.01)
        await canceled.wait()
    released.set()


async def test_who_is_canceled_while_waiting_cancels_what_was_asked() -> None:
    canceled = asyncio.Event()

    async def hang() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            canceled.set()

    waiting = asyncio.create_task(answers_within(hang(), 30.0))
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    waiting.cancel()
    async with asyncio.timeout(10.0):
        await canceled.wait()
        await asyncio.wait({waiting})
    assert waiting.cancelled()
