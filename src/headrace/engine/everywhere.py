"""What a process does at every store, for as long as each is one: sweeping, keeping a session."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from contextlib import nullcontext
from typing import Any, Final

from headrace.engine.engine import Engine
from headrace.logs import get_logger, of_store

_PAUSE: Final = 1.0

_log = get_logger("headrace.stores")


async def do_everywhere(
    engine: Engine, work: Callable[[Engine], Coroutine[Any, Any, None]], *, pause: float = _PAUSE
) -> None:
    """Does ``work`` at each store: begun when the store comes, canceled when it goes, all of it when this is canceled.

    What fails at one store is logged and begun again after ``pause`` seconds, and is nothing to the others.
    """
    jobs: dict[Engine, asyncio.Task[None]] = {}
    stores = engine.stores
    try:
        while True:
            changed = stores.changed
            present = stores.all()
            for one in present:
                if one not in jobs:
                    with of_store(one.name) if one is not engine.home else nullcontext():
                        jobs[one] = asyncio.create_task(_do_at(one, work, pause))
            for one in [one for one in jobs if one not in present]:
                jobs.pop(one).cancel()
            await changed.wait()
    finally:
        for job in jobs.values():
            job.cancel()
        if jobs:
            await asyncio.wait(jobs.values())


async def _do_at(engine: Engine, work: Callable[[Engine], Coroutine[Any, Any, None]], pause: float) -> None:
    while True:
        try:
            await work(engine)
        except Exception:  # noqa: BLE001 - whoever waits for a deadline waits for this: it goes on whatever happened
            _log.exception("what is done at every store failed at one, beginning anew", store=engine.name)
            await asyncio.sleep(pause)
        else:
            return
