"""A line of the file of ``headrace import``: a run of another installation that has ended, as it is there."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any

from msgspec import UNSET, Meta, Raw, Struct, UnsetType, field

from headrace.protocol.batches import TaskId

Moment = Annotated[datetime, Meta(tz=True)]


class ImportLine(Struct, frozen=True, rename="camel"):
    """One line. ``taskIdentifier`` and ``finishedAt`` are what runs that were retrieved over HTTP call ``task`` and ``endedAt``.

    Fields that are not named here are left out.
    """

    id: str
    status: str
    created_at: Moment
    task: TaskId | None = None
    task_identifier: TaskId | None = None
    payload: Raw | UnsetType = UNSET
    payload_type: str | None = None
    output: Raw | UnsetType = UNSET
    output_type: str | None = None
    error: str | dict[str, Any] | None = None
    tags: list[str] | str | None = None
    metadata: dict[str, Any] | None = None
    started_at: Moment | None = None
    ended_at: Moment | None = None
    finished_at: Moment | None = None
    attempt_count: Annotated[int, Meta(ge=0, le=32_000)] | None = None
    idempotency_key: str | None = None
    idempotency_key_ttl: str | None = field(default=None, name="idempotencyKeyTTL")
