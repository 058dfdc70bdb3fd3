"""PostgreSQL's plans of waiting: what an end, a wake-up and a look at deadlines read does not grow with what waits.

As test_plans, on 100,000 suspended runs: without statistics, and after ANALYZE.
"""

from __future__ import annotations

from collections.abc import Generator
from typing import Any
from uuid import UUID

import asyncpg
import pytest

from tests.conftest import execute_sql, with_database
from tests.engine.generic_plans import explain_generic
from tests.engine.test_plans import explain, walk
from tests.guards import ALLOW_ALL_IDS

pytestmark = pytest.mark.anyio

WAITING = 100_000
VERSIONS = 50

_RUN = "lpad(to_hex(n), 32, '0')::uuid"
_TARGET = "lpad(to_hex(n + 1000000), 32, '0')::uuid"


@pytest.fixture(scope="module", params=["no statistics", "analyzed"])
def seeded(request: pytest.FixtureRequest, postgres: str, template: str) -> Generator[str]:
    """A database in which runs wait: half of them for a run, a quarter for a time, a quarter for a token."""
    name = f"wait_plans_{request.param.replace(' ', '_')}"
    execute_sql(postgres, f"CREATE DATABASE {name} TEMPLATE {template}")
    url = with_database(postgres, name)
    execute_sql(url, ALLOW_ALL_IDS)
    for table in ("runs", "lanes", "workers", "journal", "tokens"):
        execute_sql(url, f"ALTER TABLE headrace.{table} SET (autovacuum_enabled = off)")
    execute_sql(
        url,
        "INSERT INTO headrace.lanes (environment_id, task, queue, version) SELECT 1, 't', 'q', nullif(n, 0)::text"
        " FROM generate_series(0, $1) n",
        VERSIONS,
    )
    execute_sql(
        url,
        "INSERT INTO headrace.workers (environment_id, name, version, started_at, lease_until, ended_at)"
        " SELECT 1, 'w', n::text, now(), now() + interval '1 hour', CASE WHEN n % 2 = 0 THEN now() END"
        " FROM generate_series(1, $1) n",
        VERSIONS,
    )
    execute_sql(
        url,
        "INSERT INTO headrace.runs (environment_id, lane_id, id, status, attempt, ready_at, created_at, updated_at)"
        f" SELECT 1, 1 + n % $2, {_RUN}, 'WAITING', 1, now(), now(), now() FROM generate_series(1, $1) n",
        WAITING,
        VERSIONS,
    )
    execute_sql(
        url,
        "INSERT INTO headrace.runs (environment_id, lane_id, id, status, attempt, ready_at, created_at, updated_at)"
        f" SELECT 1, 1, {_TARGET}, 'QUEUED', 0, now(), now(), now() FROM generate_series(1, $1, 2) n",
        WAITING,
    )
    execute_sql(
        url,
        "INSERT INTO headrace.tokens (environment_id, id, timeout_at, created_at)"
        f" SELECT 1, {_TARGET}, now() + interval '1 day', now() FROM generate_series(4, $1, 4) n",
        WAITING,
    )
    execute_sql(
        url,
        "INSERT INTO headrace.journal (environment_id, run_id, point, kind, pending, made, target, due_at, created_at)"
        f" SELECT 1, {_RUN}, 'p', (CASE WHEN n % 2 = 1 THEN 'run' WHEN n % 4 = 0 THEN 'token' ELSE 'time' END)"
        f"::headrace.point_kind, true, 1, CASE WHEN n % 4 <> 2 THEN {_TARGET} END,"
        " CASE WHEN n % 4 = 2 THEN now() + interval '1 hour' END, now() FROM generate_series(1, $1) n",
        WAITING,
    )
    execute_sql(
        url,
        "INSERT INTO headrace.journal (environment_id, run_id, point, kind, pending, made, seen, succeeded, created_at)"
        f" SELECT 1, {_RUN}, 's', 'step', false, 0, 0, true, now() FROM generate_series(1, $1) n",
        WAITING,
    )
    if request.param == "analyzed":
        execute_sql(url, "ANALYZE")
    yield url
    execute_sql(postgres, f"DROP DATABASE {name} WITH (FORCE)")


def run_id(n: int) -> UUID:
    return UUID(int=n)


def target_of(n: int) -> UUID:
    return UUID(int=n + 1_000_000)


def rows_met(nodes: list[dict[str, Any]]) -> float:
    """Rows of the large tables that any node met, those that it threw away too."""
    return sum(
        (node["Actual Rows"] + node.get("Rows Removed by Filter", 0)) * node["Actual Loops"]
        for node in nodes
        if node.get("Relation Name") in {"runs", "journal", "tokens"} and "Scan" in node["Node Type"]
    )


SOME = range(1, 101)
RUNS = [run_id(n) for n in SOME]

MOST = {
    "lock_waiters": (1, [target_of(n) for n in SOME], []),
    "lock_due_waiters": (1000,),
    "complete_points": (1, [target_of(n) for n in SOME], []),
    "lock_runs": (1, RUNS),
    "wake_runs": (1, RUNS),
    "watch_runs": (1, RUNS),
    "try_watch_runs": (1, RUNS),
    "hold_run": (1, run_id(7), 1, 1),
    "read_points": (1, RUNS, ["s"] * 100),
    "read_journals": (1, RUNS),
    "end_due_points": (1, RUNS, ["p"] * 100),
    "find_resolved_waiters": (1, RUNS),
    "mark_seen": (1, run_id(7), ["s"], [3]),
    "end_due_waits": (1000, RUNS),
    "find_canceling": (1000,),
    "mark_canceling": (1, RUNS),
    "audit_waiting_runs": (-1, UUID(int=0), 100),
    "cancel_runs": (1, RUNS, "{}", "CANCELED"),
    "find_due_work": (),
    "close_version_lanes": (),
}


@pytest.mark.parametrize("name", sorted(MOST))
async def test_what_is_read_is_what_is_asked_for(
    connection: asyncpg.Connection[Any], request: pytest.FixtureRequest, name: str
) -> None:
    """A hundred runs each, of a hundred thousand: a few rows of each table a run."""
    if name == "audit_waiting_runs" and "no statistics" in request.node.name:
        pytest.skip(
            "2026-11-21: without statistics PostgreSQL sorts all that waits; a slice every ten seconds bears it"
        )
    nodes = await explain(connection, name, *MOST[name])
    assert rows_met(nodes) <= 10 * 100, [node for node in nodes if "Relation Name" in node]


async def test_a_claim_passes_over_what_waits_and_over_lanes_of_living_versions(
    connection: asyncpg.Connection[Any],
) -> None:
    nodes = await explain(connection, "claim_runs", 1, 1, ["t"], None, 100, 30.0, "1")
    assert rows_met(nodes) <= 3 * 100 + 2 * VERSIONS


@pytest.mark.parametrize("name", sorted({*MOST, "write_points", "insert_children"} - {"audit_waiting_runs"}))
def test_a_generic_plan_scans_no_large_table(seeded: str, name: str) -> None:
    full = [
        node
        for node in walk(explain_generic(seeded, name))
        if node["Node Type"] == "Seq Scan" and node.get("Relation Name") in {"runs", "journal", "tokens"}
    ]
    assert not full, full
