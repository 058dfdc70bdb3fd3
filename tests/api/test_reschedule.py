"""Reschedule: ``POST /api/v1/runs/{id}/reschedule``, and the clients and the command on it."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx2
import pytest
from tests.api.support import execute, finish_all
from tests.api.test_runs import NOBODY, trigger
from tests.e2e.commands import clean_environment, run_headrace
from tests.server_fixture import RunningServer

from headrace import ApiError, AsyncClient, ConfigurationError
from headrace.api import tokens
from headrace.engine.engine import Engine
from headrace.engine.environments import Environment

pytestmark = pytest.mark.anyio


def seconds_ahead(run: dict[str, Any]) -> float:
    return (datetime.fromisoformat(run["delayedUntil"]) - datetime.now(UTC)).total_seconds()


async def test_a_delayed_run_is_answered_as_it_is_then(client: httpx2.AsyncClient) -> None:
    run_id = await trigger(client, delay="1h")
    answer = await client.post(f"/api/v1/runs/{run_id}/reschedule", json={"delay": "2h"})
    assert answer.status_code == 200
    run = answer.json()
    assert run == (await client.get(f"/api/v3/runs/{run_id}")).json()
    assert (run["id"], run["status"], run["isQueued"]) == (run_id, "DELAYED", True)
    assert seconds_ahead(run) == pytest.approx(7200, abs=60)
    moment = datetime.now(UTC) + timedelta(days=1)
    answer = await client.post(f"/api/v1/runs/{run_id}/reschedule", json={"delay": moment.isoformat()})
    assert seconds_ahead(answer.json()) == pytest.approx(86_400, abs=60)
    answer = await client.post(f"/api/v1/runs/{run_id}/reschedule", json={"delay": "0s"})
    assert (answer.status_code, answer.json()["status"]) == (200, "QUEUED")


@pytest.mark.parametrize(
    ("body", "told"),
    [
        ({"delay": "soon"}, "delay is 'soon': give a duration such as '1h30m' or an ISO 8601 date"),
        ({"delay": 5}, "delay"),
        ({"delay": "0001-01-01T00:00:00+14:00"}, "no date that a run can wait for"),
        ({}, "delay"),
        (None, "empty"),
    ],
)
async def test_what_is_no_delay_is_400_and_changes_nothing(
    client: httpx2.AsyncClient, engine: Engine, body: Any, told: str
) -> None:
    run_id = await trigger(client, delay="1h")
    before = await execute(engine, "SELECT * FROM headrace.runs")
    answer = await client.post(f"/api/v1/runs/{run_id}/reschedule", json=body)
    assert answer.status_code == 400
    assert told in answer.json()["error"]
    assert await execute(engine, "SELECT * FROM headrace.runs") == before


async def test_a_run_that_is_not_delayed_is_400(client: httpx2.AsyncClient, engine: Engine) -> None:
    run_id = await trigger(client)
    for status in ("QUEUED", "COMPLETED"):
        answer = await client.post(f"/api/v1/runs/{run_id}/reschedule", json={"delay": "1h"})
        told = f"Cannot reschedule a run that is not delayed: it is {status}"
        assert (answer.status_code, answer.json()) == (400, {"error": told})
        await finish_all(engine)


@pytest.mark.parametrize("run_id", [NOBODY, "run_x", "batch_06f3q1c2k8g5m0t7n400000002"])
async def test_no_such_run(client: httpx2.AsyncClient, run_id: str) -> None:
    answer = await client.post(f"/api/v1/runs/{run_id}/reschedule", json={"delay": "1h"})
    assert (answer.status_code, answer.json()) == (404, {"error": "Run not found"})


async def test_a_public_token_needs_to_write_that_run(client: httpx2.AsyncClient, environment: Environment) -> None:
    run_id = await trigger(client, delay="1h")
    for scope, status in (("read:runs", 403), (f"write:runs:{NOBODY}", 403), (f"write:runs:{run_id}", 200)):
        token = tokens.mint_token(environment, [scope])
        answer = await client.post(
            f"/api/v1/runs/{run_id}/reschedule", json={"delay": "1h"}, headers={"authorization": f"Bearer {token}"}
        )
        assert answer.status_code == status


async def test_clients_and_the_command(server: RunningServer) -> None:
    async with AsyncClient(server.url, api_key=server.key) as sdk:
        handle = await sdk.trigger("t", 1, delay=datetime.now(UTC) + timedelta(hours=1))
        assert seconds_ahead(await handle.reschedule(timedelta(hours=2))) == pytest.approx(7200, abs=60)
        assert seconds_ahead(await sdk.reschedule_run(handle.id, "3h")) == pytest.approx(10_800, abs=60)
        with pytest.raises(ConfigurationError, match="delay"):
            await handle.reschedule("soon")
        with pytest.raises(ApiError) as caught:
            await sdk.reschedule_run((await sdk.trigger("t", 2)).id, "1h")
        assert caught.value.status == 400
    env = clean_environment(api_url=server.url, api_key=server.key)
    moment = (datetime.now(UTC) + timedelta(hours=5)).isoformat()
    for delay, seconds in (("4h", 14_400), (moment, 18_000)):
        told = run_headrace("run", "reschedule", handle.id, "--delay", delay, "--json", env=env)
        assert told.returncode == 0, told.stderr
        assert seconds_ahead(json.loads(told.stdout)) == pytest.approx(seconds, abs=30)
    assert run_headrace("run", "reschedule", handle.id, "--delay", "0s", env=env).returncode == 0
    assert run_headrace("run", "reschedule", handle.id, "--delay", "1h", env=env).returncode == 2
    assert run_headrace("run", "reschedule", NOBODY, "--delay", "1h", env=env).returncode == 4
