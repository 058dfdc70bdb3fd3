"""Backlogs for tests of claims: runs written by the thousand, and engines whose clock is moved on."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Any

from headrace.engine.claims import claim_runs
from headrace.engine.engine import Engine
from headrace.engine.lanes import LaneFinder, LaneKind, LaneName
from headrace.engine.outcomes import ClaimedRun, WorkerLease
from headrace.engine.turns import Turns
from headrace.store.statements import Plan, Record, Statement
from headrace.store.store import Store


async def fill(engine: Engine, task: str, count: int, *, key: str | None = None, order: str | None = None) -> int:
    """``count`` ready runs in the lane of a task; ``key`` or ``order`` is an SQL expression of n, from 0 on. The lane's id."""
    kind: LaneKind = "keyed" if key else "ordered" if order else "plain"
    name = LaneName(task, None, kind)
    lane = (await engine.store.run_plan(LaneFinder(1).find_lanes([name])))[name]
    async with engine.store.connect() as connection:
        await connection.execute(
            "INSERT INTO headrace.runs (environment_id, lane_id, id, status, ready_at, created_at, updated_at, payload,"
            " concurrency_key, order_key, order_number, order_lane_id)"
            # the last byte says which store a run is of
            " SELECT 1, $1, overlay(gen_random_uuid()::text PLACING lpad(to_hex(i.store), 2, '0') FROM 35)::uuid, 'QUEUED', now() - interval '1 hour' + n * interval '1 us', now(), now(), '1',"
            f" {key or 'NULL'}, {order or 'NULL'}, {'n' if order else 'NULL'}, {'$1' if order else 'NULL'}"
            " FROM generate_series(0, $2::integer - 1) AS n,"
            " (SELECT position(key IN '0123456789abcdefghijklmnopqrstuvwxyz') - 1 AS store FROM headrace.identity) AS i",
            lane,
            count,
        )
    return lane


async def take(
    engine: Engine, lease: WorkerLease, turns: Turns, limit: int = 1000, *tasks: str, queues: list[str] | None = None
) -> list[ClaimedRun]:
    """What a worker that remembers whose turn it is gets."""
    claimed = await claim_runs(engine, lease, tasks=tasks or ("t",), limit=limit, turns=turns, queues=queues)
    assert isinstance(claimed, list), claimed
    return claimed


class ShiftedStore(Store):
    """A store whose clock stands still, ``seconds`` after ``start``."""

    start: datetime | None = None
    seconds: float = 0.0

    @asynccontextmanager
    async def connect(self) -> AsyncGenerator[Any]:
        async with super().connect() as connection:
            yield connection if self.start is None else _ShiftedConnection(connection, self)

    async def fetch(self, name: str, *args: Any) -> list[Record]:
        return await self.run_plan(_one(name, args))


@dataclass
class _ShiftedConnection:
    """A connection each of whose transactions has the store's clock: also one that is open while other stores are asked."""

    connection: Any
    store: ShiftedStore

    def transaction(self) -> Any:
        return self.connection.transaction() if self.connection.is_in_transaction() else self._begin()

    @asynccontextmanager
    async def _begin(self) -> AsyncGenerator[None]:
        assert self.store.start is not None
        async with self.connection.transaction():
            await self.connection.execute(
                "SELECT set_config('headrace.clock_shift', ($1::timestamptz - now())::text, true)",
                self.store.start + timedelta(seconds=self.store.seconds),
            )
            yield

    def __getattr__(self, name: str) -> Any:
        return getattr(self.connection, name)


@asynccontextmanager
async def shifted(engine: Engine) -> AsyncGenerator[tuple[Engine, ShiftedStore]]:
    """An engine on connections of its own whose clock stands still at now, and what moves it."""
    store = await ShiftedStore.open(engine.settings)
    assert isinstance(store, ShiftedStore)
    async with store.connect() as connection:
        store.start = await connection.fetchval("SELECT now()")
    try:
        yield replace(engine, store=store), store
    finally:
        await store.close()


def _one(name: str, args: Any) -> Plan[list[Record]]:
    return (yield Statement(name, args))
