"""Flows of the client driven by hand: each request is answered by the next of a list, and no time passes."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, TypeVar

import httpx2
import msgspec

from headrace.items import LineEncoder
from headrace.sdk.effects import Answer, Broken, Flow, Send, Sleep
from headrace.sdk.flows import RawJson, SealedBatch, stream_batch
from headrace.sdk.segments import ItemSource

T = TypeVar("T")

BATCH = "batch_x"
BROKEN = Broken(httpx2.ReadError("the connection broke"))

Reply = Answer | Broken | Callable[[Send], Answer | Broken]


def answer(status: int = 200, body: Any = None, **headers: str) -> Answer:
    """An answer; ``retry_after="1"`` is the header retry-after."""
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return Answer(status, named, b"" if body is None else msgspec.json.encode(body))


def created(**more: Any) -> Answer:
    return answer(202, {"id": BATCH, "runCount": None, "isCached": False, **more})


def stored(*, sealed: bool = False, accepted: int | None = None, duplicates: int = 0, **more: Any) -> Reply:
    """The server reads the whole segment and says so; or that it stored so many."""

    def reply(request: Send) -> Answer:
        lines = read_lines(request)
        count = len(lines) if accepted is None else accepted
        return answer(
            200, {"id": BATCH, "itemsAccepted": count, "itemsDeduplicated": duplicates, "sealed": sealed, **more}
        )

    return reply


def sealed(run_count: int) -> Answer:
    return answer(200, {"id": BATCH, "itemsAccepted": 0, "itemsDeduplicated": 0, "sealed": True, "runCount": run_count})


def unsealed(**more: Any) -> Answer:
    return answer(200, {"id": BATCH, "itemsAccepted": 0, "itemsDeduplicated": 0, "sealed": False, **more})


def cut_after(pieces: int, reply: Answer | Broken = BROKEN) -> Reply:
    """The connection takes so many pieces of the body, then breaks; or the server answers early."""

    def cut(request: Send) -> Answer | Broken:
        assert request.segment is not None
        body = request.segment.write()
        for _ in range(pieces):
            next(body, None)
        body.close()
        return reply

    return cut


def read_lines(request: Send) -> list[dict[str, Any]]:
    """The items that a request sends, to the end of its segment."""
    assert request.segment is not None
    return [msgspec.json.decode(line) for line in b"".join(request.segment.write()).splitlines()]


class Driver:
    """Runs flows; keeps what they sent and how long they slept."""

    def __init__(self, *replies: Reply) -> None:
        self.replies = list(replies)
        self.sent: list[Send] = []
        self.indexes: list[list[int]] = []  # of the items of each stream
        self.slept: list[float] = []

    @property
    def paths(self) -> list[str]:
        return [request.path for request in self.sent]

    def run(self, flow: Flow[T], *, asks_for_all: bool = True) -> T:
        """What the flow returns; unless told otherwise it has to have asked for every reply by then."""
        reply: Answer | Broken | None = None
        try:
            while True:
                effect = flow.send(reply)
                if isinstance(effect, Sleep):
                    self.slept.append(effect.seconds)
                    reply = None
                else:
                    reply = self._reply(effect)
        except StopIteration as stop:
            assert not (asks_for_all and self.replies), f"never asked for: {self.replies}"
            return stop.value

    def _reply(self, request: Send) -> Answer | Broken:
        self.sent.append(request)
        assert self.replies, f"one request too many: {request.method} {request.path}"
        chosen = self.replies.pop(0)
        if not callable(chosen):
            return chosen
        before = request.segment
        reply = chosen(request)
        if before is not None:
            self.indexes.append([line["index"] for line in self._peek(request)][: before.sent])
        return reply

    @staticmethod
    def _peek(request: Send) -> Iterable[dict[str, Any]]:
        assert request.segment is not None
        kept = b"".join(request.segment._write_kept())
        return [msgspec.json.decode(line) for line in kept.splitlines()]


def stream(
    driver: Driver, items: Iterable[Any], *, tries: int = 5, create: dict[str, Any] | None = None
) -> SealedBatch:
    """What ``batch_trigger`` does with these items."""
    return driver.run(stream_batch(create or {}, ItemSource(items, LineEncoder("t", {})), tries=tries))


def body_of(request: Send) -> Any:
    """The JSON that a request sends."""
    return msgspec.json.decode(
        msgspec.json.encode(
            request.json, enc_hook=lambda raw: msgspec.Raw(raw.data) if isinstance(raw, RawJson) else raw
        )
    )
