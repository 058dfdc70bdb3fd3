"""Runs that were canceled, or taken away, while this worker executes them: it ends them when it hears of it.

One that was canceled may clean up; one that was taken away is dropped, because it may run elsewhere by now.
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any, Final
from uuid import UUID

from headrace.engine.engine import Engine
from headrace.engine.holdings import list_held_runs
from headrace.engine.runs import find_run
from headrace.logs import get_logger
from headrace.protocol.statuses import RunStatus
from headrace.store.store import DATABASE_ERRORS
from headrace.worker.executor import Executor
from headrace.worker.tenure import Tenure

_LONGEST_WAIT: Final = 10.0
"""Seconds after which a busy worker asks what it still holds without a hint, which may have been lost."""

_RETRY_DELAY: Final = 0.5

_log = get_logger("headrace.worker")


class Recalls:
    """Asks, in ``run``, which of the runs under way are still this worker's."""

    def __init__(self, engine: Engine, tenure: Tenure, executor: Executor) -> None:
        self._engine = engine
        self._tenure = tenure
        self._executor = executor
        self._asked = asyncio.Event()
        self._lost: set[UUID] = set()

    def look_now(self, run_id: UUID) -> None:
        """A write of this run was refused: it is not this worker's any more."""
        self._lost.add(run_id)
        self._asked.set()

    async def run(self) -> None:
        """Asks until it is cancelled. Survives a database that is away."""
        notices = self._engine.notices
        while True:
            lease = self._tenure.lease
            if lease is None:
                await asyncio.sleep(_RETRY_DELAY)
                continue
            seen = notices.count_canceled(lease.environment_id)
            try:
                await self._end_recalled()
            except DATABASE_ERRORS as error:
                _log.warning("runs not asked for, trying again", error=f"{type(error).__name__}: {error}")
                await asyncio.sleep(_RETRY_DELAY)
                continue
            await self._wait(notices.wait_canceled(lease.environment_id, _LONGEST_WAIT, since=seen))

    async def _wait(self, hint: Coroutine[Any, Any, bool]) -> None:
        """Until there is a hint that runs were canceled, or a write was refused."""
        hearing = asyncio.ensure_future(hint)
        asked = asyncio.ensure_future(self._asked.wait())
        try:
            await asyncio.wait({hearing, asked}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            hearing.cancel()
            asked.cancel()
            self._asked.clear()

    async def _end_recalled(self) -> None:
        executing = self._executor.list_executions()  # before the question: what is claimed after it is none of this
        lease = self._tenure.lease
        if not executing or lease is None:
            return
        lost, self._lost = self._lost, set()
        try:
            held = {run_id for run_id, _ in await list_held_runs(self._engine, lease)}
            for execution in executing:
                run_id = execution.run.id
                if execution.cut is None and (run_id in lost or run_id not in held):
                    run = await find_run(self._engine, lease.environment_id, run_id)
                    canceled = run is not None and run.status is RunStatus.CANCELED
                    self._executor.stop(execution, "canceled" if canceled else "dropped")
        except DATABASE_ERRORS:
            self._lost |= lost
            raise
