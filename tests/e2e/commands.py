"""The command line as a user runs it: processes, their output and their exit codes."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from tests.processes import wait_until

TIMEOUT = 60.0


def clean_environment(**given: str) -> dict[str, str]:
    """This process's environment without what it says of headrace, and with ``given``: ``api_url`` is HEADRACE_API_URL."""
    kept = {
        name: value for name, value in os.environ.items() if not name.startswith("HEADRACE_") and name != "DATABASE_URL"
    }
    return kept | {f"HEADRACE_{name.upper()}": value for name, value in given.items()}


def run_headrace(
    *arguments: str, env: Mapping[str, str], stdin: str = "", cwd: Path | None = None, timeout: float = TIMEOUT
) -> subprocess.CompletedProcess[str]:
    """Runs a command to its end."""
    return subprocess.run(
        [sys.executable, "-m", "headrace", *arguments],
        env=dict(env),
        input=stdin,
        cwd=cwd,
        capture_output=True,
        text=True,
        timeout=timeout,
        check=False,
    )


class Running:
    """A command that goes on; what it prints is collected as it comes."""

    def __init__(self, arguments: Sequence[str], env: Mapping[str, str], cwd: Path | None) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-u", "-m", "headrace", *arguments],
            env=dict(env),
            cwd=cwd,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        self.stdout: list[str] = []
        self.stderr: list[str] = []
        self._readers = [
            threading.Thread(target=self._read, args=(self.process.stdout, self.stdout)),
            threading.Thread(target=self._read, args=(self.process.stderr, self.stderr)),
        ]
        for reader in self._readers:
            reader.start()

    @staticmethod
    def _read(stream, lines: list[str]) -> None:
        lines.extend(line.rstrip("\n") for line in stream)  # one by one, as they come

    def await_line(self, text: str, *, times: int = 1, seconds: float = TIMEOUT) -> str:
        """The line (of either stream) that holds ``text``, for the n-th time."""

        def find() -> list[str]:
            return [line for line in [*self.stdout, *self.stderr] if text in line]

        def is_there() -> bool:
            assert self.process.poll() is None or len(find()) >= times, f"it ended: {self.stdout} {self.stderr}"
            return len(find()) >= times

        wait_until(is_there, f"{text!r} in {self.stdout} {self.stderr}", seconds)
        return find()[times - 1]

    def end(self, number: int = signal.SIGINT, *, seconds: float = TIMEOUT) -> int:
        """Sends a signal and waits for the end; the exit code."""
        self.process.send_signal(number)
        return self.wait(seconds)

    def wait(self, seconds: float = TIMEOUT) -> int:
        """Waits for the end; the exit code."""
        code = self.process.wait(seconds)
        for reader in self._readers:
            reader.join(seconds)
        for stream in (self.process.stdout, self.process.stderr):
            assert stream is not None
            stream.close()
        return code


@contextmanager
def running_headrace(*arguments: str, env: Mapping[str, str], cwd: Path | None = None) -> Generator[Running]:
    """A command that is told to end when the block does, if it has not ended."""
    running = Running(arguments, env, cwd)
    try:
        yield running
    finally:
        if running.process.poll() is None:
            running.process.terminate()
            try:
                running.process.wait(TIMEOUT)
            except subprocess.TimeoutExpired:
                running.process.kill()
        running.wait()
