"""Long polls: ``?wait=SECONDS`` holds an answer back until there is something to say."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Coroutine
from typing import Any, Final, TypeVar

from headrace.api import limits
from headrace.api.routing import LONGEST_WAIT, Call

T = TypeVar("T")

MAX_WAIT: Final = LONGEST_WAIT
"""Longest wait in seconds; who asks for more gets this much and asks again."""


def read_wait(call: Call) -> float:
    """Seconds to wait, 0 without the parameter. Raises AnsweredError (400) for what is no number, or below 0."""
    text = call.request.query_params.get("wait", "0")
    try:
        seconds = float(text)
    except ValueError:
        seconds = math.nan
    if not seconds >= 0:
        raise limits.bad_query("wait", "wait must be a number of seconds, 0 or more")
    return min(seconds, MAX_WAIT)


async def await_change(call: Call, waiting: Coroutine[Any, Any, T | None]) -> T | None:
    """What ``waiting`` gives; None if the server is told to stop before that."""
    polling = asyncio.ensure_future(waiting)
    stopping = asyncio.ensure_future(call.stopping.wait())
    try:
        await asyncio.wait({polling, stopping}, return_when=asyncio.FIRST_COMPLETED)
        return polling.result() if polling.done() else None
    finally:
        polling.cancel()
        stopping.cancel()
