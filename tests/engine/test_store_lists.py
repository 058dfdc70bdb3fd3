"""Lists over several stores: each run once, in order, while runs are added in all of them; and what is missing is named."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Awaitable, Callable
from typing import Any
from uuid import UUID

import pytest

from headrace.engine import tokens
from headrace.engine.engine import Engine
from headrace.engine.listings import list_runs
from headrace.engine.outcomes import RunFilter
from headrace.engine.token_outcomes import TokenFilter
from headrace.ids import at_store, mint_run_id, mint_token_id, store_of
from headrace.protocol.tokens import CreateToken
from headrace.store import store as store_module
from headrace.store.store import DATABASE_ERRORS
from tests.engine.brittle import PATIENCE, BrittleFleet, brittle, brittle_server, brittle_urls, trigger_at
from tests.invariants import fetch_sql

__all__ = ["brittle", "brittle_server", "brittle_urls"]

pytestmark = pytest.mark.anyio


async def insert_runs(engine: Engine, ids: list[UUID]) -> None:
    """Runs with these ids, as they are minted here or there: nothing else about them is looked at."""
    lanes = await fetch_sql(engine, "SELECT min(id) AS id FROM headrace.lanes")
    lane = lanes[0]["id"]
    if lane is None:
        [made] = await fetch_sql(
            engine, "INSERT INTO headrace.lanes (environment_id, task, queue) VALUES (1, 't', 'q') RETURNING id"
        )
        lane = made["id"]
    await fetch_sql(
        engine,
        "INSERT INTO headrace.runs (environment_id, lane_id, id, status, ready_at, created_at, updated_at, options)"
        " SELECT 1, $1, u.id, 'QUEUED', now(), now(), now(), CASE WHEN get_byte(uuid_send(u.id), 14) % 3 = 0"
        """ THEN '{"machine": "micro"}'::jsonb ELSE '{}' END FROM unnest($2::uuid[]) AS u (id)""",
        lane,
        ids,
    )


async def leaf(
    engine: Engine,
    wanted: RunFilter,
    limit: int,
    look_at: int = 50_000,
    *,
    back: bool = False,
    between: Callable[[], Awaitable[None]] | None = None,
) -> list[UUID]:
    """All pages, in the order in which they come."""
    seen: list[UUID] = []
    cursor: UUID | None = UUID(int=0) if back else None
    while True:
        where: dict[str, Any] = {"before": cursor} if back else {"after": cursor}
        page = await list_runs(engine, 1, wanted, limit=limit, look_at=look_at, **where)
        assert page.missing == []
        found = [run.id for run in page.runs]
        assert len(found) <= limit
        assert found == sorted(found, reverse=True)
        if look_at >= 50_000 and (page.newer if back else page.older):
            assert len(found) == limit, "no page is short where there is more, and none is empty"
        seen += found[::-1] if back else found
        cursor = page.newer if back else page.older
        if between:
            await between()
        if cursor is None:
            return seen


async def test_pages_are_the_sorted_union_forward_and_back(fleet: list[Engine]) -> None:
    """The same 15 bytes in every store, neighbours, and stretches that one store has alone."""
    chance = random.Random(5)
    bodies = [mint_run_id() for _ in range(60)]
    ids: list[UUID] = []
    for engine, share in zip(fleet, (0.5, 0.5, 0.1), strict=True):
        own = [at_store(one, engine.key) for one in bodies if chance.random() < share]
        own += [at_store(UUID(int=bodies[-1].int + (number << 8)), engine.key) for number in range(1, 9)]
        await insert_runs(engine, own)
        ids += own
    expected = sorted(ids, reverse=True)
    for limit in (1, 4, 100):
        for asked in fleet:  # whichever engine is asked
            assert await leaf(asked, RunFilter(), limit) == expected
        assert await leaf(fleet[0], RunFilter(), limit, back=True) == expected[::-1]
    rare = [one for one in expected if one.bytes[14] % 3 == 0]
    for limit, look_at in ((3, 5), (100, 4), (1, 1)):
        assert await leaf(fleet[0], RunFilter(machines=["micro"]), limit, look_at) == rare
        assert await leaf(fleet[0], RunFilter(machines=["micro"]), limit, look_at, back=True) == rare[::-1]


async def test_there_is_more_also_where_one_store_has_it_all(fleet: list[Engine]) -> None:
    ids = sorted((mint_run_id(fleet[2].key) for _ in range(5)), reverse=True)
    await insert_runs(fleet[2], ids)
    page = await list_runs(fleet[0], 1, RunFilter(), limit=4)
    assert ([run.id for run in page.runs], page.older, page.newer) == (ids[:4], ids[3], None)
    page = await list_runs(fleet[0], 1, RunFilter(), limit=4, after=page.older)
    assert ([run.id for run in page.runs], page.older, page.newer) == (ids[4:], None, ids[4])
    page = await list_runs(fleet[0], 1, RunFilter(), limit=4, before=ids[4])
    assert ([run.id for run in page.runs], page.older, page.newer) == (ids[:4], ids[3], None)
    page = await list_runs(fleet[0], 1, RunFilter(), limit=5)
    assert ([run.id for run in page.runs], page.older) == (ids, None)


@pytest.mark.parametrize("back", [False, True])
async def test_each_run_comes_once_while_others_are_added_in_all_stores(fleet: list[Engine], back: bool) -> None:
    there: set[UUID] = set()
    for _ in range(25):
        for engine in fleet:
            there.add((await trigger_at(engine)).run_id)
    chance = random.Random(11)
    pages = 0

    async def add() -> None:
        """New ones, and for some time some whose ids lie anywhere among those that are there."""
        nonlocal pages
        pages += 1
        if pages < 30:
            for engine in fleet:
                near = chance.choice(sorted(there))
                await insert_runs(engine, [at_store(UUID(int=near.int + (pages << 9)), engine.key)])
                await trigger_at(engine)

    seen = await leaf(fleet[0], RunFilter(), 4, back=back, between=add)
    assert pages > 15
    assert len(seen) == len(set(seen)), "each once"
    assert seen == sorted(seen, reverse=not back), "in order"
    assert there <= set(seen), "all that were there"


async def test_a_list_that_names_a_batch_asks_its_store_alone(
    fleet: list[Engine], monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []
    names = {id(engine.store): engine.name for engine in fleet}
    run_plan = store_module.Store.run_plan

    async def noted(self: Any, plan: Any) -> Any:
        asked.append(names[id(self)])
        return await run_plan(self, plan)

    monkeypatch.setattr(store_module.Store, "run_plan", noted)
    await list_runs(fleet[0], 1, RunFilter(batch_id=mint_run_id(fleet[1].key)))
    assert asked == ["s1"]
    asked.clear()
    await list_runs(fleet[0], 1, RunFilter())
    assert sorted(asked) == ["home", "s1", "s2"]


@pytest.mark.one_store("that one store costs nothing")
async def test_with_one_store_a_list_is_one_transaction_of_today_s_statement(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    sent: list[str] = []
    run_plan_on = store_module.run_plan_on

    async def noted(connection: Any, plan: Any) -> Any:
        class Noting:
            async def fetch(self, sql: str, *args: Any) -> Any:
                sent.append(sql)
                return await connection.fetch(sql, *args)

        return await run_plan_on(Noting(), plan)

    monkeypatch.setattr(store_module, "run_plan_on", noted)
    await list_runs(engine, 1, RunFilter())
    assert len(sent) == 1


async def test_tokens_of_all_stores_are_one_list(fleet: list[Engine]) -> None:
    made: list[UUID] = []
    for number in range(9):
        token_id = mint_token_id(fleet[number % 3].key)
        await tokens.create_token(fleet[0], 1, token_id, CreateToken(tags=["x"] if number % 2 else None))
        made.append(token_id)
    expected = sorted(made, reverse=True)
    seen: list[UUID] = []
    cursor = None
    while True:
        page = await tokens.list_tokens(fleet[0], 1, TokenFilter(), after=cursor, limit=2)
        seen += [token.id for token in page.tokens]
        if not page.has_older:
            break
        assert len(page.tokens) == 2
        cursor = seen[-1]
    assert seen == expected
    page = await tokens.list_tokens(fleet[0], 1, TokenFilter(), before=expected[-1], limit=3)
    assert ([token.id for token in page.tokens], page.has_newer) == (expected[-4:-1], True)
    page = await tokens.list_tokens(fleet[0], 1, TokenFilter(token_id=made[1]))
    assert [token.id for token in page.tokens] == [made[1]]


@pytest.mark.parametrize("how", ["frozen", "killed"])
async def test_a_store_that_is_away_is_left_out_and_named(brittle: BrittleFleet, how: str) -> None:
    home, there, away = brittle.engines
    ids = [(await trigger_at(one)).run_id for one in (home, there, away) * 4]
    mine = sorted((one for one in ids if store_of(one) != away.key), reverse=True)
    brittle.server.freeze() if how == "frozen" else brittle.server.kill()
    began = time.monotonic()
    page = await list_runs(home, 1, RunFilter(), limit=3)
    assert time.monotonic() - began < 10 * PATIENCE
    assert ([run.id for run in page.runs], page.missing) == (mine[:3], ["s2"])
    assert page.older == mine[2]
    told = await tokens.list_tokens(home, 1, TokenFilter())
    assert (told.tokens, told.missing) == ([], ["s2"])
    began = time.monotonic()
    for _ in range(8):  # more than its pool has connections
        assert (await list_runs(home, 1, RunFilter(), limit=1)).missing == ["s2"]
    assert time.monotonic() - began < 4 * PATIENCE, "not every question waits for it"
    with pytest.raises(DATABASE_ERRORS):
        async with asyncio.timeout(PATIENCE):
            await list_runs(home, 1, RunFilter(batch_id=mint_run_id(away.key)))
    brittle.server.thaw() if how == "frozen" else brittle.server.start()  # here: it dies with the thread that starts it
    async with asyncio.timeout(20):
        while (await list_runs(home, 1, RunFilter())).missing:
            await asyncio.sleep(0.05)
    # it goes on behind the page: what of s2 lay within is what the warning said, and nothing else is missing or comes twice
    rest = await list_runs(home, 1, RunFilter(), after=page.older, limit=100)
    assert [run.id for run in rest.runs] == sorted((one for one in ids if one < mine[2]), reverse=True)
    assert rest.missing == []


async def test_where_no_store_answers_there_is_no_list(brittle: BrittleFleet) -> None:
    home, there, away = brittle.engines
    for engine in (there, away, home):
        await engine.store.close()
    with pytest.raises(DATABASE_ERRORS):
        await list_runs(home, 1, RunFilter())
