"""Mirrors: what stands in this store for a run or token of another one, while a run or batch here waits for it.

The store that waits has a mirror, the store that owns the thing has a note of who wants to know (an interest). Who waits
notes the interest first, in a transaction that holds the thing: so its end is either seen there, or sees the interest and
leaves it in the outbox. Then it writes the mirror, and then what waits, in a transaction that holds the mirror: so what the
outbox delivers is either seen there, or sees who waits. No transaction spans two stores, and each step may be repeated.
"""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal
from uuid import UUID

from headrace import metrics
from headrace.engine.engine import Engine
from headrace.engine.forwards import ask_owners
from headrace.engine.registry import list_stores
from headrace.engine.waits import complete_targets
from headrace.ids import format_run_id, format_token_id, store_of
from headrace.logs import get_logger
from headrace.protocol.statuses import RunStatus
from headrace.store.statements import Plan, Record, query
from headrace.store.store import DATABASE_ERRORS
from headrace.timeouts import answers_within

MirrorKind = Literal["run", "token"]

SLICE: Final = 500
"""Open mirrors that one round of the audit asks about."""

QUIET: Final = 10.0
"""Seconds for which a mirror is not asked about: what it stands for has been looked at when it was made."""

SPENT: Final = 600.0
"""Seconds for which a mirror is kept that nobody can ask: who has just made one is about to wait for it."""

_START: Final = (-1, UUID(int=0))
_START_OF_INTERESTS: Final = (-1, UUID(int=0), "")

_log = get_logger("headrace.mirrors")


class UnmirroredError(Exception):
    """A plan came to runs or tokens of other stores: roll back, ``mirror_targets``, and run it again."""

    def __init__(self, kind: MirrorKind, targets: Collection[UUID]) -> None:
        super().__init__(f"{len(targets)} of kind {kind} live in another store")
        self.kind: MirrorKind = kind
        self.targets = targets


@dataclass(slots=True)
class MirrorPlace:
    """How far the audit of mirrors has come."""

    after: tuple[int, UUID] = _START
    kept: tuple[int, UUID] = _START
    """How far those that are to be kept were told from those that are spent."""
    told: tuple[int, UUID, str] = _START_OF_INTERESTS


async def mirror_targets(engine: Engine, environment_id: int, kind: MirrorKind, targets: Collection[UUID]) -> set[UUID]:
    """Makes mirrors, in the store of ``engine``, for runs or tokens of others. Those that are not there are given back.

    To be called outside of a transaction. Repeating it does nothing more. Raises one of DATABASE_ERRORS where an owner does
    not answer: then it is to be called again.
    """
    if any(engine.at(target).key != store_of(target) for target in targets):
        await engine.home.refresh_stores()  # a store that was added a moment ago
    found: list[Record] = []

    async def ask(owner: Engine, ids: list[UUID]) -> set[UUID]:
        if owner.key == engine.key:  # it has come here since
            rows = await owner.store.fetch("read_targets", environment_id, ids, engine.key)
            return {row["id"] for row in rows if row["kind"] == kind}
        rows = await _ask(owner, engine.key, environment_id, kind, ids)
        found.extend(rows)
        return {row["id"] for row in rows}

    missing = await ask_owners(engine, targets, ask)
    if waiting := sorted(row["id"] for row in found if not row["ended"]):
        await engine.store.fetch("insert_mirrors", environment_id, kind, waiting)
    ended = [row for row in found if row["ended"]] + [_describe_missing(one, kind) for one in sorted(missing)]
    await resolve_mirrors(engine, environment_id, ended)
    return missing


async def resolve_mirrors(engine: Engine, environment_id: int, ended: Sequence[Record]) -> set[UUID]:
    """Writes how runs and tokens of other stores ended, and all that follows from it in the store of ``engine``.

    Returns those that had not been known to have ended, and tells workers. ``ended`` are rows of ``read_targets``.
    """
    if not ended:
        return set()
    changed, waiters = await engine.store.run_plan(_resolve(environment_id, ended))
    if waiters:
        engine.notices.runs_ready(environment_id)
    if changed:
        engine.notices.runs_done(environment_id)
    return changed


def hold_mirrors(
    environment_id: int, kind: MirrorKind, targets: Collection[UUID], *, patiently: bool = False
) -> Plan[dict[UUID, Record]]:
    """Plan: how runs or tokens of other stores stand here, by id: ``ended``, ``succeeded``, and whether it is ``held``.

    What is held stays so until the transaction ends. With ``patiently`` all are, and it waits for who holds them; else one
    that somebody else holds is not. Raises UnmirroredError where one has no mirror.
    """
    statement = "hold_mirrors" if patiently else "try_hold_mirrors"
    rows = yield from query(statement, environment_id, kind, sorted(targets))
    found: dict[UUID, Record] = {row["id"]: row for row in rows}
    if absent := [target for target in targets if target not in found]:
        raise UnmirroredError(kind, absent)
    return found


async def audit_mirrors(engine: Engine, place: MirrorPlace, *, quiet: float = QUIET) -> int:
    """Asks the owners of what is waited for here, a slice at a time, whether it has ended. How many waits it repaired.

    The outbox delivers every end, so none should ever be found here that is not on its way.
    """
    rows: list[Any] = await engine.store.fetch("find_open_mirrors", *place.after, SLICE, quiet)
    place.after = (rows[-1]["environment_id"], rows[-1]["id"]) if len(rows) == SLICE else _START
    groups: defaultdict[tuple[int, MirrorKind, str], list[UUID]] = defaultdict(list)
    for row in rows:
        groups[row["environment_id"], row["kind"], store_of(row["id"])].append(row["id"])
    answers = await asyncio.gather(*(_audit(engine, *group, ids) for group, ids in groups.items()))
    repaired = sum(answers)
    metrics.count_repairs("mirror", repaired)
    return repaired


async def forget_mirrors(engine: Engine, place: MirrorPlace, *, spent: float = SPENT) -> int:
    """Deletes mirrors of this store that nobody can ask any more, of a slice of them. How many went.

    What serves is asked by a run that has not ended, or is an item of a batch. Nothing is lost with one that goes: who comes to it
    later finds that it is missing and makes it again, and mail that comes late writes it again. One slice, so that what is kept
    costs little; and more as long as there is much to delete.
    """
    count = 0
    while True:
        looked, found, last = await engine.store.run_plan(_forget_spent(place.kept, spent))
        count += found
        place.kept = last if looked == SLICE and last is not None else _START
        if looked < SLICE or found < SLICE // 2:
            return count


async def tell_ended(engine: Engine, place: MirrorPlace) -> int:
    """Tells other stores of what has ended here and they still want to know, of a slice of that. How much that was: nothing, ever.

    What stores that are no more wanted to know is forgotten.
    """
    removed = [one.key for one in await list_stores(engine) if one.state == "removed"]
    if removed:
        await engine.store.fetch("delete_mail_to", removed)
    [row] = await engine.store.fetch("settle_interests", *place.told, SLICE, removed)
    full = row["looked"] == SLICE
    place.told = (row["environment_id"], row["target_id"], row["store"]) if full else _START_OF_INTERESTS
    metrics.count_repairs("interest", row["told"])
    if row["told"]:
        _log.error("bug: other stores were not told of ends, and now are", ends=row["told"])
    return row["told"]


def _forget_spent(after: tuple[int, UUID], spent: float) -> Plan[tuple[int, int, tuple[int, UUID] | None]]:
    """Plan: how many were looked at, how many deleted, and the last."""
    rows: Sequence[Record] = yield from query("find_spent_mirrors", *after, SLICE, spent)
    gone: Sequence[Record] = []
    if found := [row for row in rows if row["spent"]]:
        columns = ([row[name] for row in found] for name in ("environment_id", "id", "kind"))
        gone = yield from query("delete_mirrors", *columns)
    return len(rows), len(gone), (rows[-1]["environment_id"], rows[-1]["id"]) if rows else None


async def _audit(engine: Engine, environment_id: int, kind: MirrorKind, store: str, ids: list[UUID]) -> int:
    owner = engine.at(ids[0])
    if owner.key != store:  # this process does not know that store
        return 0
    try:
        found = await _ask(owner, engine.key, environment_id, kind, ids)
    except DATABASE_ERRORS as error:
        _log.debug(
            "what is waited for can't be asked about", store=owner.name, error=f"{type(error).__name__}: {error}"
        )
        return 0
    missing = set(ids) - {row["id"] for row in found}
    late = [row for row in found if row["ended"] and not row["sent"]]
    lost = late + [_describe_missing(one, kind) for one in sorted(missing)]
    repaired = await resolve_mirrors(engine, environment_id, lost)
    for target in repaired:
        named = format_run_id(target) if kind == "run" else format_token_id(target)
        _log.error("bug: a wait was not told of an end in another store, and now is", target=named, store=owner.name)
    return len(repaired)


async def _ask(owner: Engine, store: str, environment_id: int, kind: MirrorKind, ids: Sequence[UUID]) -> list[Record]:
    """How they stand in their own store; that ``store`` is to be told of the ends that are to come is noted there."""
    plan = _note_interest(environment_id, kind, sorted(ids), store)
    return await answers_within(owner.store.run_plan(plan), owner.settings.store_patience)


def _note_interest(environment_id: int, kind: MirrorKind, ids: Sequence[UUID], store: str) -> Plan[list[Record]]:
    # held first: an end that is under way is waited for, and then seen; one that comes later waits, and sees the interest
    yield from query("watch_runs" if kind == "run" else "lock_tokens", environment_id, ids)
    yield from query("insert_interests", environment_id, kind, ids, store)
    rows = yield from query("read_targets", environment_id, ids, store)
    return [row for row in rows if row["kind"] == kind]


def _resolve(environment_id: int, ended: Sequence[Record]) -> Plan[tuple[set[UUID], set[UUID]]]:
    """Plan: which of them were not known, and the runs that waited. As the end of a run here, but that it is one elsewhere."""
    columns = ("id", "kind", "status", "task", "output", "output_type", "error")
    rows = yield from query("resolve_mirrors", environment_id, *([row[name] for row in ended] for name in columns))
    if not rows:
        return set(), set()
    runs = [row for row in rows if row["kind"] == "run"]
    batches: list[Record] = []
    if runs:
        succeeded = [row["status"] == RunStatus.COMPLETED for row in runs]
        batches = yield from query("settle_aliases", environment_id, [row["id"] for row in runs], succeeded)
    targets = [row["id"] for row in rows] + [row["id"] for row in batches if row["ended"]]
    followed = [row["id"] for row in batches if row["followed"]]
    waiters = yield from complete_targets(environment_id, targets, followed)
    return {row["id"] for row in rows}, waiters


def _describe_missing(target: UUID, kind: MirrorKind) -> dict[str, Any]:
    named = ("status", "task", "output", "output_type", "error")
    return {"id": target, "kind": kind, **dict.fromkeys(named)}
