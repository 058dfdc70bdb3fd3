"""Sessions of ``headrace dev``: what its workers have begun is canceled when it has been away for longer than its grace time.

A session is a folder's, whatever its processes: they move its time on while they live. Nobody has to say goodbye: once its
time is over the sweep of any process ends it, and where there was none, the next ``headrace dev`` of the folder does so itself
before it begins. Runs that nobody has begun are left where they are, and so is what another worker has claimed since.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any, Final
from uuid import UUID

from headrace.engine.cancels import cancel_runs, cancel_trees
from headrace.engine.engine import Engine
from headrace.engine.environments import find_environment_here
from headrace.errors import ConfigurationError
from headrace.logs import get_logger
from headrace.settings import Settings
from headrace.store.statements import Plan, Record, query
from headrace.store.store import DATABASE_ERRORS

AWAY: Final = {
    "type": "INTERNAL_ERROR",
    "code": "TASK_RUN_CANCELLED",
    "message": "headrace dev, which had begun it, ended and did not come back within HEADRACE_DEV_GRACE.",
}

_CHUNK: Final = 500
_FORGOTTEN: Final = 5_000
_LONGEST_BEAT: Final = 5.0

_log = get_logger("headrace.engine")


async def keep_session(engine: Engine) -> None:
    """Begins the session that the settings name, or goes on with it. Where its time was over it is ended first."""
    session_id, environment_id = await _find_session(engine)
    grace = engine.settings.dev_grace
    while not await engine.store.fetch("keep_dev_session", environment_id, session_id, grace):
        await _end_lapsed(engine, environment_id, session_id)
        if await engine.store.fetch("begin_dev_session", environment_id, session_id, grace):
            return
    await engine.store.fetch("forget_dev_claims", environment_id, session_id, _FORGOTTEN)


async def beat_session(engine: Engine) -> None:
    """Goes on with the session until it is canceled. Survives a database that is away."""
    pause = min(engine.settings.dev_grace / 4, _LONGEST_BEAT)
    while True:
        try:
            await keep_session(engine)
        except DATABASE_ERRORS as error:
            _log.warning("the session of headrace dev is not kept", error=f"{type(error).__name__}: {error}")
        await asyncio.sleep(pause)


def note_claims(settings: Settings, environment_id: int, claim: Plan[list[Record]]) -> Plan[list[Record]]:
    """Plan: a claim, and in its transaction whose runs these are now."""
    rows = yield from claim
    claimed = [row for row in rows if row["id"] is not None]
    if claimed:
        ids, attempts = [row["id"] for row in claimed], [row["attempt"] for row in claimed]
        session_id = UUID(settings.dev_session)
        yield from query("note_dev_claims", environment_id, session_id, settings.dev_grace, ids, attempts)
    return rows


def end_lapsed_session() -> Plan[tuple[int, int] | None]:
    """Plan: a bounded part of what a session's end means: its environment, and how many runs were canceled.

    None where the time of none is over.
    """
    rows: list[Any] = yield from query("find_lapsed_dev_session")
    if not rows:
        return None
    canceled = yield from _end_session(rows[0]["environment_id"], rows[0]["id"])
    return rows[0]["environment_id"], canceled or 0


async def _end_lapsed(engine: Engine, environment_id: int, session_id: UUID) -> None:
    canceled = 0
    while (part := await engine.store.run_plan(_end_session(environment_id, session_id))) is not None:
        canceled += part
    if canceled:
        _log.info("headrace dev was away for too long: what it had begun is canceled", runs=canceled)
        engine.notices.runs_canceled(environment_id)
        engine.notices.runs_done(environment_id)
        await cancel_trees(engine)


def _end_session(environment_id: int, session_id: UUID) -> Plan[int | None]:
    """Plan: cancels a bounded number of its runs; the session goes with the last. None where its time is not over."""
    if not (yield from query("lock_lapsed_dev_session", environment_id, session_id)):
        return None
    rows: list[Any] = yield from query("find_dev_claims", environment_id, session_id, _CHUNK)
    claimed: Sequence[UUID] = [row["run_id"] for row in rows]
    yield from query("lock_runs", environment_id, claimed)
    # a statement of its own: it sees who has claimed them while the locks were waited for
    own: list[Any] = yield from query("find_own_dev_runs", environment_id, session_id, claimed)
    canceled = (yield from cancel_runs(environment_id, [row["id"] for row in own], AWAY)) if own else []
    yield from query("delete_dev_claims", environment_id, session_id, claimed)
    if len(rows) < _CHUNK:
        yield from query("delete_dev_session", environment_id, session_id)
    return len(canceled)


async def _find_session(engine: Engine) -> tuple[UUID, int]:
    environment = await find_environment_here(engine, engine.settings.environment)
    if environment is None:
        raise ConfigurationError(f"the store {engine.name!r} knows no environment {engine.settings.environment!r} yet")
    return UUID(engine.settings.dev_session), environment.id
