"""Plans of claims under limits, before a backlog of 1,000,000 runs: neither it nor the number of keys is in their cost.

The backlog lies in six lanes: 300,000 runs of 1,000 concurrency keys, 300,000 of 100,000, 200,000 of 100,000 order keys, 50,000
on a queue with a limit, 50,000 without anything, and 100,000 that are delayed, of as many keys. Each statement is explained before there are statistics and after ANALYZE.
"""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator, Generator
from typing import Any

import asyncpg
import pytest

from headrace.engine.turns import Turns
from headrace.settings import Settings
from headrace.store.statements import load_sql
from headrace.store.store import Store
from tests.conftest import execute_sql, with_database
from tests.engine.generic_plans import explain_generic
from tests.engine.test_plans import assert_no_full_scan, rows_read, walk

pytestmark = pytest.mark.anyio

LIMIT = 10
EXECUTING = 500

# task, runs, concurrency key, order key
LANES = [
    ("few", 300_000, "'key ' || n % 1000", None),
    ("many", 300_000, "'key ' || n % 100000", None),
    ("ordered", 200_000, None, "'key ' || n % 100000"),
    ("limited", 50_000, None, None),
    ("plain", 50_000, None, None),
    ("delayed", 100_000, "'key ' || n", None),
]

# the limit of the queue, and that of a key
QUEUES = {"few": (EXECUTING + 100, 2), "many": (None, 1), "limited": (EXECUTING + 5, None)}


@pytest.fixture(scope="module")
def backlog(postgres: str, template: str) -> Generator[str]:
    """The URL of a database with the backlog, without statistics."""
    name = "limited_plans"
    execute_sql(postgres, f"CREATE DATABASE {name} TEMPLATE {template}")
    url = with_database(postgres, name)
    for table in ("runs", "lanes", "workers", "queues", "tasks"):
        execute_sql(url, f"ALTER TABLE headrace.{table} SET (autovacuum_enabled = off)")
    indexes = execute_sql(
        url,
        "SELECT indexname, indexdef FROM pg_indexes WHERE schemaname = 'headrace' AND tablename = 'runs' AND indexname <> 'runs_pkey'",
    )
    for index in indexes:  # made after the rows, which takes a third of the time
        execute_sql(url, f"DROP INDEX headrace.{index['indexname']}")
    execute_sql(url, "INSERT INTO headrace.workers (environment_id, name, started_at, lease_until) SELECT 1, 'w', now(), now() + interval '1 hour' FROM generate_series(1, 5)")  # fmt: skip
    for number, (task, count, key, order) in enumerate(LANES, 1):
        kind = "keyed" if key else "ordered" if order else "plain"
        execute_sql(
            url,
            "INSERT INTO headrace.lanes (environment_id, task, queue, kind) VALUES (1, $1, 'task/' || $1, $2::text::headrace.lane_kind)",
            task,
            kind,
        )
        execute_sql(
            url,
            "INSERT INTO headrace.runs (environment_id, lane_id, id, status, attempt, worker_id, ready_at, created_at, updated_at,"
            " counted_in, concurrency_key, order_key, order_number, order_lane_id)"
            f" SELECT 1, {number}, ('00000000-0000-0000-000{number}-' || lpad(to_hex(n), 10, '0') || '00')::uuid,"
            " (CASE WHEN n < $2::integer THEN 'EXECUTING' ELSE 'QUEUED' END)::headrace.run_status, 1,"
            " CASE WHEN n < $2::integer THEN 1 + n % 5 END, now() - interval '1 hour' + n * interval '1 us', now(), now(),"
            f" CASE WHEN n < $2::integer THEN {number if task in QUEUES else 0} END, {key or 'NULL'}, {order or 'NULL'},"
            f" {'n' if order else 'NULL'}, {number if order else 'NULL'} FROM generate_series(0, $1::integer - 1) AS n",
            count,
            EXECUTING,
        )
        if task in QUEUES:
            execute_sql(
                url,
                "INSERT INTO headrace.queues (id, environment_id, name, declared_limit, key_limit, rate_limit, rate_period,"
                " created_at, updated_at) OVERRIDING SYSTEM VALUE VALUES ($1, 1, 'task/' || $2, $3, $4, 1000000, 1, now(), now())",
                number,
                task,
                *QUEUES[task],
            )
    execute_sql(
        url,
        "UPDATE headrace.runs SET ready_at = now() + interval '1 hour' WHERE lane_id = 6 AND status = 'QUEUED'"
        " AND concurrency_key NOT IN ('key 5000', 'key 60000', 'key 99999')",
    )
    for index in indexes:
        execute_sql(url, index["indexdef"])
    yield url
    execute_sql(postgres, f"DROP DATABASE {name} WITH (FORCE)")


@pytest.fixture(scope="module", params=["no statistics", "analyzed"])
def url(request: pytest.FixtureRequest, backlog: str) -> str:
    if request.param == "analyzed":
        execute_sql(backlog, "ANALYZE")
    return backlog


@pytest.fixture
async def connection(url: str) -> AsyncGenerator[asyncpg.Connection[Any]]:
    connection = await asyncpg.connect(url)
    yield connection
    await connection.close()


async def explain(connection: asyncpg.Connection[Any], name: str, *args: Any) -> list[dict[str, Any]]:
    """The nodes of a statement's plan as it was executed, the first one with the buffers of all; it is rolled back."""
    transaction = connection.transaction()
    await transaction.start()
    try:
        sql = f"EXPLAIN (ANALYZE, BUFFERS, FORMAT JSON) {load_sql(name)}"
        await connection.fetchval(sql, *args)  # reads what is not in memory yet, and sets hint bits
        text = await connection.fetchval(sql, *args)
    finally:
        await transaction.rollback()
    return list(walk(json.loads(text)[0]["Plan"]))


def buffers(nodes: list[dict[str, Any]]) -> int:
    return nodes[0]["Shared Hit Blocks"] + nodes[0]["Shared Read Blocks"]


def claim_of(
    tasks: list[str], limit: int = LIMIT, lanes: list[int] | None = None, keys: list[str] | None = None
) -> Any:
    return (1, 1, tasks, None, limit, 30.0, None, lanes or [], keys or [], Turns().find_walk(limit), None)


@pytest.mark.parametrize(
    ("task", "most_rows", "most_buffers"),
    [
        ("few", EXECUTING + 25 * LIMIT, 1_500),
        ("many", 25 * LIMIT, 1_500),
        ("ordered", 25 * LIMIT, 1_500),
        ("limited", EXECUTING + 3 * LIMIT, 500),
    ],
)
async def test_a_limited_claim_costs_what_it_looks_at(
    connection: asyncpg.Connection[Any], task: str, most_rows: int, most_buffers: int
) -> None:
    lane = 1 + [one for one, *_ in LANES].index(task)
    for behind in ("", "key 5", "key 99999", "z"):  # wherever the last turn was
        nodes = await explain(connection, "claim_limited_runs", *claim_of([task], lanes=[lane], keys=[behind]))
        assert_no_full_scan(nodes)
        assert rows_read(nodes) <= most_rows
        assert buffers(nodes) <= most_buffers


async def test_the_number_of_keys_is_not_in_the_cost(connection: asyncpg.Connection[Any]) -> None:
    few = await explain(connection, "claim_limited_runs", *claim_of(["few"], lanes=[1], keys=["key 700"]))
    many = await explain(connection, "claim_limited_runs", *claim_of(["many"], lanes=[2], keys=["key 700"]))
    assert buffers(many) <= 2 * buffers(few)


async def test_a_claim_of_all_lanes_together(connection: asyncpg.Connection[Any]) -> None:
    nodes = await explain(connection, "claim_limited_runs", *claim_of([task for task, *_ in LANES]))
    assert_no_full_scan(nodes)
    assert rows_read(nodes) <= 3 * (EXECUTING + 25 * LIMIT)


async def test_a_plain_claim_does_not_look_into_lanes_with_limits(connection: asyncpg.Connection[Any]) -> None:
    args = (1, 1, [task for task, *_ in LANES], None, LIMIT, 30.0, None)
    nodes = await explain(connection, "claim_runs", *args)
    assert_no_full_scan(nodes)
    assert rows_read(nodes) <= 3 * LIMIT + 2 * len(LANES)


@pytest.mark.parametrize(
    "name",
    [
        "lock_limits",
        "lock_workers",
        "declare_queues",
        "find_environment_limits",
        "find_limits",
        "lock_named_limits",
        "note_turns",
    ],
)
async def test_what_stands_beside_a_claim_reads_no_backlog(connection: asyncpg.Connection[Any], name: str) -> None:
    args: dict[str, tuple[Any, ...]] = {
        "lock_limits": (1, [task for task, *_ in LANES], 30.0),
        "lock_workers": (1,),
        "declare_queues": (1, ["task/few"], [5], [1], [None], [None], [False], [False]),
        "find_environment_limits": (1,),
        "find_limits": (1, [task for task, *_ in LANES]),
        "lock_named_limits": (1, ["task/few", "task/many", ""], 30.0, 1.0, [task for task, *_ in LANES]),
        "note_turns": (1, ["task/few", ""], [True, True], [False, False], [task for task, *_ in LANES], True, 3.0),
    }
    nodes = await explain(connection, name, *args[name])
    assert_no_full_scan(nodes)
    assert buffers(nodes) <= 3_000


async def test_a_page_of_queues_counts_to_ten_thousand_and_no_further(connection: asyncpg.Connection[Any]) -> None:
    nodes = await explain(connection, "list_queues", 1, None, 25, 0)
    assert_no_full_scan(nodes)
    assert rows_read(nodes) <= len(LANES) * (10_000 + EXECUTING)


async def test_counting_what_executes_reads_what_executes(connection: asyncpg.Connection[Any]) -> None:
    nodes = await explain(connection, "count_executing", 1, ["task/plain", "task/few"])
    assert_no_full_scan(nodes)
    assert rows_read(nodes) <= 4 * len(LANES) * EXECUTING


async def test_counting_for_another_store_reads_what_executes(connection: asyncpg.Connection[Any]) -> None:
    nodes = await explain(connection, "count_limits", 1, ["task/few", "task/many", "task/limited", ""], True)
    assert_no_full_scan([node for node in nodes if node.get("Relation Name") not in {"stores", "control", "identity"}])
    assert rows_read(nodes) <= 4 * len(LANES) * EXECUTING


@pytest.mark.parametrize(
    "name", ["claim_limited_runs", "claim_runs", "count_executing", "list_queues", "note_turns", "find_limits"]
)
def test_a_generic_plan_scans_no_table(url: str, name: str) -> None:
    """A prepared statement's plan for any arguments, which PostgreSQL turns to after a few executions."""
    assert_no_full_scan(list(walk(explain_generic(url, name))))


async def test_keys_whose_runs_are_all_delayed_are_not_looked_at(connection: asyncpg.Connection[Any]) -> None:
    """100,000 keys with nothing to do now, but for three: what is ready says which."""
    transaction = connection.transaction()
    await transaction.start()
    rows = await connection.fetch(load_sql("claim_limited_runs"), *claim_of(["delayed"]))
    await transaction.rollback()
    assert len([row for row in rows if row["id"] is not None]) == 3
    nodes = await explain(connection, "claim_limited_runs", *claim_of(["delayed"]))
    assert_no_full_scan(nodes)
    assert rows_read(nodes) <= 4 * LIMIT


async def test_a_claim_is_prepared_once_however_long_it_is(database_url: str) -> None:
    """Else it is planned anew each time, six times as long as it takes: the driver leaves out long ones by itself."""
    claim = load_sql("claim_limited_runs")
    assert len(claim) > 15 * 1024, "the driver's own limit would do"
    store = await Store.open(Settings(database_url=database_url))
    try:
        async with store.connect() as connection:
            for _ in range(2):
                await connection.fetch(f"SELECT 1 /* {'x' * len(claim)} */")
            prepared = "SELECT count(*) FROM pg_prepared_statements WHERE length(statement) > 15360"
            assert await connection.fetchval(prepared) == 1
    finally:
        await store.close()
