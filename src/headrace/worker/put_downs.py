"""Putting runs down: one that does nothing but wait, and for long, gives its slot back and goes on from its journal later."""

from __future__ import annotations

import asyncio
import contextvars
from collections.abc import Callable, Coroutine, Mapping
from time import perf_counter
from typing import Any, Final
from uuid import UUID

from headrace.worker.conductor import SETTLE_TICKS
from headrace.worker.executions import Execution

SHORT_LINGER: Final = 0.05
"""Seconds that a waiting run is kept in memory while there are no free slots."""


class PutDowns:
    """Puts down those of ``executions`` that wait for longer than ``linger`` seconds, or at once where slots are short."""

    def __init__(self, executions: Mapping[UUID, Execution], linger: float, has_free_slots: Callable[[], bool]) -> None:
        self._executions = executions
        self._linger = linger
        self._has_free_slots = has_free_slots
        self._jobs: set[asyncio.Task[Any]] = set()
        self._draining = False

    def note_waiting(self, run_id: UUID) -> None:
        """A run has come to a wait: it is put down when that takes long, or at once where slots are short."""
        execution = self._executions.get(run_id)
        if execution is not None and execution.waits_since is None:
            execution.waits_since = perf_counter()
            linger = self._linger if self._has_free_slots() and not self._draining else SHORT_LINGER
            if execution.run.keeps_slot:  # it stays, unless the worker is to end: that is asked now and then
                linger = max(linger, SHORT_LINGER)
            asyncio.get_running_loop().call_later(linger, self._spawn, self._try_to_put_down, execution)

    def drain(self) -> None:
        """No more is started: what waits is put down, and goes on elsewhere."""
        self._draining = True
        self.make_room()

    def make_room(self) -> None:
        """Slots are short: puts down what waits."""
        for execution in list(self._executions.values()):
            if execution.waits_since is not None:
                self._spawn(self._put_down_if_it_waits, execution)

    async def _try_to_put_down(self, execution: Execution) -> None:
        if self._executions.get(execution.run.id) is not execution or execution.cut is not None:
            return
        if not await self._put_down_if_it_waits(execution):
            execution.waits_since = None
            if execution.conductor is not None and execution.conductor.is_waiting:
                self.note_waiting(execution.run.id)

    async def _put_down_if_it_waits(self, execution: Execution) -> bool:
        # The end of a task reaches who joins it some turns of the loop later; in between, all of them seem to wait.
        for _ in range(SETTLE_TICKS):
            if not self._can_be_put_down(execution):
                return False
            await asyncio.sleep(0)
        conductor = execution.conductor
        if conductor is None or not self._can_be_put_down(execution):
            return False
        execution.cut = "put down"
        if execution.context is not None:
            execution.context.state.stop("put down")
        conductor.close()
        if execution.is_async and execution.job is not None:
            execution.job.cancel()
        return True

    def _can_be_put_down(self, execution: Execution) -> bool:
        # A task that waits for a semaphore may have to be let go on by another run, which nobody would hear of: it stays. But
        # where slots are short it must not: parents that limit their children by one would hold the slots that these need.
        locks = self._draining or not self._has_free_slots()
        if execution.run.keeps_slot and not self._draining:
            return False
        return (
            execution.conductor is not None
            and execution.cut is None
            and execution.conductor.can_be_put_down(locks=locks)
        )

    def _spawn(self, function: Callable[[Execution], Coroutine[Any, Any, Any]], execution: Execution) -> None:
        job: asyncio.Task[Any] = asyncio.get_running_loop().create_task(
            function(execution), context=contextvars.Context()
        )
        self._jobs.add(job)
        job.add_done_callback(self._jobs.discard)
