"""The tasks of the benchmark: nothing to do, and what time it is."""

from __future__ import annotations

import time

from headrace import task


@task
async def noop(number: object) -> object:
    """Gives back what it was given."""
    return number


@task
async def tell_time(_number: int) -> float:
    """The wall clock at the first line of a run, in seconds."""
    return time.time()
