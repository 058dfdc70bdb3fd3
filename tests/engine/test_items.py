"""Items become runs, each index once, whatever is repeated or raced."""

from __future__ import annotations

import asyncio

import pytest

from headrace.engine import batches
from headrace.engine.engine import Engine
from headrace.engine.outcomes import BatchCreated, ChunkStored, Incomplete, Packet, Sealed, StoredItem
from headrace.protocol.batches import CreateBatch

pytestmark = pytest.mark.anyio


async def test_concurrent_streams_of_one_batch_store_each_item_once(engine: Engine) -> None:
    created = await batches.create_batch(engine, 1, CreateBatch(run_count=400))
    assert isinstance(created, BatchCreated)
    items = [StoredItem(index, "t", Packet(b"1")) for index in range(400)]

    async def stream() -> int:
        accepted = 0
        for start in range(0, 400, 50):
            stored = await batches.store_chunk(engine, 1, created.batch, items[start : start + 50])
            assert isinstance(stored, ChunkStored)
            accepted += stored.accepted
        return accepted

    assert sum(await asyncio.gather(*(stream() for _ in range(4)))) == 400
    assert isinstance(await batches.end_stream(engine, 1, created.batch.id), Sealed)
    assert len(await batches.list_batch_run_ids(engine, 1, created.batch.id)) == 400


async def test_missing_indexes_are_named_as_ranges(engine: Engine) -> None:
    created = await batches.create_batch(engine, 1, CreateBatch(run_count=10))
    assert isinstance(created, BatchCreated)
    await batches.store_chunk(engine, 1, created.batch, [StoredItem(i, "t", Packet(None)) for i in (1, 2, 5, 8)])
    answer = await batches.end_stream(engine, 1, created.batch.id)
    assert isinstance(answer, Incomplete)
    assert answer.missing == [(0, 0), (3, 4), (6, 7), (9, 9)]
