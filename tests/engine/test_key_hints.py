"""A revoked key is refused at once in every process that hears of it, and within a second in one that hears nothing."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx2
import pytest

from headrace.engine import environments, keys
from headrace.engine.control_cache import ControlCache
from headrace.engine.engine import Engine
from headrace.settings import Settings
from headrace.store.statements import Record
from headrace.store.store import Store
from tests.invariants import fetch_sql
from tests.processes import ServerProcess

pytestmark = [
    pytest.mark.anyio,
    pytest.mark.one_store("keys are at home, and its hints are read there: no other store is asked"),
]

PATIENCE = 20.0


class WatchedStore(Store):
    """A store that notes its statements, and holds back the rows of one."""

    sent: list[str]
    held: str = ""
    read: asyncio.Event
    released: asyncio.Event

    async def fetch(self, name: str, *args: Any) -> list[Record]:
        self.sent.append(name)
        rows = await super().fetch(name, *args)
        if name == self.held:
            self.read.set()
            await self.released.wait()
        return rows


@asynccontextmanager
async def watching(engine: Engine) -> AsyncGenerator[tuple[Engine, WatchedStore]]:
    """The engine, which remembers for an hour from now on, on a store that is watched."""
    store = await WatchedStore.open(engine.settings)
    assert isinstance(store, WatchedStore)
    store.sent, store.read, store.released = [], asyncio.Event(), asyncio.Event()
    for name in ("keys", "strangers", "environments", "every"):
        setattr(engine.control, name, ControlCache[Any, Any](engine.control.epochs, seconds=3600))
    yield replace(engine, store=store), store
    await store.close()


@pytest.fixture
async def watched(engine: Engine) -> AsyncGenerator[tuple[Engine, WatchedStore]]:
    """A server's engine, which hears hints."""
    async with watching(engine) as pair:
        yield pair


@pytest.fixture
async def other(settings: Settings) -> AsyncGenerator[Engine]:
    """The engine of another process, as ``headrace keys`` has one: it hears nothing."""
    opened = await Engine.open(settings)
    yield opened
    await opened.close()


@pytest.fixture
async def deaf(other: Engine) -> AsyncGenerator[tuple[Engine, WatchedStore]]:
    """One that hears nothing."""
    async with watching(other) as pair:
        yield pair


async def wait_listening(engine: Engine) -> None:
    async with asyncio.timeout(PATIENCE):
        while not engine.notices.listening:
            await asyncio.sleep(0.01)


async def wait_refused(engine: Engine, secret: str) -> None:
    async with asyncio.timeout(PATIENCE):
        while await keys.find_key_environment(engine, secret):
            await asyncio.sleep(0.01)


async def test_a_revocation_in_another_process_ends_what_is_remembered(
    watched: tuple[Engine, WatchedStore], other: Engine
) -> None:
    engine, store = watched
    await wait_listening(engine)
    made, kept = await keys.create_key(other, "dev", "one"), await keys.create_key(other, "prod", "two")
    for secret in (made.secret, kept.secret):
        await wait_found(engine, secret)
    await keys.revoke_key(other, made.id)
    await wait_refused(engine, made.secret)
    store.sent.clear()
    assert await keys.find_key_environment(engine, kept.secret)  # of another environment: it is remembered still
    assert store.sent == []


async def wait_found(engine: Engine, secret: str) -> None:
    """Until it is remembered: hints of what was done before are all heard."""
    store = engine.store
    assert isinstance(store, WatchedStore)
    async with asyncio.timeout(PATIENCE):
        while True:
            store.sent.clear()
            assert await keys.find_key_environment(engine, secret)
            if not store.sent:
                return
            await asyncio.sleep(0.05)


async def test_what_is_read_while_it_is_revoked_is_not_remembered(watched: tuple[Engine, WatchedStore]) -> None:
    engine, store = watched
    made = await keys.create_key(engine, "dev", "one")
    store.held = "find_key"
    reading = asyncio.create_task(keys.find_key_environment(engine, made.secret))
    await store.read.wait()
    await keys.revoke_key(engine, made.id)
    store.released.set()
    assert await reading is not None  # it was good when it was read
    assert await keys.find_key_environment(engine, made.secret) is None


async def test_a_listener_that_was_cut_off_believes_nothing_it_knew(
    watched: tuple[Engine, WatchedStore], other: Engine
) -> None:
    """No hint comes of this revocation; but one may have come while nobody listened."""
    engine, _ = watched
    await wait_listening(engine)
    made = await keys.create_key(other, "dev", "one")
    await wait_found(engine, made.secret)
    await fetch_sql(other, "ALTER TABLE headrace.api_keys DISABLE TRIGGER hint_control")
    await fetch_sql(other, "UPDATE headrace.api_keys SET revoked_at = now() WHERE id = $1", made.id)
    assert await keys.find_key_environment(engine, made.secret)
    await fetch_sql(
        other,
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = current_database() AND query LIKE 'LISTEN%'",
    )
    await wait_refused(engine, made.secret)


@pytest.mark.parametrize(
    "change",
    [
        "UPDATE headrace.api_keys SET revoked_at = now() WHERE environment_id = 1",
        "DELETE FROM headrace.api_keys WHERE environment_id = 1",
        "UPDATE headrace.environments SET signing_secret = 'another' WHERE id = 1",
        "UPDATE headrace.api_keys SET environment_id = 2 WHERE environment_id = 1",
        "TRUNCATE headrace.api_keys",
    ],
)
async def test_a_change_by_hand_ends_what_is_remembered_too(
    watched: tuple[Engine, WatchedStore], other: Engine, change: str
) -> None:
    """Whatever made it: an older version, an administrator at a prompt."""
    engine, store = watched
    await wait_listening(engine)
    made, kept = await keys.create_key(other, "dev", "one"), await keys.create_key(other, "prod", "two")
    for secret in (made.secret, kept.secret):
        await wait_found(engine, secret)
    before = await keys.find_key_environment(engine, made.secret)
    await fetch_sql(other, change)
    async with asyncio.timeout(PATIENCE):
        while await keys.find_key_environment(engine, made.secret) == before:
            await asyncio.sleep(0.01)
    store.sent.clear()
    is_there = await keys.find_key_environment(engine, kept.secret) is not None
    assert (is_there, store.sent) == ((False, ["find_key"]) if "TRUNCATE" in change else (True, []))


async def test_a_key_that_was_refused_is_good_as_soon_as_it_is_made(deaf: tuple[Engine, WatchedStore]) -> None:
    engine, store = deaf
    secret = "a-good-long-secret"
    assert await keys.find_key_environment(engine, secret) is None
    store.sent.clear()
    assert await keys.find_key_environment(engine, secret) is None
    assert store.sent == []  # that it is none is remembered
    await keys.ensure_key(engine, "dev", secret)
    assert await keys.find_key_environment(engine, secret)


async def test_what_is_remembered_costs_no_statement(deaf: tuple[Engine, WatchedStore]) -> None:
    engine, store = deaf
    made = await keys.create_key(engine, "dev", "one")
    store.sent.clear()
    for _ in range(5):
        assert await keys.find_key_environment(engine, made.secret)
        assert await environments.find_environment(engine, "prod")
        assert await environments.find_environment(engine, "nowhere") is None
        assert len(await environments.list_environments(engine)) == 3
    assert sorted(store.sent) == ["find_environment", "find_environment", "find_key", "list_environments"]


async def test_servers_that_hear_nothing_refuse_a_revoked_key_within_a_second(
    engine: Engine, settings: Settings, tmp_path: Path
) -> None:
    """Behind a pooler there is no LISTEN. What is accepted was asked within a second of the commit, however slow all is."""
    made = await keys.create_key(engine, "dev", "one")
    headers = {"authorization": f"Bearer {made.secret}"}
    servers = [
        ServerProcess(settings.database_url, str(tmp_path / str(number)), {"HEADRACE_POOLER": "transaction"})
        for number in range(2)
    ]
    accepted: list[float] = []

    async def ask(client: httpx2.AsyncClient, server: ServerProcess) -> None:
        """Asks until it is refused."""
        while True:
            begun = time.monotonic()
            answer = await client.get(f"{server.url}/api/v1/queues", headers=headers)
            if answer.status_code == 401:
                return
            assert answer.status_code == 200
            accepted.append(begun)

    try:
        await asyncio.gather(*(asyncio.to_thread(server.start) for server in servers))
        async with httpx2.AsyncClient(timeout=PATIENCE) as client, asyncio.timeout(2 * PATIENCE):
            asking = [asyncio.create_task(ask(client, server)) for server in servers]
            while len(accepted) < 20:
                await asyncio.sleep(0.01)
            await keys.revoke_key(engine, made.id)
            revoked = time.monotonic()
            await asyncio.gather(*asking)
    finally:
        for server in servers:
            server.kill()
    assert max(accepted) < revoked + 1.0
