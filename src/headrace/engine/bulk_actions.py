"""Bulk actions: runs chosen by a filter or by name are canceled or replayed in the background.

Here they are asked for, looked at and aborted; the sweep carries them out (``bulk_steps``). What is meant is fixed when it is
asked for: the runs that were there then, by a filter whose times do not move on. An action is in the home store, with the
members that are there; in each other store that may have some it has a part (``bulk_parts``).
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from enum import StrEnum
from typing import Any, Final
from uuid import UUID

import msgspec

from headrace.engine.bulk_parts import PartState, look_at_parts, read_parts, tend_parts
from headrace.engine.engine import Engine
from headrace.engine.forwards import find_moved
from headrace.engine.idempotency import REQUEST_SCOPE, KeyClaim, claim_keys
from headrace.engine.outcomes import KeyConflict, RunFilter
from headrace.ids import HOME_STORE, mint_bulk_action_id
from headrace.protocol.statuses import TERMINAL_RUN_STATUSES, RunStatus
from headrace.settings import Settings
from headrace.store.statements import Plan, query

MOST_RUN_IDS: Final = 500
"""Runs that may be named one by one."""

MOST_REPLAYS: Final = 3
"""Replays that an environment may have under way."""

_FIRST_ID: Final = UUID(int=0)
_LAST_ID: Final = UUID(int=2**128 - 1)


class BulkKind(StrEnum):
    """What is done with each run."""

    CANCEL = "CANCEL"
    REPLAY = "REPLAY"


class BulkStatus(StrEnum):
    """Where a bulk action stands."""

    PENDING = "PENDING"
    COMPLETED = "COMPLETED"
    ABORTED = "ABORTED"


@dataclass(frozen=True, slots=True)
class BulkOrder:
    """What is asked for: exactly one of ``filter`` and ``run_ids``."""

    kind: BulkKind
    filter: RunFilter | None = None
    run_ids: Sequence[UUID] = ()
    name: str | None = None


@dataclass(frozen=True, slots=True)
class BulkAction:
    """A bulk action as it stands. ``total`` grows until all its runs are ``selected``."""

    id: UUID
    kind: BulkKind
    status: BulkStatus
    name: str | None
    selected: bool
    total: int
    succeeded: int
    failed: int
    created_at: datetime
    completed_at: datetime | None
    missing: Sequence[str] = ()
    """Names of the stores that did not answer: of them it says what was seen last."""


@dataclass(frozen=True, slots=True)
class BulkCreated:
    """The action, made by this call or by this same request before."""

    action_id: UUID


@dataclass(frozen=True, slots=True)
class BulkRunsMissing:
    """Runs that were named and are not there; nothing was made."""

    run_ids: list[UUID]


@dataclass(frozen=True, slots=True)
class BulkLimit:
    """The environment has as many replays under way as it may."""

    limit: int


@dataclass(frozen=True, slots=True)
class BulkAborted:
    """The action was aborted, by this call or before."""

    action_id: UUID


@dataclass(frozen=True, slots=True)
class BulkEnded:
    """The action was over before it could be aborted."""

    status: BulkStatus


@dataclass(frozen=True, slots=True)
class BulkMissing:
    """No such action in this environment."""


@dataclass(frozen=True, slots=True)
class BulkPage:
    """A page of bulk actions, newest first, and the cursors of the pages beside it."""

    actions: list[BulkAction]
    older: UUID | None
    newer: UUID | None


class _RefusedError(Exception):
    """Rolls back what was made so far."""

    def __init__(self, answer: BulkRunsMissing | BulkLimit) -> None:
        super().__init__(type(answer).__name__)
        self.answer = answer


async def create_bulk_action(
    engine: Engine,
    environment_id: int,
    order: BulkOrder,
    *,
    request_id: str | None = None,
    fingerprint: bytes | None = None,
) -> BulkCreated | BulkRunsMissing | BulkLimit | KeyConflict:
    """Makes a bulk action; the next sweep begins with it. ``fingerprint`` is of the request that ``request_id`` names.

    Runs that are named and whose store does not answer are taken for there; where they are not, they will be failures.
    """
    action_id, engine = mint_bulk_action_id(), engine.home
    split = _split(engine, order)
    absent = set[UUID]()
    if order.run_ids and engine.stores.others():
        absent = await _find_absent(engine, environment_id, split)
        if absent:
            await find_moved(engine, absent)
            split = _split(engine, order)
            absent = await _find_absent(engine, environment_id, split)
    try:
        answer = await engine.store.run_plan(
            _create(environment_id, action_id, order, split, absent, request_id, fingerprint, engine.settings)
        )
    except _RefusedError as refused:
        return refused.answer
    if split.elsewhere and isinstance(answer, BulkCreated) and answer.action_id == action_id:
        await tend_parts(engine, environment_id, action_id, at_once=True)
    return answer


async def find_bulk_action(engine: Engine, environment_id: int, action_id: UUID) -> BulkAction | None:
    """The action as it stands, or None where this environment has none with that id."""
    rows = await engine.home.store.fetch("find_bulk_action", environment_id, action_id)
    return (await _read_actions(engine, environment_id, rows))[0] if rows else None


async def list_bulk_actions(
    engine: Engine,
    environment_id: int,
    *,
    after: UUID | None = None,
    before: UUID | None = None,
    limit: int = 25,
) -> BulkPage:
    """A page of actions, newest first: those older than ``after``, or those newer than ``before`` (not both)."""
    name = "list_bulk_actions:back" if before else "list_bulk_actions"
    rows = await engine.home.store.fetch(name, environment_id, before or _FIRST_ID, after or _LAST_ID, limit + 1)
    actions = await _read_actions(engine, environment_id, rows[:limit])
    more = actions[-1].id if len(rows) > limit else None
    if before:
        return BulkPage(actions[::-1], older=actions[0].id if actions else before, newer=more)
    return BulkPage(actions, older=more, newer=actions[0].id if actions and after else None)


async def abort_bulk_action(
    engine: Engine, environment_id: int, action_id: UUID
) -> BulkAborted | BulkEnded | BulkMissing:
    """Ends an action: nothing more is done after this. What it has done stays done.

    A store that does not answer is told when it does again, and may go on until then.
    """
    if rows := await engine.home.store.fetch("abort_bulk_action", environment_id, action_id):
        if rows[0]["parted"]:
            await tend_parts(engine, environment_id, action_id)
        return BulkAborted(action_id)
    found = await find_bulk_action(engine, environment_id, action_id)
    if found is None:
        return BulkMissing()
    return BulkAborted(action_id) if found.status is BulkStatus.ABORTED else BulkEnded(found.status)


def freeze_filter(order: BulkOrder) -> RunFilter | None:
    """The filter as it is kept. A cancel that names no status is of runs that have not ended: no other can be canceled."""
    wanted = order.filter
    if wanted is None or order.kind is not BulkKind.CANCEL or wanted.statuses is not None:
        return wanted
    return replace(wanted, statuses=frozenset(RunStatus) - TERMINAL_RUN_STATUSES)


def read_filter(text: str) -> RunFilter:
    """A frozen filter from its row."""
    return msgspec.json.decode(text, type=RunFilter)


@dataclass(frozen=True, slots=True)
class _Split:
    """In which stores the runs of an order are."""

    here: bool
    elsewhere: list[str]
    run_ids: dict[str, list[UUID]]
    """Those that are named, by their stores."""


def _split(engine: Engine, order: BulkOrder) -> _Split:
    run_ids: defaultdict[str, list[UUID]] = defaultdict(list)
    for run_id in sorted(set(order.run_ids)):
        run_ids[engine.at(run_id).key].append(run_id)
    if order.filter is None:
        keys = set(run_ids)
    elif order.filter.batch_id is not None:
        keys = {engine.at(order.filter.batch_id).key}
    else:
        keys = {record.key for record in engine.stores.records()}
    return _Split(engine.key in keys, sorted(keys - {engine.key}), dict(run_ids))


async def _find_absent(engine: Engine, environment_id: int, split: _Split) -> set[UUID]:
    """Which of the runs that are named are not there, in the stores that answer."""

    async def ask(one: Engine) -> set[UUID]:
        rows = await one.store.fetch("find_run_ids", environment_id, split.run_ids[one.key])
        return set(split.run_ids[one.key]) - {row["id"] for row in rows}

    asked = await engine.stores.gather_from(split.run_ids, ask)
    return {run_id for absent in asked.answers for run_id in absent}


def _create(
    environment_id: int,
    action_id: UUID,
    order: BulkOrder,
    split: _Split,
    absent: set[UUID],
    request_id: str | None,
    fingerprint: bytes | None,
    settings: Settings,
) -> Plan[BulkCreated | KeyConflict]:
    if request_id:
        claim = KeyClaim(REQUEST_SCOPE, request_id, action_id, settings.request_key_ttl, fingerprint)
        [holder] = yield from claim_keys(environment_id, [claim])
        if holder.target_id != action_id:
            if holder.fingerprint != fingerprint:
                return KeyConflict(
                    "This request id was used before, for another request. Use a new one for each request."
                )
            return BulkCreated(holder.target_id)
    members = split.run_ids.get(HOME_STORE, [])
    if order.run_ids:
        rows: list[Any] = (yield from query("find_run_ids", environment_id, members)) if members else []
        if missing := absent | (set(members) - {row["id"] for row in rows}):
            raise _RefusedError(BulkRunsMissing([one for one in order.run_ids if one in missing]))
    frozen = freeze_filter(order)
    made = yield from query(
        "insert_bulk_action",
        environment_id,
        action_id,
        order.kind,
        order.name,
        None if frozen is None else msgspec.json.encode(frozen).decode("utf-8"),
        MOST_REPLAYS if order.kind is BulkKind.REPLAY else None,
        split.here,
    )
    if not made:
        raise _RefusedError(BulkLimit(MOST_REPLAYS))
    if members:
        yield from query("insert_bulk_members", environment_id, action_id, members, None)
    if split.elsewhere:
        named = [(run_id, key) for key in split.elsewhere for run_id in split.run_ids.get(key, [])]
        yield from query(
            "insert_bulk_parts",
            environment_id,
            action_id,
            split.elsewhere,
            [run_id for run_id, _ in named] if order.run_ids else None,
            [key for _, key in named],
        )
    return BulkCreated(action_id)


async def _read_actions(engine: Engine, environment_id: int, rows: Sequence[Any]) -> list[BulkAction]:
    """Actions with what their parts in other stores have done so far."""
    noted = {row["id"]: read_parts(row["parts"]) for row in rows if row["parts"]}
    parts, missing = await look_at_parts(engine, environment_id, noted) if noted else ({}, [])
    return [_read_action(row, parts.get(row["id"], []), missing) for row in rows]


def _read_action(row: Any, parts: Sequence[PartState], missing: Sequence[str]) -> BulkAction:
    return BulkAction(
        row["id"],
        BulkKind(row["kind"]),
        BulkStatus(row["status"]),
        row["name"],
        selected=row["selected_at"] is not None and all(part.selected for part in parts),
        total=row["total"] + sum(part.total for part in parts),
        succeeded=row["succeeded"] + sum(part.succeeded for part in parts),
        failed=row["failed"] + sum(part.failed for part in parts),
        created_at=row["created_at"],
        completed_at=row["completed_at"],
        missing=missing if any(part.status == BulkStatus.PENDING for part in parts) else (),
    )
