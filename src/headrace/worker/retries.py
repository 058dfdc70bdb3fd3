"""From a failed attempt to what is reported of it: the error as it is stored, and whether and when to try again. Pure."""

from __future__ import annotations

import traceback
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Final

from headrace.engine.outcomes import ClaimedRun, Finish
from headrace.errors import Abort
from headrace.protocol.statuses import RunStatus
from headrace.tasks import Retry

MAX_NAME: Final = 128
MAX_MESSAGE: Final = 1024
MAX_STACK: Final = 16 * 1024
"""Most bytes of UTF-8 that are stored of an error's name, its message and its stack."""

_OWN_CODE: Final = str(Path(__file__).parent.parent)
_CUT: Final = "\n  ... cut ...\n"


@dataclass(frozen=True, slots=True)
class Failure:
    """Why an attempt failed. ``error`` has the shape of ``headrace.protocol.runs``; a ``final`` one is not tried again."""

    error: dict[str, object]
    status: RunStatus = RunStatus.FAILED
    final: bool = False


def describe_exception(error: BaseException) -> Failure:
    """The failure of an attempt whose task raised ``error``. ``Abort`` is final."""
    return Failure(
        {
            "type": "BUILT_IN_ERROR",
            "name": _clean(type(error).__name__, MAX_NAME),
            "message": _clean(_text_of(error), MAX_MESSAGE),
            "stackTrace": _cut_middle(_clean(_stack_of(error))),
        },
        final=isinstance(error, Abort),
    )


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
    return {"type": "INTERNAL_ERROR", "code": code, "message": _clean(message, MAX_MESSAGE)}


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
    return Failure({**internal_error(code, _text_of(error)), **named}, final=True)


def _text_of(error: BaseException) -> str:
    try:
        return str(error)
    except Exception:  # noqa: BLE001 - an exception whose __str__ raises is a user's bug, and theirs to see
        return f"<{type(error).__name__} whose text can't be made>"


def _stack_of(error: BaseException) -> str:
    """The traceback, beginning with the task's own code: what called it is headrace's business."""
    try:
        lines = traceback.format_exception(type(error), error, _skip_own_code(error.__traceback__))
    except Exception:  # noqa: BLE001 - as above: a __notes__ or __cause__ can be anything
        return ""
    return "".join(lines)


def _skip_own_code(stack: TracebackType | None) -> TracebackType | None:
    while stack is not None and _is_own(stack.tb_frame.f_code.co_filename):
        stack = stack.tb_next
    return stack


def _is_own(file: str) -> bool:
    return file.startswith(_OWN_CODE) or file.endswith("concurrent/futures/thread.py")


def _clean(text: str, most: int | None = None) -> str:
    """Text that PostgreSQL's jsonb and UTF-8 can hold: without NUL and without halves of surrogate pairs."""
    raw = text.replace("\0", "\ufffd").encode("utf-8", "replace")
    return (raw if most is None else raw[:most]).decode("utf-8", "ignore")


def _cut_middle(text: str) -> str:
    # both ends tell something: where it began, and (the last lines) what it was
    raw = text.encode("utf-8")
    if len(raw) <= MAX_STACK:
        return text
    head = MAX_STACK // 4
    tail = MAX_STACK - head - len(_CUT)
    return raw[:head].decode("utf-8", "ignore") + _CUT + raw[-tail:].decode("utf-8", "ignore")
