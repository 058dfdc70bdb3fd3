"""Resumes: from the end of what a suspended run waits for to the first line of its code after the wait."""

from __future__ import annotations

import asyncio
import time
from contextlib import ExitStack
from typing import Any, Final

from headrace.bench.database import await_true, connected, empty_database
from headrace.bench.noop_tasks import wait_for_token
from headrace.bench.processes import API_KEY, running_server, running_worker
from headrace.bench.report import take_percentiles
from headrace.ids import format_token_id, parse_run_id
from headrace.sdk import Client

_WARM: Final = 10
_IDLE_SECONDS: Final = 0.06
"""Past the spacing of hints, so that each resume is one from rest."""


def measure_resumes(database_url: str, resumes: int) -> tuple[float, float]:
    """p50 and p99, in ms, of so many resumes, one at a time: every run is put down, WAITING in the database, before.

    Counted from the moment that the token's row says it was completed, which is before that commits.
    """
    asyncio.run(empty_database(database_url))
    with ExitStack() as stack:
        url, _ = stack.enter_context(running_server(database_url))
        stack.enter_context(running_worker(database_url, 100, {"HEADRACE_WAIT_LINGER": "0"}))
        client = stack.enter_context(Client(url, api_key=API_KEY))
        handles = [client.trigger(wait_for_token, number) for number in range(_WARM + resumes)]
        tokens = asyncio.run(_await_suspended(database_url, len(handles)))
        resumed: dict[Any, float] = {}
        for handle in handles:
            run_id = parse_run_id(handle.id)
            client.complete_token(tokens[run_id])
            resumed[run_id] = handle.result(timeout=30)
            time.sleep(_IDLE_SECONDS)
        completed = asyncio.run(_read_completions(database_url))
    return take_percentiles([(moment - completed[run_id]) * 1000 for run_id, moment in list(resumed.items())[_WARM:]])


async def _await_suspended(database_url: str, runs: int) -> dict[Any, str]:
    """The token of each run, once all runs are put down."""
    async with connected(database_url) as connection:
        await await_true(connection, f"count(*) = {runs} FROM headrace.runs WHERE status = 'WAITING'")
        rows = await connection.fetch("SELECT run_id, id FROM headrace.tokens")
    return {row["run_id"]: format_token_id(row["id"]) for row in rows}


async def _read_completions(database_url: str) -> dict[Any, float]:
    async with connected(database_url) as connection:
        rows = await connection.fetch(
            "SELECT run_id, extract(epoch FROM completed_at)::float8 AS at FROM headrace.tokens"
        )
    return {row["run_id"]: row["at"] for row in rows}
