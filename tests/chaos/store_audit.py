"""What is asked of a fleet after whatever has happened to it: the invariants of house.md in each store and over their union.

Not asked here, because rows can't tell: that hints come after the commit (5), the memory of an intake (7), what is logged (11)
and what a statement costs (12).
"""

from __future__ import annotations

import asyncio
import itertools
import json
from collections import Counter, defaultdict
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any, Final
from uuid import UUID

from headrace.engine import batches, bulk_actions, runs, tokens
from headrace.engine.bulk_actions import BulkKind, BulkStatus
from headrace.engine.engine import Engine
from headrace.engine.outcomes import Packet, RunExists
from headrace.ids import format_run_id
from headrace.protocol.options import RunOptions
from headrace.store.store import DATABASE_ERRORS
from tests.chaos.store_clients import DELAY, ENVIRONMENT, Told
from tests.chaos.store_jobs import KEY_LIMIT, LIMIT
from tests.invariants import assert_invariants, fetch_sql

LEASE: Final = 3.0
"""Of the workers, in seconds."""

LONGEST_CLAIM: Final = timedelta(seconds=LEASE)
"""A run is started, by its row, when the transaction of its claim began, which may have waited for limits after that."""

_EXPECTED: Final = {"f.sleeper": "CANCELED", "f.fails": "FAILED", "f.nobody": "EXPIRED"}
"""How runs of a task end that do not complete."""

_LEFT: Final = """
    SELECT 'run ' || r.status || ' ' || l.task || ' ' || r.id || ' attempt ' || r.attempt || ' waits for ' || coalesce((
        SELECT string_agg(j.point || ' ' || coalesce(j.target::text, ''), ', ') FROM headrace.journal AS j
        WHERE j.run_id = r.id AND j.pending
    ), 'nothing') AS what
    FROM headrace.runs AS r JOIN headrace.lanes AS l ON l.id = r.lane_id WHERE r.finished_at IS NULL
    UNION ALL SELECT 'batch ' || status || ' ' || id FROM headrace.batches WHERE completed_at IS NULL
    UNION ALL SELECT 'mail of kind ' || kind || ' for ' || store || ': ' || target_id FROM headrace.outbox
    UNION ALL SELECT 'mirror ' || kind || ' ' || id FROM headrace.mirrors WHERE resolved_at IS NULL
    UNION ALL SELECT 'interest of ' || store || ' in ' || target_id FROM headrace.interests
    UNION ALL SELECT 'move of ' || unit_id || ' to ' || store || ': ' || coalesce(held_up, '') FROM headrace.moves
    UNION ALL SELECT 'departure of kind ' || kind || ' of move ' || move_id FROM headrace.departures
    UNION ALL SELECT 'bulk action ' || id FROM headrace.bulk_actions WHERE status = 'PENDING'
    UNION ALL SELECT 'bulk part in ' || store || ' of ' || action_id FROM headrace.bulk_parts WHERE status = 'PENDING'
    LIMIT 20"""

_RUNS: Final = """
    SELECT r.id, r.parent_run_id, r.root_run_id, r.batch_id, r.batch_index, r.status::text, l.task, r.attempt,
        convert_from(r.output, 'UTF8') AS output, r.output AS data, r.idempotency_key, r.error::text AS error, r.replayed_from,
        r.schedule_id, r.created_at, r.started_at, r.finished_at, r.order_key, r.order_number,
        convert_from(r.payload, 'UTF8') AS payload
    FROM headrace.runs AS r JOIN headrace.lanes AS l ON l.id = r.lane_id"""

_EXECUTING: Final = """
    SELECT r.id, r.attempt, r.concurrency_key FROM headrace.runs AS r JOIN headrace.lanes AS l ON l.id = r.lane_id
    WHERE r.status = 'EXECUTING' AND l.queue = 'narrow'"""

_STRAYS: Final = """
    SELECT 'journal of ' || j.run_id AS what FROM headrace.journal AS j
    WHERE NOT EXISTS (SELECT FROM headrace.runs AS r WHERE r.id = j.run_id)
    UNION ALL SELECT 'attempt of ' || a.run_id FROM headrace.attempts AS a
    WHERE NOT EXISTS (SELECT FROM headrace.runs AS r WHERE r.id = a.run_id)
    UNION ALL SELECT 'alias of ' || a.batch_id FROM headrace.batch_aliases AS a
    WHERE NOT EXISTS (SELECT FROM headrace.batches AS b WHERE b.id = a.batch_id)"""


@dataclass
class LimitWatch:
    """Looks at what executes under limits in all stores, all the time."""

    home: Engine
    looks: int = 0
    most: int = 0
    """The most that ever executed at once."""
    faults: list[str] = field(default_factory=list[str])

    async def watch(self) -> None:
        """Until it is cancelled. What executes at one look and at the next executed all the time between: all of that at once."""
        before: dict[tuple[UUID, int], str] = {}
        while True:
            try:
                async with asyncio.timeout(1):
                    found = await self._look()
            except DATABASE_ERRORS:
                before = {}
                await asyncio.sleep(0.1)
                continue
            self._judge({run: key for run, key in found.items() if run in before})
            before = found
            await asyncio.sleep(0.01)

    async def _look(self) -> dict[tuple[UUID, int], str]:
        stores = self.home.stores.all()
        answers = await asyncio.gather(*(fetch_sql(store, _EXECUTING) for store in stores))
        return {(row["id"], row["attempt"]): row["concurrency_key"] for rows in answers for row in rows}

    def _judge(self, together: dict[tuple[UUID, int], str]) -> None:
        self.looks += 1
        self.most = max(self.most, len(together))
        by_key = Counter(together.values())
        if len(together) > LIMIT or max(by_key.values(), default=0) > KEY_LIMIT:
            self.faults.append(f"over a limit: {together}")


async def list_left(home: Engine) -> list[str]:
    """What is not over yet, in any store: runs, batches, mail, waits, moves, bulk actions."""
    left: list[str] = []
    for store in home.stores.all():
        left += [f"{store.name}: {row['what']}" for row in await fetch_sql(store, _LEFT)]
    return left


class Audit:
    """Everything that is in any store, and what is wrong with it."""

    def __init__(self, home: Engine, told: Told) -> None:
        self._home = home
        self._told = told
        self._rows: dict[UUID, Any] = {}
        self._where: dict[UUID, str] = {}
        """The store of each run, batch and token."""
        self._finders: dict[UUID, Callable[[Engine, int, UUID], Awaitable[object]]] = {}
        self.faults: list[str] = []

    @classmethod
    async def make(cls, home: Engine, told: Told) -> Audit:
        """To be asked once nothing is left to be done."""
        made = cls(home, told)
        for store in home.stores.all():
            try:
                await assert_invariants(store)
            except AssertionError as error:
                made.faults.append(f"{store.name}: {error}")
            await made._read(store)
        made._check_runs()
        made._check_keys()
        made._check_orders()
        made._check_ticks()
        made._check_holders()
        await made._check_batches()
        await made._check_bulks()
        await made._check_found()
        return made

    async def _read(self, store: Engine) -> None:
        for row in await fetch_sql(store, _STRAYS):
            self.faults.append(f"{store.name}: {row['what']}, which is not there")
        rows = await fetch_sql(store, _RUNS)
        self._rows.update({row["id"]: row for row in rows})
        for find, table in ((runs.find_run, "runs"), (batches.find_batch, "batches"), (tokens.find_token, "tokens")):
            for row in await fetch_sql(store, f"SELECT id FROM headrace.{table}"):
                self._finders[row["id"]] = find
                if (before := self._where.setdefault(row["id"], store.name)) != store.name:
                    self.faults.append(f"{row['id']} is in {before} and in {store.name}")

    def count(self, store: str) -> int:
        """How much a store has."""
        return sum(where == store for where in self._where.values())

    def _check_runs(self) -> None:
        told, rows = self._told, self._rows
        self.faults += told.faults
        self.faults += [
            f"{asked} is {len(found)} runs: {found}" for asked, found in told.runs.items() if len(found) != 1
        ]
        self.faults += [f"{run_id} is not there" for run_id in told.known - rows.keys()]
        made = {row["id"] for row in rows.values() if row["parent_run_id"] is None and row["batch_id"] is None}
        of_itself = {row["id"] for row in rows.values() if row["schedule_id"] is not None or self._is_of_bulk(row)}
        self.faults += [f"{run_id}: a run that nobody was told of" for run_id in made - told.known - of_itself]
        for row in rows.values():
            if row["status"] != (wanted := _EXPECTED.get(row["task"], "COMPLETED")):
                self.faults.append(f"{row['id']} ({row['task']}): {row['status']}, not {wanted}: {row['error']}")
            if row["task"] == "f.bad":
                self.faults.append(f"{row['id']}: a run of what was refused")
            for above in ("parent_run_id", "root_run_id", "batch_id"):
                if row[above] is not None and self._where.get(row[above]) != self._where[row["id"]]:
                    self.faults.append(f"{row['id']} and its {above} {row[above]} are not in one store")
        for run_id, n in told.parents.items():
            self._expect(run_id, [2 * (n % 5), 2 * n, 2 * (n + 1), 2 * (n + 2), 2 * (n + 3)])
        for run_id in told.asks:
            self._expect(run_id, "yes")
        for run_id, ended in told.ended.items():
            row = rows.get(run_id)
            if row is not None and (row["status"], row["data"], row["finished_at"]) != ended:
                self.faults.append(
                    f"{run_id} had ended as {ended}, and then as {row['status']} at {row['finished_at']}"
                )
        for run_id in told.delayed & rows.keys():
            if rows[run_id]["started_at"] < rows[run_id]["created_at"] + timedelta(seconds=DELAY):
                self.faults.append(f"{run_id} was started too early")
        for run_id, original in told.replayed.items():
            if run_id in rows and rows[run_id]["replayed_from"] != original:
                self.faults.append(f"{run_id} is no replay of {original}")

    def _is_of_bulk(self, row: Any) -> bool:
        return row["replayed_from"] is not None and row["id"] not in self._told.replayed

    def _expect(self, run_id: UUID, output: object) -> None:
        if run_id in self._rows and json.loads(self._rows[run_id]["output"] or "null") != output:
            self.faults.append(f"{run_id}: {self._rows[run_id]['output']}, not {output}")

    def _check_keys(self) -> None:
        by_key: dict[tuple[str, str], list[Any]] = defaultdict(list)
        for row in self._rows.values():
            if row["idempotency_key"]:
                by_key[row["task"], row["idempotency_key"]].append(row)
        for key, rows in by_key.items():
            if key[0] != "f.fails":
                if len(rows) != 1:
                    self.faults.append(f"key {key} is {len(rows)} runs: {[row['id'] for row in rows]}")
                continue
            self._check_turns(f"of key {key}", rows, "started_at")  # one after the other has failed

    def _check_orders(self) -> None:
        by_key: dict[str, list[Any]] = defaultdict(list)
        for row in self._rows.values():
            if row["order_key"]:
                by_key[row["order_key"]].append(row)
        for key, rows in by_key.items():
            self._check_turns(f"of order key {key}", rows, "order_number")

    def _check_turns(self, what: str, rows: list[Any], place: str) -> None:
        ordered = sorted(rows, key=lambda row: row[place])
        for one, other in itertools.pairwise(ordered):
            if other["started_at"] + LONGEST_CLAIM < one["finished_at"]:
                times = f"{one['finished_at']} and {other['started_at']}"
                self.faults.append(f"{one['id']} ended after {other['id']} {what} was started: {times}")

    def _check_ticks(self) -> None:
        ticks = sorted(
            datetime.fromisoformat(json.loads(row["payload"])["timestamp"])
            for row in self._rows.values()
            if row["schedule_id"] is not None
        )
        if not ticks or ticks != [ticks[0] + timedelta(seconds=number) for number in range(len(ticks))]:
            self.faults.append(f"a tick a second has not one run each: {ticks}")

    def _check_holders(self) -> None:
        """A claim of a run is one worker's, and the last one that had a run is who ended it."""
        lines = self._told.log.read_text("utf-8").splitlines() if self._told.log.exists() else []
        by_claim: dict[tuple[str, int], list[int]] = defaultdict(list)
        for said in map(json.loads, lines):
            by_claim[said["run"], said["fence"]].append(said["pid"])
        for claim, pids in by_claim.items():
            if len(pids) > 1:
                self.faults.append(f"{claim} was carried out by {pids}")
        for row in self._rows.values():
            if row["task"] == "f.once":
                said = json.loads(row["output"] or "{}")
                if (said.get("run"), said.get("fence")) != (format_run_id(row["id"]), row["attempt"]):
                    self.faults.append(f"{row['id']}, attempt {row['attempt']}, was ended by {said}")

    async def _check_batches(self) -> None:
        for key, found in self._told.batch_keys.items():
            if len(found) != 1:
                self.faults.append(f"batch {key} is {len(found)} batches: {found}")
        for batch_id, count in self._told.batches.items():
            batch = await batches.find_batch(self._home, ENVIRONMENT, batch_id)
            if batch is None or batch.settled != count or batch.completed_at is None:
                self.faults.append(f"batch {batch_id} of {count}: {batch}")
                continue
            results = await batches.list_batch_results(self._home, ENVIRONMENT, batch_id)
            outputs = [result.run.output.data if result.run.output else None for result in results]
            if [result.index for result in results] != list(range(count)) or set(outputs) != {b"2"}:
                said = [(result.index, str(result.run.id), str(result.run.status)) for result in results]
                self.faults.append(f"batch {batch_id} of {count} in {self._where.get(batch_id)}: {said}")

    async def _check_bulks(self) -> None:
        replays = Counter(row["replayed_from"] for row in self._rows.values() if self._is_of_bulk(row))
        for action_id, (kind, ids) in self._told.bulks.items():
            action = await bulk_actions.find_bulk_action(self._home, ENVIRONMENT, action_id)
            done = sum(replays.pop(run_id, 0) for run_id in ids) if kind == BulkKind.REPLAY else len(ids)
            if action is None or action.status != BulkStatus.COMPLETED or action.total != len(ids):
                self.faults.append(f"bulk action {action_id} for {len(ids)}: {action}")
            elif (action.succeeded, action.failed) != (done, len(ids) - done):
                self.faults.append(f"bulk action {action_id} for {len(ids)} did {done}: {action}")
        if replays:
            self.faults.append(f"replays that nobody asked for: {replays}")
        for store in self._home.stores.all():
            failed = await fetch_sql(store, "SELECT run_id, error FROM headrace.bulk_members WHERE NOT succeeded")
            self.faults += [
                f"bulk member {row['run_id']} in {store.name}: {row['error']}"
                for row in failed
                if store.key != "1" or "takes no new runs" not in row["error"]  # s1 was drained
            ]

    async def _check_found(self) -> None:
        """Who knows nothing but an id finds what it is for, wherever it was moved to; and a key, its run."""
        fresh = await Engine.open(self._home.settings)
        try:
            for thing, find in self._finders.items():
                if await find(fresh, ENVIRONMENT, thing) is None:
                    self.faults.append(f"{thing} is in {self._where[thing]}, and not found")
            for asked, found in self._told.runs.items():
                if asked.startswith("key "):
                    options = RunOptions(idempotency_key=asked.removeprefix("key "))
                    again = await runs.trigger_run(fresh, ENVIRONMENT, "f.leaf", Packet(b"1"), options)
                    if not isinstance(again, RunExists) or again.run_id not in found:
                        self.faults.append(f"{asked} stands for {again}, not for {found}")
        finally:
            await fresh.close()


def spell(faults: Iterable[str]) -> str:
    """The first of them, a line each."""
    return "\n".join(list(faults)[:40])
