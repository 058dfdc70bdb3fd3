"""Rescheduling: a run that is delayed is given another time. Once it is due it is a worker's, and stays as it is."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

from headrace.engine.debounces import KEPT, debounce_scope
from headrace.engine.engine import Engine
from headrace.engine.forwards import ask_owner
from headrace.engine.idempotency import hash_key
from headrace.engine.items import parse_delay
from headrace.engine.outcomes import RunMissing
from headrace.engine.rows import read_json, read_run
from headrace.protocol.statuses import RunStatus
from headrace.store.statements import Plan, query


@dataclass(frozen=True, slots=True)
class RunRescheduled:
    """The run has the new time."""

    run_id: UUID


@dataclass(frozen=True, slots=True)
class RunNotDelayed:
    """The run is not delayed, or not any more, and stays as it is."""

    run_id: UUID
    status: RunStatus


async def reschedule_run(
    engine: Engine, environment_id: int, run_id: UUID, delay: str
) -> RunRescheduled | RunNotDelayed | RunMissing:
    """Lets a delayed run start after ``delay``, a duration from now or an ISO 8601 date; in the past is at once.

    Raises ValueError on other text.
    """
    until = parse_delay(delay)
    return await ask_owner(engine, run_id, lambda owner: _reschedule_there(owner, environment_id, run_id, until))


async def _reschedule_there(
    engine: Engine, environment_id: int, run_id: UUID, until: datetime
) -> RunRescheduled | RunNotDelayed | RunMissing:
    moved = await engine.store.run_plan(_move(environment_id, run_id, until))
    if moved:
        engine.notices.runs_ready(environment_id)
        return RunRescheduled(run_id)
    rows = await engine.store.fetch("find_run", environment_id, run_id)
    if not rows:
        return RunMissing()
    found = read_run(rows[0])
    # it was delayed a moment ago, or became due between the two looks
    return RunNotDelayed(run_id, RunStatus.QUEUED if found.status is RunStatus.DELAYED else found.status)


def _move(environment_id: int, run_id: UUID, until: datetime) -> Plan[bool]:
    rows = yield from query("find_run", environment_id, run_id)
    said: dict[str, Any] = (read_json(rows[0]["options"]) if rows else None) or {}
    if debounce := said.get(
        "debounce"
    ):  # its key is held before the run, as triggers hold them, and for as long as it waits
        name = debounce_scope(rows[0]["task"]), hash_key(debounce["key"])
        yield from query("keep_key", environment_id, *name, run_id, until, KEPT)
    return bool((yield from query("reschedule_run", environment_id, run_id, until)))
