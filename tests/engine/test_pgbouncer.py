"""The engine behind PgBouncer in transaction mode, with fewer server connections than clients."""

from __future__ import annotations

import asyncio
from collections.abc import Generator
from dataclasses import replace
from pathlib import Path

import pytest

from headrace.engine import batches, runs, sweeps
from headrace.engine.engine import Engine
from headrace.engine.outcomes import Packet, RunCreated, Sealed
from headrace.protocol.options import RunOptions
from headrace.protocol.statuses import BatchStatus
from headrace.settings import Settings
from tests.engine.helpers import claim, finish, look, make_items, open_batch, register
from tests.invariants import assert_invariants
from tests.pgbouncer import running_pgbouncer

pytestmark = pytest.mark.anyio


@pytest.fixture
def pooled(settings: Settings, tmp_path: Path) -> Generator[Settings]:
    """Settings that lead through a PgBouncer with two server connections."""
    with running_pgbouncer(settings.database_url, tmp_path / "pgbouncer") as url:
        yield replace(settings, database_url=url, pooler="transaction", pool_size=8)


async def test_batches_runs_and_sweeps_behind_pgbouncer(pooled: Settings) -> None:
    engine = await Engine.open(pooled, listen=True)
    try:
        assert not engine.notices.listening  # nothing to listen on through a pooler: polling does it

        async def one_batch(number: int) -> None:
            batch = await open_batch(engine, 300)
            for first in range(0, 300, 50):
                await batches.store_chunk(
                    engine, 1, batch, make_items(first, 50, key=f"{number}" if first == 50 else None)
                )
            assert isinstance(await batches.end_stream(engine, 1, batch.id), Sealed)
            lease = await register(engine)
            while (await look(engine, batch)).completed_at is None:
                await finish(engine, lease, await claim(engine, lease, 40))
            assert (await look(engine, batch)).status == BatchStatus.COMPLETED

        await asyncio.gather(*(one_batch(number) for number in range(6)), sweeps.sweep_once(engine))
        made = await runs.trigger_run(engine, 1, "t", Packet(b"1"), RunOptions(idempotency_key="k"), request_id="r")
        assert isinstance(made, RunCreated)
        await assert_invariants(engine)
    finally:
        await engine.close()
