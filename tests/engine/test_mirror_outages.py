"""Waits across stores while one of them is frozen or dead: it holds up no other, and hears of everything when it is back."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator
from contextlib import suppress
from dataclasses import dataclass, replace

import pytest

from headrace.engine import tokens
from headrace.engine.deeds import TokenWait
from headrace.engine.engine import Engine
from headrace.engine.relay import relay_outbox, relaying
from headrace.settings import Settings
from headrace.store.store import DATABASE_ERRORS
from tests.engine.foreign import OUTPUT, Waiter, make_token
from tests.fleet import add_database, drop_database, join_store, make_template
from tests.invariants import fetch_sql
from tests.postgres_15 import OldPostgres, running_old_postgres

pytestmark = pytest.mark.anyio

PATIENCE = 4.0


@dataclass
class Trio:
    """Home, a store on the same server, and one on a server of its own, which a test may freeze or kill."""

    home: Engine
    near: Engine
    far: Engine
    server: OldPostgres


@pytest.fixture
async def trio(settings: Settings, postgres: str, template: str) -> AsyncGenerator[Trio]:
    near_url = await add_database(postgres, template)
    with running_old_postgres() as server:
        far_url = await add_database(server.url, await make_template(server.url))
        home = await Engine.open(replace(settings, store_patience=PATIENCE, lease=60.0))
        try:
            near, far = await join_store(home, "near", near_url), await join_store(home, "far", far_url)
            yield Trio(home, near, far, server)
        finally:
            server.thaw()
            await home.close()
            await drop_database(near_url)


async def wait_for(waiter: Waiter, status: str) -> None:
    async with asyncio.timeout(30):
        while True:
            try:
                if await waiter.status() == status:
                    return
            except DATABASE_ERRORS:
                await asyncio.sleep(0.2)  # its store has only just come back
            await asyncio.sleep(0.02)


async def wait_for_outbox(home: Engine, stores: list[str]) -> None:
    """Until these stores are all that mail waits for: what was delivered goes a moment after its effect is seen."""
    async with asyncio.timeout(30):
        while True:
            rows = await fetch_sql(home, "SELECT store FROM headrace.outbox")
            if [row["store"] for row in rows] == stores:
                return
            await asyncio.sleep(0.02)


async def test_a_store_that_is_frozen_or_dead_is_told_when_it_is_back_and_holds_up_no_other(trio: Trio) -> None:
    home, near, far, server = trio.home, trio.near, trio.far, trio.server
    tokens_of_home = [await make_token(home) for _ in range(2)]
    waiters: list[tuple[Waiter, Waiter]] = []
    for token_id in tokens_of_home:
        pair = (await Waiter.start(near), await Waiter.start(far))
        for waiter in pair:
            await waiter.write(TokenWait(token_id))
            await waiter.sleep()
        waiters.append(pair)
    async with relaying(home, 0.1, 3600):
        for away, token_id, (at_near, at_far) in zip(("frozen", "dead"), tokens_of_home, waiters, strict=True):
            if away == "frozen":
                server.freeze()
            else:
                server.kill()
            began = time.monotonic()
            await tokens.complete_token(home, 1, token_id, OUTPUT)
            await wait_for(at_near, "QUEUED")
            assert time.monotonic() - began < PATIENCE, "it waited for the other store"
            await wait_for_outbox(home, [far.key])
            if away == "frozen":
                with suppress(AssertionError):  # it does not run where a test failed after it was killed
                    server.thaw()
            else:
                server.start()
            await wait_for(at_far, "QUEUED")
            assert (await at_far.read()).value == OUTPUT
    assert await fetch_sql(home, "SELECT FROM headrace.outbox") == []


async def test_whoever_waits_for_what_is_in_a_store_that_is_away_tries_again_and_the_rest_goes_on(trio: Trio) -> None:
    home, far, server = trio.home, trio.far, trio.server
    elsewhere, own = await make_token(far), await make_token(home)
    waiter, other = await Waiter.start(home), await Waiter.start(home)
    server.freeze()
    with pytest.raises(TimeoutError):
        await waiter.write(TokenWait(elsewhere))
    await other.write(TokenWait(own))
    await other.sleep()
    await tokens.complete_token(home, 1, own, OUTPUT)
    assert await other.status() == "QUEUED"
    server.thaw()
    [point] = await waiter.write(TokenWait(elsewhere))
    assert point.pending
    await waiter.sleep()
    await tokens.complete_token(home, 1, elsewhere, OUTPUT)
    await relay_outbox(far)
    await wait_for(waiter, "QUEUED")
