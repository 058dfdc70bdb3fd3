"""A store is away: what it owns is not to be had, which is said with its name; all else is."""

from __future__ import annotations

import asyncio
import json
import os
import time
from collections.abc import Generator
from dataclasses import replace

import httpx2
import pytest
from tests.e2e.commands import run_headrace
from tests.engine.brittle import PATIENCE, BrittleFleet, brittle, brittle_server, brittle_urls, trigger_at
from tests.server_fixture import RunningServer, running_server

from headrace import Client
from headrace.engine.outcomes import RunCreated
from headrace.ids import format_batch_id, format_run_id, format_token_id, mint_batch_id, mint_run_id, mint_token_id

__all__ = ["brittle", "brittle_server", "brittle_urls"]

pytestmark = pytest.mark.anyio


@pytest.fixture
def server(brittle: BrittleFleet) -> Generator[RunningServer]:
    """A server that knows three stores."""
    with running_server(replace(brittle.home.settings, store_patience=PATIENCE)) as running:
        yield running


async def trigger_everywhere(brittle: BrittleFleet) -> list[RunCreated]:
    return [await trigger_at(engine) for engine in brittle.engines]


@pytest.mark.parametrize("how", ["frozen", "killed"])
async def test_what_other_stores_own_is_to_be_had(brittle: BrittleFleet, server: RunningServer, how: str) -> None:
    home, there, away = await trigger_everywhere(brittle)
    headers = {"authorization": f"Bearer {server.key}"}
    async with httpx2.AsyncClient(base_url=server.url, headers=headers, timeout=30) as client:
        answer = await client.get("/api/v1/runs")
        assert (answer.status_code, len(answer.json()["data"])) == (200, 3)
        assert "warnings" not in answer.json()
        brittle.server.freeze() if how == "frozen" else brittle.server.kill()
        missing = [
            f"/api/v3/runs/{format_run_id(away.run_id)}",
            f"/api/v1/runs/{format_run_id(away.run_id)}/result",
            f"/api/v2/batches/{format_batch_id(mint_batch_id('2'))}",
            f"/api/v1/waitpoints/tokens/{format_token_id(mint_token_id('2'))}",
        ]
        for path in missing:
            began = time.monotonic()
            answer = await client.get(path)
            assert answer.status_code == 503, (path, answer.text)
            assert answer.json() == {"error": "The store s2 is not available: what it owns can't be reached now"}
            assert answer.headers["retry-after"] == "1"
            assert answer.headers["x-should-retry"] == "true"
            assert time.monotonic() - began < 10 * PATIENCE
        for run in (home, there):
            answer = await client.get(f"/api/v3/runs/{format_run_id(run.run_id)}")
            assert (answer.status_code, answer.json()["id"]) == (200, format_run_id(run.run_id))
        answer = await client.get(f"/api/v3/runs/{format_run_id(mint_run_id('x'))}")
        assert answer.status_code == 404, "no store has this key"
        for path, what, ids in (
            ("/api/v1/runs", "runs", [format_run_id(one.run_id) for one in (there, home)]),
            ("/api/v1/waitpoints/tokens", "tokens", []),
        ):
            answer = await client.get(path)
            assert answer.status_code == 200
            assert [one["id"] for one in answer.json()["data"]] == ids
            assert answer.json()["warnings"] == [f"store s2 does not answer: its {what} are missing"]
        asked = await client.post("/api/v1/bulk-actions", json={"action": "cancel", "filter": {"taskIdentifier": "t"}})
        assert asked.status_code == 202
        action = (await client.get(f"/api/v1/bulk-actions/{asked.json()['id']}")).json()
        assert action["status"] == "PENDING"
        assert action["warnings"] == ["store s2 does not answer: its part is as it was seen last"]


async def test_clients_and_commands_say_what_is_missing(brittle: BrittleFleet, server: RunningServer) -> None:
    home, there, _ = [format_run_id(one.run_id) for one in await trigger_everywhere(brittle)]
    brittle.server.kill()
    said = "store s2 does not answer: its runs are missing"

    def look() -> None:
        with Client(url=server.url, api_key=server.key) as client:
            assert client.list_runs()["warnings"] == [said]
            with pytest.warns(UserWarning, match=said):
                assert [run["id"] for run in client.iterate_runs()] == [there, home]

    await asyncio.to_thread(look)
    env = {**os.environ, "HEADRACE_API_URL": server.url, "HEADRACE_API_KEY": server.key}
    shown = await asyncio.to_thread(run_headrace, "run", "list", env=env)
    assert shown.stderr.strip() == f"warning: {said}"
    assert said not in shown.stdout
    listed = await asyncio.to_thread(run_headrace, "run", "list", "--json", env=env)
    page = json.loads(listed.stdout)
    assert ([run["id"] for run in page["data"]], page["warnings"]) == ([there, home], [said])
