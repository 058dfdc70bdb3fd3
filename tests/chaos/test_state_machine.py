"""Batches under random hands: created, streamed in pieces, repeated, raced, cut, killed, sealed, aborted in any order.

A real server process on a real database. After each step the invariants hold over all rows, nothing that was answered as
stored is gone, what was sealed or aborted stays so, and the server's memory stays within its bound.
"""

from __future__ import annotations

import asyncio
import json
import socket
import threading
from collections.abc import Generator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import asyncpg
import httpx2
import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, initialize, invariant, rule, run_state_machine_as_test

from headrace.ids import parse_batch_id
from tests.invariants import assert_invariants_on
from tests.processes import HEADERS, PLAIN, ServerProcess, wait_until

NDJSON = {**HEADERS, "content-type": "application/x-ndjson"}
ITEM_LIMIT = 4096
MEMORY_LIMIT_MIB = 220


@dataclass
class Model:
    """What has been promised about a batch."""

    id: str
    run_count: int | None
    stored: set[int] = field(default_factory=set)
    sealed: bool = False
    aborted: bool = False

    @property
    def size(self) -> int:
        return self.run_count or 40


class BatchMachine(RuleBasedStateMachine):
    """The server is shared by all examples: what one leaves behind the next must bear."""

    server: ServerProcess
    http: httpx2.Client
    database: Database

    batches = Bundle("batches")

    def __init__(self) -> None:
        super().__init__()
        self.models: list[Model] = []

    @initialize()
    def be_up(self) -> None:
        if self.server.process is None or self.server.process.poll() is not None:
            self.server.start()

    @rule(
        target=batches,
        run_count=st.one_of(st.none(), st.integers(1, 60)),
        start=st.sampled_from(["add", "seal"]),
        repeat=st.booleans(),
    )
    def create(self, run_count: int | None, start: str, repeat: bool) -> Model:
        body: dict[str, Any] = {"start": start} | ({"runCount": run_count} if run_count else {})
        headers = {**HEADERS, "x-trigger-request-idempotency-key": f"request {len(self.models)} {id(self)}"}
        ids = {
            self.http.post(f"{self.server.url}/api/v3/batches", json=body, headers=headers).json()["id"]
            for _ in range(1 + repeat)
        }
        assert len(ids) == 1
        model = Model(ids.pop(), run_count)
        self.models.append(model)
        return model

    @rule(model=batches, data=st.data(), piece=st.integers(1, 200), segment=st.booleans())
    def stream(self, model: Model, data: st.DataObject, piece: int, segment: bool) -> None:
        indexes = data.draw(st.lists(st.integers(0, model.size - 1), max_size=model.size))
        headers = {**NDJSON, "x-headrace-partial": "1"} if segment else NDJSON
        self.check_answer(model, indexes, self.send(model, cut(lines(indexes), piece), headers))

    @rule(model=batches)
    def stream_all(self, model: Model) -> None:
        self.check_answer(model, list(range(model.size)), self.send(model, lines(range(model.size)), NDJSON))

    @rule(model=batches)
    def race(self, model: Model) -> None:
        answers: list[httpx2.Response] = []
        indexes = list(range(model.size))

        def stream() -> None:
            answers.append(self.send(model, cut(lines(indexes), 64), NDJSON))

        threads = [threading.Thread(target=stream) for _ in range(3)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(answers) == 3
        for answer in answers:
            self.check_answer(model, indexes, answer)

    @rule(
        model=batches,
        bad=st.sampled_from([b"{\n", b'{"index":0}\n', b'{"index":0,"task":"\xff"}\n', b"[]\n", b'"x"\n']),
    )
    def stream_something_bad(self, model: Model, bad: bytes) -> None:
        answer = self.send(model, lines([0]) + bad + lines([model.size - 1]), NDJSON)
        if self.is_over(model):
            self.check_answer(model, [], answer)
            return
        assert answer.status_code in {400, 422}, answer.text
        assert "line 2" in answer.text
        model.stored.add(0)

    @rule(model=batches, beyond=st.integers(0, 5), oversized=st.booleans())
    def stream_an_index_beyond(self, model: Model, beyond: int, oversized: bool) -> None:
        if model.run_count is None or self.is_over(model):
            return
        before = self.count_runs(model)
        payload = "x" * (ITEM_LIMIT + 1 if oversized else 1)
        body = json.dumps({"index": model.run_count + beyond, "task": "t", "payload": payload}).encode()
        answer = self.send(model, body, NDJSON)
        assert answer.status_code == 422, answer.text
        assert "exceeds batch runCount" in answer.text
        assert self.count_runs(model) == before

    @rule(model=batches, data=st.data())
    def stream_an_oversized_item(self, model: Model, data: st.DataObject) -> None:
        index = data.draw(st.integers(0, model.size - 1))
        body = json.dumps({"index": index, "task": "t", "payload": "x" * ITEM_LIMIT}).encode()
        self.check_answer(model, [index], self.send(model, body, NDJSON))

    @rule(model=batches, data=st.data())
    def cut_the_connection(self, model: Model, data: st.DataObject) -> None:
        body = lines(range(model.size))
        end = data.draw(st.integers(0, len(body) - 1))
        request = (
            f"POST /api/v3/batches/{model.id}/items HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n"
            + "".join(f"{name}: {value}\r\n" for name, value in NDJSON.items())
            + "\r\n"
        ).encode()
        with socket.create_connection(("127.0.0.1", self.server.port)) as connection:
            connection.sendall(request + body[:end])

    @rule(model=batches)
    def kill_the_server_in_mid_stream(self, model: Model) -> None:
        begun = threading.Event()

        def slowly() -> Generator[bytes]:
            yield lines(range(model.size // 2 + 1))
            begun.set()
            self.server.process and self.server.process.wait()
            yield lines(range(model.size // 2 + 1, model.size))

        def stream() -> None:
            try:
                self.send(model, slowly(), NDJSON)
            except httpx2.HTTPError:
                begun.set()
            else:
                begun.set()

        thread = threading.Thread(target=stream)
        thread.start()
        assert begun.wait(10)
        self.server.kill()
        thread.join()
        self.server.start()

    @rule(model=batches, count=st.integers(1, 60))
    def seal(self, model: Model, count: int) -> None:
        answer = self.http.post(
            f"{self.server.url}/api/v3/batches/{model.id}/seal", json={"runCount": count}, headers=HEADERS
        )
        if answer.status_code == 200 and answer.json()["sealed"]:
            model.sealed = True
            model.run_count = answer.json()["runCount"]
        else:
            assert answer.status_code in {200, 422}, answer.text

    @rule(model=batches)
    def reach_the_deadline(self, model: Model) -> None:
        batch_id = parse_batch_id(model.id)
        self.sql("UPDATE headrace.batches SET seal_deadline = now() - interval '1 second' WHERE id = $1", batch_id)
        wait_until(lambda: self.is_over(model), "the batch is aborted, or was sealed")

    @invariant()
    def holds(self) -> None:
        self.database.check_invariants()
        for model in self.models:
            status, sealed = self.state(model)
            assert sealed or not model.sealed, "a seal was undone"
            assert status == "ABORTED" or not model.aborted, "an abort was undone"
            assert model.stored <= self.stored(model), "what was answered as stored is gone"
            model.sealed, model.aborted = sealed, status == "ABORTED"
        if self.server.process is not None and self.server.process.poll() is None:
            resident = read_rss(self.server.pid)
            assert resident < MEMORY_LIMIT_MIB

    def check_answer(self, model: Model, indexes: list[int], answer: httpx2.Response) -> None:
        if model.aborted or (answer.status_code == 422 and self.state(model)[0] == "ABORTED"):
            assert answer.status_code == 422, answer.text
            return
        assert answer.status_code == 200, answer.text
        body = answer.json()
        if model.sealed:
            assert (body["sealed"], body["itemsAccepted"]) == (True, 0)
            return
        model.stored.update(indexes)
        if not body["sealed"] and "enqueuedCount" in body:
            assert body["enqueuedCount"] >= len(model.stored)
        for first, last in body.get("missing", []):
            assert not model.stored & set(range(first, last + 1))

    def send(self, model: Model, body: Any, headers: dict[str, str]) -> httpx2.Response:
        return self.http.post(
            f"{self.server.url}/api/v3/batches/{model.id}/items", content=body, headers=headers, timeout=30
        )

    def is_over(self, model: Model) -> bool:
        status, sealed = self.state(model)
        return sealed or status == "ABORTED"

    def state(self, model: Model) -> tuple[str, bool]:
        sql = "SELECT status::text, sealed_at IS NOT NULL AS sealed FROM headrace.batches WHERE id = $1"
        [row] = self.sql(sql, parse_batch_id(model.id))
        return row["status"], row["sealed"]

    def stored(self, model: Model) -> set[int]:
        rows = self.sql("SELECT batch_index FROM headrace.runs WHERE batch_id = $1", parse_batch_id(model.id))
        return {row["batch_index"] for row in rows}

    def count_runs(self, model: Model) -> int:
        return len(self.stored(model))

    def sql(self, statement: str, *args: Any) -> list[Any]:
        return self.database.fetch(statement, *args)


class Database:
    """One connection for all that is asked between the steps: a connection for each question took half of the time."""

    def __init__(self, url: str) -> None:
        self._runner = asyncio.Runner()
        self._connection: Any = self._runner.run(asyncpg.connect(url))

    def fetch(self, statement: str, *args: Any) -> list[Any]:
        return self._runner.run(self._connection.fetch(statement, *args))

    def check_invariants(self) -> None:
        self._runner.run(assert_invariants_on(self._connection))

    def close(self) -> None:
        self._runner.run(self._connection.close())
        self._runner.close()


def lines(indexes: Any) -> bytes:
    return b"".join(b'{"index":%d,"task":"t","payload":{"n":%d}}\n' % (index, index) for index in indexes)


def cut(body: bytes, piece: int) -> Generator[bytes]:
    for start in range(0, len(body), piece):
        yield body[start : start + piece]


def read_rss(pid: int) -> float:
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) / 1024
    raise AssertionError("no VmRSS")


def test_random_histories_keep_every_invariant(
    database_url: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    server = ServerProcess(database_url, str(tmp_path), {"HEADRACE_ITEM_MAX_SIZE": str(ITEM_LIMIT)})
    http = httpx2.Client(verify=PLAIN, limits=httpx2.Limits(max_keepalive_connections=0))
    database = Database(database_url)
    machine = type("Machine", (BatchMachine,), {"server": server, "http": http, "database": database})
    examples = int(request.config.getoption("--state-machine-examples"))
    try:
        run_state_machine_as_test(  # pyright: ignore
            machine,
            settings=settings(
                max_examples=examples,
                stateful_step_count=20,
                deadline=None,
                print_blob=True,
                suppress_health_check=list(HealthCheck),
            ),
        )
    finally:
        server.stop()
        http.close()
        database.close()
