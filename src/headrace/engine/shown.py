"""What a run's code changes of what is shown: its own metadata and tags, and the metadata of the runs above it.

A change that can't be done is an outcome of its point, and kept as one: a replay is told the same error, whatever lies
there by then.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Final
from uuid import UUID

import msgspec

from headrace.engine.deeds import Fence, MetadataChange, PointWrite, TagsAddition
from headrace.engine.metadata import lock_metadata, read_metadata, write_metadata
from headrace.engine.metadata_operations import apply_operations, encode_metadata
from headrace.engine.outcomes import Packet
from headrace.engine.rows import read_json
from headrace.engine.tags import merge_tags
from headrace.errors import ConfigurationError, PayloadError
from headrace.settings import Settings
from headrace.store.statements import Plan, query

_MOMENTS: Final = 32
"""Bits of a run's logical clock."""


@dataclass(frozen=True, slots=True)
class Changed:
    """How a change went: a value that the code is told, or an error, ``{"name", "message"}``."""

    value: Packet = field(default_factory=lambda: Packet(None))
    error: dict[str, str] | None = None


def find_above(writes: Sequence[PointWrite]) -> UUID | None:
    """The run above whose metadata is changed: by all of ``writes``, or by none of them."""
    targets = {write.deed.above if isinstance(write.deed, MetadataChange) else None for write in writes}
    assert len(targets) <= 1, "a transaction changes this run, or one above it"
    return next(iter(targets), None)


def change_own_run(fence: Fence, writes: Sequence[PointWrite], settings: Settings) -> Plan[dict[str, Changed] | None]:
    """Plan: changes of the run's own metadata and tags, in their order: how those went that are points. Holds the run.

    None where it is lost. What is no point raises PayloadError where it can't be done; where its answer got lost and it is
    written again, it is not done again.
    """
    environment_id, run_id = fence.lease.environment_id, fence.run_id
    rows = yield from query("lock_own_run", environment_id, run_id, fence.attempt, fence.lease.worker_id)
    if not rows:
        return None
    [row] = rows
    before = metadata = read_metadata(row)
    old_tags = tags = list[str](read_json(row["tags"]) or [])
    last: int = row["metadata_write"]
    changed: dict[str, Changed] = {}
    for write in writes:
        mark = fence.attempt << _MOMENTS | write.made
        if not write.name and mark <= row["metadata_write"]:
            continue
        try:
            if isinstance(write.deed, TagsAddition):
                tags = merge_tags(tags, write.deed.tags)
                changed[write.name] = Changed(Packet(msgspec.json.encode(tags)))
                continue
            assert isinstance(write.deed, MetadataChange)
            metadata = _apply(metadata, write.deed, settings)
            changed[write.name] = Changed()
            last = last if write.name else max(last, mark)
        except (PayloadError, ConfigurationError) as error:
            if not write.name:
                raise
            changed[write.name] = Changed(error=_describe(error))
    if metadata is not before:
        yield from write_metadata(environment_id, run_id, metadata, settings, mark=last or None)
    if tags != old_tags:
        yield from query("set_tags", environment_id, run_id, tags)
    return changed


class MetadataOfRunAbove:
    """The metadata of a run above the one that writes, in a transaction: ``lock``, ``apply`` and ``write``, in this order."""

    def __init__(self, environment_id: int, run_id: UUID, settings: Settings) -> None:
        self._environment_id = environment_id
        self._run_id = run_id
        self._settings = settings
        self._before: dict[str, Any] = {}
        self._metadata = self._before
        self._closed: PayloadError | None = None

    def lock(self) -> Plan[None]:
        """Plan: holds the run, if it is there."""
        try:
            self._before = self._metadata = yield from lock_metadata(
                self._environment_id, self._run_id, what="the run above:"
            )
        except PayloadError as error:
            self._closed = error

    def apply(self, writes: Sequence[PointWrite]) -> dict[str, Changed]:
        """How each of them went."""
        changed: dict[str, Changed] = {}
        for write in writes:
            assert isinstance(write.deed, MetadataChange)
            try:
                if self._closed is not None:
                    raise self._closed
                self._metadata = _apply(self._metadata, write.deed, self._settings)
            except PayloadError as error:
                changed[write.name] = Changed(error=_describe(error))
            else:
                changed[write.name] = Changed()
        return changed

    def write(self) -> Plan[bool]:
        """Plan: what it is now. Whether the run is queued, so that a claim may have stepped over it."""
        if self._metadata is self._before:
            return False
        return (yield from write_metadata(self._environment_id, self._run_id, self._metadata, self._settings))


def _apply(metadata: dict[str, Any], change: MetadataChange, settings: Settings) -> dict[str, Any]:
    changed = apply_operations(metadata, change.operations)
    if changed is not metadata:
        encode_metadata(changed, settings.metadata_max_size)  # for its errors: of this change, and not of the next
    return changed


def _describe(error: Exception) -> dict[str, str]:
    return {"name": type(error).__name__, "message": str(error)}
