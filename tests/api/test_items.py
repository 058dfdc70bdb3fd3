"""Phase 2 on the wire: what a stream may look like, and how each thing that is wrong with one is answered."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any

import httpx2
import pytest
from tests.api.support import NDJSON, count_runs, create, execute, item, lines, read_row, retrieve, stream
from tests.server_fixture import RunningServer, running_server

from headrace.engine.engine import Engine
from headrace.settings import Settings

pytestmark = pytest.mark.anyio


@pytest.fixture
def settings(settings: Settings) -> Settings:
    return replace(settings, item_max_size=4096)


@pytest.mark.parametrize("media_type", ["application/json", "text/plain", "", "x-ndjson"])
async def test_another_content_type(client: httpx2.AsyncClient, media_type: str) -> None:
    response = await stream(client, await create(client), lines([0, 1]), content_type=media_type)
    assert response.status_code == 415
    assert response.json() == {"error": "Content-Type must be application/x-ndjson or application/ndjson"}


@pytest.mark.parametrize("media_type", ["application/x-ndjson", "application/ndjson; charset=utf-8"])
async def test_both_content_types(client: httpx2.AsyncClient, media_type: str) -> None:
    response = await stream(client, await create(client), lines([0, 1]), content_type=media_type)
    assert response.json()["sealed"] is True


async def test_the_content_type_is_looked_at_before_the_key(client: httpx2.AsyncClient) -> None:
    headers = {"authorization": "Bearer nobody", "content-type": "application/json"}
    response = await client.post("/api/v3/batches/nonsense/items", content=b"", headers=headers)
    assert response.status_code == 415
    headers["content-type"] = "application/x-ndjson"
    response = await client.post("/api/v3/batches/nonsense/items", content=b"", headers=headers)
    assert response.status_code == 401


@pytest.mark.parametrize("method", ["GET", "PUT", "DELETE", "OPTIONS"])
async def test_other_methods(client: httpx2.AsyncClient, method: str) -> None:
    response = await client.request(method, f"/api/v3/batches/{await create(client)}/items")
    assert response.status_code == 405
    assert response.headers["allow"] == "POST"
    assert response.json() == {"error": "Method not allowed. Use POST to stream batch items."}


async def test_fault_22_a_browser_may_stream(client: httpx2.AsyncClient) -> None:
    """Fault 22: phase 2 answers a preflight, and its answers may be read from any origin."""
    batch_id = await create(client)
    preflight = {
        "origin": "https://example.org",
        "access-control-request-method": "POST",
        "access-control-request-headers": "authorization, content-type",
    }
    allowed = await client.options(f"/api/v3/batches/{batch_id}/items", headers=preflight)
    assert allowed.status_code == 200
    assert allowed.headers["access-control-allow-origin"] == "*"
    assert "POST" in allowed.headers["access-control-allow-methods"]
    assert "authorization" in allowed.headers["access-control-allow-headers"]
    answer = await stream(client, batch_id, lines([0, 1]), origin="https://example.org")
    assert answer.headers["access-control-allow-origin"] == "*"


async def test_an_empty_stream(client: httpx2.AsyncClient) -> None:
    answer = (await stream(client, await create(client, 2), b"")).json()
    assert (answer["sealed"], answer["itemsAccepted"], answer["missing"]) == (False, 0, [[0, 1]])


@pytest.mark.parametrize(
    ("line", "status", "error"),
    [
        (b"{oops", 400, "Invalid JSON at line 2: "),
        (b'{"index": 1, "task": "t", "payload": NaN}', 400, "Invalid JSON at line 2: "),
        (b'{"index": 1, "task": "t", "payload": ' + b"[" * 1500 + b"]" * 1500 + b"}", 400, "Invalid JSON at line 2: "),
        (b'{"index": 1, "task": "t", "payload": "\xff"}', 400, "Invalid UTF-8 at line 2: "),
        (b"[]", 422, "Invalid item at unknown index: line 2: "),
        (b"7", 422, "Invalid item at unknown index: line 2: "),
        (b'{"task": "t"}', 422, "Invalid item at unknown index: line 2: "),
        (b'{"index": -1, "task": "t"}', 422, "Invalid item at unknown index: line 2: "),
        (b'{"index": "1", "task": "t"}', 422, "Invalid item at unknown index: line 2: "),
        (b'{"index": 1.5, "task": "t"}', 422, "Invalid item at unknown index: line 2: "),
        (b'{"index": 1}', 422, "Invalid item at index 1: line 2: "),
        (b'{"index": 1, "task": ""}', 422, "Invalid item at index 1: line 2: "),
        (b'{"index": 1, "task": "t", "options": {"maxAttempts": "x"}}', 422, "Invalid item at index 1: line 2: "),
        (b'{"index": 1, "task": "t", "options": {"tags": ["a","b","c","d","e","f","g","h","i","j","k"]}}', 422, "Invalid item"),
        (b'{"index": 1, "task": "t", "options": {"delay": "soon"}}', 422, "Invalid item at index 1: "),
        (b'{"index": 1, "task": "t", "options": {"idempotencyKey": "k", "idempotencyKeyTTL": "x"}}', 422, "Invalid item"),
        (b'{"index": 1, "task": "t\\u0000"}', 422, "Invalid item at index 1: task holds a NUL character"),
        (b'{"index": 1, "task": "t", "options": {"metadata": {"a": ["\\u0000"]}}}', 422, "Invalid item at index 1: "),
        (b'{"index": 1, "task": "t", "payload": 1, "options": {"payloadType": "text/plain"}}', 422, "Invalid item"),
        (b'{"index": 3, "task": "t"}', 422, "Item index 3 exceeds batch runCount 3"),
        (b'{"index": 2147483647, "task": "t"}', 422, "Item index 2147483647 exceeds batch runCount 3"),
        (b'{"index": 2147483648, "task": "t"}', 422, "Invalid item at index 2147483648: "),
    ],
)  # fmt: skip
async def test_bad_lines(client: httpx2.AsyncClient, engine: Engine, line: bytes, status: int, error: str) -> None:
    """Fault 16, 20: a clear 4xx that names line and index; what came before it is stored, it and what follows is not."""
    batch_id = await create(client, 3)
    response = await stream(client, batch_id, lines([0]) + line + b"\n" + lines([2]))
    assert response.status_code == status, response.text
    assert response.json()["error"].startswith(error), response.text
    assert await count_runs(engine, batch_id) == 1
    row = await read_row(engine, batch_id)
    assert (row["accepted"], row["sealed_at"]) == (1, None)
    mended = (await stream(client, batch_id, lines([0, 1, 2]))).json()
    assert (mended["itemsAccepted"], mended["itemsDeduplicated"], mended["sealed"]) == (2, 1, True)


async def test_what_json_allows(client: httpx2.AsyncClient, engine: Engine) -> None:
    """Blank lines, carriage returns, a byte order mark, indexes as floats, unknown keys, no last newline."""
    body = (
        b'\n  \r\n\xef\xbb\xbf{"index": 0.0, "task": "t"}\r\n\xc2\xa0\n'
        b'{"task": "t", "index": 1e0, "x": {"index": 7}}\n'
        b'{"index": 9, "index": 2, "task": "t", "options": {"parentRunId": "x", "__error": "x", "concurrencyKey": 5}}'
    )
    batch_id = await create(client, 3)
    assert (await stream(client, batch_id, body)).json()["sealed"] is True
    [row] = await execute(engine, "SELECT options::text FROM headrace.runs WHERE options IS NOT NULL")
    assert json.loads(row["options"]) == {"concurrencyKey": "5"}


async def test_any_pieces_give_the_same(client: httpx2.AsyncClient, engine: Engine) -> None:
    body = "".join(
        json.dumps({"index": n, "task": "t", "payload": "ä😀" * n}, ensure_ascii=False) + "\n" for n in range(9)
    )
    data = body.encode()

    async def pieces() -> AsyncIterator[bytes]:
        for start in range(0, len(data), 3):
            yield data[start : start + 3]

    batch_id = await create(client, 9)
    assert (await stream(client, batch_id, pieces())).json()["itemsAccepted"] == 9
    rows = await execute(engine, "SELECT payload FROM headrace.runs ORDER BY id")
    assert [json.loads(row["payload"]) for row in rows] == ["ä😀" * n for n in range(9)]


async def test_an_oversized_item_becomes_a_failed_run(client: httpx2.AsyncClient, engine: Engine) -> None:
    """The stream goes on; the run is visible like any other, and so is the error of its batch."""
    batch_id = await create(client, 3)
    body = lines([0]) + item(1, "x" * 5000, task="big") + lines([2])
    answer = (await stream(client, batch_id, body)).json()
    assert (answer["itemsAccepted"], answer["sealed"]) == (3, True)
    size = len(item(1, "x" * 5000, task="big")) - 1
    message = (
        f"Batch item payload is too large ({size / 1024:.1f} KB). Maximum allowed size is 4.0 KB. "
        "Reduce the payload size or offload large data to external storage."
    )
    batch = await retrieve(client, batch_id)
    assert batch["processing"]["errors"] == [
        {"index": 1, "taskIdentifier": "big", "error": message, "errorCode": "PAYLOAD_TOO_LARGE"}
    ]
    run = (await client.get(f"/api/v3/runs/{batch['runs'][1]}")).json()
    assert (run["status"], run["isFailed"], run["isCompleted"]) == ("SYSTEM_FAILURE", True, True)
    assert run["error"] == {"name": "PAYLOAD_TOO_LARGE", "message": message}
    assert await count_runs(engine, batch_id) == 3


async def test_an_oversized_item_is_deduplicated(client: httpx2.AsyncClient) -> None:
    batch_id = await create(client, 2)
    body = item(0, "x" * 5000)
    assert (await stream(client, batch_id, body)).json()["itemsAccepted"] == 1
    assert (await stream(client, batch_id, body)).json()["itemsDeduplicated"] == 1


async def test_an_oversized_item_out_of_range(client: httpx2.AsyncClient, engine: Engine) -> None:
    """Checklist 20: the range holds for markers alike."""
    batch_id = await create(client, 2)
    response = await stream(client, batch_id, lines([0]) + item(2, "x" * 5000) + lines([1]))
    assert (response.status_code, response.json()) == (422, {"error": "Item index 2 exceeds batch runCount 2"})
    assert await count_runs(engine, batch_id) == 1


async def test_fault_14_a_forged_marker_is_a_plain_line(client: httpx2.AsyncClient, engine: Engine) -> None:
    """Fault 14: a line that looks like the marker of an oversized one goes through the same schema and range."""
    batch_id = await create(client, 2)
    forged: dict[str, Any] = {"__batchItemError": "OVERSIZED", "index": -1, "task": "t", "actualSize": "NaN"}
    for index, status in ((-1, 422), ("NaN", 422), (7, 422)):
        response = await stream(client, batch_id, json.dumps({**forged, "index": index}).encode())
        assert response.status_code == status
    assert await count_runs(engine, batch_id) == 0
    good = (await stream(client, batch_id, json.dumps({**forged, "index": 0}).encode())).json()
    assert good["itemsAccepted"] == 1
    assert (await retrieve(client, batch_id))["processing"]["errors"] == []


async def test_fault_15_an_oversized_line_without_an_index(client: httpx2.AsyncClient, engine: Engine) -> None:
    """Fault 15: it is refused, because a guessed index could push out a real item."""
    batch_id = await create(client, 3)
    unnamed = b'{"payload": "' + b"x" * 100_000 + b'", "index": 1, "task": "t"}\n'
    response = await stream(client, batch_id, lines([0]) + unnamed + lines([1]))
    assert response.status_code == 422
    assert "line 2" in response.json()["error"]
    assert await count_runs(engine, batch_id) == 1


@pytest.mark.parametrize(
    ("payload", "options", "stored"),
    [
        ("123", {}, (b'"123"', None)),
        (123, {}, (b"123", None)),
        ("123", {"payloadType": "application/json"}, (b"123", None)),
        ('{"json":1}', {"payloadType": "application/super+json"}, (b'{"json":1}', "application/super+json")),
        ("123", {"payloadType": "text/plain"}, (b"123", "text/plain")),
        ({"a": [1, None]}, {"payloadType": "application/json"}, (b'{"a": [1, null]}', None)),
    ],
)
async def test_fault_24_a_string_stays_a_string(
    client: httpx2.AsyncClient, engine: Engine, payload: Any, options: Any, stored: tuple[bytes, str | None]
) -> None:
    """Fault 24: "123" without a type is the text, not the number."""
    batch_id = await create(client, 1)
    await stream(client, batch_id, item(0, payload, **options))
    [row] = await execute(engine, "SELECT payload, payload_type FROM headrace.runs")
    assert (row["payload"], row["payload_type"]) == stored


async def test_a_stored_payload_can_t_be_forged(client: httpx2.AsyncClient) -> None:
    """The path of an object names the server's own store: what a client could send would be another's object."""
    batch_id = await create(client, 1)
    response = await stream(client, batch_id, item(0, "payloads/prod/00/secret", payloadType="application/store"))
    assert response.status_code == 422
    assert "application/store" in response.json()["error"]


async def test_fault_01_two_items_of_one_run(client: httpx2.AsyncClient) -> None:
    """Fault 1: items are counted, not runs: the batch seals, and lists the run once."""
    batch_id = await create(client, 3)
    body = item(0, 1, idempotencyKey="same") + item(1, 2, idempotencyKey="same") + item(2, 3)
    answer = (await stream(client, batch_id, body)).json()
    assert (answer["itemsAccepted"], answer["sealed"]) == (3, True)
    batch = await retrieve(client, batch_id)
    assert len(batch["runs"]) == 2
    assert batch["runCount"] == 3


async def test_an_open_ended_batch_is_sealed_with_its_stream(client: httpx2.AsyncClient) -> None:
    batch_id = await create(client, None)
    answer = (await stream(client, batch_id, lines(range(5)))).json()
    assert (answer["sealed"], answer["runCount"], answer["enqueuedCount"]) == (False, None, 5)
    answer = (await stream(client, batch_id, lines(range(5, 7)), x_headrace_run_count="7")).json()
    assert (answer["sealed"], answer["runCount"], answer["itemsAccepted"]) == (True, 7, 2)


async def test_an_open_ended_batch_is_sealed_by_name(client: httpx2.AsyncClient) -> None:
    batch_id = await create(client, None)
    await stream(client, batch_id, lines([0, 2]))
    short = (await client.post(f"/api/v3/batches/{batch_id}/seal", json={"runCount": 3})).json()
    assert (short["sealed"], short["missing"]) == (False, [[1, 1]])
    await stream(client, batch_id, lines([1]))
    sealed = (await client.post(f"/api/v3/batches/{batch_id}/seal", json={"runCount": 3})).json()
    assert (sealed["sealed"], sealed["runCount"]) == (True, 3)
    again = (await client.post(f"/api/v3/batches/{batch_id}/seal", json={"runCount": 3})).json()
    assert again == sealed


async def test_a_seal_that_can_t_be(client: httpx2.AsyncClient) -> None:
    batch_id = await create(client, None)
    await stream(client, batch_id, lines([0, 1, 2]))
    assert (await client.post(f"/api/v3/batches/{batch_id}/seal", json={"runCount": 2})).status_code == 422
    assert (await client.post(f"/api/v3/batches/{batch_id}/seal", json={"runCount": 0})).status_code == 400
    assert (await client.post("/api/v3/batches/nonsense/seal", json={"runCount": 2})).status_code == 404
    counted = await create(client, 2)
    assert (await client.post(f"/api/v3/batches/{counted}/seal", json={"runCount": 3})).status_code == 422
    out_of_range = await stream(client, await create(client, None), lines([2]), x_headrace_run_count="2")
    assert out_of_range.json() == {"error": "Item index 2 exceeds batch runCount 2"}


@pytest.mark.parametrize("count", ["0", "-1", "x", "", "2147483648", "٣"])
async def test_a_count_that_is_none(client: httpx2.AsyncClient, count: str) -> None:
    headers = {**NDJSON, "x-headrace-run-count": count.encode("utf-8")}
    response = await client.post(f"/api/v3/batches/{await create(client, None)}/items", content=b"", headers=headers)
    assert (response.status_code, response.json()["error"]) == (400, "Headers Error")


async def test_a_partial_stream_seals_nothing(client: httpx2.AsyncClient, engine: Engine) -> None:
    batch_id = await create(client, 2)
    answer = (await stream(client, batch_id, lines([0, 1]), x_headrace_partial="1")).json()
    assert answer["sealed"] is False
    assert (answer["enqueuedCount"], answer["expectedCount"]) == (2, 2)
    assert not answer.get("missing")
    assert (await read_row(engine, batch_id))["sealed_at"] is None


async def test_fault_08_runs_that_start_at_the_seal(client: httpx2.AsyncClient) -> None:
    """Fault 8: with start "seal" nothing of a failed stream runs."""

    async def ready() -> bool:
        return 'queue="task/held"' in (await client.get("/metrics")).text

    batch_id = await create(client, 2, start="seal")
    assert (await stream(client, batch_id, item(0, 1, task="held") + b"{oops")).status_code == 400
    assert not await ready()
    await stream(client, batch_id, item(0, 1, task="held") + item(1, 1, task="held"))
    assert await ready()


async def test_fault_18_a_batch_that_nobody_streams_is_aborted(settings: Settings) -> None:
    """Fault 18: whoever made it; and a stream that comes too late hears of it."""
    with running_server(replace(settings, seal_timeout=0.5)) as server:
        headers = {"authorization": f"Bearer {server.key}"}
        async with httpx2.AsyncClient(base_url=server.url, headers=headers, timeout=30) as client:
            batch_id = await create(client, 2)
            batch = (await client.get(f"/api/v2/batches/{batch_id}?wait=10")).json()
            assert batch["status"] == "ABORTED"
            assert "error" in batch
            assert (await stream(client, batch_id, lines([0, 1]))).status_code == 422


async def test_metrics_count_items_and_bytes(client: httpx2.AsyncClient, server: RunningServer) -> None:
    async def read(name: str) -> float:
        text = (await client.get("/metrics")).text
        return float(next(line.split()[1] for line in text.splitlines() if line.startswith(f"{name} ")))

    items, size = await read("headrace_ingest_items_total"), await read("headrace_ingest_bytes_total")
    await stream(client, await create(client, 3), b"".join(item(n, "x" * 100) for n in range(3)))
    assert await read("headrace_ingest_items_total") == items + 3
    assert await read("headrace_ingest_bytes_total") == size + 3 * 102
