"""What is delayed, or may expire, costs a claim nothing: 1,000,000 runs of each lie before it in the table.

Explained before statistics exist and after ANALYZE, as in test_plans.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Generator
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

import asyncpg
import pytest

from tests.conftest import execute_sql, with_database
from tests.engine.test_plans import assert_no_full_scan, explain, rows_read
from tests.guards import ALLOW_ALL_IDS

pytestmark = pytest.mark.anyio

BACKLOG = 1_000_000
_INDEXES = "SELECT indexname, indexdef FROM pg_indexes WHERE schemaname = 'headrace' AND tablename = 'runs' AND indexname LIKE 'runs\\_%' AND indexname <> 'runs_pkey'"


@pytest.fixture(scope="module")
def seeded(postgres: str, template: str) -> Generator[str]:
    """One lane: 1,000,000 runs that are delayed and have a time to live, a hundred that are ready, one that has expired."""
    execute_sql(postgres, f"CREATE DATABASE plans_of_delays TEMPLATE {template}")
    url = with_database(postgres, "plans_of_delays")
    execute_sql(url, ALLOW_ALL_IDS)
    execute_sql(url, "ALTER TABLE headrace.runs SET (autovacuum_enabled = off)")
    execute_sql(url, "INSERT INTO headrace.lanes (environment_id, task, queue) VALUES (1, 't', 'q')")
    execute_sql(
        url,
        "INSERT INTO headrace.workers (environment_id, name, started_at, lease_until) VALUES (1, 'w', now(), now() + interval '1 h')",
    )
    indexes = execute_sql(url, _INDEXES)  # made afterwards, which is twice as quick
    for index in indexes:
        execute_sql(url, f"DROP INDEX headrace.{index['indexname']}")
    execute_sql(
        url,
        "INSERT INTO headrace.runs (environment_id, lane_id, id, status, ready_at, created_at, updated_at, delayed_until, expires_at)"
        " SELECT 1, 1, lpad(to_hex(n), 32, '0')::uuid, 'QUEUED', d.due, now(), now(), d.due, d.due + interval '10 minutes'"
        " FROM generate_series(1, $1) AS n, LATERAL (SELECT now() + interval '1 hour' + n * interval '1 ms' AS due) AS d",
        BACKLOG,
    )
    execute_sql(
        url,
        "INSERT INTO headrace.runs (environment_id, lane_id, id, status, ready_at, created_at, updated_at, expires_at)"
        " SELECT 1, 1, lpad(to_hex($1 + n), 32, '0')::uuid, 'QUEUED', now(), now(), now(),"
        " now() + CASE n WHEN 1 THEN interval '-1 s' ELSE interval '1 hour' END FROM generate_series(1, 101) AS n",
        BACKLOG,
    )
    for index in indexes:
        execute_sql(url, index["indexdef"])
    yield url
    execute_sql(postgres, "DROP DATABASE plans_of_delays WITH (FORCE)")


@pytest.fixture(params=["no statistics", "analyzed"])
async def connection(request: pytest.FixtureRequest, seeded: str) -> AsyncGenerator[asyncpg.Connection[Any]]:
    connection = await asyncpg.connect(seeded)
    if request.param == "analyzed":
        await connection.execute("ANALYZE headrace.runs")
    yield connection
    await connection.close()


async def test_a_claim_reads_what_it_takes(connection: asyncpg.Connection[Any]) -> None:
    nodes = await explain(connection, "claim_runs", 1, 1, ["t"], None, 100, 30.0, None)
    assert_no_full_scan(nodes)
    assert rows_read(nodes) <= 3 * 100 + 5


async def test_the_sweep_reads_what_has_expired(connection: asyncpg.Connection[Any]) -> None:
    nodes = await explain(connection, "find_expiring_runs", 1000)
    assert_no_full_scan(nodes)
    assert rows_read(nodes) == 1


async def test_the_look_at_what_is_due_reads_the_next_one(connection: asyncpg.Connection[Any]) -> None:
    nodes = await explain(connection, "find_due_work")
    assert rows_read(nodes) <= 2


ONE = UUID(int=500_000)
MOMENT = datetime(2030, 1, 1, tzinfo=UTC)


@pytest.mark.parametrize(
    ("name", "args"),
    [
        ("reschedule_run", (1, ONE, MOMENT)),
        ("hold_debounced", (1, ONE, 5.0, None, 1.0, "application/store")),
        ("postpone_run", (1, ONE, 5.0, True, b"1", None, "{}")),
        ("cancel_runs", (1, [ONE], "{}", "EXPIRED")),
    ],
)
async def test_what_moves_one_run_reads_that_one(
    connection: asyncpg.Connection[Any], name: str, args: tuple[Any, ...]
) -> None:
    nodes = await explain(connection, name, *args)
    assert_no_full_scan([node for node in nodes if node.get("Relation Name") == "runs"])
    assert rows_read(nodes) <= 2
