"""Who may do what: keys, public tokens and their scopes, environments; nothing secret in answers or logs."""

from __future__ import annotations

import time
from typing import Any

import httpx2
import jwt
import pytest
from tests.api.support import NDJSON, count_runs, create, item, lines, stream
from tests.logs import list_lines
from tests.server_fixture import RunningServer

from headrace.api.callers import Caller
from headrace.api.tokens import check_token, mint_token
from headrace.engine import keys
from headrace.engine.engine import Engine
from headrace.engine.environments import Environment, find_environment

pytestmark = pytest.mark.anyio

PROTECTED = [
    ("POST", "/api/v3/batches"),
    ("POST", "/api/v3/batches/batch_06f3q1c2k8g5m0t7n400000002/items"),
    ("POST", "/api/v3/batches/batch_06f3q1c2k8g5m0t7n400000002/seal"),
    ("GET", "/api/v1/batches/batch_06f3q1c2k8g5m0t7n400000002"),
    ("GET", "/api/v2/batches/batch_06f3q1c2k8g5m0t7n400000002"),
    ("GET", "/api/v1/batches/batch_06f3q1c2k8g5m0t7n400000002/results"),
    ("POST", "/api/v1/tasks/t/trigger"),
    ("POST", "/api/v2/tasks/batch"),
    ("GET", "/api/v1/runs"),
    ("GET", "/api/v3/runs/run_06f3q1c2k8g5m0t7n400000002"),
    ("GET", "/api/v1/runs/run_06f3q1c2k8g5m0t7n400000002/result"),
    ("GET", "/metrics"),
    ("GET", "/openapi.json"),
    ("GET", "/api/v9/nothing"),
]


@pytest.mark.parametrize(("method", "path"), PROTECTED)
async def test_every_route_needs_a_key(server: RunningServer, method: str, path: str) -> None:
    async with httpx2.AsyncClient(base_url=server.url) as client:
        response = await client.request(method, path, headers=NDJSON, content=b"{}" if method == "POST" else None)
        detail = "No authorization header provided"
        assert response.status_code == 401
        assert response.headers["content-type"] == "application/problem+json"
        assert response.json() == {
            "title": "Unauthorized",
            "status": 401,
            "type": "about:blank",
            "detail": detail,
            "error": detail,
        }
        if "nothing" in path:
            return
        for credential, error in (
            ("Bearer nobody", "Invalid API key"),
            ("Bearer " + "x" * 5000, "Invalid API key"),
            ("Bearer", "Invalid or Missing API key"),
            ("Basic abc", "Invalid or Missing API key"),
            ("Bearer a.b.c", "Public Access Token is invalid"),
        ):
            headers = {**NDJSON, "authorization": credential}
            response = await client.request(method, path, headers=headers, content=b"{}" if method == "POST" else None)
            assert (response.status_code, response.json()) == (401, {"error": error})


async def test_health_needs_none(server: RunningServer) -> None:
    async with httpx2.AsyncClient(base_url=server.url) as client:
        assert (await client.get("/healthz")).json() == {"status": "ok"}
        assert (await client.get("/readyz")).json() == {"status": "ready"}


async def test_a_revoked_key(client: httpx2.AsyncClient, engine: Engine) -> None:
    key = await keys.create_key(engine, "dev", "test")
    headers = {"authorization": f"Bearer {key.secret}"}
    assert (await client.get("/api/v1/runs", headers=headers)).status_code == 200
    assert await keys.revoke_key(engine, key.id)
    deadline = time.monotonic() + 30  # a key may be remembered for a second
    while (await client.get("/api/v1/runs", headers=headers)).status_code != 401:
        assert time.monotonic() < deadline


def bearer(environment: Environment, *scopes: str) -> dict[str, str]:
    return {"authorization": f"Bearer {mint_token(environment, scopes)}"}


async def test_a_token_reads_its_batch_and_nothing_else(client: httpx2.AsyncClient, engine: Engine) -> None:
    response = await client.post("/api/v3/batches", json={"runCount": 1})
    mine = response.json()["id"]
    token = {"authorization": f"Bearer {response.headers['x-trigger-jwt']}"}
    other = await create(client, 1)
    await stream(client, mine, lines([0]))
    for version in ("v1", "v2"):
        assert (await client.get(f"/api/{version}/batches/{mine}", headers=token)).status_code == 200
        refused = await client.get(f"/api/{version}/batches/{other}", headers=token)
        assert refused.status_code == 403
        assert refused.json() == {
            "error": "Unauthorized",
            "code": "unauthorized",
            "param": "access_token",
            "type": "authorization",
        }
    run_id = (await client.get(f"/api/v2/batches/{mine}", headers=token)).json()["runs"][0]
    assert (await client.get(f"/api/v3/runs/{run_id}", headers=token)).status_code == 200
    assert (await client.get(f"/api/v1/runs?filter[batch]={mine}", headers=token)).status_code == 200
    assert (await client.get("/api/v1/runs", headers=token)).status_code == 403
    assert (await client.get(f"/api/v1/runs?filter[batch]={other}", headers=token)).status_code == 403
    assert (await client.get(f"/api/v1/batches/{mine}/results", headers=token)).status_code == 401
    assert (await client.post("/api/v3/batches", json={"runCount": 1}, headers=token)).status_code == 403
    assert (await client.post("/api/v1/tasks/t/trigger", json={}, headers=token)).status_code == 403
    assert (await client.post("/api/v2/tasks/batch", json={"items": [{"task": "t"}]}, headers=token)).status_code == 403
    assert (await stream(client, other, lines([0]), **token)).status_code == 403
    seal = await client.post(f"/api/v3/batches/{other}/seal", json={"runCount": 1}, headers=token)
    assert seal.status_code == 403


async def test_a_browser_s_token_streams_its_batch(client: httpx2.AsyncClient, engine: Engine) -> None:
    response = await client.post("/api/v3/batches", json={"runCount": 1}, headers={"x-trigger-client": "browser"})
    token = {"authorization": f"Bearer {response.headers['x-trigger-jwt']}"}
    batch_id = response.json()["id"]
    assert (await stream(client, batch_id, b"", **token)).json()["sealed"] is False
    assert (await stream(client, batch_id, lines([0]), **token)).json()["sealed"] is True
    assert (await stream(client, await create(client, 1), lines([0]), **token)).status_code == 403


async def test_a_token_for_some_tasks(client: httpx2.AsyncClient, engine: Engine, environment: Environment) -> None:
    """Each item is checked; the first one before the batch is looked up, so that nothing can be probed without one."""
    token = bearer(environment, "batchTrigger:tasks:a", "trigger:tasks:a")
    batch_id = await create(client, 3)
    body = item(0, 1, task="a") + item(1, 1, task="b")
    assert (await stream(client, batch_id, body, **token)).status_code == 403
    assert await count_runs(engine, batch_id) == 1
    nobody = "batch_06f3q1c2k8g5m0t7n400000002"
    for probe in (b"", lines([0]), b"{oops"):
        assert (await stream(client, nobody, probe, **token)).status_code == 403
    assert (await stream(client, nobody, item(0, 1, task="a"), **token)).status_code == 404
    assert (await stream(client, batch_id, item(1, 1, task="a") + item(2, 1, task="a"), **token)).json()["sealed"]

    async def status(path: str, body: Any) -> int:
        return (await client.post(path, json=body, headers=token)).status_code

    assert await status("/api/v3/batches", {"runCount": 1}) == 403
    assert await status("/api/v3/batches", {"runCount": 1, "taskIdentifiers": ["a", "b"]}) == 403
    assert await status("/api/v3/batches", {"runCount": 1, "taskIdentifiers": ["a"]}) == 202
    assert await status("/api/v1/tasks/a/trigger", {}) == 200
    assert await status("/api/v1/tasks/b/trigger", {}) == 403
    assert await status("/api/v2/tasks/batch", {"items": [{"task": "a"}]}) == 202
    assert await status("/api/v2/tasks/batch", {"items": [{"task": "a"}, {"task": "b"}]}) == 403


async def test_a_token_can_t_adopt_a_run(client: httpx2.AsyncClient, environment: Environment) -> None:
    parent = (await client.post("/api/v1/tasks/p/trigger", json={})).json()["id"]
    body = {"runCount": 1, "taskIdentifiers": ["a"], "parentRunId": parent}
    refused = await client.post("/api/v3/batches", json=body, headers=bearer(environment, "batchTrigger:tasks:a"))
    assert (refused.status_code, refused.json()) == (403, {"error": "Unauthorized"})
    for scope in (f"write:runs:{parent}", "write:tasks:p", "write:runs"):
        token = bearer(environment, "batchTrigger:tasks:a", scope)
        assert (await client.post("/api/v3/batches", json=body, headers=token)).status_code == 202


async def test_tokens_that_are_not_good(client: httpx2.AsyncClient, engine: Engine, environment: Environment) -> None:
    prod = await find_environment(engine, "prod")
    assert prod is not None
    now = int(time.time())
    good: dict[str, Any] = {"sub": str(environment.id), "pub": True, "scopes": ["read:runs"], "exp": now + 60}
    secret = environment.signing_secret

    async def status(claims: dict[str, Any], key: bytes = secret, algorithm: str = "HS256") -> int:
        token = jwt.encode(claims, key, algorithm=algorithm)
        return (await client.get("/api/v1/runs", headers={"authorization": f"Bearer {token}"})).status_code

    assert await status(good) == 200
    assert await status({**good, "exp": now - 60}) == 401
    assert await status({name: good[name] for name in good if name != "exp"}) == 401
    assert await status({**good, "pub": False}) == 401
    assert await status({**good, "sub": str(prod.id)}) == 401
    assert await status({**good, "sub": "99"}) == 401
    assert await status({**good, "sub": "9" * 5000}) == 401
    assert await status({**good, "sub": "x"}) == 401
    assert await status({**good, "scopes": "read:runs"}) == 401
    assert await status({**good, "scopes": [5]}) == 403
    assert await status(good, prod.signing_secret) == 401
    assert await status(good, b"another secret of enough bytes..") == 401
    unsigned = jwt.encode(good, "", algorithm="none")
    assert (await client.get("/api/v1/runs", headers={"authorization": f"Bearer {unsigned}"})).status_code == 401
    assert check_token(environment, mint_token(environment, ["a"])) == frozenset({"a"})


async def test_what_scopes_allow() -> None:
    environment = Environment(1, "dev", b"x" * 32)

    def may(scope: str, action: str, *resources: tuple[str, str | None]) -> bool:
        return Caller(environment, frozenset({scope})).may(action, *resources)

    assert Caller(environment).may("anything", ("at", "all"))
    assert may("admin", "write", ("batch", "b"))
    assert may("read:all", "read", ("runs", None))
    assert not may("read:all", "write", ("runs", None))
    assert may("read:runs", "read", ("runs", "r"))
    assert not may("read:runs:r", "read", ("runs", None))
    assert may("read:runs:r", "read", ("batch", "b"), ("runs", "r"))
    assert not may("read:runs:r", "read", ("runs", "s"))
    assert may("write:tasks:t", "trigger", ("tasks", "t"))
    assert may("write:tasks:t", "batchTrigger", ("tasks", "t"))
    assert not may("trigger:tasks:t", "write", ("tasks", "t"))
    assert not may("trigger:tasks:t", "batchTrigger", ("tasks", "t"))
    assert not Caller(environment, frozenset({"batchTrigger:tasks:t"})).may_trigger_all("batchTrigger", [])


async def test_the_access_log_holds_no_secret(
    client: httpx2.AsyncClient, server: RunningServer, caplog: pytest.LogCaptureFixture
) -> None:
    batch_id = await create(client, 1)
    await client.get(f"/api/v2/batches/{batch_id}?wait=0&token=hidden-in-the-query")
    await client.get("/api/v1/runs", headers={"authorization": "Bearer wrong-but-somebody-s"})
    logged = "\n".join(str(line) for line in list_lines(caplog))  # what httpx says of its own requests is not ours
    assert f"/api/v2/batches/{batch_id}" in logged
    assert "'environment': 'dev'" in logged
    for secret in (server.key, "hidden-in-the-query", "wrong-but-somebody-s", "Bearer"):
        assert secret not in logged
