"""Hints between processes: "runs are ready", "runs are done". Never needed, only quicker than looking.

A hint is sent after the commit that it tells of, by itself, at most twenty times a second an environment: NOTIFY takes
a lock that all commits of a cluster share (research/peers.md 3.2: 2.6 to 12 times slower writes with it inside them).
Whoever waits for a hint looks again by itself after a while, so a lost one costs time and nothing else.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import Counter
from collections.abc import Callable
from typing import Any, Final

import asyncpg

from headrace.logs import get_logger
from headrace.settings import Settings
from headrace.store.store import DATABASE_ERRORS, Store
from headrace.timeouts import happens_within

READY_CHANNEL: Final = "headrace_ready"
DONE_CHANNEL: Final = "headrace_done"
CANCEL_CHANNEL: Final = "headrace_cancel"
STORES_CHANNEL: Final = "headrace_stores"
OUTBOX_CHANNEL: Final = "headrace_outbox"
CONTROL_CHANNEL: Final = "headrace_control"
_SPACING: Final = 0.05
_RECONNECT_DELAY: Final = 1.0
_PROBE_INTERVAL: Final = 30.0

_log = get_logger("headrace.notices")


class Notices:
    """The hints that one process sends and receives."""

    def __init__(self, store: Store, settings: Settings) -> None:
        self._store = store
        self._url = settings.listen_url or ("" if settings.pooler == "transaction" else settings.database_url)
        self._sending: dict[tuple[str, int], asyncio.Task[None]] = {}
        self._again: set[tuple[str, int]] = set()
        self._waiting: dict[tuple[str, int], asyncio.Event] = {}
        self._heard: Counter[tuple[str, int]] = Counter()
        self._heeding: list[tuple[str, Callable[[int], None]]] = []
        self._listener: asyncio.Task[None] | None = None
        self.listening = False

    def start_listening(self) -> None:
        """Takes hints from now on, over a connection of its own that is made anew whenever it breaks.

        Behind a pooler there is nothing to listen on unless ``listen_url`` names the database itself.
        """
        if self._url and self._listener is None:
            self._listener = asyncio.create_task(self._listen())

    async def close(self) -> None:
        """Stops listening and drops what has not been sent."""
        tasks = [*self._sending.values(), *([self._listener] if self._listener else [])]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def runs_ready(self, environment_id: int) -> None:
        """Tells workers that runs of an environment are ready. Returns at once and never raises."""
        self._send(READY_CHANNEL, environment_id)

    def runs_done(self, environment_id: int) -> None:
        """Tells whoever waits that runs or batches of an environment have ended. Returns at once and never raises."""
        self._send(DONE_CHANNEL, environment_id)

    def runs_canceled(self, environment_id: int) -> None:
        """Tells workers that runs of an environment were canceled. Returns at once and never raises."""
        self._send(CANCEL_CHANNEL, environment_id)

    def count_canceled(self, environment_id: int) -> int:
        """How many hints that runs were canceled came so far: take it before looking, and give it to ``wait_canceled``."""
        return self._heard[CANCEL_CHANNEL, environment_id]

    async def wait_canceled(self, environment_id: int, timeout: float, *, since: int | None = None) -> bool:
        """Whether a hint that runs were canceled came within ``timeout`` seconds, or after ``count_canceled``."""
        return await self._wait((CANCEL_CHANNEL, environment_id), timeout, since)

    def count_ready(self, environment_id: int) -> int:
        """How many hints that runs are ready came so far: take it before looking, and give it to ``wait_ready``."""
        return self._heard[READY_CHANNEL, environment_id]

    def count_done(self, environment_id: int) -> int:
        """How many hints that runs have ended came so far: take it before looking, and give it to ``wait_done``."""
        return self._heard[DONE_CHANNEL, environment_id]

    async def wait_ready(self, environment_id: int, timeout: float, *, since: int | None = None) -> bool:
        """Whether a hint that runs are ready came within ``timeout`` seconds, or after ``count_ready`` gave ``since``."""
        return await self._wait((READY_CHANNEL, environment_id), timeout, since)

    async def wait_done(self, environment_id: int, timeout: float, *, since: int | None = None) -> bool:
        """Whether a hint that runs have ended came within ``timeout`` seconds, or after ``count_done`` gave ``since``."""
        return await self._wait((DONE_CHANNEL, environment_id), timeout, since)

    def stores_changed(self) -> None:
        """Tells every process that the registry of stores has changed. Returns at once and never raises."""
        self._send(STORES_CHANNEL, 0)

    async def control_changed(self, environment_id: int) -> None:
        """Tells every process that an environment or its API keys have changed, 0: any. It is sent when this returns."""
        self._note((CONTROL_CHANNEL, environment_id))
        with contextlib.suppress(*DATABASE_ERRORS):
            await self._store.fetch("send_notice", CONTROL_CHANNEL, str(environment_id))

    def heed(self, channel: str, told: Callable[[int], None]) -> None:
        """Calls ``told`` with the environment of each hint on a channel, and with 0 where some may have been lost."""
        if (channel, told) not in self._heeding:
            self._heeding.append((channel, told))

    def count(self, channel: str, environment_id: int) -> int:
        """How many hints came on a channel so far."""
        return self._heard[channel, environment_id]

    async def wait(self, channel: str, environment_id: int, timeout: float, *, since: int | None = None) -> bool:
        """Whether a hint came on a channel within ``timeout`` seconds, or after ``count`` gave ``since``."""
        return await self._wait((channel, environment_id), timeout, since)

    def _send(self, channel: str, environment_id: int) -> None:
        key = (channel, environment_id)
        self._note(key)  # who waits in this process need not wait for the way through PostgreSQL
        if key in self._sending:
            self._again.add(key)
        else:
            self._sending[key] = asyncio.create_task(self._send_spaced(key))

    async def _send_spaced(self, key: tuple[str, int]) -> None:
        channel, environment_id = key
        try:
            while True:
                self._again.discard(key)
                with contextlib.suppress(*DATABASE_ERRORS):
                    await self._store.fetch("send_notice", channel, str(environment_id))
                await asyncio.sleep(_SPACING)
                if key not in self._again:
                    return
        finally:
            del self._sending[key]

    async def _wait(self, key: tuple[str, int], timeout: float, since: int | None) -> bool:
        if since is not None and self._heard[key] != since:
            return True
        event = self._waiting.setdefault(key, asyncio.Event())
        return await happens_within(event, timeout)

    def _hear(self, _connection: Any, _pid: int, channel: str, payload: object) -> None:
        # An event is set once and replaced: whoever waited wakes, whoever comes later waits for the next one.
        if isinstance(payload, str) and payload.isdigit():
            self._note((channel, int(payload)))

    def _note(self, key: tuple[str, int]) -> None:
        self._heard[key] += 1
        if event := self._waiting.pop(key, None):
            event.set()
        for channel, told in self._heeding:
            if channel == key[0]:
                told(key[1])

    async def _listen(self) -> None:
        while True:
            connection = None
            try:
                connection = await asyncpg.connect(self._url, timeout=10)
                for channel in (
                    READY_CHANNEL,
                    DONE_CHANNEL,
                    CANCEL_CHANNEL,
                    STORES_CHANNEL,
                    OUTBOX_CHANNEL,
                    CONTROL_CHANNEL,
                ):
                    await connection.add_listener(channel, self._hear)
                self.listening = True
                for _, told in self._heeding:  # nobody listened until now
                    told(0)
                broken = asyncio.Event()
                connection.add_termination_listener(lambda _, broken=broken: broken.set())
                # a connection can die without a word: a round trip now and then notices
                while not await happens_within(broken, _PROBE_INTERVAL):
                    await connection.execute("SELECT 1", timeout=10)
                _log.warning("hints are off, polling goes on", error="the connection was closed")
            except DATABASE_ERRORS as error:
                _log.warning("hints are off, polling goes on", error=str(error))
            finally:
                self.listening = False
                if connection is not None:
                    connection.terminate()
            await asyncio.sleep(_RECONNECT_DELAY)
