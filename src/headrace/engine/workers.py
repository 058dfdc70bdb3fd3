"""Leases of workers: taken when one starts, renewed by its claims and beats, ended by its word or by its silence."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from headrace.crons import Cron
from headrace.engine.completions import settle_ends
from headrace.engine.control_copies import spread_control
from headrace.engine.declarations import Declaration, read_declaration, write_declarations
from headrace.engine.engine import Engine
from headrace.engine.environments import find_environment_here
from headrace.engine.outcomes import LeaseLost, WorkerLease
from headrace.engine.queues import count_again, declare_queues, declare_queues_here
from headrace.engine.rescues import find_pinned_lanes, rescue_arguments, worker_stopped_error
from headrace.engine.versions import note_version
from headrace.errors import ConfigurationError
from headrace.ids import HOME_STORE
from headrace.queues import TASK_PREFIX, Queue
from headrace.settings import Settings
from headrace.store.statements import Plan, query
from headrace.timeouts import answers_within


@dataclass(frozen=True, slots=True)
class TaskRegistration:
    """What a worker says of a task that it can execute."""

    id: str
    queue: str
    max_attempts: int
    skips_failed: bool = False
    """A run in back-off does not hold up the others of its order key."""
    coalesces: int = 1
    """So many runs of one order key may one call take."""
    cron: Cron | None = None
    limits: Queue | None = None
    """What the task's queue may do at once, where its code says so."""


async def register_worker(
    engine: Engine,
    environment_slug: str,
    *,
    name: str,
    tasks: Sequence[TaskRegistration],
    version: str = "",
    queues: Sequence[str] | None = None,
) -> WorkerLease:
    """A new lease in the engine's own store, and the tasks made known, with their schedules and the version that the worker runs.

    What is said of tasks, queues, versions and schedules counts where it is said at home, from where it is copied; in another
    store it holds until then, where nothing else does.
    ``queues`` are those that it claims from; None: all. Raises ConfigurationError where there is no such environment, a task's schedule can't be, or two tasks say different
    things of one queue.
    """
    environment = await find_environment_here(engine, environment_slug)
    if environment is None:
        raise ConfigurationError(
            f"HEADRACE_ENVIRONMENT is {environment_slug!r}, but there is no such environment; there are dev, staging and prod."
        )
    most = engine.settings.metadata_max_size
    declared = [read_declaration(task.id, task.cron, environment.slug, most) for task in tasks]
    limited = _collect_queues(tasks)
    own_queues = list(queues) if queues is not None else None
    if engine.key == HOME_STORE:
        worker_id, changed = await engine.store.run_plan(
            _register(environment.id, name, tasks, declared, limited, version, own_queues, engine.settings)
        )
    else:
        worker_id, changed = await engine.store.run_plan(
            _register_here(environment.id, name, tasks, limited, version, own_queues, engine.settings)
        )
    await count_again(engine, environment.id, changed)
    if engine.key == HOME_STORE:
        with suppress(TimeoutError):  # the lease runs already: a store that is away gets it when it is back
            await answers_within(spread_control(engine), engine.settings.lease / 4)
    return WorkerLease(worker_id, environment.id, version)


async def renew_lease(engine: Engine, lease: WorkerLease) -> LeaseLost | None:
    """Renews a lease; LeaseLost where the worker was silent for so long that its runs were given away."""
    rows = await engine.store.fetch("renew_lease", lease.worker_id, engine.settings.lease)
    return None if rows else LeaseLost()


async def retire_worker(engine: Engine, lease: WorkerLease) -> int:
    """Ends a lease by the worker's own word and queues again, at once, what it still held; returns how many runs.

    Their attempts are recorded as broken off; they count neither as failures nor as rescues, so a run can live through
    any number of deployments.
    """
    released = await engine.store.run_plan(_retire(lease))
    if released or lease.version:  # what was left to its version may be anybody's now
        engine.notices.runs_ready(lease.environment_id)
    return released


def _register(
    environment_id: int,
    name: str,
    tasks: Sequence[TaskRegistration],
    declared: Sequence[Declaration],
    limited: Sequence[Queue],
    version: str,
    queues: list[str] | None,
    settings: Settings,
) -> Plan[tuple[int, list[str]]]:
    known = [task.id for task in tasks]
    promotes = settings.promote == "auto"
    if tasks:
        yield from query(
            "register_tasks",
            environment_id,
            known,
            [task.queue for task in tasks],
            [task.max_attempts for task in tasks],
            [task.skips_failed for task in tasks],
            [task.coalesces for task in tasks],
            version,
            promotes,
        )
    if elsewhere := _find_elsewhere(tasks):
        yield from query("rename_lanes", environment_id, elsewhere)
    changed = yield from declare_queues(environment_id, limited)
    yield from query("lock_versions")  # no sweep closes the version's lanes from here on to the commit
    rows = yield from query("register_worker", environment_id, name, settings.lease, version, known, queues)
    if version:
        yield from query("open_version_lanes", environment_id, version)
        yield from note_version(environment_id, version, known, promotes=promotes)
    if declared:  # of the version that is current now
        yield from write_declarations(environment_id, version, declared)
    return rows[0]["id"], changed


def _register_here(
    environment_id: int,
    name: str,
    tasks: Sequence[TaskRegistration],
    limited: Sequence[Queue],
    version: str,
    queues: list[str] | None,
    settings: Settings,
) -> Plan[tuple[int, list[str]]]:
    """Plan: as ``_register`` in a store other than home: what home says of the same is not touched, and schedules are home's."""
    known = [task.id for task in tasks]
    if tasks:
        yield from query(
            "register_tasks_here",
            environment_id,
            known,
            [task.queue for task in tasks],
            [task.max_attempts for task in tasks],
            [task.skips_failed for task in tasks],
            [task.coalesces for task in tasks],
        )
    if elsewhere := _find_elsewhere(tasks):
        yield from query("rename_lanes", environment_id, elsewhere)
    changed = yield from declare_queues_here(environment_id, limited)
    yield from query("lock_versions")
    rows = yield from query("register_worker", environment_id, name, settings.lease, version, known, queues)
    if version:
        yield from query("open_version_lanes", environment_id, version)
        yield from query("register_version_here", environment_id, version, known)
    return rows[0]["id"], changed


def _find_elsewhere(tasks: Sequence[TaskRegistration]) -> list[str]:
    """The tasks whose code names a queue."""
    return [task.id for task in tasks if task.queue != TASK_PREFIX + task.id]


def _collect_queues(tasks: Sequence[TaskRegistration]) -> list[Queue]:
    """What the tasks say of their queues. Raises ConfigurationError where they say different things of one."""
    said: dict[str, TaskRegistration] = {}
    for task in tasks:
        if task.limits is None or task.limits.name is None:
            continue
        other = said.setdefault(task.limits.name, task)
        if other.limits != task.limits:
            raise ConfigurationError(
                f"tasks {other.id!r} and {task.id!r} say different things of the queue {task.limits.name!r}. Give both the "
                "same Queue, or one of them its name only"
            )
    return [task.limits for task in said.values() if task.limits is not None]


def _retire(lease: WorkerLease) -> Plan[int]:
    # the lease ends first: its row is locked until the commit, so no claim of this worker's can slip in behind
    ended = yield from query("end_worker", lease.worker_id)
    released = 0
    while ended:
        held: list[Any] = yield from query("find_held_runs", lease.worker_id, 1000)
        if not held:
            break
        lanes = yield from find_pinned_lanes(lease.environment_id, [row["id"] for row in held], lease.version)
        rows = yield from query(
            "rescue_runs",
            *rescue_arguments(
                held, lease.worker_id, final=lambda _: False, counted=0, error=worker_stopped_error, lanes=lanes
            ),
        )
        yield from settle_ends(lease.environment_id, rows)
        released += len(rows)
    return released
