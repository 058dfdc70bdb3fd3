"""Cancel: a run ends at once, whoever holds it, and what it waits for is canceled after it, down the tree.

The ends are one transaction each. That a canceled run's children are to follow stands in its journal before, so a crash
anywhere on the way down is taken up by the sweep.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from typing import Any, Final
from uuid import UUID

import msgspec

from headrace.engine.completions import settle_ends
from headrace.engine.engine import Engine
from headrace.engine.forwards import ask_owner
from headrace.engine.outcomes import RunCanceled, RunEnded, RunMissing
from headrace.logs import get_logger
from headrace.protocol.statuses import RunStatus
from headrace.store.statements import Plan, Record, query
from headrace.store.store import DATABASE_ERRORS

CANCELED: Final = {"type": "INTERNAL_ERROR", "code": "TASK_RUN_CANCELLED", "message": "The run was canceled."}
PARENT_CANCELED: Final = {
    "type": "INTERNAL_ERROR",
    "code": "TASK_RUN_CANCELLED",
    "message": "The run that waits for this one was canceled.",
}
EXPIRED: Final = {
    "type": "INTERNAL_ERROR",
    "code": "TASK_RUN_EXPIRED",
    "message": "The run was not started within its time to live.",
}

_CHUNK: Final = 1000

_log = get_logger("headrace.engine")


async def cancel_run(
    engine: Engine, environment_id: int, run_id: UUID, *, reason: str | None = None
) -> RunCanceled | RunEnded | RunMissing:
    """Cancels a run, and after it what it waits for. A run that has ended is left as it is."""
    return await ask_owner(engine, run_id, lambda owner: _cancel_there(owner, environment_id, run_id, reason))


async def _cancel_there(
    engine: Engine, environment_id: int, run_id: UUID, reason: str | None
) -> RunCanceled | RunEnded | RunMissing:
    error = {**CANCELED, "message": reason} if reason else CANCELED
    rows = await engine.store.run_plan(cancel_runs(environment_id, [run_id], error))
    if not rows:
        found = await engine.store.fetch("find_run", environment_id, run_id)
        return RunEnded(run_id, RunStatus(found[0]["status"])) if found else RunMissing()
    _tell(engine, environment_id)
    try:
        await cancel_trees(engine)
    except (
        DATABASE_ERRORS
    ) as error:  # the run is canceled, and that is what was asked for: the rest is the sweep's to do
        _log.warning("what the run waits for is canceled by the next sweep", error=f"{type(error).__name__}: {error}")
    return RunCanceled(run_id)


async def cancel_trees(engine: Engine) -> int:
    """Carries cancels on to what canceled runs waited for, until nothing is left of it; how many runs it canceled."""
    canceled = 0
    while (step := await engine.store.run_plan(cancel_tree_step())) is not None:
        environments, count = step
        canceled += count
        for environment_id in environments:
            _tell(engine, environment_id)
    return canceled


def cancel_runs(environment_id: int, runs: Sequence[UUID], error: dict[str, str]) -> Plan[list[Record]]:
    """Plan: ends those of ``runs`` that have not ended, as CANCELED, and all that follows from it. Returns their rows."""
    rows = yield from _end_runs(environment_id, sorted(runs), error, RunStatus.CANCELED)
    if rows:
        yield from query("mark_canceling", environment_id, [row["id"] for row in rows])
    return rows


def expire_runs(limit: int) -> Plan[tuple[int, int, set[int]]]:
    """Plan: ends runs that were not started by the time until which they may, a bounded number.

    How many were found, how many it ended (a claim may be quicker), and the environments of those.
    """
    found: list[Any] = yield from query("find_expiring_runs", limit)
    by_environment: defaultdict[int, list[UUID]] = defaultdict(list)
    for row in found:
        by_environment[row["environment_id"]].append(row["id"])
    ended, environments = 0, set[int]()
    for environment_id, ids in by_environment.items():
        rows = yield from _end_runs(environment_id, sorted(ids), EXPIRED, RunStatus.EXPIRED)
        if rows:
            ended += len(rows)
            environments.add(environment_id)
    return len(found), ended, environments


def _end_runs(environment_id: int, ids: list[UUID], error: dict[str, str], status: RunStatus) -> Plan[list[Record]]:
    """Plan: ends runs, in order of their ids, and settles what follows; of an ended run nothing is left to expire."""
    yield from query("lock_runs", environment_id, ids)
    rows = yield from query("cancel_runs", environment_id, ids, msgspec.json.encode(error).decode("utf-8"), str(status))
    yield from settle_ends(environment_id, rows)
    return rows


def cancel_tree_step() -> Plan[tuple[set[int], int] | None]:
    """Plan: a bounded part of what canceled runs waited for is canceled. None where there is nothing left."""
    points: list[Any] = yield from query("find_canceling", _CHUNK)
    if not points:
        return None
    by_environment: defaultdict[int, list[Any]] = defaultdict(list)
    for point in points:
        by_environment[point["environment_id"]].append(point)
    canceled = 0
    for environment_id, found in by_environment.items():
        done: list[Any] = []
        for point in found:
            if point["kind"] == "run":
                rows = yield from cancel_runs(environment_id, [point["target"]], PARENT_CANCELED)
                canceled += len(rows)
                done.append(point)
            else:
                count, is_over = yield from _cancel_batch(environment_id, point["target"])
                canceled += count
                if is_over:
                    done.append(point)
        if done:
            names = [point["point"] for point in done]
            yield from query("unmark_canceling", environment_id, [point["run_id"] for point in done], names)
    return set(by_environment), canceled


def _cancel_batch(environment_id: int, batch_id: UUID) -> Plan[tuple[int, bool]]:
    """Plan: cancels a chunk of a batch's runs, of one that is unsealed the batch as well. How many, and whether all are."""
    yield from query("abort_batch", environment_id, batch_id)
    rows = yield from query("find_batch_open_runs", environment_id, batch_id, _CHUNK)
    canceled = yield from cancel_runs(environment_id, [row["id"] for row in rows], PARENT_CANCELED)
    return len(canceled), len(rows) < _CHUNK


def _tell(engine: Engine, environment_id: int) -> None:
    engine.notices.runs_canceled(environment_id)
    engine.notices.runs_done(environment_id)
    engine.notices.runs_ready(environment_id)
