"""A whole headrace on one machine: embedded PostgreSQL, a key, and the server and worker as child processes."""

from __future__ import annotations

import asyncio
import fcntl
import os
import re
import secrets
import socket
import ssl
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import fields, replace
from pathlib import Path
from types import TracebackType
from typing import Final, TextIO

import httpx2

from headrace.cli.migrate import migrate_all
from headrace.cli.outcome import UNREACHABLE, CommandError
from headrace.cli.output import err
from headrace.cli.supervisor import Child, stop_all
from headrace.errors import ConfigurationError
from headrace.settings import PREFIX, Settings
from headrace.store.embedded import EmbeddedPostgres

_START_LIMIT: Final = 60.0
_NO_TLS: Final = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
"""For asking the own server by http, often: a client without it reads all of the system's certificates first."""

_SESSION: Final = re.compile(r"[0-9a-f]{32}")


class LocalHeadrace:
    """An embedded PostgreSQL (or the one that the settings name), migrated, with a key; children are added to it.

    ``with LocalHeadrace(settings) as local:`` starts the database, and stops it and all children at the end. One
    process at a time has a data folder. Raises ConfigurationError where another has it, or the database does not start.
    """

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.children: list[Child] = []
        self._folder = Path(settings.data_dir).expanduser().absolute()
        self._postgres: EmbeddedPostgres | None = None
        self._lock: TextIO | None = None

    def __enter__(self) -> LocalHeadrace:
        try:
            self._start()
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        self.stop()

    @property
    def url(self) -> str:
        """Where the API server answers."""
        return self.settings.api_url

    @property
    def key(self) -> str:
        """A key of environment dev."""
        return self.settings.api_key

    @property
    def database_url(self) -> str:
        """The database."""
        return self.settings.database_url

    def begin_dev_session(self) -> None:
        """Makes the children, from now on, processes of the data folder's session of ``headrace dev``."""
        self.settings = replace(self.settings, dev_session=keep_session_id(self._folder / "dev_session"))

    def add_child(self, name: str, *arguments: str) -> Child:
        """Starts a headrace command with these settings."""
        child = Child(name, arguments, make_environment(self.settings, os.environ))
        self.children.append(child)
        child.start()
        return child

    def start_server(self) -> Child:
        """Starts the API server and waits until it answers. Raises CommandError where it does not."""
        host = f"[{self.settings.host}]" if ":" in self.settings.host else self.settings.host
        port = self.settings.port or find_free_port(self.settings.host)
        self.settings = replace(self.settings, port=port, api_url=f"http://{host}:{port}")
        child = self.add_child("server", "server")
        deadline = time.monotonic() + _START_LIMIT
        while not _answers(self.url):
            if not child.is_running or time.monotonic() > deadline:
                raise CommandError(f"The server did not start on {self.url}; what it said stands above.", UNREACHABLE)
            time.sleep(0.05)
        if not child.is_running:  # then it was somebody else who answered
            raise CommandError(f"Another server already uses {self.url}. Name another port with --port.", UNREACHABLE)
        return child

    def start_worker(self, tasks: str) -> Child:
        """Starts a worker of the tasks in a file or module."""
        return self.add_child("worker", "worker", tasks)

    def stop(self) -> None:
        """Stops the children, the last one first, and then the database if it was started here."""
        try:
            stop_all(self.children)
        finally:
            if self._postgres is not None:
                self._postgres.stop()
                self._postgres = None
            if self._lock is not None:
                self._lock.close()
                self._lock = None

    def _start(self) -> None:
        self._lock = lock_folder(self._folder)
        if not self.settings.database_url:
            self._postgres = EmbeddedPostgres(self._folder / "postgres")
            self.settings = replace(self.settings, database_url=self._postgres.start())
        _, _, faults = asyncio.run(migrate_all(self.settings))
        for name, fault in faults.items():  # those that start decide whether they go on without it
            err.print(f"warning: store {name}: {fault}", markup=False)
        key = self.settings.api_key or keep_key(self._folder / "dev_key")
        self.settings = replace(self.settings, api_key=key, data_dir=str(self._folder))


def make_environment(settings: Settings, environ: Mapping[str, str]) -> dict[str, str]:
    """What a child is told: exactly these settings, whatever else the environment says of headrace."""
    kept = {name: value for name, value in environ.items() if not name.startswith(PREFIX)}
    return kept | {f"{PREFIX}{field.name.upper()}": str(getattr(settings, field.name)) for field in fields(settings)}


def keep_key(path: Path) -> str:
    """The key of a data folder, made at its first use and readable by its owner alone."""
    try:
        if key := path.read_text(encoding="ascii").strip():
            return key
        path.unlink()  # whoever made it was killed before the key was in it
    except FileNotFoundError:
        pass
    key = f"hr_dev_{secrets.token_urlsafe(32)}"
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="ascii") as file:
        file.write(key + "\n")
    return key


def keep_session_id(path: Path) -> str:
    """The id of a data folder's session of ``headrace dev``, made at its first use: the next one of the folder is the same."""
    with suppress(FileNotFoundError):
        if _SESSION.fullmatch(kept := path.read_text(encoding="ascii").strip()):
            return kept
    made = secrets.token_hex(16)
    path.write_text(made + "\n", encoding="ascii")
    return made


def find_free_port(host: str) -> int:
    """A port that nothing uses at this moment."""
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as probe:
        probe.bind((host, 0))
        return int(probe.getsockname()[1])


def lock_folder(folder: Path) -> TextIO:
    """The lock of a data folder, held while the file is open. Raises ConfigurationError where another process holds it."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = (folder / "lock").open("a+", encoding="ascii")
    except OSError as error:
        raise ConfigurationError(f"The data folder {folder} can't be written: {error}. Name another one.") from error
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        lock.seek(0)
        holder = lock.read().strip()
        lock.close()
        raise ConfigurationError(
            f"Process {holder or 'of somebody else'} already runs headrace on {folder}. End it, or name another data "
            "folder with --data or HEADRACE_DATA_DIR."
        ) from None
    lock.truncate(0)
    lock.write(str(os.getpid()))
    lock.flush()
    return lock


def _answers(url: str) -> bool:
    try:
        return httpx2.get(f"{url}/readyz", timeout=2, trust_env=False, verify=_NO_TLS).status_code == 200
    except httpx2.HTTPError:
        return False
