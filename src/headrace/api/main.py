"""The server process: binds, says where, serves, sweeps every store beside it, and drains when it is told to stop."""

from __future__ import annotations

import asyncio
import contextlib
import math
import signal
import socket
import threading
from collections.abc import Callable, Generator
from typing import Final

import uvicorn

from headrace.api.app import build_app
from headrace.engine import dev_sessions, keys, sweeps
from headrace.engine.engine import Engine
from headrace.engine.everywhere import do_everywhere
from headrace.errors import ConfigurationError
from headrace.logs import get_logger
from headrace.settings import Settings
from headrace.timeouts import happens_within

log = get_logger("headrace.api")

KEEP_ALIVE: Final = 75
"""Seconds for which an idle connection is kept: longer than clients keep theirs, so that they close first."""

BACKLOG: Final = 2048


async def run_server(
    settings: Settings, *, stop: asyncio.Event | None = None, announce: Callable[[str], None] | None = None
) -> None:
    """Serves until ``stop`` is set; without one, until SIGTERM or SIGINT (the second one ends at once).

    ``announce`` is called with the URL once requests are answered there; without one it is logged. Raises
    ConfigurationError where the address can't be bound or the database can't be used.
    """
    engine = await Engine.open(settings, listen=True)
    beating: asyncio.Task[None] | None = None
    try:
        if settings.api_key:
            await keys.ensure_key(engine, "dev", settings.api_key)
        if settings.dev_session:
            await dev_sessions.keep_session(engine)  # before a worker of it can begin anything
            beating = asyncio.create_task(do_everywhere(engine, dev_sessions.beat_session))
        try:
            await serve(engine, stop=stop, announce=announce)
        finally:
            if beating is not None:
                beating.cancel()
                await asyncio.wait({beating})
    finally:
        await engine.close()


async def serve(
    engine: Engine, *, stop: asyncio.Event | None = None, announce: Callable[[str], None] | None = None
) -> None:
    """Serves an engine that is open already; see ``run_server``."""
    settings = engine.settings
    stopping = stop or asyncio.Event()
    listener = _bind(settings.host, settings.port)
    server = _Server(_configure(engine, stopping), stopping, lambda: (announce or _log_url)(_url(listener)))
    with contextlib.closing(listener), _signals(stopping, server) if stop is None else contextlib.nullcontext():
        sweeping = asyncio.create_task(
            do_everywhere(engine, lambda one: sweeps.run_sweeps(one, stopping), pause=settings.sweep_interval)
        )
        try:
            await server.serve(sockets=[listener])
            await server.answer_cut_requests()
        finally:
            stopping.set()
            sweeping.cancel()
            await asyncio.wait({sweeping})


class _Server(uvicorn.Server):
    """Uvicorn, but signals are its caller's business, and its caller hears when it has started."""

    def __init__(self, config: uvicorn.Config, stopping: asyncio.Event, started: Callable[[], None]) -> None:
        super().__init__(config)
        self._stopping = stopping
        self._tell_started = started

    @contextlib.contextmanager
    def capture_signals(self) -> Generator[None, None, None]:
        yield

    async def main_loop(self) -> None:
        """Waits for the end; wakes once a second, for the clock in the ``Date`` header, and not ten times."""
        ticks = 0
        while not await self.on_tick(ticks):
            ticks += 10  # of a tenth of a second each
            if await happens_within(self._stopping, 1):
                log.info("draining")
                self.should_exit = True

    async def answer_cut_requests(self) -> None:
        """Lets the requests that were still running at the end of the drain say that they were cut."""
        if self.server_state.tasks:
            await asyncio.wait(self.server_state.tasks, timeout=1)

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        if self.started:
            self._tell_started()


def _configure(engine: Engine, stopping: asyncio.Event) -> uvicorn.Config:
    return uvicorn.Config(
        build_app(engine, stopping),
        http="httptools",
        ws="none",
        lifespan="off",
        log_config=None,
        log_level="warning",
        access_log=False,
        server_header=False,
        backlog=BACKLOG,
        timeout_keep_alive=KEEP_ALIVE,
        timeout_graceful_shutdown=math.ceil(engine.settings.drain_timeout),
    )


def _bind(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return socket.create_server((host, port), family=family, backlog=BACKLOG)
    except OSError as error:
        raise ConfigurationError(
            f"The server can't listen on {host} port {port}: {error}. Set HEADRACE_HOST and HEADRACE_PORT to an "
            "address of this machine and a port that nothing else uses; port 0 takes a free one."
        ) from error


def _url(listener: socket.socket) -> str:
    host, port = listener.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def _log_url(url: str) -> None:
    log.info("serving", url=url)


@contextlib.contextmanager
def _signals(stopping: asyncio.Event, server: _Server) -> Generator[None, None, None]:
    """SIGTERM and SIGINT drain; the second of them ends what is left."""
    if threading.current_thread() is not threading.main_thread():
        yield  # signals reach the main thread only
        return

    def end() -> None:
        if stopping.is_set():
            server.force_exit = True
        stopping.set()

    loop = asyncio.get_running_loop()
    caught = (signal.SIGTERM, signal.SIGINT)
    for number in caught:
        loop.add_signal_handler(number, end)
    try:
        yield
    finally:
        for number in caught:
            loop.remove_signal_handler(number)
