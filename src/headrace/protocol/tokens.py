"""Tokens on the wire: created, completed, retrieved, listed. research/engine.md B7, C1.5; ids begin with ``waitpoint_``."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, datetime
from enum import StrEnum
from typing import Final, Literal

import msgspec
from msgspec import UNSET, Raw, Struct, UnsetType

from headrace.durations import Duration, parse_duration
from headrace.protocol.options import IdempotencyKey
from headrace.protocol.runs import Pagination

MAX_TAGS: Final = 10
MAX_TAG_LENGTH: Final = 128
MAX_KEY_LENGTH: Final = 2048
LONGEST_TIME: Final = 36_500 * 86_400
"""Longest timeout of a token and longest time that its key holds, in seconds: what is longer is a mistake, or no date."""

TIMEOUT_CODE: Final = "TRIGGER_WAITPOINT_TIMEOUT"
"""What published clients know a token by that timed out."""


class TokenStatus(StrEnum):
    """Where a token stands. The last two are final."""

    WAITING = "WAITING"
    COMPLETED = "COMPLETED"
    TIMED_OUT = "TIMED_OUT"


class CreateToken(Struct, frozen=True, rename="camel", omit_defaults=True):
    """Body of ``POST /api/v1/waitpoints/tokens``. ``timeout`` is a duration such as "1h30m" or an ISO 8601 date."""

    idempotency_key: IdempotencyKey | None = None
    idempotency_key_ttl: str | None = msgspec.field(default=None, name="idempotencyKeyTTL")
    timeout: str | None = None
    tags: list[str] | str | None = None


class CreateTokenResponse(Struct, frozen=True, rename="camel"):
    """Answer to it. A POST to ``url`` needs no key; ``publicAccessToken`` is good for a day, for this token only."""

    id: str
    is_cached: bool
    url: str
    public_access_token: str


class CompleteToken(Struct, frozen=True):
    """Body of ``POST /api/v1/waitpoints/tokens/{id}/complete``: any JSON value, or none."""

    data: Raw | UnsetType = UNSET


class TokenDone(Struct, frozen=True):
    """Answer to a completion, also to one that came too late to have an effect."""

    success: Literal[True] = True


class TokenListItem(Struct, frozen=True, rename="camel"):
    """A token as it is listed."""

    id: str
    url: str
    status: str
    tags: list[str]
    created_at: str
    completed_at: str | UnsetType = UNSET
    timeout_at: str | UnsetType = UNSET
    idempotency_key: str | UnsetType = UNSET
    idempotency_key_expires_at: str | UnsetType = UNSET
    run_id: str | UnsetType = UNSET


class TokenDetail(TokenListItem, frozen=True, rename="camel"):
    """Answer to ``GET /api/v1/waitpoints/tokens/{id}``: the output as text in its type, or the error of a timeout."""

    output: str | UnsetType = UNSET
    output_type: str | UnsetType = UNSET
    output_is_error: bool | UnsetType = UNSET


class TokenList(Struct, frozen=True):
    """Answer to ``GET /api/v1/waitpoints/tokens``."""

    data: list[TokenListItem]
    pagination: Pagination
    warnings: list[str] | UnsetType = UNSET
    """(Ours) What is missing, and why: there only where a store does not answer."""


def read_tags(tags: Iterable[str] | str | None) -> list[str]:
    """Tags as they are stored: one text is one tag, empty ones are dropped. Raises ValueError on what can't be tags."""
    given = [tags] if isinstance(tags, str) else list(tags or ())
    kept = [_check_text("a tag", tag) for tag in given if tag]
    if len(kept) > MAX_TAGS:
        raise ValueError(f"a token has at most {MAX_TAGS} tags, {len(kept)} were given")
    if long := next((tag for tag in kept if len(tag) > MAX_TAG_LENGTH), None):
        raise ValueError(f"a tag has at most {MAX_TAG_LENGTH} characters, {long[:20]!r}... has {len(long)}")
    return kept


def read_key(key: str | None) -> str | None:
    """An idempotency key; None where it is empty. Raises ValueError on one that is too long or no text."""
    if key and len(_check_text("idempotencyKey", key)) > MAX_KEY_LENGTH:
        raise ValueError(f"idempotencyKey must be {MAX_KEY_LENGTH} characters or less")
    return key or None


def read_key_ttl(ttl: Duration | None) -> float | None:
    """Seconds that a key holds; None where nothing is said. Raises ValueError."""
    if ttl is None or ttl == "":
        return None
    seconds = parse_duration(ttl)
    if seconds > LONGEST_TIME:
        raise ValueError(f"idempotencyKeyTTL is {ttl!r}, but a key holds at most {LONGEST_TIME // 86_400} days")
    return seconds


def read_timeout(timeout: Duration | datetime | None) -> float | datetime | None:
    """When a token times out: seconds from now, or an aware date; None is never. Raises ValueError saying what is allowed.

    A date without a zone is local time where it is a datetime, and UTC where it is text, as in the options of a run.
    """
    if timeout is None or timeout == "":
        return None
    try:
        if isinstance(timeout, datetime):
            return timeout.astimezone(UTC)
        moment = _read_date(timeout)
        seconds = parse_duration(timeout) if moment is None else 0
    except (TypeError, ValueError, OverflowError):
        raise ValueError(
            f"timeout is {timeout!r}: give a duration such as '30s', '1h30m' or '7d', or an ISO 8601 date"
        ) from None
    if seconds > LONGEST_TIME:
        raise ValueError(f"timeout is {timeout!r}, but may be at most {LONGEST_TIME // 86_400} days")
    return seconds if moment is None else moment


def _read_date(text: Duration) -> datetime | None:
    """The date that a text spells; None where it spells none. Raises OverflowError on one that is no date in UTC."""
    if not isinstance(text, str):
        return None
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        return None
    return moment.astimezone(UTC) if moment.tzinfo else moment.replace(tzinfo=UTC)


def _check_text(what: str, text: str) -> str:
    if "\0" in text:
        raise ValueError(f"{what} must not hold a NUL character")
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        raise ValueError(f"{what} must be text that UTF-8 can spell") from None
    return text
