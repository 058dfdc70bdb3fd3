"""Which runs are meant on the command line: an option each, the same for lists and for bulk actions."""

from __future__ import annotations

from dataclasses import dataclass, fields
from datetime import datetime
from typing import Annotated, Any, Final

from cyclopts import Parameter

from headrace.cli.outcome import USAGE, CommandError


def _told(name: str, text: str) -> Parameter:
    return Parameter(help=text, env_var=f"HEADRACE_FILTER_{name.upper()}")


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True)
class RunFilterOptions:
    """Runs of which everything that is given is true."""

    status: Annotated[str | None, _told("status", "Statuses, with commas between, such as QUEUED,FAILED")] = None
    task: Annotated[str | None, _told("task", "Task ids, with commas between")] = None
    queue: Annotated[str | None, _told("queue", "Queues, with commas between")] = None
    tag: Annotated[str | None, _told("tag", "Tags, with commas between: any of them")] = None
    batch: Annotated[str | None, _told("batch", "A batch's id")] = None
    schedule: Annotated[str | None, _told("schedule", "A schedule's id")] = None
    code_version: Annotated[str | None, _told("code_version", "Versions of the code, with commas between")] = None
    bulk_action: Annotated[
        str | None, _told("bulk_action", "A bulk action's id: the runs that it canceled or made")
    ] = None
    idempotency_key: Annotated[str | None, _told("idempotency_key", "An idempotency key")] = None
    concurrency_key: Annotated[str | None, _told("concurrency_key", "A concurrency key")] = None
    order_key: Annotated[str | None, _told("order_key", "An order key")] = None
    error: Annotated[str | None, _told("error", "Part of the error's code, name or message")] = None
    test: Annotated[
        bool | None, Parameter(help="Only test runs, or none", negative="--no-test", env_var="HEADRACE_FILTER_TEST")
    ] = None
    period: Annotated[str | None, _told("period", "Created within this long, such as 24h")] = None
    created_from: Annotated[str | None, _told("created_from", "Created at this ISO 8601 date or later")] = None
    created_to: Annotated[str | None, _told("created_to", "Created at this ISO 8601 date or before")] = None


_NAMES: Final = {"test": "is_test", "code_version": "version"}  # HEADRACE_VERSION is the version of a worker


def list_filters(given: RunFilterOptions | None) -> dict[str, Any]:
    """What was given, as the client takes it. Raises CommandError on a date that is none."""
    if given is None:
        return {}
    said = {one.name: value for one in fields(given) if (value := getattr(given, one.name)) is not None}
    for name in ("created_from", "created_to"):
        if name in said:
            said[name] = _read_date(name, said[name])
    return {_NAMES.get(name, name): value for name, value in said.items()}


def _read_date(name: str, text: str) -> datetime:
    try:
        return datetime.fromisoformat(text).astimezone()
    except (ValueError, OverflowError):
        option = f"--{name.replace('_', '-')}"
        raise CommandError(
            f"{option} is {text!r}: give an ISO 8601 date such as 2026-01-31T12:00:00Z.", USAGE
        ) from None
