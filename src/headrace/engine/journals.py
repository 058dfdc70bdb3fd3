"""The journal: what a run does at its durable points, written in one transaction with what it does there.

A point and the run, batch or token that it makes commit together, and their ids are minted before: a write whose answer
got lost is written again, and does nothing twice. Every write is fenced by worker and attempt, so a worker that lost the
run makes no child any more.
"""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Final
from uuid import UUID

import msgspec

from headrace.engine.batches import fill_batch, open_batch
from headrace.engine.debounces import Asked, join_runs, read_window
from headrace.engine.deeds import (
    ChildBatch,
    ChildRun,
    Deed,
    Fence,
    Following,
    MetadataChange,
    NewToken,
    PointWrite,
    Result,
    TagsAddition,
    Timer,
    TokenWait,
)
from headrace.engine.engine import Engine
from headrace.engine.foreign_keys import reserve_keys
from headrace.engine.idempotency import KeyClaim, KeyMovedError, claim_keys, find_ttl, hash_key, task_scope
from headrace.engine.items import BUSY_DELAY, RunsBusyError, claim_items, delayed_until, lane_name, stored_options
from headrace.engine.lanes import LaneFinder
from headrace.engine.mirrors import MirrorKind, UnmirroredError, hold_mirrors, mirror_targets
from headrace.engine.ordering import hold_order_keys
from headrace.engine.outcomes import JSON_TYPE, Packet, Point
from headrace.engine.rows import read_point
from headrace.engine.shown import Changed, MetadataOfRunAbove, change_own_run, find_above
from headrace.engine.token_outcomes import TokenCreated, TokenElsewhere, TokenExists, TokenRefused
from headrace.engine.tokens import claim_token, lock_token, make_token
from headrace.engine.versions import children_version
from headrace.engine.waits import wake_runs
from headrace.errors import ConfigurationError
from headrace.ids import format_run_id, minted_at
from headrace.protocol.options import RunOptions
from headrace.protocol.tokens import TokenStatus
from headrace.settings import Settings
from headrace.store.statements import Plan, Record, query

_encode: Final = msgspec.json.Encoder().encode


class RunLostError(Exception):
    """The run is no longer this worker's: it was canceled, or rescued from a worker that seemed dead."""


async def read_journals(engine: Engine, environment_id: int, runs: Sequence[UUID]) -> dict[UUID, list[Point]]:
    """The journals of runs, with the outcomes that there are."""
    journals: defaultdict[UUID, list[Point]] = defaultdict(list)
    for row in await engine.store.fetch("read_journals", environment_id, list(runs)):
        journals[row["run_id"]].append(read_point(row))
    return journals


async def read_points(engine: Engine, environment_id: int, points: Sequence[tuple[UUID, str]]) -> list[Point]:
    """Those of ``points``, (run, name), that are done, with their outcomes."""
    rows = await engine.store.fetch("read_points", environment_id, *_columns(points))
    return [read_point(row) for row in rows]


async def end_due_points(
    engine: Engine, environment_id: int, points: Sequence[tuple[UUID, str]]
) -> dict[tuple[UUID, str], float]:
    """Ends those of ``points`` whose time has come by the database's clock; the seconds that each of the others has left."""
    return await engine.store.run_plan(_end_due(environment_id, points))


async def write_points(
    engine: Engine,
    fence: Fence,
    writes: Sequence[PointWrite],
    seen: Sequence[tuple[str, int | None]] = (),
    *,
    repeated: bool = False,
) -> list[Point]:
    """Writes points of one run and does what they say, all or nothing. Returns them as they now stand.

    ``seen`` are outcomes that the code was told since the last write. ``repeated`` says that the same was tried before, and
    may have been written. Raises RunLostError, and ValueError where options can't be read.
    """
    lanes, points, is_queued = await _write_patiently(engine, fence, writes, seen, repeated=repeated)
    lanes.keep_lanes()
    if is_queued:  # the run above: a claim may have stepped over it
        engine.notices.runs_ready(fence.lease.environment_id)
    if any(isinstance(write.deed, ChildRun | ChildBatch) for write in writes):
        engine.notices.runs_ready(fence.lease.environment_id)
    return points


def hold_run(fence: Fence) -> Plan[None]:
    """Plan: the fence of a write: until the transaction ends the run stays whose it is. Raises RunLostError."""
    lease = fence.lease
    if not (yield from query("hold_run", lease.environment_id, fence.run_id, fence.attempt, lease.worker_id)):
        raise RunLostError


async def _write_patiently(
    engine: Engine,
    fence: Fence,
    writes: Sequence[PointWrite],
    seen: Sequence[tuple[str, int | None]],
    *,
    repeated: bool,
) -> tuple[LaneFinder, list[Point], bool]:
    above = find_above(writes)
    while True:
        lanes = LaneFinder(fence.lease.environment_id, engine.lanes)
        await reserve_keys(engine, fence.lease.environment_id, _list_claims(writes, engine.settings))
        try:
            if above is not None:
                plan = _write_above(fence, above, writes, seen, engine.settings, repeated=repeated)
                return lanes, *await engine.store.run_plan(plan)
            plan = _write(fence, writes, seen, lanes, engine.settings, repeated=repeated)
            return lanes, await engine.store.run_plan(plan), False
        except RunsBusyError:  # a run that a key stands for is being ended: milliseconds
            await asyncio.sleep(BUSY_DELAY)
        except KeyMovedError:
            pass
        except UnmirroredError as others:
            await mirror_targets(engine, fence.lease.environment_id, others.kind, others.targets)


def _end_due(environment_id: int, points: Sequence[tuple[UUID, str]]) -> Plan[dict[tuple[UUID, str], float]]:
    # The run may be put down at this moment. Locked first, it is found waiting here, and is woken, or finds its point done.
    runs = sorted({run_id for run_id, _ in points})
    yield from query("lock_runs", environment_id, runs)
    rows = yield from query("end_due_points", environment_id, *_columns(points))
    left = {(row["run_id"], row["point"]): row["due_in"] for row in rows}
    yield from wake_runs(environment_id, {point[0] for point in points if point not in left}, locked=runs)
    return left


def _write(
    fence: Fence,
    writes: Sequence[PointWrite],
    seen: Sequence[tuple[str, int | None]],
    lanes: LaneFinder,
    settings: Settings,
    *,
    repeated: bool,
) -> Plan[list[Point]]:
    if repeated and (written := (yield from _find_written(fence, writes))):
        yield from hold_run(fence)
        return written
    # Children are locked before the run that waits for them, as completions lock them: else two could wait for each other.
    rows = yield from _make_rows(fence, writes, lanes, settings)
    changes = [write for write in writes if isinstance(write.deed, MetadataChange | TagsAddition)]
    if changes:
        changed = yield from change_own_run(fence, changes, settings)
        if changed is None:
            raise RunLostError
        _note_changes(rows, changed)
    else:
        yield from hold_run(fence)
    return (yield from _insert_points(fence, rows, seen))


def _write_above(
    fence: Fence,
    above: UUID,
    writes: Sequence[PointWrite],
    seen: Sequence[tuple[str, int | None]],
    settings: Settings,
    *,
    repeated: bool,
) -> Plan[tuple[list[Point], bool]]:
    """Plan: as ``_write``, of points that change the metadata of a run above and do nothing else. Whether that is queued."""
    changes = MetadataOfRunAbove(fence.lease.environment_id, above, settings)
    yield from changes.lock()
    # This run after the one above it, so whoever holds it may want that one: nobody is waited for here.
    lease = fence.lease
    rows = yield from query("try_hold_run", lease.environment_id, fence.run_id, fence.attempt, lease.worker_id)
    if not rows:
        raise RunLostError
    if not rows[0]["held"]:
        raise RunsBusyError
    if repeated and (written := (yield from _find_written(fence, writes))):
        return written, False
    points = [_Row(write.name, write.made, "effect", seen=write.seen) for write in writes]
    _note_changes(points, changes.apply(writes))
    is_queued = yield from changes.write()
    return (yield from _insert_points(fence, points, seen)), is_queued


def _note_changes(rows: Sequence[_Row], changed: Mapping[str, Changed]) -> None:
    for row in rows:
        if (outcome := changed.get(row.name)) is not None:
            row.succeeded, row.value = outcome.error is None, outcome.value
            row.error = _encode(outcome.error).decode("utf-8") if outcome.error else None


def _find_written(fence: Fence, writes: Sequence[PointWrite]) -> Plan[list[Point]]:
    """Plan: the points where they were written before; nothing where they were not, or writing them again changes nothing.

    A child whose key stood for a run at that time may not be looked for by its key again: the run may have failed since and
    freed it, and a second child would be made.
    """
    once = {write.name for write in writes if write.name and not isinstance(write.deed, Result | Following)}
    if not once:
        return []
    rows = yield from query("read_journals", fence.lease.environment_id, [fence.run_id])
    points = {row["point"]: read_point(row) for row in rows}
    if not once <= points.keys():
        return []
    return [points[write.name] for write in writes if write.name in points]


@dataclass(slots=True)
class _Row:
    """A row of the journal on its way."""

    name: str
    made: int
    kind: str
    pending: bool = False
    seen: int | None = None
    target: UUID | None = None
    due_in: float | None = None
    until: datetime | None = None
    failures: int = 0
    succeeded: bool | None = None
    value: Packet = field(default_factory=lambda: Packet(None))
    error: str | None = None
    cascade: bool = True


def _make_rows(fence: Fence, writes: Sequence[PointWrite], lanes: LaneFinder, settings: Settings) -> Plan[list[_Row]]:
    """Plan: does what the points say, and gives the rows that say it."""
    children = [write for write in writes if isinstance(write.deed, ChildRun)]
    rows = (yield from _make_children(fence, children, lanes, settings)) if children else {}
    for write in sorted(writes, key=_lock_order):
        if not isinstance(write.deed, ChildRun) and write.name:
            row = _Row(write.name, write.made, "effect", seen=write.seen, cascade=write.cascade)
            yield from _do(fence, write.deed, row, lanes, settings)
            rows[write.name] = row
    return list(rows.values())


def _lock_order(write: PointWrite) -> tuple[int, str]:
    """Two runs that come to the same batches, tokens or keys in one moment take them in one order."""
    match write.deed:
        case Following(batch_id):
            return (1, batch_id.hex)
        case NewToken(idempotency_key=key):
            return (2, key or "")
        case TokenWait(token_id):
            return (3, token_id.hex)
        case _:
            return (0, "")


def _do(fence: Fence, deed: Deed, row: _Row, lanes: LaneFinder, settings: Settings) -> Plan[None]:
    environment_id = fence.lease.environment_id
    match deed:
        case ChildBatch():
            row.kind, row.pending, row.target = "batch", True, deed.batch_id
            yield from _make_batch(fence, deed, row, lanes, settings)
        case Following(batch_id, settled):
            row.kind, row.target = "progress", batch_id
            [state] = yield from query("watch_batch", environment_id, batch_id, True)
            row.pending = not state["ended"] and state["settled"] <= settled
        case Timer(seconds, until):
            row.kind, row.pending, row.due_in, row.until = "time", True, seconds, until
        case TokenWait(token_id):
            row.kind, row.target = "token", token_id
            token = yield from lock_token(environment_id, token_id)
            row.pending = token is not None and token.status is TokenStatus.WAITING
            if token is None:  # it lives elsewhere, or was moved there
                mirrors = yield from _try_hold_mirrors(environment_id, "token", [token_id])
                row.pending = not mirrors[token_id]["ended"]
        case NewToken():
            yield from _make_token(fence, deed, row, settings)
        case Result(value, error, retry_in, failures):
            row.kind, row.failures, row.value = "step", failures, value
            row.pending, row.due_in = retry_in is not None, retry_in
            row.succeeded = None if retry_in is not None else error is None
            row.error = _encode(error).decode("utf-8") if error else None
        case MetadataChange() | TagsAddition():
            row.succeeded = True  # unless it turns out that it can't be done
        case ChildRun():
            raise AssertionError("children are made together")


def _make_children(
    fence: Fence, writes: Sequence[PointWrite], lanes: LaneFinder, settings: Settings
) -> Plan[dict[str, _Row]]:
    """Plan: the runs of a moment, in one statement; those whose key stands for a run are not made but waited for."""
    environment_id = fence.lease.environment_id
    rows: dict[str, _Row] = {}
    fresh: list[ChildRun] = []
    others: list[tuple[_Row, UUID]] = []
    deeds = [write.deed for write in writes if isinstance(write.deed, ChildRun)]
    yield from hold_order_keys(
        environment_id, [(child.task, child.options) for child in deeds], lanes.store
    )  # before its other keys
    targets = yield from _claim_keys(environment_id, writes, settings)
    for write in writes:
        assert isinstance(write.deed, ChildRun)
        child = write.deed
        target = targets[write.name]
        if child.awaited and target == fence.run_id:
            raise ConfigurationError(
                f"The idempotency key {_spell_key(child.options)!r} stands for the run that waits for it: it would wait for "
                "itself for ever. Give the child a key of its own."
            )
        row = _Row(write.name, write.made, "run", target=target, cascade=write.cascade, pending=child.awaited)
        rows[write.name] = row
        if target == child.run_id:
            fresh.append(child)
        elif child.awaited:
            others.append((row, target))
        if not child.awaited:
            row.kind, row.seen, row.succeeded = "effect", write.seen, True
            row.value = Packet(_encode({"id": format_run_id(target), "isCached": target != child.run_id}))
            row.target = None
    if fresh:
        yield from _insert_children(fence, fresh, lanes, settings)
    if others:
        yield from _await_others(fence, others)
    return rows


def _await_others(fence: Fence, others: Sequence[tuple[_Row, UUID]]) -> Plan[None]:
    """Plan: those children that keys stand for: their rows are locked, and an end that comes later sees that they are watched."""
    environment_id, targets = fence.lease.environment_id, {target for _, target in others}
    states = yield from query("try_watch_runs", environment_id, sorted(targets))
    # To wait for one here, holding its key, would be a cycle: an end holds the run, and may want to free the key.
    if not all(state["watched"] for state in states):
        raise RunsBusyError
    found = {state["id"]: state for state in states}
    foreign = targets - found.keys()  # they live elsewhere, or were moved there
    mirrors = (yield from _try_hold_mirrors(environment_id, "run", foreign)) if foreign else {}
    for row, target in others:
        state = found.get(target) or mirrors.get(target)
        row.pending = state is not None and not state["ended"]
        # a cancel takes its children with it, and leaves the runs of others that it waits for
        row.cascade = row.cascade and target in found and found[target]["parent_run_id"] == fence.run_id


def _try_hold_mirrors(environment_id: int, kind: MirrorKind, targets: Collection[UUID]) -> Plan[dict[UUID, Record]]:
    # Whoever tells of an end holds mirrors, and may want a batch that is held here: nobody is waited for.
    mirrors = yield from hold_mirrors(environment_id, kind, targets)
    if not all(row["held"] for row in mirrors.values()):
        raise RunsBusyError
    return mirrors


def _spell_key(options: RunOptions) -> str | None:
    return options.idempotency_key_options.key if options.idempotency_key_options else options.idempotency_key


def _list_claims(writes: Sequence[PointWrite], settings: Settings) -> list[KeyClaim]:
    """The keys that points claim: of children, of the items of batches that come with them, and of tokens."""
    claims = _claim_children(writes, settings)
    for write in writes:
        if isinstance(write.deed, ChildBatch) and write.deed.items is not None:
            claims += claim_items(write.deed.batch_id, write.deed.items, settings)
        if isinstance(write.deed, NewToken):
            deed = write.deed
            claims += claim_token(deed.token_id, deed.idempotency_key, deed.idempotency_key_ttl, settings)
    return claims


def _claim_children(writes: Sequence[PointWrite], settings: Settings) -> list[KeyClaim]:
    claims: dict[tuple[str, bytes], KeyClaim] = {}
    for write in writes:
        if isinstance(write.deed, ChildRun) and (key := write.deed.options.idempotency_key):
            ttl = find_ttl(write.deed.options, settings.idempotency_key_ttl)
            claim = KeyClaim(task_scope(write.deed.task), key, write.deed.run_id, ttl)
            claims.setdefault((claim.scope, claim.key_hash), claim)  # within a moment the first child wins
    return list(claims.values())


def _claim_keys(environment_id: int, writes: Sequence[PointWrite], settings: Settings) -> Plan[dict[str, UUID]]:
    """Plan: the run that each child is, by the name of its point: its own, or the one that its key stands for."""
    targets: dict[str, UUID] = {}
    keyed: dict[str, tuple[str, bytes]] = {}
    for write in writes:
        assert isinstance(write.deed, ChildRun)
        child = write.deed
        targets[write.name] = child.run_id
        if key := child.options.idempotency_key:
            keyed[write.name] = (task_scope(child.task), hash_key(key))
    if claims := _claim_children(writes, settings):  # all at once: the statement takes them in one order
        holders = yield from claim_keys(environment_id, claims)
        held = {(claim.scope, claim.key_hash): holder.target_id for claim, holder in zip(claims, holders, strict=True)}
        targets |= {point: held[name] for point, name in keyed.items()}
    yield from _join_debounced(environment_id, writes, targets)
    return targets


def _join_debounced(environment_id: int, writes: Sequence[PointWrite], targets: dict[str, UUID]) -> Plan[None]:
    """Plan: those children that are debounced, and become part of a run that is delayed, have that one as their target."""
    asked: dict[str, Asked] = {}
    for write in writes:
        assert isinstance(write.deed, ChildRun)
        child = write.deed
        window = read_window(child.options)
        if window is not None and targets[write.name] == child.run_id:
            asked[write.name] = Asked(child.run_id, child.task, window, child.packet, child.options)
    if not asked:
        return
    joined = yield from join_runs(environment_id, list(asked.values()))
    for name, one in asked.items():
        if hit := joined.get(one.run_id):
            targets[name] = hit.run_id
            if key := one.options.idempotency_key:
                yield from query("retarget_key", environment_id, task_scope(one.task), hash_key(key), hit.run_id)


def _insert_children(fence: Fence, children: Sequence[ChildRun], lanes: LaneFinder, settings: Settings) -> Plan[None]:
    awaited = lanes.for_children(children_version(fence.lease, settings) or "")
    finders = {True: awaited, False: lanes}
    for is_awaited, finder in finders.items():
        yield from finder.find_lanes(
            {lane_name(child.task, child.options) for child in children if child.awaited is is_awaited}
        )
    yield from query(
        "insert_children",
        fence.lease.environment_id,
        fence.lineage.parent_run_id,
        fence.lineage.root_run_id,
        fence.lineage.depth,
        minted_at(fence.lineage.root_run_id),
        fence.traceparent,
        [child.run_id for child in children],
        [finders[child.awaited].met[lane_name(child.task, child.options)] for child in children],
        [child.awaited for child in children],
        [delayed_until(child.options) for child in children],
        [child.packet.data for child in children],
        [None if child.packet.type == JSON_TYPE else child.packet.type for child in children],
        [stored_options(child.options) for child in children],
        [child.options.idempotency_key for child in children],
    )


def _make_batch(fence: Fence, deed: ChildBatch, row: _Row, lanes: LaneFinder, settings: Settings) -> Plan[None]:
    environment_id = fence.lease.environment_id
    held_for = deed.batch_id if deed.request.start == "seal" and deed.items is None else None
    if deed.items is None:
        yield from open_batch(
            environment_id,
            deed.request,
            settings,
            traceparent=fence.traceparent,
            lineage=fence.lineage,
            batch_id=deed.batch_id,
        )
        return
    assert held_for is None
    yield from fill_batch(
        environment_id,
        deed.request,
        deed.items,
        lanes.for_children(children_version(fence.lease, settings) or ""),
        settings,
        traceparent=fence.traceparent,
        lineage=fence.lineage,
        batch_id=deed.batch_id,
        may_repeat=True,
    )
    rows = yield from query("find_batch", environment_id, deed.batch_id)
    row.pending = rows[0]["completed_at"] is None


def _make_token(fence: Fence, deed: NewToken, row: _Row, settings: Settings) -> Plan[None]:
    answer = yield from make_token(
        fence.lease.environment_id,
        settings,
        token_id=deed.token_id,
        timeout=deed.timeout,
        tags=deed.tags,
        idempotency_key=deed.idempotency_key,
        idempotency_key_ttl=deed.idempotency_key_ttl,
        run_id=fence.run_id,
    )
    match answer:
        case TokenCreated(token):
            row.value = deed.describe(token.id, False)
        case TokenExists(token, cached):
            row.value = deed.describe(token.id, cached)
        case TokenElsewhere(token_id, cached):
            row.value = deed.describe(token_id, cached)
        case TokenRefused(_, message):
            raise ValueError(message)
    row.succeeded = True


def _insert_points(fence: Fence, rows: Sequence[_Row], seen: Sequence[tuple[str, int | None]]) -> Plan[list[Point]]:
    environment_id, run_id = fence.lease.environment_id, fence.run_id
    if seen:
        points, moments = zip(*seen, strict=True)
        yield from query("mark_seen", environment_id, run_id, list(points), list(moments))
    if not rows:
        return []

    def column(read: Callable[[_Row], Any]) -> list[Any]:
        return [read(row) for row in rows]

    written = yield from query(
        "write_points",
        environment_id,
        run_id,
        column(lambda row: row.name),
        column(lambda row: row.kind),
        column(lambda row: row.pending),
        column(lambda row: row.made),
        column(lambda row: row.seen),
        column(lambda row: row.target),
        column(lambda row: row.due_in),
        column(lambda row: row.until),
        column(lambda row: row.failures),
        column(lambda row: row.succeeded),
        column(lambda row: row.value.data),
        column(lambda row: None if row.value.type == JSON_TYPE else row.value.type),
        column(lambda row: row.error),
        column(lambda row: row.cascade),
    )
    due = {row["point"]: row["due_in"] for row in written}
    return [
        Point(run_id, row.name, row.kind, row.pending, row.made, row.seen, row.target, due.get(row.name), row.failures)
        if row.pending
        else Point(
            run_id,
            row.name,
            row.kind,
            pending=False,
            made=row.made,
            seen=row.seen,
            target=row.target,
            failures=row.failures,
            succeeded=row.succeeded,
            value=row.value,
            error=msgspec.json.decode(row.error) if row.error else None,
        )
        for row in rows
    ]


def _columns(points: Sequence[tuple[UUID, str]]) -> tuple[list[UUID], list[str]]:
    return [run_id for run_id, _ in points], [name for _, name in points]
