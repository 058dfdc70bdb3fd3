"""What is reported of a failed attempt. Pure."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Any, NoReturn

import pytest

from headrace.engine.outcomes import ClaimedRun
from headrace.errors import Abort, PayloadError
from headrace.ids import mint_run_id
from headrace.protocol.statuses import RunStatus
from headrace.tasks import Retry
from headrace.worker import retries
from headrace.worker.executor import _call_function
from headrace.worker.retries import Failure, decide_finish, describe_bad_input, describe_bad_output, describe_exception


def make_run(*, failures: int = 0, attempt: int | None = None, max_attempts: int | None = None) -> ClaimedRun:
    return ClaimedRun(
        mint_run_id(), "t", "q", attempt or failures + 1, failures, max_attempts, None, "application/json", None, None, [], {},
        datetime.now(UTC), None,
    )  # fmt: skip


def caught(error: BaseException) -> BaseException:
    def user_code() -> NoReturn:
        raise error

    with pytest.raises(type(error)) as info:
        user_code()
    return info.value


STEADY = Retry(max_attempts=3, min_delay=2.0, factor=3.0, jitter=False)
FAILURE = Failure({"type": "STRING_ERROR", "raw": "x"})


def test_a_failure_is_tried_again_after_growing_delays_until_the_last_attempt() -> None:
    delays = [decide_finish(make_run(failures=failures), STEADY, FAILURE).retry_in for failures in range(3)]
    assert delays == [2.0, 6.0, None]


def test_attempts_that_a_dead_worker_left_behind_do_not_count() -> None:
    assert decide_finish(make_run(failures=1, attempt=9), STEADY, FAILURE).retry_in == 6.0


@pytest.mark.parametrize(("most", "expected"), [(1, None), (9, 6.0)])
def test_the_runs_own_max_attempts_goes_before_the_tasks(most: int, expected: float | None) -> None:
    assert decide_finish(make_run(failures=1, max_attempts=most), STEADY, FAILURE).retry_in == expected


def test_a_finish_names_run_attempt_status_and_error() -> None:
    run = make_run(failures=2)
    finish = decide_finish(run, STEADY, Failure({"type": "STRING_ERROR", "raw": "x"}, RunStatus.CRASHED))
    assert (finish.run_id, finish.attempt, finish.status) == (run.id, 3, RunStatus.CRASHED)
    assert finish.error == {"type": "STRING_ERROR", "raw": "x"}


@pytest.mark.parametrize(
    ("failure", "code"),
    [
        (describe_exception(Abort("no such customer")), None),
        (describe_bad_input(PayloadError("is no Image")), "TASK_INPUT_ERROR"),
        (describe_bad_output(PayloadError("is no JSON")), "TASK_OUTPUT_ERROR"),
        (retries.describe_timeout(2.5), "MAX_DURATION_EXCEEDED"),
    ],
)
def test_what_is_final_is_not_tried_again(failure: Failure, code: str | None) -> None:
    assert failure.error.get("code") == code
    assert decide_finish(make_run(), STEADY, failure).retry_in is None


def test_an_error_has_name_message_and_a_stack_that_begins_with_the_tasks_own_code() -> None:
    error = describe_exception(caught(ValueError("no such image"))).error
    stack = str(error.pop("stackTrace"))
    assert error == {"type": "BUILT_IN_ERROR", "name": "ValueError", "message": "no such image"}
    assert "user_code" in stack
    assert stack.rstrip().endswith("ValueError: no such image")


def test_a_stack_leaves_out_the_frames_of_headrace_that_called_the_task() -> None:
    def user_code() -> NoReturn:
        raise ValueError("x")

    error = _call_function(user_code, ()).error
    stack = str(describe_exception(error).error["stackTrace"])
    assert "user_code" in stack
    assert "_call_function" not in stack


def test_causes_stay_in_the_stack() -> None:
    error = caught(ValueError("outer"))
    error.__cause__ = caught(KeyError("inner"))
    stack = str(describe_exception(error).error["stackTrace"])
    assert stack.index("inner") < stack.index("outer")


def test_every_exception_of_a_group_is_in_the_stack() -> None:
    stack = str(
        describe_exception(caught(BaseExceptionGroup("g", [SystemExit(1), ValueError("b")]))).error["stackTrace"]
    )
    assert "SystemExit" in stack
    assert "ValueError: b" in stack


def test_long_errors_are_cut_and_keep_both_ends_of_their_stack() -> None:
    error = describe_exception(caught(ValueError("\u00e9" * 50_000))).error
    message, stack = str(error["message"]), str(error["stackTrace"])
    assert len(message.encode()) <= 1024
    assert len(stack.encode()) <= 16 * 1024
    assert stack.startswith("Traceback")
    assert stack.rstrip().endswith("\u00e9")


def test_an_error_holds_nothing_that_postgresql_refuses() -> None:
    error = describe_exception(caught(ValueError("nul \0, half a pair \ud800"))).error
    text = json.dumps(error, ensure_ascii=False)
    assert "\0" not in text
    assert "\\u0000" not in text
    text.encode("utf-8")


class RudeError(Exception):
    def __str__(self) -> str:
        raise RuntimeError("no")


class NotedError(Exception):
    __notes__: Any = 3


@pytest.mark.parametrize("error", [RudeError(), NotedError("n")])
def test_an_exception_that_can_not_even_be_printed_is_described(error: Exception) -> None:
    described = describe_exception(caught(error)).error
    assert described["name"] == type(error).__name__
    assert isinstance(described["stackTrace"], str)
