"""The life of a batch: created, filled by chunks, sealed when all items are there, closed when all have ended.

Every change is one transaction on the batch's own row, so that creates, chunks, seals, completions and the sweep of
deadlines meet there and nowhere else.
"""

from __future__ import annotations

import asyncio
import contextlib
import operator
from collections.abc import Callable, Sequence
from typing import Final
from uuid import UUID

from headrace.durations import parse_duration
from headrace.engine.admission import judge_stream
from headrace.engine.engine import Engine
from headrace.engine.foreign_keys import reserve_keys
from headrace.engine.forwards import ask_owner
from headrace.engine.idempotency import (
    BATCH_SCOPE,
    REQUEST_SCOPE,
    KeyClaim,
    KeyMovedError,
    claim_keys,
    fingerprint_request,
)
from headrace.engine.items import BUSY_DELAY, RunsBusyError, claim_items, insert_items
from headrace.engine.lanes import LaneFinder
from headrace.engine.mirrors import UnmirroredError, mirror_targets
from headrace.engine.ordering import OrderRefusedError, hold_order_keys
from headrace.engine.outcomes import (
    JSON_TYPE,
    BatchCreated,
    BatchElsewhere,
    BatchExists,
    BatchItemError,
    BatchMissing,
    BatchRefused,
    BatchState,
    ChunkStored,
    Incomplete,
    ItemOutcome,
    ItemResult,
    KeyConflict,
    Lineage,
    Packet,
    Sealed,
    StoredItem,
    StreamDone,
    StreamOpen,
    StreamRefused,
)
from headrace.engine.rows import read_batch, read_json, read_run
from headrace.engine.runs import find_run
from headrace.engine.waiting import await_end
from headrace.engine.waits import complete_targets
from headrace.ids import MAX_ITEM_INDEX, mint_batch_id, parse_run_id
from headrace.payloads import STORED_TYPE
from headrace.protocol.batches import CreateBatch
from headrace.protocol.statuses import RunStatus
from headrace.settings import Settings
from headrace.store.statements import Plan, query

CreateAnswer = BatchCreated | BatchExists | KeyConflict | BatchRefused

_ALL_RESULTS: Final = 2**31 - 1


async def create_batch(
    engine: Engine,
    environment_id: int,
    request: CreateBatch,
    request_id: str | None = None,
    traceparent: str | None = None,
    lineage: Lineage | None = None,
) -> CreateAnswer:
    """Creates an empty, unsealed batch; or finds the one that the same request or idempotency key made before."""
    if refused := _refuse_batch(request, engine.settings):
        return refused
    engine = _choose_store(engine, request)
    batch_id = mint_batch_id(engine.key)
    while True:
        await reserve_keys(engine, environment_id, _claim_batch(request, request_id, batch_id, (), engine.settings))
        plan = open_batch(
            environment_id,
            request,
            engine.settings,
            request_id=request_id,
            traceparent=traceparent,
            lineage=lineage,
            new_id=batch_id,
        )
        with contextlib.suppress(KeyMovedError):
            return await _find_elsewhere(engine, environment_id, await engine.store.run_plan(plan))


async def submit_batch(
    engine: Engine,
    environment_id: int,
    request: CreateBatch,
    items: Sequence[StoredItem],
    request_id: str | None = None,
    traceparent: str | None = None,
    lineage: Lineage | None = None,
) -> CreateAnswer:
    """One shot: the batch and all its runs in one transaction, or nothing. Workers are told after the commit.

    Items are as for ``store_chunk``; ``request.run_count`` has to be their number and their indexes 0 to that.
    """
    if refused := _refuse_batch(request, engine.settings):
        return refused
    engine = _choose_store(engine, request, items)
    lanes = LaneFinder(environment_id, engine.lanes)
    batch_id = mint_batch_id(engine.key)
    claims = _claim_batch(request, request_id, batch_id, items, engine.settings)
    while True:
        await reserve_keys(engine, environment_id, claims + claim_items(batch_id, items, engine.settings))
        plan = fill_batch(
            environment_id,
            request,
            items,
            lanes,
            engine.settings,
            request_id=request_id,
            traceparent=traceparent,
            lineage=lineage,
            new_id=batch_id,
            may_repeat=True,
        )
        try:
            answer = await engine.store.run_plan(plan)
        except RunsBusyError:
            lanes.met.clear()
            await asyncio.sleep(BUSY_DELAY)
        except OrderRefusedError as error:
            return BatchRefused(422, str(error))
        except KeyMovedError:
            lanes.met.clear()
        except UnmirroredError as others:
            lanes.met.clear()
            await mirror_targets(engine, environment_id, others.kind, others.targets)
        else:
            break
    answer = await _find_elsewhere(engine, environment_id, answer)
    if isinstance(answer, BatchCreated):
        lanes.keep_lanes()
        engine.notices.runs_ready(environment_id)
    return answer


def _choose_store(engine: Engine, request: CreateBatch, items: Sequence[StoredItem] = ()) -> Engine:
    """That of the parent, so that a tree is never in two stores; else any that takes roots.

    Home where items have order or debounce keys: these meet there, and nowhere else. A stream says so before it has sent them.
    """
    parent = parse_run_id(request.parent_run_id) if request.parent_run_id else None
    if parent is not None:
        return engine.at(parent)
    if request.ordered or any(item.options and (item.options.order_key or item.options.debounce) for item in items):
        return engine.home
    return engine.pick()


async def admit_stream(
    engine: Engine, environment_id: int, batch_id: UUID
) -> StreamOpen | StreamDone | StreamRefused | BatchMissing:
    """What a stream of items may do, before its body is read."""
    batch = await find_batch(engine, environment_id, batch_id)
    return judge_stream(batch) if batch else BatchMissing()


async def store_chunk(
    engine: Engine,
    environment_id: int,
    batch: BatchState,
    items: Sequence[StoredItem],
    *,
    hold: Callable[[], Plan[None]] | None = None,
    prefers: str | None = None,
) -> ChunkStored | StreamDone | StreamRefused | BatchMissing | BatchRefused:
    """Stores a chunk of items as runs, all or none. Committed when it returns.

    Items that are there already count as deduplicated: the first one stored wins. ``hold`` is a plan that comes last in the
    transaction and raises where the caller may not store. ``prefers`` is the version of the run that waits for them.
    """
    return await ask_owner(
        engine,
        batch.id,
        lambda owner: _store_chunk_there(owner, environment_id, batch, items, hold=hold, prefers=prefers),
    )


async def _store_chunk_there(
    engine: Engine,
    environment_id: int,
    batch: BatchState,
    items: Sequence[StoredItem],
    *,
    hold: Callable[[], Plan[None]] | None,
    prefers: str | None,
) -> ChunkStored | StreamDone | StreamRefused | BatchMissing | BatchRefused:
    if over := next((item for item in items if not 0 <= item.index < (batch.run_count or MAX_ITEM_INDEX + 1)), None):
        return BatchRefused(422, f"Item index {over.index} exceeds batch runCount {batch.run_count}")
    held_for = batch.id if batch.start_policy == "seal" else None
    lanes = LaneFinder(environment_id, engine.lanes, held_for, prefers=prefers)
    try:
        answer = await _store_patiently(engine, lanes, batch.id, items, hold)
    except ValueError as error:  # options that can't be read: nothing of the chunk is stored
        return BatchRefused(422, f"Invalid options: {error}")
    if isinstance(answer, ChunkStored):
        lanes.keep_lanes()
        if answer.accepted and held_for is None:
            engine.notices.runs_ready(environment_id)
    return answer


async def _store_patiently(
    engine: Engine,
    lanes: LaneFinder,
    batch_id: UUID,
    items: Sequence[StoredItem],
    hold: Callable[[], Plan[None]] | None,
) -> ChunkStored | StreamDone | StreamRefused | BatchMissing:
    while True:
        await reserve_keys(engine, lanes.environment_id, claim_items(batch_id, items, engine.settings))
        try:
            return await engine.store.run_plan(_fill_open_batch(lanes, batch_id, items, engine.settings, hold))
        except RunsBusyError:  # a completion of a run that an item stands for is under way: milliseconds
            lanes.met.clear()  # those that were made are rolled back
            await asyncio.sleep(BUSY_DELAY)
        except KeyMovedError:
            lanes.met.clear()
        except UnmirroredError as others:
            lanes.met.clear()
            await mirror_targets(engine, lanes.environment_id, others.kind, others.targets)


async def end_stream(
    engine: Engine, environment_id: int, batch_id: UUID, *, run_count: int | None = None, partial: bool = False
) -> Sealed | Incomplete | StreamRefused | BatchMissing | BatchRefused:
    """What is answered when a stream has ended: seals the batch if every item is there, else says which are missing.

    ``run_count`` names the final count of an open-ended batch. A ``partial`` stream is one segment of several: nothing is
    sealed, and the missing indexes, which cost a look at the whole batch, are not listed.
    """
    return await ask_owner(
        engine,
        batch_id,
        lambda owner: _end_stream_there(owner, environment_id, batch_id, run_count=run_count, partial=partial),
    )


async def _end_stream_there(
    engine: Engine, environment_id: int, batch_id: UUID, *, run_count: int | None, partial: bool
) -> Sealed | Incomplete | StreamRefused | BatchMissing | BatchRefused:
    batch = await _find_batch_there(engine, environment_id, batch_id)
    if batch is None:
        return BatchMissing()
    count = batch.run_count if batch.run_count is not None else run_count
    if refused := _refuse_count(batch, run_count, count):
        return refused
    if count is not None and batch.accepted == count and not partial:
        if sealed := await _try_to_seal(engine, batch, count):
            return Sealed(sealed)  # also where that ended it at once, as ABORTED: no item could become a run
        # another stream, or the sweep of deadlines, was quicker: what it made of the batch is the answer
        batch = await _find_batch_there(engine, environment_id, batch_id)
        if batch is None:  # it was moved between the two looks
            return BatchMissing()
    match judge_stream(batch):
        case StreamDone():
            return Sealed(batch)
        case StreamRefused() as refused:
            return refused
        case StreamOpen():
            missing: list[tuple[int, int]] = []
            if not partial and count is not None:
                rows = await engine.store.fetch("list_missing", environment_id, batch_id, count)
                missing = [(row["first"], row["last"]) for row in rows]
            return Incomplete(batch, missing)


async def _try_to_seal(engine: Engine, batch: BatchState, count: int) -> BatchState | None:
    sealed = await engine.store.run_plan(_seal_open_batch(batch.environment_id, batch, count))
    if sealed is not None:
        engine.notices.runs_ready(batch.environment_id)
        if sealed.completed_at:
            engine.notices.runs_done(batch.environment_id)
    return sealed


def _refuse_count(batch: BatchState, named: int | None, count: int | None) -> BatchRefused | None:
    if named is not None and named != count:
        return BatchRefused(422, f"The batch was created with runCount {count} and can't be sealed with {named}.")
    if count is not None and batch.highest_index >= count and isinstance(judge_stream(batch), StreamOpen):
        return BatchRefused(422, f"Item index {batch.highest_index} exceeds batch runCount {count}")
    return None


async def find_batch(engine: Engine, environment_id: int, batch_id: UUID) -> BatchState | None:
    """The batch as it stands, or None where this environment has none with that id."""
    rows = await ask_owner(
        engine, batch_id, lambda owner: owner.store.fetch("find_batch", environment_id, batch_id), operator.not_
    )
    return read_batch(rows[0]) if rows else None


async def _find_batch_there(engine: Engine, environment_id: int, batch_id: UUID) -> BatchState | None:
    rows = await engine.store.fetch("find_batch", environment_id, batch_id)
    return read_batch(rows[0]) if rows else None


async def list_batch_run_ids(engine: Engine, environment_id: int, batch_id: UUID) -> list[UUID]:
    """The runs of a batch in the order of its items, each once."""
    rows = await ask_owner(
        engine, batch_id, lambda owner: owner.store.fetch("list_batch_run_ids", environment_id, batch_id), operator.not_
    )
    return [row["id"] for row in rows]


async def list_batch_errors(engine: Engine, environment_id: int, batch_id: UUID) -> list[BatchItemError]:
    """Items that could not become a run that can start, by index, the first thousand."""
    rows = await ask_owner(
        engine, batch_id, lambda owner: owner.store.fetch("list_batch_errors", environment_id, batch_id), operator.not_
    )
    errors = [(row, read_json(row["error"])) for row in rows]
    return [BatchItemError(row["batch_index"], row["task"], error["code"], error["message"]) for row, error in errors]


async def list_batch_results(
    engine: Engine, environment_id: int, batch_id: UUID, *, after: int = -1, limit: int | None = None
) -> list[ItemResult]:
    """Ended items with an index above ``after``, by index, at most ``limit``."""
    most = _ALL_RESULTS if limit is None else limit
    return await ask_owner(
        engine, batch_id, lambda owner: _list_results_there(owner, environment_id, batch_id, after, most), operator.not_
    )


async def _list_results_there(
    engine: Engine, environment_id: int, batch_id: UUID, after: int, most: int
) -> list[ItemResult]:
    rows = await engine.store.fetch("list_batch_results", environment_id, batch_id, after + 1, most)
    results = [ItemResult(row["item_index"], read_run(row)) for row in rows]
    if engine.stores.others():
        results += await _list_foreign_results(engine, environment_id, batch_id, after + 1, most)
        results = sorted(results, key=lambda one: one.index)[:most]
    return results


async def _list_foreign_results(
    engine: Engine, environment_id: int, batch_id: UUID, start: int, limit: int
) -> list[ItemResult]:
    """Ended items that stand for runs of other stores, as those have them."""
    rows = await engine.store.fetch("list_foreign_items", environment_id, batch_id, start, limit)
    found = await asyncio.gather(*(find_run(engine, environment_id, row["run_id"]) for row in rows))
    return [ItemResult(row["item_index"], run) for row, run in zip(rows, found, strict=True) if run is not None]


async def list_batch_outcomes(
    engine: Engine,
    environment_id: int,
    batch_id: UUID,
    *,
    start: int = 0,
    limit: int = 1000,
    indexes: list[int] | None = None,
) -> list[ItemOutcome]:
    """How items ended, without their payloads: from index ``start`` on, at most ``limit``, in order; or ``indexes``."""
    name, asked = ("list_batch_outcomes", [start, limit]) if indexes is None else ("find_batch_outcomes", [indexes])
    rows = await ask_owner(
        engine, batch_id, lambda owner: owner.store.fetch(name, environment_id, batch_id, *asked), operator.not_
    )
    return [
        ItemOutcome(
            row["item_index"],
            row["id"],
            row["task"],
            RunStatus(row["status"]),
            Packet(row["output"], row["output_type"] or JSON_TYPE),
            read_json(row["error"]),
        )
        for row in rows
    ]


async def await_batch(engine: Engine, environment_id: int, batch_id: UUID, timeout: float) -> BatchState | None:
    """The batch once it has ended, or as it stands after ``timeout`` seconds."""
    engine = engine.at(batch_id)
    return await await_end(
        engine,
        environment_id,
        lambda: find_batch(engine, environment_id, batch_id),
        lambda batch: batch.completed_at is not None,
        timeout,
    )


def open_batch(
    environment_id: int,
    request: CreateBatch,
    settings: Settings,
    *,
    request_id: str | None = None,
    traceparent: str | None = None,
    items: Sequence[StoredItem] = (),
    lineage: Lineage | None = None,
    batch_id: UUID | None = None,
    new_id: UUID | None = None,
) -> Plan[CreateAnswer | BatchElsewhere]:
    """Plan: makes the batch of a request, or finds the one that its request id or idempotency key stands for.

    ``items`` are those of a one-shot request: the same key with other items is another request. ``lineage`` is that of its
    items; ``batch_id`` is given by a run that
    waits for the batch and minted it before: making it again does nothing. ``new_id`` is what a new batch is to have.
    """
    is_awaited = batch_id is not None
    batch_id = batch_id or new_id or mint_batch_id()
    claims = _claim_batch(request, request_id, batch_id, items, settings)
    for claim in claims:  # one after the other: a hit on the first leaves the second unclaimed
        [holder] = yield from claim_keys(environment_id, [claim])
        if holder.target_id != batch_id:
            if holder.fingerprint != claim.fingerprint:
                what = "request id" if claim.scope == REQUEST_SCOPE else "idempotency key"
                return KeyConflict(
                    f"This {what} was used before, for another request. Use a new one, or send the same request."
                )
            if claim.scope == BATCH_SCOPE and request_id:
                yield from query("retarget_key", environment_id, REQUEST_SCOPE, claims[0].key_hash, holder.target_id)
            rows = yield from query("find_batch", environment_id, holder.target_id)
            return BatchExists(read_batch(rows[0])) if rows else BatchElsewhere(holder.target_id)
    rows = yield from query(
        "insert_batch",
        environment_id,
        batch_id,
        request.start,
        request.run_count,
        settings.seal_timeout,
        parse_run_id(request.parent_run_id) if request.parent_run_id else None,
        bool(request.resume_parent_on_completion),
        request.idempotency_key,
        traceparent,
        lineage.root_run_id if lineage else None,
        lineage.depth if lineage else 0,
        is_awaited,
    )
    if not rows:  # the same wait was written before, and its answer got lost
        rows = yield from query("find_batch", environment_id, batch_id)
        return BatchExists(read_batch(rows[0]))
    return BatchCreated(read_batch(rows[0]))


def fill_batch(
    environment_id: int,
    request: CreateBatch,
    items: Sequence[StoredItem],
    lanes: LaneFinder,
    settings: Settings,
    *,
    request_id: str | None = None,
    traceparent: str | None = None,
    lineage: Lineage | None = None,
    batch_id: UUID | None = None,
    new_id: UUID | None = None,
    may_repeat: bool = False,
) -> Plan[CreateAnswer | BatchElsewhere]:
    """Plan: the three steps of a batch at once: create, add all items, seal.

    With ``may_repeat`` it raises RunsBusyError where it would have to wait for a run while it holds that run's key, which
    the run's end may want to free: it is to be rolled back and run again.
    """
    answer = yield from open_batch(
        environment_id,
        request,
        settings,
        request_id=request_id,
        traceparent=traceparent,
        items=items,
        lineage=lineage,
        batch_id=batch_id,
        new_id=new_id or mint_batch_id(lanes.store),
    )
    if not isinstance(answer, BatchCreated):
        return answer
    batch = answer.batch
    yield from hold_order_keys(environment_id, [(item.task, item.options) for item in items], lanes.store)
    for start in range(0, len(items), settings.ingest_chunk_items):
        chunk = items[start : start + settings.ingest_chunk_items]
        yield from insert_items(batch, chunk, lanes, settings, is_new=not may_repeat)
    sealed = yield from _seal_open_batch(environment_id, batch, len(items))
    if sealed is None:
        raise ValueError("the items of a one-shot batch must have the indexes from 0 to their number, each once")
    return BatchCreated(sealed)


def _claim_batch(
    request: CreateBatch, request_id: str | None, batch_id: UUID, items: Sequence[StoredItem], settings: Settings
) -> list[KeyClaim]:
    """What a batch claims, in this order: the request's id, then its key."""
    if not request_id and not request.idempotency_key:
        return []
    fingerprint = fingerprint_request([request, *map(_item_fingerprint, items)])
    claims: list[KeyClaim] = []
    if request_id:
        claims.append(KeyClaim(REQUEST_SCOPE, request_id, batch_id, settings.request_key_ttl, fingerprint))
    if request.idempotency_key:
        ttl = (
            parse_duration(request.idempotency_key_ttl) if request.idempotency_key_ttl else settings.idempotency_key_ttl
        )
        claims.append(KeyClaim(BATCH_SCOPE, request.idempotency_key, batch_id, ttl, fingerprint))
    return claims


async def _find_elsewhere(engine: Engine, environment_id: int, answer: CreateAnswer | BatchElsewhere) -> CreateAnswer:
    """``answer``, with the batch itself where a key stands for one of another store."""
    if not isinstance(answer, BatchElsewhere):
        return answer
    found = await find_batch(engine, environment_id, answer.batch_id)
    assert found is not None, "reserve_keys has looked"
    return BatchExists(found)


def _item_fingerprint(item: StoredItem) -> list[object]:
    # the path of an uploaded payload differs from try to try
    data = None if item.packet.type == STORED_TYPE else item.packet.data
    return [item.index, item.task, data, item.options]


def _fill_open_batch(
    lanes: LaneFinder,
    batch_id: UUID,
    items: Sequence[StoredItem],
    settings: Settings,
    hold: Callable[[], Plan[None]] | None,
) -> Plan[ChunkStored | StreamDone | StreamRefused | BatchMissing]:
    rows = yield from query("lock_batch", lanes.environment_id, batch_id)
    if not rows:
        return BatchMissing()
    match judge_stream(read_batch(rows[0])):
        case StreamOpen(batch):
            named = [(item.task, item.options) for item in items]
            yield from hold_order_keys(lanes.environment_id, named, lanes.store)
            accepted = yield from insert_items(batch, items, lanes, settings)
            if hold is not None:
                yield from hold()
            return ChunkStored(accepted, len(items) - accepted)
        case other:
            return other


def _seal_open_batch(environment_id: int, batch: BatchState, run_count: int) -> Plan[BatchState | None]:
    """Plan: the seal, and the start of runs that waited for it. None where the condition did not hold."""
    rows = yield from query("seal_batch", environment_id, batch.id, run_count)
    if rows and batch.start_policy == "seal":
        yield from query("open_lanes", batch.id)
    if rows and rows[0]["completed_at"] and rows[0]["watched"]:
        yield from complete_targets(environment_id, [batch.id])
    return read_batch(rows[0]) if rows else None


def _refuse_batch(request: CreateBatch, settings: Settings) -> BatchRefused | None:
    limit = settings.batch_max_items or MAX_ITEM_INDEX
    if request.run_count is not None and request.run_count > limit:
        return BatchRefused(400, f"Batch runCount of {request.run_count} exceeds maximum allowed of {limit}.")
    if request.parent_run_id and parse_run_id(request.parent_run_id) is None:
        return BatchRefused(422, f"parentRunId is {request.parent_run_id!r}, which is no run id.")
    if request.idempotency_key_ttl:
        try:
            parse_duration(request.idempotency_key_ttl)
        except ValueError as error:
            return BatchRefused(422, f"idempotencyKeyTTL: {error}")
    return None
