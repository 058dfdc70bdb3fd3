"""Triggering one run, and a small batch in one request: research/batch.md 1.4, engine.md C3.1."""

from __future__ import annotations

import json
import uuid
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx2
import jwt
import pytest
from tests.api.support import execute, finish_all, retrieve
from tests.server_fixture import running_server

from headrace.engine.engine import Engine
from headrace.engine.environments import Environment
from headrace.settings import Settings

pytestmark = pytest.mark.anyio

URL = "/api/v1/tasks/t/trigger"


@pytest.fixture
def settings(settings: Settings) -> Settings:
    return replace(settings, offload_threshold=2048, one_shot_max_items=50, body_max_size=100_000)


async def test_a_run_is_triggered(client: httpx2.AsyncClient, environment: Environment) -> None:
    response = await client.post(URL, json={"payload": {"a": 1}})
    assert response.status_code == 200
    run_id = response.json()["id"]
    assert response.json() == {"id": run_id, "isCached": False}
    claims = jwt.decode(response.headers["x-trigger-jwt"], environment.signing_secret, algorithms=["HS256"])
    assert claims["scopes"] == [f"read:runs:{run_id}"]


async def test_a_task_s_id_may_hold_anything(client: httpx2.AsyncClient) -> None:
    for task in ("a b", "größe", "x%2Fy", "a.b-c_d:e"):
        quoted = httpx2.URL(f"/api/v1/tasks/{task}/trigger") if "%" in task else f"/api/v1/tasks/{task}/trigger"
        response = await client.post(quoted, json={})
        if "%2F" in task:  # a slash in an id can't be told from one in the path
            assert response.status_code == 404
        else:
            run = (await client.get(f"/api/v3/runs/{response.json()['id']}")).json()
            assert run["taskIdentifier"] == task


async def test_an_idempotency_key(client: httpx2.AsyncClient) -> None:
    first = await client.post(URL, json={"options": {"idempotencyKey": "k"}})
    again = await client.post(URL, json={"options": {"idempotencyKey": "k"}})
    assert again.json() == {"id": first.json()["id"], "isCached": True}
    by_header = await client.post(URL, json={}, headers={"idempotency-key": "k"})
    assert by_header.json() == {"id": first.json()["id"], "isCached": True}
    other_task = await client.post("/api/v1/tasks/u/trigger", json={"options": {"idempotencyKey": "k"}})
    assert other_task.json()["isCached"] is False


async def test_the_same_request_again(client: httpx2.AsyncClient) -> None:
    headers = {"x-trigger-request-idempotency-key": str(uuid.uuid4())}
    first = await client.post(URL, json={"payload": 1}, headers=headers)
    again = await client.post(URL, json={"payload": 1}, headers=headers)
    assert again.json() == first.json()
    other = await client.post(URL, json={"payload": 1, "options": {"tags": ["x"]}}, headers=headers)
    assert other.status_code == 409
    assert other.headers["x-should-retry"] == "false"


@pytest.mark.parametrize(
    ("body", "status"),
    [
        ({"options": {"idempotencyKey": "k" * 2049}}, 400),
        ({"options": {"tags": [str(n) for n in range(11)]}}, 400),
        ({"options": {"tags": ["x" * 129]}}, 400),
        ({"options": {"machine": "huge"}}, 400),
        ({"options": {"maxAttempts": 0}}, 400),
        ([], 400),
        ({"options": {"delay": "soon"}}, 422),
        ({"options": {"idempotencyKey": "k", "idempotencyKeyTTL": "x"}}, 422),
        ({"options": {"idempotencyKey": "k", "idempotencyKeyTTL": "999999999999w"}}, 422),
        ({"options": {"delay": "99999999999d"}}, 422),
        ({"options": {"delay": "9999-12-31T23:59:59-12:00"}}, 422),
        ({"options": {"delay": "0001-01-01T00:00:00+12:00"}}, 422),
        ({"options": {"metadata": "\ud83d"}}, 400),
        ({"options": {"tags": ["a\0"]}}, 422),
        ({"options": {"payloadType": "application/store"}, "payload": "payloads/prod/x"}, 422),
        ({"options": {"payloadType": "text/plain"}, "payload": 5}, 422),
        ({"parentRunId": "run_06f3q1c2k8g5m0t7n400000002"}, 422),
    ],
)
async def test_a_trigger_that_can_t_be(client: httpx2.AsyncClient, engine: Engine, body: Any, status: int) -> None:
    response = await client.post(URL, content=json.dumps(body))
    assert response.status_code == status, response.text
    assert response.json()["error"]
    assert not await execute(engine, "SELECT 1 FROM headrace.runs")


async def test_limits_of_a_trigger(client: httpx2.AsyncClient) -> None:
    assert (await client.post(URL, json={"payload": "x" * 100_001})).status_code == 413
    too_long = await client.post(f"/api/v1/tasks/{'x' * 129}/trigger", json={})
    assert (too_long.status_code, too_long.json()["error"]) == (400, "Params Error")
    assert (await client.post("/api/v1/tasks/a%00b/trigger", json={})).status_code == 422
    assert (await client.post(URL, json={}, headers={"idempotency-key": "k" * 2049})).status_code == 400
    assert (await client.post(URL, content=b"")).json() == {"error": "Request body is empty"}
    wrong = await client.get(URL)
    assert (wrong.status_code, wrong.headers["allow"]) == (405, "POST")
    assert wrong.json() == {"error": "Method not allowed"}


async def test_a_large_payload_is_offloaded(client: httpx2.AsyncClient, engine: Engine) -> None:
    headers = {"x-trigger-request-idempotency-key": "r"}
    first = await client.post(URL, json={"payload": "x" * 5000}, headers=headers)
    again = await client.post(URL, json={"payload": "x" * 5000}, headers=headers)
    assert again.json() == first.json()
    [row] = await execute(engine, "SELECT payload, payload_type FROM headrace.runs")
    assert row["payload_type"] == "application/store"
    assert json.loads(await engine.payloads.get("dev", row["payload"].decode())) == "x" * 5000
    run = (await client.get(f"/api/v3/runs/{first.json()['id']}")).json()
    assert run["payload"] == "x" * 5000


async def test_a_one_shot_batch(client: httpx2.AsyncClient, engine: Engine) -> None:
    body = {"items": [{"task": "t", "payload": n} for n in range(5)] + [{"task": "u", "payload": "x" * 5000}]}
    response = await client.post("/api/v2/tasks/batch", json=body)
    assert response.status_code == 202
    batch_id = response.json()["id"]
    assert response.json() == {"id": batch_id, "isCached": False, "runCount": 6}
    assert response.headers["x-trigger-jwt"]
    batch = await retrieve(client, batch_id)
    assert (batch["status"], len(batch["runs"])) == ("PROCESSING", 6)
    assert await finish_all(engine) == 5
    assert await finish_all(engine, "u") == 1
    assert (await retrieve(client, batch_id))["status"] == "COMPLETED"
    results = (await client.get(f"/api/v1/batches/{batch_id}/results")).json()["items"]
    assert [json.loads(one["output"]) for one in results] == [0, 1, 2, 3, 4, "x" * 5000]


async def test_a_one_shot_batch_again(client: httpx2.AsyncClient, engine: Engine) -> None:
    body = {"items": [{"task": "t", "payload": n} for n in range(3)]}
    key = {"idempotency-key": "k", "idempotency-key-ttl": "1h"}
    first = await client.post("/api/v2/tasks/batch", json=body, headers=key)
    assert first.json()["idempotencyKey"] == "k"
    again = await client.post("/api/v2/tasks/batch", json=body, headers=key)
    assert (again.status_code, again.json()["id"], again.json()["isCached"]) == (200, first.json()["id"], True)
    request = {"x-trigger-request-idempotency-key": "r"}
    other = await client.post("/api/v2/tasks/batch", json=body, headers=request)
    repeated = await client.post("/api/v2/tasks/batch", json=body, headers=request)
    assert other.json()["id"] != first.json()["id"]
    assert repeated.json()["id"] == other.json()["id"]
    conflict = await client.post("/api/v2/tasks/batch", json={"items": body["items"][:2]}, headers=key)
    assert conflict.status_code == 409
    assert len(await execute(engine, "SELECT 1 FROM headrace.runs")) == 6


async def test_a_one_shot_batch_under_the_key_of_an_open_stream(client: httpx2.AsyncClient) -> None:
    await client.post("/api/v3/batches", json={"runCount": 1, "taskIdentifiers": ["t"], "idempotencyKey": "k"})
    body = {"items": [{"task": "t"}]}
    response = await client.post("/api/v2/tasks/batch", json=body, headers={"idempotency-key": "k"})
    assert response.status_code == 409


@pytest.mark.parametrize(
    ("items", "status", "error"),
    [
        ([], 400, "Batch cannot be triggered with no items"),
        ([{"task": "t"}] * 51, 400, "Batch size of 51 is too large. Maximum allowed batch size is 50."),
        ([{"task": "t"}, {"task": ""}], 400, "Validation error: "),
        ([{"payload": 1}], 400, "Validation error: "),
        ([{"task": "t"}, {"task": "t", "options": {"delay": "soon"}}], 422, "Invalid item at index 1: "),
        ([{"task": "t"}, {"task": "t\0"}], 422, "Invalid item at index 1: "),
    ],
)
async def test_a_one_shot_batch_that_can_t_be(
    client: httpx2.AsyncClient, engine: Engine, items: Any, status: int, error: str
) -> None:
    """All of it or nothing."""
    response = await client.post("/api/v2/tasks/batch", json={"items": items})
    assert response.status_code == status
    assert response.json()["error"].startswith(error)
    assert not await execute(engine, "SELECT 1 FROM headrace.runs UNION ALL SELECT 1 FROM headrace.batches")


async def test_a_key_can_t_hold_for_ever(client: httpx2.AsyncClient) -> None:
    headers = {"idempotency-key": "k", "idempotency-key-ttl": "999999999999w"}
    assert (await client.post(URL, json={}, headers=headers)).status_code == 422
    assert (
        await client.post("/api/v2/tasks/batch", json={"items": [{"task": "t"}]}, headers=headers)
    ).status_code == 422
    body = {"runCount": 1, "idempotencyKey": "k", "idempotencyKeyTTL": "999999999999w"}
    assert (await client.post("/api/v3/batches", json=body)).status_code == 422


async def test_uploads_of_a_refused_one_shot_batch_are_taken_back(settings: Settings, engine: Engine) -> None:
    with running_server(replace(settings, batch_max_items=1)) as server:
        headers = {"authorization": f"Bearer {server.key}"}
        async with httpx2.AsyncClient(base_url=server.url, headers=headers, timeout=30) as client:
            body = {"items": [{"task": "t", "payload": "x" * 5000}] * 3}
            assert (await client.post("/api/v2/tasks/batch", json=body)).status_code == 400
    left = await execute(engine, "SELECT 1 FROM headrace.batches")
    assert not left
    assert not list_files(settings.data_dir)


def list_files(folder: str) -> list[Path]:
    return [path for path in (Path(folder) / "payloads").rglob("*") if path.is_file()]
