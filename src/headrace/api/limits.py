"""What a request may weigh, checked before it is read: content length, and the length of headers."""

from __future__ import annotations

from typing import Any, Final

from starlette.requests import Request

from headrace.api.errors import AnsweredError, answer_error

CREATE_BATCH_MAX_SIZE: Final = 131_072
"""Longest body of a request that creates a batch, in bytes."""

_MOST_DIGITS: Final = 18

KEY_MAX_LENGTH: Final = 2048
"""Longest idempotency key, in characters."""


def check_content_length(request: Request, maximum: int) -> None:
    """Raises AnsweredError (413) unless the request names the length of its body, and that is at most ``maximum``."""
    length = parse_whole(request.headers.get("content-length", ""))
    if length is None or length > maximum:
        raise AnsweredError(answer_error(413, "Request body too large"))


def parse_whole(text: str) -> int | None:
    """The number that up to 18 decimal digits spell, 0 or more; None of anything else."""
    return int(text) if text.isascii() and text.isdigit() and len(text) <= _MOST_DIGITS else None


def read_key_header(request: Request, name: str) -> str | None:
    """A header that holds a key; None where it is missing or empty. Raises AnsweredError (400) where it is too long."""
    value = request.headers.get(name)
    if value is not None and len(value) > KEY_MAX_LENGTH:
        raise bad_header(name, f"{name} must be {KEY_MAX_LENGTH} characters or less")
    return value or None


def bad_header(name: str, message: str) -> AnsweredError:
    """400 for a header that can't be what it should be."""
    return _bad_input("Headers Error", name, message)


def bad_query(name: str, message: str) -> AnsweredError:
    """400 for a query parameter that can't be what it should be."""
    return _bad_input("Query Error", name, message)


def _bad_input(error: str, name: str, message: str) -> AnsweredError:
    details: list[dict[str, Any]] = [{"code": "custom", "path": [name], "message": message}]
    return AnsweredError(answer_error(400, error, details=details))
