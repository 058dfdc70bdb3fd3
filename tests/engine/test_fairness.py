"""Fair turns: keys of a queue, and lanes, get equal shares, whatever the others have in store."""

from __future__ import annotations

from collections import Counter

import pytest

from headrace.engine.engine import Engine
from headrace.engine.outcomes import ClaimedRun
from headrace.engine.queues import declare_queue, limit_environment
from headrace.engine.turns import Turns
from headrace.queues import Queue
from tests.engine.backlogs import fill, take
from tests.engine.helpers import finish, register
from tests.invariants import fetch_sql

pytestmark = pytest.mark.anyio

WALK = Turns().find_walk(1)


async def keys_of(engine: Engine, runs: list[ClaimedRun]) -> Counter[str]:
    rows = await fetch_sql(
        engine, "SELECT concurrency_key AS key FROM headrace.runs WHERE id = ANY($1)", [run.id for run in runs]
    )
    return Counter(row["key"] for row in rows)


UNLIMITED = pytest.mark.one_store("a claim without limits is of its own store: it asks no other one")


@pytest.mark.parametrize(
    ("limits", "size"), [pytest.param(None, 397, marks=UNLIMITED), (Queue("task/t", key_limit=20), 140)]
)
async def test_each_key_gets_its_share_of_10_000_runs(engine: Engine, limits: Queue | None, size: int) -> None:
    """Seven keys with very different backlogs, two workers, claims of many sizes."""
    backlogs = {"a": 30_000, "b": 1_800, "c": 3_000, "d": 1_700, "e": 1_600, "f": 9_000, "g": 2_000}
    for key, count in backlogs.items():
        await fill(engine, "t", count, key=f"'{key}'")
    if limits:
        await declare_queue(engine, 1, limits)
    workers = [(await register(engine, "t"), Turns()) for _ in range(2)]
    got: Counter[str] = Counter()
    claims = 0
    while got.total() < 10_000:
        lease, turns = workers[claims % 2]
        claimed = await take(engine, lease, turns, 1 + (claims * 37) % size)
        got += await keys_of(engine, claimed)
        await finish(engine, lease, claimed)
        claims += 1
    due = got.total() / len(backlogs)
    assert {key: count for key, count in got.items() if not 0.9 * due <= count <= 1.1 * due} == {}
    assert got.keys() == backlogs.keys()


@UNLIMITED
@pytest.mark.parametrize("size", [1, 10])
async def test_a_key_with_100_000_runs_delays_another_by_a_turn(engine: Engine, size: int) -> None:
    """Whichever of the two comes first by its name: the one with a single run goes in the next claim or the one after."""
    await fill(engine, "t", 100_000, key="'m'")
    lease, turns = await register(engine, "t"), Turns()
    for late in ("a", "z", "m2"):
        for _ in range(3):
            await take(engine, lease, turns, size)
        await fill(engine, "t", 1, key=f"'{late}'")
        seen = await keys_of(engine, await take(engine, lease, turns, size))
        if size == 1:
            seen += await keys_of(engine, await take(engine, lease, turns, size))
        assert seen[late] == 1, (late, seen)


@UNLIMITED
async def test_one_run_among_thousands_of_keys_waits_for_one_round(engine: Engine) -> None:
    """5,000 keys with ten runs each, and then one with a single run: it goes before any key has had two more turns."""
    await fill(engine, "t", 50_000, key="'k' || n % 5000")
    lease, turns = await register(engine, "t"), Turns()
    before = await take(engine, lease, turns, 500)
    await fill(engine, "t", 1, key="'k25'  || 'x'")
    got: Counter[str] = Counter()
    while got["k25x"] == 0:
        claimed = await take(engine, lease, turns, 500)
        got += await keys_of(engine, claimed)
        assert max(got.values()) <= 2, got.most_common(3)
    assert got.total() <= 5_000 + 500
    assert len(before) == 500


async def test_keys_at_their_limit_are_passed_by(engine: Engine) -> None:
    """300 keys at their limit stand before the one that is free: one claim still finds it."""
    await declare_queue(engine, 1, Queue("task/t", key_limit=1))
    await fill(engine, "t", 3 * 300, key="'k' || lpad((n % 300)::text, 4, '0')")
    lease, turns = await register(engine, "t"), Turns()
    held = await take(engine, lease, turns, 300)
    assert set((await keys_of(engine, held)).values()) == {1}
    assert len(held) == 300 > WALK
    assert await take(engine, lease, turns, 1) == []
    await fill(engine, "t", 1, key="'z'")
    for other in (turns, Turns()):  # also of a worker that starts with the first key
        claimed = await take(engine, lease, other, 1)
        assert await keys_of(engine, claimed) == {"z": 1}
        await finish(engine, lease, claimed)
        await fill(engine, "t", 1, key="'z'")


async def test_a_claim_that_finds_nothing_is_bounded_and_the_next_goes_on_with_it(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """150 keys at their limit: five keys a claim are looked at, and after each has been looked at once the worker may rest."""
    monkeypatch.setattr("headrace.engine.turns._SHORTEST_WALK", 3)
    monkeypatch.setattr("headrace.engine.turns._MOST_KEYS", 5)
    monkeypatch.setattr("headrace.engine.turns._MOST_WALKS", 2)
    await declare_queue(engine, 1, Queue("task/t", key_limit=1))
    await fill(engine, "t", 2 * 150, key="'k' || lpad((n % 150)::text, 4, '0')")
    lease, turns = await register(engine, "t"), Turns()
    held = await take(engine, lease, turns, 150)
    assert len(held) == 150
    for _ in range(2):
        rounds = 0
        while not await take(engine, lease, turns, 1) and turns.wake_in == 0.0:
            rounds += 1
        assert 150 / 8 - 2 <= rounds <= 150 / 8 + 2
    await fill(engine, "t", 1, key="'k0149x'")
    claimed = await take(engine, lease, turns, 1)
    while not claimed:
        assert turns.wake_in == 0.0
        claimed = await take(engine, lease, turns, 1)
    assert await keys_of(engine, claimed) == {"k0149x": 1}


async def test_lanes_share_alike(engine: Engine) -> None:
    """Plain lanes, limited ones and keyed ones: none starves another, and unlimited ones are not left aside either."""
    await fill(engine, "plain", 20_000)
    await fill(engine, "limited", 20_000)
    await fill(engine, "keyed", 20_000, key="'k' || n % 3")
    await declare_queue(engine, 1, Queue("task/limited", concurrency_limit=1_000))
    lease, turns = await register(engine, "plain", "limited", "keyed"), Turns()
    got: Counter[str] = Counter()
    for _ in range(60):
        claimed = await take(engine, lease, turns, 50, "plain", "limited", "keyed")
        got.update(run.task for run in claimed)
        await finish(engine, lease, claimed)
    assert got.total() == 3_000
    # those with limits or keys and the others take turns; within these, lanes share
    assert got["plain"] == 1_500
    assert got["limited"] == got["keyed"] == 750


async def test_queues_share_what_the_environment_allows(engine: Engine) -> None:
    await limit_environment(engine, 1, 10)
    for task in ("a", "b", "c"):
        await fill(engine, task, 5_000 if task == "a" else 40)
    lease, turns = await register(engine, "a", "b", "c"), Turns()
    got: Counter[str] = Counter()
    for _ in range(9):
        claimed = await take(engine, lease, turns, 100, "a", "b", "c")
        assert len(claimed) == 10
        got.update(run.task for run in claimed)
        await finish(engine, lease, claimed)
    assert all(count >= 27 for count in got.values()), got
