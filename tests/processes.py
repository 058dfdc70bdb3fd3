"""Real processes for tests that kill them: a server on a port of its own, started as a user would start it."""

from __future__ import annotations

import os
import secrets
import signal
import socket
import ssl
import subprocess
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field

import httpx2

from tests.nursery import Forked, fork

API_KEY = "hr_dev_only-for-tests-0123456789"
HEADERS = {"authorization": f"Bearer {API_KEY}"}

PLAIN = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
"""For ``verify`` of a client that speaks no TLS: without it each one reads all certificates, 25 ms of computing."""


def find_port() -> int:
    """A port that nothing uses, and that no connection takes until it is bound: those get theirs from 32768 up."""
    while True:
        with socket.socket() as probe, suppress(OSError):
            probe.bind(("127.0.0.1", 20000 + secrets.randbelow(12768)))
            return int(probe.getsockname()[1])


def make_environment(database_url: str, data_dir: str, extra: Mapping[str, str] | None = None) -> dict[str, str]:
    """What a headrace process of a test is told: short beats, one key."""
    return {
        **{name: value for name, value in os.environ.items() if not name.startswith("HEADRACE_")},
        "HEADRACE_DATABASE_URL": database_url,
        "HEADRACE_DATA_DIR": data_dir,
        "HEADRACE_API_KEY": API_KEY,
        "HEADRACE_LEASE": "1.5",
        "HEADRACE_HEARTBEAT": "0.3",
        "HEADRACE_POLL_INTERVAL": "0.1",
        "HEADRACE_SWEEP_INTERVAL": "0.1",
        "HEADRACE_LOG_LEVEL": "error",
        **(extra or {}),
    }


@dataclass
class ServerProcess:
    """``headrace server`` in a process of its own; it can be killed and started again on the same port."""

    database_url: str
    data_dir: str
    extra: Mapping[str, str] = field(default_factory=dict[str, str])
    port: int = field(default_factory=find_port)
    process: Forked | None = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def pid(self) -> int:
        assert self.process is not None
        return self.process.pid

    def start(self) -> None:
        environment = make_environment(self.database_url, self.data_dir, self.extra)
        self.process = fork("headrace", "server", "--port", str(self.port), env=environment, stdout=subprocess.DEVNULL)
        wait_until(self.is_ready, "the server is ready")

    def is_ready(self) -> bool:
        assert self.process is not None
        assert self.process.poll() is None, "the server ended"
        try:
            socket.create_connection(("127.0.0.1", self.port)).close()  # cheaper to be refused than a request is
            return httpx2.get(f"{self.url}/readyz", timeout=2, verify=PLAIN).status_code == 200
        except (OSError, httpx2.HTTPError):
            return False

    def kill(self) -> None:
        """SIGKILL: no drain, no answer."""
        assert self.process is not None
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()

    def stop(self) -> None:
        if self.process is not None and self.process.poll() is None:
            self.process.terminate()
            try:
                self.process.wait(15)
            except subprocess.TimeoutExpired:
                self.kill()


def wait_until(condition, what: str, seconds: float = 60.0) -> None:  # pyright: ignore
    """Waits for a condition, looking often; fails in words where it does not come true."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"waited {seconds:g} s for: {what}"
        time.sleep(0.02)
