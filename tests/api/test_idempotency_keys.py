"""Idempotency keys over HTTP: how they are shown, and ``POST /api/v1/idempotencyKeys/{key}/reset``; the clients and the command."""

from __future__ import annotations

import hashlib
import json
from typing import Any
from urllib.parse import quote

import httpx2
import pytest
from tests.api.support import execute
from tests.api.test_runs import trigger
from tests.e2e.commands import clean_environment, run_headrace
from tests.server_fixture import RunningServer

from headrace import ApiError, AsyncClient, ConfigurationError, Key
from headrace.api import tokens
from headrace.engine.engine import Engine
from headrace.engine.environments import Environment

pytestmark = pytest.mark.anyio

RUN = "run_06f3q1c2k8g5m0t7n400000002"


async def reset(client: httpx2.AsyncClient, key: str, task: Any = "t", **headers: str) -> httpx2.Response:
    path = f"/api/v1/idempotencyKeys/{quote(key, safe='')}/reset"
    return await client.post(path, json={"taskIdentifier": task}, headers=headers)


async def test_what_the_author_wrote_is_shown_and_not_its_hash(client: httpx2.AsyncClient) -> None:
    plain = await trigger(client, idempotencyKey="plain")
    run = (await client.get(f"/api/v3/runs/{plain}")).json()
    assert (run["idempotencyKey"], "idempotencyKeyScope" in run) == ("plain", False)
    hashed = hashlib.sha256(b"k-1").hexdigest()
    keyed = await trigger(client, idempotencyKey=hashed, idempotencyKeyOptions={"key": "k", "scope": "run"})
    for run in (
        (await client.get(f"/api/v3/runs/{keyed}")).json(),
        (await client.get("/api/v1/runs")).json()["data"][0],
    ):
        assert (run["idempotencyKey"], run["idempotencyKeyScope"]) == ("k", "run")


@pytest.mark.parametrize("key", ["k", "with/slash", "ü %", "k" * 2048])
async def test_a_reset_by_the_key_or_its_hash(client: httpx2.AsyncClient, key: str) -> None:
    for spelt in (key, hashlib.sha256(key.encode()).hexdigest()):
        first = await trigger(client, idempotencyKey=key)
        assert await trigger(client, idempotencyKey=key) == first
        answer = await reset(client, spelt)
        assert (answer.status_code, answer.json()) == (200, {"id": spelt})
        assert await trigger(client, idempotencyKey=key) != first
        assert (await reset(client, key)).status_code == 200


async def test_a_key_that_stands_for_nothing_is_404(client: httpx2.AsyncClient) -> None:
    await trigger(client, idempotencyKey="k")
    for key, task in (("other", "t"), ("k", "u"), ("k", "\0")):
        answer = await reset(client, key, task)
        told = f"No runs found with idempotency key: {key} and task: {task}"
        assert (answer.status_code, answer.json()) == (404, {"error": told})


@pytest.mark.parametrize(
    ("key", "task", "told"),
    [("k" * 2049, "t", "2048 characters or less"), ("k", "", "taskIdentifier"), ("k", None, "taskIdentifier")],
)
async def test_what_is_no_reset_is_400(client: httpx2.AsyncClient, key: str, task: Any, told: str) -> None:
    answer = await reset(client, key, task)
    assert answer.status_code == 400
    assert told in answer.text


async def test_a_key_that_is_too_long_is_400_and_leaves_nothing(client: httpx2.AsyncClient, engine: Engine) -> None:
    long = "k" * 2049
    for body, headers in (
        ({"options": {"idempotencyKey": long}}, {}),
        ({"options": {"idempotencyKey": "k", "idempotencyKeyOptions": {"key": long, "scope": "run"}}}, {}),
        ({}, {"idempotency-key": long}),
    ):
        answer = await client.post("/api/v1/tasks/t/trigger", json=body, headers=headers)
        assert answer.status_code == 400, answer.text
    assert await execute(engine, "SELECT FROM headrace.runs") == []


async def test_a_public_token_needs_to_write_runs(client: httpx2.AsyncClient, environment: Environment) -> None:
    await trigger(client, idempotencyKey="k")
    for scope, status in (("read:runs", 403), (f"write:runs:{RUN}", 403), ("write:tasks:u", 403), ("write:runs", 200)):
        token = tokens.mint_token(environment, [scope])
        assert (await reset(client, "k", authorization=f"Bearer {token}")).status_code == status


async def test_clients_and_the_command(server: RunningServer) -> None:
    async with AsyncClient(server.url, api_key=server.key) as sdk:
        first = await sdk.trigger("t", 1, idempotency_key="k")
        assert (await sdk.trigger("t", 1, idempotency_key=Key("k", scope="global"))).id == first.id
        await sdk.reset_idempotency_key("t", "k")
        with pytest.raises(ApiError) as caught:
            await sdk.reset_idempotency_key("t", "k")
        assert caught.value.status == 404
        with pytest.raises(ConfigurationError, match="empty"):
            await sdk.reset_idempotency_key("t", "")
        await sdk.trigger("t", 1, idempotency_key="k/1")
        await sdk.trigger("t", 1, idempotency_key=Key("k", run_id=RUN))
        await sdk.trigger("t", 1, idempotency_key=Key("k", scope="attempt", run_id=RUN, attempt=2))
    env = clean_environment(api_url=server.url, api_key=server.key)
    told = run_headrace("run", "reset-key", "k/1", "--task", "t", "--json", env=env)
    assert (told.returncode, json.loads(told.stdout)) == (0, {"key": "k/1", "task": "t", "reset": True})
    for more in (["--run", RUN], ["--run", RUN, "--attempt", "2"]):
        assert [run_headrace("run", "reset-key", "k", "--task", "t", *more, env=env).returncode for _ in range(2)] == [
            0,
            4,
        ]
    assert run_headrace("run", "reset-key", "k", "--task", "t", "--attempt", "2", env=env).returncode == 2
