"""Request bodies: read whole, then decoded into the struct of the protocol that they are to be."""

from __future__ import annotations

from typing import Any, TypeVar

import msgspec

from headrace.api.errors import AnsweredError, answer_error
from headrace.api.routing import Call
from headrace.engine.screening import check_ttl, holds_nul
from headrace.protocol.errors import describe_validation_error

T = TypeVar("T")


async def read_body(call: Call, type_: type[T]) -> T:
    """The body as a ``type_``. Raises AnsweredError (400) saying what is wrong with it."""
    raw = await call.request.body()
    if not raw.strip():
        raise AnsweredError(answer_error(400, "Request body is empty"))
    try:
        raw.decode("utf-8")  # for its errors only: msgspec skips a payload without a look inside
        return msgspec.json.decode(raw, type=type_)
    except msgspec.ValidationError as error:
        raise AnsweredError(answer_error(400, _describe(raw, error, type_))) from None
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        raise AnsweredError(answer_error(400, "Invalid JSON")) from None


def refuse_ttl(text: str | None) -> None:
    """Raises AnsweredError (422) where ``text`` is given and does not say how long a key holds."""
    try:
        if text:
            check_ttl(text)
    except ValueError as error:
        raise AnsweredError(answer_error(422, str(error))) from None


def refuse_nul(raw: bytes) -> None:
    """Raises AnsweredError (400) where a string in a JSON body holds a NUL character, which PostgreSQL's text can't."""
    if holds_nul(raw):
        raise AnsweredError(answer_error(400, "Validation error: strings must not hold a NUL character"))


def _describe(raw: bytes, error: msgspec.ValidationError, type_: Any) -> str:
    # A wrong type is reported before the text behind it was read, and a body of null, 0, "" or false is no body.
    try:
        value: object = msgspec.json.decode(raw)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return "Invalid JSON"
    if value is None or (isinstance(value, bool | int | float | str) and not value):
        return "Invalid JSON"
    return describe_validation_error(error, value, type_)
