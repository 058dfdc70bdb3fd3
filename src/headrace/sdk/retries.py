"""When a request is sent again, and after how long. research/batch.md 4.2, where it is right.

Sent again: no answer at all, 408, 429, 5xx, and whatever says ``x-should-retry:
true``. Not sent again: other 4xx, and whatever says false. Five tries; the delays double from one second with jitter.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from typing import Final

from headrace.errors import ApiError, ClientError, ConnectionFailedError
from headrace.sdk.effects import Answer, Broken, Flow, Send, Sleep

TRIES: Final = 5
_LONGEST_DELAY: Final = 30.0
_RETRIED: Final = frozenset({408, 429})


def send_patiently(request: Send, *, tries: int = TRIES) -> Flow[Answer]:
    """Flow: the answer below 400, after as many tries as it takes. Raises ApiError or ConnectionFailedError."""
    attempt = 1
    while True:
        answer: Answer | Broken = yield request
        if isinstance(answer, Answer) and answer.status < 400:
            return answer
        if attempt >= tries or not may_retry(answer):
            raise to_error(answer, request)
        yield Sleep(find_delay(answer, attempt))
        attempt += 1


def may_retry(answer: Answer | Broken) -> bool:
    """Whether sending the same again may help."""
    if isinstance(answer, Broken):
        return True
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
    """Seconds before the try after ``attempt`` (1 for the first): what the server asks for, else a growing back-off."""
    if isinstance(answer, Answer) and (asked := retry_after(answer, clock)) is not None:
        return min(asked, _LONGEST_DELAY) + chance()
    return min(_LONGEST_DELAY, 2.0 ** (attempt - 1) * (1 + chance()))


def retry_after(answer: Answer, clock: Callable[[], float] = time.time) -> float | None:
    """Seconds that the server asks to wait: ``x-ratelimit-reset`` (a time in ms) of a 429, or ``retry-after``."""
    if answer.status == 429 and (reset := _number(answer.headers.get("x-ratelimit-reset"))) is not None:
        left = reset / 1000 - clock()
        if left > 0:
            return left
    return _number(answer.headers.get("retry-after"))


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


def _number(text: str | None) -> float | None:
    try:
        return None if text is None else max(0.0, float(text))
    except ValueError:
        return None
