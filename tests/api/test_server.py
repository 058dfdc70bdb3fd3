"""The server as a process: how it starts, drains, fails and comes back, and what it says about itself."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import sys
import time
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx2
import pytest
from tests.api.support import RawStream, count_runs, create, lines, stream, until
from tests.server_fixture import API_KEY, RunningServer, running_server

from headrace.api.main import run_server
from headrace.engine.engine import Engine
from headrace.errors import ConfigurationError
from headrace.settings import Settings
from headrace.store.embedded import EmbeddedPostgres
from headrace.store.migrate import migrate_database

pytestmark = pytest.mark.anyio

CODE = """
import asyncio, sys
from headrace.api.main import run_server
from headrace.logs import set_up_logs
from headrace.settings import Settings
settings = Settings.from_environment()
set_up_logs(settings)
asyncio.run(run_server(settings, announce=lambda url: print(url, flush=True)))
"""


@asynccontextmanager
async def server_process(settings: Settings) -> AsyncGenerator[tuple[asyncio.subprocess.Process, RunningServer]]:
    """``run_server`` in a process of its own, as the CLI runs it."""
    environment = {
        **os.environ,
        "HEADRACE_DATABASE_URL": settings.database_url,
        "HEADRACE_DATA_DIR": settings.data_dir,
        "HEADRACE_DRAIN_TIMEOUT": str(settings.drain_timeout),
        "HEADRACE_API_KEY": API_KEY,
        "HEADRACE_PORT": "0",
    }
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", CODE, env=environment, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE
    )
    assert process.stdout is not None
    try:
        url = (await asyncio.wait_for(process.stdout.readline(), 60)).decode().strip()
        assert url.startswith("http://127.0.0.1:")
        yield process, RunningServer(settings, url)
    finally:
        if process.returncode is None:
            process.kill()
        await process.communicate()


def open_client(server: RunningServer) -> httpx2.AsyncClient:
    return httpx2.AsyncClient(base_url=server.url, headers={"authorization": f"Bearer {API_KEY}"}, timeout=30)


async def test_sigterm_drains(settings: Settings, engine: Engine) -> None:
    """A stream in flight ends sealed, a long poll is answered early, nobody new is let in, and the exit code is 0."""
    async with server_process(settings) as (process, server), open_client(server) as client:
        batch_id = await create(client, 2)
        raw = await RawStream.open(server, batch_id)
        await raw.send(lines([0]))
        await until(lambda: count_runs(engine, batch_id))
        polling = asyncio.create_task(client.get(f"/api/v2/batches/{batch_id}?wait=30"))
        await asyncio.sleep(0.2)  # the poll is to be waiting; nothing depends on it
        started = time.monotonic()
        process.send_signal(signal.SIGTERM)
        assert (await polling).json()["status"] == "PENDING"
        assert time.monotonic() - started < 20
        await until(lambda: _refuses(server))
        await raw.send(lines([1]))
        status, headers, body = await raw.end()
        assert (status, body["sealed"], headers["connection"]) == (200, True, "close")
        assert await asyncio.wait_for(process.wait(), 30) == 0


async def test_a_drain_has_an_end(settings: Settings, engine: Engine) -> None:
    """A stream that outlasts it is told to go elsewhere; what it brought is kept."""
    async with server_process(replace(settings, drain_timeout=1.0)) as (process, server), open_client(server) as client:
        batch_id = await create(client, 2)
        raw = await RawStream.open(server, batch_id)
        await raw.send(lines([0]))
        await until(lambda: count_runs(engine, batch_id))
        process.send_signal(signal.SIGTERM)
        status, headers, body = await raw.read_response()
        assert (status, body) == (503, {"error": "The server is shutting down"})
        assert headers["x-should-retry"] == "true"
        assert await asyncio.wait_for(process.wait(), 30) == 0
    assert await count_runs(engine, batch_id) == 1


async def test_a_second_signal_ends_at_once(settings: Settings, engine: Engine) -> None:
    async with (
        server_process(replace(settings, drain_timeout=60.0)) as (process, server),
        open_client(server) as client,
    ):
        batch_id = await create(client, 2)
        raw = await RawStream.open(server, batch_id)
        await raw.send(lines([0]))
        await until(lambda: count_runs(engine, batch_id))
        process.send_signal(signal.SIGTERM)
        await until(lambda: _refuses(server))
        process.send_signal(signal.SIGTERM)
        await asyncio.wait_for(process.wait(), 30)
        await raw.close()


async def test_sigkill_in_mid_stream(settings: Settings, engine: Engine) -> None:
    """What was stored stays; another server takes the rest, and every index has one run."""
    async with server_process(settings) as (process, server), open_client(server) as client:
        batch_id = await create(client, 3000)
        raw = await RawStream.open(server, batch_id)
        await raw.send(lines(range(1500)))
        await until(lambda: count_runs(engine, batch_id))
        process.kill()
        await process.wait()
        raw.cut()
    async with server_process(settings) as (_, server), open_client(server) as client:
        answer = (await stream(client, batch_id, lines(range(3000)))).json()
        assert answer["sealed"] is True
        assert answer["itemsAccepted"] + answer["itemsDeduplicated"] == 3000
        assert answer["itemsDeduplicated"] > 0
    assert await count_runs(engine, batch_id) == 3000


async def test_two_servers_share_a_batch(settings: Settings) -> None:
    with running_server(settings) as one, running_server(settings) as two:
        async with open_client(one) as first, open_client(two) as second:
            batch_id = await create(first, 2)
            assert (await stream(second, batch_id, lines([0]))).json()["itemsAccepted"] == 1
            assert (await stream(first, batch_id, lines([1]))).json()["sealed"] is True
            assert (await second.get(f"/api/v2/batches/{batch_id}")).json()["status"] == "PROCESSING"


async def test_a_port_that_is_taken(settings: Settings) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(ConfigurationError, match=f"port {port}"):
            await run_server(replace(settings, port=port))


async def test_fault_16_a_database_that_is_away(settings: Settings, tmp_path: Path) -> None:
    """Fault 16: 503, which invites a retry with a pause; and the server works again as soon as the database does."""
    postgres = EmbeddedPostgres(tmp_path / "pg")
    url = await asyncio.to_thread(postgres.start)
    try:
        await migrate_database(url)
        with running_server(replace(settings, database_url=url)) as server:
            async with open_client(server) as client:
                batch_id = await create(client, 2)
                raw = await RawStream.open(server, batch_id)
                await raw.send(lines([0]))
                await until(lambda: _accepted(client, batch_id))
                await asyncio.to_thread(postgres.stop)
                await raw.send(lines([1]))
                status, headers, body = await raw.end()
                assert (status, body) == (503, {"error": "The database is not available"})
                assert (headers["x-should-retry"], headers["retry-after"]) == ("true", "1")
                for method, path, content in (
                    ("POST", "/api/v3/batches", b'{"runCount":1}'),
                    ("POST", "/api/v1/tasks/t/trigger", b"{}"),
                    ("GET", f"/api/v2/batches/{batch_id}", None),
                    ("GET", "/readyz", None),
                ):
                    response = await client.request(method, path, content=content)
                    assert response.status_code == 503, path
                    assert response.headers["x-should-retry"] == "true"
                assert (await client.get("/healthz")).status_code == 200
                await asyncio.to_thread(postgres.start)
                await until(lambda: _is_ready(client))
                assert (await stream(client, batch_id, lines([0, 1]))).json()["sealed"] is True
    finally:
        await asyncio.to_thread(postgres.stop)


async def test_an_unforeseen_error_is_a_plain_500(client: httpx2.AsyncClient, engine: Engine) -> None:
    """Nothing of it is told, and nothing forbids a retry."""
    async with engine.store.connect() as connection:
        await connection.execute("ALTER TABLE headrace.batches RENAME COLUMN start_policy TO away")
    try:
        response = await client.post("/api/v3/batches", json={"runCount": 1})
    finally:
        async with engine.store.connect() as connection:
            await connection.execute("ALTER TABLE headrace.batches RENAME COLUMN away TO start_policy")
    assert (response.status_code, response.json()) == (500, {"error": "Internal Server Error"})
    assert "x-should-retry" not in response.headers


async def test_a_request_that_is_cut_is_no_error(
    client: httpx2.AsyncClient, server: RunningServer, caplog: pytest.LogCaptureFixture
) -> None:
    async def is_logged() -> bool:
        return "'status': 499" in caplog.text

    raw = await RawStream.request(server, "POST /api/v3/batches", {"content-length": "100"})
    raw.writer.write(b'{"runCount"')
    await raw.close()
    await until(is_logged)
    assert "Traceback" not in caplog.text


async def test_the_document_of_the_contract(client: httpx2.AsyncClient) -> None:
    document: dict[str, Any] = (await client.get("/openapi.json")).json()
    assert document["openapi"].startswith("3.1")
    assert set(document["paths"]) >= {
        "/api/v3/batches",
        "/api/v3/batches/{batch_id}/items",
        "/api/v1/batches/{batch_id}",
        "/api/v2/batches/{batch_id}",
        "/api/v1/batches/{batch_id}/results",
        "/api/v1/tasks/{task_id}/trigger",
        "/api/v2/tasks/batch",
        "/api/v3/runs/{run_id}",
        "/api/v1/runs",
        "/api/v1/runs/{run_id}/result",
    }
    create_batch = document["paths"]["/api/v3/batches"]["post"]
    assert create_batch["security"] == [{"apiKey": []}]
    assert "security" not in document["paths"]["/healthz"]["get"]


async def _refuses(server: RunningServer) -> bool:
    host, _, port = server.url.removeprefix("http://").partition(":")
    try:
        _, writer = await asyncio.open_connection(host, int(port))
    except ConnectionError:
        return True
    writer.close()
    return False


async def _accepted(client: httpx2.AsyncClient, batch_id: str) -> bool:
    return (await client.get(f"/api/v2/batches/{batch_id}")).json()["progress"]["accepted"] > 0


async def _is_ready(client: httpx2.AsyncClient) -> bool:
    return (await client.get("/readyz")).status_code == 200
