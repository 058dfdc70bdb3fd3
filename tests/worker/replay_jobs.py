"""Tasks that show what the page on replay says: what is put down, what is lost, what is refused."""

from __future__ import annotations

import asyncio
from pathlib import Path

from headrace import Abort, PayloadError, step, wait
from headrace.tasks import Retry, task

ONCE = Retry(max_attempts=1)
THRICE = Retry(max_attempts=3, min_delay=0.01, jitter=False)


def note(path: str, line: str) -> None:
    """A line in a file, for the test to read."""
    with Path(path).open("a", encoding="utf-8") as file:
        file.write(line + "\n")


@task(id="r.double", retry=ONCE)
async def double(number: int) -> int:
    return number * 2


@task(id="r.fail_once", retry=ONCE)
async def fail_once(path: str) -> int:
    if not Path(path).exists():
        Path(path).touch()
        raise ValueError("the first time")
    return 1


@task(id="r.gate", retry=ONCE)
async def gate(path: str) -> str:
    while not Path(path).exists():
        await asyncio.sleep(0.01)
    return "open"


@task(id="r.cleaner", retry=ONCE)
async def cleaner(path: str) -> str:
    note(path, "begins")
    try:
        await wait.for_(0.2)
    except Exception:
        note(path, "never: a put-down is no Exception")
        raise
    finally:
        note(path, "cleans")
    return "done"


@task(id="r.cleaner_in_thread", retry=ONCE)
def cleaner_in_thread(path: str) -> str:
    note(path, "begins")
    try:
        wait.for_(0.2).result()
    except Exception:
        note(path, "never: a put-down is no Exception")
        raise
    finally:
        note(path, "cleans")
    return "done"


@task(id="r.stubborn", retry=ONCE)
async def stubborn(path: str) -> str:
    """Catches what puts it down, and returns something all the same."""
    try:
        await wait.for_(0.2)
    except BaseException as error:  # noqa: BLE001 - the point of it
        note(path, type(error).__name__)
        return "caught"
    return "done"


@task(id="r.stubborn_in_thread", retry=ONCE)
def stubborn_in_thread(path: str) -> str:
    try:
        wait.for_(0.2).result()
    except BaseException as error:  # noqa: BLE001 - the point of it
        note(path, type(error).__name__)
        return "caught"
    return "done"


@task(id="r.busy", retry=ONCE)
async def busy(path: str) -> str:
    """Waits, while another of its tasks is in the middle of something that is not durable."""
    note(path, "begins")

    async def work() -> None:
        while not Path(path + ".go").exists():
            await asyncio.sleep(0.01)
        note(path, "worked")

    await asyncio.gather(work(), wait.for_(0.1))
    return "done"


@task(id="r.impatient", retry=ONCE)
async def impatient(path: str) -> str:
    """As the page says how to limit a wait."""
    child = asyncio.ensure_future(gate.trigger_and_wait(path))
    limit = asyncio.ensure_future(wait.for_(0.2, key="limit"))
    done, rest = await asyncio.wait({child, limit}, return_when=asyncio.FIRST_COMPLETED)
    for one in rest:
        one.cancel()
    await wait.for_(0.1, key="after")
    return child.result().unwrap() if child in done else "too late"


@task(id="r.long", retry=ONCE, max_duration=1.0)
async def long(number: int) -> int:
    """Longer than its max_duration in all, but never in memory for as long."""
    for index in range(number):
        await wait.for_(0.3, key=f"part-{index}")
    return number


@task(id="r.keeper", retry=THRICE)
async def keeper(path: str) -> int:
    """A child fails, and then something else succeeds."""
    child, _ = await asyncio.gather(fail_once.trigger_and_wait(path), wait.for_(0.5))
    note(path + ".attempts", "x")
    return child.unwrap()


class NoSuchCustomer(Abort):
    """An end for good with a name of its own."""


def refuse(kind: str) -> object:
    if kind == "abort":
        raise NoSuchCustomer("there is none")
    return object()  # no JSON value


@task(id="r.refused", retry=ONCE)
async def refused(kind: str) -> list[str]:
    """What a step raises, before a put-down and after it."""
    try:
        await step("refuse", refuse, kind)
    except (Abort, PayloadError) as error:
        await wait.for_(0.1)
        return [type(error).__name__, str(error)]
    return []


@task(id="r.twice", retry=ONCE)
async def twice(number: int) -> int:
    pending = double.trigger_and_wait(number)
    await pending
    return (await pending).unwrap()


@task(id="r.twice_in_thread", retry=ONCE)
def twice_in_thread(number: int) -> int:
    pending = double.trigger_and_wait(number)
    pending.result()
    return pending.result().unwrap()


TASKS = [
    double, fail_once, gate, cleaner, cleaner_in_thread, stubborn, stubborn_in_thread, busy, impatient, long, keeper,
    refused,
    twice,
    twice_in_thread,
]  # fmt: skip
