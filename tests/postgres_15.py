"""A private PostgreSQL 15, of Debian's package: the oldest that headrace runs on, beside the newest that the wheel brings.

``make test`` installs it. Where it lies elsewhere, HEADRACE_TEST_POSTGRES_15 names the folder of its programs.
"""

from __future__ import annotations

import os
import pwd
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Generator, Iterable, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

import psutil
import pytest

from tests.processes import wait_until

PROGRAMS: Final = Path(os.environ.get("HEADRACE_TEST_POSTGRES_15") or "/usr/lib/postgresql/15/bin")
USER: Final = "postgres"
"""Who runs it where the tests run as root, which PostgreSQL refuses to run as: Debian's package makes this user."""

_SETTINGS: Final = {
    "listen_addresses": "",
    # nothing here has to outlive the machine; what was committed outlives a kill
    "fsync": "off",
    "full_page_writes": "off",
    "synchronous_commit": "on",
    # as in the embedded one: tests of speed and of plans see the same
    "autovacuum_naptime": "10s",
    "jit": "off",
    "max_connections": "100",
    "max_wal_size": "512MB",
    "shared_buffers": "256MB",
    "timezone": "UTC",
}


class OldPostgres:
    """A PostgreSQL 15 in a folder that is its own, on a unix socket in there. It ends when this process does, however that ends."""

    def __init__(self, folder: Path) -> None:
        self.url = f"postgresql://postgres@/postgres?host={folder}"
        self.folder = folder
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int:
        """The process id of its postmaster while it runs."""
        assert self._process is not None
        return self._process.pid

    def start(self) -> str:
        """Starts it, the first time after making its data folder, and returns its URL once it answers."""
        assert (PROGRAMS / "postgres").exists(), (
            f"PostgreSQL 15 is not in {PROGRAMS}. `make test` installs Debian's package postgresql-15; where the system has "
            "none, set HEADRACE_TEST_POSTGRES_15 to the folder of its programs."
        )
        data = self.folder / "data"
        if not data.exists():
            if _become():
                shutil.chown(self.folder, USER, USER)
            made = self._run(
                "initdb", "-U", "postgres", "--auth=trust", "--encoding=UTF8", "--no-sync", "-D", str(data)
            )
            assert made.returncode == 0, made.stderr
        place = ["-D", str(data), "-k", str(self.folder)]
        options = [f"--{name}={value}" for name, value in _SETTINGS.items()]
        log = (self.folder / "log").open("ab")
        # Its own session: a Ctrl-C on the tests is not meant for it, and its end comes after them.
        self._process = subprocess.Popen(
            [*_become(), "setpriv", "--pdeathsig", "QUIT", str(PROGRAMS / "postgres"), *place, *options],
            cwd=self.folder,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
        log.close()
        wait_until(self._answers, "PostgreSQL 15 answers", 60)
        return self.url

    def stop(self) -> None:
        """Ends it at once, and waits until it has. Nothing happens where it does not run."""
        if self._process is not None:
            self._process.send_signal(signal.SIGQUIT)
            self._process.wait()
            self._process = None

    def kill(self) -> None:
        """Kills it with all its processes; ``start`` finds what was committed."""
        killed = self.freeze()
        _send(killed, signal.SIGKILL)
        assert self._process is not None
        self._process.wait()
        self._process = None
        psutil.wait_procs(killed, 30)

    def freeze(self) -> list[psutil.Process]:
        """Stops all its processes where they are: connections stay open, and nobody answers. ``thaw`` undoes it."""
        postmaster = psutil.Process(self.pid)
        postmaster.suspend()  # first, so that it starts no more of them
        children = postmaster.children(recursive=True)
        _send(children, signal.SIGSTOP)
        return [postmaster, *children]

    def thaw(self) -> None:
        """Lets what ``freeze`` stopped go on."""
        postmaster = psutil.Process(self.pid)
        _send([*postmaster.children(recursive=True), postmaster], signal.SIGCONT)

    def _answers(self) -> bool:
        assert self._process is not None
        assert self._process.poll() is None, (self.folder / "log").read_text(encoding="utf-8")
        return self._run("pg_isready", "-q", "-h", str(self.folder), "-U", "postgres").returncode == 0

    def _run(self, program: str, *arguments: str) -> subprocess.CompletedProcess[str]:
        command = [*_become(), str(PROGRAMS / program), *arguments]
        return subprocess.run(command, cwd=self.folder, capture_output=True, text=True, check=False)


def _send(processes: Iterable[psutil.Process], number: signal.Signals) -> None:
    for process in processes:
        with suppress(psutil.NoSuchProcess):
            process.send_signal(number)


def _become() -> Sequence[str]:
    """What to put before a command, so that it runs as a user who may run PostgreSQL."""
    if os.geteuid() != 0:
        return ()
    user = pwd.getpwnam(USER)
    return ("setpriv", f"--reuid={user.pw_uid}", f"--regid={user.pw_gid}", "--clear-groups")


@contextmanager
def running_old_postgres() -> Generator[OldPostgres]:
    """A PostgreSQL 15 until the block ends."""
    # a short path: it holds the socket
    with tempfile.TemporaryDirectory(prefix="hr-15-", ignore_cleanup_errors=True) as folder:
        server = OldPostgres(Path(folder))
        try:
            server.start()
            yield server
        finally:
            server.stop()


@pytest.fixture(scope="session")
def old_postgres() -> Generator[str]:
    """The URL of a private PostgreSQL 15, in which databases may be made."""
    with running_old_postgres() as server:
        yield server.url
