"""Metadata of runs, changed from inside, by their children and over HTTP: under the lock of the run's row, so none is lost.

A child changes the runs above it. It locks them before itself, which is against the order in which ends are written: so
of all that one transaction locks it waits for the first only, and begins anew where somebody holds another. Nobody can
wait in a ring with it.
"""

from __future__ import annotations

import asyncio
import json
import operator
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final, cast
from uuid import UUID

from msgspec import UNSET, UnsetType

from headrace.engine.engine import Engine
from headrace.engine.forwards import ask_owner
from headrace.engine.idempotency import REQUEST_SCOPE, KeyClaim, claim_keys, fingerprint_request
from headrace.engine.items import BUSY_DELAY, RunsBusyError
from headrace.engine.metadata_operations import apply_operations, encode_metadata
from headrace.engine.outcomes import KeyConflict, RunMissing
from headrace.errors import PayloadError
from headrace.ids import format_run_id, mint_run_id
from headrace.protocol.metadata import MetadataOperation, ReplaceMetadata, UpdateMetadata
from headrace.settings import Settings
from headrace.store.statements import Plan, Record, query

METADATA_WINDOW: Final = 3600
"""Seconds for which the metadata of a run that has ended may still be changed."""


@dataclass(frozen=True, slots=True)
class MetadataShown:
    """A run's metadata, as it stands."""

    metadata: dict[str, Any]


@dataclass(frozen=True, slots=True)
class MetadataRefused:
    """What was asked for can't be done, and nothing of it was."""

    message: str


MetadataAnswer = MetadataShown | MetadataRefused | KeyConflict | RunMissing


async def find_metadata(engine: Engine, environment_id: int, run_id: UUID) -> MetadataShown | RunMissing:
    """The run's metadata: what its trigger gave it, until something changed it."""
    rows = await ask_owner(
        engine, run_id, lambda owner: owner.store.fetch("find_metadata", environment_id, run_id), operator.not_
    )
    return MetadataShown(read_metadata(rows[0])) if rows else RunMissing()


async def update_metadata(
    engine: Engine, environment_id: int, run_id: UUID, update: UpdateMetadata, request_id: str | None = None
) -> MetadataAnswer:
    """Does all that ``update`` says, to the run and those above it, or nothing. Answers the run's own metadata after it.

    What was asked for by the same ``request_id`` before is not done again.
    """
    return await ask_owner(
        engine, run_id, lambda owner: _update_patiently(owner, environment_id, run_id, update, request_id)
    )


async def _update_patiently(
    engine: Engine, environment_id: int, run_id: UUID, update: UpdateMetadata, request_id: str | None
) -> MetadataAnswer:
    while True:
        plan = _update_once(environment_id, run_id, update, engine.settings, request_id)
        try:
            answer, is_queued = await engine.store.run_plan(plan)
        except PayloadError as error:
            return MetadataRefused(str(error))
        except RunsBusyError:
            await asyncio.sleep(BUSY_DELAY)
        else:
            if is_queued:
                engine.notices.runs_ready(environment_id)
            return answer


def lock_metadata(
    environment_id: int, run_id: UUID, *, patiently: bool = True, what: str = "run"
) -> Plan[dict[str, Any]]:
    """Plan: a run's metadata, and the run locked, to change it. Raises PayloadError where the run is over for too long or gone.

    Not ``patiently`` it raises RunsBusyError where somebody else holds the run.
    """
    statement = "lock_metadata" if patiently else "try_lock_metadata"
    rows = yield from query(statement, environment_id, run_id, METADATA_WINDOW)
    if not rows:
        if not patiently:
            raise RunsBusyError
        raise _describe_gone(what, run_id)
    if rows[0]["closed"]:
        raise PayloadError(
            f"the metadata of {what} {format_run_id(run_id)} can't be changed any more: it ended over an hour ago"
        )
    return read_metadata(rows[0])


def write_metadata(
    environment_id: int, run_id: UUID, metadata: dict[str, Any], settings: Settings, *, mark: int | None = None
) -> Plan[bool]:
    """Plan: what the metadata of a run that is locked is now. Whether a claim may have stepped over the run."""
    text = encode_metadata(metadata, settings.metadata_max_size)
    rows = yield from query("set_metadata", environment_id, run_id, text, mark)
    return bool(rows[0]["queued"])


def read_metadata(row: Record) -> dict[str, Any]:
    """The metadata of a row that has ``metadata``, and what the trigger gave as ``initial``."""
    text: str | None = row["initial"] if row["metadata"] is None else row["metadata"]
    found: Any = None if text is None else json.loads(text, parse_int=_parse_int)
    return cast("dict[str, Any]", found) if isinstance(found, dict) else {}


def _parse_int(digits: str) -> int | float:
    # PostgreSQL gives 1e300 back with all of its digits
    number = int(digits)
    if -(2**63) <= number < 2**64:
        return number
    try:
        return float(number)
    except OverflowError:
        return number


def _update_once(
    environment_id: int, run_id: UUID, update: UpdateMetadata, settings: Settings, request_id: str | None
) -> Plan[tuple[MetadataAnswer, bool]]:
    if request_id is not None:
        fingerprint = fingerprint_request(["metadata", run_id, update])
        mark = mint_run_id()  # what tells the first of several that are the same
        claim = KeyClaim(REQUEST_SCOPE, request_id, mark, settings.request_key_ttl, fingerprint)
        [holder] = yield from claim_keys(environment_id, [claim])
        if holder.target_id != mark:
            if holder.fingerprint != fingerprint:
                return KeyConflict(
                    "This request id was used before, for another request. Use a new one for each request."
                ), False
            rows = yield from query("find_metadata", environment_id, run_id)
            return MetadataShown(read_metadata(rows[0])) if rows else RunMissing(), False
    return (yield from _update(environment_id, run_id, update, settings))


def _update(
    environment_id: int, run_id: UUID, update: UpdateMetadata, settings: Settings
) -> Plan[tuple[MetadataAnswer, bool]]:
    rows = yield from query("find_runs_above", environment_id, run_id)
    if not rows:
        return RunMissing(), False
    [row] = rows
    own = [ReplaceMetadata(update.metadata)] if update.metadata is not UNSET else []
    changes: dict[UUID, tuple[str, list[MetadataOperation]]] = {}
    # from the top down: most want the root, and that is the one that is waited for
    for what, above, is_there, asked in (
        ("root run", row["root_run_id"], row["has_root"], update.root_operations),
        ("parent run", row["parent_run_id"], row["has_parent"], update.parent_operations),
        ("run", None, True, update.operations),
    ):
        operations = _list(asked)
        if operations and above is not None and not is_there:
            raise _describe_gone(what, above)
        if operations:
            changes.setdefault(above or run_id, (what, []))[1].extend(operations)
    if own:
        before = changes.get(run_id, ("run", []))[1]
        changes[run_id] = ("run", [*own, *before])
    queued = False
    answer: dict[str, Any] | None = None
    for number, (target, (what, operations)) in enumerate(changes.items()):
        before = yield from lock_metadata(environment_id, target, patiently=number == 0, what=what)
        after = apply_operations(before, operations)
        queued = (yield from write_metadata(environment_id, target, after, settings)) or queued
        if target == run_id:
            answer = after
    if answer is None:
        found = yield from query("find_metadata", environment_id, run_id)
        answer = read_metadata(found[0]) if found else {}
    return MetadataShown(answer), queued


def _list(operations: Sequence[MetadataOperation] | UnsetType) -> list[MetadataOperation]:
    return [] if isinstance(operations, UnsetType) else list(operations)


def _describe_gone(what: str, run_id: UUID) -> PayloadError:
    return PayloadError(f"the {what} {format_run_id(run_id)} is not there any more: its metadata can't be changed")
