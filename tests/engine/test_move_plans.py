"""PostgreSQL's plans of moves, forwards and the control plane's copies: what is read does not grow with what else is there."""

from __future__ import annotations

import json
from collections.abc import Generator, Mapping
from typing import Any
from uuid import UUID

import asyncpg
import pytest

from headrace.store.statements import load_sql
from tests.conftest import execute_sql, with_database
from tests.engine.test_plans import explain, walk
from tests.guards import ALLOW_ALL_IDS

pytestmark = pytest.mark.anyio

MANY = 20_000
SIZE = 50
"""Children of each tree that is moved, and items of the batch."""


def make_id(n: int) -> UUID:
    """The n-th of the ids that the tables are filled with: the last byte is the store's, the one before it an item's."""
    return UUID(int=n << 40)


def spell(n: str) -> str:
    """The same in SQL."""
    return f"lpad(to_hex(({n})::bigint << 40), 32, '0')::uuid"


TREE = make_id(9 * MANY)
BATCH = make_id(9 * MANY + 1)
MOVE, BATCH_MOVE, FRESH = UUID(int=1), UUID(int=2), UUID(int=3)

_TIMES = "now(), now(), now()"
_RUN = "runs (environment_id, lane_id, id, status, ready_at, created_at, updated_at, root_run_id, parent_run_id)"
_POINT = "journal (environment_id, run_id, point, kind, pending, made, target, cascade, created_at)"
_BATCH = (
    "batches (environment_id, id, status, start_policy, run_count, accepted, highest_index, seal_deadline, sealed_at, created_at,"
    " updated_at, root_run_id)"
)
_FILLED: tuple[tuple[str, str, int], ...] = (
    ("lanes (environment_id, task, queue)", "1, 't' || n, 'task/t' || n", 2000),
    ("tasks (environment_id, id, queue, max_attempts, registered_at)", "1, 't' || n, CASE WHEN n > 10 THEN 'task/t' || n ELSE 'q' END, 3, now()", 2000),
    ("queues (environment_id, name, created_at, updated_at)", "1, 'q' || n, now(), now()", 2000),
    ("versions (environment_id, version, first_seen_at, last_seen_at)", "1, 'v' || n, now(), now()", 3000),
    ("version_tasks (version_id, task, first_seen_at)", "n, 't', now()", 1000),
    (_RUN, f"1, 1, {spell('n')}, 'WAITING', {_TIMES}, NULL, NULL", MANY),
    (_RUN, f"1, 2, {spell(f'{MANY} + n')}, 'QUEUED', {_TIMES}, {spell('n')}, {spell('n')}", MANY),
    (_POINT, f"1, {spell('n')}, 'c', 'run', true, 1, {spell(f'{MANY} + n')}, true, now()", MANY),
    (_POINT, f"1, {spell('n')}, 't', 'token', false, 2, {spell(f'{2 * MANY} + n')}, false, now()", MANY),
    ("tokens (environment_id, id, run_id, created_at)", f"1, {spell(f'{2 * MANY} + n')}, {spell('n')}, now()", MANY),
    (
        "attempts (environment_id, run_id, number, status, finished_at)",
        f"1, {spell(f'{MANY} + n')}, 1, 'FAILED', now()",
        MANY,
    ),
    (_BATCH, f"1, {spell(f'{3 * MANY} + n')}, 'PROCESSING', 'add', 1, 1, 0, {_TIMES}, now(), {spell('n')}", MANY // 4),
    (
        "batch_aliases (environment_id, batch_id, batch_index, run_id)",
        f"1, {spell(f'{3 * MANY} + n')}, 0, {spell(f'{MANY} + n')}",
        MANY // 4,
    ),
    ("interests (environment_id, target_id, store)", f"1, {spell(f'{2 * MANY} + n')}, '1'", MANY // 4),
    ("forwards (id, store)", f"{spell(f'{4 * MANY} + n')}, '1'", MANY),
    (
        "mirrors (environment_id, id, kind, status, made_at, resolved_at)",
        f"1, {spell(f'{5 * MANY} + n')}, 'token', 'COMPLETED', now() - interval '1 day', now()",
        MANY,
    ),
    ("move_members (move_id, kind, id)", f"gen_random_uuid(), 'run', {spell('n')}", MANY),
    ("departures (move_id, kind, content)", "gen_random_uuid(), 'run', '{}'", MANY),
    ("arrivals (move_id, at)", "gen_random_uuid(), now()", 1000),
    ("moves (id, environment_id, unit_id, kind, store, asked_at)", f"gen_random_uuid(), 1, {spell('n')}, 'run', '2', now()", 1000),
    ("parkings (environment_id, root_id, move_id)", f"1, {spell('n')}, gen_random_uuid()", 1000),
)  # fmt: skip
_TABLES = sorted({table.partition(" ")[0] for table, _, _ in _FILLED})

_TREES = f"""
INSERT INTO headrace.runs (environment_id, lane_id, id, status, ready_at, created_at, updated_at) VALUES (1, 1, '{TREE}', 'WAITING', {_TIMES});
INSERT INTO headrace.{_RUN} SELECT 1, 2, {spell(f"{10 * MANY} + n")}, 'QUEUED', {_TIMES}, '{TREE}', '{TREE}' FROM generate_series(1, {SIZE}) AS n;
INSERT INTO headrace.{_POINT} SELECT 1, '{TREE}', 'c#' || n, 'run', true, n, {spell(f"{10 * MANY} + n")}, true, now() FROM generate_series(1, {SIZE}) AS n;
INSERT INTO headrace.{_POINT} SELECT 1, {spell(f"{10 * MANY} + n")}, 't', 'token', false, 1, {spell(f"{5 * MANY} + n")}, false, now() FROM generate_series(1, {SIZE}) AS n;
INSERT INTO headrace.tokens (environment_id, id, run_id, status, completed_at, created_at) VALUES (1, '{make_id(11 * MANY)}', '{TREE}', 'COMPLETED', now(), now());
INSERT INTO headrace.{_BATCH} VALUES (1, '{BATCH}', 'PROCESSING', 'add', {SIZE}, {SIZE}, {SIZE} - 1, {_TIMES}, now(), NULL);
INSERT INTO headrace.runs (environment_id, lane_id, id, status, ready_at, created_at, updated_at, batch_id, batch_index)
    SELECT 1, 2, headrace.item_run_id('{BATCH}', n), 'QUEUED', {_TIMES}, '{BATCH}', n FROM generate_series(0, {SIZE - 1}) AS n;
INSERT INTO headrace.moves (id, environment_id, unit_id, kind, store, asked_at) VALUES
    ('{MOVE}', 1, '{TREE}', 'run', '2', now()), ('{BATCH_MOVE}', 1, '{BATCH}', 'batch', '2', now());
INSERT INTO headrace.move_members SELECT '{MOVE}', 'run', r.id FROM headrace.runs AS r WHERE r.id = '{TREE}' OR r.root_run_id = '{TREE}';
INSERT INTO headrace.move_members VALUES ('{MOVE}', 'token', '{make_id(11 * MANY)}');
INSERT INTO headrace.move_members SELECT '{BATCH_MOVE}', 'run', r.id FROM headrace.runs AS r WHERE r.batch_id = '{BATCH}';
INSERT INTO headrace.move_members VALUES ('{BATCH_MOVE}', 'batch', '{BATCH}');
INSERT INTO headrace.departures (move_id, kind, content) SELECT '{MOVE}', 'run', '{{}}' FROM generate_series(1, {SIZE});
"""


@pytest.fixture(scope="module", params=["no statistics", "analyzed"])
def seeded(request: pytest.FixtureRequest, postgres: str, template: str) -> Generator[str]:
    """A store full of trees; a tree and a batch of it are to be moved."""
    name = f"move_plans_{request.param.replace(' ', '_')}"
    execute_sql(postgres, f"CREATE DATABASE {name} TEMPLATE {template}")
    url = with_database(postgres, name)
    execute_sql(url, ALLOW_ALL_IDS)
    for table in _TABLES:
        execute_sql(url, f"ALTER TABLE headrace.{table} SET (autovacuum_enabled = off)")
    for table, columns, count in _FILLED:
        execute_sql(
            url, f"INSERT INTO headrace.{table} SELECT {columns} FROM generate_series(1, $1::integer) AS n", count
        )
    for statement in _TREES.split(";\n"):
        if statement.strip():
            execute_sql(url, statement)
    if request.param == "analyzed":
        execute_sql(url, "ANALYZE")
    yield url
    execute_sql(postgres, f"DROP DATABASE {name} WITH (FORCE)")


def count_met(nodes: list[dict[str, Any]]) -> Mapping[str, float]:
    """Rows that were met, those that were thrown away too, by table."""
    met: dict[str, float] = {}
    for node in nodes:
        table = node.get("Relation Name")
        if table in _TABLES and "Scan" in node["Node Type"]:
            rows = node["Actual Rows"] + node.get("Rows Removed by Filter", 0)
            met[table] = met.get(table, 0) + rows * node["Actual Loops"]
    return met


SOME = [make_id(n) for n in range(1, 101)]
GONE = [make_id(4 * MANY + n) for n in range(1, 101)]

ASKED: dict[str, tuple[Any, ...]] = {
    "ask_move": (1, make_id(7), "run", "2"),
    "hold_move": (MOVE,),
    "find_move": (MOVE,),
    "hold_up_move": (MOVE, "why"),
    "drop_move": (MOVE,),
    "cut_move": (MOVE,),
    "gather_members": (FRESH, 1, TREE, "run"),
    "gather_members of a batch": (FRESH, 1, BATCH, "batch"),
    "gather_members of a token": (FRESH, 1, make_id(2 * MANY + 7), "token"),
    "lock_members": (MOVE, 1),
    "find_bonds": (MOVE, 1),
    "find_bonds of a batch": (BATCH_MOVE, 1),
    "find_bulk_holds": (MOVE, 1),
    "find_bulk_under_way": (1,),
    "leave_mirrors": (MOVE, 1),
    "take_mirrors": (MOVE, 1),
    "take_tree": (MOVE, 1, "2"),
    "take_tree of a batch": (BATCH_MOVE, 1, "2"),
    "park_tree": (MOVE, 60.0, 3600.0),
    "park_tree of a batch": (BATCH_MOVE, 60.0, 3600.0),
    "let_tree_go": (MOVE, 60.0, 3600.0),
    "release_runs": (-1, UUID(int=0), 1000),
    "read_departures": (MOVE, 0, 100),
    "end_move": (MOVE,),
    "begin_arrival": (MOVE,),
    "forget_arrival": (MOVE,),
    "find_unit": (make_id(MANY + 7),),
    "list_units": (1, make_id(100), make_id(MANY), 20),
    "find_forward": (GONE[0],),
    "find_forwards": (GONE,),
    "list_forwards": (GONE[0], 100),
    "keep_forwards": (GONE, ["2"] * 100, "1"),
    "read_copied": (),
    "write_copied": (7, MOVE, True),
    "end_recounting": (MOVE,),
}


@pytest.mark.parametrize("name", sorted(ASKED))
async def test_what_is_read_is_what_is_asked_for(connection: asyncpg.Connection[Any], name: str) -> None:
    met = count_met(await explain(connection, name.partition(" ")[0], *ASKED[name]))
    assert sum(met.values()) <= 1000, met


LANDED = {
    "run": ("land_lanes", "land_runs"),
    "batch": ("land_batches",),
    "token": ("land_tokens",),
    "point": ("land_journal",),
    "attempt": ("land_attempts",),
    "alias": ("land_batch_aliases",),
    "dev": ("land_dev_claims",),
    "mirror": ("land_mirrors",),
    "forward": ("land_forwards",),
}


@pytest.mark.parametrize("move", [MOVE, BATCH_MOVE])
async def test_what_lands_reads_what_it_writes(connection: asyncpg.Connection[Any], move: UUID) -> None:
    """The tree leaves and comes back, in a transaction that is rolled back."""
    transaction = connection.transaction()
    await transaction.start()
    for name in ("take_mirrors", "take_tree"):
        await connection.fetch(load_sql(name), move, 1, *(["2"] if name == "take_tree" else []))
    rows = await connection.fetch(
        "SELECT kind, content::text AS content FROM headrace.departures WHERE move_id = $1 AND content <> '{}'", move
    )
    kinds: dict[str, list[str]] = {}
    for row in rows:
        kinds.setdefault(row["kind"], []).append(row["content"])
    assert kinds.keys() >= {"run", "forward"}
    for kind in ("forward", *(kind for kind in kinds if kind != "forward")):
        for name in LANDED[kind]:
            text = await connection.fetchval(f"EXPLAIN (ANALYZE, FORMAT JSON) {load_sql(name)}", kinds[kind])
            met = count_met(list(walk(json.loads(text)[0]["Plan"])))
            assert sum(met.values()) <= 1000, (name, met)
    await transaction.rollback()


@pytest.mark.parametrize("table", ["tasks", "queues", "versions"])
async def test_a_copy_of_a_part_reads_that_part(connection: asyncpg.Connection[Any], table: str) -> None:
    rows = await connection.fetch(
        f"SELECT to_jsonb(t)::text AS row FROM headrace.{table} AS t ORDER BY environment_id LIMIT 100"
    )
    content = [json.loads(row["row"]) for row in rows]
    changed: dict[str, Any] = {"max_attempts": 7, "declared_limit": 7, "promoted_at": "2026-01-01T00:00:00Z"}
    changed |= {"tasks": {"t": "2026-01-01T00:00:00Z"}} if table == "versions" else {}
    content = [row | changed for row in content]
    met = count_met(await explain(connection, f"copy_{table}", json.dumps(content)))
    assert sum(met.values()) <= 1000, met


async def test_a_claim_meets_nothing_that_is_parked(connection: asyncpg.Connection[Any]) -> None:
    """However much of its lane is: what it reads is what is ready."""
    transaction = connection.transaction()
    await transaction.start()
    await connection.execute("UPDATE headrace.runs SET parked = ready_at, ready_at = 'infinity' WHERE lane_id = 2")
    await connection.execute(
        "INSERT INTO headrace.workers (environment_id, name, started_at, lease_until) VALUES (1, 'w', now(), now() + interval '1 hour')"
    )
    await connection.execute(
        f"INSERT INTO headrace.{_RUN} SELECT 1, 2, {spell('-n')}, 'QUEUED', {_TIMES}, NULL, NULL FROM generate_series(1, 10) AS n"
    )
    worker = await connection.fetchval("SELECT max(id) FROM headrace.workers")
    arguments = (1, worker, ["t2"], None, 100, 30.0, None)
    text = await connection.fetchval(f"EXPLAIN (ANALYZE, FORMAT JSON) {load_sql('claim_runs')}", *arguments)
    nodes = list(walk(json.loads(text)[0]["Plan"]))
    assert count_met(nodes)["runs"] <= 40
    assert len(await connection.fetch(load_sql("claim_runs"), *arguments)) == 1  # it took all that was ready
    await transaction.rollback()
