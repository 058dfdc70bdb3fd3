"""Takes runs of one store into free slots, and only into free slots: what a worker holds is what it executes.

Woken by a hint that runs are ready; without one it looks every ``poll_interval``. Busy, it claims again when half of
its slots are free, or a moment after the first one is, so that a claim is worth its statement.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import time
from collections.abc import Sequence
from typing import Final

from headrace import metrics
from headrace.engine.claims import claim_runs, give_back_runs
from headrace.engine.engine import Engine
from headrace.engine.holdings import list_held_runs
from headrace.engine.outcomes import ClaimedRun, LeaseLost, WorkerLease
from headrace.engine.turns import Turns
from headrace.logs import get_logger
from headrace.store.store import DATABASE_ERRORS
from headrace.timeouts import happens_within
from headrace.worker.completer import Completer
from headrace.worker.executor import Executor
from headrace.worker.tenure import Tenure

CLAIM_RUNS: Final = 500
"""Most runs of one claim: beyond that a claim grows no cheaper (research/peers.md 3.2)."""

GATHER_SECONDS: Final = 0.02
"""For so long a busy worker lets more slots become free before it claims for the few that are."""

_FIRST_DELAY: Final = 0.1
_LONGEST_DELAY: Final = 2.0
_HINT_WAIT: Final = 3600.0

_log = get_logger("headrace.worker")


class Claimer:
    """Claims in ``run`` until ``stop`` is called."""

    def __init__(
        self,
        engine: Engine,
        tenure: Tenure,
        executor: Executor,
        completer: Completer,
        *,
        tasks: Sequence[str],
        queues: Sequence[str] | None,
    ) -> None:
        self._engine = engine
        self._tenure = tenure
        self._executor = executor
        self._completer = completer
        self._tasks = list(tasks)
        self._queues = queues
        self._turns = Turns()
        self._share = executor.share
        self._woken = asyncio.Event()
        self._hinted = False
        self._stopped = False
        self._failures = 0
        self._checks = 0
        self._check_at = 0.0
        self.claimed = 0

    def stop(self) -> None:
        """Claims no more; ``run`` returns once a claim that is under way has been answered."""
        self._stopped = True
        self._woken.set()

    def wake(self) -> None:
        """Something changed: a slot is free, there is room for results, there is a lease."""
        self._woken.set()

    def hint(self) -> None:
        """There may be something to claim."""
        self._hinted = True
        self._woken.set()

    def expect(self, seconds: float) -> None:
        """There will be something to claim after so long: the next attempt of a run that failed here."""
        asyncio.get_running_loop().call_later(seconds, self.hint)

    async def run(self) -> None:
        """Claims until it is stopped. Survives a database that is away."""
        hearing = asyncio.create_task(self._hear_hints())
        try:
            while not self._stopped:
                lease = self._tenure.lease
                if lease is None or not self._completer.has_room:
                    self._share.rest()
                    await self._sleep(None)
                    continue
                self._share.want()
                room = min(self._share.room, CLAIM_RUNS)
                if room == 0:
                    self._share.make_room()
                    await self._sleep(None)
                elif room < self._share.enough and room < CLAIM_RUNS and not await self._gather():
                    continue
                else:
                    await self._claim(lease)
        finally:
            self._share.rest()
            hearing.cancel()

    def _room(self) -> int:
        return self._share.room if self._completer.has_room else 0

    async def _gather(self) -> bool:
        """Lets more slots become free, for a moment. Whether there is any to claim for after it."""
        deadline = time.monotonic() + GATHER_SECONDS
        while not self._stopped and 0 < self._room() < self._share.enough and (left := deadline - time.monotonic()) > 0:
            await self._sleep(left)
        return not self._stopped and self._tenure.lease is not None and self._room() > 0

    async def _claim(self, lease: WorkerLease) -> None:
        self._hinted = False
        sent_at = time.monotonic()
        hold = self._share.take(min(self._share.room, CLAIM_RUNS))
        try:
            async with asyncio.timeout(self._engine.settings.lease):
                await self._settle_doubts(lease)
                answer = await claim_runs(
                    self._engine,
                    lease,
                    tasks=self._tasks,
                    limit=hold.count,
                    queues=self._queues,
                    turns=self._turns,
                )
        except DATABASE_ERRORS as error:
            hold.end()
            self._share.note_silence()
            await self._back_off(error)
            return
        except BaseException:
            hold.end()
            raise
        room = hold.end()
        self._failures = 0
        match answer:
            case LeaseLost():
                self._share.rest()
                await self._tenure.replace(lease)
            case []:
                self._share.note_answer(full=False)
                self._tenure.note_renewal(sent_at)
                if self._turns.wake_in is not None:
                    self.expect(self._turns.wake_in)
                self._share.rest()
                await self._idle()
            case runs:
                self._share.note_answer(full=len(runs) >= hold.count)
                self._tenure.note_renewal(sent_at)
                metrics.count_claims(len(runs))
                if self._stopped or self._tenure.lease != lease:
                    await self._give_back(lease, runs)
                    return
                # more than there is room for only where the answer took so long that other stores got the slots
                self.claimed += len(runs[:room])
                self._executor.start(lease, runs[:room])
                await self._give_back(lease, runs[room:])

    async def _give_back(self, lease: WorkerLease, runs: Sequence[ClaimedRun]) -> None:
        if runs:
            with contextlib.suppress(*DATABASE_ERRORS):  # what can't be given back now is when the lease ends
                await give_back_runs(self._engine, lease, [(run.id, run.attempt) for run in runs])

    async def _idle(self) -> None:
        """Waits for a hint, or for the time to look without one."""
        deadline = time.monotonic() + self._engine.settings.poll_interval
        while not self._hinted and not self._stopped and (left := deadline - time.monotonic()) > 0:
            await self._sleep(left)

    async def _sleep(self, seconds: float | None) -> None:
        await happens_within(self._woken, seconds)
        self._woken.clear()

    async def _hear_hints(self) -> None:
        notices = self._engine.notices
        while True:
            lease = self._tenure.lease
            if lease is None:
                await asyncio.sleep(_FIRST_DELAY)
                continue
            seen = notices.count_ready(lease.environment_id)
            self.hint()
            await notices.wait_ready(lease.environment_id, _HINT_WAIT, since=seen)

    async def _back_off(self, error: BaseException) -> None:
        _log.warning("claim failed, trying again", error=f"{type(error).__name__}: {error}")
        self._failures += 1
        # the claim may have been made although its answer got lost; the second look is for one that is made even later
        self._checks, self._check_at = 2, 0.0
        delay = min(_FIRST_DELAY * 2**self._failures, _LONGEST_DELAY)
        deadline = time.monotonic() + delay * (0.5 + random.random() / 2)  # noqa: S311 - spreads retries, guards nothing
        while not self._stopped and (left := deadline - time.monotonic()) > 0:
            await self._sleep(left)

    async def _settle_doubts(self, lease: WorkerLease) -> None:
        """Gives back what the database says that this worker holds and this worker knows nothing of.

        Called between claims, so none is on its way here; an end that is written in the meantime guards itself.
        """
        if not self._checks or time.monotonic() < self._check_at:
            return
        held = await list_held_runs(self._engine, lease)
        known = self._executor.executing_runs() | self._completer.unwritten_runs()
        if unknown := [(run_id, attempt) for run_id, attempt in held if run_id not in known]:
            given_back = await give_back_runs(self._engine, lease, unknown)
            _log.warning("gave back runs whose claim was never answered", runs=given_back)
        self._checks -= 1
        self._check_at = time.monotonic() + self._engine.settings.lease
