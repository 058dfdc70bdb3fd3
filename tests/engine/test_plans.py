"""PostgreSQL's plans on the hot paths: what a claim, a completion and a seal read does not grow with what lies there.

Invariant 12. Each statement is explained on a seeded backlog twice: before statistics exist (a fresh database under its
first load is where plans go wrong) and after ANALYZE.
"""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator, Generator
from typing import Any
from uuid import UUID

import asyncpg
import pytest

from headrace.ids import item_run_id, mint_batch_id
from headrace.store.statements import load_sql
from tests.conftest import execute_sql, with_database
from tests.engine.generic_plans import explain_generic
from tests.guards import ALLOW_ALL_IDS

pytestmark = pytest.mark.anyio

BACKLOG = 200_000
LANES = 200


@pytest.fixture(scope="module", params=["no statistics", "statistics of all but runs", "analyzed"])
def seeded(request: pytest.FixtureRequest, postgres: str, template: str) -> Generator[tuple[str, UUID]]:
    """A database with a backlog over many lanes, history, and held runs; and the id of its batch."""
    name = f"plans_{request.param.replace(' ', '_')}"
    execute_sql(postgres, f"CREATE DATABASE {name} TEMPLATE {template}")
    url = with_database(postgres, name)
    execute_sql(url, ALLOW_ALL_IDS)
    batch = mint_batch_id()
    for table in ("runs", "lanes", "workers", "batches"):  # statistics come when the test says so, and not before
        execute_sql(url, f"ALTER TABLE headrace.{table} SET (autovacuum_enabled = off)")
    execute_sql(
        url,
        "INSERT INTO headrace.lanes (environment_id, task, queue) SELECT 1, 't', 'q' || n FROM generate_series(1, $1) n",
        LANES,
    )
    execute_sql(url, "INSERT INTO headrace.workers (environment_id, name, started_at, lease_until) SELECT 1, 'w', now(), now() + interval '1 hour' FROM generate_series(1, 5)")  # fmt: skip
    execute_sql(
        url,
        "INSERT INTO headrace.batches (environment_id, id, start_policy, run_count, accepted, highest_index, seal_deadline,"
        " created_at, updated_at) VALUES (1, $1, 'add', $2, $2, $2 - 1, now(), now(), now())",
        batch,
        BACKLOG,
    )
    execute_sql(
        url,
        "INSERT INTO headrace.runs (environment_id, lane_id, id, batch_id, batch_index, status, attempt, worker_id, ready_at,"
        " created_at, updated_at, finished_at) SELECT 1, 1 + n % $3, headrace.item_run_id($1, n), $1, n,"
        " (CASE WHEN n % 4 = 0 THEN 'COMPLETED' WHEN n % 40 = 1 THEN 'EXECUTING' ELSE 'QUEUED' END)::headrace.run_status, 1,"
        " CASE WHEN n % 4 <> 0 AND n % 40 = 1 THEN 1 + n / 40 % 5 END, now() - interval '1 minute', now(), now(),"
        " CASE WHEN n % 4 = 0 THEN now() END FROM generate_series(0, $2::integer - 1) n",
        batch,
        BACKLOG,
        LANES,
    )
    execute_sql(
        url,
        "INSERT INTO headrace.batches (environment_id, id, start_policy, run_count, seal_deadline, created_at, updated_at)"
        " SELECT 1, gen_random_uuid(), 'add', 1, now() + interval '1 hour', now(), now() FROM generate_series(1, 20000)",
    )
    if request.param != "no statistics":
        execute_sql(url, "ANALYZE headrace.lanes, headrace.workers, headrace.batches")
    if request.param == "analyzed":
        execute_sql(url, "ANALYZE")
    yield url, batch
    execute_sql(postgres, f"DROP DATABASE {name} WITH (FORCE)")


@pytest.fixture
async def connection(seeded: tuple[str, UUID]) -> AsyncGenerator[asyncpg.Connection[Any]]:
    connection = await asyncpg.connect(seeded[0])
    yield connection
    await connection.close()


async def explain(connection: asyncpg.Connection[Any], name: str, *args: Any) -> list[dict[str, Any]]:
    """The nodes of a statement's plan as it was executed; what it did is rolled back."""
    transaction = connection.transaction()
    await transaction.start()
    try:
        text = await connection.fetchval(f"EXPLAIN (ANALYZE, FORMAT JSON) {load_sql(name)}", *args)
    finally:
        await transaction.rollback()
    return list(walk(json.loads(text)[0]["Plan"]))


def walk(node: dict[str, Any]) -> Generator[dict[str, Any]]:
    yield node
    for child in node.get("Plans", []):
        yield from walk(child)


def rows_read(nodes: list[dict[str, Any]]) -> float:
    """Rows of runs that any node met, those that it threw away too."""
    scans = [node for node in nodes if node.get("Relation Name") == "runs" and "Scan" in node["Node Type"]]
    assert scans
    return sum(
        (node["Actual Rows"] + node.get("Rows Removed by Filter", 0) + node.get("Rows Removed by Index Recheck", 0))
        * node["Actual Loops"]
        for node in scans
    )


def assert_no_full_scan(nodes: list[dict[str, Any]]) -> None:
    full = [
        node for node in nodes if node["Node Type"] == "Seq Scan" and node.get("Relation Name") in {"runs", "batches"}
    ]
    assert not full, full


async def test_a_claim_reads_what_it_takes(connection: asyncpg.Connection[Any]) -> None:
    nodes = await explain(connection, "claim_runs", 1, 1, ["t"], None, 100, 30.0, None)
    assert_no_full_scan(nodes)
    assert "runs_ready" in {node.get("Index Name") for node in nodes}
    assert rows_read(nodes) <= 3 * 100 + 2 * LANES


async def test_a_claim_on_one_queue_probes_one_lane(connection: asyncpg.Connection[Any]) -> None:
    nodes = await explain(connection, "claim_runs", 1, 1, ["t"], ["q7"], 100, 30.0, None)
    assert_no_full_scan(nodes)
    assert rows_read(nodes) <= 3 * 100 + 2


async def test_a_completion_probes_the_key_once_a_run(
    connection: asyncpg.Connection[Any], seeded: tuple[str, UUID]
) -> None:
    rows = await connection.fetch(
        "SELECT id FROM headrace.runs WHERE status = 'EXECUTING' AND worker_id = 1 ORDER BY id LIMIT 100"
    )
    ids = [row["id"] for row in rows]
    assert len(ids) == 100
    count = len(ids)
    nodes = await explain(
        connection, "finish_runs", 1, 1, ids, [1] * count, ["COMPLETED"] * count, [b"2"] * count, [], [], [], []
    )
    assert_no_full_scan(nodes)
    assert rows_read(nodes) <= count
    assert "runs_held" not in {node.get("Index Name") for node in nodes}


@pytest.fixture
async def looked_at_rest(database_url: str) -> AsyncGenerator[asyncpg.Connection[Any]]:
    """30,000 queued runs that PostgreSQL looked at when none was held; 1,000 of them are held since."""
    connection = await asyncpg.connect(database_url)
    for sql in (
        *(f"ALTER TABLE headrace.{table} SET (autovacuum_enabled = off)" for table in ("runs", "batches")),
        ALLOW_ALL_IDS,
        "INSERT INTO headrace.lanes (environment_id, task, queue) VALUES (1, 't', 'q')",
        "INSERT INTO headrace.workers (environment_id, name, started_at, lease_until) VALUES (1, 'w', now(), now() + interval '1 hour')",
        (
            "INSERT INTO headrace.runs (environment_id, lane_id, id, status, attempt, ready_at, created_at, updated_at)"
            " SELECT 1, (SELECT id FROM headrace.lanes), lpad(to_hex(n), 32, '0')::uuid, 'QUEUED', 0, now(), now(), now()"
            " FROM generate_series(1, 30000) n"
        ),
        "ANALYZE headrace.runs",
        (
            "UPDATE headrace.runs SET status = 'EXECUTING', attempt = 1, started_at = now(),"
            " worker_id = (SELECT id FROM headrace.workers) WHERE id <= lpad(to_hex(1000), 32, '0')::uuid"
        ),
    ):
        await connection.execute(sql)
    yield connection
    await connection.close()


@pytest.mark.parametrize("name", ["finish_runs", "rescue_runs", "give_back_runs"])
async def test_what_is_held_is_not_compared_with_all_of_a_chunk(
    looked_at_rest: asyncpg.Connection[Any], name: str
) -> None:
    """Taken for one row, because none was held when PostgreSQL looked, it would be: a million comparisons a chunk."""
    rows = await looked_at_rest.fetch("SELECT id FROM headrace.runs WHERE status = 'EXECUTING' ORDER BY id")
    worker = await looked_at_rest.fetchval("SELECT id FROM headrace.workers")
    ids = [row["id"] for row in rows]
    count = len(ids)
    given: dict[str, list[Any]] = {
        "finish_runs": [1, worker, ids, [1] * count, ["COMPLETED"] * count, [b"2"] * count, [], [], [], []],
        "rescue_runs": [1, worker, ids, [1] * count, [True] * count, [1] * count, [None] * count, [None] * count],
        "give_back_runs": [1, worker, ids, [1] * count],
    }
    nodes = await explain(looked_at_rest, name, *given[name])
    assert sum(node.get("Rows Removed by Join Filter", 0) * node["Actual Loops"] for node in nodes) <= count
    updated = [node for node in nodes if node["Node Type"] == "ModifyTable" and node["Relation Name"] == "runs"]
    assert updated[0]["Plans"][0]["Actual Rows"] == count


async def test_a_seal_reads_the_batch_and_no_run(connection: asyncpg.Connection[Any], seeded: tuple[str, UUID]) -> None:
    nodes = await explain(connection, "seal_batch", 1, seeded[1], BACKLOG)
    assert {node.get("Relation Name") for node in nodes} == {"batches"}


async def test_a_page_of_runs_reads_a_page(connection: asyncpg.Connection[Any]) -> None:
    everything = UUID(int=0), UUID(int=2**128 - 1)
    nodes = await explain(connection, "list_runs", 1, *everything, "all", 26, 0, 50_000, *[None] * 18, True)
    assert_no_full_scan(nodes)
    assert rows_read(nodes) <= 2 * 26  # once in the index, once by its key


async def test_a_page_of_results_reads_its_part_of_the_batch(
    connection: asyncpg.Connection[Any], seeded: tuple[str, UUID]
) -> None:
    nodes = await explain(connection, "list_batch_results", 1, seeded[1], 150_000, 100)
    assert_no_full_scan(nodes)
    assert rows_read(nodes) <= 600  # every fourth has ended, and each is then met by its key


async def test_a_run_is_met_by_its_key(connection: asyncpg.Connection[Any], seeded: tuple[str, UUID]) -> None:
    nodes = await explain(connection, "find_run", 1, item_run_id(seeded[1], 7))
    assert_no_full_scan(nodes)
    assert rows_read(nodes) == 1


async def test_idling_reads_no_runs(connection: asyncpg.Connection[Any]) -> None:
    nodes = await explain(connection, "find_due_work")
    touched = [node for node in nodes if node.get("Relation Name") == "runs"]
    assert {node.get("Index Name") for node in touched} == {"runs_expiring", "runs_parked"}
    assert rows_read(touched) <= 1


@pytest.mark.parametrize(
    "name", ["claim_runs", "finish_runs", "give_back_runs", "rescue_runs", "insert_items", "find_run"]
)
def test_a_generic_plan_scans_no_table(seeded: tuple[str, UUID], name: str) -> None:
    """A prepared statement's plan for any arguments, which PostgreSQL turns to after a few executions."""
    assert_no_full_scan(list(walk(explain_generic(seeded[0], name))))
