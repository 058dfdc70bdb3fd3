"""Engines whose transactions stop at a statement until they are let go: races forced on real connections, not hoped for."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Coroutine
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from typing import Any

from headrace.engine.engine import Engine
from headrace.store.statements import Plan, Statement
from headrace.store.store import Store
from tests.invariants import fetch_sql

PATIENCE = 30.0


@dataclass
class Hold:
    """A place in a transaction, ``after:<statement>`` or ``before:<statement>``: the first to reach it waits there."""

    point: str
    reached: asyncio.Event = field(default_factory=asyncio.Event)
    released: asyncio.Event = field(default_factory=asyncio.Event)

    async def pass_by(self, moment: str) -> None:
        if moment == self.point and not self.reached.is_set():
            self.reached.set()
            await self.released.wait()


class HeldStore(Store):
    """A store with one hold."""

    hold: Hold
    sent: list[str]

    async def run_plan(self, plan: Plan[Any]) -> Any:
        async with self.connect() as connection, connection.transaction():
            return await self._drive(connection, plan)

    async def _drive(self, connection: Any, plan: Plan[Any]) -> Any:
        try:
            statement: Statement = next(plan)
            while True:
                await self.hold.pass_by(f"before:{statement.name}")
                rows = await connection.fetch(statement.sql, *statement.args)
                self.sent.append(statement.name)
                await self.hold.pass_by(f"after:{statement.name}")
                statement = plan.send(rows)
        except StopIteration as stop:
            return stop.value


@asynccontextmanager
async def holding(engine: Engine, point: str) -> AsyncGenerator[tuple[Engine, Hold]]:
    """An engine on connections of its own whose first transaction to come to ``point`` is held there."""
    store = await HeldStore.open(engine.settings)
    assert isinstance(store, HeldStore)
    store.hold, store.sent = Hold(point), []
    try:
        yield replace(engine, store=store), store.hold
    finally:
        store.hold.released.set()
        await store.close()


async def held_at(hold: Hold, work: Coroutine[Any, Any, Any]) -> asyncio.Task[Any]:
    """Starts ``work`` and returns once it is held."""
    task = asyncio.create_task(work)
    reaching = asyncio.create_task(hold.reached.wait())
    async with asyncio.timeout(PATIENCE):
        await asyncio.wait({task, reaching}, return_when=asyncio.FIRST_COMPLETED)
    if not hold.reached.is_set():
        reaching.cancel()
        await task
        raise AssertionError(f"{hold.point} was not reached")
    return task


async def advance(engine: Engine, hold: Hold, work: Coroutine[Any, Any, Any]) -> asyncio.Task[Any]:
    """Starts ``work`` and returns once it is held, or over, or waits for a lock."""
    task = asyncio.create_task(work)
    async with asyncio.timeout(PATIENCE):
        while not (hold.reached.is_set() or task.done() or await is_anybody_blocked(engine)):
            await asyncio.sleep(0.005)
    return task


async def blocked(engine: Engine, work: Coroutine[Any, Any, Any]) -> asyncio.Task[Any]:
    """Starts ``work`` and returns once it is over, or waits for a lock."""
    return await advance(engine, Hold(""), work)


async def locked(engine: Engine, task: asyncio.Task[Any]) -> None:
    """Returns once somebody waits for a lock, or ``task`` is over."""
    async with asyncio.timeout(PATIENCE):
        while not task.done() and not await is_anybody_blocked(engine):
            await asyncio.sleep(0.005)


async def is_anybody_blocked(engine: Engine) -> bool:
    """Whether a session waits for a lock."""
    return bool(
        await fetch_sql(
            engine, "SELECT FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"
        )
    )
