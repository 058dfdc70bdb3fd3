"""Idempotency keys: freed before their time is over."""

from __future__ import annotations

from starlette.responses import Response

from headrace.api import limits
from headrace.api.bodies import read_body
from headrace.api.errors import AnsweredError, answer_error, answer_json, answer_missing, forbid_unless
from headrace.api.routing import Call
from headrace.engine import idempotency
from headrace.protocol.runs import ResetKey, ResetKeyResponse


async def reset_key(call: Call) -> Response:
    """Frees the key of a task: as it was given to the trigger, or its SHA-256. One that stands for no run is 404."""
    key = call.path_param("key")
    body = await read_body(call, ResetKey)
    if len(key) > limits.KEY_MAX_LENGTH:
        raise AnsweredError(answer_error(400, f"The key must be {limits.KEY_MAX_LENGTH} characters or less"))
    forbid_unless(call.caller.may("write", ("runs", None), ("tasks", body.task_identifier)))
    task = body.task_identifier
    if "\0" not in task and await idempotency.reset_key(call.engine, call.environment_id, task, key):
        return answer_json(200, ResetKeyResponse(id=key))
    return answer_missing(f"No runs found with idempotency key: {key} and task: {task}")
