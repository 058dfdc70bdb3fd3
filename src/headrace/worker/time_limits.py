"""How long an attempt may take: by the clock on the wall, or by the CPU that its thread or process has used."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final

Clock = Callable[[], float | None]
"""Seconds on some clock, or None where it does not run yet."""

_FIRST_LOOK: Final = 0.05
_SHORTEST_WAIT: Final = 0.01


class TimeLimit:
    """Calls ``on_over`` once when ``seconds`` are used up on ``clock``, of which ``used`` were before.

    ``speed`` is how fast the clock can run at most, in its seconds a second.
    """

    def __init__(self, seconds: float, clock: Clock, on_over: Callable[[], None], *, used: float, speed: float) -> None:
        self.seconds = seconds
        self._clock = clock
        self._on_over = on_over
        self._before = used
        self._speed = speed
        self._began: float | None = None
        self._timer: asyncio.TimerHandle | None = None

    @property
    def used(self) -> float:
        """Seconds that are used up."""
        now = self._clock()
        if now is None:
            return self._before
        if self._began is None:
            self._began = now
        return self._before + now - self._began

    def start(self) -> None:
        """Begins to look."""
        left = self.seconds - self.used
        if left <= 0:
            self._timer = None
            self._on_over()
            return
        wait = _FIRST_LOOK if self._began is None else max(left / self._speed, _SHORTEST_WAIT)
        self._timer = asyncio.get_running_loop().call_later(wait, self.start)

    def stop(self) -> None:
        """Looks no more."""
        if self._timer is not None:
            self._timer.cancel()


def has_cpu_clocks() -> bool:
    """Whether the CPU of threads and processes can be read here."""
    return hasattr(time, "pthread_getcpuclockid") and Path("/proc/self/stat").exists()


def thread_cpu(ident: int) -> float:
    """Seconds of CPU that a living thread of this process has used."""
    return time.clock_gettime(time.pthread_getcpuclockid(ident))


def process_cpu(pid: int) -> float | None:
    """Seconds of CPU that a process has used, and those that it started and that have ended; None where there is none."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()
    except OSError:
        return None
    return sum(map(int, fields[11:15])) / os.sysconf("SC_CLK_TCK")
