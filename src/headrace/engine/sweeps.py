"""Deadlines: found again by looking, whatever crashed. One elected process looks; any process may be the next.

Each sweep does a bounded part and is asked again until nothing is left, so none holds its transaction long. What a sweep
repairs it counts and logs: outside of a deadline that a user set, it is the trace of a crash.
"""

from __future__ import annotations

import asyncio
import time
from collections import defaultdict
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, fields
from typing import Any, Final
from uuid import UUID

from headrace.engine.audits import AuditPlace, audit_once
from headrace.engine.bulk_parts import PartKeeper, tend_all_parts
from headrace.engine.bulk_steps import BulkCarrier
from headrace.engine.cancels import cancel_runs, cancel_tree_step, expire_runs
from headrace.engine.completions import settle_ends
from headrace.engine.control_copies import copying
from headrace.engine.dev_sessions import end_lapsed_session
from headrace.engine.engine import Engine
from headrace.engine.moves import carry_on_moves
from headrace.engine.relay import relay_outbox, relaying
from headrace.engine.rescues import find_pinned_lanes, rescue_arguments, worker_lost_error
from headrace.engine.ticks import fire_due
from headrace.engine.tokens import expire_tokens
from headrace.engine.waits import complete_targets, wake_runs
from headrace.ids import HOME_STORE
from headrace.logs import get_logger
from headrace.store.statements import Plan, query
from headrace.store.store import DATABASE_ERRORS
from headrace.timeouts import happens_within

_CHUNK: Final = 1000
_BULK_SECONDS: Final = 0.25
_SCHEDULES_CHUNK: Final = 100
_SHORTEST_PAUSE: Final = 0.01
_OVERDUE_PAUSE: Final = 0.5

_NOT_SEALED: Final = {"type": "INTERNAL_ERROR", "code": "BATCH_NOT_SEALED", "message": "Its batch was never sealed."}

_log = get_logger("headrace.sweeps")


@dataclass(slots=True)
class SweepReport:
    """What one round did, by the number of rows."""

    workers_ended: int = 0
    runs_rescued: int = 0
    batches_aborted: int = 0
    runs_canceled: int = 0
    runs_expired: int = 0
    keys_expired: int = 0
    waits_ended: int = 0
    tokens_expired: int = 0
    runs_scheduled: int = 0
    runs_repaired: int = 0
    bulk_members: int = 0
    trees_moved: int = 0
    environments: set[int] = field(default_factory=set)
    unfinished: bool = False
    """Whether there is more of what is done bit by bit: it is gone on with at once, after a look at all the rest."""

    @property
    def empty(self) -> bool:
        """Whether there was nothing to do."""
        return not any(self.counts().values())

    def counts(self) -> dict[str, int]:
        """What was done, by name."""
        return {one.name: getattr(self, one.name) for one in fields(self) if one.type == "int"}


async def run_sweeps(engine: Engine, stop: asyncio.Event, *, interval: float | None = None) -> None:
    """Sweeps every ``interval`` seconds (default: the setting) until ``stop`` is set. Survives a database that is away."""
    every = interval if interval is not None else engine.settings.sweep_interval
    # a process that looks at deadlines rarely, because another one looks often, audits as rarely
    audit_every = engine.settings.audit_interval * max(every / engine.settings.sweep_interval, 1.0)
    keeper = PartKeeper(engine)
    try:
        async with relaying(engine, every, audit_every), copying(engine, every):
            await _sweep_on(engine, stop, every, audit_every, keeper)
    finally:
        await keeper.stop()


async def _sweep_on(engine: Engine, stop: asyncio.Event, every: float, audit_every: float, keeper: PartKeeper) -> None:
    place, audited_at = AuditPlace(), time.monotonic()
    while not stop.is_set():
        pause, unfinished = every, False
        try:
            if time.monotonic() - audited_at >= audit_every:
                audited_at = time.monotonic()
                await audit_once(engine, place)
            [look] = await engine.store.fetch("find_due_work")
            if look["parts"]:
                keeper.begin()
            if look["grown"]:
                await engine.store.fetch("analyze_grown")
            if look["due"]:
                unfinished = (await _sweep_once(engine)).unfinished
                [look] = await engine.store.fetch("find_due_work")  # what it did may have led to the next deadline
            if unfinished:
                pause = 0.0
            elif look["next_in"] is not None:  # a deadline is met when it comes, not at the next look
                # one that came meanwhile is met soon; what stays due, as a move under way, is not to be looked at all the time
                pause = min(every, max(look["next_in"], _OVERDUE_PAUSE if look["due"] else _SHORTEST_PAUSE))
        except DATABASE_ERRORS as error:
            _log.warning("sweep put off: the database does not answer", error=str(error))
        await happens_within(stop, pause)


async def sweep_once(engine: Engine) -> SweepReport:
    """Does all that is due now, where this process is the elected one; and tells other stores what they are to be told."""
    report = await _sweep_once(engine)
    if engine.key == HOME_STORE:
        await tend_all_parts(engine)
    await relay_outbox(engine)
    return report


async def _sweep_once(engine: Engine) -> SweepReport:
    report = SweepReport()
    await engine.store.run_plan(_elected(_end_silent_workers(report)))  # committed first: then they claim no more
    more = True
    while more:  # a part of each in turn: a million runs that expire hold up no wait whose time has come
        more = any([await engine.store.run_plan(_elected(step(report, engine))) for step in _STEPS])
    await engine.store.run_plan(_elected(_close_lanes()))
    await _carry_on_bulk_actions(report, engine)
    report.trees_moved += await carry_on_moves(engine)
    for environment_id in report.environments:
        engine.notices.runs_ready(environment_id)
        engine.notices.runs_done(environment_id)
        if report.runs_canceled:
            engine.notices.runs_canceled(environment_id)
    if not report.empty:
        _log.info("sweep", **{name: count for name, count in report.counts().items() if count})
    return report


def _elected(plan: Plan[Any]) -> Plan[Any]:
    """Plan: ``plan`` if this transaction is the one that sweeps, else nothing."""
    rows = yield from query("elect_sweeper")
    if not rows[0]["elected"]:
        return None
    return (yield from plan)


def _end_silent_workers(report: SweepReport) -> Plan[None]:
    rows = yield from query("end_silent_workers")
    report.workers_ended += len(rows)


def _rescue_runs(report: SweepReport, engine: Engine) -> Plan[bool]:
    held: list[Any] = yield from query("find_abandoned_runs", _CHUNK)
    by_worker: defaultdict[tuple[int, int], list[Any]] = defaultdict(list)
    for row in held:
        by_worker[row["environment_id"], row["worker_id"]].append(row)
    most = engine.settings.max_rescues
    final: Callable[[Any], bool] = lambda row: row["rescues"] >= most  # noqa: E731 - named for the call below
    for (environment_id, worker_id), rows in by_worker.items():
        lanes = yield from find_pinned_lanes(environment_id, [row["id"] for row in rows], rows[0]["version"])
        written = yield from query(
            "rescue_runs",
            *rescue_arguments(rows, worker_id, final=final, counted=1, error=worker_lost_error, lanes=lanes),
        )
        yield from settle_ends(environment_id, written)
        report.runs_rescued += len(written)
        report.environments.add(environment_id)
    if not held:
        yield from query("mark_emptied")
    return bool(held)


def _abort_batches(report: SweepReport, _engine: Engine) -> Plan[bool]:
    rows = yield from query("abort_unsealed_batches", _CHUNK)
    report.batches_aborted += len(rows)
    report.environments.update(row["environment_id"] for row in rows)
    for environment_id, told in _group_by_environment(row for row in rows if row["told"]).items():
        yield from complete_targets(environment_id, [row["id"] for row in told])
    return len(rows) == _CHUNK


def _cancel_held_runs(report: SweepReport, _engine: Engine) -> Plan[bool]:
    rows = yield from query("find_held_items", _CHUNK)
    if not rows:
        return False
    environment_id: int = rows[0]["environment_id"]
    ids = [row["run_id"] for row in rows if row["run_id"] is not None]
    if ids:
        canceled = yield from cancel_runs(environment_id, ids, _NOT_SEALED)
        report.runs_canceled += len(canceled)
        report.environments.add(environment_id)
    else:
        yield from query("close_held_batch", environment_id, rows[0]["batch_id"])
    return True


def _expire_runs(report: SweepReport, _engine: Engine) -> Plan[bool]:
    found, ended, environments = yield from expire_runs(_CHUNK)
    report.runs_expired += ended
    report.environments.update(environments)
    return found == _CHUNK


def _expire_keys(report: SweepReport, _engine: Engine) -> Plan[bool]:
    rows = yield from query("delete_expired_keys", _CHUNK)
    report.keys_expired += len(rows)
    return len(rows) == _CHUNK


def _end_waits(report: SweepReport, _engine: Engine) -> Plan[bool]:
    locked = yield from query("lock_due_waiters", _CHUNK)
    due: set[UUID] = {row["id"] for row in locked}
    rows = (yield from query("end_due_waits", _CHUNK, sorted(due))) if due else []
    report.waits_ended += len(rows)
    report.environments.update(row["environment_id"] for row in rows)
    for environment_id, ended in _group_by_environment(rows).items():
        yield from wake_runs(environment_id, {row["run_id"] for row in ended}, locked=due)
    return len(rows) == _CHUNK


def _expire_tokens(report: SweepReport, _engine: Engine) -> Plan[bool]:
    expired = yield from expire_tokens(_CHUNK)
    report.tokens_expired += expired.count
    report.environments.update(expired.environments)
    return expired.count == _CHUNK


def _fire_schedules(report: SweepReport, engine: Engine) -> Plan[bool]:
    fired = yield from fire_due(engine.settings, engine.lanes, _SCHEDULES_CHUNK, pick=lambda: engine.stores.pick().key)
    report.runs_scheduled += fired.runs
    report.environments.update(fired.environments)
    return fired.more


def _cancel_trees(report: SweepReport, _engine: Engine) -> Plan[bool]:
    step = yield from cancel_tree_step()
    if step is None:
        return False
    environments, count = step
    report.runs_canceled += count
    report.environments.update(environments)
    return True


def _end_dev_sessions(report: SweepReport, _engine: Engine) -> Plan[bool]:
    ended = yield from end_lapsed_session()
    if ended is None:
        return False
    environment_id, canceled = ended
    report.runs_canceled += canceled
    report.environments.add(environment_id)
    return True


async def _carry_on_bulk_actions(report: SweepReport, engine: Engine) -> None:
    """A part of them a round, in turn: however many runs they are for, deadlines are looked at in between."""
    until = time.monotonic() + _BULK_SECONDS
    carrier = BulkCarrier(engine, _elected)
    while await carrier.carry_on():
        if time.monotonic() >= until:
            report.unfinished = True
            break
    report.bulk_members += carrier.done
    report.runs_canceled += carrier.canceled
    report.environments.update(carrier.environments)


def _close_lanes() -> Plan[None]:
    yield from query("close_lanes")
    yield from query("lock_versions")
    # a statement of its own: a worker that registered while the lock was waited for is seen
    yield from query("close_version_lanes")


def _group_by_environment(rows: Iterable[Any]) -> dict[int, list[Any]]:
    groups: defaultdict[int, list[Any]] = defaultdict(list)
    for row in rows:
        groups[row["environment_id"]].append(row)
    return groups


_STEPS: Final = (
    _end_waits,
    _expire_tokens,
    _fire_schedules,
    _rescue_runs,
    _abort_batches,
    _cancel_held_runs,
    _end_dev_sessions,
    _cancel_trees,
    _expire_runs,
    _expire_keys,
)
