"""Tasks that do everything a worker has to live with. Imported by tests, by real workers and by their children."""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import logging
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import msgspec

from headrace.errors import Abort, RetryAfter
from headrace.tasks import Retry, RunContext, current_run, task

ONCE = Retry(max_attempts=1)
THRICE = Retry(max_attempts=3, min_delay=0.05, jitter=False)


def note(gate: str, *pids: int) -> None:
    """A line that a test reads: somebody started."""
    with Path(gate + ".started").open("a", encoding="utf-8") as lines:
        lines.write(" ".join(map(str, pids)) + "\n")


def is_open(gate: str) -> bool:
    return Path(gate).exists()


def note_cancelled(gate: str) -> None:
    Path(gate + ".cancelled").touch()


class Point(msgspec.Struct):
    x: int
    y: int = 0


@task(id="w.add")
async def add(point: Point) -> int:
    return point.x + point.y


@task(id="w.add_in_thread")
def add_in_thread(point: Point) -> int:
    assert threading.current_thread() is not threading.main_thread()
    return point.x + point.y


@task(id="w.add_in_process", isolation="process")
def add_in_process(point: Point) -> int:
    return point.x + point.y


@task(id="w.add_async_in_process", isolation="process")
async def add_async_in_process(point: Point) -> int:
    await asyncio.sleep(0)
    return point.x + point.y


@task(id="w.tell_context")
async def tell_context(payload: None, context: RunContext) -> dict[str, Any]:
    run = current_run()
    assert run is context
    return {"id": context.run_id, "attempt": context.attempt, "most": context.max_attempts, "tags": context.tags}


@task(id="w.tell_context_in_thread")
def tell_context_in_thread() -> str | None:
    run = current_run()
    return run.run_id if run else None


@task(id="w.tell_context_in_process", isolation="process")
def tell_context_in_process(payload: None, context: RunContext) -> dict[str, Any]:
    run = current_run()
    assert run is not None
    return {"id": run.run_id, "attempt": context.attempt, "queue": context.queue, "process": os.getpid()}


@task(id="w.raise", retry=ONCE)
async def raise_named(name: str) -> None:
    raise {
        "ValueError": ValueError("no such thing"),
        "SystemExit": SystemExit(3),
        "KeyboardInterrupt": KeyboardInterrupt(),
        "CancelledError": asyncio.CancelledError("by hand"),
        "GeneratorExit": GeneratorExit(),
        "ExceptionGroup": ExceptionGroup("several", [ValueError("a"), KeyError("b")]),
        "BaseExceptionGroup": BaseExceptionGroup("several", [SystemExit(1), ValueError("b")]),
        "MemoryError": MemoryError(),
        "RecursionError": RecursionError("too deep"),
        "StopIteration": StopIteration(1),
    }[name]


@task(id="w.raise_in_thread", retry=ONCE)
def raise_in_thread(name: str) -> None:
    raise {
        "ValueError": ValueError("no such thing"),
        "SystemExit": SystemExit(3),
        "KeyboardInterrupt": KeyboardInterrupt(),
        "StopIteration": StopIteration(1),
        "CancelledError": asyncio.CancelledError(),
    }[name]


@task(id="w.raise_in_process", isolation="process", retry=ONCE)
def raise_in_process(name: str) -> None:
    raise {"ValueError": ValueError("no such thing"), "SystemExit": SystemExit(3), "Abort": Abort("never")}[name]


@task(id="w.exit_in_child_task", retry=ONCE)
async def exit_in_child_task() -> None:
    """What asyncio lets through the loop itself, past every except of ours."""

    async def leave() -> None:
        sys.exit(7)

    await asyncio.create_task(leave())


@task(id="w.cancel_itself", retry=ONCE)
async def cancel_itself() -> None:
    job = asyncio.current_task()
    assert job is not None
    job.cancel()
    await asyncio.sleep(60)


@task(id="w.fail", retry=THRICE)
async def fail(until: int) -> int:
    run = current_run()
    assert run is not None
    if run.attempt < until:
        raise ValueError(f"attempt {run.attempt}")
    return run.attempt


@task(id="w.abort", retry=THRICE)
async def abort() -> None:
    raise Abort("no such customer")


@task(id="w.odd_result", retry=THRICE)
async def give_odd_result() -> Any:
    return object()


@task(id="w.odd_error", retry=ONCE)
async def raise_odd_error() -> None:
    raise ValueError("nul \0 and half a pair \ud800 " + "x" * 5000)


@task(id="w.large", retry=ONCE)
async def give_large(size: int) -> str:
    return "a" * size


@task(id="w.measure", retry=ONCE)
async def measure(text: str) -> int:
    return len(text)


@task(id="w.crash", isolation="process", retry=ONCE)
def crash(how: str) -> None:
    match how:
        case "exit":
            os._exit(9)
        case "exit 0":
            os._exit(0)
        case "segfault":
            ctypes.string_at(0)
        case "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        case _:
            raise AssertionError(how)


@task(id="w.crash_until", isolation="process", retry=THRICE)
def crash_until(attempt: int) -> int:
    run = current_run()
    assert run is not None
    if run.attempt < attempt:
        os._exit(1)
    return run.attempt


@task(id="w.wait", retry=ONCE)
async def wait(gate: str) -> str:
    """Says that it started, and waits for a file to come; says so if it is cancelled."""
    note(gate, os.getpid())
    try:
        while not is_open(gate):
            await asyncio.sleep(0.01)
    except asyncio.CancelledError:
        note_cancelled(gate)
        raise
    return f"done by {os.getpid()}"


@task(id="w.wait_in_thread", retry=ONCE)
def wait_in_thread(gate: str) -> str:
    note(gate, os.getpid())
    while not is_open(gate):
        time.sleep(0.01)
    return f"done by {os.getpid()}"


@task(id="w.wait_in_process", isolation="process", retry=ONCE)
def wait_in_process(gate: str) -> str:
    """Has a process of its own, too."""
    grandchild = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
    note(gate, os.getpid(), grandchild.pid)
    while not is_open(gate):
        time.sleep(0.01)
    grandchild.kill()
    return f"done by {os.getpid()}"


@task(id="w.stay", retry=ONCE)
async def stay(gate: str) -> str:
    """Will not be cancelled."""
    note(gate, os.getpid())
    while not is_open(gate):
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.sleep(0.01)
    return "stayed"


@task(id="w.kill_worker", retry=ONCE)
async def kill_worker() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


@task(id="w.log")
def log(text: str) -> None:
    logging.getLogger("shop").warning(text)


@task(id="w.echo_in_process", isolation="process")
def echo_in_process(value: Any) -> Any:
    return value


@task(id="w.retry_after_in_process", isolation="process", retry=Retry(max_attempts=2, min_delay=60))
def retry_after_in_process(delay: float) -> str:
    run = current_run()
    assert run is not None
    if run.failures == 0:
        raise RetryAfter(delay)
    return "done"


@task(id="w.wait_then_fail", retry=Retry(max_attempts=2, min_delay=0.01, jitter=False))
async def wait_then_fail(gate: str) -> None:
    note(gate, os.getpid())
    while not is_open(gate):
        await asyncio.sleep(0.01)
    run = current_run()
    assert run is not None
    raise ValueError(f"failures before: {run.failures}")
