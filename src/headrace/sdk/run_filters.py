"""Which runs are meant, in the words of the clients: the same for lists and for bulk actions."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, Final, TypedDict

from headrace.durations import Duration
from headrace.errors import ConfigurationError
from headrace.items import AnyTask, spell_duration, task_id
from headrace.tasks import Task


class RunFilters(TypedDict, total=False):
    """Runs of which everything that is given is true. Several values of one are in a list.

    ``error`` is part of the code, the name or the message of the error of a run that ended with one. ``period`` is a
    duration: created within it. ``bulk_action`` asks for the runs that the action canceled or made.
    """

    status: str | Sequence[str] | None
    task: AnyTask | Sequence[AnyTask] | None
    queue: str | Sequence[str] | None
    tag: str | Sequence[str] | None
    version: str | Sequence[str] | None
    batch: str | None
    schedule: str | None
    bulk_action: str | None
    idempotency_key: str | None
    concurrency_key: str | Sequence[str] | None
    order_key: str | Sequence[str] | None
    error: str | None
    is_test: bool | None
    created_from: datetime | None
    created_to: datetime | None
    period: Duration | None


_NAMES: Final = {
    "status": "status",
    "task": "taskIdentifier",
    "queue": "queue",
    "tag": "tag",
    "version": "version",
    "batch": "batch",
    "schedule": "schedule",
    "bulk_action": "bulkAction",
    "idempotency_key": "idempotencyKey",
    "concurrency_key": "concurrencyKey",
    "order_key": "orderKey",
    "error": "error",
    "is_test": "isTest",
    "created_from": "from",
    "created_to": "to",
    "period": "period",
}
_TIMES: Final = ("from", "to", "period")
_SPLIT: Final = ("status", "taskIdentifier", "queue", "tag", "version")
"""Of these several may be given as one text, with commas between."""


def spell_filters(filters: Mapping[str, Any]) -> dict[str, Any]:
    """Filters as the body of a bulk action has them. Raises ConfigurationError on one that there is not."""
    wire: dict[str, Any] = {}
    for name, value in filters.items():
        if name not in _NAMES:
            raise ConfigurationError(f"There is no filter {name!r} for runs; there are: {', '.join(_NAMES)}.")
        if value is not None:
            try:
                wire[_NAMES[name]] = _spell(name, value)
            except (TypeError, ValueError, AttributeError) as error:
                raise ConfigurationError(f"The filter {name} is {value!r}: {error}") from None
    return wire


def name_run_filters(filters: Mapping[str, Any]) -> dict[str, Any]:
    """Filters as the query of a list has them."""
    query: dict[str, Any] = {}
    for name, value in spell_filters(filters).items():
        key = f"filter[createdAt][{name}]" if name in _TIMES else f"filter[{name}]"
        if isinstance(value, bool):
            query[key] = "true" if value else "false"
        else:
            query[key] = ",".join(value) if name in _SPLIT else value
    return query


def _spell(name: str, value: Any) -> Any:
    match name:
        case "created_from" | "created_to":
            return value.astimezone(UTC).isoformat()
        case "period":
            return spell_duration(value)
        case "is_test":
            return bool(value)
        case "status" | "task" | "queue" | "tag" | "version":
            several: Iterable[Any] = value.split(",") if isinstance(value, str) else value
            if isinstance(value, Task):
                several = [value]
            return [one if isinstance(one, str) else task_id(one) for one in several]
        case _:
            return value if isinstance(value, str) else list(value)
