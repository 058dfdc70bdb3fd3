"""What versions cost a claim: a probe a lane, and nothing for the runs that lie there."""

from __future__ import annotations

from collections.abc import Generator
from typing import Any

import asyncpg
import pytest

from tests.conftest import execute_sql, with_database
from tests.engine.test_plans import assert_no_full_scan, explain, rows_read
from tests.guards import ALLOW_ALL_IDS

pytestmark = pytest.mark.anyio

BACKLOG = 50_000
LANES = 200
WORKERS = 100
CHUNK = 100

SEED = (
    """INSERT INTO headrace.lanes (environment_id, task, queue, version)
    SELECT 1, 't', 'q' || n, CASE WHEN n % 4 = 0 THEN '1' END FROM generate_series(1, $1) AS n""",
    """INSERT INTO headrace.workers (environment_id, name, version, started_at, lease_until, tasks)
    SELECT 1, 'w', CASE WHEN n % 2 = 0 THEN '1' ELSE '2' END, now(), now() + interval '1 hour', '{a,b,c,t}'
    FROM generate_series(1, $1) AS n""",
    """INSERT INTO headrace.tasks (environment_id, id, queue, max_attempts, registered_at, current_version)
    VALUES (1, 't', 'q1', 3, now(), '2')""",
    """INSERT INTO headrace.versions (environment_id, version, first_seen_at, last_seen_at)
    SELECT 1, n::text, now(), now() FROM generate_series(1, 1000) AS n""",
    """INSERT INTO headrace.runs (environment_id, lane_id, id, status, ready_at, created_at, updated_at)
    SELECT 1, 1 + n % $2, gen_random_uuid(), 'QUEUED', now() - interval '1 minute', now(), now()
    FROM generate_series(1, $1) AS n""",
)


@pytest.fixture(scope="module", params=["no statistics", "analyzed"])
def seeded(request: pytest.FixtureRequest, postgres: str, template: str) -> Generator[str]:
    """A backlog over many lanes, a quarter of them of an older version, and many workers of both."""
    name = f"versions_{request.param.replace(' ', '_')}"
    execute_sql(postgres, f"CREATE DATABASE {name} TEMPLATE {template}")
    url = with_database(postgres, name)
    execute_sql(url, ALLOW_ALL_IDS)
    for table in ("runs", "lanes", "workers", "versions", "tasks"):
        execute_sql(url, f"ALTER TABLE headrace.{table} SET (autovacuum_enabled = off)")
    for sql, args in zip(SEED, [(LANES,), (WORKERS,), (), (), (BACKLOG, LANES)], strict=True):
        execute_sql(url, sql, *args)
    if request.param == "analyzed":
        execute_sql(url, "ANALYZE")
    yield url
    execute_sql(postgres, f"DROP DATABASE {name} WITH (FORCE)")


@pytest.mark.parametrize(("version", "lanes"), [("1", LANES // 4), ("2", LANES * 3 // 4), ("3", 0)])
async def test_a_claim_reads_what_it_takes_from_the_lanes_of_its_version(
    connection: asyncpg.Connection[Any], version: str, lanes: int
) -> None:
    nodes = await explain(connection, "claim_runs", 1, 1, ["t"], None, CHUNK, 30.0, version)
    assert_no_full_scan(nodes)
    assert rows_read(nodes) <= 3 * CHUNK + 2 * lanes
    assert (
        sum(node["Actual Rows"] * node["Actual Loops"] for node in nodes if node["Node Type"] == "ModifyTable")
        <= CHUNK + 1
    )
    workers = [n for n in nodes if n.get("Relation Name") == "workers" and n.get("Subplan Name") != "CTE lease"]
    read = sum((n["Actual Rows"] + n.get("Rows Removed by Filter", 0)) * n["Actual Loops"] for n in workers)
    assert read <= LANES + WORKERS + 1, "one living worker is enough to know"


async def test_a_run_is_read_with_its_version_and_lane_by_keys(connection: asyncpg.Connection[Any]) -> None:
    run_id = await connection.fetchval("SELECT id FROM headrace.runs LIMIT 1")
    nodes = await explain(connection, "find_run", 1, run_id)
    assert_no_full_scan(nodes)
    assert rows_read(nodes) == 1
