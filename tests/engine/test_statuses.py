"""The table of statuses and transitions: complete, held in the statements, refused by the tests' databases where it is left."""

from __future__ import annotations

import re
from importlib.resources import files

import asyncpg
import pytest

from headrace.engine import completions, runs
from headrace.engine.engine import Engine
from headrace.engine.outcomes import Finish, Packet, RunCreated
from headrace.ids import mint_batch_id, mint_run_id, mint_token_id
from headrace.protocol.options import RunOptions
from headrace.protocol.statuses import TERMINAL_BATCH_STATUSES, TERMINAL_RUN_STATUSES, BatchStatus, RunStatus
from headrace.protocol.tokens import TokenStatus
from headrace.protocol.transitions import (
    BATCH_PAIRS,
    BATCH_STATUSES,
    BATCH_TRANSITIONS,
    RUN_PAIRS,
    RUN_STATUSES,
    RUN_TRANSITIONS,
    TOKEN_PAIRS,
    TOKEN_STATUSES,
    TOKEN_TRANSITIONS,
    Transition,
    check_run_move,
)
from tests.engine.helpers import claim, register
from tests.guards import GUARDED
from tests.invariants import fetch_sql

pytestmark = pytest.mark.anyio

STORED_RUN = [
    status for status in RunStatus if status not in {RunStatus.PENDING_VERSION, RunStatus.DELAYED, RunStatus.DEQUEUED}
]
TABLES = {
    "runs": (RUN_TRANSITIONS, RUN_PAIRS, STORED_RUN, TERMINAL_RUN_STATUSES),
    "batches": (BATCH_TRANSITIONS, BATCH_PAIRS, list(BatchStatus), TERMINAL_BATCH_STATUSES),
    "tokens": (TOKEN_TRANSITIONS, TOKEN_PAIRS, list(TokenStatus), {TokenStatus.COMPLETED, TokenStatus.TIMED_OUT}),
}
PAIRS = [
    (table, str(here), str(there))
    for table, (_, _, statuses, _) in TABLES.items()
    for here in statuses
    for there in statuses
    if here != there
]


def test_every_status_is_explained() -> None:
    assert RUN_STATUSES.keys() == set(RunStatus)
    assert BATCH_STATUSES.keys() == set(BatchStatus)
    assert TOKEN_STATUSES.keys() == set(TokenStatus)


@pytest.mark.parametrize("table", TABLES)
def test_no_way_leads_out_of_an_end_and_one_leads_to_everything_else(table: str) -> None:
    transitions, pairs, statuses, ended = TABLES[table]
    assert {here for here, _ in pairs} & set(ended) == set()
    reached = {target for one in transitions if not one.sources for target in one.targets}
    for _ in statuses:
        reached |= {there for here, there in pairs if here in reached}
    assert reached == set(statuses)
    for status in set(statuses) - set(ended):  # from everywhere an end can be reached: nothing stands still for ever
        way = {str(status)}
        for _ in statuses:
            way |= {there for here, there in pairs if here in way}
        assert way & set(ended), status


def test_what_no_run_does_raises() -> None:
    check_run_move(RunStatus.EXECUTING, RunStatus.COMPLETED)
    for here, there in (("EXECUTING", "EXPIRED"), ("COMPLETED", "QUEUED"), ("QUEUED", "QUEUED"), ("DELAYED", "QUEUED")):
        with pytest.raises(ValueError, match=f"no run goes from {here} to {there}"):
            check_run_move(RunStatus(here), RunStatus(there))


async def test_a_workers_report_of_what_no_attempt_ends_with_raises_and_writes_nothing(engine: Engine) -> None:
    lease = await register(engine)
    made = await runs.trigger_run(engine, 1, "t", Packet(b"1"), RunOptions())
    assert isinstance(made, RunCreated)
    [claimed] = await claim(engine, lease)
    with pytest.raises(ValueError, match="no run goes from EXECUTING to SYSTEM_FAILURE"):
        await completions.finish_runs(engine, lease, [Finish(claimed.id, claimed.attempt, RunStatus.SYSTEM_FAILURE)])
    [row] = await fetch_sql(engine, "SELECT status FROM headrace.runs")
    assert row["status"] == "EXECUTING"


def list_writers(table: str) -> set[str]:
    """The statements that write a status of a table's rows."""
    found: set[str] = set()
    for file in (files("headrace.store") / "queries").iterdir():
        text = re.sub(r"--.*", "", file.read_text(encoding="utf-8"))
        for change in re.finditer(
            rf"(UPDATE headrace\.{table} AS \w+\s+SET|UPDATE headrace\.{table}\s+SET)(.*?)(FROM|WHERE)", text, re.DOTALL
        ):
            if re.search(r"(?<![.\w])status =", change[2]):
                found.add(file.name.removesuffix(".sql"))
        if re.search(rf"INSERT INTO headrace\.{table}\b", text):
            found.add(file.name.removesuffix(".sql"))
    return found - {f"land_{table}"}  # rows that come from another store as they are: no status changes


@pytest.mark.parametrize("table", TABLES)
def test_every_statement_that_writes_a_status_is_in_the_table(table: str) -> None:
    transitions: tuple[Transition, ...] = TABLES[table][0]
    assert {name for one in transitions for name in one.statements} == list_writers(table)


async def make_row(connection: asyncpg.Connection[asyncpg.Record], table: str, status: str) -> None:
    match table:
        case "runs":
            await connection.execute(
                "INSERT INTO headrace.runs (environment_id, lane_id, id, status, ready_at, created_at, updated_at)"
                " VALUES (1, 1, $1, $2::headrace.run_status, now(), now(), now())",
                mint_run_id(),
                status,
            )
        case "batches":
            await connection.execute(
                "INSERT INTO headrace.batches (environment_id, id, status, start_policy, seal_deadline, created_at, updated_at)"
                " VALUES (1, $1, $2::headrace.batch_status, 'add', now(), now(), now())",
                mint_batch_id(),
                status,
            )
        case _:
            await connection.execute(
                "INSERT INTO headrace.tokens (environment_id, id, status, created_at, completed_at)"
                " VALUES (1, $1, $2::headrace.token_status, now(), CASE WHEN $2 <> 'WAITING' THEN now() END)",
                mint_token_id(),
                status,
            )


async def test_the_tests_databases_refuse_what_is_not_in_the_table(engine: Engine) -> None:
    """Every pair of two statuses, allowed or not."""
    assert set(TABLES) == set(GUARDED)
    refused = 0
    for table, here, there in PAIRS:
        async with engine.store.connect() as connection:
            transaction = connection.transaction()
            await transaction.start()
            await make_row(connection, table, here)
            ends = ", completed_at = now()" if table == "tokens" and there != "WAITING" else ""
            ends = ", completed_at = NULL" if table == "tokens" and there == "WAITING" else ends
            change = f"UPDATE headrace.{table} SET status = '{there}'{ends}"
            if (here, there) in GUARDED[table]:
                assert await connection.execute(change) == "UPDATE 1"
            else:
                refused += 1
                assert await connection.execute(f"{change} /* forced */") == "UPDATE 1"
                await connection.execute(f"UPDATE headrace.{table} SET status = '{here}'{'' if table != 'tokens' else ', completed_at = ' + ('NULL' if here == 'WAITING' else 'now()')} /* forced */")  # fmt: skip
                with pytest.raises(asyncpg.RaiseError, match=f"no way from {here} to {there}"):
                    await connection.execute(change)
            await transaction.rollback()
    assert refused > 80
