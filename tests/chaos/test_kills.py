"""SIGKILL of the server and of PostgreSQL in mid-stream: one run an index, and the client's retry ends sealed."""

from __future__ import annotations

import asyncio
import os
import signal
import threading
from collections.abc import Generator
from pathlib import Path

import asyncpg
import httpx2

from headrace.store.embedded import EmbeddedPostgres
from headrace.store.migrate import migrate_database
from tests.conftest import execute_sql
from tests.invariants import assert_invariants_on
from tests.processes import HEADERS, ServerProcess, wait_until

ITEMS = 5_000
NDJSON = {**HEADERS, "content-type": "application/x-ndjson"}


def make_lines(first: int, last: int) -> bytes:
    return b"".join(b'{"index":%d,"task":"t","payload":%d}\n' % (index, index) for index in range(first, last))


def count_stored(url: str) -> int:
    return execute_sql(url, "SELECT coalesce(max(accepted), 0) AS n FROM headrace.batches")[0]["n"]


class HalfStream:
    """A stream of all items that stops half-way until it is let go: whatever is killed is killed in the middle of it."""

    def __init__(self, server: ServerProcess, batch_id: str) -> None:
        self.server = server
        self.batch_id = batch_id
        self.go_on = threading.Event()
        self.status: int | None = None
        self.thread = threading.Thread(target=self._send)
        self.thread.start()

    def _body(self) -> Generator[bytes]:
        yield make_lines(0, ITEMS // 2)
        self.go_on.wait()
        yield make_lines(ITEMS // 2, ITEMS)

    def _send(self) -> None:
        url = f"{self.server.url}/api/v3/batches/{self.batch_id}/items"
        try:
            self.status = httpx2.post(url, content=self._body(), headers=NDJSON, timeout=30).status_code
        except httpx2.HTTPError:
            self.status = None

    def end(self) -> None:
        self.go_on.set()
        self.thread.join()


def create_batch(server: ServerProcess) -> str:
    answer = httpx2.post(f"{server.url}/api/v3/batches", json={"runCount": ITEMS}, headers=HEADERS)
    assert answer.status_code == 202
    return answer.json()["id"]


def stream_until_sealed(server: ServerProcess, batch_id: str) -> dict[str, object]:
    """What a client does: sends all again until the answer says that the batch is sealed."""
    answers: list[dict[str, object]] = []

    def try_once() -> bool:
        try:
            url = f"{server.url}/api/v3/batches/{batch_id}/items"
            answer = httpx2.post(url, content=make_lines(0, ITEMS), headers=NDJSON, timeout=30)
        except httpx2.HTTPError:
            return False
        if answer.status_code >= 500:
            assert answer.headers.get("x-should-retry") != "false"
            return False
        assert answer.status_code == 200, answer.text
        answers.append(answer.json())
        return bool(answer.json()["sealed"])

    wait_until(try_once, "the batch is sealed")
    return answers[-1]


def assert_one_run_an_index(url: str) -> None:
    async def ask() -> None:
        connection = await asyncpg.connect(url)
        try:
            await assert_invariants_on(connection)
            row = await connection.fetchrow(
                "SELECT count(*) AS n, count(DISTINCT batch_index) AS indexes FROM headrace.runs"
            )
            assert row is not None
            assert row["n"] == row["indexes"] == ITEMS
        finally:
            await connection.close()

    asyncio.run(ask())


def test_server_killed_in_mid_stream(database_url: str, tmp_path: Path) -> None:
    server = ServerProcess(database_url, str(tmp_path))
    server.start()
    try:
        batch_id = create_batch(server)
        half = HalfStream(server, batch_id)
        wait_until(lambda: count_stored(database_url) > 0, "the first items are stored")
        server.kill()
        half.end()
        assert half.status is None
        stored = count_stored(database_url)
        assert 0 < stored <= ITEMS // 2
        server.start()
        answer = stream_until_sealed(server, batch_id)
        assert answer["itemsDeduplicated"] == stored
        assert_one_run_an_index(database_url)
    finally:
        server.stop()


def test_postgres_killed_in_mid_stream(tmp_path: Path) -> None:
    postgres = EmbeddedPostgres(tmp_path / "postgres")
    url = postgres.start()
    asyncio.run(migrate_database(url))
    server = ServerProcess(url, str(tmp_path))
    server.start()
    try:
        batch_id = create_batch(server)
        half = HalfStream(server, batch_id)
        wait_until(lambda: count_stored(url) > 0, "the first items are stored")
        pid = int((tmp_path / "postgres" / "postmaster.pid").read_text().splitlines()[0])
        os.kill(pid, signal.SIGKILL)
        wait_until(lambda: not Path(f"/proc/{pid}").exists(), "PostgreSQL is gone")
        half.end()
        assert half.status in {None, 503}
        url = postgres.start()
        stream_until_sealed(server, batch_id)  # the server was not started again: it finds its way back by itself
        assert_one_run_an_index(url)
    finally:
        server.stop()
        postgres.stop()
