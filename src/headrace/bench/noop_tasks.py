"""The tasks of the benchmark: nothing to do, what time it is, and runs that wait for others."""

from __future__ import annotations

import asyncio
import time

from headrace import task, wait


@task
async def noop(number: object) -> object:
    """Gives back what it was given."""
    return number


@task
async def tell_time(_number: int) -> float:
    """The wall clock at the first line of a run, in seconds."""
    return time.time()


@task
async def wait_for_batch(children: int) -> int:
    """How many of so many children, in one batch, were well."""
    return sum(outcome.ok for outcome in await noop.batch_trigger_and_wait(range(children)))


@task
async def wait_for_each(children: int) -> int:
    """How many of so many children, waited for one by one at once, were well."""
    return sum(outcome.ok for outcome in await asyncio.gather(*map(noop.trigger_and_wait, range(children))))


@task
async def iterate_batch(children: int) -> int:
    """How many of so many children, taken as they end, were well. Holds a page of them at a time."""
    well = 0
    async for outcome in noop.batch_trigger_and_iterate(range(children)):
        well += outcome.ok
    return well


@task
async def wait_for_token(_number: int) -> float:
    """The wall clock at the first line after a wait for a token of its own."""
    token = await wait.create_token(timeout="7d")
    await wait.for_token(token, key="approval")
    return time.time()


@task
async def wait_for_long(_number: int) -> None:
    """Waits for a day."""
    await wait.for_("1d")
