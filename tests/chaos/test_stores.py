"""A fleet under fire: stores that are killed, frozen, added and drained while clients trigger, trees move and workers die.

    pytest tests/chaos/test_stores.py --programs-seed=0 --fleet-rounds=30 --fleet-histories=5     # others, longer and more

Clients trigger runs, alone, with keys, in order, under limits, late; submit and stream batches; complete tokens, cancel and
replay, alone and in bulk. Each store is killed once at least, home too, one is frozen; workers and who moves trees are killed
in whatever they do. At the end the invariants of house.md hold in each store and over their union (``store_audit``): a trigger
that was answered is one run however often it was tried, a key is one run wherever it was used, each batch has its items once,
each parent was told what its children returned, nobody waits, nothing is on its way, and no tree lies in two stores. Then all
is moved from the store that was drained, it is removed, and everything is found still.
"""

from __future__ import annotations

import asyncio
import json
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncGenerator, Callable, Generator
from contextlib import asynccontextmanager, suppress
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest

from headrace.engine import moves, runs, schedules, upkeep
from headrace.engine.engine import Engine
from headrace.engine.outcomes import RunView
from headrace.engine.registry import add_store, change_store
from headrace.engine.schedule_outcomes import ScheduleKept
from headrace.ids import store_of
from headrace.protocol.schedules import CreateSchedule
from headrace.settings import Settings
from headrace.store.embedded import EmbeddedPostgres
from tests.chaos.fire import Arena, Event, patiently
from tests.chaos.store_audit import LEASE, Audit, LimitWatch, list_left, spell
from tests.chaos.store_clients import ENVIRONMENT, Client, Told
from tests.fleet import add_database, drop_database, make_template
from tests.postgres_15 import OldPostgres, running_old_postgres

pytestmark = pytest.mark.anyio

CLIENTS = 4
WORKERS = 2
FIRE_SECONDS = 3.0
DEADLINE = 150.0
JOBS = str(Path(__file__).with_name("store_jobs.py"))
ROOT = Path(__file__).parent.parent.parent


@dataclass
class Fleet:
    """The stores, and what is to be done to them. Home, s1 and s2 are servers of their own."""

    home: Engine
    arena: Arena
    s1: OldPostgres
    s2: OldPostgres
    s3: str
    chance: random.Random
    told: Told
    mover: subprocess.Popen[bytes] | None = None
    schedule: Any = None
    _locks: dict[int, asyncio.Lock] = field(default_factory=dict[int, asyncio.Lock])

    async def burn(self) -> None:
        """All that happens, each once or twice, at moments by chance."""
        events: list[Callable[[], Any]] = [
            self._join,
            *(
                lambda what=what, number=number: self._hit(what, number)
                for what in ("kill", "freeze")
                for number in range(2)
            ),
            lambda: self._hit("postgres", 0),
            lambda: self._freeze(self.s1),
            lambda: self._restart(self.s1),
            self._restart_while_tokens_are_completed,
            *[self._kill_mover] * 3,
        ]

        async def happen(event: Callable[[], Any]) -> None:
            await asyncio.sleep(self.chance.random() * FIRE_SECONDS)
            await event()

        async with asyncio.TaskGroup() as group:
            for event in events:
                group.create_task(happen(event))
        await patiently(lambda: change_store(self.home, "s1", state="draining"))

    async def start_mover(self) -> None:
        """A process that moves trees."""
        settings = json.dumps(asdict(self.home.settings))
        with (self.arena.folder / "mover.log").open("ab") as log:
            self.mover = subprocess.Popen(  # noqa: ASYNC220 - in a thread nobody would know of it yet, and nobody stop it
                [sys.executable, "-m", "tests.chaos.mover_child", settings, str(self.chance.randrange(2**32))],
                cwd=ROOT,
                stdout=subprocess.PIPE,
                stderr=log,
            )

    def stop_mover(self) -> None:
        """Kills it, in whatever it does."""
        if self.mover is not None:
            self.mover.kill()
            self.mover.communicate()
            self.mover = None

    async def stop_schedule(self) -> None:
        """No tick comes after this one."""
        await patiently(lambda: schedules.set_active(self.home, ENVIRONMENT, self.schedule, active=False))

    async def start_schedule(self) -> None:
        """A tick each second; none is left out."""
        asked = CreateSchedule("f.tick", "* * * * * *", "each second", catch_up="all")
        kept = await schedules.create_schedule(self.home, ENVIRONMENT, asked)
        assert isinstance(kept, ScheduleKept), kept
        self.schedule = kept.schedule.id

    async def _hit(self, what: str, number: int) -> None:
        linger = (0.0, 0.3)[number % 2]  # some runs that wait are put down at once, some wait in memory
        await self.arena.burn([Event(0.0, what, number, linger, 8)])

    async def _kill_mover(self) -> None:
        async with self._locks.setdefault(0, asyncio.Lock()):
            self.stop_mover()
            await self.start_mover()
            assert self.mover is not None
            assert self.mover.stdout is not None
            await asyncio.to_thread(self.mover.stdout.readline)  # "ready", or it met a store that was away
            await asyncio.sleep(self.chance.random())

    async def _freeze(self, server: OldPostgres) -> None:
        async with self._locks.setdefault(id(server), asyncio.Lock()):
            server.freeze()
            await asyncio.sleep(1.6 * LEASE)
            server.thaw()

    async def _restart(self, server: OldPostgres, meanwhile: float = 0.3) -> None:
        async with self._locks.setdefault(id(server), asyncio.Lock()):
            await asyncio.to_thread(server.kill)
            await asyncio.sleep(meanwhile)
            await asyncio.to_thread(server.start)

    async def _restart_while_tokens_are_completed(self) -> None:
        """s2 has a token that others wait for, and waits for one of others: both are completed while it is away."""
        [s2] = [store for store in self.home.stores.all() if store.name == "s2"]
        client = Client("away", self.home, self.told, self.chance)
        asked: list[Any] = []
        for number in range(20):
            store = (s2.key, "0")[number % 2]
            token_id, run_id = await client.ask_before(f"away-{number}", store)
            asked.append(token_id)
            if number > 3 and (store_of(run_id) == s2.key) != (store == s2.key):
                break
        restarting = asyncio.create_task(self._restart(self.s2, 1.0))
        await asyncio.sleep(0.5)
        await asyncio.gather(*map(client.answer, asked), restarting)

    async def _join(self) -> None:
        await patiently(lambda: add_store(self.home, "s3", self.s3))


@dataclass(frozen=True)
class Servers:
    """A server for each store, and on each the name of a template; the last serves other tests too, and is left alone."""

    home: EmbeddedPostgres
    s1: OldPostgres
    s2: OldPostgres
    urls: list[str]
    templates: list[str]

    def revive(self) -> None:
        """Those that a history has started end with the thread that did it, which ends with the history."""
        for server in (self.s1, self.s2):
            server.stop()
            server.start()


@pytest.fixture(scope="module")
def servers(postgres: str, template: str) -> Generator[Servers]:
    with (
        tempfile.TemporaryDirectory(prefix="hr-fleet-", ignore_cleanup_errors=True) as name,
        running_old_postgres() as s1,
        running_old_postgres() as s2,
    ):
        home = EmbeddedPostgres(Path(name))
        try:
            urls = [home.start(), s1.url, s2.url]
            yield Servers(
                home, s1, s2, [*urls, postgres], [*(asyncio.run(make_template(url)) for url in urls), template]
            )
        finally:
            home.stop()


@asynccontextmanager
async def open_fleet(settings: Settings, servers: Servers, chance: random.Random) -> AsyncGenerator[Fleet]:
    places = zip(servers.urls, servers.templates, strict=True)
    url, *others = [await add_database(server, template) for server, template in places]
    with tempfile.TemporaryDirectory(prefix="hr-fleet-", ignore_cleanup_errors=True) as name:
        folder = Path(name)
        arena = Arena(folder, url, JOBS, postgres=servers.home, lease=LEASE)
        home = await Engine.open(replace(settings, database_url=url), listen=True)
        fleet = Fleet(home, arena, servers.s1, servers.s2, others[2], chance, Told(folder / "once.log"))
        try:
            for store, one in zip(("s1", "s2"), others, strict=False):
                await add_store(home, store, one)
            await asyncio.gather(*(arena.start_worker(number, number * 0.3, 8) for number in range(WORKERS)))
            yield fleet
        finally:
            fleet.stop_mover()
            arena.stop()
            await home.close()
            for one in (url, *others):
                with suppress(Exception):  # a server that is down has been told of already
                    await drop_database(one)


async def until_over(fleet: Fleet) -> None:
    """Until nothing is left to be done in any store. Fails with what is."""
    clock = asyncio.get_running_loop().time
    deadline = clock() + DEADLINE
    while left := await patiently(lambda: list_left(fleet.home)):
        assert clock() < deadline, "not over:\n" + spell(left) + fleet.arena.read_logs()[-5000:]
        await asyncio.sleep(0.1)


async def remove_s1(fleet: Fleet) -> None:
    """All that it has goes to other stores; then it is none any more."""
    deadline = asyncio.get_running_loop().time() + DEADLINE
    while True:
        outcomes = [one async for one in moves.move_all(fleet.home, "s1", fleet.chance.choice(["home", "s2", "s3"]))]
        removed = await upkeep.remove_store(fleet.home, "s1")
        if isinstance(removed, upkeep.Removed):
            return
        assert asyncio.get_running_loop().time() < deadline, (removed, outcomes)
        await asyncio.sleep(0.1)


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "history" in metafunc.fixturenames:
        metafunc.parametrize("history", range(int(str(metafunc.config.getoption("--fleet-histories")))))


async def test_whatever_happens_to_stores_and_workers_each_run_is_one_and_ends(
    settings: Settings, servers: Servers, history: int, request: pytest.FixtureRequest
) -> None:
    seed = (int(str(request.config.getoption("--programs-seed"))) or random.randrange(2**32)) + history
    rounds = int(str(request.config.getoption("--fleet-rounds")))
    began = time.monotonic()
    if history:
        servers.revive()

    def tell(what: str) -> None:
        sys.stdout.write(f"{time.monotonic() - began:6.1f} s: {what}\n")

    tell(f"seed {seed}, {rounds} rounds")
    given = replace(settings, store_grace=0.5, store_patience=1.0, lease=LEASE)
    async with open_fleet(given, servers, random.Random(seed)) as fleet:
        told = fleet.told
        clients = [Client(f"c{n}", fleet.home, told, random.Random(seed + n)) for n in range(CLIENTS)]
        limits = LimitWatch(fleet.home)
        watching = asyncio.create_task(limits.watch())
        tell("all is there")
        await fleet.start_schedule()
        await fleet.start_mover()

        async def work(client: Client) -> None:
            number = 0
            while number < rounds or not burning.done():
                await client.act(number)
                await asyncio.sleep(0.1)
                number += 1

        async with asyncio.TaskGroup() as group:  # one that fails ends all of them
            burning = group.create_task(fleet.burn())
            for client in clients:
                group.create_task(work(client))
        tell("the fire is out")
        before = len(told.made)
        for client in clients:  # s1 is being drained
            for number in range(3):
                await client.act(1000 + number)
        assert "1" not in {store_of(run_id) for run_id in told.made[before:]}
        await fleet.stop_schedule()
        fleet.stop_mover()
        await until_over(fleet)
        watching.cancel()
        tell(f"over: {len(told.made)} roots, {limits.looks} looks at limits")

        assert {store.name for store in fleet.home.stores.all()} == {"home", "s1", "s2", "s3"}
        found = await Audit.make(fleet.home, told)
        counts = {store.name: found.count(store.name) for store in fleet.home.stores.all()}
        tell(f"looked at: {counts}")
        faults = found.faults + limits.faults
        assert not faults, f"seed {seed}:\n{spell(faults)}"
        assert all(counts.values()), "or this has shown nothing"
        assert limits.most > 1, "or this has shown nothing of limits"
        logged = (fleet.arena.folder / "mover.log").read_text("utf-8")
        assert "Traceback" not in logged, logged[-5000:]

        await remove_s1(fleet)
        tell("s1 is removed")
        await until_over(fleet)
        left = await Audit.make(fleet.home, told)
        assert not left.faults, f"seed {seed}, s1 is removed:\n{spell(left.faults)}"
        some = [await runs.find_run(fleet.home, ENVIRONMENT, run_id) for run_id in told.made if store_of(run_id) == "1"]
        assert some
        assert all(isinstance(one, RunView) for one in some)
        tell("found again")
