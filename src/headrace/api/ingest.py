"""One stream's items on their way into the store: chunks and uploads, never more in flight than the setting allows.

Items are stored in chunks. While one chunk is being stored the next is filled; a chunk that fills too slowly is stored
as it is, so that items start soon after they were produced. Memory stays within the chunks and uploads in flight.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass
from typing import Final

from headrace import ids, metrics
from headrace.api import offload
from headrace.engine import batches
from headrace.engine.engine import Engine
from headrace.engine.environments import Environment
from headrace.engine.outcomes import (
    BatchMissing,
    BatchRefused,
    BatchState,
    ChunkStored,
    ItemError,
    Packet,
    StoredItem,
    StreamDone,
    StreamRefused,
)
from headrace.engine.screening import read_packet, refuse_faults, refuse_large_metadata
from headrace.protocol.ndjson import BadLine, Line, OversizedItem, ParsedItem

FLUSH_AFTER: Final = 0.05
"""Seconds for which the first item of a chunk may wait for more of them."""

ITEM_OVERHEAD: Final = 100
"""Bytes that an item is reckoned to weigh beside its payload, so that options and names count for something."""


@dataclass(frozen=True, slots=True)
class BadItem:
    """An item that ends its stream: HTTP ``status`` and the sentence that names it."""

    status: int
    message: str


@dataclass(frozen=True, slots=True)
class ItemForbidden:
    """An item of a task that the caller's token may not trigger."""


@dataclass(frozen=True, slots=True)
class Failed:
    """The database or the payload store failed; what was stored before stays."""

    error: Exception


Ending = StreamDone | StreamRefused | BatchMissing | BadItem | ItemForbidden | Failed

STORES_IN_FLIGHT: Final = 2
"""Chunks of one stream at the store at once: one being stored, and one ready behind it. A batch takes them in turn."""


class Ingest:
    """The way of one stream's items into the store.

    ``await add(lines)`` as they come and not later than ``look_at``, with nothing if nothing came; stop when ``ending``
    is set; then ``await drain()``. ``accepted`` and ``deduplicated`` count the items that were stored.
    """

    def __init__(
        self,
        engine: Engine,
        environment: Environment,
        batch: BatchState,
        *,
        run_count: int | None,
        may_trigger: Callable[[str], bool] | None = None,
    ) -> None:
        settings = engine.settings
        self.accepted = 0
        self.deduplicated = 0
        self.ending: Ending | None = None
        self._engine = engine
        self._environment = environment
        self._batch = batch
        self._index_limit = ids.MAX_ITEM_INDEX + 1 if run_count is None else run_count
        self._may_trigger = may_trigger
        self._chunk: list[StoredItem] = []
        self._chunk_bytes = 0
        self._due_at = 0.0
        self._max_items = settings.ingest_chunk_items
        self._max_bytes = settings.ingest_chunk_bytes
        self._metadata_max_size = settings.metadata_max_size
        self._clock = asyncio.get_running_loop().time
        self._store_slots = asyncio.Semaphore(min(STORES_IN_FLIGHT, settings.ingest_concurrency))
        self._upload_slots = asyncio.Semaphore(settings.ingest_concurrency)
        self._stores: set[asyncio.Task[None]] = set()
        self._uploads: set[asyncio.Task[None]] = set()

    @property
    def look_at(self) -> float | None:
        """The time, by the event loop's clock, at which this wants to be looked at; None while it holds nothing."""
        if self._chunk and not self._store_slots.locked():
            return self._due_at
        return self._clock() + FLUSH_AFTER if self._stores or self._uploads else None

    async def add(self, lines: Sequence[Line]) -> None:
        """Takes lines in; waits where as much as may be is in flight. Nothing after a line that ended the stream."""
        for line in lines:
            if self.ending is not None:
                return
            if isinstance(line, ParsedItem):
                item = self._read_item(line)
                if item is None:
                    return
                if offload.is_large(self._engine, item.packet):
                    await self._upload_item(item)
                    continue
            elif isinstance(line, OversizedItem):
                if self._refuse_index(line.index, line.task):
                    return
                item = StoredItem(line.index, line.task, Packet(b"{}"), None, _describe_oversized(line))
            else:
                self.ending = _describe_bad_line(line)
                return
            self._append(item)
            if len(self._chunk) >= self._max_items or self._chunk_bytes >= self._max_bytes:
                await self._flush()
        if self._chunk and self._clock() >= self._due_at and not self._store_slots.locked():
            await self._flush()

    async def drain(self) -> None:
        """Waits until all that was taken in is stored, or has failed."""
        if self._uploads:
            await asyncio.wait(self._uploads)
        if self._chunk:
            await self._flush()
        if self._stores:
            await asyncio.wait(self._stores)

    def abandon(self) -> None:
        """Ends what is still in flight, if anything is: the stream's own task is being ended."""
        for task in self._stores | self._uploads:
            task.cancel()

    def _read_item(self, line: ParsedItem) -> StoredItem | None:
        item = line.item
        if self._refuse_index(item.index, item.task):
            return None
        try:
            refuse_faults(item.task, item.options)
            refuse_large_metadata(item.options, self._metadata_max_size)
            return StoredItem(item.index, item.task, read_packet(item.payload, item.options), item.options)
        except ValueError as error:
            self.ending = BadItem(422, f"Invalid item at index {item.index}: {error} (line {line.line})")
            return None

    def _refuse_index(self, index: int, task: str) -> bool:
        if index >= self._index_limit:
            self.ending = BadItem(422, f"Item index {index} exceeds batch runCount {self._index_limit}")
        elif self._may_trigger is not None and not self._may_trigger(task):
            self.ending = ItemForbidden()
        else:
            return False
        return True

    def _append(self, item: StoredItem) -> None:
        if not self._chunk:
            self._due_at = self._clock() + FLUSH_AFTER
        self._chunk.append(item)
        self._chunk_bytes += ITEM_OVERHEAD + len(item.packet.data or b"")

    async def _upload_item(self, item: StoredItem) -> None:
        await self._upload_slots.acquire()
        _start(self._uploads, self._upload(item))

    async def _upload(self, item: StoredItem) -> None:
        try:
            item.packet = await offload.offload_packet(self._engine, self._environment, item.packet)
            self._append(item)
        except Exception as error:  # noqa: BLE001 - whoever drains the stream answers it
            self._fail(error)
        finally:
            self._upload_slots.release()

    async def _flush(self) -> None:
        await self._store_slots.acquire()
        items, self._chunk, self._chunk_bytes = self._chunk, [], 0
        if items:
            _start(self._stores, self._store(items))
        else:
            self._store_slots.release()

    async def _store(self, items: list[StoredItem]) -> None:
        try:
            outcome = await batches.store_chunk(self._engine, self._environment.id, self._batch, items)
            match outcome:
                case ChunkStored(accepted, deduplicated):
                    self.accepted += accepted
                    self.deduplicated += deduplicated
                    metrics.count_ingested(len(items), sum(len(item.packet.data or b"") for item in items))
                case BatchRefused(status, message):
                    self.ending = BadItem(status, message)
                case _:
                    self.ending = outcome
            if not isinstance(outcome, ChunkStored) or outcome.deduplicated:
                await offload.delete_unused_objects(self._engine, self._batch, items)
        except Exception as error:  # noqa: BLE001 - whoever drains the stream answers it
            self._fail(error)
        finally:
            self._store_slots.release()

    def _fail(self, error: Exception) -> None:
        # A batch that is done, or refused for good, is the truer answer; a bad line is still bad when it is sent again.
        if not isinstance(self.ending, StreamDone | StreamRefused | BatchMissing):
            self.ending = Failed(error)


def _start(tasks: set[asyncio.Task[None]], coroutine: Coroutine[None, None, None]) -> None:
    task = asyncio.create_task(coroutine)
    tasks.add(task)
    task.add_done_callback(tasks.discard)


def _describe_oversized(line: OversizedItem) -> ItemError:
    return ItemError(
        "PAYLOAD_TOO_LARGE",
        f"Batch item payload is too large ({line.actual_size / 1024:.1f} KB). Maximum allowed size is "
        f"{line.max_size / 1024:.1f} KB. Reduce the payload size or offload large data to external storage.",
    )


def _describe_bad_line(line: BadLine) -> BadItem:
    return BadItem(400 if line.kind in {"json", "utf8"} else 422, line.message)
