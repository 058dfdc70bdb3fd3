"""Phase 2 of a batch: ``POST /api/v3/batches/{id}/items``, the stream of its items.

The body is pulled only as fast as it is stored. Every answer but a 4xx for a bad item is safe to follow with the same
stream again, or with any part of it: items are told apart by their index.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Final
from uuid import UUID

from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive

from headrace import ids
from headrace.api import limits
from headrace.api.errors import (
    CLIENT_GONE,
    AnsweredError,
    answer_error,
    answer_forbidden,
    answer_json,
    answer_missing,
    forbid_unless,
)
from headrace.api.ingest import BadItem, Failed, Ingest, ItemForbidden
from headrace.api.routing import Call
from headrace.engine import batches
from headrace.engine.outcomes import (
    BatchMissing,
    BatchRefused,
    BatchState,
    Incomplete,
    Sealed,
    StreamDone,
    StreamOpen,
    StreamRefused,
)
from headrace.protocol.batches import StreamItemsResponse
from headrace.protocol.ndjson import BadLine, ItemDecoder, Line, ParsedItem

RUN_COUNT_HEADER: Final = "x-headrace-run-count"
PARTIAL_HEADER: Final = "x-headrace-partial"


class ItemBody:
    """The lines of a request's body, as they come. ``state`` is open, ended, cut (the client is gone) or silent."""

    def __init__(self, receive: Receive, *, max_line: int, max_silence: float) -> None:
        self.state = "open"
        self._receive = receive
        self._decoder = ItemDecoder(max_line=max_line)
        self._max_silence = max_silence
        self._clock = asyncio.get_running_loop().time

    async def pull(self, until: float | None = None) -> list[Line]:
        """The lines that came next; none if nothing came until then (the loop's clock), or nothing comes any more."""
        silent_at = self._clock() + self._max_silence
        try:
            async with asyncio.timeout_at(silent_at if until is None else until):
                message = await self._receive()
        except TimeoutError:
            if until is None:
                self.state = "silent"
            return []
        if message["type"] == "http.disconnect":
            self.state = "cut"
            return []
        lines = self._decoder.feed(message.get("body", b""))
        if not message.get("more_body", False):
            self.state = "ended"
            lines += self._decoder.finish()
        return lines

    async def pull_first(self) -> list[Line]:
        """The first lines, waited for; none of an empty body."""
        lines: list[Line] = []
        while not lines and self.state == "open":
            lines = await self.pull()
        return lines


def refuse_content_type(request: Request) -> Response | None:
    """415 for what does not say that it is NDJSON."""
    given = request.headers.get("content-type", "")
    if "application/x-ndjson" in given or "application/ndjson" in given:
        return None
    return answer_error(415, "Content-Type must be application/x-ndjson or application/ndjson")


async def stream_items(call: Call) -> Response:
    """Stores the items of the body, then seals the batch if all of them are there."""
    text = call.path_param("batch_id")
    batch_id = ids.parse_batch_id(text)
    if batch_id is None:
        raise AnsweredError(answer_error(400, f"Invalid batchFriendlyId: {text}"))
    run_count = _read_run_count(call.request)
    partial = call.request.headers.get(PARTIAL_HEADER) == "1"
    settings = call.settings
    body = ItemBody(call.request.receive, max_line=settings.item_max_size, max_silence=settings.seal_timeout)
    may_trigger = _restriction(call, text)
    # A restricted token shows with its first item what it may do, before it learns whether the batch exists.
    lines = await body.pull_first() if may_trigger else []
    forbid_unless(may_trigger is None or (bool(lines) and _may_send(lines[0], may_trigger)))
    match await batches.admit_stream(call.engine, call.environment_id, batch_id):
        case StreamOpen(batch):
            count = run_count if batch.run_count is None else batch.run_count
            ingest = Ingest(call.engine, call.caller.environment, batch, run_count=count, may_trigger=may_trigger)
            await _pump(body, ingest, lines)
            if ingest.ending is not None:
                return _answer_ending(ingest, text)
            if body.state == "ended":
                return await answer_end(call, batch_id, ingest, run_count=run_count, partial=partial)
            return _answer_broken_off(body, settings.seal_timeout)
        case StreamDone(batch):
            return answer_sealed(batch)
        case StreamRefused(batch):
            return answer_refused(batch)
        case BatchMissing():
            return answer_missing(f"Batch {text} not found")


async def answer_end(
    call: Call, batch_id: UUID, ingest: Ingest | None = None, *, run_count: int | None = None, partial: bool = False
) -> Response:
    """Seals the batch if all its items are there, and says how it stands."""
    text = ids.format_batch_id(batch_id)
    outcome = await batches.end_stream(call.engine, call.environment_id, batch_id, run_count=run_count, partial=partial)
    match outcome:
        case Sealed(batch):
            return answer_sealed(batch, ingest)
        case Incomplete(batch, missing):
            return _answer_incomplete(batch, missing, ingest)
        case StreamRefused(batch):
            return answer_refused(batch, at_seal=batch.accepted == batch.run_count)
        case BatchMissing():
            return answer_missing(f"Batch {text} not found")
        case BatchRefused(status, message):
            return answer_error(status, message)


def answer_sealed(batch: BatchState, ingest: Ingest | None = None) -> Response:
    """200: all items are stored. Nothing accepted where nothing was read, because the work was done already."""
    answer = StreamItemsResponse(
        id=ids.format_batch_id(batch.id),
        items_accepted=ingest.accepted if ingest else 0,
        items_deduplicated=ingest.deduplicated if ingest else 0,
        sealed=True,
        run_count=batch.run_count,
    )
    return answer_json(200, answer)


def answer_refused(batch: BatchState, *, at_seal: bool = False) -> Response:
    """422: the batch takes no items and never will."""
    text = ids.format_batch_id(batch.id)
    if not at_seal:
        return answer_error(422, f"Batch {text} is not in PENDING status (current: {batch.status})")
    state = f"status: {batch.status}, sealed: {'true' if batch.sealed else 'false'}"
    return answer_error(422, f"Batch {text} is in unexpected state ({state}). Cannot seal batch.")


async def _pump(body: ItemBody, ingest: Ingest, lines: list[Line]) -> None:
    """From the body into the store, until one of them ends it; then all that was taken in is stored, or has failed."""
    try:
        await ingest.add(lines)
        while body.state == "open" and ingest.ending is None:
            await ingest.add(await body.pull(ingest.look_at))
        await ingest.drain()
    finally:
        ingest.abandon()


def _answer_broken_off(body: ItemBody, max_silence: float) -> Response:
    if body.state == "silent":
        return answer_error(408, f"Nothing was received for {max_silence:g} seconds")
    return Response(status_code=CLIENT_GONE)


def _answer_incomplete(batch: BatchState, missing: list[tuple[int, int]], ingest: Ingest | None) -> Response:
    answer = StreamItemsResponse(
        id=ids.format_batch_id(batch.id),
        items_accepted=ingest.accepted if ingest else 0,
        items_deduplicated=ingest.deduplicated if ingest else 0,
        sealed=False,
        run_count=batch.run_count,
        enqueued_count=batch.accepted,
        expected_count=batch.run_count,
        missing=missing,
    )
    return answer_json(200, answer)


def _answer_ending(ingest: Ingest, text: str) -> Response:
    match ingest.ending:
        case StreamDone(batch):
            return answer_sealed(batch, ingest)
        case StreamRefused(batch):
            return answer_refused(batch)
        case BatchMissing():
            return answer_missing(f"Batch {text} not found")
        case BadItem(status, message):
            return answer_error(status, message)
        case ItemForbidden():
            return answer_forbidden()
        case Failed(error):
            raise error
        case None:
            raise AssertionError(text)


def _restriction(call: Call, text: str) -> Callable[[str], bool] | None:
    """Which tasks the caller may send items of; None where it may write to this batch, and so send anything."""
    if call.caller.may("write", ("batch", text)):
        return None
    return lambda task: call.caller.may_trigger_all("batchTrigger", [task])


def _may_send(line: Line, may_trigger: Callable[[str], bool]) -> bool:
    if isinstance(line, BadLine):
        return False
    return may_trigger(line.item.task if isinstance(line, ParsedItem) else line.task)


def _read_run_count(request: Request) -> int | None:
    name = RUN_COUNT_HEADER
    text = request.headers.get(name)
    if text is None:
        return None
    count = limits.parse_whole(text)
    if count is None or not 0 < count <= ids.MAX_ITEM_INDEX:
        raise limits.bad_header(name, f"{name} must be a whole number from 1 to {ids.MAX_ITEM_INDEX}")
    return count
