"""Bulk actions on the wire: asked for, shown, aborted. research/engine.md A11, C2.1."""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec
from msgspec import UNSET, Meta, Struct, UnsetType

Texts = str | list[str]
"""One, or several in a list."""


class QueueName(Struct, frozen=True):
    """A queue: of a task (its own, by the task's id), or one with a name."""

    name: str
    type: Literal["task", "custom"] = "custom"


class BulkFilter(Struct, frozen=True, rename="camel", omit_defaults=True, forbid_unknown_fields=True):
    """Which runs are meant: what the filters of a list of runs say, in the same words. At least one is given."""

    status: Texts | None = None
    task_identifier: Texts | None = None
    version: Texts | None = None
    from_: str | float | None = msgspec.field(default=None, name="from")
    to: str | float | None = None
    period: str | None = None
    bulk_action: str | None = None
    tag: Texts | None = None
    schedule: str | None = None
    is_test: bool | None = None
    batch: str | None = None
    queue: str | QueueName | list[str | QueueName] | None = None
    machine: Texts | None = None
    region: Texts | None = None
    idempotency_key: str | None = None
    concurrency_key: Texts | None = None
    order_key: Texts | None = None
    error: str | None = None


class CreateBulkAction(Struct, frozen=True, rename="camel"):
    """Body of ``POST /api/v1/bulk-actions``: exactly one of ``filter`` and ``runIds``."""

    action: Literal["cancel", "replay"]
    filter: BulkFilter | None = None
    run_ids: Annotated[list[str], Meta(min_length=1)] | None = None
    name: Annotated[str, Meta(max_length=255)] | None = None
    target_region: str | None = None


class BulkActionId(Struct, frozen=True):
    """Answer to a request that makes a bulk action, or aborts one."""

    id: str


class BulkCounts(Struct, frozen=True):
    """How many runs it is for, with how many it went well, and with how many not."""

    total: int
    success: int
    failure: int


class BulkAction(Struct, frozen=True, rename="camel", kw_only=True):
    """A bulk action as it is shown. ``selecting`` (ours): its runs are still being found, so the total grows."""

    id: str
    type: str
    status: str
    counts: BulkCounts
    created_at: str
    selecting: bool
    name: str | UnsetType = UNSET
    completed_at: str | UnsetType = UNSET
    warnings: list[str] | UnsetType = UNSET
    """(Ours) Of which stores the counts are not as they are now: there only where one does not answer."""


class BulkPagination(Struct, frozen=True):
    """Cursors of the pages before and after; absent where there are none."""

    next: str | UnsetType = UNSET
    previous: str | UnsetType = UNSET


class BulkActionList(Struct, frozen=True):
    """Answer to ``GET /api/v1/bulk-actions``."""

    data: list[BulkAction]
    pagination: BulkPagination
