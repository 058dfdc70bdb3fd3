"""Deadlines: found again by looking, whatever crashed. One elected process looks; any process may be the next.

Each sweep does a bounded part and is asked again until nothing is left, so none holds its transaction long. What a sweep
repairs it counts and logs: outside of a deadline that a user set, it is the trace of a crash.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Final

import structlog

from headrace.engine.completions import settle_ends
from headrace.engine.engine import Engine
from headrace.engine.rescues import rescue_arguments, worker_lost_error
from headrace.store.statements import Plan, query
from headrace.store.store import DATABASE_ERRORS

_CHUNK: Final = 1000

_log = structlog.get_logger("headrace.sweeps")


@dataclass(slots=True)
class SweepReport:
    """What one round did, by the number of rows."""

    workers_ended: int = 0
    runs_rescued: int = 0
    batches_aborted: int = 0
    runs_canceled: int = 0
    keys_expired: int = 0
    environments: set[int] = field(default_factory=set)

    @property
    def empty(self) -> bool:
        """Whether there was nothing to do."""
        return not (
            self.workers_ended or self.runs_rescued or self.batches_aborted or self.runs_canceled or self.keys_expired
        )


async def run_sweeps(engine: Engine, stop: asyncio.Event, *, interval: float | None = None) -> None:
    """Sweeps every ``interval`` seconds (default: the setting) until ``stop`` is set. Survives a database that is away."""
    every = interval if interval is not None else engine.settings.sweep_interval
    while not stop.is_set():
        try:
            if (await engine.store.fetch("find_due_work"))[0]["due"]:
                await sweep_once(engine)
        except DATABASE_ERRORS as error:
            _log.warning("sweep put off: the database does not answer", error=str(error))
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(stop.wait(), every)


async def sweep_once(engine: Engine) -> SweepReport:
    """Does all that is due now, where this process is the elected one."""
    report = SweepReport()
    await engine.store.run_plan(_elected(_end_silent_workers(report)))  # committed first: then they claim no more
    for step in (_rescue_runs, _abort_batches, _cancel_held_runs, _expire_keys):
        while await engine.store.run_plan(_elected(step(report, engine))):
            pass
    await engine.store.run_plan(_elected(query("close_lanes")))
    for environment_id in report.environments:
        engine.notices.runs_ready(environment_id)
        engine.notices.runs_done(environment_id)
    if not report.empty:
        _log.info(
            "sweep",
            workers_ended=report.workers_ended,
            runs_rescued=report.runs_rescued,
            batches_aborted=report.batches_aborted,
            runs_canceled=report.runs_canceled,
            keys_expired=report.keys_expired,
        )
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
        written = yield from query(
            "rescue_runs", *rescue_arguments(rows, worker_id, final=final, counted=1, error=worker_lost_error)
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
    return len(rows) == _CHUNK


def _cancel_held_runs(report: SweepReport, _engine: Engine) -> Plan[bool]:
    rows = yield from query("cancel_held_runs", _CHUNK)
    report.runs_canceled += sum(row["n"] for row in rows)
    return bool(rows)


def _expire_keys(report: SweepReport, _engine: Engine) -> Plan[bool]:
    rows = yield from query("delete_expired_keys", _CHUNK)
    report.keys_expired += len(rows)
    return len(rows) == _CHUNK
