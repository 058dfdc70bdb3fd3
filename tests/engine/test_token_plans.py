"""PostgreSQL's plans for tokens: what each statement reads does not grow with the tokens that there are."""

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

TOKENS = 100_000
DUE = 500
FIRST, LAST = UUID(int=0), UUID(int=2**128 - 1)


@pytest.fixture(scope="module", params=["no statistics", "analyzed"])
def seeded(request: pytest.FixtureRequest, postgres: str, template: str) -> Generator[str]:
    """A database with many tokens of one environment: half have ended, half of the rest time out, a few of these now."""
    name = f"token_plans_{request.param.replace(' ', '_')}"
    execute_sql(postgres, f"CREATE DATABASE {name} TEMPLATE {template}")
    url = with_database(postgres, name)
    execute_sql(url, ALLOW_ALL_IDS)
    execute_sql(url, "ALTER TABLE headrace.tokens SET (autovacuum_enabled = off)")
    execute_sql(
        url,
        "INSERT INTO headrace.tokens (environment_id, id, status, timeout_at, created_at, completed_at)"
        " SELECT 1, lpad(to_hex(n), 32, '0')::uuid, (CASE WHEN n % 2 = 0 THEN 'COMPLETED' ELSE 'WAITING' END)"
        "::headrace.token_status, CASE WHEN n % 4 = 1 THEN CASE WHEN n <= $2 * 4 THEN now() - interval '1 minute'"
        " ELSE now() + interval '1 day' END END, now(), CASE WHEN n % 2 = 0 THEN now() END"
        " FROM generate_series(1, $1::integer) n",
        TOKENS,
        DUE,
    )
    if request.param == "analyzed":
        execute_sql(url, "ANALYZE")
    yield url
    execute_sql(postgres, f"DROP DATABASE {name} WITH (FORCE)")


def rows_met(nodes: list[dict[str, Any]]) -> float:
    """Tokens that any node met, those that it threw away too."""
    scans = [node for node in nodes if node.get("Relation Name") == "tokens" and "Scan" in node["Node Type"]]
    assert scans
    return sum(
        (node["Actual Rows"] + node.get("Rows Removed by Filter", 0) + node.get("Rows Removed by Index Recheck", 0))
        * node["Actual Loops"]
        for node in scans
    )


A_TOKEN = UUID(int=5001)
NO_FILTER = (None, None, None, None, None)
READ = {
    "find_token": ((1, A_TOKEN), 1),
    "lock_token": ((1, A_TOKEN), 1),
    "complete_token": ((1, A_TOKEN, b"1", None), 1),
    "find_token_environment": ((A_TOKEN,), 3),
    "expire_tokens": ((100,), DUE + 100),  # without statistics all that is due is sorted, but never what is not
    "list_tokens": ((1, FIRST, LAST, *NO_FILTER, 26), 26),
    "list_tokens:back": ((1, A_TOKEN, LAST, *NO_FILTER, 26), 26),
}


@pytest.mark.parametrize("name", sorted(READ))
async def test_what_is_read_is_what_is_asked_for(connection: asyncpg.Connection[Any], name: str) -> None:
    args, most = READ[name]
    nodes = await explain(connection, name, *args)
    assert rows_met(nodes) <= most, nodes
    assert not [node for node in nodes if node["Node Type"] == "Seq Scan" and node.get("Relation Name") == "tokens"]


async def test_a_sweep_goes_by_what_is_due(connection: asyncpg.Connection[Any], request: pytest.FixtureRequest) -> None:
    nodes = await explain(connection, "expire_tokens", 100)
    if "analyzed" in request.node.name:
        assert rows_met(nodes) <= 2 * 100
    assert "tokens_due" in {node.get("Index Name") for node in nodes}


@pytest.mark.parametrize(
    "name", ["find_token", "lock_token", "complete_token", "find_token_environment", "expire_tokens"]
)
def test_a_generic_plan_scans_no_table(seeded: str, name: str) -> None:
    scans = [node for node in walk(explain_generic(seeded, name)) if node.get("Relation Name") == "tokens"]
    assert all(node["Node Type"] != "Seq Scan" for node in scans), scans
