"""A worker ends the timers of runs in its memory; one of them may have been put down at that moment."""

from __future__ import annotations

import pytest

from headrace.engine.engine import Engine
from headrace.engine.journals import end_due_points
from tests.engine.test_audits import make_run, status_of

pytestmark = pytest.mark.anyio


@pytest.mark.parametrize(("status", "then"), [("EXECUTING", "EXECUTING"), ("WAITING", "QUEUED")])
async def test_a_timer_that_a_worker_ends_wakes_a_run_that_was_put_down_meanwhile(
    engine: Engine, status: str, then: str
) -> None:
    run_id = await make_run(engine, status)
    async with engine.store.connect() as connection:
        await connection.execute(
            "INSERT INTO headrace.journal (environment_id, run_id, point, kind, pending, made, due_at, created_at)"
            " VALUES (1, $1, 'due', 'time', true, 1, now(), now()), (1, $1, 'later', 'time', true, 2,"
            " now() + interval '1 hour', now())",
            run_id,
        )
    left = await end_due_points(engine, 1, [(run_id, "due"), (run_id, "later")])
    assert list(left) == [(run_id, "later")]
    assert await status_of(engine, run_id) == then


async def test_a_timer_that_is_not_due_by_the_databases_clock_wakes_nobody(engine: Engine) -> None:
    run_id = await make_run(engine, "WAITING")
    async with engine.store.connect() as connection:
        await connection.execute(
            "INSERT INTO headrace.journal (environment_id, run_id, point, kind, pending, made, due_at, created_at)"
            " VALUES (1, $1, 'later', 'time', true, 2, now() + interval '1 hour', now())",
            run_id,
        )
    assert await end_due_points(engine, 1, [(run_id, "later")]) == {(run_id, "later"): pytest.approx(3600, abs=5)}
    assert await status_of(engine, run_id) == "WAITING"
