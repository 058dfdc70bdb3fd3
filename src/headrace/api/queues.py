"""Queues: listed, retrieved, declared, paused, limited; and the environment that they are in."""

from __future__ import annotations

import math
from typing import Final

from msgspec import UNSET, UnsetType
from starlette.responses import Response

from headrace.api import filters, limits
from headrace.api.bodies import read_body
from headrace.api.errors import AnsweredError, answer_error, answer_json, forbid_unless
from headrace.api.routing import Call
from headrace.api.views import format_time
from headrace.engine import queues
from headrace.engine.queues import EnvironmentLimits, QueueMissing, QueueRefused, QueueView
from headrace.errors import ConfigurationError
from headrace.protocol.queues import (
    DeclareQueue,
    EnvironmentState,
    LimitEnvironment,
    NamedQueue,
    NameType,
    OverrideQueue,
    PauseEnvironment,
    PauseQueue,
    QueueConcurrency,
    QueueItem,
    QueueList,
    QueuePages,
    RateLimit,
    format_queue_id,
    queue_name,
    split_name,
)

_FURTHEST_PAGE: Final = 1_000_000
_TYPES: Final[dict[str, NameType]] = {"task": "task", "custom": "custom", "id": "id"}


async def list_queues(call: Call) -> Response:
    """A page of queues, by name. Pages have numbers, as published clients want them."""
    page = _read_number(call, "page", 1, _FURTHEST_PAGE)
    size = min(
        _read_number(call, "perPage", filters.DEFAULT_PAGE, 2**31 - 1), filters.MAX_PAGE
    )  # as published servers do
    forbid_unless(call.caller.may("read", ("queues", None)))
    found = await queues.list_queues(call.engine, call.environment_id, limit=size, offset=(page - 1) * size)
    pages = QueuePages(current_page=page, total_pages=math.ceil(found.total / size), count=found.total)
    warnings = filters.warn_missing(found.missing, "runs")
    return answer_json(
        200, QueueList(data=[_view(queue) for queue in found.queues], pagination=pages, warnings=warnings)
    )


async def retrieve_queue(call: Call) -> Response:
    """A queue, by its id, or with ``?type=`` by its name or its task."""
    text = call.request.query_params.get("type", "id")
    if text not in _TYPES:
        raise limits.bad_query("type", "type must be id, task or custom")
    forbid_unless(call.caller.may("read", ("queues", None)))
    name = _find_name(call, _TYPES[text])
    return _answer(await queues.find_queue(call.engine, call.environment_id, name) or QueueMissing())


async def declare_queue(call: Call) -> Response:
    """Says all that a queue may do at once, as the code of a task would."""
    request = await read_body(call, DeclareQueue)
    forbid_unless(call.caller.may("write", ("queues", None)))
    try:
        queue = request.to_queue(_find_name(call, request.type))
    except (ConfigurationError, ValueError) as error:
        return answer_error(400, f"Validation error: {error}")
    return _answer(await queues.declare_queue(call.engine, call.environment_id, queue))


async def pause_queue(call: Call) -> Response:
    """Pauses a queue, so that nothing of it starts, or resumes it."""
    request = await read_body(call, PauseQueue)
    forbid_unless(call.caller.may("write", ("queues", None)))
    name = _find_name(call, request.type)
    paused = request.action == "pause"
    return _answer(await queues.pause_queue(call.engine, call.environment_id, name, paused=paused))


async def override_queue(call: Call) -> Response:
    """Sets an operator's limit over the declared one."""
    request = await read_body(call, OverrideQueue)
    forbid_unless(call.caller.may("write", ("queues", None)))
    outcome = await queues.override_queue(
        call.engine,
        call.environment_id,
        _find_name(call, request.type),
        limit=None if isinstance(request.concurrency_limit, UnsetType) else request.concurrency_limit,
        percent=None if isinstance(request.percent, UnsetType) else request.percent,
    )
    return _answer(outcome)


async def reset_queue(call: Call) -> Response:
    """Takes an operator's limit back."""
    request = await read_body(call, NamedQueue)
    forbid_unless(call.caller.may("write", ("queues", None)))
    name = _find_name(call, request.type)
    return _answer(await queues.reset_queue(call.engine, call.environment_id, name))


async def retrieve_environment(call: Call) -> Response:
    """What the environment of the key may do at once, and does."""
    forbid_unless(call.caller.may("read", ("environments", None)))
    return _answer_environment(await queues.find_limits(call.engine, call.environment_id))


async def pause_environment(call: Call) -> Response:
    """Pauses the environment of the key, so that nothing of it starts, or resumes it."""
    request = await read_body(call, PauseEnvironment)
    forbid_unless(call.caller.may("write", ("environments", None)))
    paused = request.action == "pause"
    return _answer_environment(await queues.pause_environment(call.engine, call.environment_id, paused=paused))


async def limit_environment(call: Call) -> Response:
    """Sets how many runs of the environment of the key may execute at once."""
    request = await read_body(call, LimitEnvironment)
    forbid_unless(call.caller.may("write", ("environments", None)))
    found = await queues.limit_environment(call.engine, call.environment_id, request.concurrency_limit)
    return _answer_environment(found)


def _find_name(call: Call, kind: NameType) -> str:
    # published clients encode a slash twice, for what stands in front of a server and takes "%2F" for one
    name = queue_name(call.path_param("queue").replace("%2F", "/"), kind)
    if name is None:
        raise AnsweredError(_answer(QueueMissing()))
    return name


def _answer(outcome: QueueView | QueueMissing | QueueRefused) -> Response:
    match outcome:
        case QueueView():
            return answer_json(200, _view(outcome))
        case QueueMissing():
            return answer_error(404, "Queue not found", {"x-should-retry": "false"})
        case QueueRefused(message):
            return answer_error(400, message)


def _view(queue: QueueView) -> QueueItem:
    name, kind = split_name(queue.name)
    overridden = queue.overridden_at is not None
    return QueueItem(
        id=format_queue_id(queue.name),
        name=name,
        type=kind,
        running=queue.running,
        queued=queue.queued,
        paused=queue.paused_at is not None,
        concurrency_limit=queue.limit,
        concurrency=QueueConcurrency(
            current=queue.limit,
            base=queue.declared_limit,
            override=queue.limit if overridden else None,
            overridden_at=format_time(queue.overridden_at) if queue.overridden_at else None,
        ),
        key_limit=queue.key_limit,
        rate_limit=RateLimit(queue.rate[0], queue.rate[1], queue.rate_by_key) if queue.rate else None,
        release_concurrency_on_waitpoint=not queue.keeps_slots,
        waits_for_stores=list(queue.waits_for) or UNSET,
    )


def _answer_environment(found: EnvironmentLimits) -> Response:
    state = EnvironmentState(
        slug=found.slug,
        paused=found.paused_at is not None,
        paused_at=format_time(found.paused_at) if found.paused_at else None,
        concurrency_limit=found.limit,
        running=found.running,
        queued=found.queued,
    )
    return answer_json(200, state)


def _read_number(call: Call, name: str, default: int, most: int) -> int:
    text = call.request.query_params.get(name)
    if not text:
        return default
    number = limits.parse_whole(text)
    if number is None or not 1 <= number <= most:
        raise limits.bad_query(name, f"{name} must be a whole number from 1 to {most}")
    return number
