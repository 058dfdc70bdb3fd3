"""Tasks that wait for each other in trees, and say in files what became of them."""

from __future__ import annotations

import asyncio
import contextlib
import os
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

from headrace import Abort, metadata, step, wait
from headrace.errors import BatchTriggerError
from headrace.outcomes import Ok, Outcome
from headrace.tasks import Retry, task

ONCE = Retry(max_attempts=1)


def note(path: str, text: str = "x") -> int:
    """One line more in a file; how many there are now."""
    with Path(path).open("a", encoding="utf-8") as file:
        file.write(f"{text}\n")
    return len(Path(path).read_text("utf-8").splitlines())


@task(id="n.gate", retry=ONCE)
async def gate(path: str) -> str:
    """Ends when a file is there; says that it has begun, and that it was cut off."""
    note(f"{path}.begun", str(os.getpid()))
    try:
        while not Path(path).exists():
            await asyncio.sleep(0.01)
    except asyncio.CancelledError:
        note(f"{path}.stopped")
        raise
    return Path(path).read_text("utf-8")


@task(id="n.tree", retry=ONCE)
async def tree(given: dict[str, Any]) -> Any:
    """Waits for the next level; the last one waits at the gate."""
    try:
        if given["depth"] == 0:
            return _name_end(await gate.trigger_and_wait(given["gate"]))
        return _name_end(await tree.trigger_and_wait({**given, "depth": given["depth"] - 1}))
    except asyncio.CancelledError:
        note(f"{given['gate']}.left")
        raise


@task(id="n.tree_in_thread", retry=ONCE)
def tree_in_thread(given: dict[str, Any]) -> Any:
    try:
        return _name_end(tree.trigger_and_wait({**given, "depth": given["depth"] - 1}).result())
    finally:
        note(f"{given['gate']}.left")


@task(id="n.tree_in_process", retry=ONCE, isolation="process")
def tree_in_process(given: dict[str, Any]) -> Any:
    return _name_end(tree.trigger_and_wait({**given, "depth": given["depth"] - 1}).result())


@task(id="n.asking_in_process", retry=ONCE, isolation="process")
def asking_in_process(path: str) -> None:
    """Comes to a wait when a file is there."""
    note(f"{path}.begun", str(os.getpid()))
    while not Path(path).exists():
        time.sleep(0.01)
    note(f"{path}.asking")
    wait.for_(60).result()


@task(id="n.leaving", retry=ONCE)
async def leaving(path: str) -> str:
    """Its child goes on when it is canceled itself."""
    return (await gate.trigger_and_wait(path, on_cancel="leave")).unwrap()


@task(id="n.never", retry=ONCE)
async def never(number: int) -> int:
    """For workers that do not have it."""
    return number


@task(id="n.wide", retry=ONCE)
async def wide(count: int) -> int:
    return len(await never.batch_trigger_and_wait(range(count)))


@task(id="n.iterating", retry=ONCE)
async def iterating(count: int) -> int:
    total = 0
    async for outcome in never.batch_trigger_and_iterate(range(count)):
        total += outcome.ok
    return total


@task(id="n.cleaning", retry=ONCE)
async def cleaning(path: str) -> str:
    """A task of its own takes long to leave."""

    async def clean() -> None:
        try:
            await wait.for_(60)
        finally:
            note(f"{path}.cleaning")
            while not Path(path).exists():
                with contextlib.suppress(asyncio.CancelledError):  # it will not be hurried
                    await asyncio.sleep(0.01)

    helper = asyncio.create_task(clean())
    await wait.for_(60, key="own")
    await helper
    return "done"


@task(id="n.steps", retry=ONCE)
async def steps(path: str) -> list[Any]:
    """Steps, a child and a timer, one after the other, and the gate in their middle."""
    first = await step("first", note, f"{path}.first")
    child = (await counted.trigger_and_wait(f"{path}.child")).unwrap()
    second = await step("second", note, f"{path}.second")
    passed = (await gate.trigger_and_wait(path)).unwrap()
    await wait.for_(0.1)
    third = await step("third", note, f"{path}.third")
    return [first, child, second, passed, third]


@task(id="n.counted", retry=ONCE)
async def counted(path: str) -> int:
    return note(path)


@task(id="n.stepper", retry=ONCE)
async def stepper(given: dict[str, Any]) -> int:
    """A child a turn, and after some of them it stands in code that is not durable until the gate is open."""
    total = 0
    for turn in range(given["turns"]):
        total += (await counted.trigger_and_wait(f"{given['gate']}.{turn}")).unwrap()
        if turn == given["stop"]:
            note(f"{given['gate']}.begun", str(os.getpid()))
            while not Path(given["gate"]).exists():
                await asyncio.sleep(0.01)
    return total


@task(id="n.napping", retry=ONCE)
async def napping(seconds: float) -> str:
    await wait.for_(seconds)
    return "awake"


@task(id="n.asking", retry=ONCE)
async def asking(token_id: str) -> Any:
    return await wait.for_token(token_id)


@task(id="n.deep", retry=Retry(max_attempts=3, min_delay=0.01))
async def deep(depth: int) -> int:
    if depth == 0:
        return 0
    outcome = await deep.trigger_and_wait(depth - 1)
    if isinstance(outcome, Ok):
        return outcome.value
    raise Abort(str(outcome.error["message"]))


def _stream(path: str) -> list[Any]:
    def numbers() -> Iterator[int]:
        for number in range(2500):
            if number == 1500:
                note(f"{path}.begun")
                while not Path(path).exists():
                    time.sleep(0.01)
            yield number

    try:
        return [len(never.batch_trigger_and_wait(numbers()).result())]
    except BatchTriggerError as error:
        return [type(error).__name__, error.phase, error.batch_id is not None]


@task(id="n.streaming_in_thread", retry=ONCE)
def streaming_in_thread(path: str) -> list[Any]:
    """Stops in the middle of a batch's items until a file is there."""
    return _stream(path)


@task(id="n.streaming_in_process", retry=ONCE, isolation="process")
def streaming_in_process(path: str) -> list[Any]:
    return _stream(path)


@task(id="n.lazy", retry=ONCE)
async def lazy(path: str) -> int:
    """A batch whose later items wait until one of the first has run."""

    async def paths() -> AsyncIterator[str]:
        for number in range(1500):
            while number == 1200 and not Path(f"{path}.0").exists():
                await asyncio.sleep(0.01)
            yield f"{path}.{number % 2}"

    return sum(outcome.ok for outcome in await counted.batch_trigger_and_wait(paths()))


@task(id="n.large", retry=ONCE)
async def large(size: int) -> str:
    return "x" * size


@task(id="n.collecting", retry=ONCE)
async def collecting(count: int) -> int:
    """Reads large outcomes, some by themselves and some as a batch."""
    read = 0
    for number in range(count):
        read += len((await large.trigger_and_wait(10_000, key=f"child {number}")).unwrap())
    return read + sum(len(one.unwrap()) for one in await large.batch_trigger_and_wait([10_000] * count))


@task(id="n.many_points", retry=Retry(max_attempts=3, min_delay=0.01))
async def many_points(count: int) -> int:
    for number in range(count):
        await wait.for_(0, key=f"nap {number}")
    return count


@task(id="n.many_at_once", retry=Retry(max_attempts=3, min_delay=0.01))
async def many_at_once(count: int) -> int:
    return len(await asyncio.gather(*(counted.trigger(f"/nowhere/{number}") for number in range(count))))


@task(id="n.showing", retry=ONCE)
async def showing(size: int) -> list[Any]:
    """What is shown stays as it was when a change is refused."""
    await metadata.set("kept", 1)
    try:
        await metadata.set("large", "x" * size)
    except Exception as error:  # noqa: BLE001 - its kind is what is asked for
        return [type(error).__name__, str(error), await metadata.current()]
    return ["none", "", {}]


@task(id="n.showing_in_thread", retry=ONCE)
def showing_in_thread(size: int) -> list[Any]:
    metadata.set("kept", 1).result()
    try:
        metadata.set("large", "x" * size).result()
    except Exception as error:  # noqa: BLE001
        return [type(error).__name__, str(error), metadata.current().result()]
    return ["none", "", {}]


@task(id="n.showing_in_process", retry=ONCE, isolation="process")
def showing_in_process(size: int) -> list[Any]:
    metadata.set("kept", 1).result()
    try:
        metadata.set("large", "x" * size).result()
    except Exception as error:  # noqa: BLE001
        return [type(error).__name__, str(error), metadata.current().result()]
    return ["none", "", {}]


def _name_end(outcome: Outcome[Any]) -> str:
    return "COMPLETED" if isinstance(outcome, Ok) else outcome.status


TREES = [gate, tree, tree_in_thread, tree_in_process]
