"""Runs that wait in one store for what is in another, as workers of that store make them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from headrace.engine import completions, journals, runs, tokens
from headrace.engine.deeds import ChildBatch, ChildRun
from headrace.engine.engine import Engine
from headrace.engine.lanes import LaneFinder
from headrace.engine.outcomes import ClaimedRun, Finish, Packet, Point, RunCreated, StoredItem, WorkerLease
from headrace.engine.token_outcomes import TokenCreated
from headrace.ids import mint_batch_id, mint_run_id, mint_token_id
from headrace.protocol.batches import CreateBatch
from headrace.protocol.options import RunOptions
from headrace.protocol.statuses import RunStatus
from headrace.store.statements import Statement
from tests.engine.held import PATIENCE, HeldStore, Hold, is_anybody_blocked
from tests.engine.helpers import claim, register
from tests.engine.parents import Parent, read_state
from tests.invariants import assert_invariants

OUTPUT = Packet(b'{"told":true}')


@dataclass
class Waiter:
    """A run of task "p" in one store, and the worker there that holds it."""

    engine: Engine
    lease: WorkerLease
    parent: Parent

    @property
    def id(self) -> UUID:
        return self.parent.id

    @classmethod
    async def start(cls, engine: Engine, lease: WorkerLease | None = None) -> Waiter:
        lease = lease or await register(engine, "p", "t")
        run = await make_root(engine, "p")
        [claimed] = await claim(engine, lease, 1, "p")
        assert claimed.id == run
        return cls(engine, lease, Parent(lease, claimed))

    async def write(self, *deeds: Any, name: str = "point") -> list[Point]:
        return await self.parent.write(self.engine, *deeds, name=name)

    async def sleep(self) -> None:
        await self.parent.sleep(self.engine)

    async def read(self, name: str = "point") -> Point:
        """The point as the run's next attempt is told it."""
        journal = (await journals.read_journals(self.engine, 1, [self.id]))[self.id]
        return next(point for point in journal if point.name == name)

    async def status(self) -> str:
        return (await read_state(self.engine, self.id))[0]


async def make_root(engine: Engine, task: str = "t", **options: Any) -> UUID:
    """A root in the store of ``engine``."""
    plan = runs.make_run(task, Packet(b"1"), RunOptions(**options), LaneFinder(1, engine.lanes), engine.settings)
    made = await engine.store.run_plan(plan)
    assert isinstance(made, RunCreated)
    return made.run_id


async def make_token(engine: Engine, **asked: Any) -> UUID:
    """A token in the store of ``engine``."""
    plan = tokens.make_token(1, engine.settings, token_id=mint_token_id(engine.key), **asked)
    made = await engine.store.run_plan(plan)
    assert isinstance(made, TokenCreated)
    return made.token.id


def keyed_child(engine: Engine, key: str) -> ChildRun:
    """A child that is made in the store of ``engine``, unless its key stands for another run."""
    return ChildRun(mint_run_id(engine.key), "t", Packet(b"1"), RunOptions(idempotency_key=key))


def keyed_batch(engine: Engine, keys: Sequence[str | None]) -> ChildBatch:
    """A batch, with all its items, some of which may have keys."""
    items = [
        StoredItem(index, "t", Packet(b"1"), RunOptions(idempotency_key=key) if key else None)
        for index, key in enumerate(keys)
    ]
    return ChildBatch(mint_batch_id(engine.key), CreateBatch(run_count=len(items), task_identifiers=["t"]), items)


async def make_keyed(engine: Engine, *keys: str) -> list[UUID]:
    """Roots in the store of ``engine`` that these keys stand for, wherever they are asked for."""
    made: list[UUID] = []
    picked = engine.stores.pick
    engine.stores.pick = lambda: engine  # pyright: ignore[reportAttributeAccessIssue] - which store it is is the test's choice
    try:
        for key in keys:
            answer = await runs.trigger_run(engine, 1, "t", Packet(b"1"), RunOptions(idempotency_key=key))
            assert isinstance(answer, RunCreated), answer
            made.append(answer.run_id)
    finally:
        engine.stores.pick = picked  # pyright: ignore[reportAttributeAccessIssue]
    return made


async def finish_all(
    engine: Engine, lease: WorkerLease, status: RunStatus = RunStatus.COMPLETED, *, only: UUID | None = None
) -> list[ClaimedRun]:
    """A worker of that store ends what is ready there."""
    claimed = await claim(engine, lease)
    error: dict[str, object] | None = None
    if status is not RunStatus.COMPLETED:
        error = {"type": "STRING_ERROR", "raw": "made to fail"}
    ends = [Finish(run.id, run.attempt, status, OUTPUT, error=error) for run in claimed if only in (None, run.id)]
    assert await completions.finish_runs(engine, lease, ends) == set()
    return claimed


class Single(str):
    """The name of a statement that was sent by itself, in no plan."""

    __slots__ = ()


class HeldFetchStore(HeldStore):
    """Single statements are held, too."""

    async def fetch(self, name: str, *args: Any) -> Any:
        await self.hold.pass_by(f"before:{name}")
        async with self.connect() as connection:
            rows = await connection.fetch(Statement(name, args).sql, *args)
        await self.hold.pass_by(f"after:{name}")
        if name != "send_notice":
            self.sent.append(Single(name))
        return rows


@asynccontextmanager
async def sending_here(engine: Engine) -> AsyncGenerator[list[str]]:
    """What is sent to that store meanwhile, but for hints."""
    async with holding_here(engine, ""):
        store = engine.store
        assert isinstance(store, HeldFetchStore)
        yield store.sent


@asynccontextmanager
async def holding_here(engine: Engine, point: str) -> AsyncGenerator[Hold]:
    """The first transaction of all that come to ``point`` in that store, by whatever Engine of the fleet, is held there."""
    store = await HeldFetchStore.open(engine.settings)
    assert isinstance(store, HeldFetchStore)
    store.hold, store.sent = Hold(point), []
    own, engine.store = engine.store, store
    try:
        yield store.hold
    finally:
        store.hold.released.set()
        engine.store = own
        await store.close()


async def tried(engine: Engine, statement: str) -> None:
    """Returns once ``statement`` was sent to that store, of which something is held, or somebody waits there for a lock."""
    store = engine.store
    assert isinstance(store, HeldFetchStore)
    async with asyncio.timeout(PATIENCE):
        while statement not in store.sent and not await is_anybody_blocked(engine):
            await asyncio.sleep(0.005)


async def assert_all_well(fleet: Sequence[Engine]) -> None:
    """The invariants of every store."""
    for engine in fleet:
        await assert_invariants(engine)
