"""Bulk actions: many runs canceled or replayed in the background, by a filter or by name."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from typing import Final, TypeVar
from uuid import UUID

from msgspec import UNSET
from starlette.responses import Response

from headrace import ids
from headrace.api import filters, limits, views
from headrace.api.batches import REQUEST_ID_HEADER, answer_conflict
from headrace.api.bodies import read_body, refuse_nul
from headrace.api.errors import AnsweredError, answer_error, answer_json, answer_missing, forbid_unless
from headrace.api.routing import Call
from headrace.durations import parse_duration
from headrace.engine import bulk_actions
from headrace.engine.bulk_actions import (
    BulkAborted,
    BulkAction,
    BulkCreated,
    BulkEnded,
    BulkKind,
    BulkLimit,
    BulkMissing,
    BulkOrder,
    BulkRunsMissing,
)
from headrace.engine.idempotency import fingerprint_request
from headrace.engine.outcomes import KeyConflict, RunFilter
from headrace.protocol import bulk_actions as wire
from headrace.protocol.openapi import Parameter
from headrace.protocol.statuses import RunStatus

MAX_BODY: Final = 1024 * 1024

PAGES: Final = (
    Parameter("page[size]", "query", f"1 to {filters.MAX_PAGE}, default {filters.DEFAULT_PAGE}", int),
    Parameter("page[after]", "query", "Actions older than this one"),
    Parameter("page[before]", "query", "Actions newer than this one"),
)

_SHOWN_IDS: Final = 10

T = TypeVar("T")
R = TypeVar("R")


async def create_bulk_action(call: Call) -> Response:
    """Makes a bulk action: it is begun within a moment, by whichever process sweeps."""
    request_id = limits.read_key_header(call.request, REQUEST_ID_HEADER)
    asked = await read_body(call, wire.CreateBulkAction)
    refuse_nul(await call.request.body())
    forbid_unless(call.caller.may("write", ("runs", None)))
    order = _read_order(asked)
    outcome = await bulk_actions.create_bulk_action(
        call.engine,
        call.environment_id,
        order,
        request_id=request_id,
        fingerprint=fingerprint_request(["bulk", asked]),  # of what was said: a period comes to other times each time
    )
    match outcome:
        case BulkCreated(action_id):
            return answer_json(202, wire.BulkActionId(ids.format_bulk_action_id(action_id)))
        case BulkRunsMissing(missing):
            given = {ids.parse_run_id(text): text for text in asked.run_ids or []}
            named = ", ".join(given[one] for one in missing[:_SHOWN_IDS])
            more = f" and {len(missing) - _SHOWN_IDS} more" if len(missing) > _SHOWN_IDS else ""
            return answer_error(422, f"runIds: not in this environment: {named}{more}")
        case BulkLimit(most):
            # it does not go by within the time that a client tries again
            message = f"{most} bulk replays are under way in this environment, and no more may be: wait, or abort one"
            return answer_error(429, message, {"x-should-retry": "false"})
        case KeyConflict(message):
            return answer_conflict(message)


async def retrieve_bulk_action(call: Call) -> Response:
    """A bulk action and how far it has got."""
    forbid_unless(call.caller.may("read", ("runs", None)))
    action_id = ids.parse_bulk_action_id(call.path_param("action_id"))
    found = await bulk_actions.find_bulk_action(call.engine, call.environment_id, action_id) if action_id else None
    return answer_missing() if found is None else answer_json(200, _view_action(found))


async def list_bulk_actions(call: Call) -> Response:
    """A page of bulk actions, newest first."""
    filters.refuse_unknown(call, {row.name for row in PAGES})
    size, after, before = filters.read_page(call, ids.parse_bulk_action_id, "a bulk action id")
    forbid_unless(call.caller.may("read", ("runs", None)))
    page = await bulk_actions.list_bulk_actions(
        call.engine, call.environment_id, after=after, before=before, limit=size
    )
    pagination = wire.BulkPagination(
        next=ids.format_bulk_action_id(page.older) if page.older else UNSET,
        previous=ids.format_bulk_action_id(page.newer) if page.newer else UNSET,
    )
    return answer_json(200, wire.BulkActionList([_view_action(action) for action in page.actions], pagination))


async def abort_bulk_action(call: Call) -> Response:
    """Ends a bulk action: what it has done stays, and it does no more. One that was aborted is answered alike."""
    forbid_unless(call.caller.may("write", ("runs", None)))
    action_id = ids.parse_bulk_action_id(call.path_param("action_id"))
    if action_id is None:
        return answer_missing()
    match await bulk_actions.abort_bulk_action(call.engine, call.environment_id, action_id):
        case BulkAborted(aborted):
            return answer_json(200, wire.BulkActionId(ids.format_bulk_action_id(aborted)))
        case BulkEnded(status):
            return answer_error(400, f"The bulk action is {status}: only one that is PENDING can be aborted")
        case BulkMissing():
            return answer_missing()


def _view_action(action: BulkAction) -> wire.BulkAction:
    return wire.BulkAction(
        id=ids.format_bulk_action_id(action.id),
        type=str(action.kind),
        status=str(action.status),
        counts=wire.BulkCounts(action.total, action.succeeded, action.failed),
        created_at=views.format_time(action.created_at),
        selecting=not action.selected and action.completed_at is None,
        name=action.name or UNSET,
        completed_at=views.format_time(action.completed_at) if action.completed_at else UNSET,
        warnings=[f"store {name} does not answer: its part is as it was seen last" for name in action.missing] or UNSET,
    )


def _read_order(asked: wire.CreateBulkAction) -> BulkOrder:
    kind = BulkKind(asked.action.upper())
    if (asked.filter is None) == (asked.run_ids is None):
        given = "neither was" if asked.filter is None else "both were"
        raise _refuse(f"Exactly one of filter and runIds must be given, {given}")
    if asked.target_region is not None:
        raise _refuse("targetRegion: there are no regions to choose from; leave it out")
    if asked.filter is not None:
        return BulkOrder(kind, filter=_read_filter(asked.filter), name=asked.name)
    given_ids = asked.run_ids or []
    if len(given_ids) > bulk_actions.MOST_RUN_IDS:
        raise _refuse(
            f"Too many runIds ({len(given_ids)}). Maximum is {bulk_actions.MOST_RUN_IDS}. Use a filter to select more runs."
        )
    run_ids = [_read_id(f"runIds[{index}]", text, ids.parse_run_id) for index, text in enumerate(given_ids)]
    return BulkOrder(kind, run_ids=run_ids, name=asked.name)


def _read_filter(given: wire.BulkFilter) -> RunFilter:
    """The filter, its times fixed from now on. Raises AnsweredError (400) on what can't be."""
    statuses = _texts(given.status)
    created_from = None if given.from_ is None else _read_time("from", given.from_)
    if given.period is not None:
        ago = filters.moment_ago(_parse("period", given.period, parse_duration, "a duration such as 1h30m"))
        created_from = max(created_from or ago, ago)
    wanted = RunFilter(
        statuses=None if statuses is None else frozenset(_read_status(one) for one in statuses),
        tasks=_texts(given.task_identifier),
        queues=_read_queues(given.queue),
        tags=_texts(given.tag),
        batch_id=_read_id("filter.batch", given.batch, ids.parse_batch_id) if given.batch else None,
        created_from=created_from,
        created_to=None if given.to is None else _read_time("to", given.to),
        schedule_id=_read_id("filter.schedule", given.schedule, ids.parse_schedule_id) if given.schedule else None,
        bulk_action_id=(
            _read_id("filter.bulkAction", given.bulk_action, ids.parse_bulk_action_id) if given.bulk_action else None
        ),
        idempotency_key=given.idempotency_key or None,
        concurrency_keys=_texts(given.concurrency_key),
        order_keys=_texts(given.order_key),
        versions=_texts(given.version),
        is_test=given.is_test,
        machines=_texts(given.machine),
        regions=_texts(given.region),
        error=given.error or None,
    )
    if wanted == RunFilter():
        raise _refuse("filter: at least one filter must be given, or it would be every run of the environment")
    return wanted


def _texts(given: wire.Texts | None) -> list[str] | None:
    values = [given] if isinstance(given, str) else given or []
    return [value for value in values if value.strip()] or None


def _read_queues(given: str | wire.QueueName | Sequence[str | wire.QueueName] | None) -> list[str] | None:
    several = [] if given is None else [given] if isinstance(given, str | wire.QueueName) else given
    names = [one if isinstance(one, str) else f"task/{one.name}" if one.type == "task" else one.name for one in several]
    return [name for name in names if name.strip()] or None


def _read_status(text: str) -> RunStatus:
    return _parse("status", text, RunStatus, f"of: {', '.join(RunStatus)}")


def _read_time(name: str, value: str | float) -> datetime:
    if isinstance(value, str):
        return _parse(name, value, filters.parse_time, filters.DATE)
    return _parse(name, value, lambda number: datetime.fromtimestamp(number / 1000, UTC), filters.DATE)


def _read_id(name: str, text: str, parse: Callable[[str], UUID | None]) -> UUID:
    found = parse(text)
    if found is None:
        raise _refuse(f"{name} is {text!r}, which is no id of that kind")
    return found


def _parse(name: str, value: T, parse: Callable[[T], R], what: str) -> R:
    try:
        return parse(value)
    except (ValueError, OverflowError, OSError):
        raise _refuse(f"filter.{name} is {value!r}, but must be {what}") from None


def _refuse(message: str) -> AnsweredError:
    return AnsweredError(answer_error(400, message))
