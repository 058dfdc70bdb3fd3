"""Tasks with a hook at every moment, in each place where a task can run. What happens is written to a log, a line each."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

from headrace import wait
from headrace.hooks import MOMENTS, Event
from headrace.tasks import Retry, Task, current_run, task

THRICE = Retry(max_attempts=3, min_delay=0.01, jitter=False)


def record(log: str, what: str) -> None:
    with Path(log).open("a", encoding="utf-8") as lines:
        lines.write(what + "\n")


def read(log: Path | str) -> list[str]:
    return Path(log).read_text(encoding="utf-8").splitlines() if Path(log).exists() else []


def told(event: Event) -> str:
    """What a hook of this moment is told beside run and payload."""
    said: list[str] = []
    if event.error is not None:
        said.append(f"{type(event.error).__name__}: {event.error}")
    if event.output is not None:
        said.append(f"output {event.output}")
    if event.ok is not None:
        said.append(f"ok {event.ok}")
    if event.wait is not None:
        said.append(f"{event.wait.kind} {event.wait.name}")
    return f" ({', '.join(said)})" if said else ""


def add_hooks(owner: Any, name: str, *, asynchronous: bool = False) -> None:
    """A hook at each moment of ``owner``, which is a task or the module of hooks."""
    for moment in MOMENTS:
        if moment == "middleware":
            make = make_async_middleware if asynchronous else make_middleware
            owner.middleware(make(name))
        else:
            make_hook = make_async_hook if asynchronous else make_plain_hook
            getattr(owner, moment)(make_hook(name, moment))


def make_plain_hook(name: str, moment: str) -> Any:
    def hook(event: Event) -> Any:
        record(event.payload["log"], f"{name}.{moment}{told(event)}")
        return name if moment == "init" else None

    return hook


def make_async_hook(name: str, moment: str) -> Any:
    async def hook(event: Event) -> Any:
        await asyncio.sleep(0)
        record(event.payload["log"], f"{name}.{moment}{told(event)}")
        return name if moment == "init" else None

    return hook


def make_middleware(name: str) -> Any:
    def middleware(event: Event) -> Iterator[None]:
        record(event.payload["log"], f"{name}.enter")
        try:
            yield
        except BaseException as error:
            record(event.payload["log"], f"{name}.error {type(error).__name__}")
            raise
        finally:
            record(event.payload["log"], f"{name}.leave")

    return middleware


def make_async_middleware(name: str) -> Any:
    async def middleware(event: Event) -> AsyncIterator[None]:
        await asyncio.sleep(0)
        record(event.payload["log"], f"{name}.enter")
        try:
            yield
        except BaseException as error:
            record(event.payload["log"], f"{name}.error {type(error).__name__}")
            raise
        finally:
            await asyncio.sleep(0)
            record(event.payload["log"], f"{name}.leave")

    return middleware


def begin(payload: dict[str, Any]) -> Any:
    run = current_run()
    assert run is not None
    record(payload["log"], f"run {run.attempt}" + (f" init {run.init}" if run.init else ""))
    if payload.get("failures", 0) > run.failures:
        raise ValueError(f"attempt {run.attempt}")
    return run


@task(id="h.plain", retry=THRICE)
async def plain(payload: dict[str, Any]) -> str:
    begin(payload)
    if seconds := payload.get("wait"):
        await wait.for_(seconds)
        record(payload["log"], "waited")
    return "done"


@task(id="h.thread", retry=THRICE)
def thread(payload: dict[str, Any]) -> str:
    return _live_blocking(payload)


@task(id="h.process", retry=THRICE, isolation="process")
def process(payload: dict[str, Any]) -> str:
    return _live_blocking(payload)


@task(id="h.async_process", retry=THRICE, isolation="process")
async def async_process(payload: dict[str, Any]) -> str:
    begin(payload)
    if seconds := payload.get("wait"):
        await wait.for_(seconds)
        record(payload["log"], "waited")
    return "done"


def _live_blocking(payload: dict[str, Any]) -> str:
    begin(payload)
    if seconds := payload.get("wait"):
        wait.for_(seconds).result()
        record(payload["log"], "waited")
    return "done"


@task(id="h.bare", retry=THRICE)
async def bare(payload: dict[str, Any]) -> str:
    """Has no hooks of its own."""
    begin(payload)
    if seconds := payload.get("wait"):
        await wait.for_(seconds)
    return "done"


@task(id="h.bare_in_process", retry=THRICE, isolation="process")
def bare_in_process(payload: dict[str, Any]) -> str:
    begin(payload)
    return "done"


def spin(payload: dict[str, Any]) -> None:
    """Never yields and never returns, unless it is killed."""
    record(payload["log"], "begun")
    while True:
        sum(range(1000))


PLACES: dict[str, Task[Any, Any]] = {
    "loop": plain,
    "thread": thread,
    "process": process,
    "async process": async_process,
}

add_hooks(plain, "task")
add_hooks(thread, "task")
add_hooks(process, "task", asynchronous=True)
add_hooks(async_process, "task", asynchronous=True)


@task(id="h.sleepy", retry=THRICE, isolation="process")
def sleepy(payload: dict[str, Any]) -> str:
    time.sleep(payload["sleep"])
    return "done"
