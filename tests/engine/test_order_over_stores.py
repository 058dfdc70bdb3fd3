"""Order keys where there are several stores: all runs of a key are at home, and what would be elsewhere is refused."""

from __future__ import annotations

from uuid import UUID

import pytest

from headrace.engine import batches, runs
from headrace.engine.engine import Engine
from headrace.engine.outcomes import BatchCreated, BatchRefused, ChunkStored, Lineage, Packet, RunCreated, StoredItem
from headrace.ids import format_run_id
from headrace.items import Item, LineEncoder
from headrace.protocol.batches import CreateBatch
from headrace.protocol.options import RunOptions
from headrace.sdk.segments import ItemSource
from tests.engine.helpers import make_items
from tests.invariants import count_rows
from tests.pairs import other_url, pair

__all__ = ["other_url", "pair"]

pytestmark = pytest.mark.anyio

ORDERED = RunOptions(order_key="k")


async def test_roots_and_batches_with_order_keys_are_at_home(pair: list[Engine]) -> None:
    home = pair[0]
    stores: set[str] = set()
    for _ in range(12):  # 1 in 4,096 that chance put them all there
        made = await runs.trigger_run(home, 1, "t", Packet(b"1"), ORDERED)
        assert isinstance(made, RunCreated)
        batch = await batches.submit_batch(
            home, 1, CreateBatch(run_count=1), [StoredItem(0, "t", Packet(b"1"), ORDERED)]
        )
        assert isinstance(batch, BatchCreated)
        stream = await batches.create_batch(home, 1, CreateBatch(run_count=1, ordered=True))
        assert isinstance(stream, BatchCreated)
        stored = await batches.store_chunk(home, 1, stream.batch, [StoredItem(0, "t", Packet(b"1"), ORDERED)])
        assert isinstance(stored, ChunkStored)
        stores |= {home.at(one).key for one in (made.run_id, batch.batch.id, stream.batch.id)}
    assert stores == {"0"}


async def test_what_would_be_elsewhere_is_refused_and_leaves_nothing(pair: list[Engine]) -> None:
    home, other = pair
    parent = await make_root(other)
    lineage = Lineage(parent, parent, 1)
    item = StoredItem(0, "t", Packet(b"1"), ORDERED)
    stream = await batches.create_batch(home, 1, CreateBatch(run_count=1, parent_run_id=format_run_id(parent)))
    assert isinstance(stream, BatchCreated)
    before = await count_rows(other)
    for refused in (
        await runs.trigger_run(home, 1, "t", Packet(b"1"), ORDERED, lineage=lineage),
        await batches.submit_batch(home, 1, CreateBatch(run_count=1, parent_run_id=format_run_id(parent)), [item]),
        await batches.store_chunk(home, 1, stream.batch, [item]),
    ):
        assert isinstance(refused, BatchRefused)
        assert refused.status == 422
        assert "orderKey: all runs of a key are in the home store" in refused.message
    assert await count_rows(other) == before
    stored = await batches.store_chunk(home, 1, stream.batch, make_items(0, 1))
    assert isinstance(stored, ChunkStored)


async def make_root(store: Engine) -> UUID:
    while True:
        made = await runs.trigger_run(store, 1, "t", Packet(b"1"), RunOptions())
        assert isinstance(made, RunCreated)
        if store.at(made.run_id) is store:
            return made.run_id


@pytest.mark.parametrize(
    ("options", "item", "expected"),
    [
        ({"order_key": "k"}, 1, True),
        ({}, Item(1, order_key="k"), True),
        ({}, Item(1, tags=["a"]), False),
        ({}, 1, False),
    ],
)
def test_a_client_says_of_a_stream_that_it_has_order_keys(
    options: dict[str, str], item: object, *, expected: bool
) -> None:
    source = ItemSource([item], LineEncoder("t", options))
    source.read_ahead()
    assert source.has_meeting_keys is expected
    assert source.read() is not None
