"""The requests of one call each, written once for both clients."""

from __future__ import annotations

import time
import urllib.parse
import uuid
from dataclasses import dataclass
from typing import Any, Final

from headrace import telemetry
from headrace.errors import ApiError, BatchTriggerError, ClientError
from headrace.items import AnyTask, encode_payload, make_options, read_options, task_id
from headrace.protocol.statuses import TERMINAL_BATCH_STATUSES
from headrace.sdk.effects import Answer, Broken, Flow, Send, Sleep
from headrace.sdk.retries import TRIES, find_delay, may_retry, read_object, retry_after, send_patiently, to_error
from headrace.sdk.segments import ItemSource, Segment

_POLL: Final = 20.0
_STREAM_TIMEOUT: Final = 300.0


@dataclass(frozen=True, slots=True)
class SealedBatch:
    """A batch whose items are all stored; and whether its key stood for it, whole, before."""

    id: str
    run_count: int
    is_cached: bool = False


@dataclass(frozen=True, slots=True)
class TriggeredRun:
    """A run: a new one, or the one that a key stood for before."""

    id: str
    is_cached: bool


def trigger_run(task: AnyTask, payload: Any, options: dict[str, Any]) -> Flow[TriggeredRun]:
    """Flow: the new run, or the one that its idempotency or debounce key stands for."""
    wire = make_options(task, options)
    read_options(wire)
    data = encode_payload(task, payload)
    body: dict[str, Any] = {"options": wire} if wire else {}
    if data is not None:
        body["payload"] = RawJson(data)
    request = Send("POST", f"/api/v1/tasks/{quote(task_id(task))}/trigger", json=body, headers=make_headers())
    made = read_object((yield from send_patiently(request)), "id")
    return TriggeredRun(str(made["id"]), is_cached=bool(made.get("isCached")))


def cancel_run(run_id: str) -> Flow[None]:
    """Flow: cancels a run. Asking twice does no harm, so it is tried again as any other request."""
    request = Send("POST", f"/api/v2/runs/{quote(run_id)}/cancel", json={}, headers=make_headers())
    read_object((yield from send_patiently(request)), "id")


def update_metadata(run_id: str, operations: list[dict[str, Any]]) -> Flow[dict[str, Any]]:
    """Flow: does the operations, all or none; the metadata after them. One request id over all tries: none counts twice."""
    body = {"operations": operations}
    request = Send("PUT", f"/api/v1/runs/{quote(run_id)}/metadata", json=body, headers=make_headers())
    return read_object((yield from send_patiently(request)), "metadata")["metadata"]


def add_tags(run_id: str, tags: list[str]) -> Flow[None]:
    """Flow: adds tags to a run."""
    request = Send("POST", f"/api/v1/runs/{quote(run_id)}/tags", json={"tags": tags}, headers=make_headers())
    read_object((yield from send_patiently(request)), "message")


def retrieve(path: str, **query: Any) -> Flow[dict[str, Any]]:
    """Flow: the object that a GET answers."""
    return read_object((yield from send_patiently(Send("GET", path + make_query(query)))))


def await_result(run_id: str, timeout: float | None) -> Flow[dict[str, Any] | None]:
    """Flow: how a run ended, or None after ``timeout`` seconds."""
    deadline = None if timeout is None else time.monotonic() + timeout
    while True:
        left = _POLL if deadline is None else max(0.0, min(_POLL, deadline - time.monotonic()))
        request = Send("GET", f"/api/v1/runs/{quote(run_id)}/result?wait={left:.3f}", timeout=left + 15)
        answer = yield from send_patiently(request, until=deadline)
        if answer.status == 200:
            return read_object(answer, "ok")
        if deadline is not None and time.monotonic() >= deadline:
            return None


def await_batch(batch_id: str, timeout: float | None) -> Flow[dict[str, Any] | None]:
    """Flow: a batch that has ended, or None after ``timeout`` seconds."""
    deadline = None if timeout is None else time.monotonic() + timeout
    while True:
        left = _POLL if deadline is None else max(0.0, min(_POLL, deadline - time.monotonic()))
        request = Send("GET", f"/api/v2/batches/{quote(batch_id)}?wait={left:.3f}", timeout=left + 15)
        body = read_object((yield from send_patiently(request, until=deadline)), "status")
        if body["status"] in TERMINAL_BATCH_STATUSES:
            return body
        if deadline is not None and time.monotonic() >= deadline:
            return None


def list_results(batch_id: str, after: int, limit: int) -> Flow[tuple[list[dict[str, Any]], int]]:
    """Flow: ended items with an index above ``after``, by index, and how many bytes they were."""
    query = make_query({"after": after, "limit": limit})
    answer = yield from send_patiently(Send("GET", f"/api/v1/batches/{quote(batch_id)}/results{query}"))
    return read_object(answer, "items")["items"], len(answer.content)


def stream_batch(create: dict[str, Any], source: ItemSource, *, tries: int = TRIES) -> Flow[SealedBatch]:
    """Flow: creates a batch, streams the source into it segment by segment, seals it with the number of its items.

    Raises BatchTriggerError on giving up; what the user's iterator raises comes through as it is, and then the batch
    stays unsealed until its deadline aborts it.
    """
    created = yield from _create(create, tries)
    batch_id: str = created["id"]
    if created["isCached"]:
        return SealedBatch(batch_id, created["runCount"], is_cached=True)
    segment = Segment(source)
    while True:
        if sealed := (yield from _send_segment(batch_id, segment, tries)):
            return sealed  # already: a call with the same key was quicker
        if source.ended:
            break
        segment = Segment(source)
    return (yield from _seal(batch_id, segment, tries))


def _create(body: dict[str, Any], tries: int) -> Flow[dict[str, Any]]:
    request = Send("POST", "/api/v3/batches", json=body, headers=make_headers())
    try:
        answer = yield from send_patiently(request, tries=tries)
    except ClientError as error:
        raise _give_up("create", None, error) from error
    return read_object(answer, "id", "isCached")


def _send_segment(batch_id: str, segment: Segment, tries: int) -> Flow[SealedBatch | None]:
    """Flow: stores a segment, trying again with what it keeps. The batch where the answer is that it is sealed already."""
    request = Send(
        "POST",
        f"/api/v3/batches/{batch_id}/items",
        segment=segment,
        headers={"content-type": "application/x-ndjson", "x-headrace-partial": "1"},
        timeout=_STREAM_TIMEOUT,
    )
    attempt = 1
    while True:
        answer: Answer | Broken = yield request
        body = answer.body if isinstance(answer, Answer) and answer.status == 200 else {}
        if "sealed" in body:
            if body["sealed"]:
                return SealedBatch(batch_id, body.get("runCount") or segment.source.count)
            stored: int = body.get("itemsAccepted", 0) + body.get("itemsDeduplicated", 0)
            if stored >= segment.sent and segment.complete:
                return None
            if attempt >= tries:
                raise _describe_unsealed("stream", batch_id, body, segment.first + segment.sent)
        elif attempt >= tries or not (may_retry(answer) or _is_success(answer)):
            error = to_error(answer, request)
            raise _give_up("stream", batch_id, error) from error
        yield Sleep(find_delay(answer, attempt))
        attempt += 1


def _seal(batch_id: str, segment: Segment, tries: int) -> Flow[SealedBatch]:
    """Flow: names the count. Where items are missing after all, sends those that are still kept."""
    count = segment.source.count
    attempt = 1
    request = Send("POST", f"/api/v3/batches/{batch_id}/seal", json={"runCount": count})
    while True:
        try:
            answer = yield from send_patiently(request, tries=tries)
            body = read_object(answer, "sealed")
        except ClientError as error:
            raise _give_up("seal", batch_id, error) from error
        if body["sealed"]:
            return SealedBatch(batch_id, body.get("runCount") or count)
        if attempt >= tries:
            raise _describe_unsealed("seal", batch_id, body, count)
        yield Sleep(find_delay(answer, attempt))
        if segment.send_only((low, high) for low, high in body.get("missing") or ()):
            yield from _send_segment(batch_id, segment, tries)
        attempt += 1


def _is_success(answer: Answer | Broken) -> bool:
    """Of an answer that can't be read: whether it says that all is well. Then it was garbled, like a broken connection."""
    return isinstance(answer, Answer) and answer.is_success


def _describe_unsealed(phase: str, batch_id: str, body: dict[str, Any], count: int) -> BatchTriggerError:
    enqueued, expected = body.get("enqueuedCount") or 0, body.get("expectedCount") or count
    return BatchTriggerError(
        f"Batch {batch_id} was not sealed: received {enqueued} of {expected} expected items "
        f"(accepted: {body.get('itemsAccepted', 0)}, deduplicated: {body.get('itemsDeduplicated', 0)})",
        phase=phase,
        batch_id=batch_id,
        status=200,
        accepted=enqueued,
        expected=expected,
    )


def _give_up(phase: str, batch_id: str | None, error: ClientError) -> BatchTriggerError:
    status = error.status if isinstance(error, ApiError) else None
    body: Any = error.body if isinstance(error, ApiError) else {}
    wait = retry_after(Answer(error.status, error.headers, b"")) if isinstance(error, ApiError) else None
    doing = {"create": "create the batch", "stream": "stream the items of the batch", "seal": "seal the batch"}[phase]
    return BatchTriggerError(
        f"Failed to {doing}{f' {batch_id}' if batch_id else ''}: {error}",
        phase=phase,
        batch_id=batch_id,
        status=status,
        accepted=body.get("enqueuedCount"),
        expected=body.get("expectedCount"),
        retry_after=wait,
    )


class RawJson:
    """JSON text that goes into a body as it is."""

    __slots__ = ("data",)

    def __init__(self, data: bytes) -> None:
        self.data = data


def make_headers() -> dict[str, str]:
    """One id over all tries, by which the server knows a request that is sent again; and the trace that this is part of."""
    headers = {"x-trigger-request-idempotency-key": str(uuid.uuid4())}
    telemetry.inject_headers(headers)
    return headers


def quote(text: str) -> str:
    """Text as one part of a path."""
    return urllib.parse.quote(text, safe="")


def make_query(values: dict[str, Any]) -> str:
    """A query string of the values that are given."""
    given = {name: value for name, value in values.items() if value is not None}
    return f"?{urllib.parse.urlencode(given, doseq=True)}" if given else ""
