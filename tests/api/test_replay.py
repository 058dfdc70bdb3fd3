"""Replay: ``POST /api/v1/runs/{id}/replay``, and the clients and the command on it."""

from __future__ import annotations

import json
from typing import Any

import httpx2
import pytest
from tests.api.support import create, execute, finish_all, lines, stream
from tests.api.test_runs import NOBODY, trigger
from tests.e2e.commands import clean_environment, run_headrace
from tests.server_fixture import RunningServer

from headrace import AsyncClient, Client, ids
from headrace.api import tokens
from headrace.engine import keys
from headrace.engine.engine import Engine
from headrace.engine.environments import Environment

pytestmark = pytest.mark.anyio


async def show(client: httpx2.AsyncClient, run_id: str) -> dict[str, Any]:
    answer = await client.get(f"/api/v3/runs/{run_id}")
    assert answer.status_code == 200, answer.text
    return answer.json()


async def replay(client: httpx2.AsyncClient, run_id: str, **body: Any) -> str:
    answer = await client.post(f"/api/v1/runs/{run_id}/replay", json=body)
    assert answer.status_code == 200, answer.text
    assert answer.json()["isCached"] is False
    return answer.json()["id"]


async def stored_options(engine: Engine, run_id: str) -> dict[str, Any]:
    [row] = await execute(engine, "SELECT options::text FROM headrace.runs WHERE id = $1", ids.parse_run_id(run_id))
    return json.loads(row["options"])


COPIED = {
    "concurrencyKey": "c",
    "machine": "small-1x",
    "metadata": {"m": 1},
    "region": "eu",
    "tags": ["a", "b"],
    "test": True,
}
NOT_COPIED = {
    "delay": "1h",
    "ttl": "2h",
    "priority": 5,
    "maxAttempts": 7,
    "maxDuration": 60,
    "idempotencyKey": "k",
    "idempotencyKeyTTL": "1h",
    "lockToVersion": "v1",
}


async def test_what_is_copied_and_what_is_not(client: httpx2.AsyncClient, engine: Engine) -> None:
    first = await trigger(client, payload={"a": 1}, queue={"name": "q"}, **COPIED, **NOT_COPIED)
    second = await replay(client, first)
    assert second != first
    run = await show(client, second)
    assert (run["payload"], run["queue"], run["tags"], run["metadata"], run["isTest"]) == (
        {"a": 1},
        "q",
        ["a", "b"],
        {"m": 1},
        True,
    )
    assert run["replayedFrom"] == first
    assert "replayedFrom" not in await show(client, first)
    options = await stored_options(engine, second)
    parsed = ids.parse_run_id(first)
    assert options == {**COPIED, "replayedFrom": str(parsed)}
    [row] = await execute(engine, "SELECT * FROM headrace.runs WHERE id = $1", ids.parse_run_id(second))
    assert (row["replayed_from"], row["concurrency_key"], row["idempotency_key"]) == (parsed, "c", None)
    assert (row["delayed_until"], row["expires_at"], row["parent_run_id"]) == (None, None, None)


async def test_a_payload_and_options_go_over_what_is_copied(client: httpx2.AsyncClient, engine: Engine) -> None:
    first = await trigger(client, payload={"a": 1}, queue={"name": "q"}, **COPIED)
    given = {"tags": [], "orderKey": "o", "delay": "1h", "queue": {"name": "other"}, "idempotencyKey": "again"}
    second = await replay(client, first, payload=[2], options=given)
    run = await show(client, second)
    assert (run["payload"], run["tags"], run["queue"], "delayedUntil" in run) == ([2], [], "other", True)
    [row] = await execute(engine, "SELECT * FROM headrace.runs WHERE id = $1", ids.parse_run_id(second))
    assert (row["order_key"], row["concurrency_key"]) == ("o", None)  # a run has one of them
    again = await client.post(f"/api/v1/runs/{first}/replay", json={"options": {"idempotencyKey": "again"}})
    assert again.json() == {"id": second, "isCached": True}


async def test_a_null_payload_is_a_payload(client: httpx2.AsyncClient) -> None:
    first = await trigger(client, payload={"a": 1})
    assert (await show(client, await replay(client, first, payload=None)))["payload"] is None


async def test_no_body_is_needed(client: httpx2.AsyncClient) -> None:
    first = await trigger(client, payload=1)
    answer = await client.post(f"/api/v1/runs/{first}/replay")
    assert answer.status_code == 200
    assert (await show(client, answer.json()["id"]))["payload"] == 1


async def test_whatever_became_of_the_first_one(client: httpx2.AsyncClient, engine: Engine) -> None:
    batch_id = await create(client, 2)
    await stream(client, batch_id, lines(range(2)))
    await finish_all(engine, fail=frozenset({0}))
    for run_id in (await client.get(f"/api/v2/batches/{batch_id}")).json()["runs"]:
        run = await show(client, await replay(client, run_id))
        assert (run["isQueued"], run["triggerFunction"]) == (True, "trigger")
        assert not {"batchId", "error"} & run.keys()
    assert (await client.get(f"/api/v2/batches/{batch_id}")).json()["status"] == "COMPLETED"


async def test_a_replay_of_a_replay_names_the_one_before_it(client: httpx2.AsyncClient) -> None:
    first = await trigger(client, payload=1)
    second = await replay(client, first)
    third = await replay(client, second)
    assert (await show(client, third))["replayedFrom"] == second


async def test_a_large_payload_is_shared_and_an_edited_one_is_its_own(
    client: httpx2.AsyncClient, engine: Engine
) -> None:
    large = "x" * (engine.settings.offload_threshold + 1)
    first = await trigger(client, payload=large)
    second = await replay(client, first)
    third = await replay(client, first, payload=large + "y")
    rows = await execute(engine, "SELECT id, payload, payload_type FROM headrace.runs")
    paths = {ids.format_run_id(row["id"]): bytes(row["payload"]) for row in rows}
    assert {row["payload_type"] for row in rows} == {"application/store"}
    assert paths[first] == paths[second] != paths[third]
    for run_id, payload in ((second, large), (third, large + "y")):
        assert (await show(client, run_id))["payload"] == payload
    refused = await client.post(f"/api/v1/runs/{first}/replay", json={"payload": large, "options": {"delay": "soon"}})
    assert refused.status_code == 422
    assert (await show(client, first))["payload"] == large


async def test_a_request_that_is_sent_again_makes_one_run(client: httpx2.AsyncClient, engine: Engine) -> None:
    first, other = await trigger(client, payload=1), await trigger(client, payload=2)
    headers = {"x-trigger-request-idempotency-key": "r"}
    answers = [await client.post(f"/api/v1/runs/{first}/replay", headers=headers) for _ in range(2)]
    assert answers[0].json() == answers[1].json()
    conflict = await client.post(f"/api/v1/runs/{other}/replay", headers=headers)
    assert conflict.status_code == 409
    assert len(await execute(engine, "SELECT FROM headrace.runs")) == 3


@pytest.mark.parametrize(
    ("body", "status", "said"),
    [
        ({"options": {"delay": "soon"}}, 422, "delay is 'soon'"),
        ({"options": {"payloadType": "text/plain"}}, 422, "payloadType"),
        ({"payload": 1, "options": {"payloadType": "application/store"}}, 422, "application/store"),
        ({"options": {"tags": ["t"] * 11}}, 400, "10"),
        ({"options": 5}, 400, "options"),
        ([], 400, "object"),
    ],
)
async def test_what_can_not_be_leaves_nothing(
    client: httpx2.AsyncClient, engine: Engine, body: Any, status: int, said: str
) -> None:
    first = await trigger(client, payload=1)
    answer = await client.post(f"/api/v1/runs/{first}/replay", json=body)
    assert answer.status_code == status, answer.text
    assert said in answer.text
    assert len(await execute(engine, "SELECT FROM headrace.runs")) == 1


async def test_runs_that_are_not_there_or_not_the_callers(
    client: httpx2.AsyncClient, engine: Engine, environment: Environment
) -> None:
    first = await trigger(client, payload=1)
    for missing in (NOBODY, "nonsense"):
        answer = await client.post(f"/api/v1/runs/{missing}/replay")
        assert (answer.status_code, answer.json()) == (404, {"error": "Run not found"})
    other = await keys.create_key(engine, "prod", "other")
    answer = await client.post(f"/api/v1/runs/{first}/replay", headers={"authorization": f"Bearer {other.secret}"})
    assert answer.status_code == 404
    for scope, status in (("read:runs", 403), (f"write:runs:{NOBODY}", 403), (f"write:runs:{first}", 200)):
        token = tokens.mint_token(environment, [scope])
        answer = await client.post(f"/api/v1/runs/{first}/replay", headers={"authorization": f"Bearer {token}"})
        assert answer.status_code == status


async def test_clients_and_the_command(client: httpx2.AsyncClient, server: RunningServer, engine: Engine) -> None:
    first = await trigger(client, payload={"a": 1}, tags=["x"])
    async with AsyncClient(server.url, api_key=server.key) as sdk:
        handle = await sdk.replay_run(first, payload={"a": 2}, max_attempts=2)
        assert (await handle.retrieve())["payload"] == {"a": 2}
    env = clean_environment(api_url=server.url, api_key=server.key)
    told = run_headrace("run", "replay", first, "--tags", "y", "--json", env=env)
    assert told.returncode == 0, told.stderr
    said = json.loads(told.stdout)
    assert said["replayedFrom"] == first
    assert (await show(client, said["id"]))["tags"] == ["y"]
    assert run_headrace("run", "replay", first, "--payload", "{", env=env).returncode == 2
    assert run_headrace("run", "replay", first, "--delay", "soon", env=env).returncode == 2
    assert run_headrace("run", "replay", NOBODY, env=env).returncode == 4
    assert run_headrace("run", "replay", first, "--wait", "0.1s", env=env).returncode == 1
    assert f"replays   {first}" in run_headrace("run", "show", said["id"], env=env).stdout


def test_the_blocking_client(server: RunningServer) -> None:
    with Client(server.url, api_key=server.key) as sdk:
        first = sdk.trigger("t", {"a": 1}, tags=["x"])
        second = sdk.replay_run(first.id)
        assert second.retrieve()["payload"] == {"a": 1}
