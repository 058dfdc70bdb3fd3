"""Tasks of the fleet under fire: a leaf, parents that wait for leaves in every way, and one that waits for a token."""

from __future__ import annotations

from headrace import Key, Retry, task, wait

PATIENT = Retry(max_attempts=50, min_delay=0.01, max_delay=0.1)


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
