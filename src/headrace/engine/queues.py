"""Queues: what each may do at once, by the code, the API and an operator; paused, resumed, and shown.

What executes is counted from the runs, so a new limit holds from the next claim on: runs that execute already are marked as
counted in the transaction that sets it, and once more after it, for claims that had looked before (decision 0013).

What is said of queues is said at home and copied to every store (engine/control_copies); what they do is counted in each.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any

from headrace.engine.control_copies import spread_control
from headrace.engine.engine import Engine
from headrace.engine.recounts import count_executing
from headrace.queues import MAX_CONCURRENCY, Queue
from headrace.store.statements import Plan, query


@dataclass(frozen=True, slots=True)
class QueueView:
    """A queue as it stands. ``running`` are its runs that execute, ``queued`` those that are ready, to 10,000 a task.

    ``limit`` is what holds now: the operator's word goes before the declared one, and neither over the environment's.
    """

    name: str
    limit: int | None
    declared_limit: int | None
    override_limit: int | None
    override_percent: float | None
    overridden_at: datetime | None
    key_limit: int | None
    rate: tuple[int, float] | None
    rate_by_key: bool
    keeps_slots: bool
    paused_at: datetime | None
    running: int
    queued: int
    missing: Sequence[str] = ()
    """Names of the stores that do not answer: what they do is not counted."""

    @property
    def waits_for(self) -> Sequence[str]:
        """Names of the stores without which nothing of it starts: its limits are those of all stores (decision 0014)."""
        return self.missing if self.limit is not None or self.key_limit is not None or self.rate is not None else ()


@dataclass(frozen=True, slots=True)
class QueuePage:
    """Queues by name; ``total`` counts all of them. ``missing`` are the stores that do not answer."""

    queues: list[QueueView]
    total: int
    missing: Sequence[str] = ()


@dataclass(frozen=True, slots=True)
class EnvironmentLimits:
    """What an environment may do at once, and does."""

    slug: str
    limit: int | None
    paused_at: datetime | None
    running: int
    queued: int


@dataclass(frozen=True, slots=True)
class QueueMissing:
    """There is no such queue in the environment."""


@dataclass(frozen=True, slots=True)
class QueueRefused:
    """What was asked for can't be: why."""

    message: str


def declare_queues(environment_id: int, queues: Iterable[Queue]) -> Plan[list[str]]:
    """Plan: what the code or the API says of queues; the last word counts. Returns those of which something new was said.

    To be followed by ``count_again`` after the commit, where there are any.
    """
    return (yield from _declare("declare_queues", environment_id, queues))


def declare_queues_here(environment_id: int, queues: Iterable[Queue]) -> Plan[list[str]]:
    """Plan: in a store other than home, what a worker's code says of queues of which nothing is said there yet.

    A limit holds from the first run on, even where home's word comes later.
    """
    return (yield from _declare("declare_queues_here", environment_id, queues))


def _declare(statement: str, environment_id: int, queues: Iterable[Queue]) -> Plan[list[str]]:
    by_name = {queue.name: queue for queue in queues if queue.name}
    if not by_name:
        return []
    said = list(by_name.values())
    rows = yield from query(
        statement,
        environment_id,
        list(by_name),
        [queue.concurrency_limit for queue in said],
        [queue.key_limit for queue in said],
        [queue.rate[0] if queue.rate else None for queue in said],
        [queue.rate[1] if queue.rate else None for queue in said],
        [queue.rate_by_key for queue in said],
        [queue.keep_slot_while_waiting for queue in said],
    )
    changed: list[str] = [row["name"] for row in rows]
    if changed:
        yield from count_executing(environment_id, changed)
    return changed


async def declare_queue(engine: Engine, environment_id: int, queue: Queue) -> QueueView:
    """Says what a queue may do at once, as code would; it need not be there."""
    assert queue.name is not None, "it is the queue's own name that is declared"
    engine = engine.home
    changed = await engine.store.run_plan(declare_queues(environment_id, [queue]))
    await count_again(engine, environment_id, changed)
    await spread_control(engine)
    return await _show(engine, environment_id, queue.name)


async def count_again(engine: Engine, environment_id: int, queues: Sequence[str] | None) -> None:
    """After the commit of new limits: counts what claims took that had looked before it, and wakes workers.

    ``queues`` None are all of them. A claim holds its worker's row, so the one that was under way is over by then.
    """
    if queues is None or queues:
        await engine.store.run_plan(count_executing(environment_id, queues))
        engine.notices.runs_ready(environment_id)


async def list_queues(engine: Engine, environment_id: int, *, limit: int, offset: int) -> QueuePage:
    """A page of queues, by name: those that somebody said something of, those of tasks, and those with runs.

    What a store does that does not answer is not counted.
    """
    engine = engine.home
    if engine.stores.others():
        names = await _find_names(engine, environment_id, None)
        found = await _read_queues(engine, environment_id, names[offset : offset + limit])
        return QueuePage(found, len(names), found[0].missing if found else ())
    rows = await engine.store.fetch("list_queues", environment_id, None, limit, offset)
    if not rows and offset:
        first = await engine.store.fetch("list_queues", environment_id, None, 1, 0)
        return QueuePage([], first[0]["total"] if first else 0)
    return QueuePage([_read_queue(row) for row in rows], rows[0]["total"] if rows else 0)


async def find_queue(engine: Engine, environment_id: int, name: str) -> QueueView | None:
    """The queue, or None where nobody has said anything of one of that name, and no task or run is on it."""
    engine = engine.home
    if engine.stores.others():
        found = await _read_queues(engine, environment_id, await _find_names(engine, environment_id, name))
        return found[0] if found else None
    rows = await engine.store.fetch("list_queues", environment_id, name, 1, 0)
    return _read_queue(rows[0]) if rows else None


async def pause_queue(engine: Engine, environment_id: int, name: str, *, paused: bool) -> QueueView | QueueMissing:
    """Pauses a queue, so that nothing of it starts; or resumes it. What executes goes on."""
    engine = engine.home
    if await find_queue(engine, environment_id, name) is None:
        return QueueMissing()
    await engine.store.fetch("pause_queue", environment_id, name, paused)
    await _tell_workers(engine, environment_id, paused=paused)
    return await _show(engine, environment_id, name)


async def override_queue(
    engine: Engine, environment_id: int, name: str, *, limit: int | None = None, percent: float | None = None
) -> QueueView | QueueMissing | QueueRefused:
    """An operator's limit over the declared one, until it is reset: so many runs, or a part of the environment's limit."""
    if await find_queue(engine, environment_id, name) is None:
        return QueueMissing()
    allowed = (await find_limits(engine, environment_id)).limit
    if limit is not None and limit > (MAX_CONCURRENCY if allowed is None else allowed):
        whose = "of the environment" if allowed is not None else "that can be given"
        most = MAX_CONCURRENCY if allowed is None else allowed
        return QueueRefused(f"concurrencyLimit is {limit}, but the highest limit {whose} is {most}")
    if percent is not None and allowed is None:
        return QueueRefused("percent is of the environment's concurrency limit, but the environment has none")
    await _write_override(engine, environment_id, name, limit, percent)
    return await _show(engine, environment_id, name)


async def reset_queue(engine: Engine, environment_id: int, name: str) -> QueueView | QueueMissing | QueueRefused:
    """Takes an operator's limit back: the declared one holds again."""
    found = await find_queue(engine, environment_id, name)
    if found is None:
        return QueueMissing()
    if found.overridden_at is None:
        return QueueRefused("Queue is not overridden")
    await _write_override(engine, environment_id, name, None, None)
    return await _show(engine, environment_id, name)


async def find_limits(engine: Engine, environment_id: int) -> EnvironmentLimits:
    """What an environment may do at once, and does. What a store does that does not answer is not counted."""
    engine = engine.home
    [row] = await engine.store.fetch("find_environment_limits", environment_id)
    elsewhere, _ = await _ask_others(engine, lambda one: one.store.fetch("find_environment_limits", environment_id))
    return EnvironmentLimits(
        row["slug"],
        row["concurrency_limit"],
        row["paused_at"],
        row["running"] + sum(one["running"] for one in elsewhere),
        row["queued"] + sum(one["queued"] for one in elsewhere),
    )


async def pause_environment(engine: Engine, environment_id: int, *, paused: bool) -> EnvironmentLimits:
    """Pauses an environment, so that nothing of it starts; or resumes it. What executes goes on."""
    engine = engine.home
    await engine.store.fetch("pause_environment", environment_id, paused)
    await _tell_workers(engine, environment_id, paused=paused)
    return await find_limits(engine, environment_id)


async def limit_environment(engine: Engine, environment_id: int, limit: int | None) -> EnvironmentLimits:
    """How many runs of an environment may execute at once, on all queues together; None: any number.

    Raises ValueError where it is none that can be.
    """
    if limit is not None and not 0 <= limit <= MAX_CONCURRENCY:
        raise ValueError(f"concurrencyLimit is {limit}, but must be from 0 to {MAX_CONCURRENCY}")
    engine = engine.home
    await engine.store.run_plan(_limit_environment(environment_id, limit))
    await count_again(engine, environment_id, None)
    await spread_control(engine)
    return await find_limits(engine, environment_id)


async def _show(engine: Engine, environment_id: int, name: str) -> QueueView:
    found = await find_queue(engine, environment_id, name)
    assert found is not None, "it has a row now"
    return found


async def _tell_workers(engine: Engine, environment_id: int, *, paused: bool) -> None:
    if paused:
        await engine.store.fetch("lock_workers", environment_id)  # claims that had looked before are over after it
    else:
        engine.notices.runs_ready(environment_id)
    await spread_control(engine)


async def _write_override(
    engine: Engine, environment_id: int, name: str, limit: int | None, percent: float | None
) -> None:
    engine = engine.home
    await engine.store.run_plan(_override(environment_id, name, limit, percent))
    await count_again(engine, environment_id, [name])
    await spread_control(engine)


async def _find_names(engine: Engine, environment_id: int, name: str | None) -> list[str]:
    """The names of all queues, or the one that is asked for where it is: in order, of all stores that answer."""
    rows = list(await engine.store.fetch("list_queue_names", environment_id, name))
    rows += (await _ask_others(engine, lambda one: one.store.fetch("list_queue_names", environment_id, name)))[0]
    return sorted({row["name"] for row in rows})


async def _read_queues(engine: Engine, environment_id: int, names: Sequence[str]) -> list[QueueView]:
    if not names:
        return []
    rows = await engine.store.fetch("count_queues", environment_id, names)
    found = {row["name"]: _read_queue(row) for row in rows}
    more, missing = await _ask_others(engine, lambda one: one.store.fetch("count_queues", environment_id, names))
    for row in more:
        one = found[row["name"]]
        found[row["name"]] = replace(one, running=one.running + row["running"], queued=one.queued + row["queued"])
    return [replace(found[name], missing=missing) if missing else found[name] for name in names]


async def _ask_others(engine: Engine, ask: Callable[[Engine], Awaitable[list[Any]]]) -> tuple[list[Any], Sequence[str]]:
    """The rows of all stores but home that answer, and the names of those that do not."""
    if not engine.stores.others():
        return [], ()

    async def ask_other(one: Engine) -> list[Any]:
        return [] if one is engine.stores.home else await ask(one)

    gathered = await engine.stores.gather(ask_other)
    return [row for rows in gathered.answers for row in rows], gathered.missing


def _override(environment_id: int, name: str, limit: int | None, percent: float | None) -> Plan[None]:
    yield from query("override_queue", environment_id, name, limit, percent)
    yield from count_executing(environment_id, [name])


def _limit_environment(environment_id: int, limit: int | None) -> Plan[None]:
    yield from query("limit_environment", environment_id, limit)
    if limit is not None:
        yield from count_executing(environment_id, None)


def _read_queue(row: Any) -> QueueView:
    return QueueView(
        name=row["name"],
        limit=row["effective_limit"],
        declared_limit=row["declared_limit"],
        override_limit=row["override_limit"],
        override_percent=row["override_percent"],
        overridden_at=row["overridden_at"],
        key_limit=row["key_limit"],
        rate=(row["rate_limit"], row["rate_period"]) if row["rate_limit"] is not None else None,
        rate_by_key=row["rate_by_key"],
        keeps_slots=row["keeps_slots"],
        paused_at=row["paused_at"],
        running=row["running"],
        queued=row["queued"],
    )
