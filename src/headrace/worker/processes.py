"""Runs in processes of their own: started as needed, kept for a while, never shared by two runs at a time.

A child that dies takes the run that it executes with it and nothing else. Cancelling ``execute`` ends the child, and
with it whatever it started.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
import sys
from collections.abc import Callable
from contextvars import Context
from typing import Any, Final

from headrace.engine.outcomes import Packet
from headrace.hooks import list_places
from headrace.protocol.statuses import RunStatus
from headrace.settings import Settings
from headrace.tasks import StopReason
from headrace.worker.child import (
    LENGTH_BYTES,
    Ask,
    Done,
    Loaded,
    Message,
    Order,
    Setup,
    Started,
    Stop,
    decode_message,
    describe_told,
    frame_message,
)
from headrace.worker.conductor import Conductor
from headrace.worker.retries import Failure, internal_error

RUNS_PER_CHILD: Final = 100
"""A child is replaced after so many runs, so that what leaks does not add up."""

IDLE_SECONDS: Final = 20.0
GRACE_SECONDS: Final = 2.0
_TRIES: Final = 3

_CRASH_CODES: Final = {
    signal.SIGKILL: ("TASK_PROCESS_MAYBE_OOM_KILLED", "; memory that ran out is the usual cause"),
    signal.SIGSEGV: ("TASK_PROCESS_SIGSEGV", ""),
    signal.SIGTERM: ("TASK_PROCESS_SIGTERM", ""),
}


class ProcessPool:
    """The children of one worker."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._idle: list[Child] = []
        self._living: set[Child] = set()
        self._ending: set[asyncio.Task[None]] = set()

    async def execute(
        self,
        order: Order,
        conduct: Callable[[], Conductor],
        attach: Callable[[Child], object] | None = None,
    ) -> Packet | Failure:
        """How the run ended. ``conduct`` gives who does what its code asks for durably; ``attach`` is called with the process
        that executes it. Raises OSError where no process can be started.
        """
        for _ in range(_TRIES):
            child = self._take_idle() or await self._start_child()
            if attach is not None:
                attach(child)
            try:
                return await self._execute_in(child, order, conduct)
            except _NotStartedError:  # the child died between two runs: this one was not touched
                continue
        return Failure(internal_error("TASK_PROCESS_NOT_STARTED", "The run's process died before the run began."))

    async def close(self) -> None:
        """Ends every child."""
        for child in list(self._living):
            self._end(child)
        if self._ending:
            await asyncio.wait(self._ending)

    async def _execute_in(self, child: Child, order: Order, conduct: Callable[[], Conductor]) -> Packet | Failure:
        keep = False
        try:
            done = await child.execute(order, conduct)
            keep = child.runs < RUNS_PER_CHILD and not child.stopped
        except _DiedError as died:
            return _describe_crash(died.code)
        finally:
            if keep:
                self._keep(child)
            else:
                self._end(child)
        return done.failure or done.output or Packet(None)

    async def _start_child(self) -> Child:
        settings = self._settings
        child = await Child.start(Setup(sys.path, settings.log_format, settings.log_level, list_places()))
        self._living.add(child)
        return child

    def _take_idle(self) -> Child | None:
        while self._idle:
            child = self._idle.pop()
            if child.timer is not None:
                child.timer.cancel()
            if child.alive:
                return child
            self._end(child)
        return None

    def _keep(self, child: Child) -> None:
        self._idle.append(child)
        child.timer = asyncio.get_running_loop().call_later(IDLE_SECONDS, self._end, child)

    def _end(self, child: Child) -> None:
        self._living.discard(child)
        if child in self._idle:
            self._idle.remove(child)
        # a context of its own: it is no task of the run's, to be ended with those
        task = asyncio.get_running_loop().create_task(child.end(), context=Context())
        self._ending.add(task)
        task.add_done_callback(self._ending.discard)


class _NotStartedError(Exception):
    """The child died before it took the order."""


class _DiedError(Exception):
    """The child died while it executed the order. ``code`` is its exit code, negative for a signal."""

    def __init__(self, code: int) -> None:
        super().__init__(code)
        self.code = code


class Child:
    """One child process and our end of the socket to it."""

    def __init__(
        self, process: asyncio.subprocess.Process, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        self._process = process
        self._reader = reader
        self._writer = writer
        self.runs = 0
        self.stopped = False
        self.loaded = False  # whether the code that it executes has begun
        self.timer: asyncio.TimerHandle | None = None

    @classmethod
    async def start(cls, setup: Setup) -> Child:
        """A new process."""
        ours, theirs = socket.socketpair()
        try:
            # a session of its own: Ctrl-C in the terminal is the worker's to mind, and ending it ends all that it started
            process = await asyncio.create_subprocess_exec(
                *(sys.executable, "-P", "-m", "headrace.worker.child", str(theirs.fileno())),
                stdin=asyncio.subprocess.DEVNULL,
                pass_fds=[theirs.fileno()],
                start_new_session=True,
            )
            reader, writer = await asyncio.open_connection(sock=ours)
        except BaseException:
            ours.close()  # a child that was started already sees this and goes
            raise
        finally:
            theirs.close()
        child = cls(process, reader, writer)
        child._send(setup)
        return child

    @property
    def pid(self) -> int:
        """The number of the process."""
        return self._process.pid

    def stop(self, reason: StopReason) -> None:
        """Tells the run's code to end: it gets a SIGTERM, cleans up and answers. The process is not used again."""
        if not self.stopped and not self._writer.is_closing():
            self.stopped = True
            self._send(Stop(reason))

    @property
    def alive(self) -> bool:
        """Whether it can take an order."""
        return self._process.returncode is None and not self._reader.at_eof()

    async def execute(self, order: Order, conduct: Callable[[], Conductor]) -> Done:
        """How the run ended, as the process says. Raises _NotStartedError, _DiedError."""
        started = self.loaded = False
        self.runs += 1
        try:
            self._send(order)
            while True:
                match await self._receive():
                    case Started():
                        started = True
                    case Loaded():
                        self.loaded = True
                    case Done() as done:
                        return done
                    case Ask(number, op):
                        self._answer(number, conduct().perform(op))
                    case _:
                        raise ValueError("a child sends that it started and that it is done")
        except (OSError, EOFError) as error:
            code = await self._process.wait()
            raise (_DiedError(code) if started else _NotStartedError) from error

    def _answer(self, number: int, told: asyncio.Future[Any]) -> None:
        def send(future: asyncio.Future[Any]) -> None:
            if not self._writer.is_closing() and not self.stopped:  # it hears of that by the signal, and once is enough
                self._send(describe_told(number, future))

        told.add_done_callback(send)

    async def end(self) -> None:
        """Ends the process and what it started: asked first, killed where it does not go or was asked before."""
        self._writer.close()
        if self._process.returncode is None and not self.stopped:
            self._signal(signal.SIGTERM)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(GRACE_SECONDS):
                    await self._process.wait()
        if self._process.returncode is None:
            self._signal(signal.SIGKILL)
            await self._process.wait()

    def _send(self, message: Message) -> None:
        self._writer.write(frame_message(message))

    async def _receive(self) -> Message:
        head = await self._reader.readexactly(LENGTH_BYTES)
        return decode_message(await self._reader.readexactly(int.from_bytes(head, "big")))

    def _signal(self, number: signal.Signals) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, number)


def _describe_crash(code: int) -> Failure:
    if code < 0:
        number = signal.Signals(-code)
        name, hint = _CRASH_CODES.get(number, ("TASK_PROCESS_EXITED_WITH_NON_ZERO_CODE", ""))
        message = f"The run's process was killed by {number.name}{hint}."
    else:
        name = "TASK_PROCESS_EXITED_WITH_NON_ZERO_CODE"
        message = f"The run's process ended by itself with exit code {code}, without a result."
    return Failure(internal_error(name, message), RunStatus.CRASHED)
