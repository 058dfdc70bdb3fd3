"""GET and PUT /api/v1/runs/{id}/metadata."""

from __future__ import annotations

import asyncio
import json
from dataclasses import replace
from typing import Any

import httpx2
import pytest
from tests.api.support import execute
from tests.server_fixture import RunningServer, running_server

from headrace import ApiError, AsyncClient, ConfigurationError, PayloadError
from headrace.engine.engine import Engine
from headrace.settings import Settings

pytestmark = pytest.mark.anyio

MISSING = "/api/v1/runs/run_nonesuch/metadata"


async def trigger(client: httpx2.AsyncClient, parent: str | None = None, **options: Any) -> str:
    """The id of a new run."""
    body = {"payload": 1, "options": options, **({"parentRunId": parent} if parent else {})}
    response = await client.post("/api/v1/tasks/t/trigger", json=body)
    assert response.status_code == 200, response.text
    return response.json()["id"]


async def read(client: httpx2.AsyncClient, run_id: str) -> Any:
    """What GET says."""
    response = await client.get(f"/api/v1/runs/{run_id}/metadata")
    assert response.status_code == 200, response.text
    assert response.json()["metadataType"] == "application/json"
    return response.json()["metadata"]


async def put(client: httpx2.AsyncClient, run_id: str, body: Any, **headers: str) -> httpx2.Response:
    """The answer to a PUT."""
    return await client.put(f"/api/v1/runs/{run_id}/metadata", json=body, headers=headers)


async def test_metadata_begins_as_the_trigger_says_and_is_changed_by_operations(client: httpx2.AsyncClient) -> None:
    run_id = await trigger(client, metadata={"n": 1, "log": ["a", "b"]})
    assert await read(client, run_id) == {"n": 1, "log": ["a", "b"]}
    operations = [
        {"type": "set", "key": "stage", "value": {"name": "x"}},
        {"type": "increment", "key": "n", "value": 1.5},
        {"type": "append", "key": "log", "value": "c"},
        {"type": "remove", "key": "log", "value": "a"},
        {"type": "set", "key": "$.stage.done", "value": True},
        {"type": "set", "key": "gone", "value": 1},
        {"type": "delete", "key": "gone"},
    ]
    response = await put(client, run_id, {"operations": operations})
    changed = {"n": 2.5, "log": ["b", "c"], "stage": {"name": "x", "done": True}}
    assert (response.status_code, response.json()["metadata"]) == (200, changed)
    assert await read(client, run_id) == changed
    shown = (await client.get(f"/api/v3/runs/{run_id}")).json()
    assert shown["metadata"] == changed
    response = await put(client, run_id, {"operations": [{"type": "update", "value": {"all": "new"}}]})
    assert response.json()["metadata"] == {"all": "new"}


async def test_metadata_is_replaced_as_a_whole_by_a_body_that_has_it(client: httpx2.AsyncClient) -> None:
    run_id = await trigger(client)
    assert await read(client, run_id) == {}
    for metadata in ({"a": 1}, {"b": None}, {}):
        response = await put(client, run_id, {"metadata": metadata})
        assert (response.status_code, response.json()["metadata"]) == (200, metadata)
        assert await read(client, run_id) == metadata
    assert (await put(client, run_id, {})).json()["metadata"] == {}


async def test_operations_go_to_the_parent_and_the_root_as_well_all_or_none(client: httpx2.AsyncClient) -> None:
    root = await trigger(client)
    parent = await trigger(client, root)
    child = await trigger(client, parent)
    plus = [{"type": "increment", "key": "n", "value": 1}]
    body = {"operations": plus, "parentOperations": plus * 2, "rootOperations": plus * 3}
    assert (await put(client, child, body)).json()["metadata"] == {"n": 1}
    assert [await read(client, one) for one in (child, parent, root)] == [{"n": 1}, {"n": 2}, {"n": 3}]
    wrong = [{"type": "append", "key": "n", "value": 1}]
    for part in body:
        response = await put(client, child, {**body, part: wrong})
        assert (response.status_code, "which is no list" in response.json()["error"]) == (422, True)
    response = await put(client, child, {"parentOperations": plus})
    assert response.json()["metadata"] == {"n": 1}, "it answers the run's own"
    assert [await read(client, one) for one in (child, parent, root)] == [{"n": 1}, {"n": 3}, {"n": 3}]
    assert (await put(client, root, body)).json()["metadata"] == {"n": 9}, "it is its own parent and root"


@pytest.mark.parametrize(
    ("body", "status", "told"),
    [
        (b"", 400, "Request body is empty"),
        (b"[]", 400, "object"),
        (b"{", 400, "Invalid JSON"),
        (b'{"metadata": []}', 400, "metadata"),
        (b'{"metadata": "text"}', 400, "metadata"),
        (b'{"operations": {}}', 400, "operations"),
        (b'{"operations": [{"type": "multiply", "key": "a", "value": 2}]}', 400, "operations[0].type"),
        (b'{"operations": [{"type": "increment", "key": "a", "value": "2"}]}', 400, "operations[0].value"),
        (b'{"operations": [{"type": "increment", "key": "a", "value": true}]}', 400, "operations[0].value"),
        (b'{"operations": [{"type": "set", "key": 1, "value": 2}]}', 400, "operations[0].key"),
        (b'{"operations": [{"type": "set", "key": "a"}]}', 400, "value"),
        (b'{"operations": [{"type": "update", "value": []}]}', 400, "operations[0].value"),
        (b'{"metadata": {}, "operations": [{"type": "delete", "key": "a"}]}', 400, "give one of them"),
        (
            b'{"operations": [{"type": "increment", "key": "text", "value": 2}]}',
            422,
            "there is 'x', which is no number",
        ),
        (b'{"operations": [{"type": "append", "key": "text", "value": 2}]}', 422, "there is 'x', which is no list"),
        (b'{"operations": [{"type": "set", "key": "$.text.a", "value": 2}]}', 422, "no object and no list"),
        (b'{"operations": [{"type": "set", "key": "$.a[*]", "value": 2}]}', 422, "no path"),
        (b'{"operations": [{"type": "set", "key": "a", "value": "\\u0000"}]}', 422, "NUL"),
        (b'{"operations": [{"type": "set", "key": "\\u0000", "value": 1}]}', 422, "NUL"),
        (json.dumps({"metadata": {"a": "x" * 300_000}}).encode(), 422, "may have 262144 (HEADRACE_METADATA_MAX_SIZE)"),
        (json.dumps({"metadata": {"a": "x" * 4_000_000}}).encode(), 413, "large"),
    ],
)
async def test_what_is_wrong_is_said_and_changes_nothing(
    client: httpx2.AsyncClient, body: bytes, status: int, told: str
) -> None:
    run_id = await trigger(client, metadata={"text": "x"})
    headers = {"content-type": "application/json"}
    response = await client.put(f"/api/v1/runs/{run_id}/metadata", content=body, headers=headers)
    assert response.status_code == status, response.text
    assert told in response.text
    assert await read(client, run_id) == {"text": "x"}


async def test_there_is_no_metadata_of_what_is_not_there(client: httpx2.AsyncClient, engine: Engine) -> None:
    for run_id in ("run_nonesuch", "batch_1", "run_00000000000000000000000000"):
        assert (await client.get(f"/api/v1/runs/{run_id}/metadata")).status_code == 404
        assert (await put(client, run_id, {"metadata": {}})).status_code == 404
    assert not await execute(engine, "SELECT FROM headrace.runs")


async def test_metadata_of_an_ended_run_takes_changes_for_an_hour(client: httpx2.AsyncClient, engine: Engine) -> None:
    run_id = await trigger(client, metadata={"n": 0})
    assert (await client.post(f"/api/v2/runs/{run_id}/cancel")).status_code == 200
    plus = {"operations": [{"type": "increment", "key": "n", "value": 1}]}
    assert (await put(client, run_id, plus)).status_code == 200
    await execute(engine, "UPDATE headrace.runs SET finished_at = now() - interval '59 minutes'")
    assert (await put(client, run_id, plus)).status_code == 200
    await execute(engine, "UPDATE headrace.runs SET finished_at = now() - interval '61 minutes'")
    response = await put(client, run_id, plus)
    assert (response.status_code, "ended over an hour ago" in response.json()["error"]) == (422, True)
    assert await read(client, run_id) == {"n": 2}


async def test_a_put_that_is_sent_again_is_done_once(client: httpx2.AsyncClient) -> None:
    run_id = await trigger(client)
    plus = {"operations": [{"type": "increment", "key": "n", "value": 1}]}
    header = {"x-trigger-request-idempotency-key": "one"}
    answers = await asyncio.gather(*(put(client, run_id, plus, **header) for _ in range(5)))
    assert [answer.json()["metadata"] for answer in answers] == [{"n": 1}] * 5
    other = await put(client, run_id, {"metadata": {}}, **header)
    assert (other.status_code, other.headers["x-should-retry"]) == (409, "false")
    assert (await put(client, run_id, plus, **{"x-trigger-request-idempotency-key": "two"})).json()["metadata"] == {
        "n": 2
    }


async def test_a_token_of_one_run_reads_that_run_and_writes_nothing(client: httpx2.AsyncClient) -> None:
    made = await client.post("/api/v1/tasks/t/trigger", json={"payload": 1})
    run_id, token = made.json()["id"], made.headers["x-trigger-jwt"]
    other = await trigger(client)
    headers = {"authorization": f"Bearer {token}"}
    assert (await client.get(f"/api/v1/runs/{run_id}/metadata", headers=headers)).status_code == 200
    assert (await client.get(f"/api/v1/runs/{other}/metadata", headers=headers)).status_code == 403
    assert (await put(client, run_id, {"metadata": {}}, **headers)).status_code == 403
    assert (await client.get(MISSING, headers={"authorization": ""})).status_code == 401


async def test_a_first_metadata_has_the_same_limit_in_triggers_and_batches(settings: Settings) -> None:
    with running_server(replace(settings, metadata_max_size=64)) as server:
        headers = {"authorization": f"Bearer {server.key}"}
        async with httpx2.AsyncClient(base_url=server.url, headers=headers, timeout=30) as client:
            large = {"metadata": {"a": "x" * 60}}
            single = await client.post("/api/v1/tasks/t/trigger", json={"payload": 1, "options": large})
            items = [{"task": "t", "payload": 1}, {"task": "t", "payload": 1, "options": large}]
            several = await client.post("/api/v2/tasks/batch", json={"items": items})
            batch = (await client.post("/api/v3/batches", json={"runCount": 1})).json()["id"]
            line = json.dumps({"index": 0, "task": "t", "payload": 1, "options": large}).encode() + b"\n"
            streamed = await client.post(
                f"/api/v3/batches/{batch}/items", content=line, headers={"content-type": "application/x-ndjson"}
            )
            for answer in (single, several, streamed):
                assert answer.status_code == 422, answer.text
                assert "metadata has 68 bytes, but may have 64 (HEADRACE_METADATA_MAX_SIZE)" in answer.text
            assert (await client.get("/api/v1/runs")).json()["data"] == []


async def test_clients_read_and_change_metadata(server: RunningServer, client: httpx2.AsyncClient) -> None:
    run_id = await trigger(client, metadata={"log": ["a"], "old": 1})
    async with AsyncClient(server.url, api_key=server.key) as sdk:
        assert await sdk.retrieve_metadata(run_id) == {"log": ["a"], "old": 1}
        changed = await sdk.update_metadata(
            run_id, {"$.stage.name": "x"}, increment={"n": 2}, append={"log": "b"}, remove={"log": "a"}, delete="old"
        )
        assert changed == {"log": ["b"], "n": 2, "stage": {"name": "x"}}
        assert await sdk.update_metadata(run_id, {"b": 2}, replace={"a": 1}) == {"a": 1, "b": 2}
        with pytest.raises(ApiError, match="which is no list") as refused:
            await sdk.update_metadata(run_id, {"c": 1}, append={"a": 1})
        assert refused.value.status == 422
        with pytest.raises(ApiError, match="404"):
            await sdk.update_metadata("run_nonesuch", {"c": 1})
        with pytest.raises(ConfigurationError, match="asked for nothing"):
            await sdk.update_metadata(run_id)
        with pytest.raises(PayloadError):
            await sdk.update_metadata(run_id, {"c": object()})
        assert await sdk.retrieve_metadata(run_id) == {"a": 1, "b": 2}
