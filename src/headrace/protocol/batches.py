"""Batches on the wire: created, streamed item by item, sealed, retrieved. research/batch.md 1.1 to 1.4."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import msgspec
from msgspec import UNSET, Meta, Raw, Struct, UnsetType

from headrace.protocol.options import IdempotencyKey, IdempotencyKeyOptions, RunOptions

TaskId = Annotated[str, Meta(min_length=1, max_length=128)]
ItemIndex = Annotated[int, Meta(ge=0, le=2**31 - 1)]
RunCount = Annotated[int, Meta(gt=0, le=2**31 - 1)]


class CreateBatch(Struct, frozen=True, rename="camel", omit_defaults=True):
    """Body of ``POST /api/v3/batches``.

    Ours beside the wire: no ``runCount`` opens a batch whose count its seal names; ``start`` says whether its runs may
    start as they arrive ("add") or only once it is sealed ("seal"); ``ordered`` says that items will have order or debounce
    keys, so that with several stores the batch is made where these meet.
    """

    run_count: RunCount | None = None
    task_identifiers: Annotated[list[TaskId], Meta(min_length=1)] | None = None
    parent_run_id: str | None = None
    resume_parent_on_completion: bool | None = None
    idempotency_key: IdempotencyKey | None = None
    idempotency_key_ttl: str | None = msgspec.field(default=None, name="idempotencyKeyTTL")
    idempotency_key_options: IdempotencyKeyOptions | None = None
    start: Literal["add", "seal"] = "add"
    ordered: bool = False


class CreateBatchResponse(Struct, frozen=True, rename="camel"):
    """Answer to it: 202, or 200 where the batch was there and is sealed."""

    id: str
    run_count: int | None
    is_cached: bool
    idempotency_key: str | UnsetType = UNSET


class BatchItem(Struct, frozen=True, gc=False):
    """A line of the item stream. ``index`` is its place among the results, and what a repeated line is known by."""

    index: ItemIndex
    task: TaskId
    payload: Raw | UnsetType = UNSET
    options: RunOptions | None = None


class OneShotItem(Struct, frozen=True):
    """An item of a one-shot body; its index is its place."""

    task: TaskId
    payload: Raw | UnsetType = UNSET
    options: RunOptions | None = None


class OneShotBatch(Struct, frozen=True, rename="camel"):
    """Body of ``POST /api/v2/tasks/batch``."""

    items: list[OneShotItem]
    parent_run_id: str | None = None
    resume_parent_on_completion: bool | None = None


class OneShotBatchResponse(Struct, frozen=True, rename="camel"):
    """Answer to it: 202, or 200 where the batch was there."""

    id: str
    is_cached: bool
    run_count: int
    idempotency_key: str | UnsetType = UNSET


class StreamItemsResponse(Struct, frozen=True, rename="camel"):
    """Answer to a stream of items. With ``sealed`` false also both counts, and which indexes are missing."""

    id: str
    items_accepted: int
    items_deduplicated: int
    sealed: bool
    run_count: int | None
    enqueued_count: int | UnsetType = UNSET
    expected_count: int | UnsetType | None = UNSET
    missing: list[tuple[int, int]] | UnsetType = UNSET


class SealBatch(Struct, frozen=True, rename="camel"):
    """Body of ``POST /api/v3/batches/{id}/seal``, ours: the final count of an open-ended batch."""

    run_count: RunCount


class BatchError(Struct, frozen=True, rename="camel"):
    """An item that could not become a run that can start."""

    index: int
    task_identifier: str
    error: str
    error_code: str | UnsetType = UNSET


class BatchProcessing(Struct, frozen=True, rename="camel"):
    """When all items had become runs, and which could not."""

    errors: list[BatchError]
    completed_at: str | UnsetType = UNSET


class BatchProgress(Struct, frozen=True):
    """Ours: how many items are stored, have ended, and ended well or not."""

    accepted: int
    settled: int
    succeeded: int
    failed: int


class BatchV1(Struct, frozen=True, rename="camel"):
    """Answer to ``GET /api/v1/batches/{id}``."""

    id: str
    status: str
    created_at: str
    updated_at: str
    run_count: int | None
    runs: list[str]
    progress: BatchProgress
    idempotency_key: str | UnsetType = UNSET
    successful_run_count: int | UnsetType = UNSET
    failed_run_count: int | UnsetType = UNSET
    errors: list[BatchError] | UnsetType = UNSET


class BatchV2(Struct, frozen=True, rename="camel"):
    """Answer to ``GET /api/v2/batches/{id}``."""

    id: str
    status: str
    created_at: str
    updated_at: str
    run_count: int | None
    runs: list[str]
    processing: BatchProcessing
    progress: BatchProgress
    idempotency_key: str | UnsetType = UNSET
    processing_completed_at: str | UnsetType = UNSET
    error: dict[str, Any] | UnsetType = UNSET


class BatchResults(Struct, frozen=True):
    """Answer to ``GET /api/v1/batches/{id}/results``: ended items, in the order of their indexes."""

    id: str
    items: list[dict[str, Any]]
