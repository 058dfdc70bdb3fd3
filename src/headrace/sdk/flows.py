"""The requests of one call each, written once for both clients."""

from __future__ import annotations

import time
import urllib.parse
import uuid
from dataclasses import dataclass
from typing import Any, Final

from headrace import telemetry
from headrace.errors import ApiError, BatchTriggerError, ClientError
from headrace.sdk.effects import Answer, Broken, Flow, Send, Sleep
from headrace.sdk.items import AnyTask, encode_payload, make_options, read_options, task_id
from headrace.sdk.retries import TRIES, find_delay, may_retry, retry_after, send_patiently, to_error
from headrace.sdk.segments import ItemSource, Segment

_POLL: Final = 20.0
_STREAM_TIMEOUT: Final = 300.0


@dataclass(frozen=True, slots=True)
class SealedBatch:
    """A batch whose items are all stored."""

    id: str
    run_count: int


def trigger_run(task: AnyTask, payload: Any, options: dict[str, Any]) -> Flow[str]:
    """Flow: the id of the new run, or of the one that its idempotency key stands for."""
    wire = make_options(task, options)
    read_options(wire)
    data = encode_payload(task, payload)
    body: dict[str, Any] = {"options": wire} if wire else {}
    if data is not None:
        body["payload"] = RawJson(data)
    request = Send("POST", f"/api/v1/tasks/{quote(task_id(task))}/trigger", json=body, headers=make_headers())
    answer = yield from send_patiently(request)
    return str(answer.json["id"])


def retrieve(path: str, **query: Any) -> Flow[Any]:
    """Flow: the body of a GET."""
    return (yield from send_patiently(Send("GET", path + make_query(query)))).json


def await_result(run_id: str, timeout: float | None) -> Flow[dict[str, Any] | None]:
    """Flow: how a run ended, or None after ``timeout`` seconds."""
    deadline = None if timeout is None else time.monotonic() + timeout
    while True:
        left = _POLL if deadline is None else max(0.0, min(_POLL, deadline - time.monotonic()))
        request = Send("GET", f"/api/v1/runs/{run_id}/result?wait={left:.3f}", timeout=left + 15)
        answer = yield from send_patiently(request)
        if answer.status == 200:
            return answer.json
        if deadline is not None and time.monotonic() >= deadline:
            return None


def await_batch(batch_id: str, timeout: float | None) -> Flow[dict[str, Any] | None]:
    """Flow: a batch that has ended, or None after ``timeout`` seconds."""
    deadline = None if timeout is None else time.monotonic() + timeout
    while True:
        left = _POLL if deadline is None else max(0.0, min(_POLL, deadline - time.monotonic()))
        request = Send("GET", f"/api/v2/batches/{batch_id}?wait={left:.3f}", timeout=left + 15)
        body = (yield from send_patiently(request)).json
        if body["status"] in {"COMPLETED", "PARTIAL_FAILED", "ABORTED"}:
            return body
        if deadline is not None and time.monotonic() >= deadline:
            return None


def list_results(batch_id: str, after: int, limit: int) -> Flow[list[dict[str, Any]]]:
    """Flow: ended items with an index above ``after``, by index."""
    body = yield from retrieve(f"/api/v1/batches/{batch_id}/results", after=after, limit=limit)
    return body["items"]


def stream_batch(create: dict[str, Any], source: ItemSource, *, tries: int = TRIES) -> Flow[SealedBatch]:
    """Flow: creates a batch, streams the source into it segment by segment, seals it with the number of its items.

    Raises BatchTriggerError on giving up; what the user's iterator raises comes through as it is, and then the batch
    stays unsealed until its deadline aborts it.
    """
    created = yield from _create(create, tries)
    batch_id: str = created["id"]
    if created["isCached"]:
        return SealedBatch(batch_id, created["runCount"])
    segment = Segment(source)
    while True:
        if (yield from _send_segment(batch_id, segment, tries)):
            break  # sealed already: an earlier try of ours, or another's
        if source.ended:
            break
        segment = Segment(source)
    if source.count == 0:
        raise BatchTriggerError(
            "A batch has at least one item, but the iterable gave none.",
            phase="stream",
            batch_id=batch_id,
            accepted=0,
            expected=0,
        )
    return (yield from _seal(batch_id, segment, tries))


def _create(body: dict[str, Any], tries: int) -> Flow[dict[str, Any]]:
    request = Send("POST", "/api/v3/batches", json=body, headers=make_headers())
    try:
        answer = yield from send_patiently(request, tries=tries)
    except ClientError as error:
        raise _give_up("create", None, error) from error
    return answer.body


def _send_segment(batch_id: str, segment: Segment, tries: int) -> Flow[bool]:
    """Flow: stores a segment, trying again with what it keeps. True where the answer is that the batch is sealed."""
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
            stored: int = body["itemsAccepted"] + body["itemsDeduplicated"]
            if body["sealed"] or (stored >= segment.sent and segment.complete):
                return bool(body["sealed"])
        elif isinstance(answer, Answer) and answer.status >= 400 and not may_retry(answer):
            error = to_error(answer, request)
            raise _give_up("stream", batch_id, error) from error
        if attempt >= tries:
            error = to_error(answer, request)
            raise _give_up("stream", batch_id, error) from error
        yield Sleep(find_delay(answer, attempt))
        attempt += 1


def _seal(batch_id: str, segment: Segment, tries: int) -> Flow[SealedBatch]:
    """Flow: names the count. Where items are missing after all, sends those that are still kept."""
    count = segment.source.count
    attempt = 1
    while True:
        try:
            answer = yield from send_patiently(
                Send("POST", f"/api/v3/batches/{batch_id}/seal", json={"runCount": count})
            )
        except ClientError as error:
            raise _give_up("seal", batch_id, error) from error
        body = answer.body
        if body["sealed"]:
            return SealedBatch(batch_id, body["runCount"])
        if attempt >= tries:
            raise BatchTriggerError(
                f"Batch {batch_id} was not sealed: received {body.get('enqueuedCount', 0)} of {count} expected items.",
                phase="seal",
                batch_id=batch_id,
                status=answer.status,
                accepted=body.get("enqueuedCount", 0),
                expected=count,
            )
        yield Sleep(find_delay(answer, attempt))
        segment.keep_only([(low, high) for low, high in body.get("missing", [])])
        if len(segment):
            yield from _send_segment(batch_id, segment, tries)
        attempt += 1


def _give_up(phase: str, batch_id: str | None, error: ClientError) -> BatchTriggerError:
    status = error.status if isinstance(error, ApiError) else None
    body = error.body if isinstance(error, ApiError) else {}
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
    return f"?{urllib.parse.urlencode(given)}" if given else ""
