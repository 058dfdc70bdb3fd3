"""From what the engine answers to what stands on the wire: times as text, ids with their prefix, payloads as values."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, Final
from uuid import UUID

import msgspec
from msgspec import UNSET, UnsetType

from headrace import ids
from headrace.api.routing import Call
from headrace.crons import describe_cron
from headrace.engine.environments import Environment
from headrace.engine.outcomes import (
    JSON_TYPE,
    AttemptView,
    BatchItemError,
    BatchState,
    ItemResult,
    Packet,
    RunView,
)
from headrace.engine.runs import spell_run_ids
from headrace.engine.schedules import find_schedule
from headrace.items import spell_duration
from headrace.payloads import STORED_TYPE
from headrace.protocol.batches import BatchError, BatchProcessing, BatchProgress, BatchV1, BatchV2
from headrace.protocol.packets import decode_packet
from headrace.protocol.runs import RelatedRuns, RunAttempt, RunDetail, RunListItem, RunResult
from headrace.protocol.statuses import TERMINAL_RUN_STATUSES, RunStatus

_QUEUED: Final = frozenset({RunStatus.QUEUED, RunStatus.DELAYED, RunStatus.PENDING_VERSION})
_EXECUTING: Final = frozenset({RunStatus.EXECUTING, RunStatus.DEQUEUED})
_FAILED: Final = TERMINAL_RUN_STATUSES - {RunStatus.COMPLETED, RunStatus.CANCELED}


def format_time(moment: datetime) -> str:
    """ISO 8601 in UTC with milliseconds: ``2026-01-31T12:00:00.000Z``."""
    return moment.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def view_batch_v1(batch: BatchState, run_ids: Sequence[str], errors: Sequence[BatchItemError]) -> BatchV1:
    """A batch as the older retrieval shows it."""
    processed = batch.processing_completed_at is not None
    return BatchV1(
        id=ids.format_batch_id(batch.id),
        status=batch.status,
        created_at=format_time(batch.created_at),
        updated_at=format_time(batch.updated_at),
        run_count=batch.run_count,
        runs=list(run_ids),
        progress=_view_progress(batch),
        idempotency_key=batch.idempotency_key or UNSET,
        successful_run_count=batch.accepted - batch.prefailed if processed else UNSET,
        failed_run_count=batch.prefailed if processed else UNSET,
        errors=_view_errors(errors) or UNSET,
    )


def view_batch_v2(batch: BatchState, run_ids: Sequence[str], errors: Sequence[BatchItemError]) -> BatchV2:
    """A batch as it is retrieved."""
    completed_at = _time_or_unset(batch.processing_completed_at)
    return BatchV2(
        id=ids.format_batch_id(batch.id),
        status=batch.status,
        created_at=format_time(batch.created_at),
        updated_at=format_time(batch.updated_at),
        run_count=batch.run_count,
        runs=list(run_ids),
        processing=BatchProcessing(errors=_view_errors(errors), completed_at=completed_at),
        progress=_view_progress(batch),
        idempotency_key=batch.idempotency_key or UNSET,
        processing_completed_at=completed_at,
        error=batch.error or UNSET,
    )


async def view_runs(call: Call, listed: Sequence[RunView]) -> list[RunListItem]:
    """Runs as they are listed."""
    spelt = await _spell_replayed(call, listed)
    return [RunListItem(**_list_fields(run, call.caller.environment, spelt)) for run in listed]


async def view_run_detail(call: Call, run: RunView, attempts: Sequence[AttemptView]) -> RunDetail:
    """A run as it is retrieved, with its payload and output as values."""
    return RunDetail(
        **_list_fields(run, call.caller.environment, await _spell_replayed(call, [run])),
        trigger_function="batchTrigger" if run.batch_id else "trigger",
        attempts=[_view_attempt(run, attempt) for attempt in attempts],
        related_runs=RelatedRuns(parent={"id": ids.format_run_id(run.parent_run_id)} if run.parent_run_id else UNSET),
        payload=await _read_value(call, run.payload, run.options.get("payloadType")),
        output=await _read_value(call, run.output) if run.output else UNSET,
        error=_view_error(run.error) if run.error else UNSET,
        schedule=await _view_schedule(call, run),
    )


async def view_result(call: Call, run: RunView, index: int | UnsetType = UNSET) -> RunResult:
    """How an ended run ended: its output as text, or its error."""
    run_id = run.spelt
    if run.status is not RunStatus.COMPLETED:
        error = run.error or {"type": "STRING_ERROR", "raw": f"The run ended as {run.status}"}
        return RunResult(
            ok=False, id=run_id, task_identifier=run.task, error=error, index=index, status=str(run.status)
        )
    output = await _load_packet(call, run.output) if run.output else Packet(None)
    return RunResult(
        ok=True,
        id=run_id,
        task_identifier=run.task,
        output=UNSET if output.data is None else output.data.decode("utf-8", "replace"),
        output_type=output.type,
        index=index,
        status=str(run.status),
    )


async def view_item_result(call: Call, result: ItemResult) -> RunResult:
    """An ended item of a batch, with its index."""
    return await view_result(call, result.run, result.index)


async def _view_schedule(call: Call, run: RunView) -> dict[str, Any] | UnsetType:
    """The schedule that made a run, where one did and is there still."""
    made_by: Any = run.options.get("scheduleId")
    schedule = await find_schedule(call.engine, call.environment_id, UUID(made_by)) if made_by else None
    if schedule is None:
        return UNSET
    keys = {"externalId": schedule.external_id, "deduplicationKey": schedule.deduplication_key}
    return {
        "id": ids.format_schedule_id(schedule.id),
        **{name: key for name, key in keys.items() if key is not None},
        "generator": {
            "type": "CRON",
            "expression": schedule.pattern,
            "description": describe_cron(schedule.pattern, schedule.timezone),
        },
    }


async def _spell_replayed(call: Call, listed: Sequence[RunView]) -> dict[UUID, str]:
    """The ids of the runs that these are replays of."""
    replayed = [UUID(str(first)) for run in listed if (first := run.options.get("replayedFrom"))]
    return await spell_run_ids(call.engine, call.environment_id, replayed)


def _list_fields(run: RunView, environment: Environment, spelt: Mapping[UUID, str]) -> dict[str, Any]:
    status = run.status
    ttl: Any = run.options.get("ttl")
    key: Any = run.options.get("idempotencyKeyOptions") or {}
    replayed: Any = run.options.get("replayedFrom")
    return {
        "id": run.spelt,
        "status": str(status),
        "task_identifier": run.task,
        "created_at": format_time(run.created_at),
        "updated_at": format_time(run.updated_at),
        "is_test": run.options.get("test") is True,
        "is_queued": status in _QUEUED,
        "is_executing": status in _EXECUTING,
        "is_waiting": status is RunStatus.WAITING,
        "is_completed": status in TERMINAL_RUN_STATUSES,
        "is_success": status is RunStatus.COMPLETED,
        "is_failed": status in _FAILED,
        "is_cancelled": status is RunStatus.CANCELED,
        "tags": run.tags,
        "queue": run.queue,
        "attempt_count": run.attempt - run.resumes,
        "env": {"id": str(environment.id), "name": environment.slug},
        "duration_ms": _duration_ms(run),
        "depth": run.depth,
        "metadata": UNSET if run.metadata is None else run.metadata,
        "started_at": _time_or_unset(run.started_at),
        "finished_at": _time_or_unset(run.finished_at),
        "delayed_until": _time_or_unset(run.delayed_until),
        "expired_at": _time_or_unset(run.finished_at) if status is RunStatus.EXPIRED else UNSET,
        "ttl": UNSET if ttl is None else spell_duration(ttl),
        "idempotency_key": key.get("key") or run.idempotency_key or UNSET,
        "idempotency_key_scope": key.get("scope") or UNSET,
        "batch_id": ids.format_batch_id(run.batch_id) if run.batch_id else UNSET,
        "version": run.version or UNSET,
        "replayed_from": spelt[UUID(replayed)] if replayed else UNSET,
    }


def _view_attempt(run: RunView, attempt: AttemptView) -> RunAttempt:
    finished = format_time(attempt.finished_at)
    return RunAttempt(
        id=f"attempt_{run.spelt.removeprefix('run_')}_{attempt.number}",
        number=attempt.number,
        status=str(attempt.status),
        created_at=format_time(attempt.started_at) if attempt.started_at else finished,
        updated_at=finished,
        started_at=_time_or_unset(attempt.started_at),
        completed_at=finished,
        error=_view_error(attempt.error) if attempt.error else UNSET,
    )


def _view_error(error: dict[str, Any]) -> dict[str, Any]:
    """``{"name", "message", "stackTrace"}`` of an error as it is stored."""
    name = error.get("name") or error.get("code") or "Error"
    shown = {"name": name, "message": error.get("message") or error.get("raw") or ""}
    return {**shown, "stackTrace": error["stackTrace"]} if error.get("stackTrace") else shown


def _view_errors(errors: Sequence[BatchItemError]) -> list[BatchError]:
    return [BatchError(one.index, one.task, one.message, one.code) for one in errors]


def _view_progress(batch: BatchState) -> BatchProgress:
    return BatchProgress(batch.accepted, batch.settled, batch.succeeded, batch.settled - batch.succeeded)


async def _read_value(call: Call, packet: Packet, declared: Any = None) -> Any:
    loaded = await _load_packet(call, packet, declared)
    if loaded.data is None:
        return UNSET
    try:
        return decode_packet(loaded.data, loaded.type)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return loaded.data.decode("utf-8", "replace")


async def _load_packet(call: Call, packet: Packet, declared: Any = None) -> Packet:
    if packet.type != STORED_TYPE or packet.data is None:
        return packet
    data = await call.engine.payloads.get(call.caller.environment.slug, packet.data.decode())
    return Packet(data, declared if isinstance(declared, str) else JSON_TYPE)


def _time_or_unset(moment: datetime | None) -> str | UnsetType:
    return UNSET if moment is None else format_time(moment)


def _duration_ms(run: RunView) -> float:
    if run.started_at is None or run.finished_at is None:
        return 0
    return round((run.finished_at - run.started_at).total_seconds() * 1000, 3)
