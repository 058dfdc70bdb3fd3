"""A real worker for a test of the client: its own event loop in a thread, on the test's own database."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Generator
from contextlib import contextmanager
from typing import Any

from headrace.engine.engine import Engine
from headrace.settings import Settings
from headrace.tasks import Task
from headrace.worker.worker import Worker


@contextmanager
def running_worker(settings: Settings, *tasks: Task[Any, Any]) -> Generator[None]:
    """Executes runs of these tasks until the block ends."""
    ready = threading.Event()
    stop: list[Any] = []
    errors: list[BaseException] = []

    async def live() -> None:
        engine = await Engine.open(settings, listen=True)
        try:
            worker = Worker(engine, tasks)
            stop.extend((asyncio.get_running_loop(), worker.stop))
            job = asyncio.ensure_future(worker.run())
            waiting = asyncio.ensure_future(worker.ready.wait())
            await asyncio.wait({job, waiting}, return_when=asyncio.FIRST_COMPLETED)
            waiting.cancel()
            ready.set()
            await job
        finally:
            await engine.close()

    def run() -> None:
        try:
            asyncio.run(live())
        except BaseException as error:  # noqa: BLE001 - raised in the test's own thread
            errors.append(error)
        finally:
            ready.set()

    thread = threading.Thread(target=run, name="worker")
    thread.start()
    try:
        assert ready.wait(30)
        if errors:
            raise errors[0]
        yield
    finally:
        if stop and thread.is_alive():
            stop[0].call_soon_threadsafe(stop[1])
        thread.join(30)
        assert not thread.is_alive()
    if errors:
        raise errors[0]
