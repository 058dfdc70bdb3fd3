"""Large payloads on their way into the payload store, and out of it again if nobody needs them.

Each upload has a key of its own that nobody can guess, so a repeated item never overwrites the object of the one that
was accepted; what was uploaded for an item that turns out to be there already is deleted instead.
"""

from __future__ import annotations

from collections.abc import Iterable

from headrace import ids
from headrace.engine import runs
from headrace.engine.engine import Engine
from headrace.engine.environments import Environment
from headrace.engine.outcomes import BatchState, Packet, StoredItem
from headrace.payloads import STORED_TYPE


def is_large(engine: Engine, packet: Packet) -> bool:
    """Whether a packet belongs into the payload store."""
    return packet.data is not None and len(packet.data) >= engine.settings.offload_threshold


async def offload_packet(engine: Engine, environment: Environment, packet: Packet) -> Packet:
    """The packet that stands for ``packet`` once its bytes are in the payload store. Raises PayloadStoreError."""
    path = await engine.payloads.put(environment.slug, packet.data or b"")
    return Packet(path.encode(), STORED_TYPE)


async def offload_if_large(engine: Engine, environment: Environment, packet: Packet) -> Packet:
    """The packet itself where it is small enough to stay in its row, else the one that stands for it."""
    return await offload_packet(engine, environment, packet) if is_large(engine, packet) else packet


async def delete_objects(engine: Engine, packets: Iterable[Packet]) -> None:
    """Deletes the objects of packets that no run refers to: best effort, an orphan costs space and nothing else."""
    for packet in packets:
        if packet.type == STORED_TYPE and packet.data is not None:
            await engine.payloads.delete(packet.data.decode())


async def delete_unused_objects(engine: Engine, batch: BatchState, items: Iterable[StoredItem]) -> None:
    """Deletes what was uploaded for those ``items`` whose run, if there is one, has another payload."""
    uploaded = [item for item in items if item.packet.type == STORED_TYPE]
    unused = [item.packet for item in uploaded if not await _is_used(engine, batch, item)]
    await delete_objects(engine, unused)


async def _is_used(engine: Engine, batch: BatchState, item: StoredItem) -> bool:
    run = await runs.find_run(engine, batch.environment_id, ids.item_run_id(batch.id, item.index))
    return run is not None and run.payload == item.packet
