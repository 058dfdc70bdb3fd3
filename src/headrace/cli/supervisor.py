"""Child processes that belong together: started, started again when they die, stopped in order, never left behind."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Final

SUPERVISOR_VARIABLE: Final = "HEADRACE_SUPERVISOR_PID"
"""How a child knows who started it: it ends when that process is gone, however it went."""

STOP_LIMIT: Final = 40.0
"""Seconds that a child has to end its work: a little more than a worker's drain takes at most by default."""

FIRST_DELAY: Final = 0.5
LONGEST_DELAY: Final = 10.0
STEADY: Final = 10.0
"""A child that lived for this long was well, so that its next death is the first of a row again."""

_LOOK: Final = 0.5


class Child:
    """A headrace command in a process of its own."""

    def __init__(self, name: str, arguments: Sequence[str], environment: Mapping[str, str]) -> None:
        self.name = name
        self.arguments = arguments
        self.environment = {**environment, SUPERVISOR_VARIABLE: str(os.getpid())}
        self.process: subprocess.Popen[bytes] | None = None
        self._started = 0.0
        self._again_at: float | None = None
        self._delay = 0.0

    @property
    def is_running(self) -> bool:
        """Whether its process is alive."""
        return self.process is not None and self.process.poll() is None

    def start(self) -> None:
        """Starts it. In a session of its own: Ctrl-C reaches the supervisor alone, which then stops all in order."""
        command = [sys.executable, "-m", "headrace", *self.arguments]
        self.process = subprocess.Popen(command, env=self.environment, start_new_session=True)
        self._started = time.monotonic()
        self._again_at = None

    def restart(self) -> None:
        """Stops it where it runs and starts it at once, however often it died before."""
        self.stop()
        self._delay = 0.0
        self.start()

    def stop(self, limit: float = STOP_LIMIT) -> None:
        """Lets it end its work, and ends it where that takes too long."""
        if self.process is None or not self.is_running:
            return
        self.process.terminate()
        try:
            self.process.wait(limit)
        except subprocess.TimeoutExpired:
            self.kill()

    def kill(self) -> None:
        """SIGKILL: no drain, no word."""
        if self.process is not None:
            self.process.kill()
            self.process.wait()

    def look_after(self, now: float | None = None) -> str | None:
        """Starts it again some time after it died, later each time; what to say of it, if anything."""
        if self.process is None or self.is_running:
            return None
        now = time.monotonic() if now is None else now
        if self._again_at is None:
            lived = now - self._started
            self._delay = FIRST_DELAY if lived > STEADY or not self._delay else min(self._delay * 2, LONGEST_DELAY)
            self._again_at = now + self._delay
            return f"the {self.name} {_describe_end(self.process.returncode)}; starting it again in {self._delay:g} s"
        if now >= self._again_at:
            self.start()
        return None


def stop_all(children: Sequence[Child]) -> None:
    """Stops the last one first. A Ctrl-C meanwhile means now: what is left is killed."""
    try:
        for child in reversed(children):
            child.stop()
    except KeyboardInterrupt:
        for child in children:
            if child.is_running:
                child.kill()
        raise


def heed_terminals() -> None:
    """Makes SIGTERM and the closing of the terminal what Ctrl-C is, so that they too stop everything in order."""
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.default_int_handler)


def end_with_supervisor() -> bool:
    """In a child: has it told to stop once the process that started it is gone, even by SIGKILL. False in others."""
    supervisor = os.environ.pop(SUPERVISOR_VARIABLE, "")
    if not supervisor.isdecimal():
        return False

    def watch() -> None:
        while os.getppid() == int(supervisor):
            time.sleep(_LOOK)
        with suppress(ProcessLookupError):
            os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=watch, name="supervisor-watch", daemon=True).start()
    return True


def _describe_end(code: int) -> str:
    if code >= 0:
        return f"ended with exit code {code}"
    try:
        return f"was killed by {signal.Signals(-code).name}"
    except ValueError:
        return f"was killed by signal {-code}"
