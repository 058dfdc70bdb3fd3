"""Schedules that stand in the code of tasks: ``@task(cron=...)``. Each worker that registers says what its tasks declare.

The last word counts. What is declared is written, what has changed is changed, and what a task that is registered declares
no more is deleted; tasks that a worker does not have are left alone. Whether a schedule is active is not the code's to say.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from headrace.crons import Cron
from headrace.engine.schedules import SchedulePlan
from headrace.errors import ConfigurationError
from headrace.ids import task_schedule_id
from headrace.items import make_options, read_options
from headrace.store.statements import Plan, Record, query


@dataclass(frozen=True, slots=True)
class Declaration:
    """What the code of a task says: its schedule in this environment, or None."""

    task: str
    schedule: SchedulePlan | None


def read_declaration(task: str, cron: Cron | None, environment: str) -> Declaration:
    """What a task declares for an environment. Raises ConfigurationError on options that a run can't have."""
    if cron is None or (cron.environments is not None and environment not in cron.environments):
        return Declaration(task, None)
    try:
        options = read_options(make_options(task, dict(cron.options)))
        return Declaration(task, SchedulePlan.read(task, cron.pattern, cron.timezone, cron.catch_up, options=options))
    except (ConfigurationError, ValueError) as error:
        raise ConfigurationError(f"task {task!r}, cron: {error}") from None


def write_declarations(environment_id: int, declared: Sequence[Declaration]) -> Plan[None]:
    """Plan: the schedules of these tasks are what is declared now. What is so already is not touched."""
    rows = yield from query("lock_declared_schedules", environment_id, sorted(one.task for one in declared))
    known = {row["task"]: row for row in rows}
    gone = [known[one.task]["id"] for one in declared if one.schedule is None and one.task in known]
    if gone:
        yield from query("delete_declared_schedules", environment_id, gone)
    changed = [one.schedule for one in declared if one.schedule and not _says(known.get(one.task), one.schedule)]
    if changed:
        yield from _write(environment_id, changed)


def _write(environment_id: int, schedules: Sequence[SchedulePlan]) -> Plan[None]:
    [clock] = yield from query("read_clock")
    rows: list[tuple[UUID, Any, Any, Any, Any, Any, Any]] = [
        (
            task_schedule_id(environment_id, one.task),
            one.task,
            one.pattern,
            one.timezone,
            one.catch_up,
            one.spelt_options,
            one.next_tick(clock["now"]),
        )
        for one in schedules
    ]
    yield from query("write_declared_schedules", environment_id, *(list(column) for column in zip(*rows, strict=True)))


def _says(row: Record | None, wanted: SchedulePlan) -> bool:
    """Whether a row says already what is declared."""
    return row is not None and SchedulePlan.read_row(row) == wanted
