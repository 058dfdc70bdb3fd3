"""What the tests of the API say often: create a batch, stream lines, put a row into a state, cut a connection."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from typing import Any
from urllib.parse import urlsplit

import httpx2
from tests.server_fixture import RunningServer

from headrace import ids
from headrace.engine.claims import claim_runs
from headrace.engine.completions import finish_runs
from headrace.engine.engine import Engine
from headrace.engine.outcomes import Finish, LeaseLost, Packet
from headrace.engine.workers import register_worker, retire_worker
from headrace.protocol.statuses import RunStatus

NDJSON = {"content-type": "application/x-ndjson"}


def item(index: int, payload: Any = None, task: str = "t", **options: Any) -> bytes:
    """One line of a stream, with its newline."""
    line = {"index": index, "task": task, "payload": payload, **({"options": options} if options else {})}
    return json.dumps(line).encode() + b"\n"


def lines(indexes: Iterable[int]) -> bytes:
    """The lines of several items."""
    return b"".join(item(index, {"n": index}) for index in indexes)


async def create(client: httpx2.AsyncClient, run_count: int | None = 2, **fields: Any) -> str:
    """The id of a new batch."""
    body = fields if run_count is None else {"runCount": run_count, **fields}
    response = await client.post("/api/v3/batches", json=body)
    assert response.status_code == 202, response.text
    return response.json()["id"]


async def stream(
    client: httpx2.AsyncClient, batch_id: str, content: bytes | AsyncIterator[bytes], **headers: str
) -> httpx2.Response:
    """The answer to a stream of lines."""
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return await client.post(f"/api/v3/batches/{batch_id}/items", content=content, headers={**NDJSON, **named})


async def retrieve(client: httpx2.AsyncClient, batch_id: str) -> dict[str, Any]:
    """A batch as ``GET /api/v2/batches/{id}`` shows it."""
    response = await client.get(f"/api/v2/batches/{batch_id}")
    assert response.status_code == 200, response.text
    return response.json()


async def execute(engine: Engine, sql: str, *args: Any) -> list[Any]:
    """Rows of a statement, straight from the database."""
    async with engine.store.connect() as connection:
        return await connection.fetch(sql, *args)


async def force(engine: Engine, batch_id: str, assignments: str) -> None:
    """Puts a batch's row into a state, whether or not the engine could still produce it."""
    sql = f"UPDATE headrace.batches SET {assignments} WHERE id = $1 RETURNING id /* forced */"
    assert await execute(engine, sql, ids.parse_batch_id(batch_id))


async def read_row(engine: Engine, batch_id: str) -> Any:
    """A batch's row."""
    [row] = await execute(engine, "SELECT * FROM headrace.batches WHERE id = $1", ids.parse_batch_id(batch_id))
    return row


async def count_runs(engine: Engine, batch_id: str) -> int:
    """How many runs a batch has."""
    rows = await execute(engine, "SELECT 1 FROM headrace.runs WHERE batch_id = $1", ids.parse_batch_id(batch_id))
    return len(rows)


async def until(condition: Callable[[], Awaitable[Any]], seconds: float = 30) -> Any:
    """What ``condition`` gives once it is true; fails if it never is."""
    deadline = time.monotonic() + seconds
    while not (value := await condition()):
        assert time.monotonic() < deadline, "the condition did not come true in time"
        await asyncio.sleep(0.01)
    return value


class RawStream:
    """A stream that is sent by hand over a socket, to pause it, cut it, or break HTTP."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    @classmethod
    async def open(cls, server: RunningServer, batch_id: str, **headers: str) -> RawStream:
        """Begins a chunked POST of items."""
        return await cls.request(
            server,
            f"POST /api/v3/batches/{batch_id}/items",
            {"content-type": "application/x-ndjson", "transfer-encoding": "chunked", **headers},
        )

    @classmethod
    async def request(cls, server: RunningServer, target: str, headers: dict[str, str]) -> RawStream:
        """Sends the head of a request."""
        address = urlsplit(server.url)
        reader, writer = await asyncio.open_connection(address.hostname, address.port)
        all_headers = {"host": address.netloc, "authorization": f"Bearer {server.key}", **headers}
        head = "".join(f"{name.replace('_', '-')}: {value}\r\n" for name, value in all_headers.items())
        writer.write(f"{target} HTTP/1.1\r\n{head}\r\n".encode())
        await writer.drain()
        return cls(reader, writer)

    async def send(self, data: bytes) -> None:
        """One HTTP chunk."""
        self.writer.write(b"%x\r\n%b\r\n" % (len(data), data))
        await self.writer.drain()

    async def end(self) -> tuple[int, dict[str, str], Any]:
        """Ends the body cleanly; status, headers and parsed body of the answer."""
        self.writer.write(b"0\r\n\r\n")
        await self.writer.drain()
        return await self.read_response()

    async def read_response(self) -> tuple[int, dict[str, str], Any]:
        """Status, headers and parsed body of the answer."""
        head = (await asyncio.wait_for(self.reader.readuntil(b"\r\n\r\n"), 20)).decode()
        status_line, *header_lines = head.strip().split("\r\n")
        headers = {name.lower(): value.strip() for name, _, value in (one.partition(":") for one in header_lines)}
        body = await self.reader.readexactly(int(headers.get("content-length", "0")))
        await self.close()
        return int(status_line.split()[1]), headers, json.loads(body) if body else None

    async def close(self) -> None:
        """Closes the connection."""
        self.writer.close()
        await self.writer.wait_closed()

    def cut(self) -> None:
        """Resets the connection, as when a process is killed."""
        self.writer.transport.abort()


async def finish_all(engine: Engine, task: str = "t", *, fail: frozenset[int] = frozenset(), limit: int = 1000) -> int:
    """Works off what is ready of a task, as a worker would: items in ``fail`` fail, all others return their payload."""
    lease = await register_worker(engine, "dev", name="test", tasks=[])
    claimed = await claim_runs(engine, lease, tasks=[task], limit=limit)
    assert not isinstance(claimed, LeaseLost)
    error: dict[str, object] = {"type": "BUILT_IN_ERROR", "name": "ValueError", "message": "no", "stackTrace": "at x"}
    finishes = [
        Finish(run.id, run.attempt, RunStatus.FAILED, error=error)
        if run.batch_index in fail
        else Finish(run.id, run.attempt, RunStatus.COMPLETED, output=Packet(run.payload, run.payload_type))
        for run in claimed
    ]
    assert not await finish_runs(engine, lease, finishes)
    await retire_worker(engine, lease)
    return len(claimed)
