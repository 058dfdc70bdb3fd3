"""How often and when runs are tried again: by task, by run, by what the code raises; and deaths of workers, counted apart."""

from __future__ import annotations

import itertools
import signal
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import msgspec
import pytest

from headrace import Abort, ApiError, Retry, RetryAfter, step
from headrace.engine import runs
from headrace.engine.engine import Engine
from headrace.engine.outcomes import RunView
from headrace.engine.sweeps import sweep_once
from headrace.errors import ConfigurationError
from headrace.items import make_options
from headrace.protocol.options import RetryOption, RunOptions
from headrace.protocol.statuses import RunStatus
from headrace.tasks import Task
from headrace.worker.retries import Failure, decide_finish, describe_exception, read_retry
from tests.engine.helpers import claim, register
from tests.invariants import assert_invariants, fetch_sql
from tests.worker import jobs
from tests.worker.helpers import await_end, execute, look, read_output, starts, trigger, until, worker_process, working
from tests.worker.test_cancel_trees import living
from tests.worker.test_retries import FAILURE, STEADY, make_run

pytestmark = pytest.mark.anyio

QUICK = Retry(max_attempts=3, min_delay=0.01, jitter=False)


def failing(error: BaseException, **options: Any) -> Task[Any, Any]:
    async def fail(payload: Any) -> None:
        raise error

    return Task(fail, id="p.failing", **{"retry": QUICK, **options})


async def list_waits(engine: Engine, run: RunView) -> list[float]:
    """Seconds between the end of each attempt and the start of the next."""
    attempts = await runs.list_attempts(engine, 1, run.id)
    return [
        (later.started_at - earlier.finished_at).total_seconds()
        for earlier, later in itertools.pairwise(attempts)
        if later.started_at is not None
    ]


async def test_a_run_may_be_tried_by_another_policy_than_its_task_says(engine: Engine) -> None:
    task = failing(ValueError("no"), retry=Retry(max_attempts=2, min_delay=60))
    async with working(engine, task):
        policy = RetryOption(max_attempts=3, factor=2, min_timeout_in_ms=100, max_timeout_in_ms=150, randomize=False)
        run = await execute(engine, task, {}, retry=policy)
        assert (run.status, run.attempt) == (RunStatus.FAILED, 3)
        first, second = await list_waits(engine, run)
        assert first >= 0.1
        assert second >= 0.15
        some = await execute(engine, task, {}, retry=RetryOption(min_timeout_in_ms=10, randomize=False))
        assert some.attempt == 2, "what it leaves out is as the task says"
        once = await execute(engine, task, {}, retry=policy, max_attempts=1)
        assert once.attempt == 1, "maxAttempts goes before the policy's"


def test_a_client_gives_the_policy_of_a_run_or_an_item() -> None:
    wire = make_options("t", {"retry": Retry(max_attempts=7, factor=3, min_delay="2s", max_delay="1m", jitter=False)})
    assert wire == {
        "retry": {
            "maxAttempts": 7, "factor": 3, "minTimeoutInMs": 2000.0, "maxTimeoutInMs": 60000.0, "randomize": False,
        }
    }  # fmt: skip
    with pytest.raises(ConfigurationError, match="option retry"):
        make_options("t", {"retry": 3})


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (None, STEADY),
        ({}, STEADY),
        ({"maxAttempts": 9}, Retry(max_attempts=9, min_delay=2.0, factor=3.0, jitter=False)),
        ({"minTimeoutInMs": 500, "randomize": True}, Retry(max_attempts=3, min_delay=0.5, factor=3.0, jitter=True)),
        (
            {"maxTimeoutInMs": 1500, "factor": 1},
            Retry(max_attempts=3, min_delay=2.0, max_delay=1.5, factor=1, jitter=False),
        ),
    ],
)
def test_a_policy_of_a_run_changes_what_it_names(given: dict[str, Any] | None, expected: Retry) -> None:
    assert read_retry(STEADY, {"retry": given} if given is not None else {}) == expected


async def test_retry_after_waits_as_long_as_it_says(engine: Engine) -> None:
    task = failing(RetryAfter(0.4, "the limit resets"), retry=Retry(max_attempts=2, min_delay=30))
    async with working(engine, task):
        run = await execute(engine, task, {})
    assert (run.status, run.attempt) == (RunStatus.FAILED, 2), "it counts as an attempt"
    [waited] = await list_waits(engine, run)
    assert 0.4 <= waited < 20
    assert run.error is not None
    assert (run.error["name"], run.error["message"]) == ("RetryAfter", "the limit resets")


async def test_retry_after_works_in_a_process_and_in_a_step(engine: Engine) -> None:
    calls: list[int] = []

    def reset() -> str:
        calls.append(1)
        if len(calls) == 1:
            raise RetryAfter(0.2)
        return "done"

    async def steps(payload: Any) -> str:
        return await step("limited", reset, retry=Retry(max_attempts=2, min_delay=60))

    task = Task(steps, id="p.steps", retry=QUICK)
    async with living(engine, task, jobs.retry_after_in_process):
        assert read_output(await execute(engine, task, {})) == "done"
        run = await execute(engine, jobs.retry_after_in_process, 0.3)
        assert (run.status, run.attempt) == (RunStatus.COMPLETED, 2)
        [waited] = await list_waits(engine, run)
        assert 0.3 <= waited < 20


def test_retry_after_takes_durations_and_dates() -> None:
    assert RetryAfter("1m").delay == 60.0
    assert RetryAfter(timedelta(seconds=2)).delay == 2.0
    assert 3500 < RetryAfter(datetime.now(UTC) + timedelta(hours=1)).delay <= 3600
    assert RetryAfter(datetime.now(UTC) - timedelta(hours=1)).delay == 0.0
    assert "90 s" in str(RetryAfter(90))
    with pytest.raises(ConfigurationError, match="RetryAfter"):
        RetryAfter("soon")


def test_retry_after_does_not_go_beyond_the_last_attempt() -> None:
    failure = describe_exception(RetryAfter(5))
    assert [decide_finish(make_run(failures=failures), STEADY, failure).retry_in for failures in (0, 1, 2)] == [
        5,
        5,
        None,
    ]


@pytest.mark.parametrize(
    ("status", "headers", "retry_in"),
    [
        (400, {}, None),
        (404, {}, None),
        (408, {}, 2.0),
        (429, {}, 2.0),
        (429, {"retry-after": "7"}, 7.0),
        (429, {"retry-after": "Wed, 21 Oct 2026 07:28:00 GMT"}, 2.0),
        (500, {"retry-after": "7"}, 2.0),
        (503, {}, 2.0),
    ],
)
def test_what_a_server_refuses_for_good_is_not_asked_again(
    status: int, headers: dict[str, str], retry_in: float | None
) -> None:
    failure = describe_exception(ApiError(status, "no", headers))
    assert decide_finish(make_run(), STEADY, failure).retry_in == retry_in


async def test_abort_in_a_process_is_final(engine: Engine) -> None:
    async with working(engine, jobs.raise_in_process):
        run = await execute(engine, jobs.raise_in_process, "Abort", max_attempts=5)
    assert (run.status, run.attempt) == (RunStatus.FAILED, 1)


def test_what_was_decided_is_not_decided_again() -> None:
    decided = Failure(FAILURE.error, retry_after=1.5, decided=True)
    assert decide_finish(make_run(failures=99), STEADY, decided).retry_in == 1.5
    never = Failure(FAILURE.error, decided=True)
    assert decide_finish(make_run(), STEADY, never).retry_in is None
    assert describe_exception(Abort("no")).final


async def test_the_death_of_a_worker_is_counted_apart_from_failures(engine: Engine, tmp_path: Path) -> None:
    """One attempt, one death, and then as many failures as there are attempts."""
    gate = str(tmp_path / "gate")
    async with worker_process(engine.settings) as first:
        run_id = await trigger(engine, jobs.wait_then_fail, gate)
        await until(lambda: starts(Path(gate)), "it runs")
        first.signal(signal.SIGKILL)
        await first.wait()
    Path(gate).touch()
    async with living(engine, jobs.wait_then_fail):
        run = await await_end(engine, run_id)
    [row] = await fetch_sql(engine, "SELECT failures, rescues, attempt FROM headrace.runs WHERE id = $1", run_id)
    assert (row["failures"], row["rescues"], row["attempt"]) == (2, 1, 3)
    attempts = await runs.list_attempts(engine, 1, run_id)
    assert [attempt.status for attempt in attempts] == [RunStatus.CRASHED, RunStatus.FAILED, RunStatus.FAILED]
    assert (attempts[0].error or {})["code"] == "WORKER_LOST"
    assert (run.status, (run.error or {})["message"]) == (RunStatus.FAILED, "failures before: 1")
    await assert_invariants(engine)


async def test_a_run_that_is_lost_with_every_worker_stops_and_says_why(engine: Engine) -> None:
    """Poison. With real workers: test_worker_deaths.py::test_a_poison_run_stops_after_its_rescues."""
    run_id = await trigger(engine, "t")
    said: list[str] = []
    for _ in range(engine.settings.max_rescues + 1):
        doomed = await register(engine, "t")
        assert await claim(engine, doomed)
        await fetch_sql(engine, "UPDATE headrace.workers SET lease_until = now() - interval '1 second'")
        await sweep_once(engine)
        said.append(str(((await look(engine, run_id)).error or {})["message"]))
    run = await look(engine, run_id)
    assert (run.status, run.max_attempts) == (RunStatus.CRASHED, None)
    [row] = await fetch_sql(engine, "SELECT failures, rescues FROM headrace.runs WHERE id = $1", run_id)
    assert (row["failures"], row["rescues"]) == (0, engine.settings.max_rescues + 1)
    assert ["HEADRACE_MAX_RESCUES" in each for each in said] == [False] * engine.settings.max_rescues + [True]
    assert (run.error or {})["code"] == "WORKER_LOST"


def test_wrong_policies_are_refused_by_name() -> None:
    for wrong in ({"maxAttempts": 0}, {"factor": 0.5}, {"minTimeoutInMs": -1}, {"randomize": "yes"}):
        with pytest.raises(msgspec.ValidationError, match=rf"retry\.{next(iter(wrong))}"):
            msgspec.convert({"retry": wrong}, RunOptions)
