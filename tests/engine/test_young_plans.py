"""A new store fills up: a statement that was prepared while its tables were empty does not scan them for longer than a sweep.

PostgreSQL plans for the size that a table has, and keeps the plan until it looks at the table again: by itself a minute later.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Generator
from dataclasses import replace
from typing import Any

import psycopg
import pytest

from headrace.engine.engine import Engine
from headrace.engine.sweeps import run_sweeps
from headrace.settings import Settings
from headrace.store.statements import load_sql
from tests.conftest import execute_sql
from tests.engine.generic_plans import explain_generic
from tests.engine.test_plans import walk
from tests.fleet import add_database, drop_database
from tests.guards import ALLOW_ALL_IDS

pytestmark = pytest.mark.anyio

HOT = {
    "runs": ["claim_runs", "finish_runs", "give_back_runs", "rescue_runs", "wake_runs", "cancel_runs", "watch_runs"],
    "batches": ["finish_runs", "complete_points"],
    "journal": ["mark_seen", "end_due_waits", "forget_points"],
}
FILLED = ("runs", "batches", "journal")
_ID = "lpad(to_hex(n), 32, '0')::uuid"


@pytest.fixture(params=["18", "15"])
def young(
    request: pytest.FixtureRequest, postgres: str, template: str, old_postgres: str, old_template: str
) -> Generator[str]:
    """A fresh database of a version, that nobody looks at by himself."""
    server = (postgres, template) if request.param == "18" else (old_postgres, old_template)
    url = asyncio.run(add_database(*server))
    for table in FILLED:
        execute_sql(url, f"ALTER TABLE headrace.{table} SET (autovacuum_enabled = off)")
    execute_sql(url, ALLOW_ALL_IDS)
    yield url
    asyncio.run(drop_database(url))


def fill(url: str, count: int) -> None:
    """What some seconds of work leave."""
    span = f"FROM generate_series(1, {count}) n"
    lanes = (
        "INSERT INTO headrace.lanes (environment_id, task, queue) SELECT 1, 't', 'q' || n FROM generate_series(1, 3) n"
    )
    runs = (
        "INSERT INTO headrace.runs (environment_id, lane_id, id, status, attempt, ready_at, created_at, updated_at)"
        f" SELECT 1, 1 + n % 3, {_ID}, 'QUEUED', 0, now(), now(), now() {span}"
    )
    batches = (
        "INSERT INTO headrace.batches (environment_id, id, start_policy, run_count, seal_deadline, created_at, updated_at)"
        f" SELECT 1, {_ID}, 'add', 1, now() + interval '1 hour', now(), now() {span}"
    )
    journal = (
        "INSERT INTO headrace.journal (environment_id, run_id, point, kind, pending, made, created_at)"
        f" SELECT 1, {_ID}, 'p', 'time', false, 1, now() {span}"
    )
    for sql in (lanes, runs, batches, journal):
        execute_sql(url, sql)


class Prepared:
    """A connection that has prepared the hot statements, and uses the plan for any arguments."""

    def __init__(self, url: str) -> None:
        self._connection = psycopg.connect(url, autocommit=True)
        self._connection.execute("SET plan_cache_mode = force_generic_plan")
        self._counts: dict[str, int] = {}
        for name in sorted({name for names in HOT.values() for name in names}):
            sql = load_sql(name)
            self._counts[name] = max(map(int, re.findall(r"\$(\d+)", sql)), default=0)
            self._connection.execute(f"PREPARE {name} AS {sql}".encode())

    def scanned(self) -> set[tuple[str, str]]:
        """The statements, and the tables that they scan whole."""
        found: set[tuple[str, str]] = set()
        for table, names in HOT.items():
            for name in names:
                nodes = walk(self._explain(name))
                if any(one["Node Type"] == "Seq Scan" and one["Relation Name"] == table for one in nodes):
                    found.add((name, table))
        return found

    def close(self) -> None:
        self._connection.close()

    def _explain(self, name: str) -> dict[str, Any]:
        given = f"({', '.join(['NULL'] * self._counts[name])})" if self._counts[name] else ""
        row = self._connection.execute(f"EXPLAIN (FORMAT JSON) EXECUTE {name}{given}".encode()).fetchone()
        assert row is not None
        return row[0][0]["Plan"]


async def test_a_plan_of_an_empty_table_is_given_up_when_it_fills(young: str, settings: Settings) -> None:
    engine = await Engine.open(replace(settings, database_url=young))
    prepared = await asyncio.to_thread(Prepared, young)
    stop = asyncio.Event()
    try:
        before = prepared.scanned()
        assert {("finish_runs", "runs"), ("claim_runs", "runs"), ("mark_seen", "journal")} <= before
        [look] = await engine.store.fetch("find_due_work")
        assert not look["grown"], "there is nothing to look at"
        await asyncio.to_thread(fill, young, 20_000)
        assert prepared.scanned() == before, "nobody has looked: the plans stay, or this test shows nothing"
        sweeping = asyncio.create_task(run_sweeps(engine, stop))
        async with asyncio.timeout(10):
            while prepared.scanned():
                await asyncio.sleep(0.05)
        stop.set()
        await sweeping
        [look] = await engine.store.fetch("find_due_work")
        assert not look["grown"], "once a table"
    finally:
        stop.set()
        prepared.close()
        await engine.close()


async def test_tables_of_somebody_else_are_left_alone(database_url: str) -> None:
    """ANALYZE is its owner's to do: it would be tried at every look, and complained of in the server's log."""
    for sql in (ALLOW_ALL_IDS, "ALTER TABLE headrace.runs SET (autovacuum_enabled = off)"):
        await asyncio.to_thread(execute_sql, database_url, sql)
    await asyncio.to_thread(fill, database_url, 20_000)
    look = await asyncio.to_thread(_look_as, database_url, "pg_read_all_data, pg_write_all_data")
    assert not look
    assert await asyncio.to_thread(_look_as, database_url, "")


def _look_as(url: str, roles: str) -> bool:
    """What a look says to the owner, or to a role that may read and write and owns nothing."""
    with psycopg.connect(url) as connection:
        if roles:
            connection.execute(f"CREATE ROLE looker IN ROLE {roles}".encode())
            connection.execute("GRANT EXECUTE ON ALL FUNCTIONS IN SCHEMA headrace TO looker; SET ROLE looker")
        cursor = connection.execute(load_sql("find_due_work").encode())
        row = cursor.fetchone()
        assert row is not None
        assert cursor.description is not None
        found = dict(zip([one.name for one in cursor.description], row, strict=True))
        connection.rollback()
        return bool(found["grown"])


def test_a_look_probes_the_tables_that_it_asks_for(young: str) -> None:
    """And not the size of every table of the database, which took milliseconds."""
    nodes = [one for one in walk(explain_generic(young, "find_due_work")) if one.get("Relation Name") == "pg_class"]
    assert [one.get("Index Name") for one in nodes] == ["pg_class_oid_index"]
