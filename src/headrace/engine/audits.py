"""Audits: what can't be is looked for all the same, a slice at a time: a run that waits for nothing, or for what is done.

An end and the waking of who waits for it commit together, so nothing should ever be found here. What is found is repaired,
counted in a metric and logged as the bug that it is.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from typing import Any, Final
from uuid import UUID

from headrace import metrics
from headrace.engine.batch_audit import audit_batches, log_repairs
from headrace.engine.engine import Engine
from headrace.engine.waits import complete_targets, wake_runs
from headrace.ids import format_run_id
from headrace.logs import get_logger
from headrace.store.statements import Plan, query

SLICE: Final = 2000
"""Waiting runs, and again batches, that one round looks at."""

_START: Final = (-1, UUID(int=0))

_log = get_logger("headrace.audit")


@dataclass(slots=True)
class AuditPlace:
    """How far the audits have come: after the last run and batch they begin again."""

    run: tuple[int, UUID] = _START
    batch: UUID | None = None


@dataclass(frozen=True, slots=True)
class _Stuck:
    """A run that was found waiting wrongly, and why."""

    environment_id: int
    run_id: UUID
    reason: str


async def audit_once(engine: Engine, place: AuditPlace) -> int:
    """Audits the next slice, where this process is the elected one; how much it had to repair."""
    stuck = await engine.store.run_plan(_audit_waiting(place))
    for one in stuck:
        _log.error(
            "bug: a run waited for what would not come, and was woken", run=format_run_id(one.run_id), why=one.reason
        )
        metrics.count_repairs("run", 1)
    audit = await engine.store.run_plan(_audit_batches(place))
    if audit is not None:
        log_repairs(audit)
        metrics.count_repairs("batch", len(audit.repairs))
    environments = {one.environment_id for one in stuck} | {r.environment_id for r in (audit.repairs if audit else ())}
    for environment_id in environments:
        engine.notices.runs_ready(environment_id)
        engine.notices.runs_done(environment_id)
    return len(stuck) + (len(audit.repairs) if audit else 0)


def _audit_waiting(place: AuditPlace) -> Plan[list[_Stuck]]:
    if not (yield from query("elect_sweeper"))[0]["elected"]:
        return []
    rows: list[Any] = yield from query("audit_waiting_runs", *place.run, SLICE)
    place.run = (rows[-1]["lane_id"], rows[-1]["id"]) if len(rows) == SLICE else _START
    stuck: list[_Stuck] = []
    targets: defaultdict[int, set[UUID]] = defaultdict(set)
    for row in rows:
        if reason := _find_fault(row):
            stuck.append(_Stuck(row["environment_id"], row["id"], reason))
            targets[row["environment_id"]].update(target for target in row["ended"] or () if target is not None)
    for environment_id in sorted({one.environment_id for one in stuck}):
        if targets[environment_id]:
            yield from complete_targets(environment_id, sorted(targets[environment_id]))
        yield from wake_runs(environment_id, {one.run_id for one in stuck if one.environment_id == environment_id})
    return stuck


def _find_fault(row: Any) -> str | None:
    if row["resolved"]:
        return "it was not told an outcome"
    if row["ended"]:
        return "what it waits for has ended, or is not there"
    return None if row["pending"] else "it waits for nothing"


def _audit_batches(place: AuditPlace) -> Plan[Any]:
    if not (yield from query("elect_sweeper"))[0]["elected"]:
        return None
    audit = yield from audit_batches(place.batch, SLICE)
    place.batch = audit.after
    return audit
