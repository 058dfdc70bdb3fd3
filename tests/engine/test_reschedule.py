"""Rescheduling: a delayed run is given another time; a claim at the same moment takes the run, or leaves it."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import pytest

from headrace.engine import cancels
from headrace.engine.engine import Engine
from headrace.engine.outcomes import RunMissing
from headrace.engine.reschedules import RunNotDelayed, RunRescheduled, reschedule_run
from headrace.ids import mint_run_id
from headrace.protocol.statuses import RunStatus
from headrace.store.statements import query
from tests.engine.clocks import later
from tests.engine.held import blocked, held_at, holding
from tests.engine.helpers import claim, finish, register
from tests.engine.test_ttl import status_of, trigger
from tests.invariants import assert_invariants, fetch_sql

pytestmark = pytest.mark.anyio


async def read_times(engine: Engine, run_id: UUID) -> tuple[float | None, ...]:
    """Seconds from now until the run is ready, until its delay is over, and until which it may start."""
    [row] = await fetch_sql(
        engine.at(run_id),
        "SELECT extract(epoch FROM ready_at - now())::float8 AS ready, extract(epoch FROM delayed_until - now())::float8 AS delay,"
        " extract(epoch FROM expires_at - now())::float8 AS expiry FROM headrace.runs WHERE id = $1",
        run_id,
    )
    return tuple(row)


def about(*seconds: float | None) -> tuple[Any, ...]:
    return tuple(None if one is None else pytest.approx(one, abs=5) for one in seconds)


@pytest.mark.parametrize(
    ("options", "delay", "times"),
    [
        ({"delay": "1h"}, "2h", (7200, 7200, None)),
        ({"delay": "1h"}, "1m", (60, 60, None)),
        ({"delay": "1h", "ttl": "10m"}, "2h", (7200, 7200, 7800)),
        ({"delay": "1h", "priority": 500}, "2h", (7200, 7200, None)),
    ],
)
async def test_a_delayed_run_gets_another_time(
    engine: Engine, options: dict[str, Any], delay: str, times: tuple[float | None, ...]
) -> None:
    lease = await register(engine)
    run_id = await trigger(engine, **options)
    assert await reschedule_run(engine, 1, run_id, delay) == RunRescheduled(run_id)
    assert await read_times(engine, run_id) == about(*times)
    assert await status_of(engine, run_id) == "DELAYED"
    assert await claim(engine, lease) == []


async def test_a_date_is_a_time_as_well(engine: Engine) -> None:
    run_id = await trigger(engine, delay="1h")
    moment = datetime.now(UTC) + timedelta(days=3)
    await reschedule_run(engine, 1, run_id, moment.isoformat())
    assert await read_times(engine, run_id) == about(3 * 86_400, 3 * 86_400, None)


@pytest.mark.parametrize("delay", ["0s", "1970-01-01T00:00:00Z"])
async def test_a_time_in_the_past_is_at_once_but_before_nobody(engine: Engine, delay: str) -> None:
    """It does not jump the queue: what was ready before is taken first. What may not wait long is not expired by it."""
    lease = await register(engine)
    first = await trigger(engine)
    run_id = await trigger(engine, delay="1h", ttl="5m")
    heard = engine.notices.count_ready(1)
    await reschedule_run(engine, 1, run_id, delay)
    assert await engine.notices.wait_ready(1, 5, since=heard)  # a worker that sleeps is told
    assert (await read_times(engine, run_id))[2] == pytest.approx(300, abs=5)
    assert await status_of(engine, run_id) == "QUEUED"
    assert [run.id for run in await claim(engine, lease)] == [first, run_id]


async def test_what_is_not_delayed_stays_as_it_is(engine: Engine) -> None:
    lease = await register(engine)
    run_id = await trigger(engine)

    async def refused() -> RunStatus:
        answer = await reschedule_run(engine, 1, run_id, "1h")
        assert isinstance(answer, RunNotDelayed)
        return answer.status

    before = await fetch_sql(engine, "SELECT * FROM headrace.runs")
    assert await refused() == "QUEUED"
    assert await fetch_sql(engine, "SELECT * FROM headrace.runs") == before
    [claimed] = await claim(engine, lease)
    assert await refused() == "EXECUTING"
    await finish(engine, lease, [claimed], "FAILED", retry_in=3600)
    assert await refused() == "QUEUED"  # it waits for its next attempt: that is no delay of the user's
    await fetch_sql(engine, "UPDATE headrace.runs SET ready_at = now()")
    await finish(engine, lease, await claim(engine, lease))
    assert await refused() == "COMPLETED"
    other = await trigger(engine, delay="1h")
    await cancels.cancel_run(engine, 1, other)
    assert await reschedule_run(engine, 1, other, "1h") == RunNotDelayed(other, RunStatus.CANCELED)


async def test_no_such_run_here(engine: Engine) -> None:
    assert await reschedule_run(engine, 1, mint_run_id(), "1h") == RunMissing()
    run_id = await trigger(engine, delay="1h")
    assert await reschedule_run(engine, 2, run_id, "2h") == RunMissing()
    assert (await read_times(engine, run_id))[0] == pytest.approx(3600, abs=5)


@pytest.mark.parametrize("delay", ["", "soon", "-1h", "2026-13-01"])
async def test_what_is_no_delay_is_refused(engine: Engine, delay: str) -> None:
    run_id = await trigger(engine, delay="1h")
    with pytest.raises(ValueError, match="delay is"):
        await reschedule_run(engine, 1, run_id, delay)
    assert (await read_times(engine, run_id))[0] == pytest.approx(3600, abs=5)


# Races, forced: a claim in an hour, when the run is due, meets a reschedule of now


def claim_later(worker_id: int) -> Any:
    return later("61 minutes", query("claim_runs", 1, worker_id, ["t"], None, 10, 30.0, None))


async def test_a_claim_that_is_not_committed_yet_has_the_run(engine: Engine) -> None:
    lease = await register(engine)
    run_id = await trigger(engine, delay="1h")
    async with holding(engine, "after:claim_runs") as (own, hold):
        claiming = await held_at(hold, own.store.run_plan(claim_later(lease.worker_id)))
        moving = await blocked(engine, reschedule_run(engine, 1, run_id, "3h"))
        assert not moving.done()
        hold.released.set()
        [row] = await claiming
        assert row["id"] == run_id
        assert await moving == RunNotDelayed(run_id, RunStatus.EXECUTING)
    assert (await read_times(engine, run_id))[1] == pytest.approx(3600, abs=5)
    await assert_invariants(engine)


async def test_a_claim_that_meets_a_reschedule_leaves_the_run(engine: Engine) -> None:
    lease = await register(engine)
    run_id = await trigger(engine, delay="1h")
    async with holding(engine, "after:reschedule_run") as (own, hold):
        plan = query("reschedule_run", 1, run_id, datetime.now(UTC) + timedelta(hours=3))
        moving = await held_at(hold, own.store.run_plan(plan))
        assert [row["id"] for row in await engine.store.run_plan(claim_later(lease.worker_id))] == [None]
        hold.released.set()
        assert len(await moving) == 1
    assert [row["id"] for row in await engine.store.run_plan(claim_later(lease.worker_id))] == [None]
    assert await status_of(engine, run_id) == "DELAYED"
    await assert_invariants(engine)
