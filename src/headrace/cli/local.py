"""A whole headrace on one machine: embedded PostgreSQL, a key, and the server and worker as child processes."""

from __future__ import annotations

import asyncio
import os
import secrets
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import httpx2

from headrace.cli.outcome import UNREACHABLE, CommandError
from headrace.settings import Settings
from headrace.store.embedded import EmbeddedPostgres
from headrace.store.migrate import migrate_database

_START_LIMIT: Final = 30.0
_STOP_LIMIT: Final = 40.0
_FIRST_DELAY: Final = 0.5
_LONGEST_DELAY: Final = 10.0
_STEADY: Final = 10.0


@dataclass
class Child:
    """A headrace command in a process of its own, started again when it dies."""

    name: str
    arguments: Sequence[str]
    environment: dict[str, str]
    process: subprocess.Popen[bytes] | None = None
    _started: float = 0.0
    _again_at: float = 0.0
    _delay: float = _FIRST_DELAY

    def start(self) -> None:
        """Starts it. In a session of its own: Ctrl-C reaches the supervisor alone, which then stops all in order."""
        self.process = subprocess.Popen(
            [sys.executable, "-m", "headrace", *self.arguments], env=self.environment, start_new_session=True
        )
        self._started = time.monotonic()
        self._again_at = 0.0

    def stop(self) -> None:
        """Lets it end its work, and ends it where that takes too long."""
        if self.process is None or self.process.poll() is not None:
            return
        self.process.terminate()
        try:
            self.process.wait(_STOP_LIMIT)
        except subprocess.TimeoutExpired:
            self.kill()

    def kill(self) -> None:
        """SIGKILL."""
        if self.process is not None:
            self.process.kill()
            self.process.wait()

    def look_after(self) -> str | None:
        """Starts it again if it has died, later each time; what to say of it, if anything."""
        if self.process is None or self.process.poll() is None:
            return None
        now = time.monotonic()
        if not self._again_at:
            self._delay = _FIRST_DELAY if now - self._started > _STEADY else min(self._delay * 2, _LONGEST_DELAY)
            self._again_at = now + self._delay
            return f"the {self.name} ended with exit code {self.process.returncode}; it is started again in {self._delay:g} s"
        if now >= self._again_at:
            self.start()
        return None


@dataclass
class LocalHeadrace:
    """An embedded PostgreSQL (or the one that the settings name), migrated, with a key; children are added to it."""

    settings: Settings
    url: str = ""
    key: str = ""
    database_url: str = ""
    postgres: EmbeddedPostgres | None = None
    children: list[Child] = field(default_factory=list[Child])

    def prepare(self) -> None:
        """Starts the database and brings its schema up to date. Raises ConfigurationError."""
        folder = Path(self.settings.data_dir).absolute()
        folder.mkdir(parents=True, exist_ok=True)
        if self.settings.database_url:
            self.database_url = self.settings.database_url
        else:
            self.postgres = EmbeddedPostgres(folder / "postgres")
            self.database_url = self.postgres.start()
        asyncio.run(migrate_database(self.database_url))
        self.key = self.settings.api_key or _keep_key(folder / "dev_key")

    def add_child(self, name: str, *arguments: str) -> Child:
        """Starts a headrace command on this database."""
        child = Child(name, arguments, self.make_environment())
        self.children.append(child)
        child.start()
        return child

    def start_server(self, port: int) -> Child:
        """Starts the API server and waits until it answers. Raises CommandError where it does not."""
        self.url = f"http://{self.settings.host}:{port}"
        child = self.add_child("server", "server", "--port", str(port))
        deadline = time.monotonic() + _START_LIMIT
        while not _answers(self.url):
            if child.process is None or child.process.poll() is not None or time.monotonic() > deadline:
                raise CommandError(f"The server did not start on {self.url}; what it said stands above.", UNREACHABLE)
            time.sleep(0.05)
        return child

    def make_environment(self) -> dict[str, str]:
        """What the children are told."""
        return {
            **os.environ,
            "HEADRACE_DATABASE_URL": self.database_url,
            "HEADRACE_DATA_DIR": str(Path(self.settings.data_dir).absolute()),
            "HEADRACE_HOST": self.settings.host,
            "HEADRACE_API_KEY": self.key,
            "HEADRACE_API_URL": self.url,
        }

    def stop(self) -> None:
        """Stops the children, the last one first, and then the database if it was started here."""
        for child in reversed(self.children):
            child.stop()
        if self.postgres is not None:
            self.postgres.stop()


def _keep_key(path: Path) -> str:
    """The key of this data folder, made at its first use and readable by its owner alone."""
    try:
        return path.read_text(encoding="ascii").strip()
    except FileNotFoundError:
        key = f"hr_dev_{secrets.token_urlsafe(32)}"
        handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(handle, "w", encoding="ascii") as file:
            file.write(key + "\n")
        return key


def _answers(url: str) -> bool:
    try:
        return httpx2.get(f"{url}/readyz", timeout=2).status_code == 200
    except httpx2.HTTPError:
        return False
