"""Limits that a run may come to: it is said which and what to do, the run ends for good, and nothing half-done is left."""

from __future__ import annotations

from typing import Any

import pytest

from headrace.engine import runs
from headrace.engine.engine import Engine
from headrace.engine.outcomes import RunView
from headrace.errors import ConfigurationError
from headrace.protocol.statuses import RunStatus
from headrace.settings import Settings
from headrace.tasks import Task
from tests.invariants import assert_invariants, fetch_sql
from tests.worker import tree_jobs as jobs
from tests.worker.helpers import await_end, execute, read_output, trigger
from tests.worker.test_cancel_trees import living

pytestmark = pytest.mark.anyio

LINGERS = pytest.mark.parametrize("linger", [0.0, 30.0], ids=["put-down", "kept"])


@LINGERS
async def test_a_run_that_is_too_deep_makes_no_child_and_fails_for_good(engine: Engine, linger: float) -> None:
    async with living(engine, jobs.deep, max_depth=3, wait_linger=linger):
        top = await trigger(engine, jobs.deep, 10)
        run = await await_end(engine, top)
    rows = await fetch_sql(
        engine, "SELECT id, depth, failures, error->>'name' AS name FROM headrace.runs ORDER BY depth"
    )
    assert [row["depth"] for row in rows] == [0, 1, 2, 3]
    assert [row["name"] for row in rows] == ["Abort"] * 3 + ["LimitError"]
    assert rows[3]["failures"] == 1, "tried again it would come to the same"
    leaf = await runs.find_run(engine, 1, rows[3]["id"])
    assert leaf is not None
    assert "HEADRACE_MAX_DEPTH is 3" in describe(leaf)
    assert run.status is RunStatus.FAILED
    assert not await fetch_sql(engine, "SELECT FROM headrace.journal WHERE pending OR run_id = $1", leaf.id)
    await assert_invariants(engine)


async def test_a_tree_of_just_the_depth_that_is_allowed_works(engine: Engine) -> None:
    async with living(engine, jobs.deep, max_depth=3):
        assert read_output(await execute(engine, jobs.deep, 3)) == 0


@LINGERS
async def test_a_run_of_too_many_points_fails_for_good(engine: Engine, linger: float) -> None:
    async with living(engine, jobs.many_points, max_points=10, wait_linger=linger):
        assert read_output(await execute(engine, jobs.many_points, 10)) == 10
        run = await execute(engine, jobs.many_points, 11)
    assert run.status is RunStatus.FAILED
    assert run.attempt - run.resumes == 1, "tried again it would come to the same"
    assert "more than 10 durable points (HEADRACE_MAX_POINTS)" in describe(run)
    assert len(await fetch_sql(engine, "SELECT FROM headrace.journal WHERE run_id = $1", run.id)) == 10
    assert not await fetch_sql(engine, "SELECT FROM headrace.journal WHERE pending")


async def test_points_of_one_moment_are_counted_one_by_one(engine: Engine) -> None:
    """A gather of more than are allowed makes no more than are allowed."""
    async with living(engine, jobs.many_at_once, max_points=10):
        run = await execute(engine, jobs.many_at_once, 11)
    assert run.status is RunStatus.FAILED
    assert "HEADRACE_MAX_POINTS" in describe(run)
    made = await fetch_sql(engine, "SELECT FROM headrace.runs WHERE parent_run_id = $1", run.id)
    assert len(made) <= 10
    assert await fetch_sql(engine, "SELECT FROM headrace.journal WHERE run_id = $1", run.id) == made


@pytest.mark.parametrize("task", [jobs.showing, jobs.showing_in_thread, jobs.showing_in_process])
async def test_metadata_that_is_too_large_is_refused_where_it_is_set_and_stays_as_it_was(
    engine: Engine, task: Task[Any, Any]
) -> None:
    async with living(engine, task):
        [name, message, shown] = read_output(run := await execute(engine, task, 300_000))
    assert name == "PayloadError"
    assert "may have 262144" in message
    assert shown == run.metadata == {"kept": 1}


async def test_a_limit_that_can_not_be_is_refused_by_its_name() -> None:
    for name in ("max_depth", "max_points"):
        with pytest.raises(ConfigurationError, match=f"HEADRACE_{name.upper()} is 0"):
            Settings(**{name: 0})  # pyright: ignore[reportArgumentType]


def describe(run: RunView) -> str:
    assert run.error is not None
    return str(run.error["message"])
