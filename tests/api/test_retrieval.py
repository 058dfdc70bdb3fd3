"""Batches as they are read: research/batch.md 1.3, results, pages and long polls."""

from __future__ import annotations

import asyncio
import json
import re
import time
from dataclasses import replace

import httpx2
import pytest
from tests.api.support import create, finish_all, force, item, lines, retrieve, stream
from tests.server_fixture import RunningServer

from headrace import ids
from headrace.engine import keys
from headrace.engine.engine import Engine
from headrace.settings import Settings

pytestmark = pytest.mark.anyio

NOBODY = "batch_06f3q1c2k8g5m0t7n400000002"


@pytest.fixture
def settings(settings: Settings) -> Settings:
    return replace(settings, item_max_size=4096, offload_threshold=2048)


async def fill(client: httpx2.AsyncClient, count: int) -> str:
    batch_id = await create(client, count)
    assert (await stream(client, batch_id, lines(range(count)))).json()["sealed"] is True
    return batch_id


async def test_a_batch_in_both_shapes(client: httpx2.AsyncClient, engine: Engine) -> None:
    response = await client.post("/api/v3/batches", json={"runCount": 3, "idempotencyKey": "k"})
    batch_id = response.json()["id"]
    await stream(client, batch_id, lines([2, 0]) + item(1, "x" * 5000))
    await finish_all(engine, fail=frozenset({2}))
    batch = ids.parse_batch_id(batch_id)
    assert batch is not None
    runs = [ids.format_run_id(ids.item_run_id(batch, index)) for index in range(3)]
    v2 = await retrieve(client, batch_id)
    [error] = v2["processing"]["errors"]
    assert v2 == {
        "id": batch_id,
        "status": "PARTIAL_FAILED",
        "idempotencyKey": "k",
        "createdAt": v2["createdAt"],
        "updatedAt": v2["updatedAt"],
        "processingCompletedAt": v2["processingCompletedAt"],
        "runCount": 3,
        "runs": runs,
        "processing": {"completedAt": v2["processingCompletedAt"], "errors": [error]},
        "progress": {"accepted": 3, "settled": 3, "succeeded": 1, "failed": 2},
    }
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", v2["createdAt"])
    assert (error["index"], error["errorCode"]) == (1, "PAYLOAD_TOO_LARGE")
    v1 = (await client.get(f"/api/v1/batches/{batch_id}")).json()
    assert v1 == {
        "id": batch_id,
        "status": "PARTIAL_FAILED",
        "idempotencyKey": "k",
        "createdAt": v2["createdAt"],
        "updatedAt": v2["updatedAt"],
        "runCount": 3,
        "runs": runs,
        "successfulRunCount": 2,
        "failedRunCount": 1,
        "errors": [error],
        "progress": v2["progress"],
    }


async def test_an_unsealed_batch_in_the_older_shape(client: httpx2.AsyncClient) -> None:
    batch_id = await create(client, 3)
    await stream(client, batch_id, lines([0]))
    v1 = (await client.get(f"/api/v1/batches/{batch_id}")).json()
    assert v1["status"] == "PENDING"
    assert len(v1["runs"]) == 1
    assert not {"successfulRunCount", "failedRunCount", "errors", "idempotencyKey"} & v1.keys()


@pytest.mark.parametrize("path", ["/api/v1/batches/{}", "/api/v2/batches/{}", "/api/v2/batches/{}?wait=0.1"])
@pytest.mark.parametrize("batch_id", [NOBODY, "nonsense", "run_06f3q1c2k8g5m0t7n400000002"])
async def test_a_batch_that_is_not_there(client: httpx2.AsyncClient, path: str, batch_id: str) -> None:
    response = await client.get(path.format(batch_id))
    assert (response.status_code, response.json()) == (404, {"error": "Not found"})
    assert response.headers["x-should-retry"] == "false"


async def test_a_batch_of_another_environment(client: httpx2.AsyncClient, engine: Engine) -> None:
    batch_id = await fill(client, 1)
    key = await keys.create_key(engine, "staging", "test")
    other = {"authorization": f"Bearer {key.secret}"}
    for path in ("/api/v1/batches/{}", "/api/v2/batches/{}", "/api/v1/batches/{}/results"):
        assert (await client.get(path.format(batch_id), headers=other)).status_code == 404


async def test_any_origin_may_read(client: httpx2.AsyncClient) -> None:
    batch_id = await fill(client, 1)
    for path in ("/api/v1/batches/{}", "/api/v2/batches/{}", "/api/v2/batches/nonsense"):
        answer = await client.get(path.format(batch_id), headers={"origin": "https://example.org"})
        assert answer.headers["access-control-allow-origin"] == "*"
        assert "x-trigger-jwt" in answer.headers["access-control-expose-headers"]
        preflight = {"origin": "https://example.org", "access-control-request-method": "GET"}
        assert (await client.options(path.format(batch_id), headers=preflight)).status_code == 200


async def test_fault_21_results_of_finished_items(client: httpx2.AsyncClient, engine: Engine) -> None:
    """Fault 21: they are there, in the order of the items, whatever the order in which they ended."""
    batch_id = await fill(client, 5)
    batch = ids.parse_batch_id(batch_id)
    assert batch is not None
    empty = await client.get(f"/api/v1/batches/{batch_id}/results")
    assert (empty.status_code, empty.json()) == (200, {"id": batch_id, "items": []})
    await finish_all(engine, fail=frozenset({1}), limit=3)
    answer = (await client.get(f"/api/v1/batches/{batch_id}/results")).json()
    runs = [ids.format_run_id(ids.item_run_id(batch, index)) for index in range(5)]
    error = {"type": "BUILT_IN_ERROR", "name": "ValueError", "message": "no", "stackTrace": "at x"}
    assert [one["index"] for one in answer["items"]] == [0, 1, 2]
    assert answer["items"][0] == {
        "ok": True,
        "id": runs[0],
        "taskIdentifier": "t",
        "output": '{"n": 0}',
        "outputType": "application/json",
        "index": 0,
        "status": "COMPLETED",
    }
    assert answer["items"][1] == {
        "ok": False,
        "id": runs[1],
        "taskIdentifier": "t",
        "error": error,
        "index": 1,
        "status": "FAILED",
    }
    await finish_all(engine)
    done = await retrieve(client, batch_id)
    assert done["status"] == "COMPLETED"
    assert done["progress"] == {"accepted": 5, "settled": 5, "succeeded": 4, "failed": 1}


async def test_fault_21_a_partial_failure_stays_one(client: httpx2.AsyncClient, engine: Engine) -> None:
    """Fault 21: PARTIAL_FAILED is where such a batch ends, and its results tell of every index."""
    batch_id = await create(client, 2)
    await stream(client, batch_id, lines([0]) + item(1, "x" * 5000))
    await finish_all(engine)
    assert (await retrieve(client, batch_id))["status"] == "PARTIAL_FAILED"
    results = (await client.get(f"/api/v1/batches/{batch_id}/results")).json()["items"]
    assert [(one["index"], one["ok"]) for one in results] == [(0, True), (1, False)]
    assert results[1]["error"]["code"] == "PAYLOAD_TOO_LARGE"


async def test_results_of_all_failed_items(client: httpx2.AsyncClient) -> None:
    """A batch of which nothing could start ends at its seal."""
    batch_id = await create(client, 2)
    await stream(client, batch_id, item(0, "x" * 5000) + item(1, "x" * 5000))
    batch = await retrieve(client, batch_id)
    assert batch["status"] == "ABORTED"
    results = (await client.get(f"/api/v1/batches/{batch_id}/results")).json()["items"]
    assert [one["ok"] for one in results] == [False, False]


async def test_results_in_pages(client: httpx2.AsyncClient, engine: Engine) -> None:
    batch_id = await fill(client, 250)
    await finish_all(engine)
    whole = (await client.get(f"/api/v1/batches/{batch_id}/results")).json()["items"]
    assert [one["index"] for one in whole] == list(range(250))
    pages: list[int] = []
    after = -1
    while True:
        page = (await client.get(f"/api/v1/batches/{batch_id}/results?after={after}&limit=120")).json()["items"]
        if not page:
            break
        assert len(page) <= 120
        pages += [one["index"] for one in page]
        after = page[-1]["index"]
    assert pages == list(range(250))


@pytest.mark.parametrize("query", ["after=x", "after=-2", "limit=0", "limit=x", "limit=", "after=2147483648"])
async def test_a_page_that_is_none(client: httpx2.AsyncClient, query: str) -> None:
    response = await client.get(f"/api/v1/batches/{await create(client)}/results?{query}")
    assert (response.status_code, response.json()["error"]) == (400, "Query Error")


async def test_results_of_nothing(client: httpx2.AsyncClient, server: RunningServer) -> None:
    response = await client.get(f"/api/v1/batches/{NOBODY}/results")
    assert (response.status_code, response.json()) == (404, {"error": "Batch not found"})


async def test_a_large_output_comes_inline(client: httpx2.AsyncClient, engine: Engine) -> None:
    """Wherever it lies: who reads a result has no way into the payload store."""
    batch_id = await create(client, 1)
    await stream(client, batch_id, item(0, "y" * 3000))
    await finish_all(engine)
    [result] = (await client.get(f"/api/v1/batches/{batch_id}/results")).json()["items"]
    assert json.loads(result["output"]) == "y" * 3000
    assert result["outputType"] == "application/json"


async def test_a_long_poll_answers_when_the_batch_ends(client: httpx2.AsyncClient, engine: Engine) -> None:
    batch_id = await fill(client, 3)
    polling = asyncio.create_task(client.get(f"/api/v2/batches/{batch_id}?wait=60"))
    started = time.perf_counter()
    await asyncio.sleep(0.1)  # the poll is to be waiting; nothing depends on it having begun
    assert not polling.done()
    await finish_all(engine)
    assert (await polling).json()["status"] == "COMPLETED"
    assert time.perf_counter() - started < 40


async def test_a_long_poll_ends_with_its_time(client: httpx2.AsyncClient) -> None:
    batch_id = await fill(client, 1)
    answer = await client.get(f"/api/v2/batches/{batch_id}?wait=0.2")
    assert answer.json()["status"] == "PROCESSING"
    ended = await create(client)
    assert (await client.get(f"/api/v2/batches/{ended}?wait=x")).status_code == 400
    assert (await client.get(f"/api/v2/batches/{ended}?wait=-1")).status_code == 400
    assert (await client.get(f"/api/v2/batches/{ended}?wait=nan")).status_code == 400


async def test_an_ended_batch_answers_a_long_poll_at_once(client: httpx2.AsyncClient, engine: Engine) -> None:
    batch_id = await create(client)
    await force(engine, batch_id, "status = 'ABORTED', completed_at = now()")
    started = time.perf_counter()
    assert (await client.get(f"/api/v2/batches/{batch_id}?wait=30")).json()["status"] == "ABORTED"
    assert time.perf_counter() - started < 20


async def test_a_large_batch_lists_no_runs(client: httpx2.AsyncClient, engine: Engine) -> None:
    """Beyond ten thousand items the ids are left to the pages of results."""
    batch_id = await create(client, 10_001)
    await stream(client, batch_id, b"".join(b'{"index":%d,"task":"t"}\n' % n for n in range(10_001)))
    batch = await retrieve(client, batch_id)
    assert (batch["runs"], batch["progress"]["accepted"]) == ([], 10_001)
    small = await fill(client, 10)
    assert len((await retrieve(client, small))["runs"]) == 10
