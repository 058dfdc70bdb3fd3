"""A fleet under fire: stores that are killed, frozen, added and drained while clients trigger and workers die.

    pytest tests/chaos/test_stores.py --programs-seed=0        # another history; or the seed of one that failed

Whatever happened, at the end the invariants of house.md hold in each store and over their union: a trigger that was
answered is one run however often it was tried, a key is one run wherever it was used, each batch has its items once, each
parent was told what its children returned, and no tree lies in two stores.
"""

from __future__ import annotations

import asyncio
import json
import random
import tempfile
from collections import defaultdict
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest

from headrace.engine import batches, runs, tokens
from headrace.engine.engine import Engine
from headrace.engine.outcomes import BatchCreated, BatchExists, Packet, RunCreated, RunExists, StoredItem
from headrace.engine.registry import add_store, change_store
from headrace.ids import format_token_id, mint_token_id, store_of
from headrace.protocol.batches import CreateBatch
from headrace.protocol.options import RunOptions
from headrace.protocol.tokens import CreateToken
from headrace.settings import Settings
from tests.chaos.fire import LEASE, Arena, patiently
from tests.fleet import add_database, drop_database, make_template
from tests.invariants import assert_invariants, fetch_sql
from tests.postgres_15 import OldPostgres, running_old_postgres

pytestmark = pytest.mark.anyio

ENVIRONMENT = 1
CLIENTS = 6
ROUNDS = 10
DEADLINE = 120.0
JOBS = str(Path(__file__).with_name("store_jobs.py"))


@dataclass
class Told:
    """What clients were answered."""

    runs: dict[str, set[UUID]] = field(default_factory=lambda: defaultdict(set))
    """By what was asked for: the runs that it was said to be."""
    made: list[UUID] = field(default_factory=list[UUID])
    """Roots that were said to be new, in the order of the answers."""
    parents: dict[UUID, int] = field(default_factory=dict[UUID, int])
    batches: dict[UUID, int] = field(default_factory=dict[UUID, int])
    asks: dict[UUID, UUID] = field(default_factory=dict[UUID, UUID])


class Client:
    """Triggers at random, and tries again until it is answered, always with the same request id."""

    def __init__(self, name: str, engine: Engine, told: Told, chance: random.Random) -> None:
        self._name = name
        self._engine = engine
        self._told = told
        self._chance = chance

    async def act(self, number: int) -> None:
        request = f"{self._name}-{number}"
        match self._chance.choice(["leaf", "keyed", "keyed", "parent", "parent", "batch", "token"]):
            case "leaf":
                await self._trigger(request, "f.leaf", number)
            case "keyed":
                key = f"k{self._chance.randrange(8)}"
                await self._trigger(request, "f.leaf", 1, key=key)
            case "parent":
                n = self._chance.randrange(20)
                self._told.parents[await self._trigger(request, "f.parent", n)] = n
            case "batch":
                await self._submit(request)
            case _:
                await self._ask(request)

    async def _trigger(self, request: str, task: str, value: Any, *, key: str | None = None) -> UUID:
        options = RunOptions(idempotency_key=key)
        packet = Packet(json.dumps(value).encode())
        answer = await patiently(
            lambda: runs.trigger_run(self._engine, ENVIRONMENT, task, packet, options, request_id=request)
        )
        assert isinstance(answer, RunCreated | RunExists), answer
        self._told.runs[request].add(answer.run_id)
        if isinstance(answer, RunCreated):
            self._told.made.append(answer.run_id)
        if key is not None:
            self._told.runs[f"key {key}"].add(answer.run_id)
        return answer.run_id

    async def _submit(self, request: str) -> None:
        count = self._chance.randrange(1, 8)
        items = [
            StoredItem(
                index,
                "f.leaf",
                Packet(b"1"),
                RunOptions(idempotency_key=f"k{self._chance.randrange(8)}") if self._chance.random() < 0.4 else None,
            )
            for index in range(count)
        ]
        answer = await patiently(
            lambda: batches.submit_batch(
                self._engine, ENVIRONMENT, CreateBatch(run_count=count), items, request_id=request
            )
        )
        assert isinstance(answer, BatchCreated | BatchExists), answer
        self._told.batches[answer.batch.id] = count

    async def _ask(self, request: str) -> None:
        token_id = mint_token_id()
        await patiently(lambda: tokens.create_token(self._engine, ENVIRONMENT, token_id, CreateToken()))
        run_id = await self._trigger(request, "f.asks", format_token_id(token_id))
        self._told.asks[run_id] = token_id
        await asyncio.sleep(self._chance.random() * 0.3)
        await patiently(lambda: tokens.complete_token(self._engine, ENVIRONMENT, token_id, Packet(b'"yes"')))


@dataclass
class Fleet:
    """The stores, and what is to be done to them. s1 and s2 are servers of their own."""

    home: Engine
    arena: Arena
    s1: OldPostgres
    s2: OldPostgres
    s3: str

    async def burn(self, chance: random.Random) -> None:
        """All that happens, each once, in an order by chance."""
        events = [
            self._kill_worker(0),
            self._kill_worker(1),
            self._freeze(self.s1),
            self._restart(self.s2),
            self._restart(self.s1),
        ]
        chance.shuffle(events)
        for event in [self._join(), *events]:
            await asyncio.sleep(chance.random() * 0.6)
            await event
        await patiently(lambda: change_store(self.home, "s1", state="draining"))

    async def _kill_worker(self, number: int) -> None:
        process = self.arena.workers[number]
        assert process is not None
        process.kill()
        await asyncio.to_thread(process.wait)
        await self.arena.start_worker(number, chance_linger(number), 8)

    async def _freeze(self, server: OldPostgres) -> None:
        server.freeze()
        await asyncio.sleep(2 * LEASE)
        server.thaw()

    async def _restart(self, server: OldPostgres) -> None:
        await asyncio.to_thread(server.kill)
        await asyncio.sleep(0.3)
        await asyncio.to_thread(server.start)

    async def _join(self) -> None:
        await patiently(lambda: add_store(self.home, "s3", self.s3))


def chance_linger(number: int) -> float:
    """Some runs that wait are put down at once, some wait in memory."""
    return (0.0, 0.3)[number % 2]


@asynccontextmanager
async def open_fleet(settings: Settings, postgres: str, template: str) -> AsyncGenerator[Fleet]:
    with (
        tempfile.TemporaryDirectory(prefix="hr-fleet-", ignore_cleanup_errors=True) as folder,
        running_old_postgres() as s1,
        running_old_postgres() as s2,
    ):
        arena = Arena(Path(folder), settings.database_url, JOBS)
        s3 = await add_database(postgres, template)
        home = await Engine.open(settings, listen=True)
        try:
            for name, server in (("s1", s1), ("s2", s2)):
                await add_store(home, name, await add_database(server.url, await make_template(server.url)))
            for number in range(2):
                await arena.start_worker(number, chance_linger(number), 8)
            yield Fleet(home, arena, s1, s2, s3)
        finally:
            arena.stop()
            await home.close()
            with suppress(Exception):
                await drop_database(s3)


async def until_ended(fleet: Fleet) -> None:
    """Until no store has a run that has not ended. Fails with some that have not."""
    clock = asyncio.get_running_loop().time
    deadline = clock() + DEADLINE
    while True:
        left: list[str] = []
        for store in fleet.home.stores.all():
            rows = await patiently(
                lambda store=store: fetch_sql(
                    store,
                    """SELECT r.id, r.status::text, l.task, r.attempt, r.rescues, r.worker_id, r.resumes, r.parent_run_id,
                        (SELECT array_agg(j.point || ' ' || coalesce(j.target::text, '')) FROM headrace.journal AS j
                            WHERE j.run_id = r.id AND j.pending) AS points
                    FROM headrace.runs AS r JOIN headrace.lanes AS l ON l.id = r.lane_id
                    WHERE r.finished_at IS NULL ORDER BY r.created_at LIMIT 5""",
                )
            )
            left += [f"{store.name}: {dict(row)}" for row in rows]
        if not left:
            return
        if clock() > deadline:
            raise AssertionError("not ended:\n" + "\n".join(left) + fleet.arena.read_logs()[-5000:])
        await asyncio.sleep(0.1)


async def test_whatever_happens_to_stores_and_workers_each_run_is_one_and_ends(
    settings: Settings, postgres: str, template: str, request: pytest.FixtureRequest
) -> None:
    seed = int(str(request.config.getoption("--programs-seed"))) or random.randrange(2**32)
    chance = random.Random(seed)
    given = replace(settings, store_grace=0.5, store_patience=1.0, lease=LEASE)
    async with open_fleet(given, postgres, template) as fleet:
        told = Told()
        clients = [Client(f"c{n}", fleet.home, told, random.Random(seed + n)) for n in range(CLIENTS)]

        burning = asyncio.create_task(fleet.burn(chance))

        async def work(client: Client) -> None:
            number = 0
            while number < ROUNDS or not burning.done():
                await client.act(number)
                await asyncio.sleep(0.1)
                number += 1

        await asyncio.gather(*(work(client) for client in clients))
        await burning
        before = len(told.made)
        for client in clients:  # s1 is being drained
            for number in range(3):
                await client.act(1000 + number)
        assert "1" not in {store_of(run_id) for run_id in told.made[before:]}
        await until_ended(fleet)
        for store in fleet.home.stores.all():
            await assert_invariants(store)
        faults = await compare(fleet, told)
        assert {store.name for store in fleet.home.stores.all()} == {"home", "s1", "s2", "s3"}
        for store in fleet.home.stores.all():  # or this has shown nothing
            assert (await fetch_sql(store, "SELECT count(*) AS n FROM headrace.runs"))[0]["n"] > 0, store.name
        assert not faults, f"seed {seed}: " + "\n".join(faults)


async def compare(fleet: Fleet, told: Told) -> list[str]:
    """What clients were told against what is there."""
    rows: dict[UUID, Any] = {}
    for store in fleet.home.stores.all():
        for row in await fetch_sql(
            store,
            """SELECT id, parent_run_id, root_run_id, batch_id, status::text, convert_from(output, 'UTF8') AS output,
                idempotency_key, error::text AS error FROM headrace.runs""",
        ):
            rows[row["id"]] = row
    faults = [f"{asked} is {len(found)} runs: {found}" for asked, found in told.runs.items() if len(found) != 1]
    known = {run_id for found in told.runs.values() for run_id in found}
    faults += [f"{run_id} is not there" for run_id in known - rows.keys()]
    faults += [f"{row['id']}: {row['status']} {row['error']}" for row in rows.values() if row["status"] != "COMPLETED"]
    roots = {row["id"] for row in rows.values() if row["parent_run_id"] is None and row["batch_id"] is None}
    faults += [f"{run_id}: a run that nobody was told of" for run_id in roots - known]
    by_key: dict[str, list[UUID]] = defaultdict(list)
    for row in rows.values():
        if row["idempotency_key"]:
            by_key[row["idempotency_key"]].append(row["id"])
        for above in ("parent_run_id", "root_run_id", "batch_id"):
            if row[above] is not None and store_of(row[above]) != store_of(row["id"]):
                faults.append(f"{row['id']} and its {above} are in two stores")
    faults += [f"key {key} is {len(found)} runs: {found}" for key, found in by_key.items() if len(found) != 1]
    for run_id, n in told.parents.items():
        wanted = [2 * (n % 5), 2 * n, 2 * (n + 1), 2 * (n + 2), 2 * (n + 3)]
        if run_id in rows and json.loads(rows[run_id]["output"] or "null") != wanted:
            faults.append(f"{run_id}: {rows[run_id]['output']}, not {wanted}")
    for run_id in told.asks:
        if run_id in rows and rows[run_id]["output"] != '"yes"':
            faults.append(f"{run_id}: {rows[run_id]['output']}")
    for batch_id, count in told.batches.items():
        batch = await batches.find_batch(fleet.home, ENVIRONMENT, batch_id)
        if batch is None or batch.settled != count or batch.completed_at is None:
            faults.append(f"batch {batch_id}: {batch}")
    return faults
