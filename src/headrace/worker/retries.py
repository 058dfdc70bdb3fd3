"""From a failed attempt to what is reported of it: the error as it is stored, and whether and when to try again. Pure."""

from __future__ import annotations

from dataclasses import dataclass

from headrace.engine.outcomes import ClaimedRun, Finish
from headrace.errors import Abort, LimitError, NondeterminismError
from headrace.failures import MAX_MESSAGE, clean_text, describe_error, text_of
from headrace.protocol.statuses import RunStatus
from headrace.tasks import Retry


@dataclass(frozen=True, slots=True)
class Failure:
    """Why an attempt failed. ``error`` has the shape of ``headrace.protocol.runs``; a ``final`` one is not tried again."""

    error: dict[str, object]
    status: RunStatus = RunStatus.FAILED
    final: bool = False


def describe_exception(error: BaseException) -> Failure:
    """The failure of an attempt whose task raised ``error``. ``Abort`` is final, and so is what a
    next attempt would meet again.
    """
    return Failure(describe_error(error), final=isinstance(error, Abort | NondeterminismError | LimitError))


def describe_bad_input(error: BaseException) -> Failure:
    """The failure of an attempt whose payload is not what the task takes. Final: it will not become so."""
    return _describe_bad_value("TASK_INPUT_ERROR", error)


def describe_bad_output(error: BaseException) -> Failure:
    """The failure of an attempt whose result can't be written down. Final: the work is done, only its result is lost."""
    return _describe_bad_value("TASK_OUTPUT_ERROR", error)


def describe_timeout(seconds: float) -> Failure:
    """The failure of an attempt that took longer than its run may. Final."""
    message = f"The run took longer than its maxDuration of {seconds:g} s."
    return Failure(internal_error("MAX_DURATION_EXCEEDED", message), RunStatus.TIMED_OUT, final=True)


def internal_error(code: str, message: str) -> dict[str, object]:
    """An error that is not the task's own, as it is stored."""
    return {"type": "INTERNAL_ERROR", "code": code, "message": clean_text(message, MAX_MESSAGE)}


def decide_finish(run: ClaimedRun, retry: Retry, failure: Failure) -> Finish:
    """What to report: the run ends so, or is queued again after the delay of ``retry``.

    Attempts that a dead worker left behind don't count; ``maxAttempts`` of the run goes before the task's.
    """
    failures = run.failures + 1
    last = failure.final or failures >= (run.max_attempts or retry.max_attempts)
    return Finish(
        run.id,
        run.attempt,
        failure.status,
        error=failure.error,
        retry_in=None if last else retry.delay_after(failures),
    )


def _describe_bad_value(code: str, error: BaseException) -> Failure:
    named = {"name": type(error).__name__, "stackTrace": ""}
    return Failure({**internal_error(code, text_of(error)), **named}, final=True)
