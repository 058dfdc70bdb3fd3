"""Schedules that stand in the code of tasks: ``@task(cron=...)``. Each worker that registers says what its tasks declare.

That is kept for each version of the code, and what a task's current version declares is the task's schedule: a worker of
another version that registers, or comes back, changes nothing. What is declared is written, what has changed is changed, what
is declared no more is deleted. Whether a schedule is active is not the code's to say.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from headrace.crons import Cron
from headrace.engine.schedules import SchedulePlan
from headrace.engine.screening import refuse_options
from headrace.errors import ConfigurationError, PayloadError
from headrace.ids import task_schedule_id
from headrace.items import make_options, read_options
from headrace.store.statements import Plan, query


@dataclass(frozen=True, slots=True)
class Declaration:
    """What the code of a task says: its schedule in this environment, or None."""

    task: str
    schedule: SchedulePlan | None


def read_declaration(task: str, cron: Cron | None, environment: str, most_metadata: int) -> Declaration:
    """What a task declares for an environment. Raises ConfigurationError on options that a run can't have."""
    if cron is None or (cron.environments is not None and environment not in cron.environments):
        return Declaration(task, None)
    try:
        options = read_options(make_options(task, dict(cron.options)))
        refuse_options(task, options, most_metadata)
        return Declaration(task, SchedulePlan.read(task, cron.pattern, cron.timezone, cron.catch_up, options=options))
    except (ConfigurationError, PayloadError, ValueError) as error:
        raise ConfigurationError(f"task {task!r}, cron: {error}") from None


def write_declarations(environment_id: int, version: str, declared: Sequence[Declaration]) -> Plan[None]:
    """Plan: keeps what a version declares, and brings the schedules of its tasks up to date, whose rows the caller holds."""
    said = [one.schedule for one in declared if one.schedule is not None]
    if said:
        columns = _list_columns(said)
        yield from query("write_declarations", environment_id, version, *columns)
    silent = [one.task for one in declared if one.schedule is None]
    if silent:
        yield from query("delete_declarations", environment_id, version, silent)
    yield from apply_declarations(environment_id, [one.task for one in declared])


def apply_declarations(environment_id: int, tasks: Sequence[str]) -> Plan[None]:
    """Plan: the schedules of tasks are what their current versions declare. What is so already is not touched."""
    rows = yield from query("find_declarations", environment_id, list(tasks))
    wanted = {row["task"]: SchedulePlan.read_row(row) for row in rows}
    rows = yield from query("lock_declared_schedules", environment_id, list(tasks))
    known = {row["task"]: (row["id"], SchedulePlan.read_row(row)) for row in rows}
    gone = [schedule_id for task, (schedule_id, _) in known.items() if task not in wanted]
    if gone:
        yield from query("delete_declared_schedules", environment_id, gone)
    changed = [one for task, one in wanted.items() if task not in known or known[task][1] != one]
    if changed:
        yield from _write_schedules(environment_id, changed)


def _write_schedules(environment_id: int, schedules: Sequence[SchedulePlan]) -> Plan[None]:
    [clock] = yield from query("read_clock")
    schedule_ids: list[UUID] = [task_schedule_id(environment_id, one.task) for one in schedules]
    ticks = [one.next_tick(clock["now"]) for one in schedules]
    yield from query("write_declared_schedules", environment_id, schedule_ids, *_list_columns(schedules), ticks)


def _list_columns(schedules: Sequence[SchedulePlan]) -> list[list[Any]]:
    rows = [(one.task, one.pattern, one.timezone, one.catch_up, one.spelt_options) for one in schedules]
    return [list(column) for column in zip(*rows, strict=True)]
