"""From a failed attempt to what is reported of it: the error as it is stored, and whether and when to try again. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any, Final, cast

from headrace.engine.outcomes import ClaimedRun, Finish
from headrace.errors import Abort, ApiError, LimitError, NondeterminismError, RetryAfter
from headrace.failures import MAX_MESSAGE, clean_text, describe_error, text_of
from headrace.hooks import Decision
from headrace.protocol.statuses import RunStatus
from headrace.tasks import Retry, RunContext

_TRY_LATER: Final = (408, 429)
"""What a server answers that may answer otherwise later."""


@dataclass(frozen=True, slots=True)
class Failure:
    """Why an attempt failed. ``error`` has the shape of ``headrace.protocol.runs``; a ``final`` one is not tried again.

    ``retry_after`` is the seconds after which it asks to be; ``decided`` says that this is what happens, None being never.
    """

    error: dict[str, object]
    status: RunStatus = RunStatus.FAILED
    final: bool = False
    retry_after: float | None = None
    decided: bool = False


def describe_exception(error: BaseException) -> Failure:
    """The failure of an attempt whose task raised ``error``. ``Abort`` is final, and so is what a
    next attempt would meet again.
    """
    final = isinstance(error, Abort | NondeterminismError | LimitError)
    retry_after = None
    if isinstance(error, RetryAfter):
        retry_after = error.delay
    elif isinstance(error, ApiError):
        final = 400 <= error.status < 500 and error.status not in _TRY_LATER
        retry_after = _read_retry_after(error.headers.get("retry-after")) if error.status == 429 else None
    return Failure(describe_error(error), final=final, retry_after=retry_after)


def describe_bad_input(error: BaseException) -> Failure:
    """The failure of an attempt whose payload is not what the task takes. Final: it will not become so."""
    return _describe_bad_value("TASK_INPUT_ERROR", error)


def describe_bad_output(error: BaseException) -> Failure:
    """The failure of an attempt whose result can't be written down. Final: the work is done, only its result is lost."""
    return _describe_bad_value("TASK_OUTPUT_ERROR", error)


def describe_timeout(seconds: float, clock: str = "wall") -> Failure:
    """The failure of an attempt that took longer than its run may. Final."""
    what = "of CPU " if clock == "cpu" else ""
    message = f"The run took longer than its maxDuration of {seconds:g} s {what}".rstrip() + "."
    return Failure(internal_error("MAX_DURATION_EXCEEDED", message), RunStatus.TIMED_OUT, final=True)


def internal_error(code: str, message: str) -> dict[str, object]:
    """An error that is not the task's own, as it is stored."""
    return {"type": "INTERNAL_ERROR", "code": code, "message": clean_text(message, MAX_MESSAGE)}


def decide_failure(context: RunContext, retry: Retry, failure: Failure) -> Failure:
    """The failure with what follows it: tried again, and after how long, or not.

    Attempts that a dead worker left behind don't count; ``maxAttempts`` of the run goes before the task's.
    """
    return _decide(failure, read_retry(retry, context.options), context.failures + 1, context.max_attempts)


def change_failure(context: RunContext, retry: Retry, failure: Failure, decision: Decision) -> Failure:
    """The failure as a ``catch_error`` hook wants it; ``failure`` is decided already."""
    if decision.error is not None:
        failure = decide_failure(context, retry, describe_exception(decision.error))
    policy, most = read_retry(retry, context.options), context.max_attempts
    after = cast("float | None", decision.retry_after)
    if decision.retry is not None:
        policy, most = decision.retry, decision.retry.max_attempts
    elif decision.retry_at is not None:
        after = _seconds_until(decision.retry_at)
    elif after is None and not decision.skip_retrying:
        return failure
    wanted = replace(failure, final=decision.skip_retrying, retry_after=after)
    return _decide(wanted, policy, context.failures + 1, most)


def decide_finish(run: ClaimedRun, retry: Retry, failure: Failure) -> Finish:
    """What to report: the run ends so, or is queued again."""
    if not failure.decided:
        failure = _decide(failure, read_retry(retry, run.options), run.failures + 1, run.max_attempts)
    return Finish(run.id, run.attempt, failure.status, error=failure.error, retry_in=failure.retry_after)


def _decide(failure: Failure, policy: Retry, failures: int, most: int | None) -> Failure:
    if failure.final or failures >= (most or policy.max_attempts):
        return replace(failure, retry_after=None, decided=True)
    after = policy.delay_after(failures) if failure.retry_after is None else failure.retry_after
    return replace(failure, retry_after=after, decided=True)


def read_retry(retry: Retry, options: Mapping[str, Any] | None) -> Retry:
    """How often a run is tried: as its task says, and as its own ``retry`` option says where that says something."""
    given: dict[str, Any] | None = options.get("retry") if options else None
    if not given:
        return retry
    names = {"maxAttempts": "max_attempts", "factor": "factor", "randomize": "jitter"}
    changes: dict[str, Any] = {names[key]: value for key, value in given.items() if key in names}
    for key, name in (("minTimeoutInMs", "min_delay"), ("maxTimeoutInMs", "max_delay")):
        if key in given:
            changes[name] = given[key] / 1000
    return replace(retry, **changes)


def _seconds_until(moment: datetime) -> float:
    return max((moment.astimezone(UTC) - datetime.now(UTC)).total_seconds(), 0.0)


def _read_retry_after(text: str | None) -> float | None:
    try:
        return max(float(text or ""), 0.0)
    except ValueError:  # none, or a date
        return None


def _describe_bad_value(code: str, error: BaseException) -> Failure:
    named = {"name": type(error).__name__, "stackTrace": ""}
    return Failure({**internal_error(code, text_of(error)), **named}, final=True)
