"""Tasks of the fleet under fire: leaves, parents that wait for leaves in every way, one that waits for a token, and what goes wrong."""

from __future__ import annotations

import asyncio
import json
import os
from typing import Any

from headrace import Abort, Key, Queue, Retry, current_run, task, wait
from headrace.durable.port import current_port

PATIENT = Retry(max_attempts=50, min_delay=0.01, max_delay=0.1)

LIMIT, KEY_LIMIT = 3, 1
"""How many runs of "f.narrow" may execute at once, and how many of one key, in all stores together."""


@task(id="f.leaf", retry=PATIENT)
async def leaf(n: int) -> int:
    return 2 * n


@task(id="f.parent", retry=PATIENT)
async def parent(n: int) -> list[int]:
    """A child that other parents share by its key, children of its own, a batch in which some items share keys, a while."""
    shared = (await leaf.trigger_and_wait(n % 5, idempotency_key=Key("leaf", n % 5, scope="global"))).unwrap()
    own = (await leaf.trigger_and_wait(n)).unwrap()
    await wait.for_(0.02)
    others = [one.unwrap() for one in await leaf.batch_trigger_and_wait([n + 1, n + 2, n + 3])]
    return [shared, own, *others]


@task(id="f.asks", retry=PATIENT)
async def asks(token: str) -> str:
    return await wait.for_token(token)


@task(id="f.narrow", retry=PATIENT, queue=Queue("narrow", concurrency_limit=LIMIT, key_limit=KEY_LIMIT))
async def narrow(n: int) -> int:
    await asyncio.sleep(0.05)
    return 2 * n


@task(id="f.once", retry=PATIENT)
async def once(log: str) -> dict[str, Any]:
    """Says who carried it out: also in a file, where those say it too that had lost the run meanwhile."""
    run, port = current_run(), current_port("a test", "")
    assert run is not None
    # the number of the claim, which fences writes: a user can't see it
    me = {"run": run.run_id, "fence": getattr(port, "_execution").run.attempt, "pid": os.getpid()}  # noqa: B009
    file = os.open(log, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
    try:
        os.write(file, f"{json.dumps(me)}\n".encode())  # in one write, whoever is killed
    finally:
        os.close(file)
    await asyncio.sleep(0.1)
    return me


@task(id="f.sleeper", retry=PATIENT)
async def sleeper(depth: int) -> None:
    """Never ends by itself; nor do those below it."""
    if depth:
        await sleeper.trigger_and_wait(depth - 1)
    await wait.for_("1h")


@task(id="f.fails", retry=Retry(max_attempts=2, min_delay=0.01, max_delay=0.02))
async def fails(n: int) -> None:
    raise Abort("it never goes well") if n % 2 else ValueError("it never goes well")


@task(id="f.tick", retry=PATIENT)
async def tick(payload: Any) -> None: ...
