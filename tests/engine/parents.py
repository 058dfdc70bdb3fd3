"""Runs that wait, as a worker makes them: claimed, their points written through the fence, put down."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from headrace.engine import batches, cancels, completions, journals, runs, sweeps, tokens
from headrace.engine.deeds import ChildBatch, ChildRun, Deed, Fence, Following, PointWrite, Timer, TokenWait
from headrace.engine.engine import Engine
from headrace.engine.outcomes import (
    ClaimedRun,
    Finish,
    Lineage,
    Packet,
    Point,
    RunCreated,
    StoredItem,
    WorkerLease,
)
from headrace.engine.token_outcomes import TokenCreated
from headrace.ids import mint_batch_id, mint_run_id, mint_token_id
from headrace.protocol.batches import CreateBatch
from headrace.protocol.options import RunOptions
from headrace.protocol.statuses import RunStatus
from tests.engine.helpers import claim
from tests.invariants import fetch_sql

DUE = "UPDATE headrace.journal SET due_at = now() - interval '1 second' WHERE due_at IS NOT NULL"


@dataclass
class Parent:
    """A run of task "p" that a worker holds."""

    lease: WorkerLease
    run: ClaimedRun
    made: int = 0

    @property
    def id(self) -> UUID:
        return self.run.id

    @property
    def fence(self) -> Fence:
        run = self.run
        return Fence(self.lease, run.id, run.attempt, Lineage(run.id, run.root_run_id or run.id, run.depth + 1))

    async def write(
        self,
        engine: Engine,
        *deeds: Deed,
        name: str = "point",
        seen: Sequence[tuple[str, int | None]] = (),
        repeated: bool = False,
    ) -> list[Point]:
        """Comes to points: ``point``, ``point#2``..."""
        writes: list[PointWrite] = []
        for number, deed in enumerate(deeds, 1):
            self.made += 1
            writes.append(PointWrite(name if number == 1 else f"{name}#{number}", self.made, deed))
        return await journals.write_points(engine, self.fence, writes, seen, repeated=repeated)

    def put_down(self, seen: Sequence[tuple[str, int | None]] = ()) -> Finish:
        """What a worker reports of a run that waits."""
        return Finish(self.run.id, self.run.attempt, RunStatus.WAITING, seen=tuple(seen))

    async def sleep(self, engine: Engine, seen: Sequence[tuple[str, int | None]] = ()) -> None:
        """Is put down."""
        assert await completions.finish_runs(engine, self.lease, [self.put_down(seen)]) == set()

    async def end(self, engine: Engine, status: RunStatus = RunStatus.COMPLETED) -> set[UUID]:
        """Ends; the lost ones."""
        return await completions.finish_runs(engine, self.lease, [Finish(self.run.id, self.run.attempt, status)])


async def start_parent(engine: Engine, lease: WorkerLease, **options: Any) -> Parent:
    """A new run of task "p", claimed."""
    made = await runs.trigger_run(engine, 1, "p", Packet(b"1"), RunOptions(**options))
    assert isinstance(made, RunCreated)
    [claimed] = await claim(engine, lease, 1, "p")
    assert claimed.id == made.run_id
    return Parent(lease, claimed)


async def resume(engine: Engine, lease: WorkerLease) -> Parent:
    """The run of task "p" that is ready, claimed again."""
    [claimed] = await claim(engine, lease, 1, "p")
    return Parent(lease, claimed, 1000)


def child(key: str | None = None, task: str = "t", *, awaited: bool = True) -> ChildRun:
    return ChildRun(mint_run_id(), task, Packet(b"1"), RunOptions(idempotency_key=key), awaited)


def child_batch(items: Sequence[StoredItem] | None, run_count: int | None = None) -> ChildBatch:
    count = len(items) if items is not None else run_count
    return ChildBatch(mint_batch_id(), CreateBatch(run_count=count, task_identifiers=["t"]), items)


async def make_token(engine: Engine, **asked: Any) -> UUID:
    plan = tokens.make_token(1, engine.settings, token_id=mint_token_id(), **asked)
    made = await engine.store.run_plan(plan)
    assert isinstance(made, TokenCreated)
    return made.token.id


async def read_state(engine: Engine, run_id: UUID) -> tuple[str, int, int]:
    """A run's status, how often it was resumed, how many of its points are pending."""
    [row] = await fetch_sql(
        engine,
        "SELECT status, resumes, (SELECT count(*)::integer FROM headrace.journal AS j WHERE j.run_id = r.id AND j.pending) AS n"
        " FROM headrace.runs AS r WHERE id = $1",
        run_id,
    )
    return row["status"], row["resumes"], row["n"]


@dataclass
class Wait:
    """A wait of one kind: what the parent writes, and what ends it."""

    kind: str
    lease: WorkerLease

    async def begin(self, engine: Engine, parent: Parent) -> None:
        """The parent comes to its point; what it waits for is under way."""
        self._parent = parent
        match self.kind:
            case "run" | "cancel":
                await parent.write(engine, child())
            case "batch":
                await parent.write(engine, child_batch([StoredItem(0, "t", Packet(b"1"))]))
            case "progress":
                made = child_batch([StoredItem(index, "t", Packet(b"1")) for index in range(2)])
                await parent.write(engine, made, name="batch", seen=())
                await parent.write(engine, Following(made.batch_id, 0))
            case "timer":
                await parent.write(engine, Timer(seconds=3600))
            case "token" | "timeout":
                self._token = await make_token(engine, timeout=3600)
                await parent.write(engine, TokenWait(self._token))
            case "seal":
                opened = child_batch(None, 1)
                await parent.write(engine, opened)
                self._batch = opened.batch_id
            case _:
                raise AssertionError(self.kind)
        self._children = await claim(engine, self.lease, 1) if self.kind != "seal" else []
        if self.kind == "seal":
            batch = await batches.find_batch(engine, 1, self._batch)
            assert batch is not None
            await batches.store_chunk(engine, 1, batch, [StoredItem(0, "t", Packet(b"1"))])
            await self._finish(engine, await claim(engine, self.lease, 1))
        if self.kind == "timer":
            await fetch_sql(engine, DUE)
        if self.kind == "timeout":
            await fetch_sql(engine, "UPDATE headrace.tokens SET timeout_at = now() - interval '1 second'")

    async def end(self, engine: Engine) -> None:
        """It ends, in one transaction."""
        match self.kind:
            case "run" | "batch" | "progress":
                await self._finish(engine, self._children)
            case "cancel":
                await cancels.cancel_run(engine, 1, self._children[0].id)
            case "timer" | "timeout":
                await sweeps.sweep_once(engine)
            case "token":
                await tokens.complete_token(engine, 1, self._token, Packet(b"2"))
            case "seal":
                await batches.end_stream(engine, 1, self._batch)
            case _:
                raise AssertionError(self.kind)

    async def _finish(self, engine: Engine, ended: Sequence[ClaimedRun]) -> None:
        finishes = [Finish(run.id, run.attempt, RunStatus.COMPLETED, Packet(b"2")) for run in ended]
        await completions.finish_runs(engine, self.lease, finishes)
