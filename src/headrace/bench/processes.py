"""The processes that are measured: a real server and a real worker, each on its own, as users start them."""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import sys
import time
from collections.abc import Generator, Mapping
from pathlib import Path
from typing import Final

import httpx2

from headrace.errors import ConfigurationError

API_KEY: Final = "hr_dev_of-the-benchmark-and-nobody-else"
_START_LIMIT: Final = 30.0


@contextlib.contextmanager
def running_server(database_url: str, extra: Mapping[str, str] | None = None) -> Generator[tuple[str, int]]:
    """A server's URL and process id."""
    port = _find_port()
    with _running(["server", "--port", str(port)], database_url, extra) as process:
        url = f"http://127.0.0.1:{port}"
        _await_health(url, process)
        yield url, process.pid


@contextlib.contextmanager
def running_worker(
    database_url: str, concurrency: int, extra: Mapping[str, str] | None = None
) -> Generator[subprocess.Popen[bytes]]:
    """A worker that executes the benchmark's tasks."""
    tasks = str(Path(__file__).with_name("noop_tasks.py"))
    with _running(["worker", tasks, "--concurrency", str(concurrency)], database_url, extra) as process:
        yield process


def read_rss(pid: int) -> float:
    """Resident memory of a process in MiB, from /proc."""
    for line in Path(f"/proc/{pid}/status").read_text(encoding="ascii").splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) / 1024
    raise ProcessLookupError(pid)


@contextlib.contextmanager
def _running(
    arguments: list[str], database_url: str, extra: Mapping[str, str] | None
) -> Generator[subprocess.Popen[bytes]]:
    environment = {
        **os.environ,
        "HEADRACE_DATABASE_URL": database_url,
        "HEADRACE_API_KEY": API_KEY,
        "HEADRACE_LOG_LEVEL": "error",
        **(extra or {}),
    }
    process = subprocess.Popen(
        [sys.executable, "-m", "headrace", *arguments], env=environment, stdout=subprocess.DEVNULL
    )
    try:
        yield process
    finally:
        process.terminate()
        try:
            process.wait(15)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _find_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _await_health(url: str, process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + _START_LIMIT
    while time.monotonic() < deadline and process.poll() is None:
        with contextlib.suppress(httpx2.HTTPError):
            if httpx2.get(f"{url}/readyz", timeout=1).status_code == 200:
                return
        time.sleep(0.05)
    raise ConfigurationError(f"The server that was to be measured did not start within {_START_LIMIT:g} s.")
