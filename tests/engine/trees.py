"""Trees of runs in a fleet of stores, in each state that they can be moved in, and what is asked of them wherever they are."""

from __future__ import annotations

import json
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Final
from uuid import UUID

from headrace.engine import batches, claims, completions, runs, sweeps, tokens
from headrace.engine.deeds import ChildBatch, ChildRun, Timer, TokenWait
from headrace.engine.engine import Engine
from headrace.engine.journals import read_journals
from headrace.engine.outcomes import Finish, Packet, RunCreated, StoredItem, WorkerLease
from headrace.engine.registry import change_store
from headrace.ids import mint_batch_id, mint_run_id, mint_token_id
from headrace.protocol.batches import CreateBatch
from headrace.protocol.options import RunOptions
from headrace.protocol.statuses import RunStatus
from tests.engine.helpers import claim, register
from tests.engine.parents import DUE, Parent
from tests.invariants import assert_invariants, fetch_sql

STATES: Final = [
    "queued", "delayed", "waiting for a child", "waiting for a child's child", "waiting for a batch", "waiting for a token",
    "waiting for a timer", "woken", "retried", "ended", "failed", "a batch", "a held batch", "keyed",
]  # fmt: skip

_TABLES: Final = {
    "runs": "id", "batches": "id", "tokens": "id", "journal": "run_id, point", "attempts": "run_id, number",
    "batch_aliases": "batch_id, batch_index",
}  # fmt: skip

_LOCAL: Final = ("lane_id", "order_lane_id", "version_id", "counted_in", "moved")
"""Columns that are a store's own matter."""


def child(engine: Engine, task: str = "t", *, awaited: bool = True) -> ChildRun:
    """A child that is made in this store."""
    return ChildRun(mint_run_id(engine.key), task, Packet(b"1"), RunOptions(), awaited)


def child_batch(engine: Engine, count: int) -> ChildBatch:
    """A batch that is made in this store."""
    items = [StoredItem(index, "t", Packet(b"1")) for index in range(count)]
    return ChildBatch(mint_batch_id(engine.key), CreateBatch(run_count=count, task_identifiers=["t"]), items)


@dataclass
class Fleet:
    """Home, s1 and s2, with a worker for "p" and "t" in each. New trees are made in s1."""

    home: Engine
    s1: Engine
    s2: Engine
    leases: dict[str, WorkerLease] = field(default_factory=dict[str, WorkerLease])

    @property
    def engines(self) -> list[Engine]:
        return [self.home, self.s1, self.s2]

    @classmethod
    async def open(cls, fleet: Sequence[Engine]) -> Fleet:
        made = cls(fleet[0], fleet[1], fleet[2])
        for one in made.engines:
            await change_store(made.home, one.name, weight=float(one is made.s1))
            one.settings = replace(one.settings, lease=600.0)  # however slow this machine is
        await made.renew()
        return made

    async def renew(self) -> None:
        """Workers that live."""
        for one in self.engines:
            self.leases[one.name] = await register(one, "p", "t")

    def fresh(self) -> Engine:
        """Home's engine, as a process has it that remembers nothing of what was moved."""
        self.home.stores._moved.clear()  # pyright: ignore[reportPrivateUsage]
        return self.home

    async def make_token(self) -> UUID:
        token_id = mint_token_id(self.s1.key)
        await self.s1.store.run_plan(tokens.make_token(1, self.s1.settings, token_id=token_id))
        return token_id

    async def where(self, ids: Collection[UUID]) -> set[str]:
        """The stores in which runs, batches or tokens are; fails where one is in none, or in several."""
        stores: set[str] = set()
        for one in ids:
            found: set[str] = set()
            for engine in self.home.stores.all():
                for table in ("runs", "batches", "tokens"):
                    rows = await fetch_sql(engine, f"SELECT FROM headrace.{table} WHERE id = $1", one)
                    found |= {engine.name for _ in rows}
            assert len(found) == 1, (one, found)
            stores |= found
        return stores

    async def read_rows(self) -> dict[str, list[Any]]:
        """All rows of all stores but for what is a store's own matter; a run's lane by its name."""
        rows: dict[str, list[Any]] = {}
        for table, key in _TABLES.items():
            found: list[Any] = []
            for engine in self.home.stores.all():
                lane = (
                    ", l.task, l.queue, l.kind, l.version, l.locked, l.open, l.batch_id AS lane_batch"
                    if table == "runs"
                    else ""
                )
                join = "JOIN headrace.lanes AS l ON l.id = t.lane_id" if table == "runs" else ""
                for row in await fetch_sql(
                    engine,
                    f"SELECT to_jsonb(t)::text AS row, t.{key.split(',')[0]} AS id{lane} FROM headrace.{table} AS t {join}",
                ):
                    content = json.loads(row["row"])
                    for name in _LOCAL:
                        content.pop(name, None)
                    found.append((json.dumps(content, sort_keys=True), tuple(row)[2:]))
            rows[table] = sorted(found, key=str)
        return rows

    async def assert_sound(self) -> None:
        """The invariants in each store, each thing once in all, and nothing on its way."""
        seen: dict[str, set[UUID]] = {}
        for engine in self.home.stores.all():
            await assert_invariants(engine)
            for table in ("moves", "move_members", "departures", "arrivals", "parkings"):
                assert await fetch_sql(engine, f"SELECT FROM headrace.{table}") == [], (engine.name, table)
            for table in ("runs", "batches", "tokens"):
                ids = {row["id"] for row in await fetch_sql(engine, f"SELECT id FROM headrace.{table}")}
                assert not ids & seen.get(table, set()), f"{table} in two stores"
                seen.setdefault(table, set()).update(ids)
            assert await fetch_sql(engine, "SELECT FROM headrace.runs WHERE parked IS NOT NULL") == [], engine.name
            strays = await fetch_sql(
                engine,
                "SELECT run_id FROM headrace.journal AS j WHERE NOT EXISTS (SELECT FROM headrace.runs AS r WHERE r.id = j.run_id)"
                " UNION SELECT run_id FROM headrace.attempts AS a WHERE NOT EXISTS (SELECT FROM headrace.runs AS r WHERE r.id = a.run_id)",
            )
            assert strays == [], "a journal without its run"

    async def finish_all(self, *names: str) -> None:
        """Workers of these stores do what is ready."""
        for engine in self.home.stores.all():
            if engine.name in names:
                while ready := await claim(engine, self.leases[engine.name], 1000, "t"):
                    ended = [Finish(run.id, run.attempt, RunStatus.COMPLETED, Packet(b"2")) for run in ready]
                    await completions.finish_runs(engine, self.leases[engine.name], ended)


@dataclass
class Tree:
    """A tree that was made in s1: its root's id, that of a run or a batch, and all its ids."""

    fleet: Fleet
    state: str
    id: UUID
    parent: Parent | None = None
    token: UUID | None = None
    members: list[UUID] = field(default_factory=list[UUID])

    @classmethod
    async def grow(cls, fleet: Fleet, state: str) -> Tree:
        """A new one."""
        tree = await cls._make(fleet, state)
        rows = await fetch_sql(
            fleet.s1,
            "SELECT id FROM headrace.runs WHERE id = $1 OR root_run_id = $1 OR batch_id = $1"
            " UNION SELECT id FROM headrace.batches WHERE id = $1 OR root_run_id = $1"
            " UNION SELECT id FROM headrace.tokens WHERE run_id = $1 OR id = $2",
            tree.id,
            tree.token,
        )
        tree.members = [row["id"] for row in rows]
        assert tree.members
        return tree

    @classmethod
    async def _make(cls, fleet: Fleet, state: str) -> Tree:
        s1, lease = fleet.s1, fleet.leases["s1"]
        if state in ("a batch", "a held batch"):
            start = "seal" if state == "a held batch" else "add"
            answer = await batches.create_batch(s1, 1, CreateBatch(run_count=3, start=start))
            assert isinstance(answer, batches.BatchCreated)
            batch = answer.batch
            await batches.store_chunk(s1, 1, batch, [StoredItem(i, "t", Packet(b"1")) for i in range(3)])
            await batches.end_stream(s1, 1, batch.id)
            return cls(fleet, state, batch.id)
        options = RunOptions(
            delay="1h" if state == "delayed" else None,
            tags=["a"],
            metadata='{"a": 1.5}',
            idempotency_key="k" if state == "keyed" else None,
        )
        task = "t" if state in ("queued", "delayed", "keyed") else "p"
        made = await runs.trigger_run(s1, 1, task, Packet(b'{"n": "\\u00e4"}'), options)
        assert isinstance(made, RunCreated)
        tree = cls(fleet, state, made.run_id)
        if state in ("queued", "delayed", "keyed"):
            return tree
        [run] = [one for one in await claim(s1, lease, 1, "p") if one.id == made.run_id]
        tree.parent = Parent(lease, run)
        await tree._reach()
        return tree

    async def _reach(self) -> None:
        s1, parent = self.fleet.s1, self.parent
        assert parent is not None
        match self.state:
            case "executing":
                return
            case "ended":
                assert await parent.end(s1) == set()
                return
            case "failed":
                error: dict[str, object] = {"type": "STRING_ERROR", "raw": "made to fail"}
                await completions.finish_runs(
                    s1, parent.lease, [Finish(parent.id, parent.run.attempt, RunStatus.FAILED, error=error)]
                )
                return
            case "retried":
                await completions.finish_runs(
                    s1, parent.lease, [Finish(parent.id, parent.run.attempt, RunStatus.FAILED, retry_in=0.0)]
                )
                return
            case "waiting for a child":
                await parent.write(s1, child(s1))
            case "waiting for a child's child":
                await parent.write(s1, child(s1, "p"))
                [run] = [one for one in await claim(s1, parent.lease, 10, "p") if one.parent_run_id == parent.id]
                below = Parent(parent.lease, run)
                await below.write(s1, child(s1), child(s1, awaited=False))
                await below.sleep(s1, seen=[("point#2", 5)])
            case "waiting for a batch":
                await parent.write(s1, child_batch(s1, 3))
            case "waiting for a token":
                self.token = await self.fleet.make_token()
                await parent.write(s1, TokenWait(self.token))
            case "waiting for a timer" | "woken":
                await parent.write(s1, Timer(seconds=3600))
            case _:
                raise AssertionError(self.state)
        await parent.sleep(s1)
        if self.state == "woken":
            await fetch_sql(s1, DUE)
            await sweeps.sweep_once(s1)

    async def assert_found(self) -> None:
        """Each of its ids leads to it, in a process that knows nothing and in one that does."""
        for _ in range(2):
            for one in self.members:
                found: Any = await runs.find_run(self.fleet.fresh(), 1, one)
                found = found or await batches.find_batch(self.fleet.home, 1, one)
                found = found or await tokens.find_token(self.fleet.home, 1, one)
                assert found is not None, one
                assert found.id == one

    async def go_on(self, engine: Engine) -> None:
        """What is left of it, by a worker of this store."""
        lease = self.fleet.leases[engine.name] = await register(engine, "p", "t")
        await fetch_sql(
            engine, "UPDATE headrace.runs SET ready_at = now(), delayed_until = now() WHERE delayed_until > now()"
        )
        if self.token is not None:
            await tokens.complete_token(self.fleet.fresh(), 1, self.token, Packet(b"7"))
        for _ in range(5):
            await fetch_sql(engine, DUE)
            await sweeps.sweep_once(engine)
            claimed = await claims.claim_runs(engine, lease, tasks=["p", "t"], limit=100)
            assert isinstance(claimed, list)
            for run in claimed:
                journal = (await read_journals(engine, 1, [run.id])).get(run.id, [])
                assert not any(point.pending for point in journal), journal
                lost = await Parent(lease, run, 1000).end(engine)
                assert lost == set(), (run, lost)

    async def assert_ended(self) -> None:
        """All of it has."""
        for one in self.members:
            if (run := await runs.find_run(self.fleet.fresh(), 1, one)) is not None:
                assert run.finished_at is not None, (one, run.status)
            if (batch := await batches.find_batch(self.fleet.fresh(), 1, one)) is not None:
                assert (batch.completed_at is not None, batch.settled) == (True, batch.run_count)
