"""A prepared statement's plan for any arguments, which PostgreSQL turns to after a few executions; on any version of it."""

from __future__ import annotations

import re
from typing import Any

import psycopg

from headrace.store.statements import load_sql


def explain_generic(url: str, name: str) -> dict[str, Any]:
    """The plan of a statement, by its file's name. ``EXPLAIN (GENERIC_PLAN)`` would do, from PostgreSQL 16 on."""
    sql = load_sql(name)
    count = max(map(int, re.findall(r"\$(\d+)", sql)), default=0)
    given = f"({', '.join(['NULL'] * count)})" if count else ""
    with psycopg.connect(url) as connection:
        connection.execute("SET plan_cache_mode = force_generic_plan")
        connection.execute(f"PREPARE explained AS {sql}".encode())
        row = connection.execute(f"EXPLAIN (FORMAT JSON) EXECUTE explained{given}".encode()).fetchone()
    assert row is not None
    return row[0][0]["Plan"]
