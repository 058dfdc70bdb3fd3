"""Processes of tests without the half second that Python needs to import headrace: forked from one that has done so.

What they run is the same from the first line of their module on. One nursery serves a whole session, and ends with it.
"""

from __future__ import annotations

import asyncio
import atexit
import contextlib
import functools
import importlib
import json
import os
import runpy
import select
import signal
import socket
import subprocess
import sys
import threading
import weakref
from collections.abc import Mapping
from pathlib import Path
from typing import IO

ROOT = Path(__file__).parent.parent


class Forked:
    """A process as subprocess.Popen shows one."""

    def __init__(self, pid: int, told: int, stdout: IO[bytes] | None) -> None:
        self.pid = pid
        self.stdout = stdout
        self.returncode: int | None = None
        self._told = told
        self._lock = threading.Lock()
        weakref.finalize(self, os.close, told)

    def poll(self) -> int | None:
        """Its exit code, minus the number of the signal that ended it; None while it runs."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.wait(0)
        return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        """Waits for its end. Raises subprocess.TimeoutExpired."""
        if self.returncode is None:
            # any number of threads may wait: once it has been read, the pipe is at its end, which wakes the others as well
            if not select.select([self._told], [], [], timeout)[0]:
                raise subprocess.TimeoutExpired(f"process {self.pid}", timeout or 0)
            with self._lock:
                if self.returncode is None:
                    told = os.read(self._told, 100)
                    assert told, "the nursery ended"
                    self.returncode = int(told)
        return self.returncode

    def send_signal(self, number: int) -> None:
        if self.poll() is None:
            # between the two its number may be free for a moment, but nobody gets it again so soon
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, number)

    def terminate(self) -> None:
        self.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)


def fork(
    module: str,
    *arguments: str,
    env: Mapping[str, str] | None = None,
    stdout: int | None = None,
    stderr: int | None = None,
) -> Forked:
    """``python -m module arguments``. ``stdout`` is a file's number, subprocess.PIPE or subprocess.DEVNULL."""
    with contextlib.ExitStack() as opened:
        null = os.open(os.devnull, os.O_RDWR)
        opened.callback(os.close, null)
        reading: IO[bytes] | None = None
        if stdout == subprocess.PIPE:
            readable, writable = os.pipe()
            opened.callback(os.close, writable)
            reading, stdout = os.fdopen(readable, "rb"), writable
        elif stdout == subprocess.DEVNULL:
            stdout = null
        told, telling = os.pipe()
        opened.callback(os.close, telling)
        files = [null, 1 if stdout is None else stdout, 2 if stderr is None else stderr, telling]
        asked = json.dumps([module, list(arguments), dict(os.environ if env is None else env), str(Path.cwd())])
        return Forked(_Nursery.of_session().ask(asked, files), told, reading)


async def run_forked(module: str, *arguments: str) -> int:
    """The exit code of ``python -m module arguments``, once it has ended."""
    return await asyncio.to_thread(fork(module, *arguments).wait)


class _Nursery:
    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._socket, theirs = socket.socketpair()
        with theirs:
            command = [sys.executable, "-m", "tests.nursery", str(theirs.fileno())]
            self._process = subprocess.Popen(command, cwd=ROOT, pass_fds=[theirs.fileno()], stdin=subprocess.DEVNULL)
        atexit.register(self._end)

    @staticmethod
    @functools.cache
    def of_session() -> _Nursery:
        return _Nursery()

    def _end(self) -> None:
        self._socket.close()
        self._process.wait()

    def ask(self, asked: str, files: list[int]) -> int:
        """The id of the process that was made."""
        data = asked.encode()
        with self._lock:
            socket.send_fds(self._socket, [len(data).to_bytes(4)], files)
            self._socket.sendall(data)
            return int.from_bytes(_receive(self._socket, 4))


def _receive(connection: socket.socket, size: int) -> bytes:
    data = b""
    while len(data) < size:
        piece = connection.recv(size - len(data))
        if not piece:
            raise EOFError
        data += piece
    return data


def _wake(_number: int, _frame: object) -> None:
    """The signal's number is in the socket, and the loop wakes."""


def _serve(connection: socket.socket) -> tuple[str, list[str]]:
    """Forks until whoever asks is gone. Returns in the forked processes only: with the module, and what it is given."""
    for module in ("headrace.api.main", "headrace.cli.app", "headrace.worker.main"):
        importlib.import_module(module)
    running: dict[int, int] = {}
    waking, wake = socket.socketpair()
    for end in (waking, wake):
        end.setblocking(False)
    signal.set_wakeup_fd(wake.fileno(), warn_on_full_buffer=False)
    signal.signal(signal.SIGCHLD, _wake)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    while True:
        ready, _, _ = select.select([connection, waking], [], [])
        if waking in ready:
            waking.recv(1000)
            for pid, telling in list(running.items()):
                ended, status = os.waitpid(pid, os.WNOHANG)
                if ended:
                    del running[pid]
                    os.write(telling, str(os.waitstatus_to_exitcode(status)).encode())
                    os.close(telling)
        if connection not in ready:
            continue
        size, files, _, _ = socket.recv_fds(connection, 4, 4)
        if not size:
            raise SystemExit(0)
        module, arguments, environment, folder = json.loads(_receive(connection, int.from_bytes(size)))
        pid = os.fork()
        if not pid:
            signal.set_wakeup_fd(-1)
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            signal.signal(signal.SIGINT, signal.default_int_handler)
            for number in range(3):
                os.dup2(files[number], number)
            for file in (*files, *running.values()):
                os.close(file)
            for end in (connection, waking, wake):
                end.close()
            os.environ.clear()
            os.environ.update(environment)
            os.chdir(folder)
            return module, arguments
        running[pid] = files.pop()
        for file in files:
            os.close(file)
        connection.sendall(pid.to_bytes(4))


if __name__ == "__main__":
    name, given = _serve(socket.socket(fileno=int(sys.argv[1])))
    sys.argv[1:] = given
    runpy.run_module(name, run_name="__main__", alter_sys=True)
