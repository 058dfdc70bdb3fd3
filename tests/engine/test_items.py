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


async def test_chunks_of_one_batch_are_stored_one_after_the_other(engine: Engine) -> None:
    """What a chunk knows of its batch (is it open, has it aliases) is of the moment at which it may write."""
    created = await batches.create_batch(engine, 1, CreateBatch(run_count=2))
    assert isinstance(created, BatchCreated)
    async with engine.store.connect() as connection:
        other = connection.transaction()
        await other.start()
        await connection.execute("SELECT FROM headrace.batches FOR UPDATE")
        await connection.execute(
            "INSERT INTO headrace.batch_aliases (environment_id, batch_id, batch_index, run_id)"
            " VALUES (1, $1, 0, gen_random_uuid())",
            created.batch.id,
        )
        await connection.execute("UPDATE headrace.batches SET aliased = 1, accepted = 1, highest_index = 0")
        storing = asyncio.create_task(batches.store_chunk(engine, 1, created.batch, [StoredItem(0, "t", Packet(b"1"))]))
        done, _ = await asyncio.wait({storing}, timeout=0.3)
        assert not done
        await other.commit()
    assert await storing == ChunkStored(0, 1)


async def test_the_seal_itself_asks_for_every_item(engine: Engine) -> None:
    """Invariant 2: whoever calls it, whatever was looked at before."""
    created = await batches.create_batch(engine, 1, CreateBatch(run_count=3))
    assert isinstance(created, BatchCreated)
    await batches.store_chunk(engine, 1, created.batch, [StoredItem(index, "t", Packet(None)) for index in (0, 1)])
    assert await engine.store.fetch("seal_batch", 1, created.batch.id, 3) == []
    assert await engine.store.fetch("seal_batch", 1, created.batch.id, 2) == []
    items = [StoredItem(0, "t", Packet(None)), StoredItem(0, "t", Packet(None))]
    with pytest.raises(ValueError, match="each once"):
        await batches.submit_batch(engine, 1, CreateBatch(run_count=2), items)
