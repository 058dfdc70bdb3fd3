"""What a worker costs that has nothing to do."""

from __future__ import annotations

import asyncio
import contextlib
import time
from dataclasses import replace
from typing import Any

import pytest

from headrace.engine.engine import Engine
from headrace.engine.sweeps import run_sweeps
from headrace.settings import Settings
from headrace.worker.main import sweep_seconds
from headrace.worker.worker import Worker
from tests.worker import jobs
from tests.worker.helpers import until

pytestmark = pytest.mark.anyio


async def test_an_idle_worker_sends_at_most_one_statement_a_second(settings: Settings) -> None:
    """Claims, beats and sweeps together, with the settings as they come."""
    defaults = Settings()
    shipped = {
        name: getattr(defaults, name)
        for name in ("lease", "heartbeat", "poll_interval", "sweep_interval", "concurrency")
    }
    own = await Engine.open(replace(settings, **shipped), listen=True)
    sent: list[float] = []
    for name in ("fetch", "run_plan"):
        _count_calls(own.store, name, sent)
    worker, stop = Worker(own, [jobs.add]), asyncio.Event()
    working = asyncio.create_task(worker.run())
    sweeping = asyncio.create_task(run_sweeps(own, stop, interval=sweep_seconds(own.settings)))
    await worker.ready.wait()
    await until(lambda: len(sent) >= 4, "it has begun: environment, lease, first claim, first sweep")
    begun = len(sent)
    started = time.monotonic()
    await until(lambda: len(sent) >= begun + 7, "seven more statements")
    assert time.monotonic() - started >= 7 - 1.5  # the first of them may come at once
    stop.set()
    worker.stop()
    with contextlib.suppress(asyncio.CancelledError):
        await asyncio.gather(working, sweeping)
    await own.close()


def _count_calls(store: Any, name: str, sent: list[float]) -> None:
    """Notes when a statement is sent; it is sent all the same."""
    original = getattr(store, name)

    async def call(*args: Any) -> Any:
        sent.append(time.monotonic())
        return await original(*args)

    setattr(store, name, call)
