"""How a stream is taken in: bounded, at the pace of the store, soon visible, and whole chunks or nothing when it is cut."""

from __future__ import annotations

import asyncio
import json
import math
import os
import sys
import time
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import httpx2
import psutil
import pytest
from tests.api.support import (
    RawStream,
    count_runs,
    create,
    execute,
    item,
    lines,
    read_row,
    stream,
    until,
)
from tests.server_fixture import API_KEY, RunningServer, running_server

from headrace import ids
from headrace.engine.engine import Engine
from headrace.payloads import Payloads, PayloadStoreError
from headrace.settings import Settings

pytestmark = pytest.mark.anyio

LARGE = "x" * 2000
"""A payload that is offloaded with the settings of these tests."""


@pytest.fixture
def settings(settings: Settings) -> Settings:
    return replace(settings, offload_threshold=1024)


class SlowPayloads(Payloads):
    """A payload store that takes its time, counts what is in flight, and fails when it is told to."""

    def __init__(self, inner: Payloads, seconds: float = 0.0) -> None:
        self.inner = inner
        self.seconds = seconds
        self.in_flight = 0
        self.most = 0
        self.failures = 0
        self.paths: list[str] = []
        self.deleted: list[str] = []

    async def put(self, environment: str, data: bytes) -> str:
        self.in_flight += 1
        self.most = max(self.most, self.in_flight)
        try:
            await asyncio.sleep(self.seconds)
            if self.failures:
                self.failures -= 1
                raise PayloadStoreError("the payload store is away")
            self.paths.append(await self.inner.put(environment, data))
            return self.paths[-1]
        finally:
            self.in_flight -= 1

    async def get(self, environment: str, path: str) -> bytes:
        return await self.inner.get(environment, path)

    async def delete(self, path: str) -> None:
        self.deleted.append(path)
        await self.inner.delete(path)


def slow_server(settings: Settings, seconds: float) -> tuple[object, list[SlowPayloads]]:
    """A server whose payload store takes ``seconds`` a put, and (once it runs) that store."""
    stores: list[SlowPayloads] = []

    def prepare(engine: Engine) -> None:
        stores.append(SlowPayloads(engine.payloads, seconds))
        engine.payloads = stores[0]

    return running_server(settings, prepare), stores


def open_client(server: RunningServer) -> httpx2.AsyncClient:
    return httpx2.AsyncClient(base_url=server.url, headers={"authorization": f"Bearer {API_KEY}"}, timeout=60)


async def test_uploads_in_flight_are_bounded(settings: Settings) -> None:
    """Checklist 17: never more than the setting, and more than one."""
    context, stores = slow_server(replace(settings, ingest_concurrency=5), 0.02)
    with context as server:
        async with open_client(server) as client:
            batch_id = await create(client, 40)
            body = b"".join(item(index, LARGE) for index in range(40))
            assert (await stream(client, batch_id, body)).json()["sealed"] is True
    assert 1 < stores[0].most <= 5
    assert len(stores[0].paths) == 40


async def test_more_uploads_at_once_are_proportionally_faster(settings: Settings) -> None:
    """Checklist 18: 40 uploads of 50 ms take 2 s one by one, and a tenth of that ten at a time."""
    seconds: dict[int, float] = {}
    for concurrency in (1, 10, 10, 10, 10):  # one of them may meet a busy machine
        context, _ = slow_server(replace(settings, ingest_concurrency=concurrency), 0.05)
        with context as server:
            async with open_client(server) as client:
                batch_id = await create(client, 40)
                body = b"".join(item(index, LARGE) for index in range(40))
                started = time.perf_counter()
                assert (await stream(client, batch_id, body)).json()["sealed"] is True
                seconds[concurrency] = min(seconds.get(concurrency, math.inf), time.perf_counter() - started)
        if seconds.get(10, math.inf) < seconds[1] / 4:
            break
    assert seconds[1] >= 2.0
    assert seconds[10] < seconds[1] / 4


async def test_a_large_payload_is_offloaded_and_read_back(client: httpx2.AsyncClient, engine: Engine) -> None:
    batch_id = await create(client, 2)
    await stream(client, batch_id, item(0, {"big": LARGE}) + item(1, "small"))
    rows = await execute(engine, "SELECT payload, payload_type FROM headrace.runs ORDER BY id")
    assert [row["payload_type"] for row in rows] == ["application/store", None]
    stored = await engine.payloads.get("dev", rows[0]["payload"].decode())
    assert json.loads(stored) == {"big": LARGE}
    run = await client.get(f"/api/v3/runs/{ids.format_run_id(ids.item_run_id(ids.parse_batch_id(batch_id), 0))}")
    assert run.json()["payload"] == {"big": LARGE}


async def test_fault_24_a_retry_never_overwrites_an_accepted_object(settings: Settings, engine: Engine) -> None:
    """Fault 24: the second payload for an index goes to a place of its own, and away again."""
    context, stores = slow_server(settings, 0)
    with context as server:
        async with open_client(server) as client:
            batch_id = await create(client, 3)
            await stream(client, batch_id, item(0, "first" + LARGE))
            answer = await stream(client, batch_id, item(0, "second" + LARGE) + item(1, "other" + LARGE))
            assert (answer.json()["itemsAccepted"], answer.json()["itemsDeduplicated"]) == (1, 1)
    rows = await execute(engine, "SELECT payload FROM headrace.runs ORDER BY id")
    kept = [row["payload"].decode() for row in rows]
    assert len(set(stores[0].paths)) == 3
    assert json.loads(await engine.payloads.get("dev", kept[0])) == "first" + LARGE
    assert json.loads(await engine.payloads.get("dev", kept[1])) == "other" + LARGE
    assert stores[0].deleted == [path for path in stores[0].paths if path not in kept]
    with pytest.raises(PayloadStoreError):
        await engine.payloads.get("dev", stores[0].deleted[0])


async def test_a_payload_store_that_fails(settings: Settings, engine: Engine) -> None:
    """A 503 that invites a retry; what could be stored is stored, and the retry ends sealed."""
    context, stores = slow_server(settings, 0)
    with context as server:
        async with open_client(server) as client:
            batch_id = await create(client, 3)
            stores[0].failures = 1
            body = lines([0]) + item(1, LARGE) + lines([2])
            response = await stream(client, batch_id, body)
            assert (response.status_code, response.json()) == (503, {"error": "The payload store is not available"})
            assert response.headers["x-should-retry"] == "true"
            assert response.headers["retry-after"] == "1"
            assert 1 <= await count_runs(engine, batch_id) <= 2
            assert (await stream(client, batch_id, body)).json()["sealed"] is True


async def test_items_start_as_they_are_produced(
    client: httpx2.AsyncClient, engine: Engine, server: RunningServer
) -> None:
    """A stream that pauses does not keep what it brought; nor does one that trickles."""
    batch_id = await create(client, 50)
    raw = await RawStream.open(server, batch_id)
    await raw.send(lines([0]))
    await until(lambda: count_runs(engine, batch_id), 5)

    async def trickle() -> None:
        for index in range(1, 49):
            await raw.send(lines([index]))
            await asyncio.sleep(0.01)  # the producer's own pace, never a pause of 50 ms

    trickling = asyncio.create_task(trickle())

    async def seen_before_the_end() -> bool:
        assert not trickling.done(), "nothing was stored before the stream had ended"
        return await count_runs(engine, batch_id) > 5

    await until(seen_before_the_end)
    await trickling
    await raw.send(lines([49]))
    assert (await raw.end())[2]["sealed"] is True


async def test_a_large_item_of_a_silent_stream_is_stored_too(
    client: httpx2.AsyncClient, engine: Engine, server: RunningServer
) -> None:
    batch_id = await create(client, 2)
    raw = await RawStream.open(server, batch_id)
    await raw.send(item(0, LARGE))
    await until(lambda: count_runs(engine, batch_id), 5)
    await raw.close()


async def test_a_reset_connection_keeps_what_came(
    client: httpx2.AsyncClient, engine: Engine, server: RunningServer
) -> None:
    """The cut line is forgotten, the batch stays open, and the answer names what is missing."""
    batch_id = await create(client, 4)
    raw = await RawStream.open(server, batch_id)
    await raw.send(lines([0, 1]) + b'{"index": 2, "task"')
    await until(lambda: count_runs(engine, batch_id))
    raw.cut()
    answer = (await stream(client, batch_id, lines([3]))).json()
    assert (answer["sealed"], answer["missing"], answer["enqueuedCount"]) == (False, [[2, 2]], 3)


async def test_a_closed_connection_keeps_what_came(
    client: httpx2.AsyncClient, engine: Engine, server: RunningServer
) -> None:
    """Even when all items are there: only a clean end seals."""
    batch_id = await create(client, 3)
    raw = await RawStream.open(server, batch_id)
    await raw.send(lines([0, 1, 2]))
    await until(lambda: _is_stored(engine, batch_id, 3))
    await raw.close()
    assert (await read_row(engine, batch_id))["sealed_at"] is None
    assert (await stream(client, batch_id, b"")).json()["sealed"] is True


async def test_a_body_shorter_than_it_said(client: httpx2.AsyncClient, engine: Engine, server: RunningServer) -> None:
    batch_id = await create(client, 2)
    head = {"content-type": "application/x-ndjson", "content-length": "100000"}
    raw = await RawStream.request(server, f"POST /api/v3/batches/{batch_id}/items", head)
    raw.writer.write(lines([0, 1]))
    await raw.writer.drain()
    await until(lambda: count_runs(engine, batch_id))
    await raw.close()
    assert (await stream(client, batch_id, lines([1]))).json()["sealed"] is True


async def test_a_silent_stream_is_given_up(settings: Settings) -> None:
    """It is answered, and its batch goes the way of all unsealed batches."""
    with running_server(replace(settings, seal_timeout=0.3)) as server:
        async with open_client(server) as client:
            raw = await RawStream.open(server, await create(client, 2))
            status, _, body = await raw.read_response()
            assert (status, body) == (408, {"error": "Nothing was received for 0.3 seconds"})


async def test_the_body_is_pulled_only_as_fast_as_it_is_stored(
    client: httpx2.AsyncClient, engine: Engine, server: RunningServer
) -> None:
    """While nothing can be stored the sender has to wait, long before the stream is over."""
    count = 40_000
    batch_id = await create(client, count)
    body = b"".join(item(index, "y" * 900) for index in range(count))
    sent = 0

    async def pieces() -> AsyncIterator[bytes]:
        nonlocal sent
        for start in range(0, len(body), 65_536):
            yield body[start : start + 65_536]
            sent += 65_536

    async with engine.store.connect() as connection, connection.transaction():
        await connection.execute(
            "SELECT 1 FROM headrace.batches WHERE id = $1 FOR UPDATE", ids.parse_batch_id(batch_id)
        )
        sending = asyncio.create_task(stream(client, batch_id, pieces()))
        seen = -1
        while seen != sent:  # until nothing has moved for a while
            seen = sent
            await asyncio.sleep(0.5)
        assert 0 < sent < len(body) / 2, f"{sent} of {len(body)} bytes went out while nothing could be stored"
        assert not sending.done()
    assert (await sending).json()["sealed"] is True


async def test_memory_is_bounded_by_items_in_flight(settings: Settings, engine: Engine, tmp_path: Path) -> None:
    """300 MB of the largest items grow the server by (10 x 3 MiB) and a constant, not by the batch."""
    count, size = 100, 3_000_000
    code = (
        "import asyncio, sys\n"
        "from headrace.api.main import run_server\n"
        "from headrace.settings import Settings\n"
        "asyncio.run(run_server(Settings.from_environment(), announce=lambda url: print(url, flush=True)))\n"
    )
    environment = {
        **os.environ,
        "HEADRACE_DATABASE_URL": settings.database_url,
        "HEADRACE_DATA_DIR": str(tmp_path),
        "HEADRACE_PORT": "0",
        "HEADRACE_API_KEY": API_KEY,
        "HEADRACE_LOG_LEVEL": "error",
    }
    server = await asyncio.create_subprocess_exec(
        sys.executable, "-c", code, env=environment, stdout=asyncio.subprocess.PIPE
    )
    assert server.stdout is not None
    url = ""
    while not url.startswith("http"):
        url = (await asyncio.wait_for(server.stdout.readline(), 60)).decode().strip()
    process = psutil.Process(server.pid)
    before = process.memory_info().rss
    most = before

    async def large_items() -> AsyncIterator[bytes]:
        nonlocal most
        for index in range(count):
            yield item(index, "z" * size)
            most = max(most, process.memory_info().rss)

    try:
        async with httpx2.AsyncClient(
            base_url=url, headers={"authorization": f"Bearer {API_KEY}"}, timeout=60
        ) as client:
            batch_id = await create(client, count)
            assert (await stream(client, batch_id, large_items())).json()["sealed"] is True
    finally:
        server.terminate()
        assert await asyncio.wait_for(server.wait(), 60) == 0
    assert await count_runs(engine, batch_id) == count
    growth = (most - before) / 2**20
    assert growth < 10 * 3 + 100, f"the server grew by {growth:.0f} MiB"


async def _is_stored(engine: Engine, batch_id: str, count: int) -> bool:
    return (await read_row(engine, batch_id))["accepted"] == count
