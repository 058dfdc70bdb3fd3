"""Single runs: triggered, read, listed, awaited."""

from __future__ import annotations

import operator
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from headrace.engine.debounces import Asked, join_runs, read_window
from headrace.engine.engine import Engine
from headrace.engine.foreign_keys import reserve_keys
from headrace.engine.forwards import ask_owner, ask_owners
from headrace.engine.idempotency import (
    REQUEST_SCOPE,
    KeyClaim,
    KeyMovedError,
    claim_keys,
    find_ttl,
    fingerprint_request,
    hash_key,
    task_scope,
)
from headrace.engine.items import Origin, delayed_until, lane_name, stored_options
from headrace.engine.lanes import LaneFinder
from headrace.engine.ordering import hold_order_keys
from headrace.engine.outcomes import (
    JSON_TYPE,
    AttemptView,
    BatchRefused,
    KeyConflict,
    Lineage,
    Packet,
    RunCreated,
    RunExists,
    RunView,
)
from headrace.engine.rows import read_json, read_run
from headrace.engine.waiting import await_end
from headrace.ids import format_run_id, is_foreign, mint_run_id
from headrace.protocol.options import RunOptions
from headrace.protocol.statuses import RunStatus
from headrace.settings import Settings
from headrace.store.statements import Plan, query

TriggerAnswer = RunCreated | RunExists | KeyConflict | BatchRefused


async def trigger_run(
    engine: Engine,
    environment_id: int,
    task: str,
    packet: Packet,
    options: RunOptions,
    *,
    request_id: str | None = None,
    traceparent: str | None = None,
    lineage: Lineage | None = None,
    origin: Origin | None = None,
) -> TriggerAnswer:
    """Makes one run; or finds the one that its idempotency key, or this same request before, made."""
    order = _Order(task, packet, options, traceparent, lineage, origin)
    engine = _choose_store(engine, order)
    try:
        answer = await _make_run_at_once(engine, environment_id, order, request_id)
        if answer is None:
            answer = await _make_run_patiently(engine, environment_id, order, request_id)
    except ValueError as error:
        return BatchRefused(422, str(error))
    if isinstance(answer, RunCreated):
        engine.notices.runs_ready(environment_id)
    return answer


def _choose_store(engine: Engine, order: _Order) -> Engine:
    """That of the parent, so that a tree is never in two stores; of a replay that of the first run; else any that takes roots.

    Runs of an order key stand in one line and those of a debounce key look for each other: roots with one are at home.
    """
    if order.lineage is not None:
        return engine.at(order.lineage.parent_run_id)
    if order.options.order_key or order.options.debounce:
        return engine.home
    if order.origin is not None and order.origin.replayed_from is not None:
        first = engine.at(order.origin.replayed_from)
        if engine.stores.takes_roots(first):
            return first
    return engine.pick()


@dataclass(frozen=True, slots=True)
class _Order:
    """What one run is to be."""

    task: str
    packet: Packet
    options: RunOptions
    traceparent: str | None
    lineage: Lineage | None
    origin: Origin | None

    @property
    def fingerprint(self) -> bytes:
        """Of the request. The uploaded path of a large payload differs from try to try, so payloads are left out."""
        return fingerprint_request([self.task, self.options, *([self.origin] if self.origin else [])])

    def arguments(self, environment_id: int, lane: int, run_id: UUID) -> list[Any]:
        """What ``insert_run`` takes first."""
        return [
            environment_id,
            lane,
            run_id,
            delayed_until(self.options),
            self.lineage.parent_run_id if self.lineage else None,
            self.packet.data,
            None if self.packet.type == JSON_TYPE else self.packet.type,
            stored_options(self.options, self.origin),
            self.options.idempotency_key,
            self.traceparent,
        ]

    def claims(self, run_id: UUID, request_id: str | None, settings: Settings) -> list[KeyClaim]:
        """What it claims, in this order: the request's id, then its key. Raises ValueError on a TTL that is none."""
        claims: list[KeyClaim] = []
        if request_id:
            claims.append(KeyClaim(REQUEST_SCOPE, request_id, run_id, settings.request_key_ttl, self.fingerprint))
        if self.options.idempotency_key:
            ttl = find_ttl(self.options, settings.idempotency_key_ttl)
            claims.append(KeyClaim(task_scope(self.task), self.options.idempotency_key, run_id, ttl))
        return claims

    @property
    def place(self) -> list[Any]:
        """Where it stands in its tree: the run at the top, and how many are above it."""
        return [self.lineage.root_run_id, self.lineage.depth] if self.lineage else [None, 0]


async def _make_run_patiently(
    engine: Engine, environment_id: int, order: _Order, request_id: str | None
) -> TriggerAnswer:
    run_id = mint_run_id(engine.key)
    while True:
        await reserve_keys(engine, environment_id, order.claims(run_id, request_id, engine.settings))
        lanes = LaneFinder(environment_id, engine.lanes)
        try:
            answer = await engine.store.run_plan(_make_run(order, run_id, lanes, engine.settings, request_id))
        except KeyMovedError:
            continue
        lanes.keep_lanes()
        return answer


async def _make_run_at_once(
    engine: Engine, environment_id: int, order: _Order, request_id: str | None
) -> RunCreated | None:
    """The usual trigger, in one statement: its lane was met before and no idempotency key is to be asked. Else None."""
    lane = engine.lanes.find_lane(environment_id, lane_name(order.task, order.options))
    if lane is None or order.options.idempotency_key or order.options.order_key or order.options.debounce:
        return None
    if request_id and engine.stores.others():
        return None
    run_id = mint_run_id(engine.key)
    request = (hash_key(request_id), order.fingerprint) if request_id else (None, None)
    rows = await engine.store.fetch(
        "insert_run_once",
        *order.arguments(environment_id, lane, run_id),
        *request,
        engine.settings.request_key_ttl,
        *order.place,
    )
    return RunCreated(run_id) if rows else None


def make_run(
    task: str,
    packet: Packet,
    options: RunOptions,
    lanes: LaneFinder,
    settings: Settings,
    *,
    request_id: str | None = None,
    traceparent: str | None = None,
    lineage: Lineage | None = None,
    origin: Origin | None = None,
) -> Plan[TriggerAnswer]:
    """Plan: one run in the environment of ``lanes``, unless a key stands for one already."""
    order = _Order(task, packet, options, traceparent, lineage, origin)
    return (yield from _make_run(order, mint_run_id(lanes.store), lanes, settings, request_id))


def _make_run(
    order: _Order, run_id: UUID, lanes: LaneFinder, settings: Settings, request_id: str | None
) -> Plan[TriggerAnswer]:
    environment_id = lanes.environment_id
    asked = {claim.scope: claim for claim in order.claims(run_id, request_id, settings)}
    if (claim := asked.pop(REQUEST_SCOPE, None)) and (hit := (yield from _claim_request(environment_id, claim))):
        return hit
    # before its other keys: a batch does so too
    yield from hold_order_keys(environment_id, [(order.task, order.options)], lanes.store)
    for claim in asked.values():
        [holder] = yield from claim_keys(environment_id, [claim])
        if holder.target_id != run_id:
            if request_id:
                request_hash = hash_key(request_id)
                yield from query("retarget_key", environment_id, REQUEST_SCOPE, request_hash, holder.target_id)
            return RunExists(holder.target_id, cached=True)
    if hit := (yield from _join_run(environment_id, order, run_id, request_id)):
        return hit
    name = lane_name(order.task, order.options)
    found = yield from lanes.find_lanes([name])
    yield from query("insert_run", *order.arguments(environment_id, found[name], run_id), *order.place)
    return RunCreated(run_id)


def _claim_request(environment_id: int, claim: KeyClaim) -> Plan[RunExists | KeyConflict | None]:
    [holder] = yield from claim_keys(environment_id, [claim])
    if holder.target_id == claim.target_id:
        return None
    if holder.fingerprint != claim.fingerprint:
        return KeyConflict("This request id was used before, for another request. Use a new one for each request.")
    return RunExists(holder.target_id, cached=False)


def claim_run(
    environment_id: int,
    run_id: UUID,
    task: str,
    packet: Packet,
    options: RunOptions,
    settings: Settings,
    *,
    request_id: str,
    origin: Origin | None = None,
) -> Plan[RunCreated | RunExists | KeyConflict]:
    """Plan: a run that is to be made elsewhere with ``run_id`` is what its request stands for from now on, if nothing is.

    The options have neither an idempotency key nor an order key nor a debounce key: those would be claimed as well.
    """
    order = _Order(task, packet, options, None, None, origin)
    [claim] = order.claims(run_id, request_id, settings)
    hit = yield from _claim_request(environment_id, claim)
    return hit or RunCreated(run_id)


def insert_named_run(
    run_id: UUID, task: str, packet: Packet, options: RunOptions, lanes: LaneFinder, origin: Origin | None = None
) -> Plan[bool]:
    """Plan: the run that ``claim_run`` has claimed, where it is to live; if it is there already nothing is done. Whether it is
    there now: where its environment is not known yet it is not.
    """
    name = lane_name(task, options)
    order = _Order(task, packet, options, None, None, origin)
    found = yield from lanes.find_lanes([name])
    yield from query("insert_run", *order.arguments(lanes.environment_id, found[name], run_id), *order.place)
    return bool((yield from query("find_run", lanes.environment_id, run_id)))


def _join_run(environment_id: int, order: _Order, run_id: UUID, request_id: str | None) -> Plan[RunExists | None]:
    """Plan: the run that is delayed under the order's debounce key, put off; the order's other keys stand for it too."""
    window = read_window(order.options)
    if window is None:
        return None
    joined = yield from join_runs(environment_id, [Asked(run_id, order.task, window, order.packet, order.options)])
    hit = joined.get(run_id)
    if hit is None:
        return None
    for scope, key in ((REQUEST_SCOPE, request_id), (task_scope(order.task), order.options.idempotency_key)):
        if key:
            yield from query("retarget_key", environment_id, scope, hash_key(key), hit.run_id)
    return RunExists(hit.run_id, cached=True, replaced=hit.replaced)


async def find_run(engine: Engine, environment_id: int, run_id: UUID) -> RunView | None:
    """The run as it stands, or None where this environment has none with that id."""
    rows = await ask_owner(
        engine, run_id, lambda owner: owner.store.fetch("find_run", environment_id, run_id), operator.not_
    )
    return read_run(rows[0]) if rows else None


async def spell_run_ids(engine: Engine, environment_id: int, run_ids: Iterable[UUID]) -> dict[UUID, str]:
    """Ids as they stand on the wire, without their runs. Those of imported runs are looked up; others cost nothing."""
    spelt = {run_id: format_run_id(run_id) for run_id in run_ids}
    foreign = [run_id for run_id in spelt if is_foreign(run_id)]

    async def ask(owner: Engine, some: list[UUID]) -> list[UUID]:
        rows = await owner.store.fetch("find_foreign_ids", environment_id, some)
        spelt.update({row["id"]: row["text"] for row in rows if row["text"] is not None})
        return [row["id"] for row in rows]

    if foreign:
        await ask_owners(engine, foreign, ask)
    return spelt


async def await_run(engine: Engine, environment_id: int, run_id: UUID, timeout: float) -> RunView | None:
    """The run once it has ended, or as it stands after ``timeout`` seconds."""
    engine = engine.at(run_id)
    return await await_end(
        engine,
        environment_id,
        lambda: find_run(engine, environment_id, run_id),
        lambda run: run.finished_at is not None,
        timeout,
    )


async def list_attempts(engine: Engine, environment_id: int, run_id: UUID) -> list[AttemptView]:
    """The ended attempts of a run, the first one first."""
    rows = await ask_owner(
        engine, run_id, lambda owner: owner.store.fetch("list_attempts", environment_id, run_id), operator.not_
    )
    return [
        AttemptView(
            row["number"], RunStatus(row["status"]), row["started_at"], row["finished_at"], read_json(row["error"])
        )
        for row in rows
    ]
