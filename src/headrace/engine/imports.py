"""Runs of another installation, taken over under the ids that they had there.

Only runs that have ended: one that is open executes there, and two installations would do its work. All go to one store, which
is declared before the first of them (``registry.declare_legacy``) or is home: an id from elsewhere says by its shape that it is
to be asked for there, so nothing is looked up, and from there it can be moved on as any run can.

A run's row keeps the text of its id among its options, so that moving it moves the text. Repeating an import does nothing
twice: the ``uuid`` of a run follows from its id, and one that was imported and has moved on since is known by its forward.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import pairwise
from typing import Any, Final
from uuid import UUID

import msgspec
from msgspec import UNSET, Raw, UnsetType

from headrace.engine.engine import Engine
from headrace.engine.environments import Environment
from headrace.engine.idempotency import KeyClaim, claim_keys, find_ttl, task_scope
from headrace.engine.items import Origin, lane_name, stored_options
from headrace.engine.lanes import LaneFinder
from headrace.engine.outcomes import JSON_TYPE, Packet
from headrace.engine.registry import declare_legacy
from headrace.engine.screening import refuse_faults, refuse_large_metadata
from headrace.failures import MAX_MESSAGE, MAX_NAME, MAX_STACK, clean_text
from headrace.ids import LEGACY_STORE, format_run_id, is_foreign, parse_run_id
from headrace.payloads import STORED_TYPE
from headrace.protocol.errors import explain_validation_error
from headrace.protocol.imports import ImportLine
from headrace.protocol.options import RunOptions
from headrace.protocol.packets import packet_from_json
from headrace.protocol.statuses import KEY_FREEING_STATUSES, TERMINAL_RUN_STATUSES, RunStatus
from headrace.settings import Settings
from headrace.store.statements import Plan, Record, query

_encode: Final = msgspec.json.Encoder().encode
_decode: Final = msgspec.json.Decoder(ImportLine).decode


@dataclass(frozen=True, slots=True)
class EndedRun:
    """A run that is to be imported."""

    id: UUID
    text: str
    task: str
    status: RunStatus
    payload: Packet
    output: Packet | None
    error: dict[str, str] | None
    options: RunOptions
    attempts: int
    created_at: datetime
    started_at: datetime | None
    ended_at: datetime


@dataclass(frozen=True, slots=True)
class Imported:
    """What became of a chunk: how many runs are new, how many were there, and how many keys stand for runs of it."""

    new: int
    known: int
    keys: int


def read_ended_run(line: bytes, settings: Settings) -> EndedRun:
    """The run of a line. Raises ValueError with what is wrong with it, as a sentence without its point."""
    try:
        read = _decode(line)
        options = _read_options(read)
        payload = Packet(*packet_from_json(read.payload, read.payload_type))
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise ValueError(explain_validation_error(error)) from None
    except RecursionError:
        raise ValueError("it is nested too deeply") from None
    task = read.task or read.task_identifier
    if task is None:
        raise ValueError("it has no task")
    refuse_faults(task, options)
    refuse_large_metadata(options, settings.metadata_max_size)
    find_ttl(options, 0)
    status = _read_status(read.status)
    created_at, started_at, ended_at = _read_times(read)
    return EndedRun(
        _read_id(read.id),
        read.id,
        task,
        status,
        payload,
        _read_output(read, status),
        _read_error(read.error, status),
        options,
        read.attempt_count if read.attempt_count is not None else int(started_at is not None),
        created_at,
        started_at,
        ended_at,
    )


async def begin_import(engine: Engine) -> None:
    """To be called before the first chunk: from now on the store that imported runs are in is always the same one.

    Raises ConfigurationError where the setting names another one than the runs that were imported before are in.
    """
    engine = engine.home
    if engine.settings.legacy_store:
        await declare_legacy(engine, engine.settings.legacy_store)
    await engine.store.fetch("begin_import")
    await engine.refresh_stores()


async def import_runs(engine: Engine, environment: Environment, runs: Sequence[EndedRun]) -> Imported:
    """Makes these runs, all of them or none; those that are there stay as they are. Then registers their keys at home.

    A key that stands for another run stays that run's. Raises DATABASE_ERRORS and PayloadStoreError: repeat it then.
    """
    engine = engine.stores.named(LEGACY_STORE)
    first = {run.id: run for run in reversed(runs)}  # the first of an id counts
    ordered = [first[run_id] for run_id in sorted(first)]
    packets = [
        (
            await _offload(engine, environment, run.payload),
            await _offload(engine, environment, run.output or Packet(None)),
        )
        for run in ordered
    ]
    made: set[UUID] = set()
    try:
        lanes = LaneFinder(environment.id, engine.lanes)
        made = await engine.store.run_plan(_insert(lanes, ordered, packets))
        lanes.keep_lanes()
    finally:
        for run, both in zip(ordered, packets, strict=True):
            for packet in both:
                if run.id not in made and packet.type == STORED_TYPE and packet.data is not None:
                    await engine.payloads.delete(packet.data.decode())
    keys = await _register_keys(engine.home, environment.id, ordered)
    return Imported(len(made), len(runs) - len(made), keys)


def _insert(lanes: LaneFinder, runs: Sequence[EndedRun], packets: Sequence[tuple[Packet, Packet]]) -> Plan[set[UUID]]:
    """Plan: those runs that were not there."""
    names = [lane_name(run.task, run.options) for run in runs]
    found = yield from lanes.find_lanes(names)
    # one that is being moved away this moment is waited for: then the next statement sees its forward, or this its row
    yield from query("hold_imported", lanes.environment_id, [run.id for run in runs])
    rows: list[Record] = yield from query(
        "import_runs",
        lanes.environment_id,
        [found[name] for name in names],
        [run.id for run in runs],
        [str(run.status) for run in runs],
        [run.attempts for run in runs],
        [run.created_at for run in runs],
        [run.started_at for run in runs],
        [run.ended_at for run in runs],
        [payload.data for payload, _ in packets],
        [_name_type(payload) for payload, _ in packets],
        [output.data for _, output in packets],
        [_name_type(output) for _, output in packets],
        [None if run.error is None else _encode(run.error).decode() for run in runs],
        [stored_options(run.options, Origin(foreign_id=run.text)) for run in runs],
        [run.options.idempotency_key for run in runs],
    )
    return {row["id"] for row in rows}


async def _register_keys(home: Engine, environment_id: int, runs: Sequence[EndedRun]) -> int:
    """After the runs are there, because a key whose run is nowhere is taken from it; so a repeated import does it again."""
    claims: dict[tuple[str, bytes], KeyClaim] = {}
    for run in runs:
        if run.options.idempotency_key and run.status not in KEY_FREEING_STATUSES:
            ttl = find_ttl(run.options, home.settings.idempotency_key_ttl)
            claim = KeyClaim(task_scope(run.task), run.options.idempotency_key, run.id, ttl)
            claims.setdefault((claim.scope, claim.key_hash), claim)
    if not claims:
        return 0
    asked = list(claims.values())
    held = await home.store.run_plan(claim_keys(environment_id, asked, settled=False))
    return sum(holder.target_id == claim.target_id for holder, claim in zip(held, asked, strict=True))


async def _offload(engine: Engine, environment: Environment, packet: Packet) -> Packet:
    if packet.data is None or len(packet.data) < engine.settings.offload_threshold:
        return packet
    path = await engine.payloads.put(environment.slug, packet.data)
    return Packet(path.encode(), STORED_TYPE)


def _name_type(packet: Packet) -> str | None:
    return None if packet.type == JSON_TYPE else packet.type


def _read_id(text: str) -> UUID:
    value = parse_run_id(text)
    if value is not None and is_foreign(value) and format_run_id(value) != text:
        return value
    if value is not None:
        raise ValueError(f"id is {text}, which is an id of this installation's own: only runs of others are imported")
    raise ValueError(
        f"id is {text[:60]!r}, but must be run_ and 25 characters 0-9a-z (a cuid), 27 of base62 (a KSUID), 21 of 0-9a-z, or 26 "
        "that end in 1"
    )


def _read_status(text: str) -> RunStatus:
    if text in TERMINAL_RUN_STATUSES:
        return RunStatus(text)
    raise ValueError(
        f"status is {text[:60]!r}, but only runs that have ended can be imported: {', '.join(sorted(TERMINAL_RUN_STATUSES))}"
    )


def _read_times(read: ImportLine) -> tuple[datetime, datetime | None, datetime]:
    ended_at = read.ended_at or read.finished_at
    if ended_at is None:
        raise ValueError("it has no endedAt, but only runs that have ended can be imported")
    order = [("createdAt", read.created_at), ("startedAt", read.started_at), ("endedAt", ended_at)]
    said = [(name, _in_utc(name, moment)) for name, moment in order if moment is not None]
    for (earlier, one), (later, other) in pairwise(said):
        if one > other:
            raise ValueError(f"{later} ({other.isoformat()}) is before {earlier} ({one.isoformat()})")
    times = dict(said)
    return times["createdAt"], times.get("startedAt"), times["endedAt"]


def _in_utc(name: str, moment: datetime) -> datetime:
    try:
        return moment.astimezone(UTC)
    except OverflowError:
        raise ValueError(f"{name} is {moment.isoformat()}, which is no date in UTC") from None


def _read_options(read: ImportLine) -> RunOptions:
    said = {
        "tags": read.tags,
        "metadata": read.metadata,
        "payloadType": read.payload_type,
        "idempotencyKey": read.idempotency_key,
        "idempotencyKeyTTL": read.idempotency_key_ttl,
    }
    return msgspec.convert({name: value for name, value in said.items() if value is not None}, RunOptions)


def _read_output(read: ImportLine, status: RunStatus) -> Packet | None:
    if status is RunStatus.COMPLETED:
        if read.output_type == STORED_TYPE:
            raise ValueError(f"outputType {STORED_TYPE} names an object of a server's own")
        try:
            return Packet(*packet_from_json(read.output, read.output_type))
        except msgspec.ValidationError as error:
            raise ValueError(str(error).replace("payload", "output")) from None
    if not _is_nothing(read.output):
        raise ValueError(f"it has an output, but its status is {status}")
    return None


def _read_error(error: str | dict[str, Any] | None, status: RunStatus) -> dict[str, str] | None:
    if not error:
        return None
    if status is RunStatus.COMPLETED:
        raise ValueError("it has an error, but its status is COMPLETED")
    if isinstance(error, str):
        return {"type": "STRING_ERROR", "raw": clean_text(error, MAX_MESSAGE)}
    stack = error.get("stackTrace")
    return {
        "type": "BUILT_IN_ERROR",
        "name": clean_text(str(error.get("name") or error.get("code") or "Error"), MAX_NAME),
        "message": clean_text(str(error.get("message") or error.get("raw") or ""), MAX_MESSAGE),
        **({"stackTrace": clean_text(str(stack), MAX_STACK)} if stack else {}),
    }


def _is_nothing(value: Raw | UnsetType) -> bool:
    return value is UNSET or bytes(value) == b"null"
