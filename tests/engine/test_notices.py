"""Hints: sent after the commit, never before it, and few however many there is reason for."""

from __future__ import annotations

import asyncio
from typing import Any

import asyncpg
import pytest

from headrace.engine import batches
from headrace.engine.engine import Engine
from headrace.engine.notices import READY_CHANNEL
from headrace.engine.outcomes import BatchCreated
from headrace.protocol.batches import CreateBatch
from tests.engine.helpers import make_items

pytestmark = pytest.mark.anyio


async def test_who_is_told_sees_what_it_is_told_of(engine: Engine) -> None:
    """Invariant 5: the transaction takes long enough that a hint sent before its commit would find nothing."""
    told = asyncio.Event()
    connection: asyncpg.Connection[Any] = await asyncpg.connect(engine.settings.database_url)
    try:
        await connection.add_listener(READY_CHANNEL, lambda *_: told.set())
        submitting = asyncio.create_task(
            batches.submit_batch(engine, 1, CreateBatch(run_count=20_000), make_items(0, 20_000))
        )
        async with asyncio.timeout(20):
            await told.wait()
        assert await connection.fetchval("SELECT count(*) FROM headrace.runs") == 20_000
        assert isinstance(await submitting, BatchCreated)
    finally:
        await connection.close()


async def test_hints_are_few(engine: Engine) -> None:
    heard: list[object] = []
    connection: asyncpg.Connection[Any] = await asyncpg.connect(engine.settings.database_url)
    try:
        await connection.add_listener(READY_CHANNEL, lambda *_: heard.append(1))
        for _ in range(200):
            engine.notices.runs_ready(1)
            await asyncio.sleep(0.001)
        async with asyncio.timeout(5):
            while len(heard) < 2:
                await asyncio.sleep(0.01)
        assert len(heard) < 40
    finally:
        await connection.close()


async def test_a_hint_between_the_look_and_the_wait_is_not_missed(engine: Engine) -> None:
    async with asyncio.timeout(10):
        while not engine.notices.listening:
            await asyncio.sleep(0.01)
        seen = engine.notices.count_ready(1)
        engine.notices.runs_ready(1)
        while engine.notices.count_ready(1) == seen:
            await asyncio.sleep(0.01)
    assert await engine.notices.wait_ready(1, 0, since=seen)
