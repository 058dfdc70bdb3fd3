"""Tasks on queues with limits: each writes to a log when it starts and when it ends, so that a test can count."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

from headrace import Queue, RunContext, wait
from headrace.tasks import Retry, task

TRIES = Retry(max_attempts=3, min_delay=0.01, jitter=False)


def write(log: str, *words: object) -> None:
    """A line, in one piece whoever else writes."""
    with Path(log).open("ab", buffering=0) as file:
        file.write(" ".join(map(str, words)).encode() + b"\n")


async def hold(log: str, context: RunContext) -> None:
    key = context.options.get("concurrencyKey") or context.options.get("orderKey") or "-"
    write(log, "start", context.run_id, os.getpid(), context.queue, key)
    await asyncio.sleep(0.03)
    write(log, "end", context.run_id, os.getpid())


@task(id="limits.three", queue=Queue("three", concurrency_limit=3), retry=TRIES)
async def three(log: str, context: RunContext) -> None:
    await hold(log, context)


@task(id="limits.keys", queue=Queue("keys", concurrency_limit=5, key_limit=2), retry=TRIES)
async def keys(log: str, context: RunContext) -> None:
    await hold(log, context)


@task(id="limits.any", retry=TRIES)
async def anything(log: str, context: RunContext) -> None:
    await hold(log, context)


@task(id="limits.ordered", retry=TRIES)
async def ordered(log: str, context: RunContext) -> None:
    await hold(log, context)


@task(id="limits.waits", queue=Queue("waits", concurrency_limit=1))
async def waits(token: str, context: RunContext) -> str:
    return str(await wait.for_token(token))


@task(id="limits.keeps", queue=Queue("keeps", concurrency_limit=1, keep_slot_while_waiting=True))
async def keeps(token: str, context: RunContext) -> str:
    return str(await wait.for_token(token))


@task(id="limits.keeps_unlimited", queue=Queue("keeps unlimited", keep_slot_while_waiting=True))
async def keeps_unlimited(token: str, context: RunContext) -> str:
    return str(await wait.for_token(token))
