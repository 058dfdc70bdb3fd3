"""Phase 1, ``POST /api/v3/batches``: research/batch.md 1.0 and 1.1, and what section 8 mends of it."""

from __future__ import annotations

import uuid
from dataclasses import replace
from typing import Any

import httpx2
import jwt
import pytest
from tests.api.support import create, execute, force, lines, read_row, retrieve, stream
from tests.server_fixture import RunningServer, running_server

from headrace.engine import keys
from headrace.engine.engine import Engine
from headrace.engine.environments import Environment
from headrace.settings import Settings

pytestmark = pytest.mark.anyio


async def test_a_batch_is_created_with_its_token(client: httpx2.AsyncClient, environment: Environment) -> None:
    response = await client.post("/api/v3/batches", json={"runCount": 3, "taskIdentifiers": ["a", "b"]})
    assert response.status_code == 202
    batch_id = response.json()["id"]
    assert response.json() == {"id": batch_id, "runCount": 3, "isCached": False}
    claims = jwt.decode(response.headers["x-trigger-jwt"], environment.signing_secret, algorithms=["HS256"])
    assert claims["scopes"] == [f"read:batch:{batch_id}"]
    assert claims["sub"] == str(environment.id)
    assert claims["pub"] is True
    assert claims["exp"] - claims["iat"] == 3600
    assert response.headers["x-trigger-jwt-claims"] == f'{{"sub":"{environment.id}","pub":true}}'


async def test_a_browser_gets_a_token_to_stream_with(client: httpx2.AsyncClient, environment: Environment) -> None:
    response = await client.post("/api/v3/batches", json={"runCount": 1}, headers={"x-trigger-client": "browser"})
    batch_id = response.json()["id"]
    claims = jwt.decode(response.headers["x-trigger-jwt"], environment.signing_secret, algorithms=["HS256"])
    assert claims["scopes"] == [f"read:batch:{batch_id}", f"write:batch:{batch_id}"]


async def test_an_open_ended_batch_has_no_count_yet(client: httpx2.AsyncClient) -> None:
    response = await client.post("/api/v3/batches", json={"start": "seal"})
    assert response.status_code == 202
    assert response.json()["runCount"] is None


async def test_unknown_fields_are_ignored(client: httpx2.AsyncClient) -> None:
    response = await client.post("/api/v3/batches", json={"runCount": 1, "whatever": {"x": 1}})
    assert response.status_code == 202


@pytest.mark.parametrize(
    ("body", "error"),
    [
        (b"", "Request body is empty"),
        (b"  \n", "Request body is empty"),
        (b"{", "Invalid JSON"),
        (b"null", "Invalid JSON"),
        (b"0", "Invalid JSON"),
        (b'""', "Invalid JSON"),
        (b"false", "Invalid JSON"),
        (b'{"runCount": 1', "Invalid JSON"),
        (b'{"runCount": "x", ', "Invalid JSON"),
        (b'{"runCount": \xff}', "Invalid JSON"),
        (b'{"runCount": 1, "payload": ["\xff"]}', "Invalid JSON"),
        (b"[" * 100_000, "Invalid JSON"),
    ],
)
async def test_a_body_that_is_none(client: httpx2.AsyncClient, body: bytes, error: str) -> None:
    response = await client.post("/api/v3/batches", content=body)
    assert (response.status_code, response.json()) == (400, {"error": error})


@pytest.mark.parametrize(
    ("body", "path"),
    [
        ({"runCount": 0}, "runCount"),
        ({"runCount": -1}, "runCount"),
        ({"runCount": 1.5}, "runCount"),
        ({"runCount": "2"}, "runCount"),
        ({"runCount": 2**31}, "runCount"),
        ({"runCount": 1, "taskIdentifiers": []}, "taskIdentifiers"),
        ({"runCount": 1, "taskIdentifiers": [""]}, "taskIdentifiers[0]"),
        ({"runCount": 1, "idempotencyKey": "k" * 2049}, "idempotencyKey"),
        ({"runCount": 1, "start": "never"}, "start"),
        ({"runCount": 1, "idempotencyKeyOptions": {"key": "k", "scope": "all"}}, "idempotencyKeyOptions.scope"),
    ],
)
async def test_a_body_of_the_wrong_shape(client: httpx2.AsyncClient, engine: Engine, body: Any, path: str) -> None:
    response = await client.post("/api/v3/batches", json=body)
    assert response.status_code == 400
    assert response.json()["error"].startswith("Validation error: ")
    assert response.json()["error"].endswith(f'at "{path}"')
    assert not await execute(engine, "SELECT 1 FROM headrace.batches")


async def test_a_nul_character_is_a_bad_request(client: httpx2.AsyncClient) -> None:
    response = await client.post("/api/v3/batches", json={"runCount": 1, "idempotencyKey": "a\0b"})
    assert response.status_code == 400
    escaped = await client.post("/api/v3/batches", json={"runCount": 1, "idempotencyKey": "a\\u0000b"})
    assert escaped.status_code == 202


async def test_too_many_items(settings: Settings) -> None:
    with running_server(replace(settings, batch_max_items=1000)) as server:
        headers = {"authorization": f"Bearer {server.key}"}
        async with httpx2.AsyncClient(base_url=server.url, headers=headers) as client:
            response = await client.post("/api/v3/batches", json={"runCount": 1001})
            assert response.status_code == 400
            assert response.json() == {"error": "Batch runCount of 1001 exceeds maximum allowed of 1000."}
            assert (await client.post("/api/v3/batches", json={"runCount": 1000})).status_code == 202


async def test_too_large_a_body(client: httpx2.AsyncClient) -> None:
    body = b'{"runCount": 1}'
    fitting = body + b" " * (131_072 - len(body))
    assert (await client.post("/api/v3/batches", content=fitting)).status_code == 202
    response = await client.post("/api/v3/batches", content=fitting + b" ")
    assert (response.status_code, response.json()) == (413, {"error": "Request body too large"})


async def test_a_body_without_length(client: httpx2.AsyncClient) -> None:
    async def pieces() -> Any:
        yield b'{"runCount": 1}'

    response = await client.post("/api/v3/batches", content=pieces())
    assert (response.status_code, response.json()) == (413, {"error": "Request body too large"})


async def test_too_long_a_request_id(client: httpx2.AsyncClient) -> None:
    headers = {"x-trigger-request-idempotency-key": "k" * 2049}
    response = await client.post("/api/v3/batches", json={"runCount": 1}, headers=headers)
    assert response.status_code == 400
    assert response.json()["error"] == "Headers Error"
    assert response.json()["details"][0]["path"] == ["x-trigger-request-idempotency-key"]


async def test_checks_come_in_order(client: httpx2.AsyncClient, server: RunningServer) -> None:
    """Credential, then length, then headers, then body."""
    wrong: dict[str, str] = {"x-trigger-request-idempotency-key": "k" * 2049, "authorization": "Bearer nobody"}
    body = b"{" * 200_000
    assert (await client.post("/api/v3/batches", content=body, headers=wrong)).status_code == 401
    wrong["authorization"] = f"Bearer {server.key}"
    assert (await client.post("/api/v3/batches", content=body, headers=wrong)).status_code == 413
    small = await client.post("/api/v3/batches", content=b"{", headers=wrong)
    assert small.json()["error"] == "Headers Error"
    del wrong["x-trigger-request-idempotency-key"]
    assert (await client.post("/api/v3/batches", content=b"{", headers=wrong)).json()["error"] == "Invalid JSON"


async def test_fault_11_a_lost_answer_is_asked_for_again(client: httpx2.AsyncClient, engine: Engine) -> None:
    """Fault 11: the same request id leads to the same batch, which is not cached until it is sealed."""
    headers = {"x-trigger-request-idempotency-key": str(uuid.uuid4())}
    first = await client.post("/api/v3/batches", json={"runCount": 2}, headers=headers)
    again = await client.post("/api/v3/batches", json={"runCount": 2}, headers=headers)
    assert (again.status_code, again.json()) == (202, first.json())
    assert again.headers["x-trigger-jwt"]
    assert len(await execute(engine, "SELECT 1 FROM headrace.batches")) == 1
    other = await client.post("/api/v3/batches", json={"runCount": 3}, headers=headers)
    assert other.status_code == 409


async def test_fault_12_a_key_leads_to_the_batch_in_its_true_state(client: httpx2.AsyncClient) -> None:
    """Fault 12: unsealed it is to be streamed into again, sealed it is cached; never a 422."""
    body = {"runCount": 2, "idempotencyKey": "night-1"}
    first = await client.post("/api/v3/batches", json=body)
    assert first.json()["idempotencyKey"] == "night-1"
    batch_id = first.json()["id"]
    await stream(client, batch_id, lines([0]))
    unsealed = await client.post("/api/v3/batches", json=body)
    assert (unsealed.status_code, unsealed.json()) == (202, first.json())
    assert (await stream(client, batch_id, lines([0, 1]))).json()["sealed"] is True
    sealed = await client.post("/api/v3/batches", json=body)
    assert (sealed.status_code, sealed.json()) == (200, {"id": batch_id, "runCount": 2, "isCached": True})


async def test_fault_12_a_key_holds_as_long_as_it_says(client: httpx2.AsyncClient, engine: Engine) -> None:
    """Fault 12: the TTL counts."""
    body = {"runCount": 2, "idempotencyKey": "k", "idempotencyKeyTTL": "1h"}
    first = await client.post("/api/v3/batches", json=body)
    await execute(engine, "UPDATE headrace.idempotency_keys SET expires_at = headrace.clock() - interval '1 second'")
    later = await client.post("/api/v3/batches", json=body)
    assert later.status_code == 202
    assert later.json()["id"] != first.json()["id"]


async def test_a_key_of_another_request_is_a_conflict(client: httpx2.AsyncClient) -> None:
    await client.post("/api/v3/batches", json={"runCount": 2, "idempotencyKey": "k"})
    response = await client.post("/api/v3/batches", json={"runCount": 3, "idempotencyKey": "k"})
    assert response.status_code == 409
    assert "idempotency key" in response.json()["error"]
    assert response.headers["x-should-retry"] == "false", "the published SDK would try a 409 again"


async def test_a_key_of_an_aborted_batch_is_not_cached(client: httpx2.AsyncClient, engine: Engine) -> None:
    """Cached would make the SDK skip the stream, and its caller would never hear that nothing runs."""
    body = {"runCount": 2, "idempotencyKey": "k"}
    batch_id = (await client.post("/api/v3/batches", json=body)).json()["id"]
    await force(engine, batch_id, "status = 'ABORTED', completed_at = now()")
    again = await client.post("/api/v3/batches", json=body)
    assert again.json()["isCached"] is False
    if again.json()["id"] == batch_id:
        assert (await stream(client, batch_id, lines([0, 1]))).status_code == 422


async def test_a_key_of_another_environment_is_another_key(
    client: httpx2.AsyncClient, engine: Engine, server: RunningServer
) -> None:
    body = {"runCount": 2, "idempotencyKey": "k"}
    first = await client.post("/api/v3/batches", json=body)
    key = await keys.create_key(engine, "prod", "test")
    other = await client.post("/api/v3/batches", json=body, headers={"authorization": f"Bearer {key.secret}"})
    assert other.status_code == 202
    assert other.json()["id"] != first.json()["id"]


@pytest.mark.parametrize("parent", ["nonsense", "run_06f3q1c2k8g5m0t7n4e9r2ab02"])
async def test_fault_17_a_parent_that_is_not_there(client: httpx2.AsyncClient, engine: Engine, parent: str) -> None:
    """Fault 17: refused before anything is written."""
    body = {"runCount": 1, "parentRunId": parent, "resumeParentOnCompletion": True}
    response = await client.post("/api/v3/batches", json=body)
    assert (response.status_code, response.json()) == (422, {"error": f"Parent run {parent} not found"})
    assert not await execute(engine, "SELECT 1 FROM headrace.batches")


async def test_a_parent_that_is_there(client: httpx2.AsyncClient, engine: Engine) -> None:
    parent = (await client.post("/api/v1/tasks/p/trigger", json={})).json()["id"]
    batch_id = await create(client, 1, parentRunId=parent)
    assert (await read_row(engine, batch_id))["parent_run_id"] is not None


async def test_the_trace_of_the_caller_is_kept(client: httpx2.AsyncClient, engine: Engine) -> None:
    trace = f"00-{'ab' * 16}-{'cd' * 8}-01"
    for given, kept in ((trace, trace), ("nonsense", None)):
        response = await client.post("/api/v3/batches", json={"runCount": 1}, headers={"traceparent": given})
        assert (await read_row(engine, response.json()["id"]))["traceparent"] == kept


async def test_a_new_batch_reads_as_pending(client: httpx2.AsyncClient) -> None:
    batch_id = await create(client, 2)
    batch = await retrieve(client, batch_id)
    assert batch["status"] == "PENDING"
    assert batch["runs"] == []
    assert batch["processing"] == {"errors": []}
