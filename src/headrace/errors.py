"""Every exception that headrace raises for its users: one tree under HeadraceError.

Each says what was wrong, what was given, what is allowed and what to do. What the engine *answers* (a batch that
is sealed already, a lease that is lost) is no exception: those are values in ``headrace.engine.outcomes``.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from headrace.durations import Duration, parse_duration


class HeadraceError(Exception):
    """The root: catch it to catch all that headrace raises on purpose."""


class ConfigurationError(HeadraceError):
    """A setting, an option or an installation that can't work; the text names it and what is allowed."""


class PayloadError(HeadraceError):
    """A payload that is no JSON, or that its task's annotation does not admit."""


class NotInTransactionError(HeadraceError):
    """A connection was given to trigger on, but it has no open transaction to be part of."""


class Abort(HeadraceError):  # noqa: N818 - a task author raises it as a verb: `raise Abort("no such customer")`
    """Raised by a task: fail this run now, with no further attempt."""


class RetryAfter(HeadraceError):  # noqa: N818 - as above: `raise RetryAfter("30s", "the customer's API is down")`
    """Raised by a task: fail this attempt, and try again after ``delay`` (a duration, or a datetime) if attempts are left.

    Attributes: ``delay`` (seconds from when it was made).
    """

    def __init__(self, delay: Duration | datetime, message: str = "") -> None:
        if isinstance(delay, datetime):
            self.delay = max((delay.astimezone(UTC) - datetime.now(UTC)).total_seconds(), 0.0)
        else:
            try:
                self.delay = parse_duration(delay)
            except ValueError as error:
                raise ConfigurationError(f"RetryAfter({delay!r}): {error}") from None
        super().__init__(message or f"to be tried again after {self.delay:g} s")


class MaxDurationError(HeadraceError):
    """What hooks are told as the error of a run that took longer than its ``max_duration``. Attributes: ``seconds``."""

    def __init__(self, message: str, *, seconds: float = 0.0) -> None:
        super().__init__(message)
        self.seconds = seconds


class NotInRunError(HeadraceError):
    """Something durable was asked for outside of a run; the text says what to use there."""


class NondeterminismError(HeadraceError):
    """A replay came to another point than the run's journal has: the code changed, or decides by what is not in the journal.

    Attributes: ``met`` (the point that the code came to) and ``expected`` (the one in the journal that it did not).
    """

    def __init__(self, message: str, *, met: str = "", expected: str = "") -> None:
        super().__init__(message)
        self.met = met
        self.expected = expected


class LimitError(HeadraceError):
    """A run went over a limit that a setting sets: too many durable points, or too deep a tree of children."""


class WaitTimeout(HeadraceError, TimeoutError):  # noqa: N818 - the word of the field
    """What was waited for did not come in time: nobody completed the token."""


class StepFailedError(HeadraceError):
    """A step failed for good. Attributes: ``error`` (dict: name, message, stackTrace)."""

    def __init__(self, message: str, *, error: dict[str, Any] | None = None) -> None:
        super().__init__(message)
        self.error = error or {}


class ClientError(HeadraceError):
    """A request to the headrace server that did not succeed."""


class ConnectionFailedError(ClientError):
    """The server could not be reached, or the connection broke, on every try."""


class ApiError(ClientError):
    """The server answered with an error status.

    Attributes: ``status`` (int), ``message`` (str), ``headers`` (dict with lower-case names), ``body`` (the parsed JSON object, or an empty dict).
    """

    def __init__(
        self, status: int, message: str, headers: dict[str, str] | None = None, body: dict[str, Any] | None = None
    ) -> None:
        super().__init__(f"{status}: {message}")
        self.status = status
        self.message = message
        self.headers = headers or {}
        self.body: dict[str, Any] = body or {}


class BatchTriggerError(ClientError):
    """A batch could not be created or streamed, after all tries.

    Attributes: ``batch_id`` (str or None before it exists), ``phase`` ("create", "stream" or "seal"), ``status`` (HTTP
    status or None), ``accepted`` (items stored, or None), ``expected`` (items in all, or None), ``retry_after``
    (seconds or None). ``__cause__`` holds what went wrong last.
    """

    def __init__(
        self,
        message: str,
        *,
        phase: str,
        batch_id: str | None = None,
        status: int | None = None,
        accepted: int | None = None,
        expected: int | None = None,
        retry_after: float | None = None,
    ) -> None:
        super().__init__(message)
        self.phase = phase
        self.batch_id = batch_id
        self.status = status
        self.accepted = accepted
        self.expected = expected
        self.retry_after = retry_after


class RunFailedError(HeadraceError):
    """The run whose result was asked for ended without one.

    Attributes: ``run_id`` (str), ``status`` (str, as on the wire), ``error`` (dict as on the wire, or None).
    """

    def __init__(self, message: str, *, run_id: str, status: str, error: dict[str, object] | None = None) -> None:
        super().__init__(message)
        self.run_id = run_id
        self.status = status
        self.error = error


class ResultTimeoutError(HeadraceError, TimeoutError):
    """A result was waited for longer than the caller allowed; the run itself goes on."""
