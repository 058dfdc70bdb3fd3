"""PostgreSQL's plans of lists of runs: whatever is asked for, a page reads what it may and no more.

Before there are statistics and after, with plans for the values at hand and with plans for any: after some calls PostgreSQL
may take the latter, and a way in has to be the right one for both.
"""

from __future__ import annotations

import json
from collections.abc import Generator
from typing import Any
from uuid import UUID

import asyncpg
import pytest

from headrace.store.statements import load_sql
from tests.conftest import execute_sql, with_database
from tests.engine.test_plans import rows_read, walk
from tests.guards import ALLOW_ALL_IDS

pytestmark = pytest.mark.anyio

RUNS = 100_000
SCHEDULE, ACTION = UUID(int=1), UUID(int=2)
LOW, HIGH = UUID(int=0), UUID(int=2**128 - 1)
COLUMNS = (
    "statuses", "readings", "tasks", "queues", "batch", "tags", "created_from", "created_to", "schedule", "action", "key",
    "concurrency_keys", "order_keys", "versions", "is_test", "error", "machines", "regions",
)  # fmt: skip
PAGE, WINDOW = 26, 2_000


@pytest.fixture(scope="module", params=["no statistics", "analyzed"])
def seeded(request: pytest.FixtureRequest, postgres: str, template: str) -> Generator[str]:
    """Runs of which nearly all went well; every 500th did not, and as many have a schedule, a tag, a key or are open."""
    name = f"listing_plans_{request.param.replace(' ', '_')}"
    execute_sql(postgres, f"CREATE DATABASE {name} TEMPLATE {template}")
    url = with_database(postgres, name)
    execute_sql(url, ALLOW_ALL_IDS)
    for table in ("runs", "lanes", "batches", "bulk_members"):
        execute_sql(url, f"ALTER TABLE headrace.{table} SET (autovacuum_enabled = off)")
    execute_sql(
        url,
        "INSERT INTO headrace.lanes (environment_id, task, queue) SELECT 1, 't' || n, 'q' FROM generate_series(1, 50) n",
    )
    execute_sql(
        url,
        "INSERT INTO headrace.runs (environment_id, lane_id, id, status, worker_id, ready_at, created_at, updated_at, finished_at,"
        " options, schedule_id, idempotency_key, error)"
        " SELECT 1, 1 + n % 50, (lpad(to_hex(1700000000000 + n * 100), 12, '0') || lpad(to_hex(n), 20, '0'))::uuid,"
        " (CASE WHEN n % 500 = 0 THEN 'FAILED' WHEN n % 500 = 1 THEN 'QUEUED' WHEN n % 500 = 2 THEN 'EXECUTING'"
        " WHEN n % 500 = 3 THEN 'WAITING' ELSE 'COMPLETED' END)::headrace.run_status,"
        " CASE WHEN n % 500 = 2 THEN 1 END, now(), to_timestamp(1700000000 + n * 0.1), now(),"
        " CASE WHEN n % 500 NOT IN (1, 2, 3) THEN now() END,"
        ' CASE WHEN n % 500 = 4 THEN \'{"tags": ["rare"]}\' WHEN n % 2 = 0 THEN \'{"tags": ["common"]}\' END::jsonb,'
        " CASE WHEN n % 500 = 5 THEN $2::uuid END, CASE WHEN n % 10 = 0 THEN 'key ' || n % 5000 END,"
        ' CASE WHEN n % 500 = 0 THEN \'{"code": "C"}\'::jsonb END'
        " FROM generate_series(1, $1::integer) AS n",
        RUNS,
        SCHEDULE,
    )
    execute_sql(
        url,
        "INSERT INTO headrace.bulk_members (environment_id, action_id, run_id, succeeded, result_id)"
        " SELECT 1, $1::uuid, r.id, true, r.id FROM headrace.runs AS r WHERE r.status = 'FAILED'",
        ACTION,
    )
    execute_sql(
        url,
        "INSERT INTO headrace.bulk_members (environment_id, action_id, run_id, succeeded, result_id)"
        " SELECT 1, md5((n / 1000)::text)::uuid, md5(n::text)::uuid, true, md5(n::text)::uuid FROM generate_series(1, $1::integer) AS n",
        RUNS // 2,
    )
    if request.param == "analyzed":
        execute_sql(url, "ANALYZE")
    yield url
    execute_sql(postgres, f"DROP DATABASE {name} WITH (FORCE)")


async def explain(url: str, cache: str, name: str, *args: Any) -> list[dict[str, Any]]:
    """The nodes of a statement's plan as it was executed, planned for its values or for any."""
    connection = await asyncpg.connect(url)
    try:
        await connection.execute(f"SET plan_cache_mode = {cache}")
        await connection.execute(f"PREPARE explained AS {load_sql(name)}")
        text = await connection.fetchval(
            f"EXPLAIN (ANALYZE, FORMAT JSON) EXECUTE explained ({', '.join(map(spell, args))})"
        )
        return list(walk(json.loads(text)[0]["Plan"]))
    finally:
        await connection.close()


def spell(value: Any) -> str:
    match value:
        case None:
            return "NULL"
        case bool() | int():
            return str(value)
        case list():
            return f"ARRAY[{', '.join(map(spell, value))}]"
        case _:
            return f"'{value}'"


def read_of(nodes: list[dict[str, Any]], name: str) -> float:
    """Rows of runs that were met, each in its index and by its key."""
    full = [node for node in nodes if node["Node Type"] == "Seq Scan" and node.get("Relation Name") == "runs"]
    assert not [node for node in full if node["Actual Loops"]], name
    return rows_read(nodes)


CASES: list[tuple[str, dict[str, Any], str, int]] = [
    ("all", {}, "runs_pkey", 2 * PAGE),
    ("unsuccessful", {"statuses": ["FAILED"]}, "runs_unsuccessful", 2 * PAGE),
    ("unsuccessful", {"error": "c"}, "runs_unsuccessful", 2 * PAGE),
    ("key", {"key": "key 500"}, "runs_by_key", 2 * PAGE),
    ("schedule", {"schedule": SCHEDULE}, "runs_by_schedule", 2 * PAGE),
    ("bulk", {"action": ACTION}, "bulk_members_results", RUNS // 500 + PAGE),
    ("tags", {"tags": ["rare"]}, "runs_by_tag", RUNS // 500 + PAGE),
    ("open", {"statuses": ["QUEUED"]}, "runs_ready", RUNS // 500 + PAGE),
    ("open", {"statuses": ["EXECUTING"]}, "runs_held", RUNS // 500 + PAGE),
    ("open", {"statuses": ["WAITING"]}, "runs_waiting", RUNS // 500 + PAGE),
    # what no index knows: as much as a page may look at
    ("all", {"tasks": ["t1"], "is_test": True}, "runs_pkey", WINDOW),
    ("all", {"statuses": ["COMPLETED"], "machines": ["micro"]}, "runs_pkey", WINDOW),
    ("all", {"concurrency_keys": ["k"]}, "runs_pkey", WINDOW),
    ("all", {"versions": ["v"], "regions": ["eu"]}, "runs_pkey", WINDOW),
    ("unsuccessful", {"statuses": ["FAILED"], "error": "no such"}, "runs_unsuccessful", WINDOW),
    ("schedule", {"schedule": SCHEDULE, "is_test": True}, "runs_by_schedule", WINDOW),
]


@pytest.mark.parametrize("cache", ["force_custom_plan", "force_generic_plan"])
@pytest.mark.parametrize("name", ["list_runs", "list_runs:back"])
async def test_a_page_reads_no_more_than_it_may(seeded: str, cache: str, name: str) -> None:
    for way, said, index, most in CASES:
        columns = [said.get(column) for column in COLUMNS]
        nodes = await explain(seeded, cache, name, 1, LOW, HIGH, way, PAGE, 0, WINDOW, *columns, True)
        assert read_of(nodes, way) <= most, (way, said, read_of(nodes, way))
        used = {node.get("Index Name") for node in nodes if node["Actual Loops"]}
        assert index in used, (way, said, used)


@pytest.mark.parametrize("cache", ["force_custom_plan", "force_generic_plan"])
@pytest.mark.parametrize(
    ("way", "tags", "statuses"), [("tags", ["common"], None), ("open", None, ["QUEUED", "EXECUTING", "WAITING"])]
)
async def test_what_is_counted_is_counted_no_further(
    seeded: str, cache: str, way: str, tags: list[str] | None, statuses: list[str] | None
) -> None:
    most = 100
    nodes = await explain(seeded, cache, "count_few_runs", way, tags, statuses, most)
    assert rows_read(nodes) <= 3 * most


@pytest.mark.parametrize("cache", ["force_custom_plan", "force_generic_plan"])
async def test_where_a_page_stopped_is_found_in_the_index(seeded: str, cache: str) -> None:
    nothing = [None] * len(COLUMNS)
    nodes = await explain(seeded, cache, "list_runs", 1, LOW, HIGH, "all", 1, WINDOW - 1, WINDOW, *nothing, False)
    assert read_of(nodes, "all") <= WINDOW + 1
