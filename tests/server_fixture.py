"""A real server for a test: its own event loop in a thread, a real socket, the test's own database."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Generator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace

import pytest
import uvloop

from headrace.api.main import serve
from headrace.engine import keys
from headrace.engine.engine import Engine
from headrace.settings import Settings

API_KEY = "hr_dev_only-for-tests-0123456789"


@dataclass
class RunningServer:
    """A server that answers at ``url``; ``key`` is good for environment dev."""

    settings: Settings
    url: str = ""
    key: str = API_KEY
    loop: asyncio.AbstractEventLoop | None = None
    stop: asyncio.Event | None = None
    error: BaseException | None = None
    thread: threading.Thread | None = None
    ready: threading.Event = field(default_factory=threading.Event)

    def begin_stop(self) -> None:
        """Tells it to drain, as SIGTERM does."""
        assert self.loop is not None
        assert self.stop is not None
        self.loop.call_soon_threadsafe(self.stop.set)


@contextmanager
def running_server(settings: Settings, prepare: Callable[[Engine], None] = lambda _: None) -> Generator[RunningServer]:
    """Serves with these settings on a free port until the block ends; ``prepare`` may change its engine before."""
    running = RunningServer(replace(settings, port=0, api_key=API_KEY, log_level="error"))

    async def live() -> None:
        running.loop = asyncio.get_running_loop()
        running.stop = asyncio.Event()

        def announce(url: str) -> None:
            running.url = url
            running.ready.set()

        engine = await Engine.open(running.settings, listen=True)
        try:
            prepare(engine)
            await keys.ensure_key(engine, "dev", API_KEY)
            await serve(engine, stop=running.stop, announce=announce)
        finally:
            await engine.close()

    def run() -> None:
        try:
            uvloop.run(live())
        except BaseException as error:  # noqa: BLE001 - raised in the test's own thread
            running.error = error
        finally:
            running.ready.set()

    running.thread = threading.Thread(target=run, name="server")
    running.thread.start()
    try:
        assert running.ready.wait(30)
        if running.error is not None:
            raise running.error
        yield running
    finally:
        if running.thread.is_alive():
            running.begin_stop()
        running.thread.join(30)
        assert not running.thread.is_alive()
    if running.error is not None:
        raise running.error


@pytest.fixture
def server(settings: Settings) -> Generator[RunningServer]:
    """A server on the test's database."""
    with running_server(settings) as running:
        yield running
