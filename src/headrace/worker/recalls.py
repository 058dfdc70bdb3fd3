"""Runs that were canceled, or taken away, while this worker executes them: it ends them when it hears of it."""

from __future__ import annotations

import asyncio
from typing import Final

import structlog

from headrace.engine.engine import Engine
from headrace.engine.holdings import list_held_runs
from headrace.store.store import DATABASE_ERRORS
from headrace.worker.executor import Executor
from headrace.worker.tenure import Tenure

_LONGEST_WAIT: Final = 10.0
"""Seconds after which a busy worker asks what it still holds without a hint, which may have been lost."""

_RETRY_DELAY: Final = 0.5

_log = structlog.get_logger("headrace.worker")


class Recalls:
    """Asks, in ``run``, which of the runs under way are still this worker's."""

    def __init__(self, engine: Engine, tenure: Tenure, executor: Executor) -> None:
        self._engine = engine
        self._tenure = tenure
        self._executor = executor

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
            await notices.wait_canceled(lease.environment_id, _LONGEST_WAIT, since=seen)

    async def _end_recalled(self) -> None:
        executing = self._executor.executing_runs()  # before the question: what is claimed after it is none of this
        lease = self._tenure.lease
        if not executing or lease is None:
            return
        held = {run_id for run_id, _ in await list_held_runs(self._engine, lease)}
        for run_id in executing - held:
            self._executor.drop(run_id)
