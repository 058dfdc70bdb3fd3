"""The database itself refuses a row of another store's id, whatever code tries to write it."""

from __future__ import annotations

import asyncpg
import pytest

from headrace.engine.engine import Engine
from headrace.ids import mint_batch_id, mint_run_id, mint_token_id

pytestmark = pytest.mark.anyio

RUN = """
INSERT INTO headrace.runs (environment_id, lane_id, id, status, ready_at, created_at, updated_at)
VALUES (1, 1, $1, 'QUEUED', now(), now(), now())
"""
BATCH = """
INSERT INTO headrace.batches (environment_id, id, start_policy, seal_deadline, created_at, updated_at)
VALUES (1, $1, 'add', now(), now(), now())
"""
TOKEN = "INSERT INTO headrace.tokens (environment_id, id, created_at) VALUES (1, $1, now())"

INSERTS = {"runs": (mint_run_id, RUN), "batches": (mint_batch_id, BATCH), "tokens": (mint_token_id, TOKEN)}


@pytest.mark.parametrize("table", INSERTS)
async def test_a_row_is_written_in_the_store_that_owns_it_and_in_no_other(fleet: list[Engine], table: str) -> None:
    mint, insert = INSERTS[table]
    for engine in fleet:
        connection = await asyncpg.connect(engine.settings.database_url)
        try:
            for owner in fleet:
                if owner is engine:
                    await connection.execute(insert, mint(owner.key))
                else:
                    with pytest.raises(asyncpg.CheckViolationError, match=f"{table}_owned"):
                        await connection.execute(insert, mint(owner.key))
        finally:
            await connection.close()
