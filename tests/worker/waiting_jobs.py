"""Tasks that wait: for children, batches, times, tokens; and steps that count how often they ran."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

from headrace import metadata, step, wait
from headrace.tasks import Retry, task

ONCE = Retry(max_attempts=1)
TWICE = Retry(max_attempts=2, min_delay=0.01, jitter=False)


def count(path: str) -> int:
    """One line more in a file; how many there are now."""
    with Path(path).open("a", encoding="utf-8") as file:
        file.write("x\n")
    return len(Path(path).read_text("utf-8").splitlines())


@task(id="d.double", retry=ONCE)
async def double(number: int) -> int:
    return number * 2


@task(id="d.fail", retry=ONCE)
async def fail(text: str) -> int:
    raise ValueError(text)


@task(id="d.one", retry=ONCE)
async def one(number: int) -> dict[str, Any]:
    outcome = await double.trigger_and_wait(number)
    return {"value": outcome.unwrap(), "run": outcome.run_id}


@task(id="d.one_in_thread", retry=ONCE)
def one_in_thread(number: int) -> int:
    first = double.trigger_and_wait(number).result().unwrap()
    wait.for_(0.2).result()
    return double.trigger_and_wait(first).result().unwrap()


@task(id="d.one_in_process", retry=ONCE, isolation="process")
def one_in_process(number: int) -> int:
    first = double.trigger_and_wait(number).result().unwrap()
    wait.for_(0.2).result()
    return double.trigger_and_wait(first).result().unwrap()


@task(id="d.failing", retry=ONCE)
async def failing(text: str) -> list[Any]:
    outcome = await fail.trigger_and_wait(text)
    return [outcome.ok, outcome.error["message"] if outcome.error else None]


@task(id="d.many", retry=ONCE)
async def many(numbers: list[int]) -> list[int]:
    return [outcome.unwrap() for outcome in await double.batch_trigger_and_wait(numbers)]


@task(id="d.iterate", retry=ONCE)
async def iterate(numbers: int) -> int:
    total = 0
    async for outcome in double.batch_trigger_and_iterate(range(numbers)):
        total += outcome.unwrap()
    return total


@task(id="d.gathered", retry=ONCE)
async def gathered(numbers: list[int]) -> list[int]:
    outcomes = await asyncio.gather(*(double.trigger_and_wait(number) for number in numbers))
    return [outcome.unwrap() for outcome in outcomes]


@task(id="d.sleeper", retry=ONCE)
async def sleeper(given: dict[str, Any]) -> str:
    await step("before", count, given["file"] + ".before")
    await wait.for_(given["seconds"])
    await step("after", count, given["file"] + ".after")
    count(given["file"] + ".called")
    return "awake"


@task(id="d.asker", retry=ONCE)
async def asker(timeout: float | None) -> Any:
    token = await wait.create_token(timeout=timeout)
    await metadata.set("token", token.id)
    return await wait.for_token(token)


@task(id="d.stepper", retry=ONCE)
async def stepper(file: str) -> int:
    async def flaky() -> int:
        if (times := count(file)) < 3:
            raise ValueError(f"try {times}")
        return times

    return await step("flaky", flaky, retry=Retry(max_attempts=3, min_delay=0.05, jitter=False))


@task(id="d.retried", retry=TWICE)
async def retried(file: str) -> list[int]:
    kept = await step("kept", count, file + ".kept")
    child = (await one_more.trigger_and_wait(file + ".child")).unwrap()
    return [kept, child]


@task(id="d.one_more", retry=ONCE)
async def one_more(file: str) -> int:
    times = count(file)
    if times == 1:
        raise ValueError("the first time")
    return times


@task(id="d.shower", retry=ONCE)
async def shower(file: str) -> dict[str, Any]:
    await metadata.set("progress", 0.5)
    await metadata.increment("times")
    await metadata.append("names", "a")
    await wait.for_(0.2)
    await metadata.increment("times", 2)
    return await metadata.current()


@task(id="d.racer", retry=ONCE)
async def racer(seconds: float) -> str:
    """The first of two waits wins; the other is given up."""
    slow = asyncio.ensure_future(wait.for_(60, key="slow"))
    quick = asyncio.ensure_future(wait.for_(seconds, key="quick"))
    done, pending = await asyncio.wait({slow, quick}, return_when=asyncio.FIRST_COMPLETED)
    for one_of in pending:
        one_of.cancel()
    await wait.for_(seconds, key="rest")
    return "quick" if quick in done else "slow"


@task(id="d.iterate_then_ask", retry=ONCE)
async def iterate_then_ask(numbers: int) -> Any:
    async for outcome in double.batch_trigger_and_iterate(range(numbers)):
        outcome.unwrap()
    token = await wait.create_token()
    await metadata.set("token", token.id)
    return await wait.for_token(token)


@task(id="d.same_token", retry=ONCE)
async def same_token(seconds: float) -> list[str]:
    token = await wait.create_token()
    await metadata.set("first", [token.id, token.url, token.public_token])
    await wait.for_(seconds)
    return [token.id, token.url, token.public_token]


@task(id="d.wait_in_step", retry=ONCE)
async def wait_in_step(what: str) -> str:
    async def waiting() -> str:
        await metadata.set("progress", 1)
        match what:
            case "child":
                await double.trigger_and_wait(1)
            case "time":
                await wait.for_(0.01)
            case "step":
                await step("inner", str)
            case _:
                await metadata.increment("n")
        return "no"

    return await step("outer", waiting)


TASKS = [
    double, fail, one, one_in_thread, one_in_process, failing, many, iterate, gathered, sleeper, asker, stepper,
    retried, one_more, shower, racer, iterate_then_ask, same_token, wait_in_step,
]  # fmt: skip
