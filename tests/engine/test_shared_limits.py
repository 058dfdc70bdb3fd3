"""Limits over stores: never more executes than a limit allows, over all stores together, whoever is killed, frozen or cut off."""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from dataclasses import dataclass, field, replace
from typing import Any

import anyio
import asyncpg
import pytest

from headrace.engine import claims
from headrace.engine.engine import Engine
from headrace.engine.outcomes import ClaimedRun, WorkerLease
from headrace.engine.queues import declare_queue, limit_environment
from headrace.engine.turns import Turns
from headrace.queues import Queue
from headrace.settings import Settings
from tests.conftest import execute_sql
from tests.engine.backlogs import fill, take
from tests.engine.helpers import finish, register
from tests.fleet import join_store
from tests.invariants import fetch_sql
from tests.pairs import count_executing, other_url, pair

__all__ = ["other_url", "pair"]

pytestmark = pytest.mark.anyio


async def take_all(one: Engine, lease: WorkerLease, turns: Turns, limit: int = 100) -> int:
    """Claims until nothing is left to be had, or is another store's for the moment."""
    got = 0
    for _ in range(3):
        got += len(await take(one, lease, turns, limit))
    return got


@dataclass
class Crew:
    """Workers that claim and finish at once, and how much they held at most, by whatever is limited."""

    held: Counter[str] = field(default_factory=Counter[str])
    most: Counter[str] = field(default_factory=Counter[str])
    done: Counter[str] = field(default_factory=Counter[str])

    async def work(self, one: Engine, seed: int, until: dict[str, int]) -> None:
        """Claims runs, holds them for a moment, and ends them, until so many of each store are done."""
        chance = random.Random(seed)
        lease, turns = await register(one, "t"), Turns()
        async with asyncio.timeout(60):
            while any(self.done[key] < count for key, count in until.items()):
                taken = await take(one, lease, turns, chance.randint(1, 8))
                names = [self._names(run) for run in taken]
                self.held.update(name for some in names for name in some)
                self.most |= self.held
                await asyncio.sleep(chance.random() * 0.02)
                self.held.subtract(
                    name for some in names for name in some
                )  # before it is so: what is held does execute
                if taken:
                    await finish(one, lease, taken)
                    self.done[one.key] += len(taken)

    def _names(self, run: ClaimedRun) -> list[str]:
        return ["all", "key " + str(run.options.get("concurrencyKey"))]


@pytest.mark.parametrize(
    ("queue", "environment", "most"),
    [(Queue("task/t", 5), None, 5), (None, 4, 4), (Queue("task/t", concurrency_limit=7, key_limit=2), None, 7)],
    ids=["queue", "environment", "keys"],
)
async def test_all_stores_together_stay_within_a_limit(
    fleet: list[Engine], settings: Settings, queue: Queue | None, environment: int | None, most: int
) -> None:
    """Three stores on two major versions, two processes' worth of engines, a worker of each on each store."""
    home = fleet[0]
    if queue:
        await declare_queue(home, 1, queue)
    if environment:
        await limit_environment(home, 1, environment)
    by_key = bool(queue and queue.key_limit)
    for one in fleet:
        await fill(one, "t", 100, key="'k' || n % 4" if by_key else None)
        if by_key:
            await fetch_sql(
                one, "UPDATE headrace.runs SET options = jsonb_build_object('concurrencyKey', concurrency_key)"
            )
    other = await Engine.open(replace(settings, store_patience=3.0), listen=True)
    crew = Crew()
    until = {one.key: 60 for one in fleet}
    try:
        engines = [*fleet, *other.stores.all()]
        for one in engines:
            await register(one, "t")
        await asyncio.gather(*(crew.work(one, seed, until) for seed, one in enumerate(engines)))
    finally:
        await other.close()
    assert crew.most["all"] <= most
    assert crew.most["all"] == most, "else it was not tried"
    if by_key:
        assert {name: count for name, count in crew.most.items() if name != "all" and count > 2} == {}


async def test_a_rate_is_that_of_all_stores(pair: list[Engine]) -> None:
    home, other = pair
    await declare_queue(home, 1, Queue("task/t", rate_limit=(10, 3600.0)))
    crew = [(one, await register(one, "t"), Turns()) for one in pair]
    for one in pair:
        await fill(one, "t", 20)
    got = [await take_all(one, lease, turns, 3) for one, lease, turns in [crew[1], crew[0], crew[1], crew[0]]]
    assert sum(got) == 10, got
    assert got[0] == 9
    assert got[1] == 1
    assert await count_executing([home, other]) == 10


async def test_a_rate_of_each_key_is_that_of_all_stores(pair: list[Engine]) -> None:
    await declare_queue(pair[0], 1, Queue("task/t", rate_limit=(3, 3600.0), rate_by_key=True))
    crew = [(one, await register(one, "t"), Turns()) for one in pair]
    for one in pair:
        await fill(one, "t", 20, key="'k' || n % 2")
    got = [await take_all(one, lease, turns, 2) for one, lease, turns in crew]
    assert sum(got) == 6
    assert got == [6, 0]


async def test_a_store_that_is_away_lets_nothing_start_under_limits_and_all_else(
    pair: list[Engine], other_url: str
) -> None:
    home, other = pair
    await declare_queue(home, 1, Queue("task/t", 2))
    lease = await register(home, "t", "plain", "keyed")
    for task in ("t", "plain"):
        await fill(home, task, 3)
    await fill(home, "keyed", 3, key="'k'")
    name = other_url.partition("?")[0].rsplit("/", 1)[1]
    await asyncio.to_thread(execute_sql, home.settings.database_url, f"ALTER DATABASE {name} ALLOW_CONNECTIONS false")
    await fetch_sql(home, "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = $1", name)
    turns = Turns()
    taken = [run.task for _ in range(3) for run in await take(home, lease, turns, 100, "t", "plain", "keyed")]
    assert Counter(taken) == {"plain": 3, "keyed": 3}
    await asyncio.to_thread(execute_sql, home.settings.database_url, f"ALTER DATABASE {name} ALLOW_CONNECTIONS true")
    async with asyncio.timeout(30):
        while len(taken) < 8:
            taken += [run.task for run in await take(home, lease, turns, 100, "t", "plain", "keyed")]
            await anyio.sleep(0.05)
    assert Counter(taken) == {"plain": 3, "keyed": 3, "t": 2}
    assert other.key == "1"


@pytest.mark.parametrize("key", [None, "'k'"])
async def test_a_backlog_in_one_store_does_not_starve_a_run_in_another(pair: list[Engine], key: str | None) -> None:
    """One slot, always taken again at once by the store with the backlog: the other's one run has it within a few turns."""
    home, other = pair
    await declare_queue(home, 1, Queue("task/t", 1))
    await fill(other, "t", 10_000, key=key)
    busy, idle = (other, await register(other, "t"), Turns()), (home, await register(home, "t"), Turns())
    claimed = await take(busy[0], busy[1], busy[2], 1)
    assert len(claimed) == 1
    await fill(home, "t", 1, key=key)
    assert await take(home, idle[1], idle[2], 10) == [], "the slot is taken, but it is noted that home wants it"
    await finish(other, busy[1], claimed)
    assert await take(other, busy[1], busy[2], 1) == [], "home's turn"
    assert busy[2].wake_in is not None
    assert busy[2].wake_in < 1
    claimed = await take(home, idle[1], idle[2], 10)
    assert len(claimed) == 1
    await finish(home, idle[1], claimed)
    assert len(await take(other, busy[1], busy[2], 1)) == 1


async def test_a_store_whose_worker_is_gone_is_waited_for_no_longer_than_a_moment(pair: list[Engine]) -> None:
    home, other = pair
    await declare_queue(home, 1, Queue("task/t", 1))
    for one in pair:
        await fill(one, "t", 100)
    lease, turns = await register(other, "t"), Turns()
    claimed = await take(other, lease, turns, 1)
    assert await take(home, await register(home, "t"), Turns(), 1) == []
    await finish(other, lease, claimed)
    async with asyncio.timeout(20):
        while not await take(other, lease, turns, 1):
            await anyio.sleep(0.02)


async def test_two_stores_with_backlogs_share_a_limit(pair: list[Engine]) -> None:
    home = pair[0]
    await declare_queue(home, 1, Queue("task/t", 4))
    crew = Crew()
    for one, count in zip(pair, (20_000, 400), strict=True):
        await fill(one, "t", count)
        await register(one, "t")
    await asyncio.gather(*(crew.work(one, seed, {"0": 100, "1": 100}) for seed, one in enumerate(pair)))
    assert crew.most["all"] == 4
    assert max(crew.done.values()) < 3 * min(crew.done.values())


async def test_a_process_that_has_not_heard_of_a_store_claims_nothing_under_limits(
    settings: Settings, other_url: str
) -> None:
    home = await Engine.open(settings)
    late = await Engine.open(settings)
    assert late.refreshing is not None
    late.refreshing.cancel()
    try:
        await declare_queue(home, 1, Queue("task/t", 2))
        await fill(home, "t", 3)
        lease = await register(home, "t")
        other = await join_store(home, "s1", other_url)
        assert late.stores.others() == []
        assert await take(late, lease, Turns(), 10) == []
        await late.refresh_stores()
        await register(other, "t")
        assert len(await take(late, lease, Turns(), 10)) == 2
    finally:
        await late.close()
        await home.close()


@pytest.mark.one_store("that one store costs nothing")
async def test_with_one_store_a_claim_is_the_same_two_statements(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And plain runs cost one, however many stores there are."""
    sent = record_statements(monkeypatch)
    await declare_queue(engine, 1, Queue("task/t", 2))
    await fill(engine, "t", 3)
    await fill(engine, "plain", 3)
    lease, turns = await register(engine, "t", "plain"), Turns()
    sent.clear()
    assert len(await take(engine, lease, turns, 10)) == 2
    assert [sql.split()[0] for sql in sent] == ["WITH", "BEGIN;", "WITH", "WITH", "COMMIT;"]
    sent.clear()
    assert len(await take(engine, lease, Turns(), 1, "plain")) == 1
    assert len(sent) == 1


async def test_plain_runs_cost_the_same_with_many_stores(pair: list[Engine], monkeypatch: pytest.MonkeyPatch) -> None:
    sent = record_statements(monkeypatch)
    for one in pair:
        await fill(one, "plain", 3)
        lease = await register(one, "plain")
        sent.clear()
        claimed = await claims.claim_runs(one, lease, tasks=["plain"], limit=3, turns=Turns())
        assert isinstance(claimed, list)
        assert len(claimed) == 3
        assert len([sql for sql in sent if "pg_notify" not in sql and "headrace.stores" not in sql]) == 1


def record_statements(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What is sent to PostgreSQL from here on."""
    sent: list[str] = []
    for name in ("fetch", "execute"):
        original = getattr(asyncpg.Connection, name)

        async def recorded(self: Any, sql: str, *args: Any, original: Any = original, **options: Any) -> Any:
            sent.append(sql)
            return await original(self, sql, *args, **options)

        monkeypatch.setattr(asyncpg.Connection, name, recorded)
    return sent
