"""Both clients over real sockets: streams that break, and what is let go of before the next try."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Iterable, Iterator
from typing import Any

import httpcore2
import httpx2
import pytest
from tests.unit import scripted_server
from tests.unit.scripted_server import (
    ScriptedServer,
    Step,
    break_off,
    break_off_at_the_end,
    create,
    fail_early,
    fail_late,
    leave_unsealed,
    refuse_early,
    seal,
    store,
)

from headrace.errors import BatchTriggerError
from headrace.sdk import AsyncClient, Client, flows, retries
from headrace.sdk.segments import Segment

ITEMS = 40
PAYLOAD = "x" * 70_000

Bodies = list[str]


def payloads() -> Iterator[str]:
    for number in range(ITEMS):
        yield f"{number}{PAYLOAD}"


async def payloads_async() -> AsyncIterator[str]:
    for payload in payloads():
        await asyncio.sleep(0)
        yield payload


def stream(kind: str, server: ScriptedServer, items: Any = None) -> Any:
    """The handle of a batch, by the client of this kind."""
    if kind == "sync":
        with Client(server.url, api_key="k") as client:
            return client.batch_trigger("t", payloads() if items is None else items)

    async def run() -> Any:
        async with AsyncClient(server.url, api_key="k") as client:
            return await client.batch_trigger("t", payloads_async() if items is None else items)

    return asyncio.run(run())


@pytest.fixture(autouse=True)
def _no_delays(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (flows, retries):
        monkeypatch.setattr(module, "find_delay", lambda *_: 0.0)


@pytest.fixture
def bodies(monkeypatch: pytest.MonkeyPatch) -> Bodies:
    """What happened to the bodies of streams: opened, closed, in order."""
    log: Bodies = []
    write, write_async = Segment.write, Segment.write_async

    def logged(self: Segment) -> Iterable[bytes]:
        log.append("opened")
        try:
            yield from write(self)
        finally:
            log.append("closed")

    async def logged_async(self: Segment) -> AsyncIterator[bytes]:
        log.append("opened")
        try:
            async for piece in write_async(self):
                yield piece
        finally:
            log.append("closed")

    monkeypatch.setattr(Segment, "write", logged)
    monkeypatch.setattr(Segment, "write_async", logged_async)
    return log


@pytest.mark.parametrize("kind", ["sync", "async"])
@pytest.mark.parametrize(
    "step",
    [
        pytest.param(fail_early, id="error-early"),
        pytest.param(fail_late, id="error-late"),
        pytest.param(leave_unsealed, id="unsealed"),
        pytest.param(break_off, id="broken-in-the-middle"),
        pytest.param(break_off_at_the_end, id="broken-at-the-end"),
    ],
)
def test_a_retry_lets_go_of_the_stream_that_was_sent(kind: str, step: Step, bodies: Bodies):
    """Checklist 108, 109 and 110: after an HTTP error, after "not sealed", after a broken connection."""
    with scripted_server.scripted_server(create, step, step, store, seal) as server:
        handle = stream(kind, server)
    assert (handle.id, handle.run_count) == ("batch_x", ITEMS)
    assert bodies == ["opened", "closed"] * 3
    assert [item["index"] for item in server.seen[3].items] == [*range(ITEMS)]
    assert [item["payload"][:2] for item in server.seen[3].items[10:]] == [str(number) for number in range(10, ITEMS)]


@pytest.mark.parametrize("kind", ["sync", "async"])
def test_an_early_refusal_ends_the_stream(kind: str, bodies: Bodies):
    with (
        scripted_server.scripted_server(create, refuse_early) as server,
        pytest.raises(BatchTriggerError, match="never") as raised,
    ):
        stream(kind, server)
    assert (raised.value.phase, raised.value.status) == ("stream", 422)
    assert bodies == ["opened", "closed"]


@pytest.mark.parametrize("kind", ["sync", "async"])
@pytest.mark.parametrize("error", [httpx2.ReadError("mine"), OSError("mine"), httpcore2.ReadError("mine")])
def test_an_error_of_the_callers_own_is_not_taken_for_one_of_the_connection(kind: str, error: Exception):
    def items() -> Iterator[str]:
        yield PAYLOAD
        raise error

    with scripted_server.scripted_server(create, store) as server:
        with pytest.raises(type(error), match="mine") as raised:
            stream(kind, server, items())
        assert raised.value is error
    assert len(server.seen) <= 2
    assert all("/seal" not in exchange.head for exchange in server.seen)


def test_the_iterator_is_read_in_the_callers_thread():
    threads: set[int] = set()

    def items() -> Iterator[int]:
        for number in range(50_000):
            threads.add(threading.get_ident())
            yield number

    with scripted_server.scripted_server(create, store, store, store, seal) as server:
        assert stream("sync", server, items()).run_count == 50_000
    assert threads == {threading.get_ident()}


def test_items_reach_the_server_while_the_next_is_not_there_yet():
    arrived = threading.Event()

    def items() -> Iterator[int]:
        yield 1
        yield 2
        assert arrived.wait(10), "the first items wait for the others"
        yield 3

    def notice(exchange: Any) -> None:
        exchange.read_some(1)
        arrived.set()
        store(exchange)

    def slowly() -> Iterator[int]:
        for number in items():
            threading.Event().wait(0.06)
            yield number

    with scripted_server.scripted_server(create, notice, seal) as server:
        assert stream("sync", server, slowly()).run_count == 3


def test_a_refused_connection_is_named_with_what_to_check(monkeypatch: pytest.MonkeyPatch):
    with scripted_server.scripted_server() as server:
        pass
    with pytest.raises(BatchTriggerError, match="HEADRACE_API_URL") as raised:
        stream("sync", server, [1])
    assert (raised.value.phase, raised.value.batch_id) == ("create", None)
    assert isinstance(raised.value.__cause__.__cause__, httpx2.ConnectError)
