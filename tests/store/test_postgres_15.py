"""The tests' PostgreSQL 15: what the tests that use it rely on, and that it can't be left behind."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys

import asyncpg
import psutil
import pytest

from headrace.store.migrate import find_missing_migrations, list_migrations, migrate_database
from tests.conftest import execute_sql, with_database
from tests.postgres_15 import running_old_postgres
from tests.processes import wait_until

START = """
import sys, time
from tests.postgres_15 import running_old_postgres
with running_old_postgres() as server:
    print(server.pid, flush=True)
    time.sleep(600)
"""


def test_every_migration_can_be_applied_to_it(old_postgres: str) -> None:
    assert (
        execute_sql(old_postgres, "SELECT current_setting('server_version_num')::integer / 10000 AS major")[0][0] == 15
    )
    execute_sql(old_postgres, "CREATE DATABASE migrated")
    url = with_database(old_postgres, "migrated")
    assert len(asyncio.run(migrate_database(url))) == len(list_migrations())
    assert asyncio.run(find_missing_migrations(url)) == []


def test_it_is_killed_frozen_and_started_again() -> None:
    with running_old_postgres() as server:
        execute_sql(server.url, "CREATE TABLE kept AS SELECT generate_series(1, 1000) AS n")
        server.kill()
        with pytest.raises(OSError, match=r"No such file|refused"):
            execute_sql(server.url, "SELECT 1")
        server.start()
        assert execute_sql(server.url, "SELECT count(*) FROM kept")[0][0] == 1000
        server.freeze()
        with pytest.raises(TimeoutError):
            asyncio.run(asyncpg.connect(server.url, timeout=0.2))
        server.thaw()
        assert execute_sql(server.url, "SELECT count(*) FROM kept")[0][0] == 1000


def test_it_ends_when_the_tests_are_killed() -> None:
    session = subprocess.Popen([sys.executable, "-c", START], stdout=subprocess.PIPE, text=True)
    assert session.stdout is not None
    pid = int(session.stdout.readline())
    assert is_alive(pid)
    os.kill(session.pid, signal.SIGKILL)
    session.wait()
    session.stdout.close()
    wait_until(lambda: not is_alive(pid), "it is gone")


def is_alive(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False
