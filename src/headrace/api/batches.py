"""Batches: created (phase 1), sealed by name, retrieved, and their results. Phase 2, the stream, is in ``items``."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from typing import Final
from uuid import UUID

import msgspec
from msgspec import UNSET
from starlette.responses import Response, StreamingResponse

from headrace import ids
from headrace.api import items, limits, polling, tokens, views
from headrace.api.bodies import read_body, refuse_nul, refuse_ttl
from headrace.api.errors import AnsweredError, answer_error, answer_json, answer_missing, forbid_unless
from headrace.api.routing import Call
from headrace.engine import batches, runs
from headrace.engine.admission import judge_stream
from headrace.engine.outcomes import (
    BatchCreated,
    BatchExists,
    BatchRefused,
    BatchState,
    KeyConflict,
    Lineage,
    StreamDone,
)
from headrace.protocol.batches import CreateBatch, CreateBatchResponse, SealBatch

REQUEST_ID_HEADER: Final = "x-trigger-request-idempotency-key"
MAX_LISTED_RUNS: Final = 10_000
"""Batches of more items are retrieved without the ids of their runs: results are paged for that."""

MAX_PAGE: Final = 1_000
_STREAMED_PAGE: Final = 100


async def create_batch(call: Call) -> Response:
    """Phase 1: a batch to stream items into; or the one that this same request made before."""
    request_id = limits.read_key_header(call.request, REQUEST_ID_HEADER)
    request = await read_body(call, CreateBatch)
    refuse_nul(await call.request.body())
    refuse_ttl(request.idempotency_key_ttl)
    forbid_unless(call.caller.may_trigger_all("batchTrigger", request.task_identifiers or []))
    lineage = await find_lineage(call, request.parent_run_id)
    outcome = await batches.create_batch(
        call.engine, call.environment_id, request, request_id, call.traceparent, lineage
    )
    match outcome:
        case BatchCreated(batch):
            return _answer_created(call, batch)
        case BatchExists(batch):
            return _answer_created(call, batch, is_cached=isinstance(judge_stream(batch), StreamDone))
        case KeyConflict(message):
            return answer_conflict(message)
        case BatchRefused(status, message):
            return answer_error(status, message)


async def seal_batch(call: Call) -> Response:
    """Names the final count of an open-ended batch; answers like the end of its stream."""
    text = call.path_param("batch_id")
    batch_id = ids.parse_batch_id(text)
    request = await read_body(call, SealBatch)
    forbid_unless(call.caller.may("write", ("batch", text)))
    if batch_id is None:
        return answer_missing(f"Batch {text} not found")
    return await items.answer_end(call, batch_id, run_count=request.run_count)


async def retrieve_batch_v1(call: Call) -> Response:
    """A batch, in the older shape."""
    batch = await _find_readable(call)
    errors = await batches.list_batch_errors(call.engine, batch.environment_id, batch.id)
    return answer_json(200, views.view_batch_v1(batch, await _list_run_ids(call, batch), errors))


async def retrieve_batch_v2(call: Call) -> Response:
    """A batch; with ``?wait=`` once it has ended, or as it then stands."""
    batch = await _find_readable(call)
    errors = await batches.list_batch_errors(call.engine, batch.environment_id, batch.id)
    return answer_json(200, views.view_batch_v2(batch, await _list_run_ids(call, batch), errors))


async def list_results(call: Call) -> Response:
    """How the ended items of a batch ended, by index; all of them, or a page with ``?after=INDEX&limit=N``."""
    batch_id = ids.parse_batch_id(call.path_param("batch_id"))
    after, limit = _read_page(call)
    if not call.caller.has_secret_key:
        return answer_error(401, "Invalid or Missing API Key")
    if batch_id is None or await batches.find_batch(call.engine, call.environment_id, batch_id) is None:
        return answer_missing("Batch not found")
    return StreamingResponse(_encode_results(call, batch_id, after, limit), media_type="application/json")


async def find_lineage(call: Call, parent_run_id: str | None) -> Lineage | None:
    """The place below the run that is to be a parent. Raises AnsweredError: 403 where the caller may not, 422 where there is none."""
    if parent_run_id is None:
        return None
    run_id = ids.parse_run_id(parent_run_id)
    parent = await runs.find_run(call.engine, call.environment_id, run_id) if run_id else None
    if not call.caller.may("write", ("runs", parent_run_id), *([("tasks", parent.task)] if parent else [])):
        raise AnsweredError(answer_error(403, "Unauthorized"))
    if parent is None:
        raise AnsweredError(answer_error(422, f"Parent run {parent_run_id} not found"))
    if parent.depth >= call.settings.max_depth:
        text = f"Parent run {parent_run_id} is {parent.depth} runs below the top of its tree, and HEADRACE_MAX_DEPTH is"
        raise AnsweredError(answer_error(422, f"{text} {call.settings.max_depth}: it can have no children"))
    return Lineage(parent.id, parent.root_run_id or parent.id, parent.depth + 1)


def answer_conflict(message: str) -> Response:
    """409; said to be final, because the published SDK would try a 409 again."""
    return answer_error(409, message, {"x-should-retry": "false"})


def _answer_created(call: Call, batch: BatchState, *, is_cached: bool = False) -> Response:
    batch_id = ids.format_batch_id(batch.id)
    answer = CreateBatchResponse(
        id=batch_id,
        run_count=batch.run_count,
        is_cached=is_cached,
        idempotency_key=UNSET if is_cached else batch.idempotency_key or UNSET,
    )
    return answer_json(200 if is_cached else 202, answer, batch_token_headers(call, batch_id))


def batch_token_headers(call: Call, batch_id: str) -> dict[str, str]:
    """The public token that comes with a batch: to read it, and in a browser to stream its items too."""
    scopes = [f"read:batch:{batch_id}"]
    in_browser = call.request.headers.get("x-trigger-client") == "browser"
    if in_browser and call.caller.may_trigger_all("batchTrigger", []):
        scopes.append(f"write:batch:{batch_id}")
    return tokens.token_headers(call.caller.environment, scopes)


async def _find_readable(call: Call) -> BatchState:
    text = call.path_param("batch_id")
    seconds = polling.read_wait(call)
    batch_id = ids.parse_batch_id(text)
    forbid_unless(call.caller.may("read", ("batch", text), ("runs", None)))
    batch = None
    if batch_id is not None:
        if seconds:
            waiting = batches.await_batch(call.engine, call.environment_id, batch_id, seconds)
            batch = await polling.await_change(call, waiting)
        batch = batch or await batches.find_batch(call.engine, call.environment_id, batch_id)
    if batch is None:
        raise AnsweredError(answer_missing())
    return batch


async def _list_run_ids(call: Call, batch: BatchState) -> list[str]:
    if batch.accepted > MAX_LISTED_RUNS:
        return []
    run_ids = await batches.list_batch_run_ids(call.engine, batch.environment_id, batch.id)
    spelt = await runs.spell_run_ids(call.engine, batch.environment_id, run_ids)
    return [spelt[run_id] for run_id in run_ids]


def _read_page(call: Call) -> tuple[int, int | None]:
    after = _read_whole(call, "after", -1)
    limit = _read_whole(call, "limit", 1)
    return -1 if after is None else after, None if limit is None else min(limit, MAX_PAGE)


def _read_whole(call: Call, name: str, least: int) -> int | None:
    text = call.request.query_params.get(name)
    if text is None:
        return None
    try:
        number = int(text)
    except ValueError:
        number = least - 1
    if not least <= number <= ids.MAX_ITEM_INDEX:
        raise limits.bad_query(name, f"{name} must be a whole number, {least} or more")
    return number


async def _encode_results(call: Call, batch_id: UUID, after: int, limit: int | None) -> AsyncGenerator[bytes]:
    """The body piece by piece, so that a batch of any size costs the memory of a page."""
    yield b'{"id":%b,"items":[' % msgspec.json.encode(ids.format_batch_id(batch_id))
    separator = b""
    while limit is None or limit > 0:
        size = _STREAMED_PAGE if limit is None else min(limit, _STREAMED_PAGE)
        page = await batches.list_batch_results(call.engine, call.environment_id, batch_id, after=after, limit=size)
        for result in page:
            yield separator + msgspec.json.encode(await views.view_item_result(call, result))
            separator = b","
        if len(page) < size:
            break
        after = page[-1].index
        limit = None if limit is None else limit - len(page)
    yield b"]}"
