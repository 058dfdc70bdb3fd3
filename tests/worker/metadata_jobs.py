"""Tasks that show what they do: metadata of their own and of the runs above them, tags."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from headrace import ConfigurationError, PayloadError, Retry, current_run, metadata, step, tags, task, wait

ONCE = Retry(max_attempts=1)


def count(path: str) -> int:
    """One line more in a file; how many there are now."""
    with Path(path).open("a", encoding="utf-8") as file:
        file.write("x\n")
    return len(Path(path).read_text("utf-8").splitlines())


@task(id="m.every", retry=ONCE)
async def every(_: None) -> dict[str, Any]:
    await metadata.replace({"stage": "none", "gone": 1})
    await metadata.update({"stage": "begun", "files": [{"name": "a"}]})
    await metadata.delete("gone")
    await metadata.set("$.files[0].size", 3)
    await metadata.increment("n", 5)
    await metadata.decrement("n", 2)
    await metadata.append("log", "a")
    await metadata.append("log", "b")
    await metadata.remove("log", "a")
    await metadata.parent.increment("n")  # a run with none above it is its own parent
    await metadata.root.set("root", True)
    return {"own": await metadata.current(), "root": await metadata.root.current()}


def _every_blocking() -> dict[str, Any]:
    metadata.replace({"stage": "none", "gone": 1}).result()
    metadata.update({"stage": "begun", "files": [{"name": "a"}]}).result()
    metadata.delete("gone").result()
    metadata.set("$.files[0].size", 3).result()
    metadata.increment("n", 5).result()
    metadata.decrement("n", 2).result()
    metadata.append("log", "a").result()
    metadata.append("log", "b").result()
    metadata.remove("log", "a").result()
    metadata.parent.increment("n").result()
    metadata.root.set("root", True).result()
    return {"own": metadata.current().result(), "root": metadata.root.current().result()}


@task(id="m.every_in_thread", retry=ONCE)
def every_in_thread(_: None) -> dict[str, Any]:
    return _every_blocking()


@task(id="m.every_in_process", isolation="process", retry=ONCE)
def every_in_process(_: None) -> dict[str, Any]:
    return _every_blocking()


@task(id="m.leaf", retry=ONCE)
async def leaf(number: int) -> None:
    await metadata.parent.increment("done")
    await metadata.parent.append("log", number)
    await metadata.root.increment("done")
    await metadata.root.set(f"leaf {number}", os.getpid())


@task(id="m.branch", retry=ONCE)
async def branch(first: int) -> dict[str, Any]:
    await metadata.set("done", 0)
    batch = await leaf.batch_trigger_and_wait(range(first, first + 10))
    for outcome in batch:
        outcome.unwrap()
    return await metadata.current()


@task(id="m.tree", retry=ONCE)
async def tree(branches: int) -> dict[str, Any]:
    for outcome in await branch.batch_trigger_and_wait(range(0, branches * 10, 10)):
        outcome.unwrap()
    return await metadata.current()


@task(id="m.counting_parent", retry=ONCE)
async def counting_parent(times: int) -> dict[str, Any]:
    (await counting.trigger_and_wait(times)).unwrap()
    return await metadata.current()


@task(id="m.counting", retry=ONCE)
async def counting(times: int) -> dict[str, Any]:
    """What is counted here is counted once, whoever is killed in the middle of it."""
    for number in range(times):
        await metadata.increment("n")
        await metadata.parent.increment("n")
        await metadata.parent.append("log", number)
        await tags.add(f"t{number % 5}")
        if number % 5 == 4:
            await metadata.set("last", number)
    return await metadata.current()


@task(id="m.refused", retry=ONCE)
async def refused(gate: str) -> list[str]:
    """Comes to other points where a change is refused, and is replayed when it would no longer be."""
    told: list[str] = []
    await metadata.set("name", "text")
    for change in (metadata.increment("name"), metadata.parent.append("name", 1), metadata.root.remove("name", 1)):
        try:
            await change
        except PayloadError as error:
            told.append(str(error))
            await step("refused", str, error)
    try:
        await tags.add([f"t{number}" for number in range(11)])
    except ConfigurationError as error:
        told.append(str(error))
    await metadata.set("ready", True)
    await wait.for_token(await wait.create_token(idempotency_key=gate))
    await metadata.set("ready", False)
    return told


@task(id="m.tagger", retry=ONCE)
async def tagger(seconds: float) -> list[Any]:
    first = await tags.add("big", "small")
    child = (await tagged_child.trigger_and_wait(inherit_tags=True)).unwrap()
    await wait.for_(seconds)
    second = await tags.add(["big", "late"])
    return [first, child, second]


@task(id="m.tagged_child", retry=ONCE)
async def tagged_child(_: None) -> list[str]:
    run = current_run()
    return sorted(run.tags) if run else []


@task(id="m.failing", retry=Retry(max_attempts=3, min_delay=0.01, jitter=False))
async def failing(file: str) -> dict[str, Any]:
    """Each attempt does what the attempts before did not come to."""
    await metadata.increment("tries that came here")
    await metadata.append("log", "once")
    if count(file) < 3:
        raise ValueError("not yet")
    return await metadata.current()


@task(id="m.not_in_step", retry=ONCE)
async def not_in_step(_: None) -> list[str]:
    told: list[str] = []

    async def change() -> None:
        await metadata.set("in a step", 1)
        for ask in (lambda: metadata.parent.set("a", 1), lambda: tags.add("a"), lambda: metadata.remove("a", 1)):
            try:
                await ask()
            except Exception as error:  # noqa: BLE001 - which one is asked for
                told.append(f"{type(error).__name__} {error}")

    await step("change", change)
    return told
