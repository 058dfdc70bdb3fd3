"""What the query of a list may say: filters, when things were made, and which page of them is wanted."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from datetime import UTC, datetime, timedelta
from typing import Final, TypeVar
from uuid import UUID

from msgspec import UNSET, UnsetType

from headrace.api import limits
from headrace.api.routing import Call
from headrace.durations import parse_duration
from headrace.protocol.openapi import Parameter

T = TypeVar("T")

DEFAULT_PAGE: Final = 25
MAX_PAGE: Final = 100

CREATED: Final = (
    Parameter("filter[createdAt][from]", "query", "ISO 8601, or milliseconds since 1970"),
    Parameter("filter[createdAt][to]", "query", "ISO 8601, or milliseconds since 1970"),
    Parameter("filter[createdAt][period]", "query", "Created within this long, such as 1h"),
    Parameter("page[size]", "query", f"1 to {MAX_PAGE}, default {DEFAULT_PAGE}", int),
)
"""How the document of the routes shows what ``read_created`` and ``read_page`` read."""

DATE: Final = "an ISO 8601 date, or milliseconds since 1970"


def read_list(call: Call, name: str) -> list[str] | None:
    """The values of a parameter that is given several times, or once with commas; None where it is not given."""
    values = [part for text in call.request.query_params.getlist(name) for part in text.split(",") if part]
    for value in values:
        _refuse_nul(name, value)
    return values or None


def read_text(call: Call, name: str) -> str | None:
    """The value of a parameter as it is, commas and all; None where it is not given."""
    value = call.request.query_params.get(name)
    _refuse_nul(name, value or "")
    return value or None


def read_texts(call: Call, name: str) -> list[str] | None:
    """The values of a parameter that may be given several times, each as it is; None where it is not given."""
    values = [value for value in call.request.query_params.getlist(name) if value]
    for value in values:
        _refuse_nul(name, value)
    return values or None


def refuse_unknown(call: Call, known: Collection[str]) -> None:
    """Raises AnsweredError (400) for a filter that there is none of: a list without it would say something else."""
    for name in call.request.query_params:
        if name.startswith(("filter", "page")) and name not in known:
            raise limits.bad_query(name, f"{name} is no filter of this list; there are: {', '.join(sorted(known))}")


def read_id(call: Call, name: str, parse: Callable[[str], UUID | None], what: str) -> UUID | None:
    """The id in a parameter; None where it is not given. Raises AnsweredError (400) where it is not ``what``."""

    def parse_id(text: str) -> UUID:
        if (found := parse(text)) is None:
            raise ValueError(text)
        return found

    return _read(call, name, parse_id, what)


def read_created(call: Call) -> tuple[datetime | None, datetime | None]:
    """The first and the last moment of ``filter[createdAt]``."""
    period = _read(call, "filter[createdAt][period]", parse_duration, "a duration such as 1h30m")
    created_from = _read(call, "filter[createdAt][from]", parse_time, DATE)
    if period is not None:
        created_from = max(created_from or datetime.min.replace(tzinfo=UTC), moment_ago(period))
    return created_from, _read(call, "filter[createdAt][to]", parse_time, DATE)


def read_page(call: Call, parse: Callable[[str], UUID | None], what: str) -> tuple[int, UUID | None, UUID | None]:
    """How many are wanted, and the cursors ``page[after]`` and ``page[before]``, of which one may be given."""
    after, before = (read_id(call, f"page[{name}]", parse, what) for name in ("after", "before"))
    if after and before:
        raise limits.bad_query("page[before]", "give page[after] or page[before], not both")
    given = _read(call, "page[size]", int, "a whole number")
    size = DEFAULT_PAGE if given is None else given
    if not 1 <= size <= MAX_PAGE:
        raise limits.bad_query("page[size]", f"page[size] must be from 1 to {MAX_PAGE}")
    return size, after, before


def warn_missing(stores: Sequence[str], what: str) -> list[str] | UnsetType:
    """What a list says of the stores that did not answer; absent where all did."""
    return [f"store {name} does not answer: its {what} are missing" for name in stores] or UNSET


def _read(call: Call, name: str, parse: Callable[[str], T], what: str) -> T | None:
    text = call.request.query_params.get(name)
    if not text:
        return None
    try:
        return parse(text)
    except (ValueError, OverflowError, OSError):  # of which dates far away raise either
        raise limits.bad_query(name, f"{name} must be {what}") from None


def _refuse_nul(name: str, value: str) -> None:
    if "\0" in value:
        raise limits.bad_query(name, f"{name} must not hold a NUL character")


def parse_time(text: str) -> datetime:
    """A moment as the wire spells it. Raises ValueError, OverflowError or OSError."""
    if text.isascii() and text.isdigit():
        return datetime.fromtimestamp(int(text) / 1000, UTC)
    moment = datetime.fromisoformat(text)
    return moment.astimezone(UTC) if moment.tzinfo else moment.replace(tzinfo=UTC)


def moment_ago(seconds: float) -> datetime:
    """The moment so many seconds before now."""
    try:
        return datetime.now(UTC) - timedelta(seconds=seconds)
    except OverflowError:
        return datetime.min.replace(tzinfo=UTC)
