"""Phase 2 in every state and at every moment: research/batch.md 3.1, rows a to l, and checklist items 1 to 16 and 19.

Rows that one store can no longer reach by itself are forced into their state by SQL.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

import httpx2
import pytest
from tests.api.support import RawStream, count_runs, create, execute, force, item, lines, read_row, stream, until
from tests.server_fixture import RunningServer

from headrace import ids
from headrace.engine import keys
from headrace.engine.engine import Engine

pytestmark = pytest.mark.anyio

DONE = {
    "processing": "status = 'PROCESSING', accepted = 2, highest_index = 1, sealed_at = now()",
    "processing, unsealed": "status = 'PROCESSING'",
    "completed": "status = 'COMPLETED', accepted = 2, highest_index = 1, sealed_at = now(), completed_at = now()",
    "completed, unsealed": "status = 'COMPLETED', completed_at = now()",
    "partial": "status = 'PARTIAL_FAILED', accepted = 2, highest_index = 1, sealed_at = now(), completed_at = now()",
    "partial, unsealed": "status = 'PARTIAL_FAILED', completed_at = now()",
    "pending, sealed": "accepted = 2, highest_index = 1, sealed_at = now()",
    "pending, all created": "processing_completed_at = now()",
}
"""Every state in which the work is done already."""

ABORTED = {
    "unsealed": "status = 'ABORTED', completed_at = now()",
    "sealed": "status = 'ABORTED', completed_at = now(), accepted = 2, highest_index = 1, sealed_at = now()",
}


def states(table: dict[str, str]) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("state", list(table.values()), ids=list(table))


@asynccontextmanager
async def race(engine: Engine, batch_id: str, assignments: str) -> AsyncGenerator[None]:
    """Changes a batch while the seal of a stream waits for its row: the seal looks at it only after this is committed."""
    async with engine.store.connect() as connection:
        transaction = connection.transaction()
        await transaction.start()
        sql = f"UPDATE headrace.batches SET {assignments} WHERE id = $1"
        await connection.execute(sql, ids.parse_batch_id(batch_id))
        yield
        waiting = """SELECT 1 FROM pg_stat_activity
            WHERE datname = current_database() AND wait_event_type = 'Lock' AND query LIKE '%SET sealed_at%'"""
        await until(lambda: execute(engine, waiting))
        await transaction.commit()


async def test_row_a_malformed_id(client: httpx2.AsyncClient) -> None:
    for malformed in ("nonsense", "batch_x", "run_06f3q1c2k8g5m0t7n4e9r2ab02"):
        response = await stream(client, malformed, lines([0]))
        assert (response.status_code, response.json()) == (400, {"error": f"Invalid batchFriendlyId: {malformed}"})


async def test_row_a_missing(client: httpx2.AsyncClient) -> None:
    missing = "batch_06f3q1c2k8g5m0t7n400000002"
    response = await stream(client, missing, lines([0]))
    assert (response.status_code, response.json()) == (404, {"error": f"Batch {missing} not found"})
    assert response.headers["x-should-retry"] == "false"


async def test_row_a_another_environment(client: httpx2.AsyncClient, engine: Engine) -> None:
    batch_id = await create(client, 2)
    key = await keys.create_key(engine, "prod", "test")
    response = await stream(client, batch_id, lines([0]), authorization=f"Bearer {key.secret}")
    assert (response.status_code, response.json()) == (404, {"error": f"Batch {batch_id} not found"})
    assert await count_runs(engine, batch_id) == 0


@states(DONE)
async def test_row_b_the_work_is_done_already(client: httpx2.AsyncClient, engine: Engine, state: str) -> None:
    """Checklist 2, 3, 6, 14. The body is not even read: it is no JSON here."""
    batch_id = await create(client, 2)
    await force(engine, batch_id, state)
    response = await stream(client, batch_id, b"this is no JSON\n" * 100_000)
    assert response.status_code == 200
    assert response.json() == {
        "id": batch_id,
        "itemsAccepted": 0,
        "itemsDeduplicated": 0,
        "sealed": True,
        "runCount": 2,
    }
    assert await count_runs(engine, batch_id) == 0


@states(ABORTED)
async def test_row_c_aborted(client: httpx2.AsyncClient, engine: Engine, state: str) -> None:
    """Checklist 4, 5: an error even when sealed, because nothing is left to wait for."""
    batch_id = await create(client, 2)
    await force(engine, batch_id, state)
    response = await stream(client, batch_id, lines([0, 1]))
    assert response.status_code == 422
    assert response.json() == {"error": f"Batch {batch_id} is not in PENDING status (current: ABORTED)"}
    assert await count_runs(engine, batch_id) == 0


async def test_row_d_open(client: httpx2.AsyncClient, engine: Engine) -> None:
    batch_id = await create(client, 3)
    response = await stream(client, batch_id, lines([0, 1]))
    assert response.json()["itemsAccepted"] == 2
    assert await count_runs(engine, batch_id) == 2


async def test_row_e_a_bad_item(client: httpx2.AsyncClient, engine: Engine) -> None:
    """The good items before it stay, the batch stays open, and the same stream mended ends sealed."""
    batch_id = await create(client, 3)
    response = await stream(client, batch_id, lines([0, 1]) + b"{oops\n" + lines([2]))
    assert response.status_code == 400
    assert response.json()["error"].startswith("Invalid JSON at line 3: ")
    assert await count_runs(engine, batch_id) == 2
    assert (await read_row(engine, batch_id))["sealed_at"] is None
    mended = (await stream(client, batch_id, lines([0, 1, 2]))).json()
    assert (mended["itemsAccepted"], mended["itemsDeduplicated"], mended["sealed"]) == (1, 2, True)


async def test_row_f_gone_while_it_streams(client: httpx2.AsyncClient, engine: Engine, server: RunningServer) -> None:
    batch_id = await create(client, 3)
    raw = await RawStream.open(server, batch_id)
    await raw.send(lines([0]))
    await until(lambda: count_runs(engine, batch_id))
    await execute(engine, "DELETE FROM headrace.batches WHERE id = $1", ids.parse_batch_id(batch_id))
    await raw.send(lines([1]))
    status, _, body = await raw.end()
    assert (status, body) == (404, {"error": f"Batch {batch_id} not found"})


async def test_row_g_the_seal(client: httpx2.AsyncClient, engine: Engine) -> None:
    """Checklist 1: everything is there already; an empty stream seals."""
    batch_id = await create(client, 2)
    await stream(client, batch_id, lines([0, 1]), x_headrace_partial="1")
    response = await stream(client, batch_id, b"")
    assert response.json() == {
        "id": batch_id,
        "itemsAccepted": 0,
        "itemsDeduplicated": 0,
        "sealed": True,
        "runCount": 2,
    }
    row = await read_row(engine, batch_id)
    assert row["status"] == "PROCESSING"
    assert row["sealed_at"] is not None
    assert row["processing_completed_at"] is not None


@states({name: state for name, state in DONE.items() if "sealed_at" not in state})
async def test_row_h_done_when_the_stream_ends(
    client: httpx2.AsyncClient, engine: Engine, server: RunningServer, state: str
) -> None:
    """Checklist 15: items are missing, but somebody else has finished the batch: success, with the real counts."""
    batch_id = await create(client, 2)
    raw = await RawStream.open(server, batch_id)
    await raw.send(lines([0]))
    await until(lambda: count_runs(engine, batch_id))
    await force(engine, batch_id, state)
    status, _, body = await raw.end()
    assert status == 200
    assert body == {"id": batch_id, "itemsAccepted": 1, "itemsDeduplicated": 0, "sealed": True, "runCount": 2}


async def test_row_h_done_while_it_streams(client: httpx2.AsyncClient, engine: Engine, server: RunningServer) -> None:
    """The stream is answered at once, without waiting for its end."""
    batch_id = await create(client, 3)
    raw = await RawStream.open(server, batch_id)
    await raw.send(lines([0]))
    await until(lambda: count_runs(engine, batch_id))
    await force(engine, batch_id, "status = 'PROCESSING'")
    await raw.send(lines([1]))
    status, _, body = await raw.read_response()
    assert (status, body["sealed"], body["itemsAccepted"]) == (200, True, 1)
    assert await count_runs(engine, batch_id) == 1


@states({"unsealed": ABORTED["unsealed"], "sealed": "status = 'ABORTED', completed_at = now(), sealed_at = now()"})
async def test_row_i_aborted_when_the_stream_ends(
    client: httpx2.AsyncClient, engine: Engine, server: RunningServer, state: str
) -> None:
    """Checklist 13: no sealed:false, which would make the client send everything again for nothing."""
    batch_id = await create(client, 2)
    raw = await RawStream.open(server, batch_id)
    await raw.send(lines([0]))
    await until(lambda: count_runs(engine, batch_id))
    await force(engine, batch_id, state)
    status, _, body = await raw.end()
    assert (status, body) == (422, {"error": f"Batch {batch_id} is not in PENDING status (current: ABORTED)"})


async def test_row_i_aborted_while_it_streams(
    client: httpx2.AsyncClient, engine: Engine, server: RunningServer
) -> None:
    batch_id = await create(client, 3)
    raw = await RawStream.open(server, batch_id)
    await raw.send(lines([0]))
    await until(lambda: count_runs(engine, batch_id))
    await force(engine, batch_id, ABORTED["unsealed"])
    await raw.send(lines([1]))
    status, _, body = await raw.read_response()
    assert (status, body) == (422, {"error": f"Batch {batch_id} is not in PENDING status (current: ABORTED)"})
    assert await count_runs(engine, batch_id) == 1


async def test_row_j_items_are_missing(client: httpx2.AsyncClient, engine: Engine) -> None:
    """Checklist 11: sealed:false with both counts, and which indexes are missing; the row is untouched."""
    batch_id = await create(client, 9)
    response = await stream(client, batch_id, lines([1, 2, 4, 8]))
    assert response.status_code == 200
    assert response.json() == {
        "id": batch_id,
        "itemsAccepted": 4,
        "itemsDeduplicated": 0,
        "sealed": False,
        "runCount": 9,
        "enqueuedCount": 4,
        "expectedCount": 9,
        "missing": [[0, 0], [3, 3], [5, 7]],
    }
    row = await read_row(engine, batch_id)
    assert (row["status"], row["sealed_at"], row["processing_completed_at"]) == ("PENDING", None, None)


@states(
    {
        "concurrent stream": "status = 'PROCESSING', sealed_at = now()",
        "completed": "status = 'COMPLETED', completed_at = now()",
        "partial": "status = 'PARTIAL_FAILED', completed_at = now()",
        "all created": "processing_completed_at = now(), sealed_at = now()",
    }
)
async def test_row_k_the_seal_is_lost_to_somebody_who_sealed(
    client: httpx2.AsyncClient, engine: Engine, server: RunningServer, state: str
) -> None:
    """Checklist 7, 8, 9, 12: the goal is reached, by somebody else; what that one wrote stays as it is."""
    batch_id = await create(client, 2)
    raw = await RawStream.open(server, batch_id)
    await raw.send(lines([0, 1]))
    await until(lambda: _stored(engine, batch_id, 2))
    async with race(engine, batch_id, state):
        answer = asyncio.create_task(raw.end())
    status, _, body = await answer
    assert status == 200
    assert body == {"id": batch_id, "itemsAccepted": 2, "itemsDeduplicated": 0, "sealed": True, "runCount": 2}
    assert ((await read_row(engine, batch_id))["sealed_at"] is not None) == ("sealed_at" in state)


@states(ABORTED)
async def test_row_l_the_seal_is_lost_to_the_sweep(
    client: httpx2.AsyncClient, engine: Engine, server: RunningServer, state: str
) -> None:
    """Checklist 10."""
    batch_id = await create(client, 2)
    raw = await RawStream.open(server, batch_id)
    await raw.send(lines([0, 1]))
    await until(lambda: _stored(engine, batch_id, 2))
    async with race(engine, batch_id, state):
        answer = asyncio.create_task(raw.end())
    status, _, body = await answer
    sealed = "true" if "sealed_at" in state else "false"
    assert status == 422
    assert body == {
        "error": f"Batch {batch_id} is in unexpected state (status: ABORTED, sealed: {sealed}). Cannot seal batch."
    }


async def test_two_streams_at_once_seal_once(client: httpx2.AsyncClient, engine: Engine) -> None:
    """Checklist 8: whoever is second answers sealed too, and every index has one run."""
    batch_id = await create(client, 300)
    answers = await asyncio.gather(*(stream(client, batch_id, lines(range(300))) for _ in range(3)))
    assert [answer.status_code for answer in answers] == [200, 200, 200]
    assert all(answer.json()["sealed"] for answer in answers)
    assert sum(answer.json()["itemsAccepted"] for answer in answers) == 300
    assert await count_runs(engine, batch_id) == 300


async def test_a_large_stream_is_stored_once_and_sealed(client: httpx2.AsyncClient, engine: Engine) -> None:
    """Checklist 16."""
    batch_id = await create(client, 2500)
    answer = (await stream(client, batch_id, lines(range(2500)))).json()
    assert (answer["itemsAccepted"], answer["itemsDeduplicated"], answer["sealed"]) == (2500, 0, True)
    assert await count_runs(engine, batch_id) == 2500


async def test_what_is_there_already_is_deduplicated(client: httpx2.AsyncClient, engine: Engine) -> None:
    """Checklist 19: 10 of 20 are there; the first payload of an index stays."""
    batch_id = await create(client, 20)
    await stream(client, batch_id, b"".join(item(index, "first") for index in range(10)))
    answer = (await stream(client, batch_id, b"".join(item(index, "second") for index in range(20)))).json()
    assert (answer["itemsAccepted"], answer["itemsDeduplicated"], answer["sealed"]) == (10, 10, True)
    rows = await execute(engine, "SELECT payload FROM headrace.runs ORDER BY id")
    assert [row["payload"] for row in rows] == [b'"first"'] * 10 + [b'"second"'] * 10


async def test_an_index_twice_in_one_stream_counts_once(client: httpx2.AsyncClient) -> None:
    batch_id = await create(client, 2)
    answer = (await stream(client, batch_id, lines([0, 0, 1, 1, 0]))).json()
    assert (answer["itemsAccepted"], answer["itemsDeduplicated"], answer["sealed"]) == (2, 3, True)


async def test_the_example_on_the_wire(client: httpx2.AsyncClient, server: RunningServer) -> None:
    """research/batch.md 3.6, word for word."""
    batch_id = await create(client, 2, taskIdentifiers=["t"])
    first = (
        b'{"index":0,"task":"t","payload":"{\\"json\\":{\\"n\\":1}}",'
        b'"options":{"payloadType":"application/super+json","payloadSize":16}}\n'
    )
    both = first + first.replace(b'"index":0', b'"index":1')
    raw = await RawStream.open(server, batch_id)
    await raw.send(first)
    status, _, body = await raw.end()
    assert status == 200
    assert body.pop("missing") == [[1, 1]]
    assert body == {
        "id": batch_id,
        "itemsAccepted": 1,
        "itemsDeduplicated": 0,
        "sealed": False,
        "enqueuedCount": 1,
        "expectedCount": 2,
        "runCount": 2,
    }
    again = {"id": batch_id, "itemsAccepted": 1, "itemsDeduplicated": 1, "sealed": True, "runCount": 2}
    assert (await stream(client, batch_id, both)).json() == again
    done = {"id": batch_id, "itemsAccepted": 0, "itemsDeduplicated": 0, "sealed": True, "runCount": 2}
    assert (await stream(client, batch_id, both)).json() == done


async def _stored(engine: Engine, batch_id: str, count: int) -> bool:
    return (await read_row(engine, batch_id))["accepted"] == count
