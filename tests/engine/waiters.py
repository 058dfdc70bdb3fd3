"""Runs that wait, made by hand: the run's row and its pending point, as a worker leaves them behind."""

from __future__ import annotations

from typing import Any
from uuid import UUID

from headrace.engine.engine import Engine
from headrace.ids import mint_run_id
from headrace.store.statements import Plan
from headrace.store.store import run_plan_on
from tests.invariants import fetch_sql

_LANE = """
    INSERT INTO headrace.lanes (environment_id, task, queue) VALUES ($1, 't', 'waiters')
    ON CONFLICT (environment_id, task, queue, batch_id, version, kind, locked) DO UPDATE SET queue = 'waiters' RETURNING id"""
_RUN = """
    INSERT INTO headrace.runs (environment_id, lane_id, id, status, attempt, ready_at, created_at, updated_at)
    VALUES ($1, $2, $3, $4::headrace.run_status, 1, now(), now(), now())"""
POINT = """
    INSERT INTO headrace.journal (environment_id, run_id, point, kind, pending, made, target, created_at)
    VALUES ($1, $2, $4, 'token', true, 1, $3, now())"""


async def make_waiter(engine: Engine, *tokens: UUID, environment_id: int = 1, status: str = "WAITING") -> UUID:
    """A run that was put down while it waits for all of ``tokens``."""
    run_id = mint_run_id()
    async with engine.store.connect() as connection, connection.transaction():
        lane_id = await connection.fetchval(_LANE, environment_id)
        await connection.execute(_RUN, environment_id, lane_id, run_id, status)
        for number, token_id in enumerate(tokens):
            await connection.execute(POINT, environment_id, run_id, token_id, f"token/{number}")
    return run_id


async def read_run(engine: Engine, run_id: UUID) -> tuple[str, int, int]:
    """A run's status, how often it was resumed, and how many of its points are pending."""
    [row] = await fetch_sql(
        engine,
        "SELECT r.status, r.resumes, (SELECT count(*) FROM headrace.journal AS j WHERE j.run_id = r.id AND j.pending) AS n"
        " FROM headrace.runs AS r WHERE r.id = $1",
        run_id,
    )
    return row["status"], row["resumes"], row["n"]


async def run_later(engine: Engine, shift: str, plan: Plan[Any]) -> Any:
    """What ``plan`` returns when the database's clock is ``shift`` (an interval) further on."""
    async with engine.store.connect() as connection, connection.transaction():
        await connection.execute("SELECT set_config('headrace.clock_shift', $1, true)", shift)
        return await run_plan_on(connection, plan)
