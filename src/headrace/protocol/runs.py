"""Runs on the wire: triggered, retrieved, listed, their results. research/engine.md C2.1."""

from __future__ import annotations

from typing import Annotated, Any

from msgspec import UNSET, Meta, Raw, Struct, UnsetType

from headrace.protocol.options import RunOptions


class TriggerTask(Struct, frozen=True, rename="camel"):
    """Body of ``POST /api/v1/tasks/{id}/trigger``. ``parentRunId`` names the run that triggers."""

    payload: Raw | UnsetType = UNSET
    context: Any = None
    options: RunOptions | None = None
    parent_run_id: str | None = None


class TriggerResponse(Struct, frozen=True, rename="camel"):
    """Answer to it."""

    id: str
    is_cached: bool


class CancelResponse(Struct, frozen=True):
    """Answer to ``POST /api/v2/runs/{id}/cancel``: also where the run had ended before."""

    id: str


class RescheduleRun(Struct, frozen=True):
    """Body of ``POST /api/v1/runs/{id}/reschedule``: a duration such as "1h30m", or an ISO 8601 date; in the past is at once."""

    delay: str


class ResetKey(Struct, frozen=True, rename="camel"):
    """Body of ``POST /api/v1/idempotencyKeys/{key}/reset``: the task whose key it is."""

    task_identifier: Annotated[str, Meta(min_length=1, max_length=128)]


class ResetKeyResponse(Struct, frozen=True):
    """Answer to it: the key."""

    id: str


class AddTags(Struct, frozen=True):
    """Body of ``POST /api/v1/runs/{id}/tags``: one tag, or several."""

    tags: list[str] | str


class AddTagsResponse(Struct, frozen=True):
    """Answer to it, in words."""

    message: str


class ReplayRun(Struct, frozen=True, rename="camel"):
    """Body of ``POST /api/v1/runs/{id}/replay``, all of it optional: another payload, options over those that are copied."""

    payload: Raw | UnsetType = UNSET
    options: RunOptions | None = None


class RunAttempt(Struct, frozen=True, rename="camel"):
    """One ended attempt."""

    id: str
    number: int
    status: str
    created_at: str
    updated_at: str
    started_at: str | UnsetType = UNSET
    completed_at: str | UnsetType = UNSET
    error: dict[str, Any] | UnsetType = UNSET


class RelatedRuns(Struct, frozen=True):
    """Runs that this one hangs together with: at most the parent's id, for now."""

    parent: dict[str, Any] | UnsetType = UNSET


class RunListItem(Struct, frozen=True, rename="camel", kw_only=True):
    """A run as it is listed. Times are ISO 8601 in UTC, with milliseconds."""

    id: str
    status: str
    task_identifier: str
    created_at: str
    updated_at: str
    is_test: bool
    is_queued: bool
    is_executing: bool
    is_waiting: bool
    is_completed: bool
    is_success: bool
    is_failed: bool
    is_cancelled: bool
    tags: list[str]
    queue: str
    attempt_count: int
    env: dict[str, str]
    cost_in_cents: float = 0
    base_cost_in_cents: float = 0
    duration_ms: float = 0
    depth: int = 0
    metadata: Any = UNSET
    started_at: str | UnsetType = UNSET
    finished_at: str | UnsetType = UNSET
    delayed_until: str | UnsetType = UNSET
    expired_at: str | UnsetType = UNSET
    ttl: str | int | UnsetType = UNSET
    idempotency_key: str | UnsetType = UNSET
    """As its author wrote it."""
    idempotency_key_scope: str | UnsetType = UNSET
    version: str | UnsetType = UNSET
    batch_id: str | UnsetType = UNSET
    replayed_from: str | UnsetType = UNSET
    """The run that this one replays."""


class RunDetail(RunListItem, frozen=True, rename="camel", kw_only=True):
    """Answer to ``GET /api/v3/runs/{id}``: what a list says, and payload, output, error and attempts."""

    trigger_function: str
    attempts: list[RunAttempt]
    related_runs: RelatedRuns
    payload: Any = UNSET
    payload_presigned_url: str | UnsetType = UNSET
    output: Any = UNSET
    output_presigned_url: str | UnsetType = UNSET
    error: dict[str, Any] | UnsetType = UNSET
    schedule: dict[str, Any] | UnsetType = UNSET


class Pagination(Struct, frozen=True):
    """Cursors of the pages before and after; absent where there are none."""

    next: str | UnsetType = UNSET
    previous: str | UnsetType = UNSET


class RunList(Struct, frozen=True):
    """Answer to ``GET /api/v1/runs``."""

    data: list[RunListItem]
    pagination: Pagination
    warnings: list[str] | UnsetType = UNSET
    """(Ours) What is missing, and why: there only where a store does not answer."""


class RunResult(Struct, frozen=True, rename="camel"):
    """Answer to ``GET /api/v1/runs/{id}/result``, and (with an index in pages) an item of a batch's results."""

    ok: bool
    id: str
    task_identifier: str
    output: str | UnsetType = UNSET
    output_type: str | UnsetType = UNSET
    error: dict[str, Any] | UnsetType = UNSET
    index: int | UnsetType = UNSET
    status: str | UnsetType = UNSET
