"""Cancel: ``POST /api/v2/runs/{id}/cancel``, and the clients and the command on it."""

from __future__ import annotations

import json
from typing import Any

import httpx2
import pytest
from tests.api.support import create, execute, finish_all, lines, stream
from tests.api.test_runs import NOBODY, trigger
from tests.e2e.commands import clean_environment, run_headrace
from tests.server_fixture import RunningServer

from headrace import AsyncClient, RunFailedError
from headrace.api import tokens
from headrace.engine import keys
from headrace.engine.engine import Engine
from headrace.engine.environments import Environment

pytestmark = pytest.mark.anyio


async def show(client: httpx2.AsyncClient, run_id: str) -> dict[str, Any]:
    return (await client.get(f"/api/v3/runs/{run_id}")).json()


async def test_a_queued_run_is_canceled_at_once_and_once(client: httpx2.AsyncClient, engine: Engine) -> None:
    run_id = await trigger(client)
    for _ in range(2):
        answer = await client.post(f"/api/v2/runs/{run_id}/cancel")
        assert (answer.status_code, answer.json()) == (200, {"id": run_id})
    run = await show(client, run_id)
    assert (run["status"], run["isCancelled"], run["isCompleted"]) == ("CANCELED", True, True)
    assert run["error"]["message"] == "The run was canceled."
    await finish_all(engine)  # a worker finds nothing
    assert (await show(client, run_id))["status"] == "CANCELED"


async def test_a_run_that_has_ended_stays_as_it_is(client: httpx2.AsyncClient, engine: Engine) -> None:
    run_id = await trigger(client)
    await finish_all(engine)
    assert (await client.post(f"/api/v2/runs/{run_id}/cancel", json={})).status_code == 200
    assert (await show(client, run_id))["status"] == "COMPLETED"


@pytest.mark.parametrize("run_id", [NOBODY, "run_x", "batch_06f3q1c2k8g5m0t7n400000002"])
async def test_no_such_run(client: httpx2.AsyncClient, run_id: str) -> None:
    answer = await client.post(f"/api/v2/runs/{run_id}/cancel")
    assert (answer.status_code, answer.json()) == (404, {"error": "Run not found"})


async def test_a_run_of_another_environment_is_none(client: httpx2.AsyncClient, engine: Engine) -> None:
    run_id = await trigger(client)
    other = await keys.create_key(engine, "prod", "other")
    answer = await client.post(f"/api/v2/runs/{run_id}/cancel", headers={"authorization": f"Bearer {other.secret}"})
    assert answer.status_code == 404
    assert (await show(client, run_id))["status"] == "QUEUED"


async def test_a_public_token_needs_to_write_that_run(client: httpx2.AsyncClient, environment: Environment) -> None:
    run_id = await trigger(client)
    for scope, status in (("read:runs", 403), (f"write:runs:{NOBODY}", 403), (f"write:runs:{run_id}", 200)):
        token = tokens.mint_token(environment, [scope])
        answer = await client.post(f"/api/v2/runs/{run_id}/cancel", headers={"authorization": f"Bearer {token}"})
        assert answer.status_code == status


async def test_a_canceled_item_counts_as_one_that_ended(client: httpx2.AsyncClient, engine: Engine) -> None:
    batch_id = await create(client, 2)
    await stream(client, batch_id, lines(range(2)))
    first, second = (await client.get(f"/api/v2/batches/{batch_id}")).json()["runs"]
    assert (await client.post(f"/api/v2/runs/{first}/cancel")).status_code == 200
    await finish_all(engine)
    batch = (await client.get(f"/api/v2/batches/{batch_id}")).json()
    assert (batch["status"], (await show(client, second))["status"]) == ("COMPLETED", "COMPLETED")
    [row] = await execute(engine, "SELECT settled, succeeded FROM headrace.batches")
    assert tuple(row) == (2, 1)


async def test_clients_and_the_command(client: httpx2.AsyncClient, server: RunningServer) -> None:
    async with AsyncClient(server.url, api_key=server.key) as sdk:
        handle = await sdk.trigger("t", 1)
        await handle.cancel()
        with pytest.raises(RunFailedError) as caught:
            await handle.result(timeout=30)
        assert caught.value.status == "CANCELED"
        other = await sdk.trigger("t", 2)
    env = clean_environment(api_url=server.url, api_key=server.key)
    told = run_headrace("run", "cancel", other.id, "--json", env=env)
    assert (told.returncode, json.loads(told.stdout)) == (0, {"id": other.id, "status": "CANCELED"})
    assert run_headrace("run", "cancel", NOBODY, env=env).returncode != 0
