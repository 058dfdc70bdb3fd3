"""Renews the worker's lease when no claim has done so of late, and hears from the engine that it is lost."""

from __future__ import annotations

import asyncio
import time
from typing import Final

from headrace.engine.engine import Engine
from headrace.engine.outcomes import LeaseLost
from headrace.engine.workers import renew_lease
from headrace.logs import get_logger
from headrace.store.store import DATABASE_ERRORS
from headrace.timeouts import happens_within
from headrace.worker.tenure import Tenure

_RETRY_DELAY: Final = 0.2

_log = get_logger("headrace.worker")


class Heartbeat:
    """Beats while ``run`` runs; ``beat_now`` asks for one out of turn."""

    def __init__(self, engine: Engine, tenure: Tenure) -> None:
        self._engine = engine
        self._tenure = tenure
        self._asked = asyncio.Event()

    def beat_now(self) -> None:
        """Asks the engine at once whether the lease still holds."""
        self._asked.set()

    async def run(self) -> None:
        """Beats until it is cancelled."""
        every = self._engine.settings.heartbeat
        while True:
            wait = self._tenure.renewed_at + every - time.monotonic()
            if wait > 0 and not self._asked.is_set():
                await happens_within(self._asked, wait)
                self._notice_blocking(time.monotonic() - self._tenure.renewed_at - every)
                continue
            self._asked.clear()
            if not await self._beat():
                await asyncio.sleep(min(_RETRY_DELAY, every / 2))

    async def _beat(self) -> bool:
        lease = self._tenure.lease
        if lease is None:
            return False
        sent_at = time.monotonic()
        try:
            async with asyncio.timeout(self._engine.settings.lease):
                answer = await renew_lease(self._engine, lease)
        except DATABASE_ERRORS as error:
            _log.warning("lease not renewed, trying again", error=f"{type(error).__name__}: {error}")
            return False
        match answer:
            case LeaseLost():
                await self._tenure.replace(lease)
            case None:
                self._tenure.note_renewal(sent_at)
        return True

    def _notice_blocking(self, late: float) -> None:
        # an `async def` task that computes instead of waiting holds up every run, and this beat
        if late > self._engine.settings.heartbeat:
            _log.warning(
                "the event loop stood still: a task that computes should be a plain def, or have isolation='process'",
                seconds=round(late, 1),
            )
