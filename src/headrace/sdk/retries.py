"""When a request is tried again, and after how long (research/batch.md 4.2). Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from typing import Final

from headrace.sdk.effects import Answer, Broken, World

LONGEST_PATIENCE: Final = 300.0
"""A server that asks for a longer pause than this many seconds is not waited for: the error says how long it asked for."""

_RETRIED: Final = frozenset({408, 409, 429})
_MILLISECONDS: Final = 1e11
"""Above it a reset is milliseconds since 1970 (as the wire has it), below it seconds (as some servers send it)."""


@dataclass(frozen=True, slots=True)
class Backoff:
    """How often a request is sent at most, and how long to wait in between: exponential, with jitter."""

    attempts: int = 5
    first: float = 1.0
    factor: float = 2.0
    ceiling: float = 30.0

    def delay_after(self, attempt: int, world: World) -> float:
        """Seconds to wait after attempt number ``attempt`` (1 for the first) has failed."""
        return min(self.ceiling, self.first * self.factor ** (attempt - 1) * (1 + world.random()))


REQUEST_BACKOFF: Final = Backoff(factor=1.6)
STREAM_BACKOFF: Final = Backoff(factor=2.0)


def may_retry(outcome: Answer | Broken) -> bool:
    """Whether the same request could succeed later. The server's ``x-should-retry`` goes before its status."""
    if isinstance(outcome, Broken):
        return True
    told = outcome.headers.get("x-should-retry", "").lower()
    if told in {"true", "false"}:
        return told == "true"
    return outcome.status in _RETRIED or outcome.status >= 500


def decide_delay(outcome: Answer | Broken, attempt: int, backoff: Backoff, world: World) -> float | None:
    """Seconds to wait before the next attempt; None where there is to be none."""
    if attempt >= backoff.attempts or not may_retry(outcome):
        return None
    delay = backoff.delay_after(attempt, world)
    asked = None if isinstance(outcome, Broken) else read_retry_after(outcome, world)
    if asked is None:
        return delay
    if asked > LONGEST_PATIENCE:
        return None
    # A limit says precisely when it ends. Whoever is unavailable only guesses: there our own pace is the least.
    limited = isinstance(outcome, Answer) and outcome.status == 429
    return asked + world.random() if limited else max(asked, delay)


def read_retry_after(answer: Answer, world: World) -> float | None:
    """For how many seconds the server asked not to be asked again, above 0; None where it did not say."""
    if answer.status == 429:
        reset = _read_number(answer.headers, "x-ratelimit-reset")
        if reset is not None:
            left = (reset / 1000 if reset > _MILLISECONDS else reset) - world.now()
            if left > 0:
                return left
    seconds = _read_number(answer.headers, "retry-after")
    if seconds is None:
        seconds = _read_date(answer.headers.get("retry-after"), world)
    return seconds if seconds is not None and seconds > 0 else None


def _read_number(headers: Mapping[str, str], name: str) -> float | None:
    text = headers.get(name, "").strip()
    return float(text) if text.isascii() and text.replace(".", "", 1).isdigit() else None


def _read_date(text: str | None, world: World) -> float | None:
    if not text:
        return None
    try:
        return parsedate_to_datetime(text).timestamp() - world.now()
    except ValueError:
        return None
