"""From rows to the values in ``outcomes``."""

from __future__ import annotations

import json
from typing import Any, Final

from headrace.engine.outcomes import JSON_TYPE, BatchState, Packet, Point, RunView
from headrace.protocol.statuses import BatchStatus, RunStatus

_BATCH_COLUMNS: Final = (
    "id", "environment_id", "run_count", "accepted", "highest_index", "aliased", "prefailed", "settled", "succeeded",
    "start_policy", "idempotency_key", "parent_run_id", "traceparent", "created_at", "updated_at",
    "processing_completed_at", "completed_at", "seal_deadline", "root_run_id", "depth",
)  # fmt: skip
_RUN_COLUMNS: Final = (
    "id", "task", "queue", "attempt", "batch_id", "batch_index", "parent_run_id", "root_run_id", "depth", "resumes", "idempotency_key", "created_at",
    "updated_at", "delayed_until", "started_at", "finished_at", "traceparent", "version",
)  # fmt: skip


def read_batch(row: Any) -> BatchState:
    """A batch from a row of ``find_batch`` and its kin."""
    return BatchState(
        **{name: row[name] for name in _BATCH_COLUMNS},
        status=BatchStatus(row["status"]),
        sealed=row["sealed_at"] is not None,
        error=read_json(row["error"]),
    )


def read_run(row: Any) -> RunView:
    """A run from a row of ``find_run`` and its kin. A queued run that no worker ever could take reads as
    PENDING_VERSION, and one whose delay is not over as DELAYED.
    """
    options: dict[str, Any] = read_json(row["options"]) or {}
    status = RunStatus(row["status"])
    if status is RunStatus.QUEUED:
        status = RunStatus.PENDING_VERSION if row["pending"] else RunStatus.DELAYED if row["delayed"] else status
    return RunView(
        **{name: row[name] for name in _RUN_COLUMNS},
        status=status,
        payload=Packet(row["payload"], row["payload_type"] or JSON_TYPE),
        output=Packet(row["output"], row["output_type"] or JSON_TYPE) if status is RunStatus.COMPLETED else None,
        error=read_json(row["error"]),
        max_attempts=options.get("maxAttempts"),
        tags=options.get("tags") or [],
        metadata=read_json(row["metadata"]) if row["metadata"] is not None else options.get("metadata"),
        options=options,
    )


def read_point(row: Any) -> Point:
    """A durable point from a row of the view ``point_outcomes``."""
    return Point(
        row["run_id"],
        row["point"],
        row["kind"],
        pending=row["pending"],
        made=row["made"],
        seen=row["seen"],
        target=row["target"],
        due_in=row["due_in"],
        failures=row["failures"],
        succeeded=row["succeeded"],
        status=row["status"],
        value=Packet(row["value"], row["value_type"] or JSON_TYPE),
        error=read_json(row["error"]),
        run_count=row["run_count"],
    )


def read_json(text: str | None) -> Any:
    """A jsonb column that was selected as text."""
    return None if text is None else json.loads(text)
