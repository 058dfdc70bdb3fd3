"""Priorities: a head start of some seconds in the queue, and nothing else."""

from __future__ import annotations

from typing import Any
from uuid import UUID

import pytest

from headrace.engine import runs
from headrace.engine.engine import Engine
from headrace.engine.outcomes import Packet, RunCreated
from headrace.protocol.options import RunOptions
from tests.engine.helpers import claim, register
from tests.invariants import fetch_sql

pytestmark = pytest.mark.anyio


async def trigger(engine: Engine, ago: float = 0, **options: Any) -> UUID:
    """A run that came so many seconds ago."""
    made = await runs.trigger_run(engine, 1, "t", Packet(b"1"), RunOptions(**options))
    assert isinstance(made, RunCreated)
    moved = "UPDATE headrace.runs SET ready_at = ready_at - make_interval(secs => $2) WHERE id = $1"
    await fetch_sql(engine, moved, made.run_id, float(ago))
    return made.run_id


@pytest.mark.parametrize("shared", [{}, {"concurrency_key": "k"}], ids=["plain", "with a concurrency key"])
async def test_a_priority_is_a_head_start_of_so_many_seconds_and_no_more(
    engine: Engine, shared: dict[str, Any]
) -> None:
    lease = await register(engine)
    latest = await trigger(engine, 0, priority=-60, **shared)
    late = await trigger(engine, 0, **shared)
    lately = await trigger(engine, 5, **shared)
    first = await trigger(engine, 20, **shared)
    urgent = await trigger(engine, 0, priority=10, **shared)
    claimed = [(await claim(engine, lease, 1))[0].id for _ in range(4)]
    assert claimed == [first, urgent, lately, late]
    assert await claim(engine, lease) == []  # a negative one is a delay as well
    await fetch_sql(engine, "UPDATE headrace.runs SET ready_at = now() WHERE id = $1", latest)
    assert [run.id for run in await claim(engine, lease)] == [latest]


async def test_a_priority_never_jumps_the_delay(engine: Engine) -> None:
    lease = await register(engine)
    await trigger(engine, priority=100_000, delay="1h")
    assert await claim(engine, lease) == []
    [row] = await fetch_sql(engine, "SELECT ready_at = delayed_until AS kept FROM headrace.runs")
    assert row["kept"]
