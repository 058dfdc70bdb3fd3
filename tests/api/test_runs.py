"""Runs as they are read: retrieved, listed, and their results awaited."""

from __future__ import annotations

import asyncio
from typing import Any
from uuid import UUID

import httpx2
import pytest
from tests.api.support import create, execute, finish_all, lines, stream

from headrace import ids
from headrace.engine import keys
from headrace.engine.engine import Engine

pytestmark = pytest.mark.anyio

NOBODY = "run_06f3q1c2k8g5m0t7n400000002"


async def trigger(client: httpx2.AsyncClient, task: str = "t", payload: Any = None, **options: Any) -> str:
    response = await client.post(f"/api/v1/tasks/{task}/trigger", json={"payload": payload, "options": options})
    assert response.status_code == 200, response.text
    return response.json()["id"]


async def test_a_queued_run(client: httpx2.AsyncClient) -> None:
    run_id = await trigger(client, payload={"a": [1]}, tags=["x"], metadata={"m": 1}, test=True, queue={"name": "q"})
    response = await client.get(f"/api/v3/runs/{run_id}")
    assert response.status_code == 200
    run = response.json()
    assert (run["id"], run["status"], run["taskIdentifier"], run["queue"]) == (run_id, "QUEUED", "t", "q")
    assert (run["payload"], run["tags"], run["metadata"], run["isTest"]) == ({"a": [1]}, ["x"], {"m": 1}, True)
    flags = {name: run[name] for name in run if name.startswith("is") and name != "isTest"}
    assert {name for name, value in flags.items() if value} == {"isQueued"}
    assert (run["attemptCount"], run["attempts"], run["triggerFunction"]) == (0, [], "trigger")
    assert not {"output", "error", "startedAt", "finishedAt"} & run.keys()


async def test_a_finished_run(client: httpx2.AsyncClient, engine: Engine) -> None:
    run_id = await trigger(client, payload={"a": 1})
    await finish_all(engine)
    run = (await client.get(f"/api/v3/runs/{run_id}")).json()
    assert (run["status"], run["output"], run["isSuccess"], run["isCompleted"]) == ("COMPLETED", {"a": 1}, True, True)
    assert (run["attemptCount"], run["attempts"][0]["status"]) == (1, "COMPLETED")
    assert run["durationMs"] >= 0
    assert run["finishedAt"] >= run["startedAt"]


async def test_a_failed_item(client: httpx2.AsyncClient, engine: Engine) -> None:
    batch_id = await create(client, 1)
    await stream(client, batch_id, lines([0]))
    await finish_all(engine, fail=frozenset({0}))
    run_id = (await client.get(f"/api/v2/batches/{batch_id}")).json()["runs"][0]
    run = (await client.get(f"/api/v3/runs/{run_id}")).json()
    assert (run["status"], run["isFailed"], run["batchId"]) == ("FAILED", True, batch_id)
    assert run["error"] == {"name": "ValueError", "message": "no", "stackTrace": "at x"}
    assert run["triggerFunction"] == "batchTrigger"


async def test_a_delayed_run(client: httpx2.AsyncClient) -> None:
    run = (await client.get(f"/api/v3/runs/{await trigger(client, delay='1h')}")).json()
    assert (run["status"], run["isQueued"]) == ("DELAYED", True)
    assert run["delayedUntil"] > run["createdAt"]


@pytest.mark.parametrize("path", ["/api/v3/runs/{}", "/api/v1/runs/{}/result", "/api/v1/runs/{}/result?wait=0.1"])
async def test_a_run_that_is_not_there(client: httpx2.AsyncClient, engine: Engine, path: str) -> None:
    run_id = await trigger(client)
    for missing in (NOBODY, "nonsense", run_id.replace("run_", "batch_")):
        response = await client.get(path.format(missing))
        assert (response.status_code, response.json()) == (404, {"error": "Not found"})
        assert response.headers["x-should-retry"] == "false"
    key = await keys.create_key(engine, "prod", "test")
    other = await client.get(path.format(run_id), headers={"authorization": f"Bearer {key.secret}"})
    assert (other.status_code, other.json()) == (404, {"error": "Not found"})


async def test_a_result_is_awaited(client: httpx2.AsyncClient, engine: Engine) -> None:
    run_id = await trigger(client, payload="text")
    unfinished = await client.get(f"/api/v1/runs/{run_id}/result")
    assert unfinished.status_code == 404
    assert unfinished.json() == {"error": "Run either doesn't exist or is not finished"}
    waited = await client.get(f"/api/v1/runs/{run_id}/result?wait=0.1")
    assert (waited.status_code, waited.json()) == (202, {"id": run_id, "status": "QUEUED"})
    polling = asyncio.create_task(client.get(f"/api/v1/runs/{run_id}/result?wait=20"))
    await finish_all(engine)
    answer = await polling
    assert answer.status_code == 200
    assert answer.json() == {
        "ok": True,
        "id": run_id,
        "taskIdentifier": "t",
        "output": '"text"',
        "outputType": "application/json",
        "status": "COMPLETED",
    }


async def test_runs_are_listed_in_pages(client: httpx2.AsyncClient) -> None:
    made = [await trigger(client, payload=number) for number in range(7)]
    newest_first = made[::-1]

    async def page(query: str) -> Any:
        response = await client.get(f"/api/v1/runs?{query}")
        assert response.status_code == 200, response.text
        return response.json()

    first = await page("page[size]=3")
    assert [run["id"] for run in first["data"]] == newest_first[:3]
    assert first["pagination"] == {"next": newest_first[2]}
    second = await page(f"page[size]=3&page[after]={first['pagination']['next']}")
    assert [run["id"] for run in second["data"]] == newest_first[3:6]
    assert second["pagination"] == {"next": newest_first[5], "previous": newest_first[3]}
    last = await page(f"page[size]=3&page[after]={second['pagination']['next']}")
    assert [run["id"] for run in last["data"]] == newest_first[6:]
    assert "next" not in last["pagination"]
    back = await page(f"page[size]=3&page[before]={second['pagination']['previous']}")
    assert [run["id"] for run in back["data"]] == newest_first[:3]
    assert len((await page(""))["data"]) == 7


async def test_runs_are_filtered(client: httpx2.AsyncClient, engine: Engine) -> None:
    a = await trigger(client, "a", tags=["red", "blue"])
    b = await trigger(client, "b", queue={"name": "other"})
    delayed = await trigger(client, "c", delay="1h")
    batch_id = await create(client, 2)
    await stream(client, batch_id, lines([0, 1]))
    await finish_all(engine, "b")
    first_id = UUID(hex="016f5e66e8007fffffffffffffffff00")  # of 2020-01-01, as the time of the run
    old = ids.format_run_id(first_id)
    await execute(
        engine,
        "UPDATE headrace.runs SET created_at = '2020-01-01', id = $1 WHERE id = $2",
        first_id,
        ids.parse_run_id(await trigger(client, "d")),
    )

    async def listed(query: str) -> list[str]:
        response = await client.get(f"/api/v1/runs?{query}")
        assert response.status_code == 200, response.text
        return sorted(run["id"] for run in response.json()["data"])

    everything = await listed("")
    assert len(everything) == 6
    assert await listed("filter[taskIdentifier]=a,b") == sorted([a, b])
    assert await listed("filter[taskIdentifier]=a&filter[taskIdentifier]=b") == sorted([a, b])
    assert await listed("filter[tag]=red") == [a]
    assert await listed("filter[queue]=other") == [b]
    assert await listed("filter[status]=COMPLETED") == [b]
    assert await listed("filter[status]=DELAYED") == [delayed]
    assert len(await listed(f"filter[batch]={batch_id}")) == 2
    assert await listed("filter[createdAt][to]=2020-06-01T00:00:00Z") == [old]
    assert await listed("filter[createdAt][to]=1590000000000") == [old]
    assert old not in await listed("filter[createdAt][period]=1h")
    assert old not in await listed("filter[createdAt][from]=2020-06-01")
    key = await keys.create_key(engine, "prod", "test")
    other = await client.get("/api/v1/runs", headers={"authorization": f"Bearer {key.secret}"})
    assert other.json() == {"data": [], "pagination": {}}


@pytest.mark.parametrize(
    "query",
    [
        "page[size]=0",
        "page[size]=101",
        "page[size]=x",
        "page[after]=nonsense",
        f"page[after]={NOBODY}&page[before]={NOBODY}",
        "filter[status]=WRONG",
        "filter[batch]=nonsense",
        "filter[createdAt][from]=yesterday",
        "filter[createdAt][period]=long",
        "filter[createdAt][to]=99999999999999999999",
        "filter[createdAt][to]=9999-12-31T23:59:59-12:00",
        "filter[tag]=%00",
    ],
)
async def test_a_list_that_can_t_be(client: httpx2.AsyncClient, query: str) -> None:
    response = await client.get(f"/api/v1/runs?{query}")
    assert (response.status_code, response.json()["error"]) == (400, "Query Error")
    assert response.json()["details"][0]["path"][0] in query
