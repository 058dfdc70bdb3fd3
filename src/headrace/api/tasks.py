"""Triggering: one run of a task, or a small batch in one request and one transaction."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Final

import msgspec
from msgspec import UNSET
from starlette.responses import Response

from headrace import ids
from headrace.api import limits, offload, tokens
from headrace.api.batches import REQUEST_ID_HEADER, answer_conflict, batch_token_headers, find_lineage
from headrace.api.bodies import read_body, refuse_ttl
from headrace.api.errors import AnsweredError, answer_error, answer_json, forbid_unless
from headrace.api.routing import Call
from headrace.engine import batches, runs
from headrace.engine.admission import judge_stream
from headrace.engine.outcomes import (
    BatchCreated,
    BatchExists,
    BatchRefused,
    BatchState,
    KeyConflict,
    Packet,
    RunCreated,
    RunExists,
    StoredItem,
    StreamOpen,
)
from headrace.engine.screening import read_packet, refuse_faults, refuse_large_metadata
from headrace.protocol.batches import CreateBatch, OneShotBatch, OneShotBatchResponse
from headrace.protocol.options import RunOptions
from headrace.protocol.runs import TriggerResponse, TriggerTask

KEY_HEADER: Final = "idempotency-key"
KEY_TTL_HEADER: Final = "idempotency-key-ttl"
MAX_TASK_ID: Final = 128


async def trigger_task(call: Call) -> Response:
    """One run; or the one that its idempotency key, or this same request before, made."""
    task = call.path_param("task_id")
    if len(task) > MAX_TASK_ID:
        return answer_error(400, "Params Error", details=[{"path": ["taskId"], "message": "the task's id is too long"}])
    request_id = limits.read_key_header(call.request, REQUEST_ID_HEADER)
    key = limits.read_key_header(call.request, KEY_HEADER)
    request = await read_body(call, TriggerTask)
    options = _with_key(request.options or RunOptions(), key, call.request.headers.get(KEY_TTL_HEADER))
    forbid_unless(call.caller.may_trigger_all("trigger", [task]))
    given = _read_packet(call, task, request.payload, options, "Invalid trigger")
    lineage = await find_lineage(call, request.parent_run_id)
    packet = await offload.offload_if_large(call.engine, call.caller.environment, given)
    outcome = await runs.trigger_run(
        call.engine,
        call.environment_id,
        task,
        packet,
        options,
        request_id=request_id,
        traceparent=call.traceparent,
        lineage=lineage,
    )
    if isinstance(outcome, RunExists) and outcome.replaced is not None:
        await offload.delete_objects(call.engine, [outcome.replaced])
    elif not isinstance(outcome, RunCreated):
        await offload.delete_objects(call.engine, [packet])
    match outcome:
        case RunCreated(run_id):
            return _answer_triggered(call, ids.format_run_id(run_id), is_cached=False)
        case RunExists(run_id, cached):
            spelt = await runs.spell_run_ids(call.engine, call.environment_id, [run_id])
            return _answer_triggered(call, spelt[run_id], is_cached=cached)
        case KeyConflict(message):
            return answer_conflict(message)
        case BatchRefused(status, message):
            return answer_error(status, message)


async def submit_batch(call: Call) -> Response:
    """A batch with all its items: all of it in one transaction, or nothing."""
    request_id = limits.read_key_header(call.request, REQUEST_ID_HEADER)
    key = limits.read_key_header(call.request, KEY_HEADER)
    body = await read_body(call, OneShotBatch)
    refuse_ttl(call.request.headers.get(KEY_TTL_HEADER))
    _check_items(call, body)
    packets = [
        _read_packet(call, item.task, item.payload, item.options, f"Invalid item at index {index}")
        for index, item in enumerate(body.items)
    ]
    lineage = await find_lineage(call, body.parent_run_id)
    stored = await _offload_all(call, packets)
    items = [
        StoredItem(index, item.task, packet, item.options)
        for index, (item, packet) in enumerate(zip(body.items, stored, strict=True))
    ]
    request = CreateBatch(
        run_count=len(items),
        task_identifiers=sorted({item.task for item in items}),
        parent_run_id=body.parent_run_id,
        resume_parent_on_completion=body.resume_parent_on_completion,
        idempotency_key=key,
        idempotency_key_ttl=call.request.headers.get(KEY_TTL_HEADER),
    )
    outcome = await batches.submit_batch(
        call.engine, call.environment_id, request, items, request_id, call.traceparent, lineage
    )
    if not isinstance(outcome, BatchCreated):
        await offload.delete_objects(call.engine, stored)
    match outcome:
        case BatchCreated(batch):
            return _answer_submitted(call, batch, is_cached=False)
        case BatchExists(batch):
            if isinstance(judge_stream(batch), StreamOpen):
                return answer_conflict("This idempotency key stands for a batch whose items are still being streamed.")
            return _answer_submitted(call, batch, is_cached=True)
        case KeyConflict(message):
            return answer_conflict(message)
        case BatchRefused(status, message):
            return answer_error(status, message)


def _check_items(call: Call, body: OneShotBatch) -> None:
    count, most = len(body.items), call.settings.one_shot_max_items
    if not count:
        raise AnsweredError(answer_error(400, "Batch cannot be triggered with no items"))
    if count > most:
        message = f"Batch size of {count} is too large. Maximum allowed batch size is {most}."
        raise AnsweredError(answer_error(400, message))
    forbid_unless(call.caller.may_trigger_all("batchTrigger", {item.task for item in body.items}))


async def _offload_all(call: Call, packets: Sequence[Packet]) -> list[Packet]:
    """The packets as they will be stored, the large ones uploaded, not more at once than the setting allows."""
    slots = asyncio.Semaphore(call.settings.ingest_concurrency)

    async def offload_one(packet: Packet) -> Packet:
        async with slots:
            return await offload.offload_if_large(call.engine, call.caller.environment, packet)

    if not any(offload.is_large(call.engine, packet) for packet in packets):
        return list(packets)
    outcomes = await asyncio.gather(*map(offload_one, packets), return_exceptions=True)
    stored = [outcome for outcome in outcomes if isinstance(outcome, Packet)]
    for outcome in outcomes:
        if isinstance(outcome, BaseException):
            await offload.delete_objects(call.engine, stored)
            raise outcome
    return stored


def _read_packet(
    call: Call,
    task: str,
    payload: msgspec.Raw | msgspec.UnsetType,
    options: RunOptions | None,
    what: str,
) -> Packet:
    try:
        refuse_faults(task, options)
        refuse_large_metadata(options, call.settings.metadata_max_size)
        return read_packet(payload, options)
    except ValueError as error:
        raise AnsweredError(answer_error(422, f"{what}: {error}")) from None


def _with_key(options: RunOptions, key: str | None, ttl: str | None) -> RunOptions:
    """The options, with the key of the header where they name none themselves."""
    if key is None or options.idempotency_key:
        return options
    return msgspec.structs.replace(options, idempotency_key=key, idempotency_key_ttl=options.idempotency_key_ttl or ttl)


def _answer_triggered(call: Call, run_id: str, *, is_cached: bool) -> Response:
    headers = tokens.token_headers(call.caller.environment, [f"read:runs:{run_id}"])
    return answer_json(200, TriggerResponse(id=run_id, is_cached=is_cached), headers)


def _answer_submitted(call: Call, batch: BatchState, *, is_cached: bool) -> Response:
    batch_id = ids.format_batch_id(batch.id)
    answer = OneShotBatchResponse(
        id=batch_id,
        is_cached=is_cached,
        run_count=batch.run_count or batch.accepted,
        idempotency_key=UNSET if is_cached else batch.idempotency_key or UNSET,
    )
    return answer_json(200 if is_cached else 202, answer, batch_token_headers(call, batch_id))
