"""Storing items: a chunk of them becomes runs, in one transaction with the batch's counts.

A plan, so that a one-shot batch, a stream and a caller's own transaction store items by the same statements.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, Final
from uuid import UUID

import msgspec

from headrace.durations import parse_duration
from headrace.engine.debounces import Asked, Hold, join_runs, read_window
from headrace.engine.idempotency import LONGEST_TTL, KeyClaim, claim_keys, find_ttl, hash_key, task_scope
from headrace.engine.lanes import LaneFinder, LaneName
from headrace.engine.mirrors import hold_mirrors
from headrace.engine.outcomes import JSON_TYPE, BatchState, StoredItem
from headrace.ids import item_run_id, minted_at
from headrace.protocol.options import RunOptions
from headrace.settings import Settings
from headrace.store.statements import Plan, query

_encode: Final = msgspec.json.Encoder().encode
_NO_OPTIONS: Final = RunOptions()

BUSY_DELAY: Final = 0.01
"""Seconds after which what met RunsBusyError is tried again."""


class RunsBusyError(Exception):
    """Runs that items resolve to are held by another transaction: roll back, and store the chunk again in a moment."""


class Origin(msgspec.Struct, frozen=True, rename="camel", omit_defaults=True):
    """What made a run, where no client did. Nobody can say it over HTTP: these are no options."""

    schedule_id: UUID | None = None
    replayed_from: UUID | None = None
    foreign_id: str | None = None
    """Of a run that was imported (``headrace.engine.imports``): the id that it came with."""


def insert_items(
    batch: BatchState, items: Sequence[StoredItem], lanes: LaneFinder, settings: Settings, *, is_new: bool = False
) -> Plan[int]:
    """Plan: stores a chunk of an open batch whose row the transaction holds, and returns how many were new.

    The caller holds the items' order keys (``hold_order_keys``). An item that is there already is left as it was stored first. ``is_new`` says that this transaction made the batch,
    so that nobody else can want its row, and can't be repeated: it waits for the runs that items resolve to. Raises ValueError on options that can't be read, RunsBusyError where it would
    have to wait for a run while others may wait for the batch.
    """
    aliases: list[tuple[int, UUID]] = []
    debounced = any(item.options is not None and item.options.debounce for item in items)
    if debounced or batch.aliased or any(item.options is not None and item.options.idempotency_key for item in items):
        items = yield from _leave_known(batch, items)
        items, aliases = yield from _resolve_keys(batch, items, settings)
    if debounced:
        if lanes.held_for is not None:
            raise ValueError(
                "debounce: the runs of a batch with start 'seal' wait for its seal; give the batch start 'add'"
            )
        items, joined = yield from _join_debounced(batch, items, is_new=is_new)
        aliases += joined
    accepted = 0
    if items:
        names = {lane_name(item.task, item.options) for item in items}
        if lanes.held_for is not None and any(name.kind == "ordered" for name in names):
            raise ValueError(
                "orderKey: the runs of a batch with start 'seal' wait in a line of their own, not in that of their key; "
                "give the batch start 'add', or its items no orderKey"
            )
        found = yield from lanes.find_lanes(names)
        rows = yield from query("insert_items", *_insert_arguments(batch, items, found, settings.seal_timeout))
        accepted = rows[0]["accepted"]
    if aliases:  # after the runs of this chunk, which they may stand for
        yield from _insert_aliases(batch, aliases, is_new=is_new)
    return accepted + len(aliases)


def claim_items(batch_id: UUID, items: Sequence[StoredItem], settings: Settings) -> list[KeyClaim]:
    """What the items of a chunk claim, each key once: within a chunk the first index wins. Raises ValueError on a bad TTL."""
    claims: dict[tuple[str, bytes], KeyClaim] = {}
    for item in items:
        if item.options is not None and (key := item.options.idempotency_key) and item.error is None:
            ttl = find_ttl(item.options, settings.idempotency_key_ttl)
            claim = KeyClaim(task_scope(item.task), key, item_run_id(batch_id, item.index), ttl)
            claims.setdefault((claim.scope, claim.key_hash), claim)
    return list(claims.values())


def lane_name(task: str, options: RunOptions | None) -> LaneName:
    """Which lane a trigger asks for."""
    if options is None:
        return LaneName(task)
    kind = "ordered" if options.order_key else "keyed" if options.concurrency_key else "plain"
    return LaneName(task, options.queue.name if options.queue else None, kind, options.lock_to_version)


def delayed_until(options: RunOptions) -> datetime | None:
    """When a delayed run may start. Raises ValueError where its delay is none."""
    delay = options.debounce.delay if options.debounce else options.delay
    return parse_delay(delay) if delay else None


def parse_delay(text: str) -> datetime:
    """A moment: a duration from now, or an ISO 8601 date. Raises ValueError on other text.

    A duration is added to this process's clock: it is a wish of the caller's, not a deadline between processes.
    """
    try:
        return datetime.now(UTC) + timedelta(seconds=parse_duration(text))
    except (ValueError, OverflowError):
        pass
    try:
        moment = datetime.fromisoformat(text)
        return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).astimezone(UTC)
    except ValueError:
        raise ValueError(f"delay is {text!r}: give a duration such as '1h30m' or an ISO 8601 date") from None
    except OverflowError:
        raise ValueError(f"delay is {text!r}, which is no date that a run can wait for") from None


def read_ttl(options: RunOptions) -> float | None:
    """Seconds that a run may wait for its start, 0 for any number; None where it says nothing. Raises ValueError."""
    if options.ttl is None:
        return None
    try:
        seconds = parse_duration(options.ttl)
    except ValueError as error:
        raise ValueError(f"ttl: {error}") from None
    if seconds > LONGEST_TTL:
        raise ValueError(
            f"ttl is {options.ttl!r}, but may be at most {LONGEST_TTL // 86_400} days; 0 is no limit at all"
        )
    return seconds


def stored_options(options: RunOptions | None, origin: Origin | None = None) -> str | None:
    """What is kept of the options: JSON, or None where nothing was said. Columns that few runs fill are read from it.

    Raises ValueError on a time to live that is none.
    """
    if options is not None and (options.queue is not None or options.ttl is not None):
        options = msgspec.structs.replace(options, queue=None, ttl=read_ttl(options))  # the lane says the queue
    if origin is not None:
        said: dict[str, Any] = msgspec.to_builtins(options or _NO_OPTIONS) | msgspec.to_builtins(origin)
        return _encode(said).decode("utf-8") if said else None
    if options is None or options == _NO_OPTIONS:
        return None
    return _encode(options).decode("utf-8")


def _insert_arguments(
    batch: BatchState, items: Sequence[StoredItem], lanes: dict[LaneName, int], seal_timeout: float
) -> list[Any]:
    # A column in which no item says anything is sent as an empty array, which unnest fills up with NULL.
    first_lane = lanes[lane_name(items[0].task, items[0].options)]
    one_lane = len(lanes) == 1
    return [
        batch.environment_id,
        batch.id,
        first_lane,
        batch.parent_run_id,
        batch.traceparent,
        seal_timeout,
        [item.index for item in items],
        [] if one_lane else [lanes[lane_name(item.task, item.options)] for item in items],
        [item.packet.data for item in items],
        _sparse(items, lambda item: None if item.packet.type == JSON_TYPE else item.packet.type),
        _sparse(items, lambda item: delayed_until(item.options) if item.options else None),
        _sparse(items, _error_json),
        _sparse(items, lambda item: stored_options(item.options)),
        _sparse(items, lambda item: item.options.idempotency_key if item.options else None),
        batch.root_run_id,
        batch.depth,
        minted_at(batch.root_run_id) if batch.root_run_id else None,
    ]


def _sparse(items: Sequence[StoredItem], read: Callable[[StoredItem], Any]) -> list[Any]:
    column = [read(item) for item in items]
    return column if any(value is not None for value in column) else []


def _error_json(item: StoredItem) -> str | None:
    if item.error is None:
        return None
    return _encode({"type": "INTERNAL_ERROR", "code": item.error.code, "message": item.error.message}).decode("utf-8")


def _leave_known(batch: BatchState, items: Sequence[StoredItem]) -> Plan[list[StoredItem]]:
    """Plan: the items that are not stored yet, each index once.

    An item must not be looked at twice for its key: its run may have failed and freed the key by now, and claiming it
    again for a run that is over would hand that run to the next trigger.
    """
    rows = yield from query("find_items", batch.environment_id, batch.id, [item.index for item in items])
    seen = {row["index"] for row in rows}
    fresh: list[StoredItem] = []
    for item in items:
        if item.index not in seen:
            seen.add(item.index)
            fresh.append(item)
    return fresh


def _resolve_keys(
    batch: BatchState, items: Sequence[StoredItem], settings: Settings
) -> Plan[tuple[list[StoredItem], list[tuple[int, UUID]]]]:
    """Plan: parts items that become runs from those whose key stands for a run: (index, run id)."""
    claims = claim_items(batch.id, items, settings)
    if not claims:
        return list(items), []
    holders = yield from claim_keys(batch.environment_id, claims)
    targets = {(claim.scope, claim.key_hash): holder.target_id for claim, holder in zip(claims, holders, strict=True)}
    fresh: list[StoredItem] = []
    aliases: list[tuple[int, UUID]] = []
    for item in items:
        key = item.options.idempotency_key if item.options is not None and item.error is None else None
        target = targets[task_scope(item.task), hash_key(key)] if key else None
        if target is None or target == item_run_id(batch.id, item.index):
            fresh.append(item)
        else:
            aliases.append((item.index, target))
    return fresh, aliases


def _join_debounced(
    batch: BatchState, items: Sequence[StoredItem], *, is_new: bool
) -> Plan[tuple[list[StoredItem], list[tuple[int, UUID]]]]:
    """Plan: parts items that become runs from those whose debounce key stands for a run that is delayed: (index, run id)."""
    asked = [
        Asked(item_run_id(batch.id, item.index), item.task, window, item.packet, item.options)
        for item in items
        if item.options is not None and item.error is None and (window := read_window(item.options))
    ]
    if not asked:
        return list(items), []

    def hold(runs: Sequence[UUID]) -> Plan[None]:
        rows = yield from query("try_watch_runs", batch.environment_id, runs)
        if not all(row["watched"] for row in rows):
            raise RunsBusyError

    holding: Hold | None = None if is_new else hold  # see _insert_aliases
    joined = yield from join_runs(batch.environment_id, asked, hold=holding)
    fresh: list[StoredItem] = []
    aliases: list[tuple[int, UUID]] = []
    for item in items:
        answer = joined.get(item_run_id(batch.id, item.index))
        if answer is None:
            fresh.append(item)
            continue
        aliases.append((item.index, answer.run_id))
        if item.options is not None and (key := item.options.idempotency_key):
            key_hash = hash_key(key)
            yield from query("retarget_key", batch.environment_id, task_scope(item.task), key_hash, answer.run_id)
    return fresh, aliases


def _insert_aliases(batch: BatchState, aliases: Sequence[tuple[int, UUID]], *, is_new: bool) -> Plan[None]:
    # Watch first, look second: a run that ends in between is either seen ended here, or sees that it is watched.
    # A run that is not there any more ended long ago. A completion holds a run and then wants its batch: to hold the
    # batch and wait for the run would be a deadlock, unless the batch is one that nobody can see yet.
    statement = "watch_runs" if is_new else "try_watch_runs"
    rows = yield from query(statement, batch.environment_id, sorted({run_id for _, run_id in aliases}))
    if not is_new and not all(row["watched"] for row in rows):
        raise RunsBusyError
    state = {row["id"]: row for row in rows}
    if foreign := {run_id for _, run_id in aliases if run_id not in state}:
        mirrors = yield from hold_mirrors(batch.environment_id, "run", foreign, patiently=is_new)
        if not all(row["held"] for row in mirrors.values()):
            raise RunsBusyError
        state |= mirrors
    ended = [run_id not in state or state[run_id]["ended"] for _, run_id in aliases]
    succeeded = [run_id in state and state[run_id]["succeeded"] for _, run_id in aliases]
    yield from query(
        "insert_aliases",
        batch.environment_id,
        batch.id,
        [index for index, _ in aliases],
        [run_id for _, run_id in aliases],
        ended,
        succeeded,
    )
