"""Which runs are meant: what ``filter[...]`` of a list says, and the body of a bulk action in the same words."""

from __future__ import annotations

from typing import Final

from headrace import ids
from headrace.api import filters, limits
from headrace.api.routing import Call
from headrace.engine.outcomes import RunFilter
from headrace.protocol.openapi import Parameter
from headrace.protocol.statuses import RunStatus

PARAMETERS: Final = (
    Parameter("filter[status]", "query", f"Of {', '.join(RunStatus)}, with commas between"),
    Parameter("filter[taskIdentifier]", "query", "Task ids, with commas between"),
    Parameter("filter[queue]", "query", "Queues, with commas between"),
    Parameter("filter[tag]", "query", "Tags, with commas between: any of them"),
    Parameter("filter[version]", "query", "Versions of the code, with commas between"),
    Parameter("filter[batch]", "query", "A batch id"),
    Parameter("filter[schedule]", "query", "A schedule id"),
    Parameter("filter[bulkAction]", "query", "A bulk action id: the runs that it canceled or made"),
    Parameter("filter[isTest]", "query", "true or false"),
    Parameter("filter[machine]", "query", "Machines, with commas between"),
    Parameter("filter[region]", "query", "Regions, with commas between"),
    Parameter("filter[idempotencyKey]", "query", "An idempotency key, as it was given"),
    Parameter("filter[concurrencyKey]", "query", "A concurrency key; several are given one by one"),
    Parameter("filter[orderKey]", "query", "An order key; several are given one by one"),
    Parameter("filter[error]", "query", "Part of the code, the name or the message of the error of a run that ended"),
    *filters.CREATED,
    Parameter("page[after]", "query", "Runs older than this one"),
    Parameter("page[before]", "query", "Runs newer than this one"),
)

_TRUTHS: Final = {"true": True, "false": False}


def read_run_filter(call: Call) -> RunFilter:
    """What the query of a list says. Raises AnsweredError (400) on a filter that there is none of, or a value that can't be."""
    filters.refuse_unknown(call, {row.name for row in PARAMETERS})
    statuses = filters.read_list(call, "filter[status]")
    created_from, created_to = filters.read_created(call)
    return RunFilter(
        statuses=None if statuses is None else frozenset(_parse_status(one) for one in statuses),
        tasks=filters.read_list(call, "filter[taskIdentifier]"),
        queues=filters.read_list(call, "filter[queue]"),
        tags=filters.read_list(call, "filter[tag]"),
        batch_id=filters.read_id(call, "filter[batch]", ids.parse_batch_id, "a batch id"),
        created_from=created_from,
        created_to=created_to,
        schedule_id=filters.read_id(call, "filter[schedule]", ids.parse_schedule_id, "a schedule id"),
        bulk_action_id=filters.read_id(call, "filter[bulkAction]", ids.parse_bulk_action_id, "a bulk action id"),
        idempotency_key=filters.read_text(call, "filter[idempotencyKey]"),
        concurrency_keys=filters.read_texts(call, "filter[concurrencyKey]"),
        order_keys=filters.read_texts(call, "filter[orderKey]"),
        versions=filters.read_list(call, "filter[version]"),
        is_test=_read_truth(call, "filter[isTest]"),
        machines=filters.read_list(call, "filter[machine]"),
        regions=filters.read_list(call, "filter[region]"),
        error=filters.read_text(call, "filter[error]"),
    )


def _parse_status(text: str) -> RunStatus:
    try:
        return RunStatus(text)
    except ValueError:
        message = f"filter[status] is {text!r}, but must be of: {', '.join(RunStatus)}"
        raise limits.bad_query("filter[status]", message) from None


def _read_truth(call: Call, name: str) -> bool | None:
    text = filters.read_text(call, name)
    if text is not None and text not in _TRUTHS:
        raise limits.bad_query(name, f"{name} is {text!r}, but must be true or false")
    return None if text is None else _TRUTHS[text]
