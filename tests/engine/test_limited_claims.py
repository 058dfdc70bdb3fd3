"""Claims from lanes with keys and limits: whose turn it is, and how many may go."""

from __future__ import annotations

from typing import Any
from uuid import UUID

import asyncpg
import pytest

from headrace.engine import claims, runs, workers
from headrace.engine.control_copies import spread_control
from headrace.engine.engine import Engine
from headrace.engine.outcomes import ClaimedRun, Packet, RunCreated, WorkerLease
from headrace.engine.turns import Turns
from headrace.protocol.options import RunOptions
from tests.engine.held import held_at, holding
from tests.engine.helpers import finish, register
from tests.invariants import assert_invariants, fetch_sql

pytestmark = pytest.mark.anyio
ORDERED = pytest.mark.at_home("roots with an order key are at home")


async def test_keys_take_turns_and_each_has_the_limit_of_its_queue(engine: Engine) -> None:
    lease = await register(engine, "t")
    for key in "abc":
        for _ in range(3):
            await trigger(engine, concurrency_key=key)
    await trigger(engine)
    await limit_queue(engine, declared_limit=1)
    turns = Turns()
    first = await take(engine, lease, 2, turns)
    assert [run.options.get("concurrencyKey") for run in first] == ["a", None]
    assert [run.options["concurrencyKey"] for run in await take(engine, lease, 10, turns)] == ["b", "c"]
    assert await take(engine, lease, 10, turns) == []
    await finish(engine, lease, first)
    assert [run.options["concurrencyKey"] for run in await take(engine, lease, 10, turns)] == ["a"]
    await assert_invariants(engine)


@ORDERED
async def test_runs_of_an_order_key_go_one_at_a_time_in_the_order_in_which_they_came(engine: Engine) -> None:
    lease = await register(engine, "t")
    ids = [await trigger(engine, order_key=key) for key in "aabb"]
    turns = Turns()
    for expected in ([ids[0], ids[2]], [ids[1], ids[3]]):
        taken = await take(engine, lease, 10, turns)
        assert [run.id for run in taken] == expected
        assert await take(engine, lease, 10, turns) == []
        await finish(engine, lease, taken)


async def test_a_claim_goes_round_all_keys_once_where_all_are_held_up(engine: Engine, monkeypatch: Any) -> None:
    """A walk is short, so that a claim is cheap; it goes on while it finds nothing, and not for ever."""
    monkeypatch.setattr("headrace.engine.turns._SHORTEST_WALK", 3)
    lease = await register(engine, "t")
    for number in range(20):
        await trigger(engine, concurrency_key=f"k{number:02}")
    await limit_queue(engine, declared_limit=1)
    turns = Turns()
    assert len(await take(engine, lease, 19, turns)) == 19
    for number in range(19):
        await trigger(engine, concurrency_key=f"k{number:02}")
    [last] = await take(engine, lease, 1, turns)
    assert last.options["concurrencyKey"] == "k19"
    await trigger(engine, concurrency_key="k19")
    assert await take(engine, lease, 1, turns) == []


@pytest.mark.one_store(
    "several are locked by other statements: who stands still with those is in test_shared_limits.py"
)
async def test_a_worker_that_stands_still_in_the_middle_of_a_claim_does_not_hold_up_the_others(engine: Engine) -> None:
    """SIGSTOP, a laptop's lid: its session ends with its lease, and the locks of limits with that."""
    lease = await register(engine, "t")
    await limit_queue(engine, declared_limit=2)
    await trigger(engine)
    async with holding(engine, "after:lock_limits") as (own, hold):
        frozen = await held_at(hold, claims.claim_runs(own, lease, tasks=["t"], limit=1))
        assert len(await take(engine, await register(engine, "t"), 1, Turns())) == 1
        hold.released.set()
        with pytest.raises((asyncpg.PostgresError, asyncpg.InterfaceError)):
            await frozen
    await assert_invariants(engine)


async def trigger(engine: Engine, **options: Any) -> UUID:
    made = await runs.trigger_run(engine, 1, "t", Packet(b"1"), RunOptions(**options))
    assert isinstance(made, RunCreated)
    return made.run_id


async def take(engine: Engine, lease: WorkerLease, limit: int, turns: Turns) -> list[ClaimedRun]:
    taken = await claims.claim_runs(engine, lease, tasks=["t"], limit=limit, turns=turns)
    assert isinstance(taken, list)
    return taken


async def limit_queue(engine: Engine, **columns: Any) -> None:
    names = ", ".join(columns)
    places = ", ".join(f"${number}" for number in range(1, len(columns) + 1))
    await fetch_sql(
        engine.home,
        f"INSERT INTO headrace.queues (environment_id, name, created_at, updated_at, {names})"
        f" VALUES (1, 'task/t', now(), now(), {places})",
        *columns.values(),
    )
    await spread_control(engine)


@ORDERED
async def test_runs_of_an_order_key_that_one_call_may_take_are_claimed_together(engine: Engine) -> None:
    lease = await workers.register_worker(
        engine, "dev", name="test", tasks=[workers.TaskRegistration("t", "task/t", 3, coalesces=3)]
    )
    ids = [await trigger(engine, order_key=key) for key in "aaaabb"]
    turns = Turns()
    first = await take(engine, lease, 10, turns)
    assert {run.id for run in first} == {*ids[:3], *ids[4:]}
    assert await take(engine, lease, 10, turns) == []
    await finish(engine, lease, first[1:])
    assert await take(engine, lease, 10, turns) == [], "one of the call is under way still"
    await finish(engine, lease, first[:1])
    assert [run.id for run in await take(engine, lease, 10, turns)] == [ids[3]]


@ORDERED
async def test_a_run_that_somebody_holds_keeps_those_behind_it_back(engine: Engine) -> None:
    """Else the second of a key would go while the first one's tags are being written."""
    lease = await workers.register_worker(
        engine, "dev", name="test", tasks=[workers.TaskRegistration("t", "task/t", 3, coalesces=3)]
    )
    ids = [await trigger(engine, order_key="a") for _ in range(3)]
    async with engine.store.connect() as connection, connection.transaction():
        await connection.execute("SELECT FROM headrace.runs WHERE id = $1 FOR UPDATE", ids[0])
        assert await take(engine, lease, 10, Turns()) == []
    assert len(await take(engine, lease, 10, Turns())) == 3
