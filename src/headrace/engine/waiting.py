"""Waiting for an end: look, wait for a hint, look again."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Final, TypeVar

from headrace.engine.engine import Engine

T = TypeVar("T")

_LONGEST_BLIND_WAIT: Final = 1.0
"""Seconds after which it is looked at without a hint, which may have been lost."""


async def await_end(
    engine: Engine,
    environment_id: int,
    look: Callable[[], Awaitable[T | None]],
    has_ended: Callable[[T], bool],
    timeout: float,
) -> T | None:
    """What ``look`` gives once that has ended, or as it stands after ``timeout`` seconds; None where there is nothing.

    Hints are counted before the look: one that comes between the look and the wait is not missed.
    """
    deadline = asyncio.get_running_loop().time() + timeout
    while True:
        heard = engine.notices.count_done(environment_id)
        found = await look()
        left = deadline - asyncio.get_running_loop().time()
        if found is None or has_ended(found) or left <= 0:
            return found
        await engine.notices.wait_done(environment_id, min(left, _LONGEST_BLIND_WAIT), since=heard)
