"""A PostgreSQL that answers and gives no connection is away, whatever its reason: 503 and "try again", no error of ours."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Generator
from dataclasses import dataclass, replace
from urllib.parse import urlsplit

import asyncpg
import httpx2
import pytest
from tests.conftest import execute_sql
from tests.engine.brittle import trigger_at
from tests.fleet import with_name
from tests.server_fixture import RunningServer, running_server

from headrace.engine.engine import Engine
from headrace.ids import format_run_id
from headrace.settings import Settings

pytestmark = pytest.mark.anyio


@dataclass
class Gate:
    """A database that lets in ``user`` until it is told not to."""

    url: str
    user: str

    @property
    def name(self) -> str:
        return self.url.partition("?")[0].rsplit("/", 1)[1]

    async def close(self, how: str) -> None:
        """Lets nobody in any more, and throws out who is there."""
        match how:
            case "53300":
                await self.say(f"ALTER ROLE {self.user} CONNECTION LIMIT 0")
            case "28000":
                await self.say(f"ALTER ROLE {self.user} NOLOGIN")
            case _:
                await self.say(f"ALTER DATABASE {self.name} ALLOW_CONNECTIONS false")
        await self.throw_out()
        if how == "3D000":
            await self.say(f"ALTER DATABASE {self.name} RENAME TO {self.name}_gone")

    async def open(self, how: str) -> None:
        if how == "3D000":
            await self.say(f"ALTER DATABASE {self.name}_gone RENAME TO {self.name}")
        if self.user:
            await self.say(f"ALTER ROLE {self.user} LOGIN CONNECTION LIMIT -1")
        await self.say(f"ALTER DATABASE {self.name} ALLOW_CONNECTIONS true")

    async def throw_out(self) -> None:
        """Ends all connections, and waits until they are over."""
        await self.say(f"SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity WHERE datname = '{self.name}'")

    async def say(self, sql: str) -> None:
        await asyncio.to_thread(execute_sql, with_name(self.url, "postgres"), sql)


def as_user(url: str, user: str) -> str:
    """The URL with another user, who needs no password here."""
    parts = urlsplit(url)
    return parts._replace(netloc=f"{user}@{parts.netloc.rpartition('@')[2]}").geturl()


@pytest.fixture
def gate(settings: Settings) -> Generator[Gate]:
    """That of home. Its user is no superuser, whom no limit would hold up."""
    user = f"app_{uuid.uuid4().hex[:8]}"
    url = settings.database_url
    execute_sql(url, f"CREATE ROLE {user} LOGIN IN ROLE {execute_sql(url, 'SELECT current_user AS me')[0]['me']}")
    yield Gate(url, user)
    execute_sql(url, f"DROP ROLE {user}")


@pytest.fixture
def gated(settings: Settings, gate: Gate) -> Generator[RunningServer]:
    """A server that comes to home through the gate."""
    with running_server(replace(settings, database_url=as_user(settings.database_url, gate.user))) as running:
        yield running


REFUSALS = {
    "55000": asyncpg.ObjectNotInPrerequisiteStateError,
    "53300": asyncpg.TooManyConnectionsError,
    "28000": asyncpg.InvalidAuthorizationSpecificationError,
    "3D000": asyncpg.InvalidCatalogNameError,
}


@pytest.mark.parametrize("how", REFUSALS)
async def test_a_server_whose_database_lets_nobody_in_is_not_ready(gated: RunningServer, gate: Gate, how: str) -> None:
    headers = {"authorization": f"Bearer {gated.key}"}
    async with httpx2.AsyncClient(base_url=gated.url, headers=headers, timeout=30) as client:
        assert (await client.get("/readyz")).status_code == 200
        await gate.close(how)
        try:
            with pytest.raises(REFUSALS[how]):
                await asyncpg.connect(as_user(gate.url, gate.user))
            for path in ("/readyz", "/api/v1/runs", "/metrics"):
                answer = await client.get(path)
                assert (answer.status_code, answer.headers.get("retry-after")) == (503, "1"), (path, answer.text)
                assert answer.json() == {"error": "The database is not available"}
            made = await client.post("/api/v1/tasks/t/trigger", json={"payload": 1})
            assert (made.status_code, made.headers["x-should-retry"]) == (503, "true")
        finally:
            await gate.open(how)
        await comes_back(client)
        assert (await client.get("/readyz")).status_code == 200


async def test_a_database_that_became_a_standby_asks_to_try_again(gated: RunningServer, gate: Gate) -> None:
    headers = {"authorization": f"Bearer {gated.key}"}
    async with httpx2.AsyncClient(base_url=gated.url, headers=headers, timeout=30) as client:
        await gate.say(f"ALTER DATABASE {gate.name} SET default_transaction_read_only = on")
        await gate.throw_out()
        for _ in range(10):  # connections that were thrown out, then new ones
            made = await client.post("/api/v1/tasks/t/trigger", json={"payload": 1})
            assert (made.status_code, made.headers.get("x-should-retry")) == (503, "true"), made.text
        assert (await client.get("/api/v1/runs")).status_code == 200
        await gate.say(f"ALTER DATABASE {gate.name} RESET default_transaction_read_only")
        await gate.throw_out()
        await comes_back(client)


async def comes_back(client: httpx2.AsyncClient) -> None:
    """Triggers until it is done; meanwhile 503, as long as a connection is found that was thrown out."""
    async with asyncio.timeout(30):
        while (made := await client.post("/api/v1/tasks/t/trigger", json={"payload": 1})).status_code == 503:
            pass
    assert made.status_code == 200


async def test_a_store_that_lets_nobody_in_is_nothing_to_the_others(settings: Settings, fleet: list[Engine]) -> None:
    home, there, away = [await trigger_at(one) for one in fleet]
    gate = Gate(fleet[2].settings.database_url, "")
    with running_server(settings) as server:
        headers = {"authorization": f"Bearer {server.key}"}
        async with httpx2.AsyncClient(base_url=server.url, headers=headers, timeout=30) as client:
            await gate.close("55000")
            try:
                answer = await client.get(f"/api/v3/runs/{format_run_id(away.run_id)}")
                assert answer.status_code == 503, answer.text
                assert answer.json() == {"error": "The store s2 is not available: what it owns can't be reached now"}
                for run in (home, there):
                    answer = await client.get(f"/api/v3/runs/{format_run_id(run.run_id)}")
                    assert answer.status_code == 200
                answer = await client.get("/api/v1/runs")
                assert [one["id"] for one in answer.json()["data"]] == [
                    format_run_id(one.run_id) for one in (there, home)
                ]
                assert (await client.get("/readyz")).status_code == 200
                assert 'headrace_store_up{store="s2"} 0' in (await client.get("/metrics")).text
            finally:
                await gate.open("55000")
            assert (await client.get(f"/api/v3/runs/{format_run_id(away.run_id)}")).status_code == 200
