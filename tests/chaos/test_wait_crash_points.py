"""SIGKILL of a real process after every statement of every write that waiting consists of, and past its commit.

Which statements those are is not listed here: each operation is done once unharmed, and what it sent is where the next
ones are killed. After each kill sweeps and another worker bring the parent to its end: with one child a point, nothing that
waits for ever, and nothing that the audit of what waits would have had to repair.
"""

from __future__ import annotations

import dataclasses
import json
import signal
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest

from headrace.engine import batches, claims, completions, sweeps, tokens
from headrace.engine.audits import AuditPlace, audit_once
from headrace.engine.engine import Engine
from headrace.engine.journals import read_journals
from headrace.engine.lanes import LaneBook
from headrace.engine.outcomes import ClaimedRun, Finish, Packet, StoredItem, WorkerLease
from headrace.protocol.statuses import RunStatus
from tests.chaos.test_crash_points import wait_for_connections_to_end
from tests.chaos.wait_crash_child import BATCH, make_deed, operate
from tests.engine.held import HeldStore, Hold
from tests.engine.helpers import claim, register
from tests.engine.parents import DUE, Parent, make_token, read_state, start_parent
from tests.invariants import assert_invariants, fetch_sql
from tests.nursery import run_forked

pytestmark = pytest.mark.anyio

ROOT = Path(__file__).parent.parent.parent
SILENT = "UPDATE headrace.workers SET lease_until = now() - interval '1 second' WHERE id = $1 AND ended_at IS NULL"
CHILDREN = {"child": 1, "keyed": 1, "batch": BATCH - 1, "opened": BATCH, "progress": BATCH}
SHAPES = ["child", "keyed", "batch", "opened", "progress", "timer", "new token", "token"]
WAITS = [shape for shape in SHAPES if shape not in ("new token", "opened")]


class Story:
    """One parent with one point, from its begin to its end: what a worker does, step by step, at any state of the database."""

    def __init__(self, engine: Engine, shape: str, lease: WorkerLease, parent: Parent) -> None:
        self.engine = engine
        self.shape = shape
        self.lease = lease
        self.parent = parent
        self.given: dict[str, Any] = {
            "worker": lease.worker_id,
            "run": str(parent.id),
            "attempt": parent.run.attempt,
            "shape": shape,
        }

    @classmethod
    async def begin(cls, engine: Engine, shape: str) -> Story:
        """The parent is claimed, and has come to nothing yet."""
        lease = await register(engine, "p", "t")
        story = cls(engine, shape, lease, await start_parent(engine, lease))
        if shape == "token":
            story.given["token"] = str(await make_token(engine))
        if shape == "progress":
            deed: Any = make_deed("opened", story.given)
            await story.parent.write(engine, deed, name="batch")
            await story._fill(deed.batch_id)
            story.given["batch"] = str(deed.batch_id)
        return story

    async def write(self) -> None:
        """The parent comes to its point."""
        deed: Any = make_deed(self.shape, self.given)
        await self.parent.write(self.engine, deed)
        if self.shape in ("batch", "opened"):
            self.given["batch"] = str(deed.batch_id)

    async def claim_children(self) -> None:
        """What the parent waits for is under way."""
        self.given["children"] = [str(run.id) for run in await claim(self.engine, self.lease)]

    async def go_on(self) -> None:
        """What is left, however it stands: the old worker is dead, sweeps and others come."""
        await fetch_sql(self.engine, SILENT, self.lease.worker_id)
        lease = await register(self.engine, "p", "t")
        for _ in range(12):
            await sweeps.sweep_once(self.engine)
            claimed = await claims.claim_runs(self.engine, lease, tasks=["p", "t"], limit=100)
            assert isinstance(claimed, list)
            for run in claimed:
                if run.task == "t":
                    ended = Finish(run.id, run.attempt, RunStatus.COMPLETED, Packet(b"2"))
                    await completions.finish_runs(self.engine, lease, [ended])
                else:
                    await self._replay(lease, run)
            if not claimed and not await fetch_sql(self.engine, "SELECT FROM headrace.runs WHERE finished_at IS NULL"):
                return
            await fetch_sql(self.engine, DUE)
            if token := self.given.get("token"):
                await tokens.complete_token(self.engine, 1, UUID(token), Packet(b"2"))
        raise AssertionError(await fetch_sql(self.engine, "SELECT id, status, attempt FROM headrace.runs"))

    async def _replay(self, lease: WorkerLease, run: ClaimedRun) -> None:
        self.lease, self.parent = lease, Parent(lease, run, 1000)
        points = {point.name: point for point in run.journal}
        if "point" not in points:
            await self.write()
            points = {point.name: point for point in (await self._read(run.id))}
        point = points["point"]
        if self.shape == "opened" and point.target is not None and point.pending:
            await self._fill(point.target)
        if point.pending:
            await self.parent.sleep(self.engine, [(name, 1) for name, one in points.items() if not one.pending])
        else:
            assert await self.parent.end(self.engine) == set()

    async def _read(self, run_id: UUID) -> list[Any]:
        return (await read_journals(self.engine, 1, [run_id]))[run_id]

    async def _fill(self, batch_id: UUID) -> None:
        batch = await batches.find_batch(self.engine, 1, batch_id)
        assert batch is not None
        await batches.store_chunk(
            self.engine, 1, batch, [StoredItem(index, "t", Packet(b"1")) for index in range(BATCH)]
        )
        await batches.end_stream(self.engine, 1, batch_id)

    async def assert_right(self, status: str = "COMPLETED") -> None:
        """It has ended, once; and a child a point."""
        assert (await read_state(self.engine, self.parent.id))[0] == status
        children = await fetch_sql(self.engine, "SELECT id FROM headrace.runs WHERE parent_run_id = $1", self.parent.id)
        assert len(children) == CHILDREN.get(self.shape, 0)
        made = await fetch_sql(self.engine, "SELECT FROM headrace.tokens WHERE run_id = $1", self.parent.id)
        assert len(made) == (self.shape == "new token")
        assert await audit_once(self.engine, AuditPlace()) == 0
        await assert_invariants(self.engine)


async def list_statements(engine: Engine, operation: str, given: dict[str, Any]) -> list[str]:
    """What the operation sends, in order, each once; it is done."""
    store = await HeldStore.open(engine.settings)
    assert isinstance(store, HeldStore)
    store.hold, store.sent = Hold(""), []
    try:
        await operate(dataclasses.replace(engine, store=store, lanes=LaneBook()), operation, given)
        # a lane is made once: after that statement the one-shot batches of test_crash_points are killed
        return [name for name in dict.fromkeys(store.sent) if name != "insert_lanes"]
    finally:
        await store.close()


def list_points(statements: list[str]) -> list[str]:
    return [f"before:{statements[0]}", *(f"after:{name}" for name in statements), f"committed:{statements[-1]}"]


async def kill_at(engine: Engine, operation: str, point: str, given: dict[str, Any]) -> None:
    settings = json.dumps(dataclasses.asdict(engine.settings))
    ended = await run_forked("tests.chaos.wait_crash_child", settings, operation, point, json.dumps(given))
    assert ended == -signal.SIGKILL, point
    await wait_for_connections_to_end(engine)


@pytest.mark.parametrize("shape", SHAPES)
async def test_a_worker_killed_while_it_writes_a_point_leaves_one_child_a_point(engine: Engine, shape: str) -> None:
    """Research/batch.md 3.5, "parent blocked": the point, its child and the child's key are one transaction."""
    story = await Story.begin(engine, shape)
    statements = await list_statements(engine, "write", story.given)
    assert {"hold_run", "write_points"} <= set(statements)
    await story.go_on()
    await story.assert_right()
    for point in list_points(statements):
        await fetch_sql(engine, "DELETE FROM headrace.idempotency_keys")  # of the story before
        story = await Story.begin(engine, shape)
        await kill_at(engine, "write", point, story.given)
        rows = await fetch_sql(
            engine, "SELECT FROM headrace.journal WHERE run_id = $1 AND point = 'point'", story.parent.id
        )
        assert len(rows) == point.startswith("committed"), point
        await story.go_on()
        await story.assert_right()


@pytest.mark.parametrize("shape", WAITS)
async def test_a_worker_killed_while_it_puts_a_run_down_leaves_it_to_go_on(engine: Engine, shape: str) -> None:
    for point in ["before:finish_runs", "after:finish_runs", "after:find_resolved_waiters", "committed:finish_runs"]:
        await fetch_sql(engine, "DELETE FROM headrace.idempotency_keys")
        story = await Story.begin(engine, shape)
        await story.write()
        await kill_at(engine, "put down", point, story.given)
        waits = (await read_state(engine, story.parent.id))[0] == "WAITING"
        assert waits == point.startswith("committed")
        await story.go_on()
        await story.assert_right()


@pytest.mark.parametrize("shape", ["child", "keyed", "batch", "progress"])
async def test_fault_26_a_worker_killed_while_it_ends_a_child_ends_it_and_wakes_its_parent_or_neither(
    engine: Engine, shape: str
) -> None:
    statements: list[str] = []
    points = ["unharmed"]
    while points:
        point = points.pop(0)
        await fetch_sql(engine, "DELETE FROM headrace.idempotency_keys")
        story = await Story.begin(engine, shape)
        await story.write()
        await story.claim_children()
        await story.parent.sleep(engine)
        if point == "unharmed":
            statements = await list_statements(engine, "finish", story.given)
            assert {"finish_runs", "lock_waiters", "complete_points", "wake_runs"} <= set(statements)
            points = list_points(statements)
        else:
            await kill_at(engine, "finish", point, story.given)
        done = await fetch_sql(
            engine, "SELECT FROM headrace.runs WHERE parent_run_id = $1 AND finished_at IS NOT NULL", story.parent.id
        )
        woken = (await read_state(engine, story.parent.id))[0] == "QUEUED"
        assert bool(done) == woken == (point.startswith("committed") or point == "unharmed"), point
        await story.go_on()
        await story.assert_right()


@pytest.mark.parametrize("how", ["complete token", "sweep timer", "sweep timeout"])
async def test_whoever_ends_a_wait_and_is_killed_ends_it_and_wakes_or_neither(engine: Engine, how: str) -> None:
    shape = {"complete token": "token", "sweep timer": "timer", "sweep timeout": "token"}[how]
    operation = how.split(maxsplit=1)[0] if how.startswith("sweep") else how
    points = ["unharmed"]
    while points:
        point = points.pop(0)
        story = await Story.begin(engine, shape)
        await story.write()
        await prepare_end(engine, story, how)
        await story.parent.sleep(engine)
        if point == "unharmed":
            statements = await list_statements(engine, operation, story.given)
            relevant = statements[: statements.index("wake_runs") + 1]
            points = [f"before:{relevant[0]}", *(f"after:{name}" for name in relevant if name != "elect_sweeper")]
            points.append(f"committed:{relevant[-1]}")
        else:
            await kill_at(engine, operation, point, story.given)
        woken = (await read_state(engine, story.parent.id))[0] == "QUEUED"
        assert woken == (point.startswith("committed") or point == "unharmed"), point
        await story.go_on()
        await story.assert_right()


async def prepare_end(engine: Engine, story: Story, how: str) -> None:
    match how:
        case "sweep timer":
            await fetch_sql(engine, DUE)
        case "sweep timeout":
            await fetch_sql(
                engine, "UPDATE headrace.tokens SET timeout_at = now() - interval '1 second' WHERE status = 'WAITING'"
            )
        case _:
            assert story.given["token"]


async def test_a_worker_killed_while_it_seals_a_batch_whose_items_have_all_ended_leaves_its_parent_to_go_on(
    engine: Engine,
) -> None:
    points = ["unharmed"]
    while points:
        point = points.pop(0)
        story = await Story.begin(engine, "opened")
        await story.write()
        batch_id = UUID(story.given["batch"])
        batch = await batches.find_batch(engine, 1, batch_id)
        assert batch is not None
        items = [StoredItem(index, "t", Packet(b"1")) for index in range(BATCH)]
        await batches.store_chunk(engine, 1, batch, items)
        await story.claim_children()
        await operate(engine, "finish", story.given)
        if point == "unharmed":
            statements = await list_statements(engine, "seal", story.given)
            assert {"seal_batch", "lock_waiters", "complete_points"} <= set(statements)
            points = list_points(statements)
        else:
            await kill_at(engine, "seal", point, story.given)
        over = (await read_state(engine, story.parent.id))[2] == 0
        assert over == (point.startswith("committed") or point == "unharmed"), point
        await story.go_on()
        await story.assert_right()


@pytest.mark.parametrize("shape", ["child", "batch", "progress"])
async def test_a_cancel_that_is_killed_anywhere_on_its_way_down_is_finished_by_the_sweep(
    engine: Engine, shape: str
) -> None:
    points = ["unharmed"]
    while points:
        point = points.pop(0)
        await fetch_sql(engine, "DELETE FROM headrace.idempotency_keys")
        story = await Story.begin(engine, shape)
        await story.write()
        await story.parent.sleep(engine)
        if point == "unharmed":
            points = list_points(await list_statements(engine, "cancel", story.given))
            points = [*points, "committed:mark_canceling", "committed:cancel_runs"]
        else:
            await kill_at(engine, "cancel", point, story.given)
        if (await read_state(engine, story.parent.id))[0] == "CANCELED":
            await sweeps.sweep_once(engine)
            rows = await fetch_sql(engine, "SELECT status FROM headrace.runs WHERE parent_run_id = $1", story.parent.id)
            assert {row["status"] for row in rows} == {"CANCELED"}, point
            await story.assert_right("CANCELED")
        else:
            await story.go_on()
            await story.assert_right()
