"""Replay: a new run of what an earlier one was asked to do, with options over those that are copied."""

from __future__ import annotations

import msgspec
from msgspec import UNSET
from starlette.requests import Request
from starlette.responses import Response

from headrace import ids
from headrace.api import limits, offload, tokens
from headrace.api.batches import REQUEST_ID_HEADER, answer_conflict
from headrace.api.bodies import read_body
from headrace.api.errors import AnsweredError, answer_error, answer_json, forbid_unless
from headrace.api.routing import Call
from headrace.engine import replays, runs
from headrace.engine.outcomes import BatchRefused, KeyConflict, Packet, RunCreated, RunExists, RunView
from headrace.engine.screening import read_packet, refuse_faults, refuse_large_metadata
from headrace.protocol.runs import ReplayRun, TriggerResponse


async def replay_run(call: Call) -> Response:
    """Makes a run of what another one was asked to do. A body is optional, as published clients send none."""
    text = call.path_param("run_id")
    request_id = limits.read_key_header(call.request, REQUEST_ID_HEADER)
    asked = ReplayRun()
    if _has_body(call.request):
        limits.check_content_length(call.request, call.settings.body_max_size)
        asked = await read_body(call, ReplayRun)
    run_id = ids.parse_run_id(text)
    run = await runs.find_run(call.engine, call.environment_id, run_id) if run_id else None
    forbid_unless(call.caller.may("write", ("runs", text), *([("tasks", run.task)] if run else [])))
    if run is None:
        return answer_error(404, "Run not found", {"x-should-retry": "false"})
    given = _read_packet(run, asked, call.settings.metadata_max_size)
    packet = None if given is None else await offload.offload_if_large(call.engine, call.caller.environment, given)
    outcome = await replays.replay_run(
        call.engine,
        call.environment_id,
        run,
        asked.options,
        packet=packet,
        request_id=request_id,
        traceparent=call.traceparent,
    )
    if packet is not None and not isinstance(outcome, RunCreated):
        await offload.delete_objects(call.engine, [packet])
    match outcome:
        case RunCreated(made):
            return _answer(call, ids.format_run_id(made), is_cached=False)
        case RunExists(found, cached):
            spelt = await runs.spell_run_ids(call.engine, call.environment_id, [found])
            return _answer(call, spelt[found], is_cached=cached)
        case KeyConflict(message):
            return answer_conflict(message)
        case BatchRefused(status, message):
            return answer_error(status, message)


def _has_body(request: Request) -> bool:
    return request.headers.get("content-length", "0") != "0" or "transfer-encoding" in request.headers


def _read_packet(run: RunView, asked: ReplayRun, most_metadata: int) -> Packet | None:
    """The other payload, or None where it is the same. Raises AnsweredError (422) on what can't be."""
    try:
        refuse_faults(run.task, asked.options)
        refuse_large_metadata(asked.options, most_metadata)
        given = None if asked.payload is UNSET else read_packet(asked.payload, asked.options)
    except (ValueError, msgspec.ValidationError) as error:
        raise AnsweredError(answer_error(422, f"Invalid replay: {error}")) from None
    if given is None and asked.options is not None and asked.options.payload_type is not None:
        message = "Invalid replay: payloadType says what another payload is, and none was given"
        raise AnsweredError(answer_error(422, message))
    return given


def _answer(call: Call, run_id: str, *, is_cached: bool) -> Response:
    headers = tokens.token_headers(call.caller.environment, [f"read:runs:{run_id}"])
    return answer_json(200, TriggerResponse(id=run_id, is_cached=is_cached), headers)
