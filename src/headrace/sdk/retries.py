"""When a request is sent again, and after how long. research/batch.md 4.2, where it is right.

Sent again: no answer at all, 408, 409, 429, 5xx, and whatever says ``x-should-retry: true``. Not sent again: other 4xx,
and whatever says false. Five tries; the delays double from one second with jitter.
"""

from __future__ import annotations

import math
import random
import time
from collections.abc import Callable
from email.utils import parsedate_to_datetime
from typing import Any, Final

from headrace.errors import ApiError, ClientError, ConnectionFailedError
from headrace.sdk.effects import Answer, Broken, Flow, Send, Sleep

TRIES: Final = 5
LONGEST_PATIENCE: Final = 300.0
"""Seconds: a server that asks for a longer pause is not waited for. The error says how long it asked for."""

_LONGEST_DELAY: Final = 30.0
_RETRIED: Final = frozenset({408, 409, 429})
_MILLISECONDS: Final = 1e11
"""A reset above it is milliseconds since 1970, as the wire has it; below it seconds, as some servers send it (fault 13)."""


def send_patiently(request: Send, *, tries: int = TRIES, until: float | None = None) -> Flow[Answer]:
    """Flow: the 2xx answer, after as many tries as it takes, none of them begun past ``until`` (monotonic clock).

    Raises ApiError or ConnectionFailedError.
    """
    attempt = 1
    while True:
        answer: Answer | Broken = yield request
        if isinstance(answer, Answer) and answer.is_success:
            return answer
        delay = find_delay(answer, attempt)
        if attempt >= tries or not may_retry(answer) or (until is not None and time.monotonic() + delay > until):
            raise to_error(answer, request)
        yield Sleep(delay)
        attempt += 1


def may_retry(answer: Answer | Broken) -> bool:
    """Whether sending the same again may help, soon."""
    if isinstance(answer, Broken):
        return True
    if (retry_after(answer) or 0) > LONGEST_PATIENCE:
        return False
    match answer.headers.get("x-should-retry"):
        case "true":
            return True
        case "false":
            return False
        case _:
            return answer.status in _RETRIED or answer.status >= 500


def find_delay(
    answer: Answer | Broken,
    attempt: int,
    *,
    chance: Callable[[], float] = random.random,
    clock: Callable[[], float] = time.time,
) -> float:
    """Seconds before the try after ``attempt`` (1 for the first): what the server asks for, else a growing back-off.

    A limit (429) says precisely when it ends. Whoever is unavailable can only guess: there the back-off is the least.
    """
    backoff = min(_LONGEST_DELAY, 2.0 ** (attempt - 1) * (1 + chance()))
    if isinstance(answer, Answer) and (asked := retry_after(answer, clock)) is not None:
        return asked + chance() if answer.status == 429 else max(asked, backoff)
    return backoff


def retry_after(answer: Answer, clock: Callable[[], float] = time.time) -> float | None:
    """Seconds that the server asks to wait: ``x-ratelimit-reset`` (a time in ms) of a 429, or ``retry-after``."""
    if answer.status == 429 and (reset := _number(answer.headers.get("x-ratelimit-reset"))) is not None:
        left = (reset / 1000 if reset > _MILLISECONDS else reset) - clock()
        if left > 0:
            return left
    text = answer.headers.get("retry-after")
    seconds = _number(text)
    return _seconds_until(text, clock) if seconds is None and text else seconds


def to_error(answer: Answer | Broken, request: Send) -> ClientError:
    """The exception for an answer that is final."""
    if isinstance(answer, Broken):
        error = ConnectionFailedError(
            f"{request.method} {request.path}: no answer from the server ({answer.cause or type(answer.cause).__name__}). "
            "Check HEADRACE_API_URL and that `headrace server` runs."
        )
        error.__cause__ = answer.cause
        return error
    return ApiError(answer.status, answer.message, answer.headers, answer.body)


def read_object(answer: Answer, *names: str) -> dict[str, Any]:
    """The JSON object of an answer. Raises ClientError where it lacks one of ``names``: another program answers there."""
    body = answer.body
    if any(name not in body for name in names):
        raise ClientError(
            f"The answer ({answer.status}) is not what a headrace server says. Check HEADRACE_API_URL. It begins: {answer.content[:80]!r}"
        )
    return body


def _number(text: str | None) -> float | None:
    try:
        number = -1.0 if text is None else float(text)
    except ValueError:
        return None
    return number if 0 <= number < math.inf else None


def _seconds_until(date: str, clock: Callable[[], float]) -> float | None:
    try:
        return max(0.0, parsedate_to_datetime(date).timestamp() - clock())
    except ValueError:
        return None
