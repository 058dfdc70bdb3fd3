"""Tasks that are canceled, or run out of time, while they run: what they notice of it, and what they do then."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from headrace import wait
from headrace.hooks import Event
from headrace.tasks import Retry, Task, current_run, task
from tests.worker.hook_jobs import record

ONCE = Retry(max_attempts=1)


def _is_open(payload: dict[str, Any]) -> bool:
    return Path(payload["log"] + ".gate").exists()


@task(id="c.plain", retry=ONCE)
async def plain(payload: dict[str, Any]) -> str:
    record(payload["log"], "begun")
    try:
        await asyncio.sleep(60)
    except asyncio.CancelledError:
        run = current_run()
        record(payload["log"], f"cancelled {run is not None and run.cancelled}")
        await asyncio.sleep(0.05)
        record(payload["log"], "cleaned up")
        raise
    return "done"


@task(id="c.thread", retry=ONCE)
def thread(payload: dict[str, Any]) -> str:
    record(payload["log"], "begun")
    run = current_run()
    assert run is not None
    assert run.wait_cancelled("60s")
    record(payload["log"], f"cancelled {run.cancelled}")
    record(payload["log"], "cleaned up")
    return "done"


@task(id="c.process", retry=ONCE, isolation="process")
def process(payload: dict[str, Any]) -> str:
    record(payload["log"], "begun")
    try:
        time.sleep(60)
    except asyncio.CancelledError:
        run = current_run()
        record(payload["log"], f"cancelled {run is not None and run.cancelled}")
        time.sleep(0.05)
        record(payload["log"], "cleaned up")
        raise
    return "done"


@task(id="c.async_process", retry=ONCE, isolation="process")
async def async_process(payload: dict[str, Any]) -> str:
    return await plain(payload)


@task(id="c.waiting", retry=ONCE)
async def waiting(payload: dict[str, Any]) -> str:
    record(payload["log"], "begun")
    try:
        await wait.for_(60)
    except asyncio.CancelledError:
        record(payload["log"], "cancelled True")
        await asyncio.sleep(0.05)
        record(payload["log"], "cleaned up")
        raise
    return "done"


@task(id="c.waiting_in_process", retry=ONCE, isolation="process")
def waiting_in_process(payload: dict[str, Any]) -> str:
    """It is told once, though both its wait and the signal could tell it."""
    record(payload["log"], "begun")
    try:
        wait.for_(60).result()
    except asyncio.CancelledError:
        record(payload["log"], "cancelled True")
        time.sleep(0.05)
        record(payload["log"], "cleaned up")
        raise
    return "done"


PLACES: dict[str, Task[Any, Any]] = {
    "loop": plain,
    "thread": thread,
    "process": process,
    "async process": async_process,
    "waiting": waiting,
    "waiting in a process": waiting_in_process,
}


def note_cancel(event: Event) -> None:
    record(event.payload["log"], f"on_cancel {event.run.cancelled}")


def note_end(event: Event) -> None:
    record(event.payload["log"], f"ended ok {event.ok} {type(event.error).__name__}")


for each in PLACES.values():
    each.on_cancel(note_cancel)
    each.on_complete(note_end)


@task(id="c.stubborn", retry=ONCE, cancel_grace=0.3)
async def stubborn(payload: dict[str, Any]) -> str:
    """Cleans up for longer than it may."""
    record(payload["log"], "begun")
    try:
        await asyncio.sleep(60)
    except asyncio.CancelledError:
        try:
            await asyncio.sleep(60)
        finally:
            record(payload["log"], "ended hard")
    return "done"


@task(id="c.deaf", retry=ONCE, cancel_grace=0.3)
def deaf(payload: dict[str, Any]) -> str:
    """A thread that looks at nothing."""
    record(payload["log"], "begun")
    while not _is_open(payload):
        time.sleep(0.01)
    return "done"


@task(id="c.spinning", retry=ONCE, isolation="process", cancel_grace=0.5)
def spinning(payload: dict[str, Any]) -> str:
    """Will not be told, and has a process of its own."""
    signal.signal(signal.SIGTERM, lambda *_: record(payload["log"], "SIGTERM"))
    grandchild = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
    record(payload["log"], f"begun {grandchild.pid}")
    while True:
        sum(range(1000))


@task(id="c.never_yields", retry=ONCE, isolation="process", cancel_grace=0.3)
async def never_yields(payload: dict[str, Any]) -> str:
    record(payload["log"], "begun")
    while True:
        sum(range(1000))


@task(id="c.in_c", retry=ONCE, isolation="process", cancel_grace=0.3)
def in_c(payload: dict[str, Any]) -> int:
    """Never comes back to the interpreter, and holds its lock."""
    record(payload["log"], "begun")
    return 3**10**8


@task(id="c.spinning_elsewhere", retry=ONCE, isolation="process")
def spinning_elsewhere(payload: dict[str, Any]) -> str:
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(60)
    return "done"


@task(id="c.cpu", retry=ONCE, duration_clock="cpu", max_duration=0.3)
def cpu(payload: dict[str, Any]) -> str:
    return _use_cpu(payload)


@task(id="c.cpu_in_process", retry=ONCE, isolation="process", duration_clock="cpu", max_duration=0.3)
def cpu_in_process(payload: dict[str, Any]) -> str:
    return _use_cpu(payload)


def _use_cpu(payload: dict[str, Any]) -> str:
    run = current_run()
    assert run is not None
    time.sleep(payload.get("sleep", 0))
    began = time.process_time()
    while not run.cancelled and time.process_time() - began < payload.get("cpu", 0):
        sum(range(1000))
    return "done"


@task(id="c.piecemeal", max_duration=2.0, retry=Retry(max_attempts=2, min_delay=0.01, jitter=False))
async def piecemeal(payload: dict[str, Any]) -> str:
    """Takes its time in pieces, and is put down in between."""
    run = current_run()
    assert run is not None
    for piece in range(payload["pieces"]):
        await _work(payload, run.attempt, piece)
        await wait.for_(0.05, key=f"{piece}")
    if run.attempt <= payload.get("failures", 0):
        raise ValueError("again")
    return "done"


async def _work(payload: dict[str, Any], attempt: int, piece: int) -> None:
    mark = Path(f"{payload['log']}.{attempt}.{piece}")
    if not mark.exists():
        await asyncio.sleep(payload["each"])
        mark.touch()
